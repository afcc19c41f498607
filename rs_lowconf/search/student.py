"""A student that learns a black box's confidence in tiles, and guides the search by its gradients.

It is trained in rounds: first on tiles of random latents, then on tiles where it expects low
confidence, because the search goes there and random latents rarely do. It never decides: the tiles
it leads to are shown to the target.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.generators import told
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.prior import PriorShell, draw_latent
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.stored import reflectance_of

KIND = "student"
_BATCH = 32
_RATE = 2e-3
_NEAR = 3.0
"""Log-odds up to which the student learns plain differences; beyond, their logarithms."""


class Student(nn.Module):
    """Tiles to the log-odds of the target's confidence; a `Guide`."""

    centre: Tensor
    spread: Tensor
    level: Tensor
    """Mean and standard deviation of the compressed log-odds of the first round."""

    def __init__(self, channels: int) -> None:
        """Build for the generator's channels."""
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.register_buffer("level", torch.tensor([0.0, 1.0]))
        widths = (4 * channels, 48, 64, 96)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths)
        )
        self.head = nn.Linear(2 * widths[-1], 1)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        label: Int[Tensor, " b"],  # noqa: ARG002  # it sees what the target sees
    ) -> Float[Tensor, " b"]:
        """Return log-odds."""
        # Roofs and glints are outliers and would dominate everything else.
        features = F.pixel_unshuffle(((image - self.centre) / self.spread).asinh(), 2)
        for place, layer in enumerate(self.layers):
            features = F.leaky_relu(layer(features), 0.2)
            if place < len(self.layers) - 1:
                features = F.avg_pool2d(features, 2)
        # The least certain position counts as much as the whole.
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        odds: Tensor = self.level[0] + self.level[1] * self.head(pooled)[:, 0]
        return _NEAR * (odds / _NEAR).clamp(-8, 8).sinh()

    def save(self, path: Path, lessons: "Lessons") -> None:
        """Write one safetensors file, atomically."""
        about = {
            "channels": self.centre.shape[0],
            "evaluations": lessons.evaluations,
            "correlation": lessons.correlation,
            "unanswered": dict(lessons.unanswered),
        }
        write_checkpoint(path, KIND, self.state_dict(), about)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """The training of a student so far."""

    evaluations: int
    """Of the target."""
    correlation: float | None
    """Correlation of its predictions with the target's answers for the tiles of the last round,
    before it learned from them; None if either is constant."""
    unanswered: Mapping[str, int] = field(default_factory=dict)
    """How many of the evaluations gave no answer, by reason; these are not used for training."""


@dataclass(frozen=True, kw_only=True)
class TeachingRules:
    """How a student is trained."""

    tau: float
    labels: tuple[int, ...]
    """Conditions, used in turn."""
    run_seed: int
    stream: str
    first: int
    """Random latents of the first round."""
    rounds: int
    """Rounds with tiles that the student chose."""
    each: int
    """Tiles per such round."""
    learning_rate: float
    """Step size of Adam on the latents that lead to them."""
    max_age: int
    """Most steps of such a latent."""
    steps: int
    """Training steps after each round."""


def teach(
    evaluator: Evaluator, shell: PriorShell, rules: TeachingRules, device: torch.device
) -> Iterator[tuple[Student, Lessons]]:
    """Yield the student and how far it is after each batch of evaluations and each round.

    Args:
        evaluator: asks the target.
        shell: keeps latents where the prior has its mass.
        rules: of the training.
        device: of the student.

    Raises:
        ModelError: the target has no valid answer for any tile of a round.
    """
    with forked_rng(seed_of(rules.run_seed, "search", rules.stream, "student")):
        student = Student(len(evaluator.generator.bands)).to(device)
    pixels, odds = [], []
    unanswered = Counter[str]()
    seed = 0
    for round_ in range(rules.rounds + 1):
        count = rules.each if round_ else rules.first
        z, label = _draw(evaluator, rules, seed, count)
        if round_:
            z = _descend(evaluator.guided_by(student), shell, rules, z, label)
        before = Lessons(evaluations=seed, correlation=None, unanswered=dict(unanswered))
        seed += count
        scores = yield from told(
            evaluator.scoring(z, label, gradient=False), partial(_so_far, student, before)
        )
        unanswered.update(scores.unanswered.values())
        answered = torch.tensor(scores.answered, dtype=torch.long)
        # PyTorch 2.9 cannot index uint16 by brackets.
        pixels.append(scores.pixels.index_select(0, answered))
        odds.append(scores.log_odds[answered])
        correlation = _correlation(student, pixels[-1], odds[-1])
        _fit(student, torch.cat(pixels), torch.cat(odds), rules, round_)
        yield (
            student,
            Lessons(
                evaluations=seed,
                correlation=correlation if round_ else None,
                unanswered=dict(unanswered),
            ),
        )


def _so_far(student: Student, before: Lessons, scored: int) -> tuple[Student, Lessons]:
    """Return the student of before a round, and how many evaluations there are within it."""
    return student, replace(before, evaluations=before.evaluations + scored)


def load_student(path: Path, device: torch.device) -> tuple[Student, Lessons]:
    """Read what `Student.save` wrote.

    Raises:
        ModelError: the file is missing or damaged.
    """
    tensors, header = read_checkpoint(path, KIND)
    student = Student(header["channels"])
    student.load_state_dict(tensors)
    student.requires_grad_(requires_grad=False)
    lessons = Lessons(
        evaluations=header["evaluations"],
        correlation=header["correlation"],
        unanswered=header["unanswered"],
    )
    return student.to(device), lessons


def _draw(
    evaluator: Evaluator, rules: TeachingRules, first: int, count: int
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    dim = sum(evaluator.generator.latent_parts)
    seeds = range(first, first + count)
    stream = f"{rules.stream} student"
    z = torch.stack([draw_latent(rules.run_seed, stream, seed, dim) for seed in seeds])
    return z, torch.tensor([rules.labels[seed % len(rules.labels)] for seed in seeds])


def _descend(
    evaluator: Evaluator,
    shell: PriorShell,
    rules: TeachingRules,
    z: Float[Tensor, "n d"],
    label: Int[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Return latents at which the student just expects low confidence, as in a search."""
    z = shell.project(z)
    adam = torch.optim.Adam([z], lr=rules.learning_rate)
    waiting = torch.ones(len(z), dtype=torch.bool)
    for _ in range(rules.max_age):
        rows = torch.nonzero(waiting)[:, 0]
        scores = evaluator.score(z[rows], label[rows], gradient=True)
        waiting[rows[scores.confidence < rules.tau]] = False
        if not waiting.any() or scores.gradient is None:
            break
        before = z.clone()
        z.grad = torch.zeros_like(z)
        z.grad[rows] = scores.gradient.nan_to_num(0.0)
        adam.step()
        z.copy_(torch.where(waiting[:, None], shell.project(z), before))
    return z


def _fit(
    student: Student,
    pixels: Tensor,
    odds: Float[Tensor, " n"],
    rules: TeachingRules,
    round_: int,
) -> None:
    device = student.centre.device
    odds = compressed(odds)
    image = reflectance_of(pixels)
    if round_ == 0:
        student.centre.copy_(image.mean((0, 2, 3))[:, None, None])
        student.spread.copy_(image.std((0, 2, 3))[:, None, None].clamp_min(1e-6))
        student.level.copy_(torch.stack([odds.mean(), odds.std().clamp_min(1e-3)]))
    student.requires_grad_(requires_grad=True)
    adam = torch.optim.Adam(student.parameters(), lr=_RATE)
    rng = torch.Generator().manual_seed(
        seed_of(rules.run_seed, "search", rules.stream, "lesson", round_)
    )
    cosine = torch.optim.lr_scheduler.OneCycleLR(adam, _RATE, total_steps=rules.steps)
    label = torch.zeros(_BATCH, dtype=torch.long, device=device)
    for _ in range(rules.steps):
        rows = torch.randint(len(odds), (_BATCH,), generator=rng)
        batch = image[rows]
        # Mirrored and rotated: a target should not depend on orientation.
        if torch.rand((), generator=rng) < 0.5:
            batch = batch.flip(3)
        batch = torch.rot90(batch, int(torch.randint(4, (), generator=rng)), (2, 3))
        guess = compressed(student(batch.to(device), label))
        loss = F.smooth_l1_loss(guess, odds[rows].to(device))
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        adam.step()
        cosine.step()
    student.requires_grad_(requires_grad=False)


def compressed(odds: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return log-odds on the scale that the student learns."""
    return _NEAR * (odds / _NEAR).asinh()


@torch.no_grad()
def _correlation(student: Student, pixels: Tensor, odds: Float[Tensor, " n"]) -> float | None:
    if len(odds) < 2:
        return None
    device = student.centre.device
    label = torch.zeros(_BATCH, dtype=torch.long, device=device)
    guess = torch.cat(
        [
            student(reflectance_of(part).to(device), label[: len(part)]).cpu()
            for part in torch.split(pixels, _BATCH)
        ]
    )
    pair = compressed(torch.stack([guess, odds]))
    return float(torch.corrcoef(pair)[0, 1]) if bool(pair.std(1).all()) else None
