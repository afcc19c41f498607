"""Between reflectance and what the networks see: fixed linear maps computed from training tiles."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.bands import RESOLUTION_M, BandSpec

_PIXELS = 200_000


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralBasis:
    """Robust scaling and tempered principal components of a training set's pixels."""

    centre: Float[Tensor, " c"]
    """Median reflectance of each band."""
    forward: Float[Tensor, "c c"]
    """Rows map centred reflectance to components of about unit variance."""
    inverse: Float[Tensor, "c c"]
    """Inverse of `forward`."""
    resample: Float[Tensor, "c h h"]
    """Blurs a row of each band; see `measured_blur`."""


def spectral_basis(
    image: Float[Tensor, "n c h w"], bands: BandSpec, whitening: float
) -> SpectralBasis:
    """Fit the basis to training tiles.

    Each band is scaled by its interquartile range, then the principal components are scaled
    to unit variance, tempered: `whitening` times the mean variance is added to each, or the
    last components, which are rounding noise, would weigh as much as the first.

    Args:
        image: reflectance, at least as many pixels as bands.
        bands: of the channel axis.
        whitening: positive tempering share.
    """
    pixels = image.permute(0, 2, 3, 1).flatten(0, 2).double()
    # torch.quantile takes at most 16 million numbers, so every n-th pixel is used.
    pixels = pixels[:: math.ceil(len(pixels) / _PIXELS)]
    low, centre, high = torch.quantile(
        pixels, torch.tensor([0.25, 0.5, 0.75], dtype=pixels.dtype), dim=0
    )
    # A band that hardly varies keeps the scale of one digital number.
    scale = (high - low).clamp_min(1e-4)
    values, vectors = torch.linalg.eigh(
        torch.cov(((pixels - centre) / scale).T).reshape(len(scale), -1)
    )
    root = (values.clamp_min(0) + whitening * values.mean().clamp_min(1e-12)).sqrt()
    return SpectralBasis(
        centre=centre.float(),
        forward=((vectors / root).T / scale).float(),
        inverse=(scale[:, None] * vectors * root).float(),
        resample=measured_blur(image, bands),
    )


class Whiten(nn.Module):
    """Reflectance to components."""

    centre: Tensor
    forward_matrix: Tensor

    def __init__(self, basis: SpectralBasis) -> None:
        """Keep the basis as buffers, so that it is saved with the weights."""
        super().__init__()
        self.register_buffer("centre", basis.centre)
        self.register_buffer("forward_matrix", basis.forward)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Centre, then mix the bands."""
        centred = image - self.centre[:, None, None]
        return F.conv2d(centred, self.forward_matrix[:, :, None, None])


class Unwhiten(nn.Module):
    """Components to reflectance, each band no sharper than Sentinel-2 measures it."""

    centre: Tensor
    inverse_matrix: Tensor
    resample: Tensor

    def __init__(self, basis: SpectralBasis) -> None:
        """Keep the basis as buffers, so that it is saved with the weights."""
        super().__init__()
        self.register_buffer("centre", basis.centre)
        self.register_buffer("inverse_matrix", basis.inverse)
        self.register_buffer("resample", basis.resample)

    def forward(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Unmix the bands, then blur each band as much as in real tiles."""
        image = F.conv2d(components, self.inverse_matrix[:, :, None, None], self.centre)
        return self.resample @ image @ self.resample.mT


def measured_blur(image: Float[Tensor, "n c h w"], bands: BandSpec) -> Float[Tensor, "c h h"]:
    """Return, per band, the matrix that blurs a row as much as real tiles of that band.

    Products deliver 20 m and 60 m bands upsampled to 10 m. A generator that draws them at
    10 m is revealed by its spectrum alone and shows reviewers a sharpness that does not exist.
    The attenuation of each frequency relative to the finest bands is measured in its cosine
    spectrum (where tiles have no edge to wrap around); low frequencies count as one, and no
    frequency may be stronger than a lower one.
    """
    spectra = torch.stack([_cosine_power(image[:, c]) for c in range(len(bands))])  # c h
    side = spectra.shape[1]
    metres = torch.tensor([RESOLUTION_M[name] for name in bands.names])
    finest = metres == metres.min()
    spectra = spectra / spectra[:, 1 : max(2, side // 12)].mean(1, keepdim=True).clamp_min(1e-30)
    kept = (spectra / spectra[finest].mean(0).clamp_min(1e-30)).sqrt().clamp_max(1)
    kept[finest] = 1
    kept[:, 0] = 1
    kept = kept.cummin(1).values
    cosines = torch.from_numpy(dct(np.eye(side), axis=0, norm="ortho"))
    return (cosines.T @ (kept[:, :, None] * cosines)).float()


def _cosine_power(image: Float[Tensor, "n h w"]) -> Float[Tensor, " h"]:
    """Return the mean power of rows and columns by frequency, in half cycles per tile."""
    rows, columns = (dct(image.double().numpy(), axis=axis, norm="ortho") for axis in (1, 2))
    power = (rows**2).mean((0, 2)) + (columns**2).mean((0, 1))
    return torch.from_numpy(power)
