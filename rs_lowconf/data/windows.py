"""Windows of one size on an image with a mask, and reading them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import rasterio
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as FileWindow
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.tiles import (
    FileProfile,
    Tile,
    TileError,
    channels_in,
    read_errors,
    unreal_pixels,
    used_pixels,
)
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import MaskData

Reading = tuple[Float[Tensor, "c h w"], Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]
"""Digital numbers, values of the mask, and where there is a mask at all."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square of `data.tile_size` pixels inside an image."""

    row: int
    """Row of its upper left pixel in the image."""
    col: int
    fresh_rows: tuple[int, int]
    """First and last (exclusive) of its rows that no earlier window covers."""
    fresh_cols: tuple[int, int]


@runtime_checkable
class Picture(Protocol):
    """An image with its mask."""

    name: str
    """The path below `data.images`, without suffix."""
    profile: FileProfile
    """Of the image."""
    bands: BandSpec
    """Bands of the image that are used, in the order of the file."""
    band_names: tuple[str, ...]
    """Names of all bands of the file, also of those that are not used."""
    mask_nodata: float | None
    """The value that the mask declares as nodata."""
    mask_files: tuple[Path, ...]
    """Where several cover a pixel, the first counts."""

    def windows(self, *, training: bool) -> list[Window]:
        """Return where to cut tiles: for training, or so that each pixel counts once."""
        ...

    def read(self, window: Window) -> Reading:
        """Return what lies in a window.

        Raises:
            TileError: a file is truncated.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What was read in a window."""

    tile: Tile
    mask: Int[Tensor, "h w"]
    """Class index of each pixel, or `UNKNOWN`."""


def grid_windows(height: int, width: int, side: int, stride: int) -> list[Window]:
    """Return windows that cover an area of at least `side` squared, row by row.

    The last window of a row or column is moved back inside; its pixels that the previous window
    covers are not fresh.
    """
    return [
        Window(row=row, col=col, fresh_rows=rows, fresh_cols=cols)
        for (row, rows), (col, cols) in product(
            _line(height, side, stride), _line(width, side, stride)
        )
    ]


def whole(row: int, col: int, side: int) -> Window:
    """Return a window whose pixels are all fresh."""
    return Window(row=row, col=col, fresh_rows=(0, side), fresh_cols=(0, side))


def grid_at(profile: FileProfile, row: int, col: int) -> Grid:
    """Return where a window of a file lies whose upper left pixel is at `row` and `col`."""
    place = profile.grid
    assert place is not None  # noqa: S101  # `require_place`
    a, b, c, d, e, f = place.transform
    return Grid(crs=place.crs, transform=(a, b, c + a * col + b * row, d, e, f + d * col + e * row))


def content_of(picture: Picture, window: Window, settings: MaskData) -> Content:
    """Read a window: nodata pixels and those that are not fresh have an unknown class.

    Raises:
        TileError: a file is truncated, holds NaN or infinity, or the mask a value that
            `data.mask_classes` does not name.
    """
    pixels, values, covered = picture.read(window)
    height, width = values.shape
    pixels, nodata = used_pixels(
        pixels,
        picture.profile,
        picture.bands,
        channels_in(picture.band_names),
        FileWindow(window.col, window.row, width, height),
    )
    unreal = unreal_pixels(pixels, nodata)
    if unreal:
        raise TileError(
            picture.profile.path, "has NaN or infinity", detail=f"{unreal} pixels of a window"
        )
    classes = classes_of(
        values,
        path=picture.profile.path,
        covered=covered,
        named=settings.mask_classes,
        names=class_names(settings),
        nodata=picture.mask_nodata,
    )
    mask = torch.from_numpy(classes)
    fresh = torch.zeros_like(nodata)
    fresh[slice(*window.fresh_rows), slice(*window.fresh_cols)] = True
    tile = Tile(profile=picture.profile, bands=picture.bands, pixels=pixels, nodata=nodata)
    return Content(tile=tile, mask=mask.masked_fill(nodata | ~fresh, UNKNOWN))


def class_names(settings: MaskData) -> tuple[str, ...]:
    """Return the classes of pixels, in the order in which `data.mask_classes` names them."""
    names = settings.mask_classes.values()
    return tuple(dict.fromkeys(name for name in names if name is not None))


def require_place(profile: FileProfile) -> None:
    """Require that a file is georeferenced and north-up.

    Raises:
        TileError: it does not.
    """
    if profile.grid is None:
        raise TileError(
            profile.path,
            "has no georeference",
            expected="a CRS and a transform: masks are matched and tiles are split by location",
        )
    _, b, _, d, e, _ = profile.grid.transform
    if b or d or e > 0:
        raise TileError(profile.path, "is rotated or stored south-up", expected="a north-up image")


def require_one_band(mask: FileProfile) -> None:
    """Require that a mask has one class per pixel; an alpha band may say where it is valid.

    Raises:
        TileError: it has more bands, none of which may be chosen silently.
    """
    if mask.count - (mask.alpha is not None) != 1:
        raise TileError(mask.path, f"has {mask.count} bands", expected="one, of class values")


def require_size(profile: FileProfile, side: int) -> None:
    """Require that a tile fits into a file.

    Raises:
        TileError: it does not.
    """
    if min(profile.height, profile.width) < side:
        raise TileError(
            profile.path,
            f"is smaller than data.tile_size={side}",
            detail=f"{profile.height} x {profile.width} pixels",
            remedy="set a smaller data.tile_size",
        )


def _line(length: int, side: int, stride: int) -> list[tuple[int, tuple[int, int]]]:
    """Return start and fresh part of the windows along one axis."""
    starts = [*range(0, length - side, stride), length - side]
    ends = [0, *(start + side for start in starts)]
    return [
        (start, (max(end - start, 0), side)) for start, end in zip(starts, ends[:-1], strict=True)
    ]


def classes_of(
    values: Int[np.ndarray, "h w"],
    *,
    path: Path,
    covered: Bool[np.ndarray, "h w"],
    named: Mapping[int, str | None],
    names: Sequence[str],
    nodata: float | None,
) -> Int[np.ndarray, "h w"]:
    """Return the class of each pixel as an index into `names`, or `UNKNOWN`.

    Args:
        values: of the mask.
        path: for messages.
        covered: where there is a mask at all.
        named: the class of each value, None where a value means unknown.
        names: all classes.
        nodata: the value that the mask declares as nodata.

    Raises:
        TileError: a value is not in `named`.
    """
    mask = np.full(values.shape, UNKNOWN, dtype=np.int64)
    strange = covered.copy()
    for value, name in named.items():
        here = values == value
        strange &= ~here
        if name is not None:
            mask[here & covered] = names.index(name)
    strange &= (values != UNKNOWN) & (values != nodata)
    if strange.any():
        found = np.unique(values[strange]).tolist()
        raise TileError(
            path,
            f"has a mask with {'value' if len(found) == 1 else 'values'} "
            f"{', '.join(map(str, found[:5]))}",
            detail=f"{int(strange.sum())} pixels of a window",
            expected=f"some of {', '.join(map(str, named))} (data.mask_classes)",
            remedy="name it there, or map it to null for unknown",
        )
    return mask


def warped_mask(
    path: Path, crs: Any, place: Affine, height: int, width: int
) -> tuple[Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"], float | None]:
    """Warp a mask onto a grid by nearest neighbour.

    Returns:
        Its values, where it has any, and the value that it declares as nodata.

    Raises:
        TileError: it cannot be read, or holds fractions.
    """
    with (
        read_errors(path, "cannot be read"),
        rasterio.open(path) as file,
        WarpedVRT(
            file,
            crs=crs,
            transform=place,
            height=height,
            width=width,
            resampling=Resampling.nearest,
            src_nodata=None,
            add_alpha=True,
        ) as warped,
    ):
        values, alpha, nodata = warped.read(1), warped.read(2), file.nodata
    return mask_values(path, values), alpha > 0, nodata


def mask_values(path: Path, read: NDArray[np.generic]) -> Int[np.ndarray, "h w"]:
    """Return the values of a mask as whole numbers; NaN is unknown.

    Raises:
        TileError: there are other numbers.
    """
    if np.issubdtype(read.dtype, np.integer):
        return read.astype(np.int64)
    known = np.where(np.isnan(read), UNKNOWN, read)
    if (known != np.rint(known)).any():
        raise TileError(
            path, f"contains {read.dtype} with fractions", expected="one class value per pixel"
        )
    return known.astype(np.int64)
