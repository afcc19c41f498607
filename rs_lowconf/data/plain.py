"""Reads a small TIFF whose numbers lie in its file as they are, without GDAL.

To open such a file takes GDAL twenty times as long as its numbers take to read: it looks for other
files beside it, asks PROJ about its reference system, and keeps every strip of every band.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
"""How a file begins, and the order of its bytes."""

_VALUES = {2: "s", 3: "H", 4: "I"}
"""Types of a tag's values, by struct's letters."""

_NUMBERS = {(8, 1): "u1", (16, 1): "u2", (32, 1): "u4", (16, 2): "i2", (32, 2): "i4", (32, 3): "f4"}
"""Types of pixels, by bits and sample format."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS = 256, 257, 258, 259, 262, 273
_ORIENTATION, _BANDS, _SIZES, _PLANAR, _TILES, _FORMAT = 274, 277, 279, 284, 322, 339
_NODATA = 42113


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainTiff:
    """What is in a file."""

    numbers: NDArray[Any]
    """Bands, rows and columns, as GDAL reads them."""

    nodata: float | None
    """The value declared as nodata, which may be NaN."""


def read_plain(path: Path, most_bytes: int) -> PlainTiff | None:
    """Return what is in a TIFF; None where it takes GDAL: compressed or tiled, with an .aux.xml.

    None, too, for what is no TIFF, is damaged or missing: GDAL knows what to say of it.

    Args:
        path: the file.
        most_bytes: larger files are not read.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > most_bytes:
                return None
            data = file.read()
        order = _ORDERS[data[:4]]
        tags = _tags(data, order)
        plain = (
            tags.get(_COMPRESSION, (1,)) == (1,)
            and tags[_PHOTOMETRIC] in ((1,), (2,))
            and tags.get(_ORIENTATION, (1,)) == (1,)
            and _TILES not in tags
            and not path.with_name(f"{path.name}.aux.xml").exists()
        )
        if not plain:
            return None
        (bands,), (height,), (width,) = tags.get(_BANDS, (1,)), tags[_HEIGHT], tags[_WIDTH]
        (bits,), (form,) = set(tags[_BITS]), set(tags.get(_FORMAT, (1,)))
        strips = zip(tags[_OFFSETS], tags[_SIZES], strict=True)
        content = b"".join(data[offset : offset + size] for offset, size in strips)
        numbers = np.frombuffer(content, order + _NUMBERS[bits, form])
        declared = tags.get(_NODATA, (b"",))[0].rstrip(b"\0 ")
        nodata = float(declared) if declared else None
        if tags.get(_PLANAR, (1,)) == (1,):
            whole = numbers.reshape(height, width, bands).transpose(2, 0, 1)
        else:
            whole = numbers.reshape(bands, height, width)
    except (OSError, KeyError, ValueError, struct.error):
        return None
    native = whole.dtype.newbyteorder("=")
    return PlainTiff(numbers=np.ascontiguousarray(whole, native), nodata=nodata)


def _tags(data: bytes, order: str) -> dict[int, tuple[Any, ...]]:
    """Return the values of the tags of the first image, of which text is one value.

    Raises:
        struct.error: the file ends before them.
    """
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, first)
    tags = {}
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
        if kind in _VALUES:
            values = f"{order}{length}{_VALUES[kind]}"
            place = entry + 8
            if struct.calcsize(values) > 4:
                (place,) = struct.unpack_from(f"{order}I", data, place)
            tags[tag] = struct.unpack_from(values, data, place)
    return tags
