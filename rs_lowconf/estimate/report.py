"""What the labels of a draw say of the pool, with all that tells how far to trust it."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.estimate.accuracy import accuracies, error_matrix
from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.design import Design
from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.estimators import BiasedEstimate, Estimate, equal_weight
from rs_lowconf.estimate.intervals import (
    FEW_ERRORS,
    LEVEL,
    Interval,
    answering,
    binomial_ends,
    ff,
    gamma_upper,
    kg,
    tcz,
    wilson,
)
from rs_lowconf.estimate.methods import PPI
from rs_lowconf.estimate.result import (
    Accuracy,
    BlindSpot,
    CalibrationCell,
    ClassAccuracy,
    LargestWeight,
    PredictionPowered,
    Rate,
    Report,
    Share,
    TileScatter,
    UnclearUnits,
)

ZONE = 0.5
"""Share of the pool, of least g, that is the zone of high confidence."""
_CELLS = 10

Unclear = Literal["refuse", "wrong", "right"]
"""What units count as whose class the labeller could not tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A draw with its labels."""

    pool: Pool
    classes: tuple[str, ...]
    """Of the pool's predicted classes and of the labels."""
    draw: Draw
    truth: Int[np.ndarray, " m"]
    """Class of each drawn unit; -1 where the labeller could not tell."""
    unclear: Unclear
    """What these count as; there are none where it is `refuse`."""
    group: Int[np.ndarray, " n"] | None = None
    """Which tile each pixel of the pool is of; None where units stand alone."""

    @property
    def design(self) -> Design:
        """Return what the units were drawn by."""
        return DESIGNS[self.draw.design]

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """Return the class that the target predicts of each unit of the pool."""
        assert self.pool.predicted is not None  # noqa: S101 -- who makes it gives classes
        return self.pool.predicted

    @property
    def error(self) -> Bool[np.ndarray, " m"]:
        """Return whether the target errs on each drawn unit."""
        return self.errors_if(wrong=self.unclear == "wrong")

    def errors_if(self, *, wrong: bool) -> Bool[np.ndarray, " m"]:
        """Return the same with unclear units counted as wrong, or as right."""
        differs = self.predicted[self.draw.index] != self.truth
        known = self.truth >= 0
        error: Bool[np.ndarray, " m"] = np.where(known, differs, wrong)
        return error


def report(labelled: Labelled, level: float = LEVEL) -> Report:
    """Return all figures.

    Raises:
        DataError: see `estimate` and `betting`.
        SettingsError: a level that is not between 0 and 1.
    """
    draw, pool, error = labelled.draw, labelled.pool, labelled.error
    found, sizes = estimate(draw, error, pool), labelled.design.sizes(len(draw))
    naive, naive_labels = _naive(labelled)
    return Report(
        units=len(pool),
        design=draw.design,
        labels=len(draw),
        distinct_units=len(np.unique(draw.index)),
        waves=len(sizes) if len(sizes) > 1 else None,
        level=level,
        errors_found=int(error.sum()),
        distinct_errors_found=len(np.unique(draw.index[error])),
        error_rate=found.value,
        standard_error=float(np.sqrt(found.variance)),
        intervals=_intervals(labelled, found, level),
        effective_labels=found.effective,
        effective_errors=found.effective_errors,
        largest_weight=LargestWeight(
            of_a_label=float(found.weight.max()),
            possible=found.largest_weight,
            over_uniform=float(found.weight.max() * len(draw)),
        ),
        unclear=_unclear(labelled, level),
        never_predicted=_never_predicted(labelled),
        naive=naive,
        naive_labels=naive_labels,
        ppi=_prediction_powered(labelled, level),
        blind_spot=_blind_spot(labelled, found, level),
        tiles=_tiles(labelled, found),
        by_error_probability=_calibration(labelled, found, level),
        accuracy=_accuracy(labelled, level),
    )


def _intervals(labelled: Labelled, found: Estimate, level: float) -> tuple[Interval, ...]:
    bet = betting(labelled.draw, found.wrong, level)
    others: tuple[Interval, ...] = (tcz(found, level), bet, kg(found, level))
    if labelled.design.simple_random:
        others = (ff(found, level), *others, wilson(found.errors, found.labels, level))
    return (_answering(labelled, found, level), *others)


def _answering(labelled: Labelled, found: Estimate, level: float) -> Interval:
    return answering(found, level, simple_random=labelled.design.simple_random)


def _never_predicted(labelled: Labelled) -> dict[str, int]:
    """Return the labels of each class that the target says of no unit: all of them are errors."""
    counts = np.bincount(labelled.truth[labelled.truth >= 0], minlength=len(labelled.classes))
    never = np.isin(np.arange(len(labelled.classes)), labelled.predicted, invert=True)
    return {
        name: int(counts[i]) for i, name in enumerate(labelled.classes) if counts[i] and never[i]
    }


def _unclear(labelled: Labelled, level: float) -> UnclearUnits:
    """Return what the rate would be if all unclear units were wrong, or right."""
    count = int((labelled.truth < 0).sum())

    def rate(*, wrong: bool) -> Rate | None:
        if not count:
            return None
        extreme = estimate(labelled.draw, labelled.errors_if(wrong=wrong), labelled.pool)
        return Rate(error_rate=extreme.value, interval=_answering(labelled, extreme, level))

    return UnclearUnits(
        units=count,
        counted_as=labelled.unclear if count else None,
        if_wrong=rate(wrong=True),
        if_right=rate(wrong=False),
    )


def _naive(labelled: Labelled) -> tuple[BiasedEstimate, int]:
    """Return what the paper's way would say: errors where they are expected, as they are.

    With it comes the number of labels that its first figure is of.
    """
    draw, pool = labelled.draw, labelled.pool
    index, first = np.unique(draw.index, return_index=True)
    error = labelled.error[first]
    # The labels that would have been spent on the least confident units, as far as there are any.
    limit = np.partition(pool.g, len(pool) - len(index))[len(pool) - len(index)]
    doubtful = pool.g[index] >= limit
    naive = BiasedEstimate(
        low_confidence_rate=float(error[doubtful].mean()) if doubtful.any() else 0.0,
        found_over_pool=float(error.sum() / len(pool)),
    )
    return naive, int(doubtful.sum())


def _prediction_powered(labelled: Labelled, level: float) -> PredictionPowered | None:
    """Return PPI++ of a uniform draw, where its package is there and something is left."""
    if not labelled.design.simple_random or len(labelled.draw) > len(labelled.pool) - 2:
        return None
    try:
        import ppi_py  # noqa: F401
    except ImportError:
        return None
    powered = PPI.estimate(labelled.draw, labelled.error, labelled.pool)
    # Its weight of the predictions is tuned on the same labels, which few errors mislead: at an
    # error rate of 0.1 % it has been 75 % too low on average.
    reliable = powered.errors >= FEW_ERRORS
    return PredictionPowered(
        error_rate=powered.value,
        standard_error=float(np.sqrt(powered.variance)),
        interval=replace(tcz(powered, level), reliable=reliable),
    )


def _blind_spot(labelled: Labelled, found: Estimate, level: float) -> BlindSpot:
    """Return how much of the pool's error rate may hide where none is expected.

    Fay and Feuer's upper limit of what the labels in the zone say of it, one-sided: where they
    were drawn uniformly and none is an error, 3 / labels times the zone's share, at 95 %.
    """
    g, draw = labelled.pool.g, labelled.draw
    order = np.argsort(g, kind="stable")[: max(1, int(len(g) * ZONE))]
    zone = np.zeros(len(g), dtype=bool)
    zone[order] = True
    inside = zone[draw.index]
    weight = found.weight[inside & found.wrong]
    share = float(zone.mean())
    limit = gamma_upper(
        float(weight.sum()),
        float((weight**2).sum()),
        extra=found.largest_weight,
        level=level,
    )
    return BlindSpot(
        share_of_pool=share,
        largest_g=float(g[order].max()),
        labels=int(inside.sum()),
        errors=int((inside & found.wrong).sum()),
        at_most=min(share, limit),
    )


def _tiles(labelled: Labelled, found: Estimate) -> TileScatter | None:
    """Return the standard error if the pool's tiles were themselves drawn from many more.

    The intervals speak of the pool as it is, where that pixels of a tile are alike does not
    matter. For other tiles of the same kind it does: residuals are summed by tile (the
    linearised variance of a ratio over ultimate clusters, Saerndal et al., "Model assisted
    survey sampling", 1992, section 5.6 and 4.6).
    """
    if labelled.group is None:
        return None
    group = labelled.group[labelled.draw.index]
    residual = found.weight * (found.wrong - found.value)
    _, number = np.unique(group, return_inverse=True)
    total = np.bincount(number, weights=residual)
    many = len(total)
    spread = float((total**2).sum() * many / max(many - 1, 1))
    return TileScatter(
        in_pool=len(np.unique(labelled.group)),
        labelled=many,
        standard_error_for_other_tiles=float(np.sqrt(spread)) if many > 1 else None,
    )


def _calibration(labelled: Labelled, found: Estimate, level: float) -> tuple[CalibrationCell, ...]:
    """Return expected and found error rates of tenths of the pool's expected errors."""
    g, draw = labelled.pool.g, labelled.draw
    order = np.argsort(g, kind="stable")
    expected = np.cumsum(g[order])
    total = expected[-1] if expected[-1] > 0 else 1.0
    cell = np.empty(len(g), dtype=np.int64)
    cell[order] = ((expected - g[order] / 2) / total * _CELLS).astype(np.int64).clip(0, _CELLS - 1)
    size = np.bincount(cell, minlength=_CELLS)
    sum_g = np.bincount(cell, weights=g, minlength=_CELLS)
    drawn = cell[draw.index]
    weight = np.bincount(drawn, weights=found.weight, minlength=_CELLS)
    wrong = np.bincount(drawn, weights=found.weight * found.wrong, minlength=_CELLS)
    labels = np.bincount(drawn, minlength=_CELLS)
    cells = []
    for i in np.flatnonzero(size):
        rate = float(wrong[i] / weight[i]) if weight[i] > 0 else None
        ends = _ends(rate, equal_weight(found.weight[drawn == i]), level)
        cells.append(
            CalibrationCell(
                units=int(size[i]),
                labels=int(labels[i]),
                expected=float(sum_g[i] / size[i]),
                found=rate,
                low=ends[0],
                high=ends[1],
            )
        )
    return tuple(cells)


def _accuracy(labelled: Labelled, level: float) -> Accuracy:
    """Return the error matrix and, by class, accuracies and area.

    Where the strata are predicted classes by the formulas of Olofsson et al. 2014; else by
    estimates and their ratios, with the same weights. Unclear units are of no class here.
    """
    truth, k = labelled.truth, len(labelled.classes)
    predicted = labelled.predicted[labelled.draw.index]
    known = truth >= 0
    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, (predicted[known], truth[known]), 1)
    sizes = np.bincount(labelled.predicted, minlength=k)
    if labelled.design.strata_are_classes and known.all():
        matrix, _ = error_matrix(labelled.draw, truth, labelled.pool, k)
        found = accuracies(matrix, sizes)
        share = sizes / sizes.sum()
        proportion = share[:, None] * matrix / np.maximum(matrix.sum(1), 1)[:, None]
        weight = _weights(labelled)
        by_class = tuple(
            ClassAccuracy(
                name=name,
                user=_share(found.user[i], found.user_error[i], weight[predicted == i], level),
                producer=_share(
                    found.producer[i], found.producer_error[i], weight[truth == i], level
                ),
                area=_share(found.area[i], found.area_error[i], weight, level),
            )
            for i, name in enumerate(labelled.classes)
        )
    else:
        proportion, by_class = _weighted(labelled, sizes, level)
    return Accuracy(
        classes=labelled.classes,
        labels=counts,
        share_of_pool=proportion,
        predicted_share=sizes / sizes.sum(),
        by_class=by_class,
    )


def _weighted(
    labelled: Labelled, sizes: Int[np.ndarray, " k"], level: float
) -> tuple[Float64[np.ndarray, "k k"], tuple[ClassAccuracy, ...]]:
    """Return shares of the pool by predicted and true class, and what they say of each class."""
    truth, predicted = labelled.truth, labelled.predicted[labelled.draw.index]
    weight = _weights(labelled)
    proportion = np.zeros((len(sizes), len(sizes)))
    known = truth >= 0
    np.add.at(proportion, (predicted[known], truth[known]), weight[known])
    by_class = []
    for i, name in enumerate(labelled.classes):
        mapped, true = predicted == i, truth == i
        area = _estimated(labelled, true)
        by_class.append(
            ClassAccuracy(
                name=name,
                user=_ratio(labelled, mapped & true, mapped, level),
                producer=_ratio(labelled, mapped & true, true, level),
                area=_share(area.value, np.sqrt(area.variance), weight[known], level),
            )
        )
    return proportion, tuple(by_class)


def _estimated(labelled: Labelled, member: Bool[np.ndarray, " m"]) -> Estimate:
    """Return the share of the pool that is like some of the labels."""
    return labelled.design.share(labelled.draw, member, labelled.pool)


def _weights(labelled: Labelled) -> Float64[np.ndarray, " m"]:
    """Return what each label adds to a share of the pool."""
    return _estimated(labelled, np.ones(len(labelled.draw), dtype=bool)).weight


def _ratio(
    labelled: Labelled,
    part: Bool[np.ndarray, " m"],
    whole: Bool[np.ndarray, " m"],
    level: float,
) -> Share:
    """Return the share of a part in a whole, both estimated, and its standard error.

    Of the linearised ratio R = a / b the variance is that of a - R b over b^2 (Saerndal et al.,
    "Model assisted survey sampling", 1992, result 5.6.2). As the part lies in the whole, the
    covariance follows from the variance of what is left: Var(b - a) = Var(a) + Var(b) - 2 Cov.
    """
    a, b, rest = (_estimated(labelled, member) for member in (part, whole, whole & ~part))
    if b.value <= 0:
        return _share(np.nan, np.nan, np.zeros(0), level)
    ratio = a.value / b.value
    spread = (1 - ratio) * a.variance - ratio * (1 - ratio) * b.variance + ratio * rest.variance
    return _share(ratio, np.sqrt(max(spread, 0.0)) / b.value, b.weight[whole], level)


def _share(value: float, error: float, weight: Float64[np.ndarray, " w"], level: float) -> Share:
    """Return a share with its standard error and interval, None where nothing tells.

    The interval is that of Korn and Graubard (see `kg`), with no more labels than there are. Where
    all or none are of the kind, the standard error is 0 and says nothing; then labels count as
    their weights let them.

    Args:
        value: the share; NaN where nothing tells.
        error: its standard error.
        weight: of the labels that it is a share of.
        level: how often the interval shall cover the truth.
    """
    known = [None if np.isnan(figure) else float(figure) for figure in (value, error)]
    labels = equal_weight(weight)
    if 0 < value < 1 and error > 0:
        labels = min(value * (1 - value) / error**2, float(len(weight)))
    low, high = _ends(known[0], labels, level)
    return Share(value=known[0], standard_error=known[1], low=low, high=high)


def _ends(
    value: float | None, labels: float, level: float
) -> tuple[float, float] | tuple[None, None]:
    """Return the ends of an interval of a share, by so many labels of equal weight."""
    if value is None or labels <= 0:
        return None, None
    value = min(max(value, 0.0), 1.0)
    return binomial_ends(value * labels, labels, level)
