"""The search: many latents move at once; each ends with a hard tile or is abandoned.

The slot of an ended latent is reused. A trajectory is a function of its seed only. Trajectories are
handed out in the order of their seeds, and counting, budget and stopping follow that order, so on
the same machine with the same number of threads results do not depend on how many slots there are
or on where an earlier run was interrupted.
"""

import enum
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Literal

import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from rs_lowconf.errors import AnswerError
from rs_lowconf.search.evaluate import Evaluator, Scores
from rs_lowconf.search.prior import PriorShell, draw_latent

Mode = Literal["yield", "random"]


class Outcome(enum.Enum):
    """How a trajectory ended; all but the last four are the search's own."""

    FOUND = "found"
    """A realistic tile of low confidence, also after rounding to what is stored."""
    AGED = "aged"
    """None within the allowed steps."""
    REJECTED = "rejected"
    """Low confidence, but lost to the gate or to rounding (random latents and splitting)."""
    DIVERGED = "diverged"
    """The gradient was not finite."""
    UNANSWERED = "no answer"
    """The target has no valid answer for its tile, such as NaN."""
    COPY = "copy of a training tile"
    """Found, but nearer to a training tile than real tiles are to each other."""
    DUPLICATE = "duplicate"
    """Found, but too near to a tile found before."""
    FULL = "cell full"
    """Found, but there are enough of its condition, second class and cluster."""
    SKIPPED = "skipped"
    """Not searched, or not counted: there are enough of its condition."""


class SearchEnd(enum.Enum):
    """Why the search stopped; the text gives the remedy."""

    COUNT = "as many samples as asked for were found"
    EVALUATIONS = "the budget of target evaluations is spent; raise search.max_evaluations"
    MINUTES = "the budget of minutes is spent; raise search.max_minutes"
    FULL = "every condition has its share of samples; raise search.per_condition"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A latent with its tile as stored."""

    z: Float[Tensor, " d"]
    pixels: UInt16[Tensor, "c h w"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A hard tile with its scores, all of the stored tile, scored alone."""

    log_probability: Float[Tensor, " k"]
    """Probabilities of the target's classes; their mean for a target that predicts a class per
    pixel."""
    confidence: float
    """The target's confidence as read by the search."""
    parts: dict[str, float]
    """Scores of the gate's parts."""
    p_value: float
    """The gate's joint p-value."""
    passes: bool
    """Whether it passes the gate; False only for tiles kept for audit."""
    features: Float[Tensor, " f"]
    confidence_before: float
    """Confidence before rounding to digital numbers."""
    tile: Tile | None
    """None once the journal has it: ten thousand tiles would take a gigabyte."""
    dropped_by: str | None = None
    """The part of the gate that dropped it; None if it passes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """The course and result of one seed."""

    seed_id: int
    label: int
    """Class index of the condition."""
    outcome: Outcome
    steps: int
    evaluations: int
    """Evaluations of the target, those of stored tiles included."""
    flips: int
    """How often low confidence was lost by rounding to digital numbers."""
    gate_rejections: int
    """How often the gate rejected a stored tile of low confidence."""
    confidence: float
    """At the last step, before rounding."""
    dropped_by: Mapping[str, int] = field(default_factory=dict)
    """How often each part of the gate rejected one, without tiles beyond the limit of a search."""
    found: Found | None = None
    audit: Found | None = None
    """The first tile that the gate rejected, if the rules ask to keep it."""
    population_probability: float | None = None
    """Splitting: its population's estimate of P(low confidence) given the condition, the same for
    the whole population."""
    unanswered: Mapping[str, int] = field(default_factory=dict)
    """How many of the evaluations gave no answer, by reason."""


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """What a search accepts and how it moves."""

    mode: Mode
    """`yield` descends the energy and stops at the first hit, `random` evaluates each latent once:
    the baseline. First hits are not a random sample of low-confidence tiles; see `splitting`."""
    tau: float
    max_age: int
    slots: int
    learning_rate: float
    """`yield`: step size of Adam."""
    labels: tuple[int, ...]
    """Conditions; seed i searches labels[i mod n]."""
    run_seed: int
    stream: str
    """Name of the random stream, so that search and baseline start from different latents."""
    patience: int = 3
    """`yield`: steps after a rejected tile before the next is shown to the gate."""
    audit: bool = False
    """Whether to keep tiles that the gate rejects, so that people can check the gate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """A tile as stored, and the target's confidence before rounding."""

    tile: Tile
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a tile of low confidence is not accepted."""

    flipped: bool = False
    """Whether its confidence is no longer low after rounding to digital numbers; if False, the gate
    rejected it."""
    dropped_by: str | None = None
    """The part of the gate that rejected it."""


@dataclass(kw_only=True, eq=False)
class _Slot:
    """A latent in progress, with Adam's moments."""

    seed_id: int
    label: int
    z: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]
    square: Float[Tensor, " d"]
    steps: int = 0
    evaluations: int = 0
    flips: int = 0
    gate_rejections: int = 0
    dropped_by: Counter[str] = field(default_factory=Counter)
    audit: Found | None = None
    unanswered: Counter[str] = field(default_factory=Counter)
    wait_until: int = 0
    """Step before which no tile is shown to the gate."""


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
    closed: Container[int] = (),
    *,
    start: Callable[[int], Float[Tensor, " d"]] | None = None,
    seeds: int | None = None,
) -> Iterator[Trajectory]:
    """Yield trajectories in the order of their seeds.

    Args:
        evaluator: scores latents.
        shell: keeps latents where the prior has its mass.
        rules: what to accept and how to move.
        done: trajectories of an earlier, interrupted search, by seed: not searched again.
        closed: conditions with enough tiles. The caller may add to it; a seed of a
            closed condition that has not started is skipped.
        start: where a seed starts, inside the shell; at a random latent when missing.
        seeds: how many to search; without it the caller stops the search.
    """
    done = done or {}
    flow = _Flow()
    slots: list[_Slot] = []
    while True:
        while len(slots) < rules.slots and flow.next_seed != seeds:
            seed_id = flow.next_seed
            flow.next_seed += 1
            label = rules.labels[seed_id % len(rules.labels)]
            if seed_id in done:
                flow.waiting[seed_id] = done[seed_id]
            elif label in closed:
                flow.waiting[seed_id] = skipped(seed_id, label)
            else:
                slots.append(_start(evaluator, shell, rules, seed_id, label, start))
            yield from _in_order(flow)
        if not slots:
            return
        scores = evaluator.score(
            torch.stack([slot.z for slot in slots]),
            torch.tensor([slot.label for slot in slots]),
            gradient=rules.mode != "random",
        )
        staying = []
        for row, slot in enumerate(slots):
            ended = _judge(evaluator, rules, slot, scores, row)
            if ended is None:
                staying.append((row, slot))
            else:
                flow.waiting[ended.seed_id] = ended
        if scores.gradient is not None:
            for row, slot in staying:
                _descend(shell, rules, slot, scores.gradient[row])
        slots = [slot for _, slot in staying]
        yield from _in_order(flow)


def without_tile(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory without its tile, which the journal has."""
    found, audit = (
        None if kept is None else replace(kept, tile=None)
        for kept in (trajectory.found, trajectory.audit)
    )
    return replace(trajectory, found=found, audit=audit)


def _start(  # noqa: PLR0917 - models, rules, seed: as the search has them
    evaluator: Evaluator,
    shell: PriorShell,
    rules: SearchRules,
    seed_id: int,
    label: int,
    start: Callable[[int], Float[Tensor, " d"]] | None,
) -> _Slot:
    dim = sum(evaluator.generator.latent_parts)
    if start is not None:
        z = start(seed_id)
    else:
        z = draw_latent(rules.run_seed, rules.stream, seed_id, dim)
        if rules.mode == "yield":
            z = shell.project(z[None])[0]
    blank = torch.zeros(dim)
    return _Slot(seed_id=seed_id, label=label, z=z, mean=blank, square=blank)


def skipped(seed_id: int, label: int) -> Trajectory:
    """Return the trajectory of a seed that was skipped, because its condition has enough tiles."""
    return Trajectory(
        seed_id=seed_id,
        label=label,
        outcome=Outcome.SKIPPED,
        steps=0,
        evaluations=0,
        flips=0,
        gate_rejections=0,
        confidence=1.0,
    )


def _judge(
    evaluator: Evaluator, rules: SearchRules, slot: _Slot, scores: Scores, row: int
) -> Trajectory | None:
    """Return the trajectory if it ends here."""
    slot.steps += 1
    slot.evaluations += scores.evaluations
    tile = Tile(z=slot.z, pixels=scores.pixels[row])
    state = State(tile=tile, confidence=float(scores.confidence[row]))
    # The energy's critic only guides the search: as a condition it would be a second gate.
    inside = state.confidence < rules.tau
    outcome, found = None, None
    if row in scores.unanswered:
        slot.unanswered[scores.unanswered[row]] += 1
        outcome = Outcome.UNANSWERED
    elif inside and slot.steps >= slot.wait_until:
        stored = _store(evaluator, rules, slot, state)
        slot.wait_until = slot.steps + rules.patience
        if isinstance(stored, Found):
            outcome, found = Outcome.FOUND, stored
        elif rules.mode == "random":
            outcome = stored
    if outcome is None and scores.gradient is not None:
        finite = bool(torch.isfinite(scores.gradient[row]).all())
        outcome = None if finite else Outcome.DIVERGED
    if outcome is None and slot.steps >= rules.max_age:
        outcome = Outcome.AGED
    if outcome is None and rules.mode == "random":
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
        gate_rejections=slot.gate_rejections,
        confidence=state.confidence,
        dropped_by=dict(slot.dropped_by),
        found=found,
        audit=slot.audit,
        unanswered=dict(slot.unanswered),
    )


def _store(evaluator: Evaluator, rules: SearchRules, slot: _Slot, state: State) -> Found | Outcome:
    """Judge a tile, count the outcome, and return the tile or why it is not accepted."""
    keep = rules.audit and slot.audit is None
    judged = judge_stored(evaluator, rules.tau, slot.label, state, keep_rejected=keep)
    slot.evaluations += 1
    if isinstance(judged, AnswerError):
        slot.unanswered[judged.reason] += 1
        return Outcome.UNANSWERED
    if isinstance(judged, Found):
        if judged.passes:
            return judged
        slot.audit = judged
    elif judged.flipped:
        slot.flips += 1
        return Outcome.REJECTED
    slot.gate_rejections += 1
    slot.dropped_by.update(filter(None, [judged.dropped_by]))
    return Outcome.REJECTED


def judge_stored(
    evaluator: Evaluator, tau: float, label: int, state: State, *, keep_rejected: bool = False
) -> Found | Refusal | AnswerError:
    """Judge a tile as stored; it is accepted if its confidence is low and it passes the gate.

    Costs one evaluation of the target. With `keep_rejected` a tile that the gate rejects is
    returned too, marked as such. If the target has no valid answer, the reason is returned.
    """
    pixels = state.tile.pixels
    try:
        answer = evaluator.answer_stored(pixels, label)
    except AnswerError as error:
        return error
    if float(answer.confidence[0]) >= tau:
        return Refusal(flipped=True)
    judgement = evaluator.judge_stored(pixels, label, thorough=keep_rejected)
    if not judgement.passes and not keep_rejected:
        return Refusal(dropped_by=judgement.dropped_by)
    return Found(
        # A copy: the pixels are a view of a whole batch.
        tile=Tile(z=state.tile.z, pixels=pixels.clone()),
        log_probability=answer.log_probability[0],
        confidence=float(answer.confidence[0]),
        parts=judgement.parts,
        p_value=judgement.p_value,
        passes=judgement.passes,
        dropped_by=judgement.dropped_by,
        features=evaluator.features_stored(pixels),
        confidence_before=state.confidence,
    )


def _descend(
    shell: PriorShell, rules: SearchRules, slot: _Slot, gradient: Float[Tensor, " d"]
) -> None:
    """Take one step of Adam (Kingma and Ba 2015), then return into the shell."""
    slot.mean = torch.lerp(gradient, slot.mean, 0.9)
    slot.square = torch.lerp(gradient.square(), slot.square, 0.999)
    mean = slot.mean / (1 - 0.9**slot.steps)
    root = (slot.square / (1 - 0.999**slot.steps)).sqrt()
    slot.z = shell.project((slot.z - rules.learning_rate * mean / (root + 1e-8))[None])[0]


def _in_order(flow: _Flow) -> Iterator[Trajectory]:
    while flow.next_out in flow.waiting:
        yield flow.waiting.pop(flow.next_out)
        flow.next_out += 1


class TimeIsUpError(Exception):
    """The time budget of a search is spent; raised between two steps."""


class Budget:
    """Decides after each trajectory, in seed order, whether the search continues.

    Time cannot be checked per trajectory: those of an earlier run are counted again without
    spending any, and a slow one may never end. So `late` is checked between steps.
    """

    def __init__(
        self, *, count: int, evaluations: int, minutes: float, seconds: float, at_least: int = 0
    ) -> None:
        """Start the clock at `seconds` already spent, by an interrupted run or another search.

        Args:
            count: accepted samples to stop at.
            evaluations: of the target.
            minutes: of wall time.
            seconds: of wall time, already spent.
            at_least: seeds to search before the count may end it.
        """
        self._count, self._evaluations, self._minutes = count, evaluations, minutes
        self._at_least = at_least
        self._start = monotonic() - seconds
        self.accepted = 0
        self.evaluations = 0

    @property
    def seconds(self) -> float:
        """Return the time spent so far."""
        return monotonic() - self._start

    @property
    def late(self) -> bool:
        """Return whether the minutes are spent."""
        return self.seconds >= 60 * self._minutes

    def spend(self, trajectory: Trajectory, *, full: bool = False) -> SearchEnd | None:
        """Count a trajectory; return why the search ends now, or None.

        Args:
            trajectory: the next one in seed order.
            full: whether every condition has its share.
        """
        self.evaluations += trajectory.evaluations
        self.accepted += trajectory.found is not None
        enough = trajectory.seed_id + 1 >= self._at_least
        if self.accepted >= self._count and enough:
            return SearchEnd.COUNT
        if self.evaluations >= self._evaluations:
            return SearchEnd.EVALUATIONS
        return SearchEnd.FULL if full and enough else None
