"""Intervals around an estimate that stay right where few errors were found.

The normal interval has no function here: with few errors it misses the truth up to four times
out of five.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import betaincinv, chdtri

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.estimators import Estimate

LEVEL = 0.95
"""How often an interval shall cover the truth."""
FEW_ERRORS = 10
"""Below so many errors of equal weight the interval of Korn and Graubard under-covers."""
_HEAVY = 5
"""So does it where one more error of the largest weight would raise the estimate by more than a
fifth of it: such errors may exist and none was found."""
_PURPOSES: Mapping[str, str] = {
    "tcz": "the usual one",
    "ff": "to certify with",
    "betting": "holds for any pool and number of labels",
    "kg": "typical of surveys",
    "clopper-pearson": "exact for a uniform draw",
    "wilson": "covers on average, for a uniform draw",
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Two ends of a range for an error rate, in 0..1."""

    low: float
    high: float
    level: float
    """How often it shall cover the truth."""
    method: str
    reliable: bool = True
    """False where the method is known to cover too seldom: `kg` where the errors found say less
    than ten of equal weight would, or one more could weigh a fifth of them."""

    @property
    def width(self) -> float:
        """Return the distance of the ends."""
        return self.high - self.low

    @property
    def purpose(self) -> str:
        """Return what intervals by this method are for."""
        return _PURPOSES[self.method]

    @property
    def caution(self) -> str:
        """Return why it may cover the error rate too seldom; empty where it is reliable."""
        if self.reliable:
            return ""
        return "may under-cover: few errors found, or errors with large weights not yet seen"


def tcz(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Return the gamma interval of Tiwari, Clegg and Zou; the default.

    "Efficient interval estimation for age-adjusted cancer rates", Statistical Methods in
    Medical Research 2006, section 2: as Fay and Feuer's, but the error that might have been
    found on top has the mean of the weights, and of their squares, not the largest. The
    variance is the design's own, so that strata full of errors count as binomial.

    Raises:
        SettingsError: see `check_level`.
    """
    return gamma_interval(
        estimate.value,
        estimate.variance,
        extra=float(estimate.weight.mean()),
        extra_variance=float((estimate.weight**2).mean()),
        level=level,
        method="tcz",
    )


def ff(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Return the gamma interval of Fay and Feuer; to certify with.

    "Confidence intervals for directly standardized rates: a method based on the gamma
    distribution", Statistics in Medicine 1997, equations 4 and 5: errors are Poisson, and one
    more might have been found at the largest weight. With equal weights it is Garwood's exact
    interval. Where more than errors enter the estimate, the larger of this variance and the
    design's is taken.

    Raises:
        SettingsError: see `check_level`.
    """
    poisson = float((estimate.weight[estimate.wrong] ** 2).sum())
    return gamma_interval(
        estimate.value,
        max(poisson, estimate.variance) if estimate.corrects else poisson,
        extra=estimate.largest_weight,
        extra_variance=estimate.largest_weight**2,
        level=level,
        method="ff",
    )


def gamma_interval(
    value: float,
    variance: float,
    *,
    extra: float,
    extra_variance: float,
    level: float,
    method: str,
) -> Interval:
    """Return quantiles of gamma distributions of the given means and variances.

    Args:
        value: the estimate; what is below 0 counts as 0.
        variance: of the estimate.
        extra: added to the mean of the upper end's distribution.
        extra_variance: added to its variance.
        level: how often the interval shall cover the truth.
        method: what to call it.

    Raises:
        SettingsError: see `check_level`.
    """
    check_level(level)
    tail = (1 - level) / 2
    value = max(value, 0.0)
    low = _gamma_quantile(value, variance, tail)
    high = _gamma_quantile(value + extra, variance + extra_variance, 1 - tail)
    return Interval(low=min(low, 1.0), high=min(high, 1.0), level=level, method=method)


def gamma_upper(value: float, variance: float, *, extra: float, level: float = LEVEL) -> float:
    """Return the upper limit of Fay and Feuer alone, one-sided.

    Args:
        value: the estimate.
        variance: of it, errors being Poisson.
        extra: the largest weight, of the error that might have been found on top.
        level: how often the limit shall hold.

    Raises:
        SettingsError: see `check_level`.
    """
    check_level(level)
    return min(1.0, _gamma_quantile(value + extra, variance + extra**2, level))


def kg(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Return Clopper and Pearson's interval at the effective number of labels.

    Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 1998, section 2. Covers as
    promised on average only, and is marked as not reliable below ten errors, where errors of
    unequal weight count as (sum w)^2 / sum w^2, and where one more of the largest weight would
    raise the estimate by more than a fifth. What is not marked covered in 94.9 % of 3,000 draws
    of pools with hidden errors, what is marked in 90.8 %.

    Raises:
        SettingsError: see `check_level`.
    """
    check_level(level)
    p, n = min(max(estimate.value, 0.0), 1.0), float(estimate.labels)
    if estimate.variance > 0 and 0 < p < 1:
        n = p * (1 - p) / estimate.variance
    tail = (1 - level) / 2
    x = p * n
    return Interval(
        low=float(betaincinv(x, n - x + 1, tail)) if x > 0 else 0.0,
        high=float(betaincinv(x + 1, n - x, 1 - tail)) if x < n else 1.0,
        level=level,
        method="kg",
        reliable=(
            estimate.effective_errors >= FEW_ERRORS
            and estimate.value >= _HEAVY * estimate.largest_weight
        ),
    )


def clopper_pearson(errors: int, labels: int, level: float = LEVEL) -> Interval:
    """Return the exact binomial interval of a uniform draw (Clopper and Pearson 1934).

    Raises:
        SettingsError: see `check_level`.
    """
    return _binomial(errors, labels, level, "exact", "clopper-pearson")


def wilson(errors: int, labels: int, level: float = LEVEL) -> Interval:
    """Return the score interval of a uniform draw (Wilson 1927).

    Raises:
        SettingsError: see `check_level`.
    """
    return _binomial(errors, labels, level, "wilson", "wilson")


def check_level(level: float) -> None:
    """Check a level.

    Raises:
        SettingsError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise SettingsError(f"an interval of level {level:g}", expected="between 0 and 1")


def _gamma_quantile(mean: float, variance: float, share: float) -> float:
    if mean == 0:
        return 0.0
    if variance == 0:
        return mean
    # A gamma of this mean and variance is a scaled chi-square of 2 mean^2 / variance degrees.
    freedom = 2 * mean**2 / variance
    return float(variance / (2 * mean) * chdtri(freedom, 1 - share))


def _binomial(errors: int, labels: int, level: float, how: str, method: str) -> Interval:
    # scipy.stats takes a second to load.
    from scipy.stats import binomtest

    check_level(level)
    found = binomtest(errors, labels).proportion_ci(confidence_level=level, method=how)
    return Interval(low=float(found.low), high=float(found.high), level=level, method=method)
