"""Reads the tile of a catalog row, and makes sure that it is still the one catalogued."""

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
from rs_lowconf.data.tiles import TileError, nodata_mask, open_file, read_errors, unreal_pixels
from rs_lowconf.data.windows import classes_of, warped_mask
from rs_lowconf.types import UNKNOWN

Numbers = NDArray[Any]


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
    own = content.pixels[list(row.bands.index_of(bands.names))]
    scaled = (own + row.bands.dn_offset) / row.bands.scale
    return scaled.masked_fill(content.nodata, 0.0)


def read_content(row: CatalogRow) -> Content:
    """Read a tile, whatever its checksum.

    Raises:
        TileError: a file is missing or damaged.
    """
    _, _, height, width = row.window
    parts, pixels = [], []
    empty = torch.ones(height, width, dtype=torch.bool)
    declared = torch.zeros(height, width, dtype=torch.bool)
    for index, file in enumerate(row.files):
        path = Path(file.href)
        with read_errors(path, "cannot be read"):
            opened = open_file(path)
            part = opened.read(
                window=_window(opened, row, first=index == 0),
                out_shape=(opened.count, height, width),
                resampling=Resampling.nearest,
            )
        parts.append(part)
        own = torch.from_numpy(part.astype(np.float32))
        nothing = (own == 0).all(dim=0)
        # Zero is nodata only where all files of the image have it.
        empty &= nothing
        declared |= nodata_mask(own, opened.nodata) & ~nothing
        pixels.append(own)
    return Content(pixels=torch.cat(pixels), nodata=empty | declared, sha256=checksum(parts))


def read_mask(row: CatalogRow, classes: Sequence[str]) -> Int[Tensor, "h w"]:
    """Return the class of every pixel as an index into `classes`, or `UNKNOWN`.

    Masks are brought onto the tile's grid by nearest neighbour.

    Raises:
        TileError: a mask is missing or damaged, or holds a value without a class.
    """
    _, _, height, width = row.window
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
            named=row.mask_classes or {},
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
