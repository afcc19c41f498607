"""What a generator draws tiles of: classes of whole tiles, or masks of classes of pixels.

A search gets the index of a condition. It need not know whether that is a class or a real mask in
a bank: such a mask is ground truth by construction and is never searched.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.gan.tiles import some_rows
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource, TileBatch

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class TileClasses:
    """Classes of whole tiles."""

    names: tuple[str, ...]
    """One per condition."""

    pixelwise: ClassVar[bool] = False
    """Whether a condition gives each pixel a class."""
    masks: ClassVar[None] = None
    pixel_classes: ClassVar[tuple[str, ...]] = ()
    """Classes of pixels: none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes that the conditions are made of: themselves."""
        return self.names

    @property
    def tile_classes(self) -> tuple[str, ...]:
        """Return the classes of whole tiles."""
        return self.names

    def mask(self, index: int) -> None:
        """Return nothing: a class of a whole tile has no mask."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskBank:
    """Real masks with names."""

    masks: UInt8[Tensor, "n h w"]
    """Class index of each pixel, or `UNKNOWN`."""
    names: tuple[str, ...]
    """One per mask, unique: the id of the tile it comes from."""
    classes: tuple[str, ...]
    """Classes of pixels."""

    pixelwise: ClassVar[bool] = True
    """Whether a condition gives each pixel a class."""
    tile_classes: ClassVar[tuple[str, ...]] = ()
    """Classes of whole tiles: none."""

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

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """Return the classes of pixels."""
        return self.classes

    def mask(self, index: int) -> UInt8[Tensor, "h w"]:
        """Return a mask."""
        return self.masks[index]

    def at(self, label: Int[Tensor, " b"]) -> Int[Tensor, "b h w"]:
        """Return masks by index, on the device of the indices."""
        return self.masks[label.cpu()].to(label.device).long()


Condition = TileClasses | MaskBank
"""What a generator draws tiles of, one of which is an index."""


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
    chosen = some_rows(len(names), len(names) if most is None else most, seed_of(seed, "mask bank"))
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
    chosen = some_rows(len(source), most, seed_of(seed, "main classes"))
    tiles = source.batch(chosen.tolist())
    label = main_class(masks_of(tiles), len(source.classes))
    return tiles.image[label >= 0], label[label >= 0]


def main_class(mask: Integer[Tensor, "b h w"], classes: int) -> Int[Tensor, " b"]:
    """Return the most frequent class of each mask, -1 if no pixel is known."""
    pixels = mask.flatten(1).long()
    counts = torch.stack([(pixels == index).sum(1) for index in range(classes)], dim=1)
    return torch.where(counts.any(1), counts.argmax(1), -1)
