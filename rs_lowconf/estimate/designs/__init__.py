"""The sampling designs: each is the file of its name in this folder.

To add one, write its file and put its name in `rs_lowconf.settings.DesignName`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import get_args

import numpy as np
from jaxtyping import Bool

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.design import Design
from rs_lowconf.estimate.draws import Draw, Pool, check_labels
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.settings import DesignName

DESIGNS: Mapping[DesignName, Design] = {
    name: import_module(f"{__name__}.{name}").DESIGN for name in get_args(DesignName)
}


def estimate(draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
    """Return the estimate of the error rate that belongs to the design of the draw.

    Raises:
        DataError: not one label for each drawn unit, or a pool of another size.
    """
    check_labels(draw, error)
    if len(pool) != draw.population:
        raise DataError(
            f"a draw from {draw.population} units with a pool of {len(pool)}",
            remedy="give the pool that it was drawn from",
        )
    return DESIGNS[draw.design].estimate(draw, error, pool)
