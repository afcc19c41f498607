"""The normalisation of a classifier's input, measured on its training split."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.types import TileSource

#: Added to every principal variance of the standardised bands, whose mean is 1: directions
#: with less than that are mostly sensor noise and are not amplified to unit variance.
_RIDGE = 0.03

_BATCH = 64


def band_statistics(source: TileSource) -> tuple[Float[Tensor, " c"], Float[Tensor, "c c"]]:
    """Return mean and covariance of the bands over all pixels of all tiles, in float64."""
    batches = range(0, len(source), _BATCH)
    images = (source.batch(range(i, min(i + _BATCH, len(source)))).image for i in batches)
    pixels = (image.transpose(0, 1).flatten(1) for image in images)  # c b*h*w
    return pixel_statistics(pixels, len(source.bands))


def pixel_statistics(
    parts: Iterable[Float[Tensor, "c n"]], bands: int
) -> tuple[Float[Tensor, " c"], Float[Tensor, "c c"]]:
    """Return mean and covariance of spectra that come in parts, in float64."""
    count = 0
    total = torch.zeros(bands, dtype=torch.float64)
    products = torch.zeros(bands, bands, dtype=torch.float64)
    for part in parts:
        pixels = part.double()
        count += pixels.shape[1]
        total += pixels.sum(1)
        products += pixels @ pixels.T
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def decorrelation(covariance: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """Return the matrix that scales bands to deviation 1 and then decorrelates them.

    The decorrelation is the symmetric (ZCA) one, so that channel i still represents band i. A
    constant band counts as having a deviation of 1e-4 (one digital number).
    """
    std = covariance.diagonal().clamp_min(1e-8).sqrt()
    variance, direction = torch.linalg.eigh(covariance / torch.outer(std, std))
    gain = 1.0 / (variance.clamp_min(0.0) + _RIDGE).sqrt()
    matrix: Tensor = (direction * gain) @ direction.T / std
    return matrix
