"""The paper's open experiment: does it pay to label what a target is unsure of?

On a pool whose labels are all known, every design is replayed at several budgets, and so are
labels of generated tiles. What comes out is how many labels of a uniform draw each saves, whether
its intervals cover, how it stands a blind spot, and whether `plan` foresaw it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.methods import METHODS, PPI
from rs_lowconf.estimate.plan import FEWEST, plan
from rs_lowconf.estimate.prepare import Prepared
from rs_lowconf.estimate.replay import replay, replay_naive, with_blind_spot
from rs_lowconf.estimate.scores import Scores
from rs_lowconf.seeds import seed_of

SAMPLED = tuple(
    name
    for name, design in DESIGNS.items()
    if not (design.simple_random or design.strata_are_classes)
)
"""Those that go where errors are expected, which a blind spot can hurt."""
_CELL = 2
"""Of what a cell holds: another number has all replayed again."""
RAW = "as the models say"
"""The error predictor that no label has seen."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cell of the experiment."""

    predictor: str
    method: MethodName
    labels: int
    blind: float
    """Share of the errors hidden where none is expected."""

    @property
    def name(self) -> str:
        """Return its name among the others."""
        return f"{self.predictor} {self.method} {self.labels} {self.blind:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Grounds:
    """What is replayed."""

    prepared: Prepared
    validation: Scores
    """The labelled units that fitted, chose and foretold, all of them."""
    error: Bool[np.ndarray, " n"]
    """Whether the target errs on each unit of the pool."""
    defensive: float
    seed: int
    repetitions: int


def split_validation(scores: Scores, wanted: int, seed: int) -> tuple[Scores, Scores]:
    """Return the pool and the validation units, drawn from it uniformly and taken out of it.

    Args:
        scores: of the whole pool.
        wanted: validation units; a fifth of the pool at most.
        seed: of the draw.

    Raises:
        DataError: fewer than 250 labelled units.
    """
    if len(scores) < 5 * 50:
        raise DataError(
            f"{len(scores)} labelled units in {scores.source}",
            expected="250 at least: a fifth of them validates",
        )
    rng = np.random.default_rng(seed_of(seed, "experiment", "validation"))
    taken = np.zeros(len(scores), dtype=bool)
    taken[rng.permutation(len(scores))[: min(wanted, len(scores) // 5)]] = True
    return scores.take(~taken), scores.take(taken)


def budgets_of(shares: Sequence[float], population: int, classes: int) -> tuple[int, ...]:
    """Return numbers of labels, rising: shares of the pool, but enough for every design.

    Raises:
        SettingsError: the pool is too small for any.
    """
    least = max(FEWEST, 2 * classes)
    found = sorted({max(least, round(share * population)) for share in shares})
    if found[-1] >= population:
        raise SettingsError(f"{found[-1]} labels of a pool of {population}", expected="fewer")
    return tuple(found)


def cases_of(
    prepared: Prepared, budgets: Sequence[int], blind: Sequence[float], *, ppi: bool
) -> list[Case]:
    """Return what is to be replayed.

    All designs by the chosen error predictor; `stratified` by the others; `adaptive` by one that no
    label has seen; and blind spots at the middle budget.
    """
    assert prepared.choice is not None  # noqa: S101 -- an experiment has validation labels
    chosen = prepared.choice.name
    middle = budgets[len(budgets) // 2]
    cells: list[tuple[str, MethodName, float, Sequence[int]]] = [
        *((chosen, method, 0.0, budgets) for method in METHODS if ppi or method != PPI.name),
        *((other, "stratified", 0.0, budgets) for other in prepared.predictors if other != chosen),
        (RAW, "stratified", 0.0, budgets),
        (RAW, "adaptive", 0.0, budgets),
        *((chosen, method, share, (middle,)) for share in blind for method in SAMPLED),
    ]
    return [
        Case(predictor=predictor, method=method, labels=labels, blind=share)
        for predictor, method, share, wanted in cells
        for labels in wanted
    ]


def replay_case(grounds: Grounds, case: Case) -> dict[str, Any]:
    """Return the cell of a case as JSON values; a function of the case alone."""
    error = grounds.error
    if case.blind:
        error = with_blind_spot(error, grounds.prepared.pool.g, case.blind, grounds.seed)
    cells = replay(
        _by(grounds, case.predictor),
        error,
        methods=(case.method,),
        budgets=(case.labels,),
        repetitions=grounds.repetitions,
        seed=seed_of(grounds.seed, "experiment", case.predictor, str(case.blind)),
        defensive=grounds.defensive,
        betting_repetitions=grounds.repetitions,
    )
    return asdict(next(cells)) | {"predictor": case.predictor, "blind": case.blind}


def foreseen(grounds: Grounds, budgets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield what `plan` expects of each error predictor and design, before any of these labels."""
    validation = grounds.prepared.validation
    assert validation is not None  # noqa: S101 -- an experiment has validation labels
    for labels in budgets:
        forecast = plan(
            grounds.prepared.pool,
            labels,
            seed=grounds.seed,
            validation=validation,
            methods=tuple(METHODS),
            shares=(grounds.defensive,),
        )
        for prospect in forecast.prospects:
            yield {
                "method": prospect.method,
                "labels": labels,
                "saving": prospect.saving,
                "saving_range": prospect.saving_range,
                "ceiling": forecast.ceiling,
                "ceiling_range": forecast.ceiling_range,
            }


def taken_literally(grounds: Grounds, labels: int) -> dict[str, Any]:
    """Return what errors among the least confident units, as they are, would say."""
    figures = asdict(replay_naive(Pool(g=grounds.prepared.raw), grounds.error, labels))
    del figures["rate"]
    return figures


def key_of(grounds: Grounds, case: Case) -> str:
    """Return what tells a cell from that of another case, pool or predictor."""
    pool = _by(grounds, case.predictor)
    numbers = (_CELL, grounds.seed, grounds.repetitions, grounds.defensive, case)
    digest = hashlib.sha256(repr(numbers).encode())
    for part in (pool.g, pool.predicted, pool.features, grounds.error, grounds.prepared.pool.g):
        digest.update(b"none" if part is None else part.tobytes())
    return digest.hexdigest()[:24]


def _by(grounds: Grounds, predictor: str) -> Pool:
    prepared = grounds.prepared
    if predictor == RAW:
        return replace(prepared.pool, g=prepared.raw)
    # Waves learn from the chosen g alone, so that cells do not depend on other models by chance.
    return replace(prepared.pool, g=prepared.predictors[predictor], features=None)
