"""Drawing without replacement within strata, and the mean over them.

Such draws have the column `stratum`, which stratum each label is of, and the constant
`stratum_sizes`, the units of the pool in each.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from rs_lowconf.estimate.allocation import LEAST, allocate, expected_ratio, spread_of
from rs_lowconf.estimate.anticipate import Cells, Expected, units_of
from rs_lowconf.estimate.design import Design, Drawer, Terms
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_request, rng_of
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.settings import DesignName


class InStrata(Design):
    """A design of one or several strata; it says only what they are."""

    @abstractmethod
    def strata(self, cells: Cells) -> Int[np.ndarray, " z"]:
        """Return the stratum of each unit, or of each cell of like units.

        Raises:
            DataError: the pool lacks what the strata are made of.
        """

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return what draws; each stratum needs two labels, see `allocate`."""
        _, stratum = np.unique(self.strata(units_of(pool)), return_inverse=True)
        sizes = np.bincount(stratum)
        check_request(len(pool), labels, defensive, int(np.minimum(sizes, LEAST).sum()))
        expected = np.bincount(stratum, weights=pool.g) / sizes
        members = np.split(np.argsort(stratum, kind="stable"), np.cumsum(sizes)[:-1])
        counts = allocate(sizes, spread_of(expected.clip(0, 1)), labels, defensive)
        ratio = expected_ratio(pool.g, (counts / sizes / labels)[stratum])
        return draw_in_strata(self.name, members, counts, ratio)

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:  # noqa: ARG002 -- the draw knows its strata
        """Return sum_h W_h y_h, with variance sum_h W_h^2 (1 - f_h) s_h^2 / n_h.

        Cochran, "Sampling techniques", 3rd edition, 1977, equations 5.1 and 5.13.
        """
        stratum, size = draw.columns["stratum"], draw.constants["stratum_sizes"]
        n = np.bincount(stratum, minlength=len(size))
        mean = np.bincount(stratum, weights=error, minlength=len(size)) / n
        share = size / size.sum()
        # A stratum of one label is labelled whole, so its variance is 0 and not unknown.
        within = mean * (1 - mean) * n / np.maximum(n - 1, 1)
        return Estimate(
            value=float(share @ mean),
            variance=float((share**2 * (1 - n / size) * within / n).sum()),
            weight=(share / n)[stratum],
            wrong=error,
            largest_weight=draw.largest_ratio / len(draw),
        )

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return the variance within strata."""
        _, stratum = np.unique(self.strata(cells), return_inverse=True)
        size = np.bincount(stratum, weights=cells.size)
        mean_g = np.bincount(stratum, weights=cells.size * cells.g) / size
        mean_p = np.bincount(stratum, weights=cells.size * cells.p) / size
        whole = np.rint(size).astype(np.int64)
        n = allocate(whole, spread_of(mean_g.clip(0, 1)), labels, defensive)
        share = size / size.sum()
        variance = (share**2 * (1 - n / size) * mean_p * (1 - mean_p) / n).sum()
        return Expected.of(
            cells,
            variance,
            error_squares=(share**2 * mean_p / n).sum(),
            largest_weight=(share / n).max(),
        )

    def terms(self, draw: Draw, error: Bool[np.ndarray, " m"]) -> Terms:
        """Return what each label adds, times the labels.

        Labels of different strata have different means, but with stakes that do not change the
        product of their mean factors is at most the power of the mean factor, which is 1; labels
        within a stratum are negatively associated, so the mean of the product is at most the
        product of means.
        """
        value = error * len(draw) / (draw.population * draw.chance)
        return Terms(value=value, bound=draw.largest_ratio)


def draw_in_strata(
    name: DesignName,
    members: Sequence[Int[np.ndarray, " _"]],
    labels: Int[np.ndarray, " h"],
    ratio: float,
) -> Drawer:
    """Return what draws so many labels among the members of each stratum, without replacement."""
    sizes = np.array([len(units) for units in members])
    stratum, share = np.repeat(np.arange(len(sizes)), labels), labels / sizes

    def draw(seed: int) -> Draw:
        rng = rng_of(seed, name)
        drawn = [
            units[rng.choice(len(units), count, replace=False, shuffle=False)]
            for units, count in zip(members, labels.tolist(), strict=True)
        ]
        # In random order, which says nothing of the strata.
        order = rng.permutation(len(stratum))
        return Draw(
            design=name,
            population=int(sizes.sum()),
            index=np.concatenate(drawn)[order],
            chance=share[stratum][order],
            largest_ratio=float(labels.sum() / sizes.sum() / share.min()),
            expected_ratio=ratio,
            columns={"stratum": stratum[order]},
            constants={"stratum_sizes": sizes},
        )

    return draw
