"""Strata of predicted classes, for accuracies and areas.

Olofsson et al., "Good practices for estimating area and assessing accuracy of land change",
Remote Sensing of Environment 148, 2014, section 3.
"""

import numpy as np
from jaxtyping import Int

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.anticipate import Cells
from rs_lowconf.estimate.strata import InStrata


class ByClass(InStrata):
    """Each class has two labels at least, so that its accuracy has a standard error."""

    name = "by_class"
    words = "strata of predicted classes (Olofsson 2014)"
    strata_are_classes = True

    def strata(self, cells: Cells) -> Int[np.ndarray, " z"]:
        """Return the predicted classes."""
        if cells.predicted is None:
            raise DataError(
                "the pool has no predicted classes", remedy="give them, or use design stratified"
            )
        return cells.predicted


DESIGN = ByClass()
