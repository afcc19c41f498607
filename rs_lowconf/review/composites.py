"""Three bands shown as red, green and blue, always with the same stretch.

A stretch fitted to each tile would hide exactly what a reviewer looks for: a generated tile that is
too bright or too flat. So all samples of a level have the ranges of its real tiles; whoever wants
all of them brighter has a key for that in the plugin and on the page. The contact sheet's lookup
tables apply the same stretch in GDAL.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import UInt8, UInt16

from rs_lowconf.bands import COMPOSITES, BandSpec, Composite, Level
from rs_lowconf.bands import composites_of as allowed_by
from rs_lowconf.errors import DataError, ReviewError

Range = tuple[int, int]
"""Reflectance x 10000 that is shown black, and that shown at full brightness."""

RANGES: Final[Mapping[Level, Mapping[str, Range]]] = {
    "L1C": {
        "B02": (600, 2600),
        "B03": (400, 2700),
        "B04": (200, 3000),
        "B08": (100, 5000),
        "B8A": (100, 5400),
        "B12": (0, 3300),
    },
    "L2A": {
        "B02": (100, 1400),
        "B03": (150, 1650),
        "B04": (50, 1950),
        "B08": (0, 4000),
        "B8A": (0, 4000),
        "B12": (0, 2600),
    },
}
"""Rounded percentiles of real tiles without clouds: 0.1 % and 99.5 % of EuroSAT's (L1C), 0.1 % and
99 % of scenes in Spain (L2A), where bare rock is brighter than all else."""


def ranges_of(bands: BandSpec, composite: Composite) -> tuple[Range, Range, Range]:
    """Return the ranges of a composite's bands, as red, green and blue."""
    red, green, blue = (RANGES[bands.level][name] for name in composite.bands)
    return red, green, blue


def composites_of(bands: BandSpec) -> tuple[Composite, ...]:
    """Return the composites whose bands the data have, true colour first.

    Raises:
        ReviewError: the data lack the bands of all composites.
    """
    found = allowed_by(bands)
    if not found:
        raise ReviewError(
            f"bands {', '.join(bands.names)} cannot be shown in colour",
            expected=" or ".join(", ".join(each.bands) for each in COMPOSITES.values()),
            remedy="use data with the bands of at least one composite",
        )
    return found


def stretch(
    pixels: UInt16[np.ndarray, "c h w"], bands: BandSpec, composite: Composite
) -> UInt8[np.ndarray, "h w 3"]:
    """Return bytes 1..255, linear within `ranges_of` and clipped outside.

    Byte 0 is left for the gaps of the contact sheet, so that a black pixel is not taken
    for a gap and shown transparent.
    """
    if len(pixels) != len(bands):
        raise DataError(f"{len(pixels)} channels", expected=f"{len(bands)} ({bands.names})")
    chosen = pixels[list(bands.index_of(composite.bands))].astype(np.float64)
    low, high = np.array(ranges_of(bands, composite), dtype=np.float64).T[:, :, None, None]
    bright = np.floor(1 + (chosen - low) / (high - low) * 254 + 0.5)
    return np.moveaxis(np.clip(bright, 1, 255).astype(np.uint8), 0, -1)
