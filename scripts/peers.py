"""Published latent searches, re-implemented after their papers to be measured beside ours.

Each starts from the same latents, asks the same evaluator and accepts by the same rules as
`rs_lowconf.search`. Each searches as published: one seed at a time, or one batch for a fixed
number of steps; none refills what has ended.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.search.evaluate import Evaluator, Scores
from rs_lowconf.search.loop import (
    Found,
    Outcome,
    Refusal,
    SearchRules,
    State,
    Tile,
    Trajectory,
    judge_stored,
)
from rs_lowconf.search.prior import draw_latent
from rs_lowconf.seeds import seed_of

Peer = Callable[[Evaluator, SearchRules], Iterator[Trajectory]]


def genetic(evaluator: Evaluator, rules: SearchRules) -> Iterator[Trajectory]:
    """Genetic search of one seed after another (Kang et al., "SINVAD", ICSE-W 2020).

    A population of 50 around a seed; fitness is the target's confidence; the better half
    survives, children come from uniform crossover and Gaussian mutation.
    """
    size, generations, spread = 50, 40, 0.2
    seed_id = 0
    while True:
        label, z, dice = _begin(evaluator, rules, "genetic", seed_id)
        people = z + spread * torch.randn(size, len(z), generator=dice)
        trial = _Trial(evaluator, rules, seed_id, label)
        for _ in range(generations):
            scores = trial.look(people)
            if trial.found is not None:
                break
            best = people[scores.confidence.argsort()[: size // 2]]
            pairs = torch.randint(len(best), (2, size - len(best)), generator=dice)
            mixed = torch.rand(size - len(best), len(z), generator=dice) < 0.5
            children = torch.where(mixed, best[pairs[0]], best[pairs[1]])
            children = children + spread * torch.randn(children.shape, generator=dice)
            people = torch.cat([best, children])
        yield trial.end()
        seed_id += 1


def shells(evaluator: Evaluator, rules: SearchRules) -> Iterator[Trajectory]:
    """Random shells of growing radius around one seed after another.

    Zhao et al., "Generating natural adversarial examples", ICLR 2018, algorithm 1 (iterative
    stochastic search), with 64 samples a shell instead of 5,000 and wider shells, in its
    favour here.
    """
    samples, width, count = 64, 0.5, 40
    seed_id = 0
    while True:
        label, z, dice = _begin(evaluator, rules, "shells", seed_id)
        trial = _Trial(evaluator, rules, seed_id, label)
        for number in range(count):
            way = torch.randn(samples, len(z), generator=dice)
            radius = width * (number + torch.rand(samples, 1, generator=dice))
            trial.look(z + radius * way / way.norm(dim=1, keepdim=True))
            if trial.found is not None:
                break
        yield trial.end()
        seed_id += 1


def fixed_batch(evaluator: Evaluator, rules: SearchRules) -> Iterator[Trajectory]:
    """Gradient descent of a whole batch for a fixed number of steps.

    Song et al., "Constructing unrestricted adversarial examples with generative models",
    NeurIPS 2018: the loss of the target plus a pull towards the starting latent; tiles are
    looked at when all steps are done.
    """
    size, steps, rate, pull = 64, 40, 0.1, 0.1
    first = 0
    while True:
        begun = [_begin(evaluator, rules, "fixed batch", first + i) for i in range(size)]
        labels = torch.tensor([label for label, _, _ in begun])
        start = torch.stack([z for _, z, _ in begun])
        z = start.clone()
        for _ in range(steps):
            gradient = cast("Tensor", evaluator.score(z, labels, gradient=True).gradient)
            z = z - rate * (gradient + pull * (z - start))
        for i, (label, _, _) in enumerate(begun):
            trial = _Trial(evaluator, rules, first + i, label)
            trial.evaluations += steps
            trial.look(z[i : i + 1])
            yield trial.end()
        first += size


PEERS: dict[str, Peer] = {
    "genetic search (SINVAD 2020)": genetic,
    "random shells (Zhao 2018)": shells,
    "fixed-batch gradient (Song 2018)": fixed_batch,
}


class _Trial:
    """One seed's search: what it has spent and found."""

    def __init__(self, evaluator: Evaluator, rules: SearchRules, seed_id: int, label: int) -> None:
        self._evaluator, self._rules = evaluator, rules
        self._seed_id, self._label = seed_id, label
        self.evaluations = self._steps = self._flips = self._rejections = 0
        self._confidence = 1.0
        self.found: Found | None = None

    def look(self, z: Float[Tensor, "b d"]) -> Scores:
        """Score latents; keep the first that is accepted as it would be stored."""
        labels = torch.full((len(z),), self._label)
        scores = self._evaluator.score(z, labels, gradient=False)
        self.evaluations += len(z)
        self._steps += 1
        self._confidence = float(scores.confidence.min())
        for row in torch.nonzero(scores.confidence < self._rules.tau)[:, 0].tolist():
            tile = Tile(z=z[row], pixels=scores.pixels[row])
            state = State(tile=tile, confidence=float(scores.confidence[row]))
            judged = judge_stored(self._evaluator, self._rules.tau, self._label, state)
            self.evaluations += 1
            if isinstance(judged, Refusal):
                self._flips += judged.flipped
                self._rejections += not judged.flipped
            if isinstance(judged, Found):
                self.found = judged
                break
        return scores

    def end(self) -> Trajectory:
        """Return what became of the seed."""
        return Trajectory(
            seed_id=self._seed_id,
            label=self._label,
            outcome=Outcome.AGED if self.found is None else Outcome.FOUND,
            steps=self._steps,
            evaluations=self.evaluations,
            flips=self._flips,
            gate_rejections=self._rejections,
            confidence=self._confidence,
            found=self.found,
        )


def _begin(
    evaluator: Evaluator, rules: SearchRules, name: str, seed_id: int
) -> tuple[int, Float[Tensor, " d"], torch.Generator]:
    """Return condition, starting latent and the source of chance of a seed."""
    z = draw_latent(rules.run_seed, "search", seed_id, sum(evaluator.generator.latent_parts))
    dice = torch.Generator().manual_seed(seed_of(rules.run_seed, "peer", name, seed_id))
    return rules.labels[seed_id % len(rules.labels)], z, dice


def within(stream: Iterator[Trajectory], evaluations: int) -> Iterator[Trajectory]:
    """Yield trajectories until they have spent a number of evaluations."""
    spent = 0
    while spent < evaluations:
        one = next(stream)
        spent += one.evaluations
        yield one
