"""Chips: small images and their masks on the same grid, matched by name."""

from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window as FileWindow

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import plain_suffix
from rs_lowconf.data.tiles import (
    FileProfile,
    TileError,
    band_names,
    band_spec,
    read_profile,
    read_window,
)
from rs_lowconf.data.windows import (
    Reading,
    Window,
    grid_windows,
    mask_values,
    require_one_band,
    require_place,
    require_size,
)
from rs_lowconf.settings import MaskData


class Chip:
    """A `Picture` whose mask has the same name and the same grid."""

    def __init__(self, image: Path, masks: dict[str, Path], settings: MaskData) -> None:
        """Read the headers of an image and of its mask.

        Args:
            image: a file of `data.images`.
            masks: file by name, see `chip_name`.
            settings: of the data.

        Raises:
            TileError: a file cannot be read, has no mask or a mask on another grid, or has other
                bands than the settings say.
        """
        self.name = image.relative_to(settings.images).with_suffix("").as_posix()
        self.profile = read_profile(image)
        require_place(self.profile)
        self.bands: BandSpec = band_spec(settings, self.profile)
        self.band_names = band_names(settings, self.profile)
        mask = masks.get(chip_name(image, settings.image_name))
        if mask is None:
            due = settings.mask_name.replace("*", chip_name(image, settings.image_name))
            raise TileError(
                image, "has no mask", detail=due, expected="a mask of each image in data.masks"
            )
        header = read_profile(mask)
        _require_same_grid(self.profile, header)
        self.mask_nodata = header.nodata
        self.mask_files: tuple[Path, ...] = (mask,)
        self._side = settings.tile_size
        self._stride = settings.stride or settings.tile_size
        require_size(self.profile, self._side)

    def windows(self, *, training: bool) -> list[Window]:
        """Return a grid of windows; training tiles may overlap and keep their whole masks."""
        stride = self._stride if training else self._side
        grid = grid_windows(self.profile.height, self.profile.width, self._side, stride)
        side = (0, self._side)
        if not training:
            return grid
        return [Window(row=w.row, col=w.col, fresh_rows=side, fresh_cols=side) for w in grid]

    def read(self, window: Window) -> Reading:
        """Return digital numbers and mask of a window of the files."""
        part = FileWindow(window.col, window.row, self._side, self._side)
        pixels = read_window(self.profile.path, part).astype(np.float32)
        (mask,) = self.mask_files
        values = mask_values(mask, read_window(mask, part)[0])
        return torch.from_numpy(pixels), values, np.ones(values.shape, dtype=np.bool_)


def chip_name(path: Path, pattern: str) -> str:
    """Return the part of a file's name that matches the * of a pattern."""
    before, _, after = plain_suffix(pattern).partition("*")
    return plain_suffix(path.name).removeprefix(before).removesuffix(after)


def _require_same_grid(image: FileProfile, mask: FileProfile) -> None:
    size, found = (image.height, image.width), (mask.height, mask.width)
    require_one_band(mask)
    if size != found:
        raise TileError(
            mask.path,
            f"is {found[0]} x {found[1]} pixels",
            expected=f"{size[0]} x {size[1]}, as {image.path.name}",
            remedy="set data.kind=scenes for masks on another grid",
        )
    if mask.grid is not None and image.grid is not None:
        pixel = abs(image.grid.transform[0])
        off = np.subtract(mask.grid.transform, image.grid.transform)
        if mask.grid.crs != image.grid.crs or np.abs(off).max() > pixel / 10:
            raise TileError(
                mask.path,
                f"is not on the grid of {image.path.name}",
                expected="the same CRS and transform",
                remedy="set data.kind=scenes for masks on another grid",
            )
