"""A split of labelled tiles in memory, in the numbers of the files."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import (
    Split,
    TileFile,
    band_spec,
    class_names,
    list_files,
    open_dataset,
    problems_of,
    read_pixels,
    read_profile,
)
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings
from rs_lowconf.types import Grid, TileBatch

log = logging.getLogger(__name__)


class MemorySource:
    """A `TileSource` that holds digital numbers: 2.9 GB for the 27,000 tiles of EuroSAT."""

    def __init__(
        self,
        *,
        pixels: "np.ndarray[Any, Any]",
        bands: BandSpec,
        classes: tuple[str, ...],
        files: tuple[TileFile, ...],
        grids: tuple[Grid | None, ...],
    ) -> None:
        """Hold tiles that have been checked.

        Args:
            pixels: digital numbers, n c h w.
            bands: what the channel axis holds.
            classes: the class list.
            files: the file of each tile.
            grids: where each tile lies.
        """
        self.bands = bands
        self.classes = classes
        self.ids = tuple(file.tile_id for file in files)
        self.labels: Int[Tensor, " n"] = torch.tensor([file.label for file in files])
        self.grids = grids
        self._pixels = pixels

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` as reflectance: digital numbers are divided here only."""
        chosen = np.asarray(indices, dtype=np.int64)
        image = torch.from_numpy(self._pixels[chosen].astype(np.float32))
        return TileBatch(
            image=(image + self.bands.dn_offset) / self.bands.scale,
            bands=self.bands,
            ids=tuple(self.ids[i] for i in chosen),
            classes=self.classes,
            label=self.labels[torch.from_numpy(chosen)],
            grids=tuple(self.grids[i] for i in chosen),
        )


def open_split(settings: DataSettings, split: Split) -> MemorySource:
    """Read a split into memory, its bands selected and ordered by name.

    Raises:
        DataError: a tile cannot be used (unless `skip_bad`), or none is left.
    """
    dataset = open_dataset(settings, split)
    bands: BandSpec | None = None
    tiles, files, grids = [], [], []
    for index, file in list_files(settings, dataset):
        try:
            profile = read_profile(file.path)
            spec = band_spec(settings, profile)
            used = spec if settings.bands is None else spec.select(settings.bands)
            bands = bands or used
            if len(used) != len(bands) or set(used.names) != set(bands.names):
                raise DataError(
                    f"{file.path} has bands {' '.join(used.names)}",
                    expected=f"{' '.join(bands.names)}, as in the files before it",
                )
            pixels = read_pixels(dataset, index, file.path)
            problems = problems_of(pixels, settings)
            if problems:
                raise DataError(
                    f"{file.path} {', '.join(problems)}",
                    remedy="see `rslow data check`; data.skip_bad=true leaves such files out",
                )
        except DataError as error:
            if not settings.skip_bad:
                raise
            log.warning("left out: %s", error)
            continue
        # Selecting by the first file's names reorders files that name their bands otherwise.
        tiles.append(_compact(pixels[list(spec.index_of(bands.names))].numpy()))
        files.append(file)
        grids.append(profile.grid)
    if bands is None or not tiles:
        raise DataError(f"the {split} split of {settings.root} has no usable tile")
    return MemorySource(
        pixels=np.stack(tiles),
        bands=bands,
        classes=class_names(settings, dataset),
        files=tuple(files),
        grids=tuple(grids),
    )


def _compact(pixels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Store whole numbers in two bytes; a mixed data set is stacked as floats."""
    if pixels.min() >= 0 and pixels.max() <= 65535 and (pixels == np.rint(pixels)).all():
        return pixels.astype(np.uint16)
    return pixels.astype(np.float32)
