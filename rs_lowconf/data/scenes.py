"""Scenes: images and masks of any extent and CRS, matched by location through torchgeo.

An image is read on its native grid and never resampled; masks are warped onto it by nearest
neighbour. So each image of a data set keeps its CRS.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.windows import Window as FileWindow
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets import IntersectionDataset, RasterDataset
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.tiles import (
    FileProfile,
    TileError,
    band_names,
    band_spec,
    read_profile,
    read_window,
)
from rs_lowconf.data.windows import Reading, Window, require_place, warped_mask, whole
from rs_lowconf.outlines import box_around
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import MaskData

Query = tuple[slice, slice, slice]
"""Ranges in x, y and time, as torchgeo's samplers give them."""

#: In pixels: torchgeo's samplers skip an image of exactly the size of a window when #: rounding
#: makes it seem smaller.
_SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Where a mask lies."""

    profile: FileProfile
    box: BaseGeometry
    """Bounding box of the mask in degrees; in two parts across 180 degrees."""


def footprint(profile: FileProfile) -> Footprint:
    """Return where a file lies; it must be georeferenced."""
    assert profile.grid is not None  # noqa: S101  # `require_place`
    return Footprint(profile=profile, box=box_around(profile.grid, profile.height, profile.width))


class SceneImage(RasterDataset):
    """One image as a torchgeo dataset, read on its native grid."""

    def __init__(self, profile: FileProfile) -> None:
        """Index a file whose header has been read."""
        assert profile.grid is not None  # noqa: S101  # `require_place`
        self.profile = profile
        a, _, _, _, e, _ = profile.grid.transform
        super().__init__(
            paths=[str(profile.path)], crs=CRS.from_string(profile.grid.crs), res=(a, -e)
        )

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Return the pixels of a `Query`."""
        row, col, height, width = window_of(query, self.profile)
        pixels = read_window(self.profile.path, FileWindow(col, row, width, height))
        return {"image": torch.from_numpy(pixels.astype(np.float32))}


class SceneMasks(RasterDataset):
    """All masks as a torchgeo dataset in the CRS of an image, and read on its grid."""

    is_image = False

    def __init__(self, paths: Iterable[Path], image: SceneImage) -> None:
        """Index files whose headers have been read."""
        super().__init__(paths=[str(path) for path in paths], crs=image.crs, res=image.res)
        self._image = image.profile

    def __getitem__(self, query: Any) -> dict[str, Any]:
        """Return the values of a `Query` and where there are any; earlier files have priority."""
        row, col, height, width = window_of(query, self._image)
        left, top = _to_map(self._image, col, row)
        place = Affine(self.res[0], 0, left, 0, -self.res[1], top)
        values = np.zeros((height, width), dtype=np.int64)
        covered = np.zeros((height, width), dtype=np.bool_)
        x, y, _ = query
        for name in self.index.cx[x.start : x.stop, y.start : y.stop].filepath:
            path = Path(name)
            warped, there, _ = warped_mask(path, self.crs, place, height, width)
            new = there & ~covered
            values[new] = warped[new]
            covered |= new
        return {"mask": torch.from_numpy(values), "covered": torch.from_numpy(covered)}


class Scene:
    """A `Picture` whose masks are those that overlap it."""

    def __init__(self, image: Path, masks: Sequence[Footprint], settings: MaskData) -> None:
        """Read the header of an image and find its masks.

        Args:
            image: a file of `data.images`.
            masks: all masks.
            settings: of the data.

        Raises:
            TileError: the file cannot be read, no mask overlaps it, too little of it is covered, or
                its bands are not those of the settings.
        """
        self.name = image.relative_to(settings.images).with_suffix("").as_posix()
        self.profile = read_profile(image)
        require_place(self.profile)
        self.bands: BandSpec = band_spec(settings, self.profile)
        self.band_names = band_names(settings, self.profile)
        self._settings = settings
        self._image = SceneImage(self.profile)
        self._dataset, used = self._join(masks)
        self.mask_files = tuple(profile.path for profile in used)
        declared = {profile.nodata for profile in used}
        if len(declared) > 1:
            raise TileError(
                image,
                "is covered by masks with different nodata values "
                f"({', '.join(map(str, declared))})",
                expected="the same value in all",
            )
        self.mask_nodata = declared.pop()
        self._extent = self._covered_extent()

    def windows(self, *, training: bool) -> list[Window]:
        """Return windows at random positions for training, else a grid of windows.

        There are as many random windows as in a grid with the spacing `data.stride`.
        """
        side = self._settings.tile_size
        if not training:
            return self._grid(side)
        length = len(self._grid(self._settings.stride or side))
        # The sampler draws from the global state even when it is given a generator.
        with forked_rng(seed_of(self._settings.block_seed, "windows", self.name)):
            drawn = list(
                RandomGeoSampler(self._image, side - _SLACK, length, roi=self._extent.polygon)
            )
        places = [window_of(query, self.profile)[:2] for query in drawn]
        return [whole(row, col, side) for row, col in dict.fromkeys(places)]

    def read(self, window: Window) -> Reading:
        """Return digital numbers of a window and the masks on it."""
        side = self._settings.tile_size
        left, top = _to_map(self.profile, window.col, window.row)
        right, bottom = _to_map(self.profile, window.col + side, window.row + side)
        _, _, time = self._dataset.bounds
        sample = self._dataset[slice(left, right), slice(bottom, top), time]
        return sample["image"], sample["mask"].numpy(), sample["covered"].numpy()

    def _join(self, masks: Sequence[Footprint]) -> tuple[IntersectionDataset, list[FileProfile]]:
        """Return the image with the masks that overlap it, and their headers."""
        alone = TileError(
            self.profile.path,
            "is covered by no mask",
            expected="one in data.masks that overlaps it",
        )
        around = footprint(self.profile).box
        near = [mask.profile for mask in masks if mask.box.intersects(around)]
        if not near:
            raise alone
        laid = SceneMasks([mask.path for mask in near], self._image)
        try:
            joined = self._image & laid
        except RuntimeError as error:  # torchgeo raises this for no intersection
            raise alone from error
        # Newer releases of torchgeo do not say which files they joined.
        shared = shapely.intersection(laid.index.geometry.to_numpy(), joined.index.union_all())
        used = set(laid.index["filepath"][shapely.area(shared) > 0])
        return joined, [profile for profile in near if str(profile.path) in used]

    def _grid(self, stride: int) -> list[Window]:
        """Return windows from the lower left corner on.

        Windows that would extend beyond the upper or right edge are moved back inside; pixels that
        an earlier window covers are not fresh.
        """
        side, extent = self._settings.tile_size, self._extent
        windows = []
        for query in GridGeoSampler(self._image, side - _SLACK, stride, roi=extent.polygon):
            row, col, _, _ = window_of(query, self.profile)
            above = max(extent.top - row, 0)
            beyond = max(col + side - extent.right, 0)
            if max(above, beyond) < side:
                windows.append(
                    Window(
                        row=row + above,
                        col=col - beyond,
                        fresh_rows=(0, side - above),
                        fresh_cols=(beyond, side),
                    )
                )
        return windows

    def _covered_extent(self) -> "_Extent":
        """Return the rectangle around the masks, on whole pixels of the image."""
        side, profile = self._settings.tile_size, self.profile
        x_min, y_min, x_max, y_max = self._dataset.index.total_bounds
        left, top = _to_pixels(profile, x_min, y_max)
        right, bottom = _to_pixels(profile, x_max, y_min)
        first_row, first_col = max(math.floor(top + 0.01), 0), max(math.floor(left + 0.01), 0)
        last_row = min(math.ceil(bottom - 0.01), profile.height)
        last_col = min(math.ceil(right - 0.01), profile.width)
        if min(last_row - first_row, last_col - first_col) < side:
            raise TileError(
                profile.path,
                f"overlaps its masks by less than data.tile_size={side}",
                detail=f"{last_row - first_row} x {last_col - first_col} pixels",
                remedy="set a smaller data.tile_size",
            )
        corner = _to_map(profile, first_col, last_row)
        opposite = _to_map(profile, last_col, first_row)
        return _Extent(top=first_row, right=last_col, polygon=shapely.box(*corner, *opposite))


@dataclass(frozen=True, kw_only=True)
class _Extent:
    """The part of an image that masks may cover."""

    top: int
    """First row."""
    right: int
    """Last column, exclusive."""
    polygon: shapely.Polygon
    """In the CRS of the image."""


def window_of(query: Query, profile: FileProfile) -> tuple[int, int, int, int]:
    """Return first row and column, height and width of a query on an image's grid."""
    x, y, _ = query
    left, top = _to_pixels(profile, x.start, y.stop)
    right, bottom = _to_pixels(profile, x.stop, y.start)
    row, col = round(top), round(left)
    return row, col, round(bottom) - row, round(right) - col


def _to_map(profile: FileProfile, col: int, row: int) -> tuple[float, float]:
    """Return where the upper left corner of a pixel lies; images have north up."""
    assert profile.grid is not None  # noqa: S101  # `require_place`
    a, _, c, _, e, f = profile.grid.transform
    return c + a * col, f + e * row


def _to_pixels(profile: FileProfile, x: float, y: float) -> tuple[float, float]:
    """Return column and row of a point, in pixels from the upper left corner."""
    assert profile.grid is not None  # noqa: S101  # `require_place`
    a, _, c, _, e, f = profile.grid.transform
    return (x - c) / a, (y - f) / e
