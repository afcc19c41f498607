"""How many labels will be needed? Told before anyone labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import expit

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import (
    Cells,
    Expected,
    ceiling,
    cells_of,
    labels_of_uniform,
)
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.intervals import LEVEL, binomial_ends, gamma_interval
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.predictors import log_odds, recalibrated
from rs_lowconf.seeds import seed_of

ANY_POOL = tuple(name for name, method in METHODS.items() if not method.strata_are_classes)
"""Methods that need no predicted classes."""
SHARES = (0.1, 0.3, 0.5)
"""Defensive shares to compare."""
ASSUMING_CALIBRATION = "assuming calibration: no labels tell whether g is right"
ASSUMING_SHAPE = (
    "assuming calibration but for level and slope: {found} errors among the validation labels tell "
    "no more"
)

FEWEST = 20
"""Labels to plan: two in each of ten strata."""
_RESAMPLES = 200
_ENOUGH_ERRORS = 30
"""From so many on, errors given g may follow any rising curve; below, g in another scale."""
_SLOPES = np.linspace(0.02, 2.0, 100)
_SLOPE_SPREAD = 0.5
"""Of the slopes' prior; see `_slopes`."""
_MOST_LABELS = 1e12

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """Labelled units that were drawn uniformly and that no error predictor learned from."""

    g: Float64[np.ndarray, " v"]
    """Their probabilities of error, by the predictor that scored the pool."""
    error: Bool[np.ndarray, " _"]
    """Whether the target errs on each."""
    group: Int[np.ndarray, " _"] | None = None
    """Which tile each pixel is of: pixels of a tile are alike, so that ranges come from drawing
    whole groups. None where units are independent."""

    def __post_init__(self) -> None:
        """Check ranges and lengths.

        Raises:
            DataError: nothing labelled, parts of unequal length, or g outside 0..1.
        """
        if not len(self.g) or len(self.error) != len(self.g):
            raise DataError(f"{len(self.error)} labels for {len(self.g)} validation units")
        if self.group is not None and len(self.group) != len(self.g):
            raise DataError(f"{len(self.group)} groups for {len(self.g)} validation units")
        if not ((self.g >= 0) & (self.g <= 1)).all():
            raise DataError("validation units with error probabilities outside 0..1")


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What one method is expected to do. Ranges are None without validation labels."""

    method: MethodName
    defensive: float
    """Share of the labels drawn uniformly; 1 for `uniform` and `ppi`."""
    saving: float
    """Labels of a uniform draw of the same variance, over those of this method."""
    saving_range: Range | None
    width: float
    """Expected width of the interval that the report will answer with, see
    `intervals.answering`, at the planned number of labels."""
    labels: int | None
    """Labels needed for the wanted width; None if the pool has fewer units, or none is wanted."""
    labels_range: tuple[int | None, int | None] | None
    """None at an end: more than the pool has."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to expect of a pool. Ranges hold 95 % of what the validation labels leave possible."""

    rate: float
    """Expected error rate."""
    rate_range: Range | None
    ceiling: float
    """The most that sampling by this score can save; no design does better."""
    ceiling_range: Range | None
    assumption: str | None
    """`ASSUMING_CALIBRATION` where nothing was validated, `ASSUMING_SHAPE` where the labels held
    few errors; else None."""
    prospects: tuple[Prospect, ...]


def plan(
    pool: Pool,
    labels: int,
    *,
    seed: int,
    validation: Validation | None = None,
    width: float | None = None,
    methods: Sequence[MethodName] = ANY_POOL,
    shares: Sequence[float] = SHARES,
    level: float = LEVEL,
) -> Plan:
    """Return savings and labels needed, by method and defensive share.

    With validation labels, errors given g follow a curve fitted to them, or g in another scale
    where they hold few errors; without, they are taken to be as probable as g says.

    Args:
        pool: what will be drawn from.
        labels: how many are planned.
        seed: of the resamples.
        validation: labelled units like those of the pool.
        width: wanted width of the interval; None if labels alone are planned.
        methods: to compare.
        shares: defensive shares to compare.
        level: how often the interval shall cover the pool's error rate.

    Raises:
        DataError: `by_class` of a pool without predicted classes.
        SettingsError: fewer labels than 20, more than the pool has, or a width that is not
            between 0 and 1.
    """
    if not FEWEST <= labels <= len(pool):
        raise SettingsError(
            f"{labels} labels of a pool of {len(pool)}", expected=f"{FEWEST} to {len(pool)}"
        )
    if width is not None and not 0 < width < 1:
        raise SettingsError(f"an interval {width:g} wide", expected="between 0 and 1")
    cells = cells_of(pool)
    goal = _Goal(labels=labels, width=width, level=level)
    curves = [replace(cells, p=curve) for curve in _curves(cells, validation, seed)]
    ceilings = [ceiling(curve.p, curve.share) for curve in curves]

    def prospect(method: MethodName, share: float) -> Prospect:
        expected = [METHODS[method].expect(curve, labels, share) for curve in curves]
        needed = [_needed(method, each, goal) for each in expected]
        uniform = [labels_of_uniform(each.variance, each.rate, len(pool)) for each in expected]
        saving = [count / labels for count in uniform]
        return Prospect(
            method=method,
            defensive=share,
            saving=saving[0],
            saving_range=_range(saving[1:]),
            width=_width(method, expected[0], goal, 1.0),
            labels=_whole(needed[0], len(pool)),
            labels_range=_whole_range(needed[1:], len(pool)),
        )

    return Plan(
        rate=curves[0].rate,
        rate_range=_range([curve.rate for curve in curves[1:]]),
        ceiling=ceilings[0],
        ceiling_range=_range(ceilings[1:]),
        assumption=_assumption(validation),
        prospects=tuple(
            prospect(method, share)
            for method in methods
            for share in ((1.0,) if METHODS[method].simple_random else shares)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What is planned."""

    labels: int
    width: float | None
    level: float


def _curves(
    cells: Cells, validation: Validation | None, seed: int
) -> list[Float64[np.ndarray, " z"]]:
    """Return how probably units of each cell err, first, and the same as it might be instead.

    With thirty errors or more: a rising curve, and those of bootstrap resamples. With fewer no
    curve can be told, and a resample may hold none: the log-odds of g are stretched, as far as the
    places of the errors tell, and scaled to as many errors as were found, by a factor whose
    posterior under Poisson errors is a gamma (Jeffreys' prior adds a half).
    """
    if validation is None:
        return [cells.g]
    found = int(validation.error.sum())
    rng = np.random.default_rng(seed_of(seed, "estimate", "plan"))
    if found >= _ENOUGH_ERRORS:
        return [_risen(cells, labels) for labels in (validation, *_resampled(validation, rng))]
    if not validation.g.any():
        return [np.zeros_like(cells.g)] * (1 + _RESAMPLES)
    # Errors of one tile are one event.
    events = found
    if validation.group is not None:
        events = len(np.unique(validation.group[validation.error]))
    chance = _slopes(validation, events / max(found, 1))
    slopes = (float(chance @ _SLOPES), *rng.choice(_SLOPES, size=_RESAMPLES, p=chance))
    factors = (1.0, *rng.gamma(events + 0.5, size=_RESAMPLES) / (events + 0.5))
    curves = []
    for slope, factor in zip(slopes, factors, strict=True):
        level = (found + 0.5) * factor / stretched(validation.g, slope).sum()
        curves.append(np.minimum(stretched(cells.g, slope) * level, 1.0))
    return curves


def stretched(g: Float64[np.ndarray, " n"], slope: float) -> Float64[np.ndarray, " n"]:
    """Return g with log-odds that vary `slope` times as much."""
    own: Float64[np.ndarray, " n"] = expit(slope * log_odds(g))
    return own


def _slopes(validation: Validation, share: float) -> Float64[np.ndarray, " s"]:
    """Return how probable each of `_SLOPES` is, from where the errors are.

    Given their number, errors fall on units in proportion to the stretched g. The prior is a normal
    curve around 1, for g was fitted to labels of other units.

    Args:
        validation: with few errors.
        share: events over errors; those of one tile are one event.
    """
    weight = -((_SLOPES - 1) ** 2) / (2 * _SLOPE_SPREAD**2)
    for place, slope in enumerate(_SLOPES):
        g = stretched(validation.g, slope)
        weight[place] += share * np.log(g[validation.error] / g.sum()).sum()
    chance: Float64[np.ndarray, " s"] = np.exp(weight - weight.max())
    chance /= chance.sum()
    return chance


def _risen(cells: Cells, validation: Validation) -> Float64[np.ndarray, " z"]:
    many = len(validation.g)
    both = np.concatenate([validation.g, cells.g])
    risen = recalibrated(both, np.arange(many), validation.error, "isotonic")
    return risen[many:].clip(0, 1)


def _assumption(validation: Validation | None) -> str | None:
    if validation is None:
        return ASSUMING_CALIBRATION
    found = int(validation.error.sum())
    return None if found >= _ENOUGH_ERRORS else ASSUMING_SHAPE.format(found=found)


def _width(method: MethodName, expected: Expected, goal: _Goal, factor: float) -> float:
    """Return the width of `answering` at `factor` times the labels that `expected` is for."""
    if method == "uniform":
        labels = goal.labels * factor
        low, high = binomial_ends(expected.rate * labels, labels, goal.level)
        return high - low
    heaviest = expected.largest_weight / factor
    return gamma_interval(
        expected.rate,
        expected.error_squares / factor,
        extra=heaviest,
        extra_variance=heaviest**2,
        level=goal.level,
        method="ff",
    ).width


def _needed(method: MethodName, expected: Expected, goal: _Goal) -> float | None:
    """Return the labels at which the interval is so wide, the variance a label being the same."""
    if goal.width is None:
        return None
    low, high = 1.0, _MOST_LABELS
    while high / low > 1.001:
        middle = float(np.sqrt(low * high))
        enough = _width(method, expected, goal, middle / goal.labels) <= goal.width
        low, high = (low, middle) if enough else (middle, high)
    return high


def _resampled(validation: Validation, rng: np.random.Generator) -> list[Validation]:
    """Return bootstrap resamples of the groups, or of the units where there are none."""
    group = np.arange(len(validation.g)) if validation.group is None else validation.group
    _, group = np.unique(group, return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    resamples = []
    for _ in range(_RESAMPLES):
        picked = rng.integers(len(members), size=len(members))
        index = np.concatenate([members[group] for group in picked])
        resamples.append(Validation(g=validation.g[index], error=validation.error[index]))
    return resamples


def _range(values: Sequence[float]) -> Range | None:
    if not values:
        return None
    # No interpolation: a resample without errors may save infinitely much.
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _whole(labels: float | None, most: int) -> int | None:
    return None if labels is None or labels > most else int(np.ceil(labels))


def _whole_range(values: Sequence[float | None], most: int) -> tuple[int | None, int | None] | None:
    known = _range([value for value in values if value is not None])
    return None if known is None else (_whole(known[0], most), _whole(known[1], most))
