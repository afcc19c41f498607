"""Reflectance as the numbers of a file that we write, and back."""

import numpy as np
import torch
from jaxtyping import Float, UInt16
from torch import Tensor

from rs_lowconf.bands import PRODUCT_SCALE
from rs_lowconf.errors import DataError

_LARGEST = 65_535


def stored_numbers(image: Float[Tensor, "*n c h w"]) -> UInt16[Tensor, "*n c h w"]:
    """Return reflectance x 10,000, rounded half to even, at least 1, because 0 is nodata.

    Raises:
        DataError: a value is NaN or infinite, so there is nothing to store.
    """
    if not image.isfinite().all():
        raise DataError(
            f"{int((~image.isfinite()).sum())} reflectance values are NaN or infinite",
            expected="finite reflectance",
        )
    return (image * PRODUCT_SCALE).round().clamp(1, _LARGEST).to(torch.uint16)


def reflectance_of(
    numbers: UInt16[Tensor, "*n c h w"] | UInt16[np.ndarray, "*n c h w"],
) -> Float[Tensor, "*n c h w"]:
    """Return the reflectance of stored numbers."""
    if isinstance(numbers, np.ndarray):
        # A copy, because arrays of a file's bytes cannot be written to.
        numbers = torch.from_numpy(numbers.astype(np.float32))
    return numbers.float() / PRODUCT_SCALE


def as_stored(image: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Return reflectance as it is read again once it has been stored.

    Raises:
        DataError: a value is NaN or infinite.
    """
    return reflectance_of(stored_numbers(image))
