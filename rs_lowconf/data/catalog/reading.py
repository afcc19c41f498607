"""Reads the tile of a catalog row, and verifies that it has not changed since."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window, from_bounds
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.catalog.rows import CatalogRow
from rs_lowconf.data.nodata import Part, no_data
from rs_lowconf.data.plain import read_plain
from rs_lowconf.data.tiles import TileError, masked_pixels, open_file, read_errors, unreal_pixels
from rs_lowconf.data.windows import classes_of, warped_mask
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.vocabulary import class_list, require, vocabulary

Numbers = NDArray[Any]

_HEADER_BYTES = 65_536
"""Largest header of a file of a single tile."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """The digital numbers of a window."""

    pixels: Float[Tensor, "c h w"]
    nodata: Bool[Tensor, "h w"]
    sha256: str
    bits: int
    """Bits per digital number in the first file."""


def read_row(row: CatalogRow) -> Content:
    """Read a tile and check that nothing has changed.

    Raises:
        TileError: a file is missing or damaged, or the pixels differ from those catalogued.
    """
    path = Path(row.files[0].href)
    content = _plain_content(row)
    if content is None or content.sha256 != row.sha256:
        content = read_content(row)
    if content.sha256 != row.sha256:
        raise TileError(
            path,
            "has changed since it was catalogued",
            detail=f"the checksum of tile {row.tile_id} differs",
            remedy="build the catalog again",
        )
    unreal = unreal_pixels(content.pixels, content.nodata)
    if unreal:
        raise TileError(path, "has NaN or infinity", detail=f"{unreal} pixels of {row.tile_id}")
    return content


def reflectance(row: CatalogRow, content: Content, bands: BandSpec) -> Float[Tensor, "c h w"]:
    """Return reflectance in the order of `bands`; nodata pixels are 0.

    Raises:
        DataError: the tile lacks a band.
    """
    channels = torch.tensor(row.bands.index_of(bands.names))
    pixels = row.bands.reflectance(content.pixels.index_select(0, channels))
    return pixels.masked_fill_(content.nodata, 0.0) if content.nodata.any() else pixels


def read_content(row: CatalogRow) -> Content:
    """Read a tile without checking its checksum.

    Raises:
        TileError: a file is missing or damaged.
    """
    _, _, height, width = row.window
    parts = []
    for index, file in enumerate(row.files):
        path = Path(file.href)
        with read_errors(path, "cannot be read"):
            opened = open_file(path)
            where = {"window": _window(opened, row, first=index == 0)}
            shape = (len(file.channels), height, width)
            indexes = [channel + 1 for channel in file.channels]
            numbers = opened.read(indexes, out_shape=shape, resampling=Resampling.nearest, **where)
            masked = masked_pixels(
                opened,
                file.channels,
                out_shape=(height, width),
                resampling=Resampling.nearest,
                **where,
            )
        parts.append((numbers, opened.nodata, masked))
    return _content(parts, row)


def _plain_content(row: CatalogRow) -> Content | None:
    """Return a tile that is a whole plain file, None for any other.

    The checksum, taken when GDAL read the tile, shows whether this read the same numbers.
    """
    top, left, height, width = row.window
    if len(row.files) > 1 or top or left:
        return None
    (file,) = row.files
    most_bytes = 4 * len(file.bands) * height * width + _HEADER_BYTES
    plain = read_plain(Path(file.href), most_bytes)
    if plain is None or plain.numbers.shape != (len(file.bands), height, width):
        return None
    return _content([(plain.numbers[list(file.channels)], plain.nodata, None)], row)


def _content(
    parts: Sequence[tuple[Numbers, float | None, Bool[Tensor, "h w"] | None]], row: CatalogRow
) -> Content:
    """Join the numbers of the files of a tile.

    Args:
        parts: numbers of the bands that are used, each with the nodata value of its file and the
            pixels that its mask makes invalid.
        row: of the tile.
    """
    files = [
        Part(
            pixels=torch.from_numpy(numbers.astype(np.float32)),
            nodata=[value for value in (declared, row.nodata) if value is not None],
            masked=masked,
        )
        for numbers, declared, masked in parts
    ]
    pixels = [part.pixels for part in files]
    return Content(
        pixels=torch.cat(pixels) if len(pixels) > 1 else pixels[0],
        nodata=no_data(files, row.bands.dn_offset),
        sha256=checksum([numbers for numbers, _, _ in parts]),
        bits=8 * parts[0][0].dtype.itemsize,
    )


def read_mask(row: CatalogRow, classes: Sequence[str]) -> Int[Tensor, "h w"]:
    """Return the class of every pixel as an index into `classes`, or `UNKNOWN`.

    Masks are warped onto the tile's grid by nearest neighbour.

    Raises:
        DataError: the masks have a class that is not among `classes`.
        TileError: a mask is missing or damaged, or holds a value without a class.
    """
    _, _, height, width = row.window
    named = row.mask_classes or {}
    require(
        vocabulary("the catalog's masks", named.values()),
        class_list("the generator", classes),
        remedy="build the catalog with other data.mask_classes",
    )
    mask = np.full((height, width), UNKNOWN, dtype=np.int64)
    covered = np.zeros((height, width), dtype=np.bool_)
    for href in row.masks:
        path = Path(href)
        values, there, nodata = warped_mask(
            path, row.grid.crs, Affine(*row.grid.transform), height, width
        )
        new = there & ~covered
        classes_here = classes_of(
            values,
            path=path,
            covered=new,
            named=named,
            names=classes,
            nodata=nodata,
        )
        mask[new] = classes_here[new]
        covered |= new
    return torch.from_numpy(mask)


def checksum(parts: Sequence[Numbers]) -> str:
    """Return the SHA-256 of digital numbers, file by file: type, shape and bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype.newbyteorder('<').str} {part.shape}".encode())
        little = part.astype(part.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).data)
    return digest.hexdigest()


def _window(opened: Any, row: CatalogRow, *, first: bool) -> Window:
    """Return the tile's window in one of its files, whose pixels may be coarser."""
    top, left, height, width = row.window
    if first:
        return Window(left, top, width, height)
    (west, north), _, (east, south), _ = row.corners
    return from_bounds(west, south, east, north, opened.transform)
