"""An interval that holds for every number of labels and every pool, by betting.

Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B
2024: a gambler bets that the error rate is below (or above) m, in a game that is fair, or
unfavourable, if it is not. Who believes m must believe that the capital seldom exceeds
1 / alpha (Ville's inequality); so m is given up where it does.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Draw, check_labels
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
    favourable where m is true, are the design's: see `Design.terms`.

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
    design = DESIGNS[draw.design]
    bets = design.terms(draw, error)
    terms, times = np.unique(bets.value, return_counts=True)
    count, bound = times.astype(float), bets.bound
    if bets.zeros:
        terms, count = np.append(terms, 0.0), np.append(count, bets.zeros)
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
    if not design.repeats:
        # No unit was labelled twice, so what was found is a part of the pool.
        found = int(error.sum())
        low = max(low, found / draw.population)
        high = min(high, 1 - (len(draw) - found) / draw.population)
    return Interval(low=low, high=high, level=level, method="betting")


def _log_capital(
    stakes: Float64[np.ndarray, " s"],
    gain: Float64[np.ndarray, " t"],
    count: Float64[np.ndarray, " t"],
) -> float:
    """Return the logarithm of the mean capital over the stakes."""
    capital = np.log1p(stakes[:, None] * gain) @ count
    most = capital.max()
    return float(most + np.log(np.exp(capital - most).mean()))


def _last(refuted: Callable[[float], bool]) -> float:
    """Return the largest m in 0..1 below which all are refuted, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
