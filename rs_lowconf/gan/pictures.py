"""Generated tiles as pictures, as a source of pictures would have stored them.

Comparing files also compares how they were made, so generated tiles go through the
same steps as real ones: the source's rendering and, where it holds JPEGs, one JPEG pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from rs_lowconf.bands import BandSpec, Composite
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import BYTE, Rendering
from rs_lowconf.gan.tiles import rounded
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

_BATCH = 40


@dataclass(frozen=True, kw_only=True)
class StoredView:
    """Tiles as a source of three-band pictures stores them."""

    rendering: Rendering
    """Of the source."""

    def real(
        self, image: Float[Tensor, "b c h w"], bands: BandSpec
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Return tiles of the source with the bytes of its files."""
        shown = self.rendering.bands
        return _bytes(shown.numbers(image[:, list(bands.index_of(shown.names))]))

    def generated(
        self, image: Float[Tensor, "b c h w"], bands: BandSpec
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Return generated tiles as the source would have stored them.

        Colour differences at half resolution indicate JPEG: the tiles go through one pass of
        quality 100, like EuroSAT's.
        """
        pictures = self.real(image, bands)
        return through_jpeg(pictures) if self.rendering.chroma == "half" else pictures


@dataclass(frozen=True, kw_only=True)
class CompositeView:
    """Three bands of multispectral tiles, in the range that pretrained networks are given."""

    composite: Composite

    def real(
        self, image: Float[Tensor, "b c h w"], bands: BandSpec
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Return the three bands as bytes; brighter pixels are clipped."""
        picked = image[:, list(bands.index_of(self.composite.bands))]
        return _bytes(picked * (BYTE / self.composite.network_white))

    generated = real


View = StoredView | CompositeView


def _bytes(numbers: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    rounded = numbers.round().clamp(0, BYTE).to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).cpu().numpy()


def through_jpeg(pictures: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Return pictures after one JPEG pass, quality 100 and 4:2:0, as EuroSAT's went through."""
    stored = []
    for picture in pictures:
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=100, subsampling="4:2:0")
        with Image.open(file) as again:
            stored.append(np.asarray(again))
    return np.stack(stored) if stored else pictures


def random_tiles(
    generator: ClassGenerator, label: int, seed: int
) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yield batches of tiles of one class endlessly, as digital numbers of the generator's bands.

    Args:
        generator: draws them.
        label: the class.
        seed: of the latents; the same tiles for the same seed.
    """
    for number in count():
        label_of_all = torch.full((_BATCH,), label)
        image = sample(generator, label_of_all, seed_of(seed, "judged", label, number))
        yield rounded(image, generator.bands)


def draw_pictures(
    generator: ClassGenerator, counts: Int[Tensor, " k"], view: View, seed: int
) -> tuple[UInt8[np.ndarray, "n h w 3"], Int[Tensor, " n"]]:
    """Return unfiltered random tiles as pictures, class by class, and their classes.

    Args:
        generator: draws them.
        counts: tiles wanted of each class.
        view: how they are shown.
        seed: of the latents.
    """
    parts = []
    for label, wanted in enumerate(counts.tolist()):
        stream = random_tiles(generator, label, seed)
        for first in range(0, wanted, _BATCH):
            image = next(stream)[: wanted - first]
            parts.append(view.generated(image, generator.bands))
    return np.concatenate(parts), torch.arange(len(counts)).repeat_interleave(counts)


def real_pictures(source: TileSource, view: View) -> UInt8[np.ndarray, "n h w 3"]:
    """Return the tiles of a source as pictures."""
    parts = torch.split(torch.arange(len(source)), _BATCH)
    return np.concatenate(
        [view.real(source.batch(part.tolist()).image, source.bands) for part in parts]
    )
