"""How many labels will be needed? Told before anyone labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import (
    Cells,
    Expected,
    MethodName,
    anticipated,
    ceiling,
    cells_of,
    labels_of_uniform,
)
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.intervals import LEVEL, gamma_interval
from rs_lowconf.estimate.predictors import recalibrated
from rs_lowconf.seeds import seed_of

METHODS: tuple[MethodName, ...] = ("uniform", "strat", "is", "lure", "asi", "adaptive", "ppi")
"""Those that every pool allows; `olofsson` needs predicted classes."""
SHARES = (0.1, 0.3, 0.5)
"""Defensive shares to compare."""
ASSUMING_CALIBRATION = "assuming calibration: no labels tell whether g is right"

FEWEST = 20
"""Labels to plan: two in each of ten strata."""
_RESAMPLES = 200
_ENOUGH_ERRORS = 30
"""From so many on, errors given g may follow any rising curve; below, a logistic one."""
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
    """Expected width of the interval `tcz` at the planned number of labels."""
    labels: int | None
    """Labels needed for the wanted width; None if the pool has fewer units, or none is wanted."""
    labels_range: tuple[int | None, int | None] | None
    """None at an end: more than the pool has."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to expect of a pool. Ranges hold 95 % of resamples of the validation labels."""

    rate: float
    """Expected error rate."""
    rate_range: Range | None
    ceiling: float
    """The most that sampling by this score can save; no design does better."""
    ceiling_range: Range | None
    assumption: str | None
    """`ASSUMING_CALIBRATION` where nothing was validated; else None."""
    prospects: tuple[Prospect, ...]


def plan(
    pool: Pool,
    labels: int,
    *,
    seed: int,
    validation: Validation | None = None,
    width: float | None = None,
    methods: Sequence[MethodName] = METHODS,
    shares: Sequence[float] = SHARES,
    level: float = LEVEL,
) -> Plan:
    """Return savings and labels needed, by method and defensive share.

    With validation labels, errors given g follow a curve fitted to them; without, they are
    taken to be as probable as g says.

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
        DataError: `olofsson` of a pool without predicted classes.
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
    cases = [
        (method, share)
        for method in methods
        for share in ((1.0,) if method in ("uniform", "ppi") else shares)
    ]
    goal = _Goal(labels=labels, width=width, level=level)
    centre = _outlook(cells, _curve(cells, validation), cases, goal)
    resamples = [
        _outlook(cells, _curve(cells, resample), cases, goal)
        for resample in _resampled(validation, seed)
    ]
    return Plan(
        rate=centre.rate,
        rate_range=_range([one.rate for one in resamples]),
        ceiling=centre.ceiling,
        ceiling_range=_range([one.ceiling for one in resamples]),
        assumption=ASSUMING_CALIBRATION if validation is None else None,
        prospects=tuple(
            Prospect(
                method=method,
                defensive=share,
                saving=centre.saving[case],
                saving_range=_range([one.saving[case] for one in resamples]),
                width=centre.width[case],
                labels=_whole(centre.labels[case], len(pool)),
                labels_range=_whole_range([one.labels[case] for one in resamples], len(pool)),
            )
            for case, (method, share) in enumerate(cases)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """What is planned."""

    labels: int
    width: float | None
    level: float


@dataclass(frozen=True, kw_only=True)
class _Outlook:
    """All figures for one idea of how errors depend on g."""

    rate: float
    ceiling: float
    saving: list[float]
    width: list[float]
    labels: list[float | None]


def _curve(cells: Cells, validation: Validation | None) -> Float64[np.ndarray, " z"]:
    """Return how probably units of each cell err."""
    if validation is None:
        return cells.g
    found, many = int(validation.error.sum()), len(validation.g)
    risen = recalibrated(
        np.concatenate([validation.g, cells.g]),
        np.arange(many),
        validation.error,
        "isotonic" if found >= _ENOUGH_ERRORS else "logistic",
    )
    return risen[many:].clip(0, 1)


def _outlook(
    cells: Cells,
    p: Float64[np.ndarray, " z"],
    cases: Sequence[tuple[MethodName, float]],
    goal: _Goal,
) -> _Outlook:
    rate, units = float(cells.share @ p), int(cells.size.sum())
    expected = [anticipated(cells, p, method, goal.labels, share) for method, share in cases]
    return _Outlook(
        rate=rate,
        ceiling=ceiling(p, cells.share),
        saving=[labels_of_uniform(one.variance, rate, units) / goal.labels for one in expected],
        width=[_width(one, goal, 1.0) for one in expected],
        labels=[_needed(one, goal) for one in expected],
    )


def _width(expected: Expected, goal: _Goal, factor: float) -> float:
    """Return the width of `tcz` at `factor` times the labels that `expected` is for."""
    return gamma_interval(
        expected.rate,
        expected.variance / factor,
        extra=1 / (goal.labels * factor),
        extra_variance=expected.square_weight / factor**2,
        level=goal.level,
        method="tcz",
    ).width


def _needed(expected: Expected, goal: _Goal) -> float | None:
    """Return the labels at which the interval is so wide, the variance a label being the same."""
    if goal.width is None:
        return None
    low, high = 1.0, _MOST_LABELS
    while high / low > 1.001:
        middle = float(np.sqrt(low * high))
        enough = _width(expected, goal, middle / goal.labels) <= goal.width
        low, high = (low, middle) if enough else (middle, high)
    return high


def _resampled(validation: Validation | None, seed: int) -> list[Validation]:
    """Return bootstrap resamples of the groups, or of the units where there are none."""
    if validation is None:
        return []
    dice = np.random.default_rng(seed_of(seed, "estimate", "plan"))
    group = np.arange(len(validation.g)) if validation.group is None else validation.group
    _, group = np.unique(group, return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(group))[:-1])
    resamples = []
    for _ in range(_RESAMPLES):
        picked = dice.integers(len(members), size=len(members))
        index = np.concatenate([members[one] for one in picked])
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
    known = _range([one for one in values if one is not None])
    return None if known is None else (_whole(known[0], most), _whole(known[1], most))
