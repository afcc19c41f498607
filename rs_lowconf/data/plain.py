"""Reads a file of a single tile without GDAL.

GDAL takes most of its time to open such a file: it looks for others beside it and asks PROJ about
its reference system. tifffile takes a quarter of that. Whether it read the same numbers is told by
their checksum, so this needs not know every kind of TIFF: what it cannot read, GDAL reads.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_ORIENTATION, _NODATA = 274, 42113
"""Tags of a TIFF."""

#: What tifffile raises at files that are damaged or beyond it.
_BEYOND = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error,
    tifffile.TiffFileError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainTiff:
    """What is in a file."""

    numbers: NDArray[Any]
    """Bands, rows and columns, as GDAL reads them."""

    nodata: float | None
    """The value declared as nodata, which may be NaN."""


def read_plain(path: Path, most_bytes: int) -> PlainTiff | None:
    """Return what is in a TIFF; None where it takes GDAL.

    That is one that is compressed, or has a mask, an alpha band or files beside it that say more.

    None, too, for what is no TIFF, is damaged or missing: GDAL knows what to say of it.

    Args:
        path: the file.
        most_bytes: larger files are not read.
    """
    try:
        beside = (path.with_name(f"{path.name}{end}") for end in (".aux.xml", ".msk"))
        if path.stat().st_size > most_bytes or any(other.exists() for other in beside):
            return None
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            plain = page.compression == 1 and page.photometric in (1, 2) and not page.is_tiled
            if not plain or _ORIENTATION in page.tags or page.nbytes > most_bytes:
                return None
            if any(page.extrasamples) or len(file.pages) > 1:
                return None
            numbers = page.asarray()
            declared = page.tags.get(_NODATA)
            nodata = None if declared is None else float(str(declared.value).strip("\0 "))
    except _BEYOND:
        return None
    if numbers.ndim == 2:
        numbers = numbers[None]
    elif page.planarconfig == 1:
        numbers = np.moveaxis(numbers, -1, 0)
    native = numbers.dtype.newbyteorder("=")
    return PlainTiff(numbers=np.ascontiguousarray(numbers, native), nodata=nodata)
