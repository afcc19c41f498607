"""How a source of tiles stores reflectance: its bands, digital numbers and sharpness.

A generator draws all bands as reflectance. Its tiles are compared with those of a source after
the same steps that made the source's files, all of them differentiable, so that the source's steps
need not be inverted: what JPEG loses is lost for both.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.settings import PictureData, Tiles

Chroma = Literal["full", "half"]

BYTE = 255.0

# ITU-R BT.601 in full range, as JFIF writes it.
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_FROM_YCC = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What a source's files keep of reflectance."""

    bands: BandSpec
    """The source's bands; their scale and offset give the numbers of its files."""
    eight_bits: bool = False
    """Whether the numbers are bytes: values outside 0 .. 255 were clipped."""
    chroma: Chroma = "full"
    """`half`: colour differences at half resolution, as in most JPEGs."""

    def __call__(
        self, image: Float[Tensor, "b c h w"], bands: BandSpec
    ) -> Float[Tensor, "b k h w"]:
        """Return reflectance as the source would show it, in the source's bands.

        Args:
            image: reflectance.
            bands: of `image`, the source's among them.
        """
        picked = image[:, list(bands.index_of(self.bands.names))]
        if not self.eight_bits:
            return picked
        numbers = clip_bytes(self.bands.numbers(picked))
        # A picture of one band, or with a fourth beside its colours, has no colour differences.
        if self.chroma == "half" and len(self.bands) == 3:
            numbers = clip_bytes(_half_chroma(numbers))
        return self.bands.reflectance(numbers)


def clip_bytes(numbers: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Clip numbers to 0 .. 255; outside, gradients pass if a step down them leads back inside.

    With the gradient of `torch.clamp`, which is zero outside, no critic that sees the clipped
    picture could pull a number back, and a generator's darkest and brightest pixels would drift.
    """
    result: Tensor = _ClipBytes.apply(numbers)
    return result


class _ClipBytes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(numbers)
        return numbers.clamp(0, BYTE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (numbers,) = ctx.saved_tensors
        outwards = ((numbers > BYTE) & (gradient < 0)) | ((numbers < 0) & (gradient > 0))
        return gradient.masked_fill(outwards, 0.0)


def rendering_of(section: Tiles, bands: BandSpec) -> Rendering:
    """Return how a source shows reflectance.

    Args:
        section: its settings.
        bands: of its tiles.
    """
    if isinstance(section, PictureData):
        return Rendering(bands=bands, eight_bits=True, chroma=section.chroma)
    return Rendering(bands=bands, eight_bits=False, chroma="full")


def _half_chroma(picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return a picture whose colour differences went through half the resolution.

    The mean of four pixels on writing, and on reading the triangle filter of libjpeg, which is
    bilinear interpolation.
    """
    to_ycc, from_ycc = (
        torch.tensor(rows, dtype=picture.dtype, device=picture.device)[:, :, None, None]
        for rows in (_TO_YCC, _FROM_YCC)
    )
    split = F.conv2d(picture, to_ycc)
    coarse = F.avg_pool2d(split[:, 1:], 2)
    again = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    return F.conv2d(torch.cat([split[:, :1], again], dim=1), from_ycc)
