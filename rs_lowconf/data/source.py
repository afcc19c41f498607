"""A split of labelled tiles, read into memory."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import (
    Split,
    TileFile,
    list_files,
    open_dataset,
    require_classes,
    require_every_class,
)
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.pictures import open_pictures
from rs_lowconf.data.tiles import (
    TileError,
    problems_of,
    read_profile,
    read_tile,
    require_same_bands,
    used_bands,
)
from rs_lowconf.grid import Grid
from rs_lowconf.settings import LabelledTiles, PictureData, Tiles

log = logging.getLogger(__name__)


def open_split(settings: Tiles, split: Split) -> MemorySource:
    """Read a split into memory, its bands selected and ordered by name.

    Raises:
        SettingsError: these data have no class per tile.
        DataError: a tile cannot be used (unless `skip_bad`), or a class has none.
    """
    data = require_classes(settings)
    if isinstance(data, PictureData):
        return open_pictures(data, split)
    return _open_tiles(data, split)


def _open_tiles(settings: LabelledTiles, split: Split) -> MemorySource:
    dataset = open_dataset(settings, split)
    classes = tuple(dataset.classes)
    listed = list_files(dataset)
    require_every_class(listed, classes, split, settings.root)
    bands: BandSpec | None = None
    pixels = np.empty((len(listed), 0, 0, 0), dtype=np.uint16)
    files: list[TileFile] = []
    grids: list[Grid | None] = []
    for index, file in enumerate(listed):
        try:
            tile = read_tile(settings, dataset, index, read_profile(file.path))
            used = used_bands(settings, file.path, tile.bands)
            require_same_bands(file.path, used, bands or used)
            for problem in problems_of(tile, settings.tile_size, settings.max_nodata):
                raise problem
        except TileError as error:
            if not settings.skip_bad:
                raise
            log.warning("left out: %s", error)
            continue
        if bands is None:
            bands = used
            side = settings.tile_size
            pixels = np.empty((len(listed), len(bands), side, side), dtype=np.uint16)
        chosen = tile.select(bands).numpy()
        if pixels.dtype == np.uint16 and not _fits_uint16(chosen):
            pixels = pixels.astype(np.float32)
        pixels[len(files)] = chosen
        files.append(file)
        grids.append(tile.profile.grid)
    require_every_class(files, classes, split, settings.root)
    for line in dataset.left_out.lines():
        log.warning("left out: %s", line)
    assert bands is not None  # noqa: S101  # every class has a tile
    return MemorySource(
        pixels=pixels[: len(files)],
        bands=bands,
        classes=classes,
        ids=tuple(file.tile_id for file in files),
        labels=[file.label for file in files],
        grids=tuple(grids),
    )


def _fits_uint16(pixels: NDArray[Any]) -> bool:
    return bool(pixels.min() >= 0 and pixels.max() <= 65535 and (pixels == np.rint(pixels)).all())
