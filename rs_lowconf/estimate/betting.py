"""An interval that holds for every number of labels and every pool, by betting.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B
2024: a gambler bets that the error rate is below (or above) m, in a game that is fair, or
unfavourable, if it is not. Who believes m must believe that the capital seldom exceeds
1 / alpha (Ville's inequality); so m is given up where it does.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.estimate.draws import Draw, check_labels
from rs_lowconf.estimate.estimators import martingale_terms
from rs_lowconf.estimate.intervals import LEVEL, Interval, check_level

_PARTS = np.array([1.0, 1 / 3])
"""The capital is split between the stake that suits where g is right and a smaller one, which
suits where errors weigh up to ten times what it expects."""
_RUIN = 1 - 1e-9
"""Share of the capital that one bet may lose."""
_HALVINGS = 40


def betting(draw: Draw, error: Bool[np.ndarray, " m"], level: float = LEVEL) -> Interval:
    """Return the interval of the error rates that no bet refutes.

    Each side, at half of 1 - level, splits its capital between two stakes that are fixed before
    anyone labels: sqrt(2 log(1 / alpha) / (M variance)), best for M labels (their section 4.1),
    with the variance that m and the design let expect. The terms, and why the game is not
    favourable where m is true:

    * `importance`, `adaptive`, `lure` and `uniform`: the term of `martingale_terms` is m on average
      given the past, without replacement too (their section 5).
    * `stratified`, `by_class`: labels of different strata have different means, but with stakes
      that do not change the product of their mean factors is at most the power of the mean
      factor, which is 1; labels within a stratum are negatively associated, so the mean of
      the product is at most the product of means.
    * `active`: the same with the N terms y / pi or 0; those of units without label are 0.

    Where no unit is labelled twice, the interval also leaves room for what was found and for no
    more than the rest of the pool.

    Args:
        draw: what was labelled.
        error: whether the target errs on each drawn unit, in the order of the draw.
        level: how often the interval covers the truth, at least.

    Raises:
        DataError: not one label for each drawn unit.
        SettingsError: see `check_level`.
    """
    check_labels(draw, error)
    check_level(level)
    terms, count, bound = _terms(draw, error)
    limit = float(np.log(2 / (1 - level)))
    scale = bound / draw.largest_ratio
    best = np.sqrt(2 * (limit + np.log(len(_PARTS))) / count.sum() / draw.expected_ratio / scale)

    def too_high(m: float) -> bool:
        stakes = np.minimum(_PARTS * best / np.sqrt(m), _RUIN / max(bound - m, 1 - _RUIN))
        return _log_capital(stakes, m - terms, count) >= limit

    def too_low(m: float) -> bool:
        stakes = np.minimum(_PARTS * best / np.sqrt(m), _RUIN / m)
        return _log_capital(stakes, terms - m, count) >= limit

    # Both capitals are monotone in m, stakes that depend on it included.
    low, high = _last(too_low), 1 - _last(lambda m: too_high(1 - m))
    if draw.design not in ("importance", "adaptive"):
        # No unit was labelled twice, so what was found is a part of the pool.
        found = int(error.sum())
        low = max(low, found / draw.population)
        high = min(high, 1 - (len(draw) - found) / draw.population)
    return Interval(low=low, high=high, level=level, method="betting")


def _terms(
    draw: Draw, error: Bool[np.ndarray, " m"]
) -> tuple[Float64[np.ndarray, " t"], Float64[np.ndarray, " t"], float]:
    """Return the different terms, how often each comes, and the largest that one can be."""
    m, n = len(draw), draw.population
    match draw.design:
        case "uniform":
            left = n - np.arange(m)
            terms = (np.cumsum(error) - error + error * left) / n
            bound = 1.0
        case "by_class" | "stratified":
            terms = error * m / (n * draw.chance)
            bound = draw.largest_ratio
        case "active":
            terms = error / draw.chance
            bound = draw.largest_ratio * n / m
        case _:
            terms = martingale_terms(draw, error, replaced=draw.design != "lure")
            bound = draw.largest_ratio
    value, count = np.unique(terms, return_counts=True)
    if draw.design == "active":
        value, count = np.append(value, 0.0), np.append(count, n - m)
    return value, count.astype(float), bound


def _log_capital(
    stakes: Float64[np.ndarray, " s"],
    gain: Float64[np.ndarray, " t"],
    count: Float64[np.ndarray, " t"],
) -> float:
    """Return the logarithm of the mean capital over the stakes."""
    own = np.log1p(stakes[:, None] * gain) @ count
    most = own.max()
    return float(most + np.log(np.exp(own - most).mean()))


def _last(refuted: Callable[[float], bool]) -> float:
    """Return the largest m in 0..1 below which all are refuted, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
