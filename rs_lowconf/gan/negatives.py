"""Real tiles corrupted in known ways, to fit and measure a gate.

Each change keeps what a weak critic would look at: the spectrum of power and the bands' relations,
the statistics of a class, or everything but the layout.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 1e-4
"""The smallest reflectance that is not stored as nodata."""


def phase_scrambled(image: Float[Tensor, "b c h w"], seed: int) -> Float[Tensor, "b c h w"]:
    """Return tiles with random phases: power spectra and relations between bands stay.

    The same phases are added to all bands, and none to the mean (Portilla and Simoncelli, "A
    parametric texture model", IJCV 2000, call such tiles spectrum-matched noise).
    """
    rng = torch.Generator().manual_seed(seed)
    count, _, height, width = image.shape
    # Phases of real noise have the symmetry that keeps tiles real-valued.
    noise = torch.fft.rfft2(torch.randn(count, 1, height, width, generator=rng))
    spectrum = torch.fft.rfft2(image)
    turned = spectrum * noise / noise.abs().clamp_min(1e-12)
    turned[:, :, 0, 0] = spectrum[:, :, 0, 0]
    scrambled: Tensor = torch.fft.irfft2(turned, s=(height, width))
    return scrambled.clamp_min(_LEAST)


def shuffled_blocks(
    image: Float[Tensor, "b c h w"], seed: int, *, side: int = 16
) -> Float[Tensor, "b c h w"]:
    """Return tiles whose square blocks are in random order: only the layout is wrong.

    Args:
        image: tiles; a remainder at the right and lower edge that fills no block is unchanged.
        seed: of the orders.
        side: of a block in pixels.
    """
    rng = torch.Generator().manual_seed(seed)
    rows, columns = image.shape[2] // side, image.shape[3] // side
    mixed = image.clone()
    for tile, result in zip(image, mixed, strict=True):
        order = torch.randperm(rows * columns, generator=rng).tolist()
        for here, there in enumerate(order):
            (i, j), (k, n) = divmod(here, columns), divmod(there, columns)
            result[:, i * side : (i + 1) * side, j * side : (j + 1) * side] = tile[
                :, k * side : (k + 1) * side, n * side : (n + 1) * side
            ]
    return mixed
