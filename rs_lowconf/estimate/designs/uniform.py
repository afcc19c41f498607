"""Simple random sampling without replacement: every set of units has the same chance."""

import numpy as np
from jaxtyping import Bool, Int

from rs_lowconf.estimate.allocation import LEAST
from rs_lowconf.estimate.anticipate import Cells
from rs_lowconf.estimate.design import Drawer, Terms
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_request
from rs_lowconf.estimate.strata import InStrata, draw_in_strata


class Uniform(InStrata):
    """The design that the others are compared with: one stratum, the pool."""

    name = "uniform"
    words = "simple random sampling without replacement"
    simple_random = True

    def strata(self, cells: Cells) -> Int[np.ndarray, " z"]:
        """Return the same for all."""
        return np.zeros(len(cells.g), dtype=np.int64)

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return what draws; there is nothing to allocate."""
        check_request(len(pool), labels, defensive, LEAST)
        return draw_in_strata(self.name, [np.arange(len(pool))], np.array([labels]), 1.0)

    def terms(self, draw: Draw, error: Bool[np.ndarray, " m"]) -> Terms:
        """Return what each label says of the units left, and the errors found before it.

        Its mean given the labels before is the error rate, without replacement too (Waudby-Smith
        and Ramdas 2024, section 5).
        """
        left = draw.population - np.arange(len(draw))
        found = np.cumsum(error) - error
        return Terms(value=(found + error * left) / draw.population, bound=1.0)


DESIGN = Uniform()
