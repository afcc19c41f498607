"""Labelled tiles in memory, as digital numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.grid import Grid
from rs_lowconf.types import TileBatch


class MemorySource:
    """A `TileSource` that holds digital numbers: 2.9 GB for the 27,000 tiles of EuroSAT."""

    def __init__(
        self,
        *,
        pixels: NDArray[Any],
        bands: BandSpec,
        classes: tuple[str, ...],
        ids: tuple[str, ...],
        labels: Sequence[int],
        grids: tuple[Grid | None, ...],
    ) -> None:
        """Keep tiles that have been checked.

        Args:
            pixels: digital numbers, n c h w.
            bands: of the channel axis.
            classes: the class list.
            ids: name of each tile, unique.
            labels: class of each tile, as an index of `classes`.
            grids: where each tile lies.
        """
        self.bands = bands
        self.classes = classes
        self.ids = ids
        self.labels: Int[Tensor, " n"] = torch.tensor(labels)
        self.grids = grids
        self._pixels = pixels

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` as reflectance."""
        chosen = np.asarray(indices, dtype=np.int64)
        image = torch.from_numpy(self._pixels[chosen].astype(np.float32))
        return TileBatch(
            image=self.bands.reflectance(image),
            bands=self.bands,
            ids=tuple(self.ids[i] for i in chosen),
            classes=self.classes,
            label=self.labels[torch.from_numpy(chosen)],
            grids=tuple(self.grids[i] for i in chosen),
        )
