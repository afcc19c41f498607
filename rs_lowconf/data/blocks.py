"""Splits land by blocks, so that no two splits share a location or neighbouring ones.

Blocks are the cells of one grid over the whole earth, whatever the files' own coordinate
reference systems: two dates or two products of a location lie in the same block.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from rasterio.warp import transform

from rs_lowconf.data.files import SPLITS, Split
from rs_lowconf.errors import DataError
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import MaskData

COMMON_CRS = "EPSG:6933"
"""EASE-Grid 2.0, an equal-area grid in metres. Away from latitude 30 its cells are stretched on the
ground from north to south or from east to west, but keep their area."""

_HALF_AROUND = 17_367_530.445
"""Easting of 180 degrees in that grid, in metres."""

Block = tuple[int, int]
"""Column and row of a cell of the grid."""


def blocks_at(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], crs: str, size: float
) -> list[Block]:
    """Return the block of each point.

    Args:
        x: in the unit of `crs`.
        y: in the unit of `crs`.
        crs: authority code or WKT.
        size: side of a block in metres.
    """
    east, north = transform(crs, COMMON_CRS, x, y)
    columns, rows = np.floor(np.array([east, north]) / size).astype(int).tolist()
    return list(zip(columns, rows, strict=True))


def blocks_apart(blocks: Sequence[Block], size: float) -> int:
    """Return the largest distance between blocks, in blocks, the shorter way around the earth.

    Args:
        blocks: at least one.
        size: side of a block in metres.
    """
    columns, rows = (int(extent) for extent in np.ptp(np.array(blocks), axis=0))
    return max(rows, min(columns, 2 * math.ceil(_HALF_AROUND / size) - columns))


def assign(counts: Mapping[Block, int], settings: MaskData) -> dict[Block, Split]:
    """Return the split of each block.

    Blocks are visited in an order that depends on their location and the seed, and each goes to the
    split that lacks most tiles: shares are met to within one block, whatever the order of the
    files.

    Args:
        counts: tiles of each block; 0 where tiles only overlap it.
        settings: shares and seed.

    Raises:
        DataError: there are too few blocks for every split to get one.
    """
    total = sum(counts.values())
    held_out = settings.val_share + settings.test_share
    lacking: dict[Split, float] = {
        "train": (1 - held_out) * total,
        "val": settings.val_share * total,
        "test": settings.test_share * total,
    }
    empty = {split for split, share in lacking.items() if share > 0}
    splits: dict[Block, Split] = {}
    for block in sorted(counts, key=lambda block: seed_of(settings.block_seed, *block)):
        split = max(SPLITS, key=lambda name: lacking[name])
        splits[block] = split
        lacking[split] -= counts[block]
        if counts[block]:
            empty.discard(split)
    if empty:
        raise DataError(
            f"the data lie in {len(counts)} blocks of {settings.block_size:g} m, which leaves no "
            f"block for {' and '.join(sorted(empty))}",
            expected="several blocks for each split",
            remedy="set a smaller data.block_size, or another data.block_seed",
        )
    return splits
