"""What variance an estimate will have, before anyone labels, where the target errs by known odds.

A large pool is summed up in cells of neighbours in g, so that this takes milliseconds.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from rs_lowconf.estimate.allocation import spread_of
from rs_lowconf.estimate.draws import Pool

_CELLS = 4_096
"""Cells of neighbours in g, before they are split by predicted class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Units of a pool that are alike."""

    g: Float64[np.ndarray, " z"]
    """Mean of each cell, rising."""
    size: Float64[np.ndarray, " z"]
    """Units of each cell."""
    predicted: Int[np.ndarray, " z"] | None
    """Predicted class of each cell; None where the pool has none."""
    p: Float64[np.ndarray, " z"]
    """How probably units of each cell really err."""

    @property
    def share(self) -> Float64[np.ndarray, " z"]:
        """Return the cells' shares of the pool."""
        share: Float64[np.ndarray, " z"] = self.size / self.size.sum()
        return share

    @property
    def rate(self) -> float:
        """Return the error rate of the pool."""
        return float(self.share @ self.p)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an estimate is expected to be like."""

    rate: float
    """Error rate of the pool."""
    variance: float
    error_squares: float
    """Sum of the squared weights of the errors, which is their variance if they are Poisson."""
    largest_weight: float
    """The largest weight that a label could have."""

    @classmethod
    def of(
        cls, cells: Cells, variance: float, *, error_squares: float, largest_weight: float
    ) -> "Expected":
        """Return it with the rate of some cells; rounding leaves no variance below 0."""
        return cls(
            rate=cells.rate,
            variance=max(float(variance), 0.0),
            error_squares=float(error_squares),
            largest_weight=float(largest_weight),
        )


def units_of(pool: Pool) -> Cells:
    """Return the units of a pool as cells, in their order."""
    return Cells(g=pool.g, size=np.ones(len(pool)), predicted=pool.predicted, p=pool.g)


def cells_of(pool: Pool) -> Cells:
    """Return the pool in cells of rising g that err as it says: exact for up to 4,096 units."""
    order = np.argsort(pool.g, kind="stable")
    cell = np.empty(len(pool), dtype=np.int64)
    cell[order] = np.arange(len(pool)) * min(_CELLS, len(pool)) // len(pool)
    if pool.predicted is not None:
        cell = cell * (int(pool.predicted.max()) + 1) + pool.predicted
    names, cell = np.unique(cell, return_inverse=True)
    size = np.bincount(cell).astype(float)
    mean = np.bincount(cell, weights=pool.g) / size
    place = np.argsort(mean, kind="stable")
    predicted = None
    if pool.predicted is not None:
        predicted = (names % (int(pool.predicted.max()) + 1))[place]
    g = mean[place].clip(0, 1)
    return Cells(g=g, size=size[place], predicted=predicted, p=g)


def ceiling(p: Float64[np.ndarray, " z"], share: Float64[np.ndarray, " z"]) -> float:
    """Return the most that any sampling by this score can save: P (1 - P) / (E sqrt(p (1 - p)))^2.

    Neyman's allocation over every value of the score, against a uniform draw; p is the
    probability of error given the score. It is that of a pool of far more units than labels: of a
    small one a good part is labelled, which saves more.
    """
    rate = share @ p
    least = share @ spread_of(p)
    return float(rate * (1 - rate) / least**2) if least > 0 else float("inf")


def labels_of_uniform(mse: float, rate: float, population: int) -> float:
    """Return how many labels a uniform draw needs for a mean squared error.

    From its exact variance S^2 (1 / k - 1 / N), S^2 = N P (1 - P) / (N - 1) (Cochran, "Sampling
    techniques", 1977, theorem 2.2).
    """
    spread = population * rate * (1 - rate) / (population - 1)
    return float(population) if spread == 0 else 1 / (mse / spread + 1 / population)
