"""Strata of error probability, with Neyman's allocation and a defensive share."""

import numpy as np
from jaxtyping import Int

from rs_lowconf.estimate.allocation import equal_spread
from rs_lowconf.estimate.anticipate import Cells
from rs_lowconf.estimate.strata import InStrata

STRATA = 10


class Stratified(InStrata):
    """Strata of equal sums of sqrt(g (1 - g)), along g.

    Equal sums of the spread are the rule of Dalenius and Hodges, "Minimum variance
    stratification", JASA 1959, with the spread of a 0-1 variable in the place of the root of a
    density.
    """

    name = "stratified"
    words = "strata of error probability, Neyman allocation with a defensive share"

    def strata(self, cells: Cells) -> Int[np.ndarray, " z"]:
        """Return ten strata at most, that of least g first."""
        order = np.argsort(cells.g, kind="stable")
        stratum = np.empty(len(order), dtype=np.int64)
        stratum[order] = equal_spread(cells.g[order], cells.size[order], STRATA)
        return stratum


DESIGN = Stratified()
