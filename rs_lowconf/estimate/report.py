"""What the labels of a draw say of the pool, with all that tells how far to trust it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.estimate.accuracy import accuracies, error_matrix
from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.estimators import (
    BiasedEstimate,
    Estimate,
    estimate,
    prediction_powered,
)
from rs_lowconf.estimate.intervals import (
    FEW_ERRORS,
    LEVEL,
    Interval,
    clopper_pearson,
    ff,
    gamma_upper,
    kg,
    tcz,
    wilson,
)

ZONE = 0.5
"""Share of the pool, of least g, that is the zone of high confidence."""
_CELLS = 10

Unclear = Literal["refuse", "wrong", "right"]
"""What units count as whose class the labeller could not tell."""

PURPOSES: Mapping[str, str] = {
    "tcz": "the usual one",
    "ff": "to certify with",
    "betting": "holds for any pool and number of labels",
    "kg": "typical of surveys",
    "clopper-pearson": "exact for a uniform draw",
    "wilson": "covers on average, for a uniform draw",
}


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
    def error(self) -> Bool[np.ndarray, " m"]:
        """Return whether the target errs on each drawn unit."""
        return self.errors_if(wrong=self.unclear == "wrong")

    def errors_if(self, *, wrong: bool) -> Bool[np.ndarray, " m"]:
        """Return the same with unclear units counted as wrong, or as right."""
        assert self.pool.predicted is not None  # noqa: S101 -- who makes it gives classes
        differs = self.pool.predicted[self.draw.index] != self.truth
        known = self.truth >= 0
        error: Bool[np.ndarray, " m"] = np.where(known, differs, wrong)
        return error


def report(labelled: Labelled, level: float = LEVEL) -> dict[str, Any]:
    """Return all figures as JSON values.

    Raises:
        DataError: see `estimate` and `betting`.
        SettingsError: a level that is not between 0 and 1.
    """
    draw, pool, error = labelled.draw, labelled.pool, labelled.error
    found = estimate(draw, error, pool)
    distinct = np.unique(draw.index)
    return {
        "units": len(pool),
        "design": draw.design,
        "labels": len(draw),
        "distinct_units": len(distinct),
        "waves": None if draw.batch is None else int(draw.batch.max()) + 1,
        "level": level,
        "errors_found": int(error.sum()),
        "distinct_errors_found": len(np.unique(draw.index[error])),
        "error_rate": found.value,
        "standard_error": float(np.sqrt(found.variance)),
        "intervals": _intervals(draw, error, found, level),
        "effective_labels": found.effective,
        "effective_errors": found.effective_errors,
        "largest_weight": {
            "of_a_label": float(found.weight.max()),
            "possible": found.largest_weight,
            "over_uniform": float(found.weight.max() * len(draw)),
        },
        "unclear": _unclear(labelled, level),
        "never_predicted": _never_predicted(labelled),
        "naive": _naive(labelled),
        "ppi": _prediction_powered(labelled, level),
        "blind_spot": _blind_spot(labelled, found, level),
        "tiles": _tiles(labelled, found),
        "by_error_probability": _calibration(labelled, found),
        "accuracy": _accuracy(labelled),
    }


def _intervals(
    draw: Draw, error: Bool[np.ndarray, " m"], found: Estimate, level: float
) -> list[dict[str, Any]]:
    own = [tcz(found, level), ff(found, level), betting(draw, error, level), kg(found, level)]
    if draw.design == "uniform":
        count = int(error.sum())
        own += [clopper_pearson(count, len(draw), level), wilson(count, len(draw), level)]
    return [_told(one) | {"purpose": PURPOSES[one.method]} for one in own]


def _told(one: Interval) -> dict[str, Any]:
    return {
        "method": one.method,
        "low": one.low,
        "high": one.high,
        "reliable": one.reliable,
    }


def _never_predicted(labelled: Labelled) -> dict[str, int]:
    """Return the labels of each class that the target says of no unit: all of them are errors."""
    assert labelled.pool.predicted is not None  # noqa: S101 -- who makes it gives classes
    counts = np.bincount(labelled.truth[labelled.truth >= 0], minlength=len(labelled.classes))
    said = np.isin(np.arange(len(labelled.classes)), labelled.pool.predicted)
    return {
        name: int(counts[i]) for i, name in enumerate(labelled.classes) if counts[i] and not said[i]
    }


def _unclear(labelled: Labelled, level: float) -> dict[str, Any]:
    """Return what the rate would be if all unclear units were wrong, or right."""
    count = int((labelled.truth < 0).sum())
    ends = {}
    if count:
        for name, wrong in (("if_wrong", True), ("if_right", False)):
            error = labelled.errors_if(wrong=wrong)
            one = estimate(labelled.draw, error, labelled.pool)
            ends[name] = {"error_rate": one.value, **_told(tcz(one, level))}
    return {"units": count, "counted_as": labelled.unclear if count else None, **ends}


def _naive(labelled: Labelled) -> dict[str, Any]:
    """Return what the paper's way would say: errors where they are expected, as they are."""
    draw, pool = labelled.draw, labelled.pool
    index, first = np.unique(draw.index, return_index=True)
    error = labelled.error[first]
    # The labels that would have been spent on the least confident units, as far as there are any.
    limit = np.partition(pool.g, len(pool) - len(index))[len(pool) - len(index)]
    doubtful = pool.g[index] >= limit
    told = BiasedEstimate(
        low_confidence_rate=float(error[doubtful].mean()) if doubtful.any() else 0.0,
        found_over_pool=float(error.sum() / len(pool)),
    )
    return {"said": str(told), "bias": told.bias, "labels": int(doubtful.sum())}


def _prediction_powered(labelled: Labelled, level: float) -> dict[str, Any] | None:
    """Return PPI++ of a uniform draw, where its package is there and something is left."""
    if labelled.draw.design != "uniform" or len(labelled.draw) > len(labelled.pool) - 2:
        return None
    try:
        import ppi_py  # noqa: F401
    except ImportError:
        return None
    one = prediction_powered(labelled.draw, labelled.error, labelled.pool)
    return {
        "error_rate": one.value,
        "standard_error": float(np.sqrt(one.variance)),
        **_told(tcz(one, level)),
        # Its weight of the predictions is tuned on the same labels, which few errors mislead: at
        # an error rate of 0.1 % it has been 75 % too low on average.
        "reliable": one.errors >= FEW_ERRORS,
    }


def _blind_spot(labelled: Labelled, found: Estimate, level: float) -> dict[str, Any]:
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
    return {
        "share_of_pool": float(zone.mean()),
        "largest_g": float(g[order].max()),
        "labels": int(inside.sum()),
        "errors": int((inside & found.wrong).sum()),
        "at_most": min(
            float(zone.mean()),
            gamma_upper(
                float(weight.sum()),
                float((weight**2).sum()),
                extra=found.largest_weight,
                level=level,
            ),
        ),
    }


def _tiles(labelled: Labelled, found: Estimate) -> dict[str, Any] | None:
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
    return {
        "in_pool": len(np.unique(labelled.group)),
        "labelled": many,
        "standard_error_for_other_tiles": float(np.sqrt(spread)) if many > 1 else None,
    }


def _calibration(labelled: Labelled, found: Estimate) -> list[dict[str, Any]]:
    """Return expected and found error rates of tenths of the pool's expected errors."""
    g, draw = labelled.pool.g, labelled.draw
    order = np.argsort(g, kind="stable")
    expected = np.cumsum(g[order])
    total = expected[-1] if expected[-1] > 0 else 1.0
    cell = np.empty(len(g), dtype=np.int64)
    cell[order] = ((expected - g[order] / 2) / total * _CELLS).astype(np.int64).clip(0, _CELLS - 1)
    size = np.bincount(cell, minlength=_CELLS)
    sum_g = np.bincount(cell, weights=g, minlength=_CELLS)
    own = cell[draw.index]
    weight = np.bincount(own, weights=found.weight, minlength=_CELLS)
    wrong = np.bincount(own, weights=found.weight * found.wrong, minlength=_CELLS)
    labels = np.bincount(own, minlength=_CELLS)
    return [
        {
            "units": int(size[i]),
            "labels": int(labels[i]),
            "expected": float(sum_g[i] / size[i]),
            "found": float(wrong[i] / weight[i]) if weight[i] > 0 else None,
        }
        for i in range(_CELLS)
        if size[i]
    ]


def _accuracy(labelled: Labelled) -> dict[str, Any]:
    """Return the error matrix and, by class, accuracies and area.

    Of a draw by `olofsson` by the formulas of Olofsson et al. 2014; of others by estimates and
    their ratios, with the same weights. Unclear units are of no class here.
    """
    draw, pool, truth = labelled.draw, labelled.pool, labelled.truth
    assert pool.predicted is not None  # noqa: S101 -- who makes it gives classes
    k = len(labelled.classes)
    predicted = pool.predicted[draw.index]
    known = truth >= 0
    counts = np.zeros((k, k), dtype=np.int64)
    np.add.at(counts, (predicted[known], truth[known]), 1)
    sizes = np.bincount(pool.predicted, minlength=k)
    if draw.design == "olofsson" and known.all():
        matrix, _ = error_matrix(draw, truth, pool, k)
        own = accuracies(matrix, sizes)
        share = sizes / sizes.sum()
        proportion = share[:, None] * matrix / np.maximum(matrix.sum(1), 1)[:, None]
        by_class = [
            {
                "user": _pair(own.user[i], own.user_error[i]),
                "producer": _pair(own.producer[i], own.producer_error[i]),
                "area": _pair(own.area[i], own.area_error[i]),
            }
            for i in range(k)
        ]
    else:
        proportion, by_class = _weighted(labelled, sizes)
    return {
        "classes": list(labelled.classes),
        "labels": counts.tolist(),
        "share_of_pool": proportion.tolist(),
        "predicted_share": (sizes / sizes.sum()).tolist(),
        "by_class": [
            {"class": name, **one} for name, one in zip(labelled.classes, by_class, strict=True)
        ],
    }


def _weighted(
    labelled: Labelled, sizes: Int[np.ndarray, " k"]
) -> tuple[Float64[np.ndarray, "k k"], list[dict[str, Any]]]:
    """Return shares of the pool by predicted and true class, and what they say of each class."""
    draw, truth = labelled.draw, labelled.truth
    assert labelled.pool.predicted is not None  # noqa: S101 -- who makes it gives classes
    predicted = labelled.pool.predicted[draw.index]
    # What is subtracted expects errors; of other shares there is nothing to subtract.
    pool = replace(labelled.pool, g=np.zeros(len(labelled.pool)))
    draw = replace(draw, control=None, control_mean=None)
    everything = estimate(draw, np.ones(len(draw), dtype=bool), pool)
    proportion = np.zeros((len(sizes), len(sizes)))
    known = truth >= 0
    np.add.at(proportion, (predicted[known], truth[known]), everything.weight[known])
    by_class = []
    for i in range(len(sizes)):
        said, true = predicted == i, truth == i
        area = estimate(draw, true, pool)
        by_class.append(
            {
                "user": _ratio(draw, pool, said & true, said),
                "producer": _ratio(draw, pool, said & true, true),
                "area": _pair(area.value, np.sqrt(area.variance)),
            }
        )
    return proportion, by_class


def _ratio(
    draw: Draw, pool: Pool, part: Bool[np.ndarray, " m"], whole: Bool[np.ndarray, " m"]
) -> dict[str, float | None]:
    """Return the share of a part in a whole, both estimated, and its standard error.

    Of the linearised ratio R = a / b the variance is that of a - R b over b^2 (Saerndal et al.,
    "Model assisted survey sampling", 1992, result 5.6.2). As the part lies in the whole, the
    covariance follows from the variance of what is left: Var(b - a) = Var(a) + Var(b) - 2 Cov.
    """
    a, b, rest = (estimate(draw, own, pool) for own in (part, whole, whole & ~part))
    if b.value <= 0:
        return _pair(np.nan, np.nan)
    ratio = a.value / b.value
    spread = (1 - ratio) * a.variance - ratio * (1 - ratio) * b.variance + ratio * rest.variance
    return _pair(ratio, np.sqrt(max(spread, 0.0)) / b.value)


def _pair(value: float, error: float) -> dict[str, float | None]:
    """Return a share with its standard error, None where nothing tells."""
    known = [None if np.isnan(one) else float(one) for one in (value, error)]
    return {"value": known[0], "standard_error": known[1]}
