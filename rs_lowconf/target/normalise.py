"""The normalisation of a network's input, measured on its training split."""

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.target.truth import Source, in_order, is_known, truth_of

#: Added to every principal variance of the standardised bands, whose mean is 1: directions
#: with less than that are mostly sensor noise and are not amplified to unit variance.
_RIDGE = 0.03


def band_statistics(source: Source) -> tuple[Float[Tensor, " c"], Float[Tensor, "c c"]]:
    """Return mean and covariance of the bands over all pixels of all tiles, in float64.

    Pixels without a class in a mask do not count: nodata would shift every mean.
    """
    bands, count = len(source.bands), 0
    total = torch.zeros(bands, dtype=torch.float64)
    products = torch.zeros(bands, bands, dtype=torch.float64)
    for batch in in_order(source):
        known = is_known(truth_of(batch))
        pixels = batch.image.transpose(0, 1)[:, known].flatten(1).double()  # c n
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
