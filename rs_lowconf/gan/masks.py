"""Generator and critic of tiles with masks, as a search of latents knows those of classes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.errors import DataError
from rs_lowconf.gan.condition import MaskBank
from rs_lowconf.gan.mask_losses import agreement
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator, realness
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.types import MaskSource, TileBatch

ALL_TILES = ("all tiles",)
"""The class of tiles with masks, for what does not look at masks."""
_WORST = 0.1
"""Share of a tile's pixels that count as its worst part."""


class MaskedGenerator:
    """A `TileGenerator` whose classes are the masks of a bank."""

    def __init__(self, generator: MaskGenerator, bank: MaskBank) -> None:
        """Draw tiles of the bank's masks.

        Args:
            generator: trained; it is frozen and set to draw, not to train.
            bank: of the generator's classes and tile size.

        Raises:
            DataError: the bank is of other classes or of another size.
        """
        _check(bank, generator.classes, generator.tile_size)
        self.bands = generator.bands
        self.classes = bank.names
        self.tile_size = generator.tile_size
        self.latent_parts = generator.latent_parts
        self.latent_dim = generator.latent_dim
        self.pixel_classes = bank.classes
        self.bank = bank
        self.generator = generator.eval().requires_grad_(requires_grad=False)

    def __call__(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance for latents and indices of masks."""
        image: Tensor = self.generator(z, self.bank.at(label))
        return image


class MaskCritic:
    """A `Critic` whose classes are the masks of a bank."""

    def __init__(self, discriminator: MaskDiscriminator, bank: MaskBank) -> None:
        """Judge tiles of the bank's masks.

        Args:
            discriminator: trained; it is frozen.
            bank: of the discriminator's classes and tile size.

        Raises:
            DataError: the bank is of other classes or of another size.
        """
        _check(bank, discriminator.classes, discriminator.tile_size)
        self.bands = discriminator.bands
        self.classes = bank.names
        self.bank = bank
        self.discriminator = discriminator.eval().requires_grad_(requires_grad=False)

    def on(self, bank: MaskBank) -> "MaskCritic":
        """Return the same critic for other masks, such as those of held-out tiles."""
        return MaskCritic(self.discriminator, bank)

    def realism(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the log-odds of not being generated: mean of the whole tile and its worst part.

        The mean over known pixels and the mean over their least real tenth count equally.
        """
        known = (self.bank.at(label) != UNKNOWN).flatten(1)
        real = realness(self._logits(image)).flatten(1)
        count = known.sum(1)
        ordered = real.masked_fill(~known, torch.inf).sort(1).values
        place = torch.arange(known.shape[1], device=known.device)
        worst = place < (_WORST * count).ceil().clamp_min(1)[:, None]
        low = ordered.where(worst, 0.0).sum(1) / worst.sum(1)
        return ((real * known).sum(1) / count + low) / 2

    def agreement(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the share of known pixels whose likeliest real class is the mask's."""
        return agreement(self._logits(image), self.bank.at(label))

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the means of the discriminator's features at an eighth and a sixteenth."""
        still = torch.zeros_like(image[:1])
        coarse = self.discriminator.encode(self.discriminator.components(image, still))[2:]
        return torch.cat([F.leaky_relu(features, 0.2).mean((2, 3)) for features in coarse], dim=1)

    def _logits(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        still = torch.zeros_like(image[:1])
        logits: Tensor = self.discriminator(self.discriminator.components(image, still))
        return logits


def _check(bank: MaskBank, classes: tuple[str, ...], tile_size: int) -> None:
    side = (tile_size, tile_size)
    if bank.classes != classes or bank.masks.shape[1:] != side:
        raise DataError(
            f"masks of {', '.join(bank.classes)} and {tuple(bank.masks.shape[1:])} pixels",
            expected=f"{', '.join(classes)} and {side} pixels, which the generator knows",
        )


class LabelledTiles:
    """A view of tiles with masks as a `TileSource`, for code that needs labels."""

    def __init__(
        self, source: MaskSource, labels: Int[Tensor, " n"], classes: tuple[str, ...]
    ) -> None:
        """Show the tiles of `source` with one label each; their masks are left out."""
        self.bands = source.bands
        self.classes = classes
        self.ids = source.ids
        self.labels = labels
        self._source = source

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices`."""
        chosen = list(indices)
        tiles = self._source.batch(chosen)
        return replace(tiles, mask=None, classes=self.classes, label=self.labels[chosen])


def alike(source: MaskSource) -> LabelledTiles:
    """Return tiles with masks as tiles of one class."""
    return LabelledTiles(source, torch.zeros(len(source), dtype=torch.long), ALL_TILES)


def by_mask(source: MaskSource) -> LabelledTiles:
    """Return tiles with one class per tile, named by the tile's id like its mask.

    A gate is calibrated on these with `MaskCritic.on(bank_of(source))`: classes match by name.
    """
    return LabelledTiles(source, torch.arange(len(source)), source.ids)
