"""What the labels of a draw say of the pool's error rate, with its variance.

All but `naive` and, with few errors, `ppi` are right on average for the design that drew, whatever
the error probabilities g are worth. The variances are those of the draw: the pool is what it is,
and only which units were labelled is of chance.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.draws import Draw, Pool, check_labels

_TAIL_OF_ONE = 0.15865525393145707
"""Of a standard normal beyond 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """An error rate that is right on average, and what an interval around it needs."""

    method: str
    value: float
    """Error rate of the pool; those that add and subtract (`active`, `adaptive`, `ppi`) may leave
    0..1."""

    variance: float
    """Estimated variance of `value`."""

    errors: int
    """Errors among the labels; a unit that was drawn twice counts twice."""

    weight: Float64[np.ndarray, " m"]
    """What each label adds to `value` if it is an error. The weights sum to about 1."""

    wrong: Bool[np.ndarray, " m"]
    """Whether each label is an error."""

    largest_weight: float
    """The largest weight that any unit of the pool could have had."""

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.weight)

    @property
    def effective(self) -> float:
        """Labels of equal weight that would say as much (Kish, "Survey sampling", 1965, 11.2)."""
        return float(self.weight.sum() ** 2 / (self.weight**2).sum())

    @property
    def effective_errors(self) -> float:
        """Errors of equal weight that would say as much as those found; 0 without any."""
        own = self.weight[self.wrong]
        return float(own.sum() ** 2 / (own**2).sum()) if len(own) else 0.0


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
            f"{self.low_confidence_rate:.4g} of the least confident units, "
            f"at least {self.found_over_pool:.4g} of the pool ({self.bias})"
        )

    def __format__(self, spec: str) -> str:
        """Return the same whatever the format: there is no bare number of it."""
        return format(str(self), spec)


def estimate(draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool | None = None) -> Estimate:
    """Return the estimate that belongs to the design of the draw.

    Args:
        draw: what was labelled.
        error: whether the target errs on each drawn unit, in the order of the draw.
        pool: what was drawn from; only `active` needs it.

    Raises:
        DataError: not one label for each drawn unit.
        SettingsError: `active` without its pool.
    """
    match draw.design:
        case "uniform" | "by_class" | "stratified":
            return stratified_mean(draw, error)
        case "importance":
            return hansen_hurwitz(draw, error)
        case "lure":
            return lure(draw, error)
        case "adaptive":
            return batch_weighted(draw, error)
        case "active":
            if pool is None:
                raise SettingsError("active without its pool", remedy="give the pool it drew from")
            return active_inference(draw, error, pool)


def stratified_mean(draw: Draw, error: Bool[np.ndarray, " m"]) -> Estimate:
    """Return sum_h W_h y_h, with variance sum_h W_h^2 (1 - f_h) s_h^2 / n_h.

    Cochran, "Sampling techniques", 3rd edition, 1977, equations 5.1 and 5.13. `uniform` is the
    case of one stratum.

    Raises:
        DataError: not one label for each drawn unit.
    """
    check_labels(draw, error)
    assert draw.stratum is not None  # noqa: S101 -- `Draw` checks it
    assert draw.stratum_sizes is not None  # noqa: S101 -- `Draw` checks it
    size = draw.stratum_sizes
    n = np.bincount(draw.stratum, minlength=len(size))
    mean = np.bincount(draw.stratum, weights=error, minlength=len(size)) / n
    share = size / size.sum()
    # A stratum of one label is labelled whole, so its variance is 0 and not unknown.
    within = mean * (1 - mean) * n / np.maximum(n - 1, 1)
    return Estimate(
        method=draw.design,
        value=float(share @ mean),
        variance=float((share**2 * (1 - n / size) * within / n).sum()),
        errors=int(error.sum()),
        weight=(share / n)[draw.stratum],
        wrong=error,
        largest_weight=draw.largest_ratio / len(draw),
    )


def hansen_hurwitz(draw: Draw, error: Bool[np.ndarray, " m"]) -> Estimate:
    """Return the mean of y / (N q) over drawings with replacement, and its sample variance.

    Hansen and Hurwitz, "On the theory of sampling from finite populations", Annals of
    Mathematical Statistics 1943; Cochran 1977, equations 9A.7 and 9A.11.

    Raises:
        DataError: not one label for each drawn unit.
    """
    check_labels(draw, error)
    m = len(draw)
    term = error / (draw.population * draw.chance)
    return Estimate(
        method=draw.design,
        value=float(term.mean()),
        variance=float(term.var(ddof=1) / m),
        errors=int(error.sum()),
        weight=1 / (draw.population * draw.chance * m),
        wrong=error,
        largest_weight=draw.largest_ratio / m,
    )


def martingale_terms(
    draw: Draw, error: Bool[np.ndarray, " m"], *, replaced: bool
) -> Float64[np.ndarray, " m"]:
    """Return a term a label whose mean, given all labels before it, is the error rate.

    y / (N q); without replacement the errors found before are in it too, each with its 1 / N
    (Farquhar et al., "On statistical bias in active learning", ICLR 2021, section 3).
    """
    terms: Float64[np.ndarray, " m"] = error / (draw.population * draw.chance)
    if not replaced:
        terms = terms + (np.cumsum(error) - error) / draw.population
    return terms


def lure(draw: Draw, error: Bool[np.ndarray, " m"]) -> Estimate:
    """Return R_LURE, with the variance of its martingale.

    Farquhar et al. 2021, equation 4, used for testing by Kossen et al., "Active testing", ICML
    2021, equation 3: the mean of v_m y_m with v_m = 1 + (N - M) / (N - m) (1 / ((N - m + 1)
    q_m) - 1). It is the mean of the `martingale_terms` with weights C_m = N (N - M) / ((N - m)
    (N - m + 1)), whose differences from the error rate do not correlate; so their squares sum
    to the variance.

    Raises:
        DataError: not one label for each drawn unit.
    """
    check_labels(draw, error)
    n, many = draw.population, len(draw)
    step = np.arange(1, many + 1)
    # The last of a pool that is labelled whole has 0 / 0 for what the others leave it: 1.
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1 + (n - many) / (n - step) * (1 / ((n - step + 1) * draw.chance) - 1)
        combine = n * (n - many) / ((n - step) * (n - step + 1))
    weight[step == n] = 1.0
    combine[step == n] = n
    value = float((weight * error).mean())
    terms = martingale_terms(draw, error, replaced=False)
    squares = float(((combine / many) ** 2 * (terms - value) ** 2).sum())
    ratio = 1 + (draw.largest_ratio - 1) * n / (n - many + 1)
    return Estimate(
        method="lure",
        value=value,
        variance=squares * many / max(many - 1, 1),
        errors=int(error.sum()),
        weight=weight / many,
        wrong=error,
        largest_weight=ratio / many,
    )


def batch_weighted(draw: Draw, error: Bool[np.ndarray, " m"]) -> Estimate:
    """Return the mean of the waves' estimates, later ones weighing more a label.

    A wave's estimate is what the waves before it expect of the pool, and what that misses, as
    Hansen and Hurwitz weigh it: the mean of g + (y - g) / (N q), which is right on average
    whatever g is (Hadad et al., "Confidence intervals for policy evaluation in adaptive
    experiments", PNAS 2021, their doubly robust score). Its variance is its own sample variance.

    Raises:
        DataError: not one label for each drawn unit.
    """
    check_labels(draw, error)
    assert draw.batch is not None  # noqa: S101 -- `Draw` checks it
    batch = draw.batch
    n = np.bincount(batch)
    term = martingale_terms(draw, error, replaced=True)
    if draw.control is not None and draw.control_mean is not None:
        missed = draw.control / (draw.population * draw.chance)
        term = term - missed + draw.control_mean[batch]
    share = wave_shares(n)
    mean = np.bincount(batch, weights=term) / n
    within = np.bincount(batch, weights=(term - mean[batch]) ** 2) / np.maximum(n - 1, 1)
    each = share / n
    return Estimate(
        method="adaptive",
        value=float(share @ mean),
        variance=float((share**2 * within / n).sum()),
        errors=int(error.sum()),
        weight=each[batch] / (draw.population * draw.chance),
        wrong=error,
        largest_weight=draw.largest_ratio * float(each.max()),
    )


def wave_shares(labels: Int[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
    """Return what each wave counts for: n_b ((b + 1) / (b + 2))^2, b = 0, 1, .., over their sum.

    They are fixed before anyone labels, which keeps the estimate right on average, and favour
    waves that learned from others (Hadad et al. 2021, section 2).
    """
    place = np.arange(len(labels))
    share = labels * ((place + 1) / (place + 2)) ** 2
    normal: Float64[np.ndarray, " b"] = share / share.sum()
    return normal


def active_inference(draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
    """Return the mean of g and of what it misses, (y - g) / pi on the labels.

    Zrnic and Candes, "Active statistical inference", ICML 2024, equation 2, with g in the place
    of their f. The variance is that of the difference estimator over a pool that is as it is,
    sum (1 - pi) ((y - g) / pi)^2 / N^2 (Saerndal et al., "Model assisted survey sampling", 1992,
    equation 6.3.4 for independent draws); theirs lets the pool vary too and is larger by about
    P (1 - P) / N.

    Raises:
        DataError: not one label for each drawn unit.
    """
    check_labels(draw, error)
    n = draw.population
    missed = (error - pool.g[draw.index]) / draw.chance
    return Estimate(
        method="active",
        value=float(pool.g.mean() + missed.sum() / n),
        variance=float(((1 - draw.chance) * missed**2).sum() / n**2),
        errors=int(error.sum()),
        weight=1 / (n * draw.chance),
        wrong=error,
        largest_weight=draw.largest_ratio / len(draw),
    )


def prediction_powered(draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
    """Return PPI++ of a uniform draw, by the authors' own package.

    Angelopoulos et al., "PPI++: efficient prediction-powered inference", 2023, equations 2
    and 7: the mean of lambda g over the units without label, and of y - lambda g over those
    with. Its interval lets the pool vary too. lambda is tuned on the same labels: right on
    average as their number grows, and too low where they hold few errors.

    Raises:
        DataError: not one label for each drawn unit.
        SettingsError: the draw is not uniform, or leaves less than two units without label.
        ModuleNotFoundError: ppi-python is not installed.
    """
    from ppi_py import ppi_mean_ci

    check_labels(draw, error)
    if draw.design != "uniform":
        raise SettingsError(f"PPI++ needs a uniform draw, this one is {draw.design}")
    if len(draw) > draw.population - 2:
        raise SettingsError("ppi of a pool that is labelled whole", remedy="use uniform")
    y, g = error.astype(float), pool.g[draw.index]
    rest = np.delete(pool.g, draw.index)
    # One standard error on either side of the estimate; asking for that too takes twice as long.
    low, high = ppi_mean_ci(y, g, rest, alpha=2 * _TAIL_OF_ONE)
    return Estimate(
        method="ppi",
        value=float(np.squeeze((low + high) / 2)),
        variance=float(np.squeeze((high - low) / 2)) ** 2,
        errors=int(error.sum()),
        weight=np.full(len(draw), 1 / len(draw)),
        wrong=error,
        largest_weight=1 / len(draw),
    )


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
