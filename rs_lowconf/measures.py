"""Measures of tiles that several stages share."""

import torch
from jaxtyping import Float
from torch import Tensor

SYMMETRIES = 8
"""Symmetries of the square: four rotations, each plain and mirrored."""


def turn(image: Float[Tensor, "b c h w"], symmetry: int) -> Float[Tensor, "b c h w"]:
    """Return square tiles rotated by `symmetry % 4` quarter turns, mirrored from 4 on."""
    turned = image.rot90(symmetry % 4, (2, 3))
    return turned.flip(3) if symmetry >= SYMMETRIES // 2 else turned


def radial_power(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c r"]:
    """Return the power spectrum averaged over rings (Durall et al. 2020, section 2.1).

    The tile's mean is subtracted, and a Hann window keeps its edges from looking like detail.
    """
    side = image.shape[-1]
    exact, device = torch.float64, image.device
    window = torch.hann_window(side, periodic=False, dtype=exact, device=device)
    centred = image.double() - image.double().mean((2, 3), keepdim=True)
    power = torch.fft.fft2(centred * window[:, None] * window).abs().square()
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=exact, device=device)
    ring = torch.hypot(frequency[:, None], frequency).round().long().flatten()
    rings = torch.arange(1, side // 2 + 1, device=device)
    member = (ring[:, None] == rings).double()
    averaged: Tensor = power.flatten(2) @ (member / member.sum(0)) / side**2
    return averaged


def vendi_score(features: Float[Tensor, "n f"]) -> float:
    """Return the effective number of different tiles.

    The exponential of the entropy of the eigenvalues of the cosine kernel over n (Friedman
    and Dieng, "The Vendi score", TMLR 2023).
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    # The kernel has the same nonzero eigenvalues as the much smaller product of the features.
    few = unit if len(unit) < unit.shape[1] else unit.T
    values = torch.linalg.eigvalsh(few @ few.T / len(unit)).clamp_min(0)
    return float(torch.special.entr(values).sum().exp())
