"""Three bands shown as red, green and blue, always with the same stretch.

A stretch fitted to each tile would hide exactly what a reviewer looks for: a generated tile that is
too bright or too flat. The contact sheet's lookup tables apply the same stretch in GDAL.
"""

import numpy as np
from jaxtyping import UInt8, UInt16

from rs_lowconf.bands import COMPOSITES, BandSpec, Composite
from rs_lowconf.bands import composites_of as allowed_by
from rs_lowconf.errors import DataError, ReviewError


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
    """Return bytes 1..255, linear from 0 to `composite.white_number` and clipped above.

    Byte 0 is left for the gaps of the contact sheet, so that a black pixel is not taken
    for a gap and shown transparent.
    """
    if len(pixels) != len(bands):
        raise DataError(f"{len(pixels)} channels", expected=f"{len(bands)} ({bands.names})")
    chosen = pixels[list(bands.index_of(composite.bands))].astype(np.float64)
    bright = np.floor(1 + chosen * (254 / composite.white_number) + 0.5)
    return np.moveaxis(np.minimum(bright, 255).astype(np.uint8), 0, -1)
