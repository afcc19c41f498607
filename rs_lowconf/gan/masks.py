"""Real masks as conditions, so that a search of latents need not know about masks.

A mask is ground truth by construction and is never searched. Instead of a class index, the search
gets the index of a real mask in a bank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.errors import DataError
from rs_lowconf.gan.mask_losses import agreement
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator, realness
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource, TileBatch

_BATCH = 64
_WORST = 0.1
"""Share of a tile's pixels that count as its worst part."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskBank:
    """Real masks with names."""

    masks: UInt8[Tensor, "n h w"]
    """Class index of each pixel, or `UNKNOWN`."""
    names: tuple[str, ...]
    """One per mask, unique: the id of the tile it comes from."""
    classes: tuple[str, ...]
    """Classes of pixels."""

    def __post_init__(self) -> None:
        """Check names, and that every mask has a known pixel.

        Raises:
            DataError: a name comes twice, a mask has an unknown class or no known pixel.
        """
        if not len(self.masks) == len(self.names) == len(set(self.names)):
            raise DataError(f"{len(self.masks)} masks have {len(set(self.names))} different names")
        known = self.masks != UNKNOWN
        if (known & (self.masks >= len(self.classes))).any():
            raise DataError(
                f"a mask contains {int(self.masks[known].max())}",
                expected=f"indices of {len(self.classes)} classes, or {UNKNOWN}",
            )
        empty = [
            n for n, is_known in zip(self.names, known.any(2).any(1), strict=True) if not is_known
        ]
        if empty:
            raise DataError(f"no pixel of mask {empty[0]} is known")

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.masks)

    def at(self, label: Int[Tensor, " b"]) -> Int[Tensor, "b h w"]:
        """Return masks by index, on the device of the indices."""
        return self.masks[label.cpu()].to(label.device).long()


def bank_of(source: MaskSource, *, most: int | None = None, seed: int = 0) -> MaskBank:
    """Return the masks of a source, in its order; those without a known pixel are left out.

    Args:
        source: of tiles with masks.
        most: if there are more, this many random ones.
        seed: of the choice.

    Raises:
        DataError: there is no mask.
    """
    masks, names = [], []
    for first in range(0, len(source), _BATCH):
        tiles = source.batch(range(first, min(first + _BATCH, len(source))))
        mask = masks_of(tiles)
        known = (mask != UNKNOWN).any(2).any(1)
        masks.append(mask[known].to(torch.uint8))
        names += [
            name for name, is_known in zip(tiles.ids, known.tolist(), strict=True) if is_known
        ]
    if not names:
        raise DataError("there is no mask with a known pixel")
    chosen = torch.arange(len(names))
    if most is not None and len(names) > most:
        rng = torch.Generator().manual_seed(seed_of(seed, "mask bank"))
        chosen = torch.randperm(len(names), generator=rng)[:most].sort().values
    return MaskBank(
        masks=torch.cat(masks)[chosen],
        names=tuple(names[i] for i in chosen.tolist()),
        classes=source.classes,
    )


def masks_of(tiles: TileBatch) -> Int[Tensor, "b h w"]:
    """Return the masks of tiles.

    Raises:
        DataError: they have none.
    """
    if tiles.mask is None:
        raise DataError(f"tile {tiles.ids[0]} has no mask")
    return tiles.mask


def main_classes(
    source: MaskSource, most: int, seed: int
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """Return tiles and the most frequent class of each tile's known pixels.

    Args:
        source: of tiles with masks.
        most: if there are more, this many random ones; those without a known pixel are left out.
        seed: of the choice.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "main classes"))
    chosen = torch.randperm(len(source), generator=rng)[:most].sort().values.tolist()
    tiles = source.batch(chosen)
    label = main_class(masks_of(tiles), len(source.classes))
    return tiles.image[label >= 0], label[label >= 0]


def main_class(mask: Integer[Tensor, "b h w"], classes: int) -> Int[Tensor, " b"]:
    """Return the most frequent class of each mask, -1 if no pixel is known."""
    pixels = mask.flatten(1).long()
    counts = torch.stack([(pixels == index).sum(1) for index in range(classes)], dim=1)
    return torch.where(counts.any(1), counts.argmax(1), -1)


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
        self.masks = bank.masks
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


def by_mask(source: MaskSource) -> LabelledTiles:
    """Return tiles with one class per tile, named by the tile's id like its mask.

    A gate is calibrated on these with `MaskCritic.on(bank_of(source))`: classes match by name.
    """
    return LabelledTiles(source, torch.arange(len(source)), source.ids)
