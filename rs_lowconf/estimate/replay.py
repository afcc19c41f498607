"""Every method replayed on a pool whose labels are all known: how right was it, how sure?"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import labels_of_uniform
from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.draws import Pool, seed_name
from rs_lowconf.estimate.estimators import Estimate, naive
from rs_lowconf.estimate.intervals import Interval, clopper_pearson, ff, kg, tcz
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.seeds import seed_of

_GAMMA: dict[str, Callable[[Estimate], Interval]] = {"tcz": tcz, "ff": ff, "kg": kg}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How one interval did at nominal 95 %."""

    method: str
    covered: int
    """Repetitions in which it held the pool's error rate."""
    repetitions: int
    width: float
    """Mean width."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method at one number of labels, over many repetitions."""

    method: MethodName
    labels: int
    defensive: float
    repetitions: int
    rate: float
    """True error rate of the pool."""
    errors: float
    """Mean number of errors among the labels."""
    bias: float
    """Mean estimate less the true rate."""
    bias_error: float
    """Monte-Carlo standard error of `bias`."""
    rmse: float
    saving: float
    """Labels that a uniform draw needs for the same RMSE, by its exact variance, over these."""
    saving_error: float
    """Monte-Carlo standard error of `saving`."""
    variance_ratio: float
    """Mean estimated variance over the mean squared error: 1 if the estimator knows itself."""
    coverage: tuple[Coverage, ...]


def replay(
    pool: Pool,
    error: Bool[np.ndarray, " n"],
    *,
    methods: Sequence[MethodName],
    budgets: Sequence[int],
    repetitions: int,
    seed: int,
    defensive: float,
    betting_repetitions: int = 0,
) -> Iterator[Cell]:
    """Yield a cell for each method and number of labels.

    Args:
        pool: with the g that designs draw by.
        error: whether the target errs on each unit of the pool.
        methods: to replay.
        budgets: numbers of labels.
        repetitions: draws of each cell.
        seed: of all of them.
        defensive: share of the labels drawn uniformly.
        betting_repetitions: of how many draws the interval of `betting` is computed, which is
            slower than the others.

    Raises:
        DataError: not one label for each unit of the pool.
        SettingsError: fewer than two repetitions; see `check_request`.
    """
    if len(error) != len(pool):
        raise DataError(f"{len(error)} labels for a pool of {len(pool)}")
    if repetitions < 2:
        raise SettingsError(f"{repetitions} repetitions", expected="two at least")
    for method in methods:
        for labels in budgets:
            yield _cell(
                pool,
                error,
                method=method,
                labels=labels,
                repetitions=repetitions,
                seed=seed_of(seed, "replay", seed_name(method), labels),
                defensive=defensive,
                betting_repetitions=betting_repetitions,
            )


def with_blind_spot(
    error: Bool[np.ndarray, " n"], g: Float64[np.ndarray, " n"], share: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """Return as many errors, a share of them moved to where none is expected.

    The moved ones go to random units among the half of the pool of least g: errors that no
    score tells of, in 0..1 of all.

    Raises:
        SettingsError: a share outside 0..1, or more errors to move than that half has room for.
    """
    if not 0 <= share <= 1:
        raise SettingsError(f"a blind spot of {share:g} of the errors", expected="0 to 1")
    rng = np.random.default_rng(seed_of(seed, "estimate", "blind spot"))
    moved = np.zeros(len(error), dtype=bool)
    wrong = np.nonzero(error)[0]
    moved[rng.permutation(wrong)[: round(share * len(wrong))]] = True
    left = error & ~moved
    order = np.argsort(g, kind="stable")[: len(g) // 2]
    room = order[~left[order]]
    if moved.sum() > len(room):
        raise SettingsError(
            f"{int(moved.sum())} errors to hide among {len(room)} units", remedy="hide fewer"
        )
    left[rng.choice(room, int(moved.sum()), replace=False)] = True
    return left


@dataclass(frozen=True, kw_only=True)
class NaiveCell:
    """What the paper's own figures are worth on the pool; they do not vary."""

    labels: int
    rate: float
    """True error rate of the pool."""
    said: str
    """The figures with their bias, as text."""
    times_too_high: float
    """Error rate of the least confident units over the pool's."""
    missed: float
    """Share of the pool's errors that `found_over_pool` leaves out."""


def replay_naive(pool: Pool, error: Bool[np.ndarray, " n"], labels: int) -> NaiveCell:
    """Return what labelling the least confident units alone would have said.

    Raises:
        DataError: a pool without errors, which leaves nothing to compare with.
    """
    if not error.any():
        raise DataError("the pool has no errors", expected="one at least")
    least = np.argsort(-pool.g, kind="stable")[:labels]
    figures, rate = naive(len(pool), error[least]), float(error.mean())
    return NaiveCell(
        labels=labels,
        rate=rate,
        said=str(figures),
        times_too_high=figures.low_confidence_rate / rate,
        missed=1 - figures.found_over_pool / rate,
    )


def _cell(
    pool: Pool,
    error: Bool[np.ndarray, " n"],
    *,
    method: MethodName,
    labels: int,
    repetitions: int,
    seed: int,
    defensive: float,
    betting_repetitions: int,
) -> Cell:
    way = METHODS[method]
    draw_of = way.replay(pool, error, labels, defensive)
    rate = float(error.mean())
    values, variances, errors = (np.empty(repetitions) for _ in range(3))
    intervals: dict[str, list[Interval]] = {}
    for repetition in range(repetitions):
        draw = draw_of(seed_of(seed, repetition))
        found = error[draw.index]
        estimate = way.estimate(draw, found, pool)
        values[repetition], variances[repetition] = estimate.value, estimate.variance
        errors[repetition] = estimate.errors
        for name, interval in _GAMMA.items():
            intervals.setdefault(name, []).append(interval(estimate))
        # These two belong to the design, whatever else is made of its labels.
        if draw.design == method and way.simple_random:
            exact = clopper_pearson(estimate.errors, estimate.labels)
            intervals.setdefault(exact.method, []).append(exact)
        if draw.design == method and repetition < betting_repetitions:
            intervals.setdefault("betting", []).append(betting(draw, found))
    square = (values - rate) ** 2
    mse = float(square.mean())
    saving = labels_of_uniform(mse, rate, len(pool)) / labels
    relative = float(square.std(ddof=1)) / np.sqrt(repetitions) / mse if mse > 0 else 0.0
    return Cell(
        method=method,
        labels=labels,
        defensive=defensive,
        repetitions=repetitions,
        rate=rate,
        errors=float(errors.mean()),
        bias=float(values.mean() - rate),
        bias_error=float(values.std(ddof=1) / np.sqrt(repetitions)),
        rmse=float(np.sqrt(mse)),
        saving=saving,
        saving_error=saving * relative,
        variance_ratio=float(variances.mean() / mse) if mse > 0 else 1.0,
        coverage=tuple(
            Coverage(
                method=name,
                covered=sum(interval.low <= rate <= interval.high for interval in found_by),
                repetitions=len(found_by),
                width=float(np.mean([interval.width for interval in found_by])),
            )
            for name, found_by in intervals.items()
        ),
    )
