"""Small stand-ins that obey the protocols of rs_lowconf.types."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.types import TileBatch


class Tiles(Protocol):
    """What batches of tiles in memory have in common."""

    bands: BandSpec
    classes: tuple[str, ...]
    ids: tuple[str, ...]


def batch_of(
    tiles: Tiles,
    indices: Sequence[int],
    image: Tensor,
    *,
    label: Tensor | None = None,
    mask: Tensor | None = None,
) -> TileBatch:
    """Return some tiles of a source that holds all of them in memory."""
    chosen = list(indices)
    return TileBatch(
        image=image[chosen],
        bands=tiles.bands,
        ids=tuple(tiles.ids[i] for i in chosen),
        classes=tiles.classes,
        label=None if label is None else label[chosen],
        mask=None if mask is None else mask[chosen],
    )


class FakeSource:
    """Seeded tiles whose class sets the level of a stripe pattern of its own period.

    Classes differ in colour and in texture, clearly by default; `noise` (in reflectance)
    blurs them.
    """

    def __init__(
        self,
        bands: BandSpec,
        classes: tuple[str, ...],
        per_class: int,
        *,
        tile_size: int = 16,
        noise: float = 0.02,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        k, c = len(classes), len(bands)
        self.bands = bands
        self.classes = classes
        self.labels = torch.arange(k).repeat(per_class)
        self.ids = tuple(f"fake-{seed}-{i}" for i in range(k * per_class))
        column = torch.arange(tile_size)
        stripes = torch.stack([(column // (1 + i) % 2).float() for i in range(k)])  # k w
        # Colours depend on the class alone, not on `seed`: splits must look alike.
        colour = 0.1 + 0.05 * torch.cos(torch.outer(torch.arange(k), 1 + torch.arange(c)).float())
        clean = colour[:, :, None, None] + 0.1 * stripes[:, None, None, :]  # k c 1 w
        shape = (len(self.labels), c, tile_size, tile_size)
        self._image = clean[self.labels] + noise * torch.randn(shape, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        return batch_of(self, indices, self._image, label=self.labels)


class FakeMasks:
    """Seeded tiles with masks: each class has a colour of its own, alike in every band.

    The first class lies left of a border, the second right of it, where the border is drawn for
    each tile; the first pixel of every tile is `UNKNOWN`.
    """

    def __init__(self, bands: BandSpec, count: int, *, tile_size: int = 32, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.bands = bands
        self.classes: tuple[str, ...] = ("low", "high")
        self.ids = tuple(f"masked-{seed}-{i}" for i in range(count))
        border = torch.randint(
            tile_size // 4, tile_size - tile_size // 4, (count, 1, 1), generator=rng
        )
        right = (torch.arange(tile_size) >= border).expand(count, tile_size, tile_size)
        self.masks = right.long().clone()
        self.masks[:, 0, 0] = UNKNOWN
        noise = torch.randn(count, len(bands), tile_size, tile_size, generator=rng)
        self.image = 0.1 + 0.2 * right[:, None] + 0.02 * noise

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        return batch_of(self, indices, self.image, mask=self.masks)


class FakePatches:
    """Seeded tiles of 32 pixels in patches of three classes, each of a colour and with noise.

    The first row of every tile is nodata and of unknown class.
    """

    colours = torch.tensor([[0.05, 0.06, 0.3], [0.12, 0.1, 0.2], [0.5, 0.5, 0.5]])
    bands = BandSpec(names=("B04", "B03", "B08"), level="L2A")
    classes: tuple[str, ...] = ("background", "damage", "cloud")

    def __init__(self, tiles: int, *, seed: int = 0, noise: float = 0.02) -> None:
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), tiles * 16, True, generator=rng)
        self.masks = coarse.view(tiles, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
        image = self.colours[self.masks].movedim(3, 1)
        self.image = image + noise * torch.randn(image.shape, generator=rng)
        self.masks[:, 0] = UNKNOWN
        self.image[:, :, 0] = 0
        self.ids = tuple(f"fake-{seed}-{i}" for i in range(tiles))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        return batch_of(self, indices, self.image, mask=self.masks)


class FakeSegmenter:
    """Answers for every pixel by its brightness in the first band: over 0.2 is the second class."""

    differentiable = False
    pixelwise = True

    def __init__(self, bands: BandSpec, classes: tuple[str, ...] = ("low", "high")) -> None:
        self.bands = bands
        self.classes = classes

    def predict(self, image: Tensor) -> Tensor:
        high = (image[:, 0] > 0.2).float()
        return torch.stack([1 - high, high], 1).clamp(0.01, 0.99).log()
