"""Reads the tile of a catalog row, and makes sure that it is still the one catalogued."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
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
from rs_lowconf.data.plain import read_plain
from rs_lowconf.data.tiles import TileError, nodata_mask, open_file, read_errors, unreal_pixels
from rs_lowconf.data.windows import classes_of, warped_mask
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.vocabulary import class_list, require, vocabulary

Numbers = NDArray[Any]

_HEADER_BYTES = 65_536
"""Of a file of a single tile, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """The digital numbers of a window."""

    pixels: Float[Tensor, "c h w"]
    nodata: Bool[Tensor, "h w"]
    sha256: str


def read_row(row: CatalogRow) -> Content:
    """Read a tile and check that nothing has changed.

    Raises:
        TileError: a file is missing or damaged, or the pixels are others than catalogued.
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
    # Step by step in place: a new array a step takes twice the time.
    own = content.pixels.index_select(0, torch.tensor(row.bands.index_of(bands.names)))
    own += row.bands.dn_offset
    own /= row.bands.scale
    return own.masked_fill_(content.nodata, 0.0) if content.nodata.any() else own


def read_content(row: CatalogRow) -> Content:
    """Read a tile, whatever its checksum.

    Raises:
        TileError: a file is missing or damaged.
    """
    _, _, height, width = row.window
    parts = []
    for index, file in enumerate(row.files):
        path = Path(file.href)
        with read_errors(path, "cannot be read"):
            opened = open_file(path)
            part = opened.read(
                window=_window(opened, row, first=index == 0),
                out_shape=(opened.count, height, width),
                resampling=Resampling.nearest,
            )
        parts.append((part, opened.nodata))
    return _content(parts)


def _plain_content(row: CatalogRow) -> Content | None:
    """Return a tile that is a whole plain file, None for any other.

    Its checksum, which was taken when GDAL read it, tells whether this was right.
    """
    top, left, height, width = row.window
    if len(row.files) > 1 or top or left:
        return None
    most_bytes = 4 * len(row.bands) * height * width + _HEADER_BYTES
    plain = read_plain(Path(row.files[0].href), most_bytes)
    if plain is None or plain.numbers.shape != (len(row.bands), height, width):
        return None
    return _content([(plain.numbers, plain.nodata)])


def _content(parts: Sequence[tuple[Numbers, float | None]]) -> Content:
    """Join the numbers of the files of a tile, given with what each declares as nodata."""
    pixels = [torch.from_numpy(numbers.astype(np.float32)) for numbers, _ in parts]
    nothing = [torch.from_numpy(~numbers.any(axis=0)) for numbers, _ in parts]
    # Zero is nodata only where all files of the image have it.
    empty = reduce(torch.logical_and, nothing)
    for own, none, (_, declared) in zip(pixels, nothing, parts, strict=True):
        if declared:
            empty = empty | (nodata_mask(own, declared) & ~none)
    return Content(
        pixels=torch.cat(pixels) if len(pixels) > 1 else pixels[0],
        nodata=empty,
        sha256=checksum([numbers for numbers, _ in parts]),
    )


def read_mask(row: CatalogRow, classes: Sequence[str]) -> Int[Tensor, "h w"]:
    """Return the class of every pixel as an index into `classes`, or `UNKNOWN`.

    Masks are brought onto the tile's grid by nearest neighbour.

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
        own = classes_of(
            values,
            path=path,
            covered=new,
            named=named,
            names=classes,
            nodata=nodata,
        )
        mask[new] = own[new]
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
