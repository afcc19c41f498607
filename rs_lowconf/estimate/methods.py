"""All ways to an error rate: the designs, and prediction-powered inference of a uniform draw."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.design import Drawer, Method, MethodName
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_labels
from rs_lowconf.estimate.estimators import Estimate

_ONE_ERROR = 2 * 0.15865525393145707
"""Share of a normal law that is further from its mean than one standard error."""


class PredictionPoweredMean(Method):
    """PPI++ of a uniform draw, by the authors' own package.

    Angelopoulos et al., "PPI++: efficient prediction-powered inference", 2023.
    """

    name = "ppi"
    simple_random = True

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return what draws uniformly."""
        return DESIGNS["uniform"].prepare(pool, labels, defensive)

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the mean of lambda g over units without label, and of y - lambda g over labels.

        Angelopoulos et al. 2023, equations 2 and 7. Its interval lets the pool vary too. lambda is
        tuned on the same labels: right on average as their number grows, and too low where they
        hold few errors.

        Raises:
            DataError: not one label for each drawn unit.
            SettingsError: the draw is not uniform, or leaves less than two units without label.
            ModuleNotFoundError: ppi-python is not installed.
        """
        from ppi_py import ppi_mean_ci

        check_labels(draw, error)
        if not DESIGNS[draw.design].simple_random:
            raise SettingsError(f"PPI++ needs a uniform draw, this one is {draw.design}")
        if len(draw) > draw.population - 2:
            raise SettingsError("ppi of a pool that is labelled whole", remedy="use uniform")
        y, g = error.astype(float), pool.g[draw.index]
        rest = np.delete(pool.g, draw.index)
        # One standard error on either side; to ask for the estimate too takes twice as long.
        low, high = ppi_mean_ci(y, g, rest, alpha=_ONE_ERROR)
        return Estimate(
            value=float(np.squeeze((low + high) / 2)),
            variance=float(np.squeeze((high - low) / 2)) ** 2,
            weight=np.full(len(draw), 1 / len(draw)),
            wrong=error,
            largest_weight=1 / len(draw),
            corrects=True,
        )

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:  # noqa: ARG002 -- all are drawn uniformly
        """Return the variance at the best lambda (Angelopoulos et al. 2023, section 4)."""
        share, total = cells.share, cells.size.sum()
        centred = cells.g - share @ cells.g
        spread, joint = float(share @ centred**2), float(share @ (centred * cells.p))
        saved = joint**2 / (spread * (1 + labels / max(total - labels, 1))) if spread else 0.0
        variance = (cells.rate * (1 - cells.rate) - saved) * (1 / labels - 1 / total)
        return Expected.of(cells, variance, error_squares=variance, largest_weight=1 / labels)


PPI = PredictionPoweredMean()
METHODS: Mapping[MethodName, Method] = {method.name: method for method in (*DESIGNS.values(), PPI)}
