"""What variance an estimate will have, before anyone labels, where the target errs by known odds.

A large pool is summed up in cells of neighbours in g, so that this takes milliseconds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.adaptive import WAVES, wave_sizes
from rs_lowconf.estimate.allocation import allocate, equal_spread, spread_of, uncertain
from rs_lowconf.estimate.designs import STRATA
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.estimators import wave_shares
from rs_lowconf.estimate.predictors import log_odds
from rs_lowconf.settings import DesignName

MethodName = Literal[DesignName, "ppi"]

_STEPS = 16
"""Steps of a sequential draw that stand for all."""
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

    @property
    def share(self) -> Float64[np.ndarray, " z"]:
        """Return the cells' shares of the pool."""
        share: Float64[np.ndarray, " z"] = self.size / self.size.sum()
        return share


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an estimate is expected to be like."""

    rate: float
    """Error rate of the pool."""
    variance: float
    square_weight: float
    """Mean of the squared weights of the labels."""


def cells_of(pool: Pool) -> Cells:
    """Return the pool in cells: exact for pools of up to 4,096 units."""
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
    return Cells(g=mean[place].clip(0, 1), size=size[place], predicted=predicted)


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


def anticipated(
    cells: Cells, p: Float64[np.ndarray, " z"], method: MethodName, labels: int, defensive: float
) -> Expected:
    """Return what to expect of a method, if the units of each cell err with probability p.

    Args:
        cells: of the pool, with the g that the design will draw by.
        p: how probably they really err.
        method: the design; `ppi` draws uniformly.
        labels: how many.
        defensive: share of the labels drawn uniformly; `uniform` and `ppi` need none.

    Raises:
        DataError: `by_class` of a pool without predicted classes.
    """
    share, total = cells.share, cells.size.sum()
    rate = float(share @ p)
    match method:
        case "uniform" | "ppi":
            spread = rate * (1 - rate)
            if method == "ppi":
                # PPI++ (Angelopoulos et al. 2023), section 4, at the best lambda.
                centred = cells.g - share @ cells.g
                own = float(share @ centred**2)
                joint = float(share @ (centred * p))
                spread -= joint**2 / (own * (1 + labels / max(total - labels, 1))) if own else 0
            variance, square = spread * (1 / labels - 1 / total), 1 / labels**2
        case "by_class" | "stratified":
            if method == "stratified":
                stratum = equal_spread(cells.g, cells.size, STRATA)
            elif cells.predicted is not None:
                stratum = cells.predicted
            else:
                raise DataError("the pool has no predicted classes", remedy="give them")
            variance, square = _stratified(cells, p, stratum, labels, defensive)
        case "importance" | "lure":
            ratio = _ratio(share, cells.g, defensive)
            square = float(share @ ratio) / labels**2
            variance = (
                (float(share @ (p * ratio)) - rate**2) / labels
                if method == "importance"
                else _sequential(cells, p, labels, defensive)
            )
        case "active":
            inclusion = uncertain(cells.g, cells.size, labels, defensive)
            missed = p * (1 - cells.g) ** 2 + (1 - p) * cells.g**2
            variance = float(share @ (missed * (1 - inclusion) / inclusion)) / total
            square = float(share @ (1 / inclusion)) / labels / total
        case "adaptive":
            # The first wave knows g; later ones the curve that labels fit to it, and subtract
            # what it expects.
            curve = _learned(cells, p)
            first, later = _ratio(share, cells.g, defensive), _ratio(share, curve, defensive)
            missed = p * (1 - curve) ** 2 + (1 - p) * curve**2
            sizes = np.array(wave_sizes(labels, WAVES))
            each = wave_shares(sizes) ** 2 / sizes
            rest = float(each[1:].sum())
            variance = each[0] * (float(share @ (p * first)) - rate**2)
            variance += rest * (float(share @ (missed * later)) - (rate - share @ curve) ** 2)
            square = (each[0] * float(share @ first) + rest * float(share @ later)) / labels
    return Expected(rate=rate, variance=max(float(variance), 0.0), square_weight=float(square))


def _learned(cells: Cells, p: Float64[np.ndarray, " z"]) -> Float64[np.ndarray, " z"]:
    """Return the logistic curve over log-odds of g that many labels would come to."""
    # scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression

    odds = log_odds(cells.g)[:, None]
    weight = np.concatenate([cells.share * p, cells.share * (1 - p)])
    if not 0 < (cells.share @ p) < 1:
        return p
    fit = LogisticRegression(C=1e6, max_iter=1_000, solver="newton-cholesky")
    fit.fit(np.concatenate([odds, odds]), np.repeat([1, 0], len(p)), sample_weight=weight)
    learned: Float64[np.ndarray, " z"] = fit.predict_proba(odds)[:, 1]
    return learned


def _ratio(
    share: Float64[np.ndarray, " z"], g: Float64[np.ndarray, " z"], defensive: float
) -> Float64[np.ndarray, " z"]:
    """Return what a label of `importance` weighs over what one of a uniform draw does."""
    root = np.sqrt(g)
    ratio: Float64[np.ndarray, " z"] = 1 / (
        (1 - defensive) * root / max(float(share @ root), 1e-300) + defensive
    )
    return ratio


def _sequential(cells: Cells, p: Float64[np.ndarray, " z"], labels: int, defensive: float) -> float:
    """Return the variance of LURE: the mean over steps of that of its martingale.

    After m drawings a unit of chance q is still there with probability exp(-c q), where c makes
    m of them gone (Rosen, "Asymptotic theory for successive sampling", Annals of Mathematical
    Statistics 1972, section 3).
    """
    n = cells.size.sum()
    chance = (1 - defensive) * np.sqrt(cells.g) / max(float(cells.share @ np.sqrt(cells.g)), 1e-300)
    chance = (chance + defensive) / n
    clock = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 60)]) * labels
    gone = -np.expm1(-clock[:, None] * chance) @ cells.size
    step = (np.arange(_STEPS) + 0.5) / _STEPS * labels
    there = cells.size * np.exp(-np.interp(step, gone, clock)[:, None] * chance)
    own = (there @ chance) * (there @ (p / chance)) - (there @ p) ** 2
    combine = n * (n - labels) / (n - step) ** 2
    return float((combine**2 * own).mean() / n**2 / labels)


def _stratified(
    cells: Cells,
    p: Float64[np.ndarray, " z"],
    stratum: Int[np.ndarray, " z"],
    labels: int,
    defensive: float,
) -> tuple[float, float]:
    _, stratum = np.unique(stratum, return_inverse=True)
    size = np.bincount(stratum, weights=cells.size)
    mean_g = np.bincount(stratum, weights=cells.size * cells.g) / size
    mean_p = np.bincount(stratum, weights=cells.size * p) / size
    whole = np.rint(size).astype(np.int64)
    n = allocate(whole, spread_of(mean_g.clip(0, 1)), labels, defensive)
    share = size / size.sum()
    variance = share**2 * (1 - n / size) * mean_p * (1 - mean_p) / n
    return float(variance.sum()), float((n / labels * (share / n) ** 2).sum())
