"""The true classes of tiles, from labels or from masks."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rs_lowconf.masks import UNKNOWN
from rs_lowconf.types import MaskSource, TileBatch, TileSource

Source = TileSource | MaskSource
"""Tiles with labels, or with masks."""


def truth_of(batch: TileBatch) -> Int[Tensor, "b *pixels"]:
    """Return the class index of each tile, or of each pixel (or `UNKNOWN`) of tiles with masks."""
    truth = batch.label if batch.mask is None else batch.mask
    assert truth is not None  # noqa: S101  # sources have one or the other
    return truth


def is_known(truth: Int[Tensor, "b *pixels"]) -> Bool[Tensor, "b *pixels"]:
    """Return where a class is known: in some pixels, and in all tiles with labels."""
    return truth != UNKNOWN if truth.ndim > 1 else torch.ones_like(truth, dtype=torch.bool)


def in_order(source: Source, size: int = 64) -> Iterator[TileBatch]:
    """Yield all tiles in batches of `size`; the last may be smaller."""
    for first in range(0, len(source), size):
        yield source.batch(range(first, min(first + size, len(source))))
