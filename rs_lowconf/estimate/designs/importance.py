"""Importance sampling: with replacement, by the root of the error probability."""

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.estimate.allocation import LEAST, expected_ratio, mixed, ratio_of_cells
from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.design import Design, Drawer
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_request, rng_of
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.settings import DesignName


class Importance(Design):
    """Chances (1 - a) sqrt(g) + a uniform, both normalised; `Draw.chance` is of each drawing.

    The root of g makes the variance least (Sawade et al., "Active risk estimation", ICML 2010,
    theorem 1, for a 0-1 loss); the mixture is that of Hesterberg, "Weighted average importance
    sampling and defensive mixture distributions", Technometrics 1995.
    """

    name = "importance"
    words = "importance sampling with replacement, a defensive share uniform"
    repeats = True

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return independent drawings."""
        check_request(len(pool), labels, defensive, LEAST)
        return with_replacement(self.name, pool.g, labels, defensive)

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the mean of y / (N q) over drawings with replacement, and its sample variance.

        Hansen and Hurwitz, "On the theory of sampling from finite populations", Annals of
        Mathematical Statistics 1943; Cochran 1977, equations 9A.7 and 9A.11.
        """
        m, term = len(draw), self.terms(draw, error).value
        return Estimate(
            value=float(term.mean()),
            variance=float(term.var(ddof=1) / m),
            weight=1 / (draw.population * draw.chance * m),
            wrong=error,
            largest_weight=draw.largest_ratio / m,
        )

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return the variance of independent drawings."""
        ratio = ratio_of_cells(cells.share, cells.g, defensive)
        variance = (cells.share @ (cells.p * ratio) - cells.rate**2) / labels
        return Expected.of(
            cells,
            variance,
            error_squares=cells.share @ (cells.p * ratio) / labels,
            largest_weight=ratio.max() / labels,
        )


def with_replacement(
    name: DesignName, g: Float64[np.ndarray, " n"], labels: int, defensive: float
) -> Drawer:
    """Return what draws each label anew by the same chances."""
    chance = mixed(np.sqrt(g), defensive)
    total, n = np.cumsum(chance), len(chance)
    largest, expected = float(1 / (n * chance.min())), expected_ratio(g, chance)

    def draw(seed: int) -> Draw:
        where = rng_of(seed, name).random(labels) * total[-1]
        index = np.searchsorted(total, where, side="right").clip(max=n - 1)
        return Draw(
            design=name,
            population=n,
            index=index,
            chance=chance[index],
            largest_ratio=largest,
            expected_ratio=expected,
        )

    return draw


DESIGN = Importance()
