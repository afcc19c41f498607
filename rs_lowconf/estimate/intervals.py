"""Intervals around an estimate that stay right where few errors were found.

The normal interval has no function here: with few errors it misses the truth up to four times
out of five.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor

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
    "tcz": "narrower; covers too seldom with few labels if errors hide",
    "ff": "covers for any error probabilities, also with few labels",
    "betting": "proven for any pool and number of labels",
    "kg": "typical of surveys",
    "clopper-pearson": "exact for a uniform draw",
    "wilson": "covers on average, for a uniform draw",
}

_NAMES: Mapping[str, str] = {
    "tcz": "Tiwari, Clegg and Zou",
    "ff": "Fay and Feuer",
    "betting": "Waudby-Smith and Ramdas",
    "kg": "Korn and Graubard",
    "clopper-pearson": "Clopper and Pearson",
    "wilson": "Wilson",
}


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """How often the answering interval of a design covered, at level 0.95."""

    least: float
    """The least coverage over error rates of 0.1, 1 and 10 %, over none, 30 % and all errors hidden
    where none are expected, and over defensive shares of 0.1 and 0.3."""
    fewest: int
    """Labels from which on it was simulated."""
    most: int


SIMULATED: Mapping[str, Simulated] = {
    "uniform": Simulated(least=0.963, fewest=20, most=1_000),
    "by_class": Simulated(least=0.960, fewest=20, most=1_000),
    "stratified": Simulated(least=0.966, fewest=20, most=1_000),
    "importance": Simulated(least=0.960, fewest=20, most=1_000),
    "lure": Simulated(least=0.960, fewest=20, most=1_000),
    "active": Simulated(least=0.956, fewest=20, most=1_000),
    "adaptive": Simulated(least=0.970, fewest=50, most=100),
}
"""By design; from `scripts/research/interval_coverage.py`, in the results of the documentation."""


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
    def name(self) -> str:
        """Return whom the method is by."""
        return _NAMES[self.method]

    @property
    def purpose(self) -> str:
        """Return what intervals by this method are for."""
        return _PURPOSES[self.method]

    def of_many(self, units: int) -> tuple[int, int, int]:
        """Return the ends as whole numbers, rounded outwards, and the number that they are of.

        That is 1,000, or a larger power of ten where the upper end would be below ten.

        Args:
            units: of the pool; no number is larger than the power of ten that holds it.
        """
        many = 1_000
        while self.high * many < 10 and many < units:
            many *= 10
        # Rounding of the machine moves no end by one.
        low, high = floor(self.low * many + 1e-9), ceil(self.high * many - 1e-9)
        return low, high, many

    @property
    def caution(self) -> str:
        """Return why it may cover the error rate too seldom; empty where it is reliable."""
        if self.reliable:
            return ""
        return "may under-cover: few errors found, or errors with large weights not yet seen"


def answering(estimate: Estimate, level: float = LEVEL, *, simple_random: bool) -> Interval:
    """Return the one interval that a report answers with.

    Clopper and Pearson's where all sets of units have the same chance, Fay and Feuer's for every
    other design. The rule reads the design alone, which is fixed before anyone labels: an interval
    that is chosen after a look at the labels covers less often than it says. In simulations both
    cover as often as promised, also with few labels and rare errors (`SIMULATED`), so that the
    number of labels need not enter.

    Args:
        estimate: of the labels.
        level: how often the interval shall cover the truth.
        simple_random: whether all sets of units have the same chance; see `Method`.

    Raises:
        SettingsError: see `check_level`.
    """
    if simple_random:
        return clopper_pearson(estimate.errors, estimate.labels, level)
    return ff(estimate, level)


def tcz(estimate: Estimate, level: float = LEVEL) -> Interval:
    """Return the gamma interval of Tiwari, Clegg and Zou; narrower than `ff`.

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
    """Return the gamma interval of Fay and Feuer: what reports answer with; see `answering`.

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
    low, high = binomial_ends(p * n, n, level)
    return Interval(
        low=low,
        high=high,
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
    check_level(level)
    low, high = binomial_ends(float(errors), float(labels), level)
    return Interval(low=low, high=high, level=level, method="clopper-pearson")


def wilson(errors: int, labels: int, level: float = LEVEL) -> Interval:
    """Return the score interval of a uniform draw (Wilson 1927).

    Raises:
        SettingsError: see `check_level`.
    """
    # scipy.stats takes a second to load.
    from scipy.stats import binomtest

    check_level(level)
    found = binomtest(errors, labels).proportion_ci(confidence_level=level, method="wilson")
    return Interval(low=float(found.low), high=float(found.high), level=level, method="wilson")


def binomial_ends(errors: float, labels: float, level: float) -> tuple[float, float]:
    """Return Clopper and Pearson's ends for some errors among labels, which may be no integers."""
    tail = (1 - level) / 2
    low = float(betaincinv(errors, labels - errors + 1, tail)) if errors > 0 else 0.0
    high = float(betaincinv(errors + 1, labels - errors, 1 - tail)) if errors < labels else 1.0
    return low, high


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
