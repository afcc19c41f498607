"""The error matrix of a sample stratified by predicted class: accuracies and areas.

Olofsson et al., "Good practices for estimating area and assessing accuracy of land change",
Remote Sensing of Environment 148, 2014.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Draw, Pool


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracies:
    """Shares in 0..1, each with its standard error beside it; NaN where nothing tells."""

    overall: float
    overall_error: float
    user: Float64[np.ndarray, " c"]
    """Share of each predicted class that is right."""
    user_error: Float64[np.ndarray, " c"]
    producer: Float64[np.ndarray, " c"]
    """Share of each true class that is found."""
    producer_error: Float64[np.ndarray, " c"]
    area: Float64[np.ndarray, " c"]
    """Share of the pool that is truly of each class."""
    area_error: Float64[np.ndarray, " c"]


def accuracies(counts: Int[np.ndarray, "c c"], sizes: Int[np.ndarray, " c"]) -> Accuracies:
    """Return accuracies and areas by Olofsson et al. 2014, equations 1 to 11.

    Args:
        counts: labels by predicted class (rows) and true class (columns).
        sizes: units of the pool that are predicted to be of each class.

    Raises:
        DataError: a predicted class has units but fewer than two labels, so that it has no
            standard error, or more labels than units.
    """
    labels = counts.sum(1)
    unknown = np.nonzero((sizes > 0) & (labels < 2))[0]
    if len(unknown):
        raise DataError(
            f"{labels[unknown[0]]} labels of predicted class {unknown[0]}",
            expected="two at least",
            remedy="draw with design by_class",
        )
    if (labels > sizes).any():
        raise DataError("a predicted class has more labels than units", remedy="check the counts")
    # Strata without units take no part; a 1 keeps the divisions defined.
    n = np.maximum(labels, 2).astype(float)
    size = np.maximum(sizes, 1)
    share = sizes / sizes.sum()
    within = counts / n[:, None]
    proportion = share[:, None] * within
    area = proportion.sum(0)
    right = np.diag(within)
    spread = right * (1 - right) / (n - 1)
    # Equation 7, of the estimated units a class truly has.
    found = np.diag(proportion)
    with np.errstate(divide="ignore", invalid="ignore"):
        user = np.where(sizes > 0, right, np.nan)
        producer = found / area
        elsewhere = (size**2)[:, None] * within * (1 - within) / (n - 1)[:, None]
        np.fill_diagonal(elsewhere, 0.0)
        within_class = size**2 * (1 - producer) ** 2 * spread
        total = area * sizes.sum()
        producer_variance = (within_class + producer**2 * elsewhere.sum(0)) / total**2
    return Accuracies(
        overall=float(found.sum()),
        overall_error=float(np.sqrt((share**2 * spread).sum())),
        user=user,
        user_error=np.where(sizes > 0, np.sqrt(spread), np.nan),
        producer=producer,
        producer_error=np.sqrt(producer_variance),
        area=area,
        area_error=np.sqrt(((share**2)[:, None] * within * (1 - within) / (n - 1)[:, None]).sum(0)),
    )


def error_matrix(
    draw: Draw, truth: Int[np.ndarray, " m"], pool: Pool, classes: int
) -> tuple[Int[np.ndarray, "c c"], Int[np.ndarray, " c"]]:
    """Return the counts and sizes that `accuracies` takes.

    Args:
        draw: of design `by_class`.
        truth: true class of each drawn unit.
        pool: what was drawn from, with its predicted classes.
        classes: how many there are.

    Raises:
        DataError: the draw is not stratified by predicted class, or a class is out of range.
    """
    if not DESIGNS[draw.design].strata_are_classes or pool.predicted is None:
        raise DataError(
            f"an error matrix of a draw by {draw.design}",
            expected="one by_class, and a pool with predicted classes",
        )
    largest = max(truth.max(), pool.predicted.max())
    if len(truth) != len(draw) or truth.min() < 0 or largest >= classes:
        raise DataError(
            f"{len(truth)} true classes for {len(draw)} drawn units",
            expected=f"one for each, from 0 to {classes - 1}",
        )
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (pool.predicted[draw.index], truth), 1)
    return counts, np.bincount(pool.predicted, minlength=classes)
