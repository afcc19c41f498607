"""What the labels of a draw say of the pool's error rate, with its variance.

All but `naive` and, with few errors, `ppi` are right on average for the design that drew, whatever
the error probabilities g are worth. The variances are those of the draw: the pool is what it is,
and only the choice of units is random.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """An error rate that is right on average, and what an interval around it needs."""

    value: float
    """Error rate of the pool; where `corrects`, it may leave 0..1."""

    variance: float
    """Estimated variance of `value`."""

    weight: Float64[np.ndarray, " m"]
    """What each label adds to `value` if it is an error. The weights sum to about 1."""

    wrong: Bool[np.ndarray, " m"]
    """Whether each label is an error."""

    largest_weight: float
    """The largest weight that any unit of the pool could have had."""

    corrects: bool = False
    """Whether it is what was expected of the pool, corrected by labels: then more than errors
    enter."""

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.weight)

    @property
    def errors(self) -> int:
        """Errors among the labels; a unit that was drawn twice counts twice."""
        return int(self.wrong.sum())

    @property
    def effective(self) -> float:
        """Labels of equal weight that would say as much (Kish, "Survey sampling", 1965, 11.2)."""
        return equal_weight(self.weight)

    @property
    def effective_errors(self) -> float:
        """Errors of equal weight that would say as much as those found; 0 without any."""
        return equal_weight(self.weight[self.wrong])


def equal_weight(weight: Float64[np.ndarray, " m"]) -> float:
    """Return how many labels of equal weight say as much as labels of these; 0 without any."""
    return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0


@dataclass(frozen=True, kw_only=True)
class BiasedEstimate:
    """Figures that are no estimate of the error rate; text of it always says so."""

    low_confidence_rate: float
    """Share of errors among the labelled units of least confidence."""

    found_over_pool: float
    """Errors found over all units of the pool: a sure lower bound."""

    bias: str = (
        "biased: units of low confidence err more often than the pool, "
        "and errors at high confidence are not looked for"
    )

    def __str__(self) -> str:
        """Return both figures with what is wrong with them."""
        return (
            f"{100 * self.low_confidence_rate:.4g} % of the least confident units, "
            f"at least {100 * self.found_over_pool:.4g} % of the pool ({self.bias})"
        )

    def __format__(self, spec: str) -> str:
        """Return the same whatever the format: there is no bare number of it."""
        return format(str(self), spec)


def naive(pool_size: int, error: Bool[np.ndarray, " m"]) -> BiasedEstimate:
    """Return what labels of the least confident units alone seem to say.

    Chan-Hon-Tong, "Sampling in low confidence area of a targeted model", 2020, takes the
    errors found there for the target's; nothing weighs them back.

    Args:
        pool_size: units in the pool.
        error: whether the target errs on each of the units of least confidence.
    """
    return BiasedEstimate(
        low_confidence_rate=float(error.mean()), found_over_pool=float(error.sum() / pool_size)
    )
