"""Fixed size, inclusion by uncertainty, and what is expected as a control: active inference.

Zrnic and Candes, "Active statistical inference", ICML 2024.
"""

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.estimate.allocation import LEAST, expected_ratio, uncertain
from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.design import Design, Drawer, Terms
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_request, rng_of
from rs_lowconf.estimate.estimators import Estimate


class Active(Design):
    """Inclusion in proportion to (1 - a) sqrt(g (1 - g)) + a uniform, at most 1.

    Zrnic and Candes 2024, section 4: pi in proportion to the uncertainty of what is predicted,
    mixed with a uniform rule.
    """

    name = "active"
    words = "fixed size, inclusion by uncertainty (active statistical inference)"

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return the units that pivotal sampling takes, in random order."""
        check_request(len(pool), labels, defensive, LEAST)
        inclusion = uncertain(pool.g, np.ones(len(pool)), labels, defensive)
        ratio = expected_ratio(pool.g, inclusion / labels)
        share = inclusion.sum() / len(inclusion)

        def draw(seed: int) -> Draw:
            rng = rng_of(seed, self.name)
            index = rng.permutation(np.nonzero(_pivotal(inclusion, rng))[0])
            return Draw(
                design=self.name,
                population=len(inclusion),
                index=index,
                chance=inclusion[index],
                largest_ratio=float(share / inclusion.min()),
                expected_ratio=ratio,
            )

        return draw

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the mean of g and of what it misses, (y - g) / pi on the labels.

        Zrnic and Candes 2024, equation 2, with g in the place of their f. The variance is that of
        the difference estimator over a pool that is as it is, sum (1 - pi) ((y - g) / pi)^2 / N^2
        (Saerndal et al., "Model assisted survey sampling", 1992, equation 6.3.4 for independent
        draws); theirs lets the pool vary too and is larger by about P (1 - P) / N.
        """
        n = draw.population
        missed = (error - pool.g[draw.index]) / draw.chance
        return Estimate(
            value=float(pool.g.mean() + missed.sum() / n),
            variance=float(((1 - draw.chance) * missed**2).sum() / n**2),
            weight=1 / (n * draw.chance),
            wrong=error,
            largest_weight=draw.largest_ratio / len(draw),
            corrects=True,
        )

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return the variance of independent inclusions."""
        total, inclusion = cells.size.sum(), uncertain(cells.g, cells.size, labels, defensive)
        missed = cells.p * (1 - cells.g) ** 2 + (1 - cells.p) * cells.g**2
        variance = cells.share @ (missed * (1 - inclusion) / inclusion) / total
        return Expected.of(
            cells,
            variance,
            # The larger one, as `ff` takes it where more than errors enter.
            error_squares=max(variance, cells.share @ (cells.p / inclusion) / total),
            largest_weight=1 / inclusion.min() / total,
        )

    def terms(self, draw: Draw, error: Bool[np.ndarray, " m"]) -> Terms:
        """Return N terms, y / pi or 0; those of units without label are 0.

        Inclusions are negatively associated, so the mean of the product of factors is at most the
        product of means, as in strata.
        """
        n, m = draw.population, len(draw)
        return Terms(value=error / draw.chance, bound=draw.largest_ratio * n / m, zeros=n - m)


def _pivotal(
    inclusion: Float64[np.ndarray, " n"], rng: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Return which units are taken: as many as the inclusions sum to, each by its own.

    Deville and Tille, "Unequal probability sampling without replacement through a splitting
    method", Biometrika 1998, section 5: of two units one is decided and hands what is left to
    the other. Pairs of a random order fight at once, so a round halves the undecided. What it
    takes is negatively associated (Braenden and Jonasson, "Negative dependence in sampling",
    2012), which the finite-sample interval needs.
    """
    p = inclusion.copy()
    open_ = rng.permutation(np.nonzero(p < 1)[0])
    while len(open_) > 1:
        pairs = len(open_) // 2
        first, second = open_[: 2 * pairs : 2], open_[1 : 2 * pairs : 2]
        total = p[first] + p[second]
        small = total < 1
        chance = np.where(small, p[first], 1 - p[second]) / np.where(small, total, 2 - total)
        wins = rng.random(pairs) < chance
        winner, loser = np.where(wins, first, second), np.where(wins, second, first)
        p[winner] = np.where(small, total, 1.0)
        p[loser] = np.where(small, 0.0, total - 1)
        carried = np.where(small, winner, loser)
        undecided = (p[carried] > 0) & (p[carried] < 1)
        open_ = np.concatenate([carried[undecided], open_[2 * pairs :]])
    # The inclusions sum to a whole number, so of the last unit only rounding is left.
    taken: Bool[np.ndarray, " n"] = p > 0.5
    return taken


DESIGN = Active()
