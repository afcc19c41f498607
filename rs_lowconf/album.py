"""The album: real tiles inside the package, which a search shows where the user has no data.

A folder of each class with GeoTIFFs of all 13 bands at their true location, training tiles of the
embedded generator. They are for people to compare with, too few to train or to measure on.
"""

from pathlib import Path

import numpy as np

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.errors import DataError
from rs_lowconf.places import EMBEDDED
from rs_lowconf.review.geotiff import read_tile

ALBUM = EMBEDDED / "album"


def open_album(folder: Path = ALBUM) -> MemorySource:
    """Read the tiles of an album into memory, classes and tiles in the order of their names.

    Raises:
        DataError: there are none, or they differ in bands or level.
    """
    paths = sorted(folder.glob("*/*.tif"))
    if not paths:
        raise DataError(f"no tiles in {folder}", remedy="install rs_lowconf again")
    tiles = [read_tile(path) for path in paths]
    bands = {BandSpec(names=tile.names, level=tile.level) for tile in tiles}
    if len(bands) > 1:
        raise DataError(f"the tiles in {folder} differ in bands or level")
    classes = tuple(sorted({path.parent.name for path in paths}))
    return MemorySource(
        pixels=np.stack([tile.pixels for tile in tiles]),
        bands=bands.pop(),
        classes=classes,
        ids=tuple(path.relative_to(folder).with_suffix("").as_posix() for path in paths),
        labels=[classes.index(path.parent.name) for path in paths],
        grids=tuple(tile.grid for tile in tiles),
    )
