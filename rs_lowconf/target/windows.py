"""Resizes tiles to a model's input size, and its pixel predictions back."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.errors import ModelError


def resized(image: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Return the image resampled bilinearly to `side` pixels; unchanged if it has that side."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, (side, side), mode="bilinear", antialias=True)


def mirrored(image: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c s s"]:
    """Return a window of `side` pixels with the tile in it and its mirror images around.

    A fifth of the window lies before the tile, as for windows that slide over a scene with that
    overlap, or half of the margin if that is less. The border pixels are repeated, as in numpy's
    mode `symmetric`.

    Raises:
        ModelError: the tile is larger than the window.
    """
    size = image.shape[-1]
    if size > side:
        raise ModelError(
            f"tiles of {size} pixels do not fit into the target's window of {side}",
            remedy="set target.input_fit=resize, or use smaller tiles",
        )
    place = (torch.arange(side, device=image.device) - _margin(side, size)) % (2 * size)
    place = torch.minimum(place, 2 * size - 1 - place)
    return image[:, :, place][:, :, :, place]


def cut(window: Float[Tensor, "b k s s"], size: int) -> Float[Tensor, "b k h w"]:
    """Return the part of a `mirrored` window that is the tile of `size` pixels."""
    first = _margin(window.shape[-1], size)
    return window[:, :, first : first + size, first : first + size]


def _margin(side: int, size: int) -> int:
    return min(side // 5, (side - size) // 2)
