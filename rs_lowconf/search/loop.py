"""The search: many latents move at once, each finds a hard tile or is given up, slots refill.

A trajectory is a function of its seed alone. Trajectories are handed out in the order of
their seeds, and counting, budget and stopping go by that order, so results do not depend on
how many slots there are or on where an earlier run was interrupted.
"""

import enum
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from rs_lowconf.search.evaluate import Evaluator, Scores
from rs_lowconf.search.prior import PriorShell, draw_latent


class Outcome(enum.Enum):
    """How a trajectory ended."""

    FOUND = "found"
    """A realistic tile of low confidence, also after rounding to what is stored."""
    AGED = "aged"
    """None within the allowed steps."""
    DIVERGED = "diverged"
    """The gradient was not finite."""


class SearchEnd(enum.Enum):
    """Why the search stopped; the text says what to do about it."""

    COUNT = "as many samples as asked for were found"
    EVALUATIONS = "the budget of target evaluations is spent; raise search.max_evaluations"
    MINUTES = "the budget of minutes is spent; raise search.max_minutes"


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A hard tile as it is stored."""

    z: Float[Tensor, " d"]
    pixels: UInt16[Tensor, "c h w"]
    log_probability: Float[Tensor, " k"]
    """Of the stored tile, scored alone."""
    realism: float
    """Of the stored tile, scored alone."""
    confidence_before: float
    """Before rounding to digital numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """What became of one seed."""

    seed_id: int
    label: int
    """Class index of the condition."""
    outcome: Outcome
    steps: int
    evaluations: int
    """Evaluations of the target, those of stored tiles included."""
    flips: int
    """How often low confidence or realism was lost by rounding to digital numbers."""
    confidence: float
    """At the last step, before rounding."""
    realism: float
    """At the last step, before rounding."""
    found: Found | None = None


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """What a search accepts and how it moves."""

    tau: float
    max_age: int
    """1 evaluates each latent once and moves none: the random-latent baseline."""
    slots: int
    learning_rate: float
    labels: tuple[int, ...]
    """Conditions; seed i searches labels[i mod n]."""
    run_seed: int
    stream: str
    """Names the random stream, so that search and baseline start from other latents."""


@dataclass(kw_only=True, eq=False)
class _Slot:
    """A latent on its way, with Adam's moments."""

    seed_id: int
    label: int
    z: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]
    square: Float[Tensor, " d"]
    steps: int = 0
    evaluations: int = 0
    flips: int = 0


@dataclass(kw_only=True)
class _Flow:
    """Seeds handed out and trajectories waiting for their turn."""

    next_seed: int = 0
    next_out: int = 0
    waiting: dict[int, Trajectory] = field(default_factory=dict)


def search(
    evaluator: Evaluator,
    shell: PriorShell,
    rules: SearchRules,
    done: Mapping[int, Trajectory] | None = None,
) -> Iterator[Trajectory]:
    """Yield trajectories in the order of their seeds, for ever; the caller stops.

    Args:
        evaluator: scores latents.
        shell: keeps latents where the prior has its mass.
        rules: what to accept and how to move.
        done: trajectories of an earlier, interrupted search, by seed: not searched again.
    """
    done = done or {}
    flow = _Flow()
    slots: list[_Slot] = []
    while True:
        while len(slots) < rules.slots:
            if flow.next_seed in done:
                flow.waiting[flow.next_seed] = done[flow.next_seed]
            else:
                slots.append(_start(evaluator, shell, rules, flow.next_seed))
            flow.next_seed += 1
            yield from _in_order(flow)
        scores = evaluator.score(
            torch.stack([slot.z for slot in slots]),
            torch.tensor([slot.label for slot in slots]),
            gradient=rules.max_age > 1,
        )
        staying = []
        for row, slot in enumerate(slots):
            ended = _judge(evaluator, rules, slot, scores, row)
            if ended is None:
                staying.append((row, slot))
            else:
                flow.waiting[ended.seed_id] = ended
        if scores.gradient is not None:
            _move(shell, rules, staying, scores.gradient)
        slots = [slot for _, slot in staying]
        yield from _in_order(flow)


def _start(evaluator: Evaluator, shell: PriorShell, rules: SearchRules, seed_id: int) -> _Slot:
    dim = sum(evaluator.generator.latent_parts)
    z = draw_latent(rules.run_seed, rules.stream, seed_id, dim)
    if rules.max_age > 1:
        z = shell.project(z[None])[0]
    label = rules.labels[seed_id % len(rules.labels)]
    blank = torch.zeros(dim)
    return _Slot(seed_id=seed_id, label=label, z=z, mean=blank, square=blank)


def _judge(
    evaluator: Evaluator, rules: SearchRules, slot: _Slot, scores: Scores, row: int
) -> Trajectory | None:
    """Return the trajectory if it ends here."""
    slot.steps += 1
    slot.evaluations += 1
    confidence = float(scores.confidence[row])
    realism = float(scores.realism[row])
    outcome, found = None, None
    if confidence < rules.tau and realism >= evaluator.gate.threshold:
        pixels = scores.pixels[row]
        log_probability, stored_realism = evaluator.score_stored(pixels, slot.label)
        slot.evaluations += 1
        still_unsure = float(log_probability.max().exp()) < rules.tau
        if still_unsure and stored_realism >= evaluator.gate.threshold:
            outcome = Outcome.FOUND
            found = Found(
                z=slot.z,
                pixels=pixels.clone(),
                log_probability=log_probability,
                realism=stored_realism,
                confidence_before=confidence,
            )
        else:
            slot.flips += 1
    if outcome is None and scores.gradient is not None:
        finite = bool(torch.isfinite(scores.gradient[row]).all())
        outcome = None if finite else Outcome.DIVERGED
    if outcome is None and slot.steps >= rules.max_age:
        outcome = Outcome.AGED
    if outcome is None:
        return None
    return Trajectory(
        seed_id=slot.seed_id,
        label=slot.label,
        outcome=outcome,
        steps=slot.steps,
        evaluations=slot.evaluations,
        flips=slot.flips,
        confidence=confidence,
        realism=realism,
        found=found,
    )


def _move(
    shell: PriorShell,
    rules: SearchRules,
    staying: Sequence[tuple[int, _Slot]],
    gradient: Float[Tensor, "b d"],
) -> None:
    """Take one step of Adam (Kingma and Ba 2015) a slot, then return into the shell."""
    for row, slot in staying:
        g = gradient[row]
        slot.mean = torch.lerp(g, slot.mean, 0.9)
        slot.square = torch.lerp(g.square(), slot.square, 0.999)
        mean = slot.mean / (1 - 0.9**slot.steps)
        root = (slot.square / (1 - 0.999**slot.steps)).sqrt()
        slot.z = shell.project((slot.z - rules.learning_rate * mean / (root + 1e-8))[None])[0]


def _in_order(flow: _Flow) -> Iterator[Trajectory]:
    while flow.next_out in flow.waiting:
        yield flow.waiting.pop(flow.next_out)
        flow.next_out += 1


class Budget:
    """Decides after each trajectory, in seed order, whether the search goes on."""

    def __init__(self, *, count: int, evaluations: int, minutes: float, seconds: float) -> None:
        """Start the clock at `seconds` already spent by an interrupted run."""
        self._count, self._evaluations, self._minutes = count, evaluations, minutes
        self._start = time.monotonic() - seconds
        self.accepted = 0
        self.evaluations = 0

    @property
    def seconds(self) -> float:
        """Return the time spent so far."""
        return time.monotonic() - self._start

    def spend(self, trajectory: Trajectory) -> SearchEnd | None:
        """Count a trajectory; return why the search ends now, or None."""
        self.evaluations += trajectory.evaluations
        self.accepted += trajectory.found is not None
        if self.accepted >= self._count:
            return SearchEnd.COUNT
        if self.evaluations >= self._evaluations:
            return SearchEnd.EVALUATIONS
        if self.seconds >= 60 * self._minutes:
            return SearchEnd.MINUTES
        return None
