"""Which pixels are nodata, as the data set declares it.

A file may declare it by a value, by a mask inside or beside it, or by an alpha band; a catalog of
files may name a value, too. Without a mask, areas of 0 in every band are taken for borders that
were never filled, while single pixels of 0 are dark water whose reflectance was clipped at 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.ndimage import label
from torch import Tensor

FILL_PIXELS = 9
"""This many connected pixels of 0 in every band are not dark water."""

_NEIGHBOURS = [[1, 1, 1]] * 3
_ULPS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Pixels of one file of an image in a window, and what it declares about their validity."""

    pixels: Float[Tensor, "c h w"]
    """Digital numbers of the bands that are used."""
    nodata: Sequence[float]
    """Values declared as nodata, which may be NaN; usually one or none."""
    masked: Bool[Tensor, "h w"] | None
    """Pixels that a mask or an alpha band makes invalid; None without either."""


def no_data(parts: Sequence[Part], dn_offset: float) -> Bool[Tensor, "h w"]:
    """Return which pixels are nodata.

    These are the masked ones and those with a declared value in any band. But 0 counts only where
    all bands of all files have it, since a single 0 is a dark pixel: where 0 is declared, or an
    offset is to be added to the numbers (products keep 0 for nodata then), every such pixel
    counts; else areas of `FILL_PIXELS` do, unless there is a mask.
    """
    zero = torch.stack([~part.pixels.any(dim=0) for part in parts]).all(dim=0)
    values = [value for part in parts for value in part.nodata]
    empty = torch.zeros_like(zero)
    if 0 in values or dn_offset != 0:
        empty = zero
    elif all(part.masked is None for part in parts):
        empty = _areas(zero)
    for part in parts:
        if part.masked is not None:
            empty = empty | part.masked
        for value in part.nodata:
            if value != 0:
                empty = empty | equal_to(part.pixels, value).any(dim=0)
    return empty


def equal_to(pixels: Float[Tensor, "c h w"], value: float) -> Bool[Tensor, "c h w"]:
    """Return which numbers equal a declared value as in GDAL: within two units of rounding.

    Tags hold text, such as -3.40282e+38 for the lowest float32.
    """
    if math.isnan(value):
        return pixels.isnan()
    number = torch.tensor(value, dtype=torch.float32)
    allowed = torch.finfo(torch.float32).eps * (pixels + number).abs() * _ULPS
    return (pixels == number) | ((pixels - number).abs() < allowed)


def _areas(zero: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    if int(zero.sum()) < FILL_PIXELS:
        return torch.zeros_like(zero)
    areas, _ = label(zero.numpy(), _NEIGHBOURS)
    numbered = torch.from_numpy(areas).long()
    return zero & (torch.bincount(numbered.flatten())[numbered] >= FILL_PIXELS)
