"""Reads a file of a single tile without GDAL.

GDAL takes most of its time to open such a file: it looks for others beside it and asks PROJ about
its reference system. tifffile takes a quarter of that. A checksum shows whether it read the same
numbers, so this need not support every kind of TIFF: GDAL reads the rest.
"""

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_ORIENTATION, _NODATA = 274, 42113
"""Tags of a TIFF."""

#: Raised by tifffile for files that are damaged or unsupported.
_BEYOND = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error,
    tifffile.TiffFileError,
)  # fmt: skip


def _of_interest(record: logging.LogRecord) -> bool:
    """Return whether a message is of something that is not read here in another way."""
    return "GDAL_NODATA" not in record.getMessage()


# It warns of a nodata of 0.0 in files of whole numbers, which GDAL takes for 0, as we do.
logging.getLogger("tifffile").addFilter(_of_interest)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainTiff:
    """Contents of a file."""

    numbers: NDArray[Any]
    """Bands, rows and columns, as GDAL reads them."""

    nodata: float | None
    """The value declared as nodata, which may be NaN."""


def read_plain(path: Path, most_bytes: int) -> PlainTiff | None:
    """Return the contents of a TIFF; None if it needs GDAL.

    GDAL is needed for a TIFF that is compressed, or has a mask, an alpha band or sidecar files.
    None, too, for files that are missing, damaged or not TIFFs: GDAL reports those.

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
