"""The augmentation pipeline of target, extractor and discriminator, for any number of bands.

No hue, saturation or per-band contrast: they break spectra. Brightness is one factor for
all bands, and kornia's own brightness is not used because it clamps at 1, which bright
cloud and snow exceed.
"""

from typing import Any

import kornia.augmentation as ka
import torch
from jaxtyping import Float
from kornia.augmentation import GeometricAugmentationBase2D, IntensityAugmentationBase2D
from torch import Tensor

from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import AugmentSettings
from rs_lowconf.types import Augmentation

Params = dict[str, Tensor]
Flags = dict[str, Any]


class RandomTranspose(GeometricAugmentationBase2D):  # type: ignore[misc]
    """Swap rows and columns: with the two flips it makes all eight symmetries of the square.

    Exact, unlike a warp by 90 degrees.
    """

    def compute_transformation(self, input: Tensor, params: Params, flags: Flags) -> Tensor:  # noqa: A002, ARG002
        """Return the matrix that swaps x and y."""
        swap = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        return swap.to(input).expand(len(input), 3, 3)

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002
        params: Params,  # noqa: ARG002
        flags: Flags,  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Transpose the last two axes."""
        return input.transpose(-1, -2)


class RandomShift(GeometricAugmentationBase2D):  # type: ignore[misc]
    """Shift by whole pixels, so that nothing is resampled; edges are reflected."""

    def __init__(self, share: float, p: float) -> None:
        """Shift by at most `share` of the side, with probability `p`."""
        super().__init__(p=p)
        self._share = share

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draw a shift in rows and columns for each tile."""
        most = int(self._share * batch_shape[-1])
        return {"shift": torch.randint(-most, most + 1, (batch_shape[0], 2))}

    def compute_transformation(self, input: Tensor, params: Params, flags: Flags) -> Tensor:  # noqa: A002, ARG002
        """Return the translation, in pixels."""
        matrix = torch.eye(3).repeat(len(input), 1, 1)
        matrix[:, :2, 2] = params["shift"].flip(1).float()
        return matrix.to(input)

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002
        params: Params,
        flags: Flags,  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Gather shifted rows and columns."""
        shift = params["shift"].to(input.device)
        row = _reflected(shift[:, 0], input.shape[-2])
        column = _reflected(shift[:, 1], input.shape[-1])
        tile = torch.arange(len(input), device=input.device)[:, None, None]
        channels_last = input.permute(0, 2, 3, 1)[tile, row[:, :, None], column[:, None, :]]
        return channels_last.permute(0, 3, 1, 2)


class RandomGain(IntensityAugmentationBase2D):  # type: ignore[misc]
    """Scale all bands by one factor, and each band by a small one of its own."""

    def __init__(self, common: float, per_band: float, p: float) -> None:
        """Draw factors from 1 - common .. 1 + common and 1 - per_band .. 1 + per_band."""
        super().__init__(p=p)
        self._common = common
        self._per_band = per_band

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draw the factor of every band of every tile."""
        tiles, bands = batch_shape[0], batch_shape[1]
        common = 1 + self._common * (2 * torch.rand(tiles, 1) - 1)
        own = 1 + self._per_band * (2 * torch.rand(tiles, bands) - 1)
        return {"gain": (common * own)[:, :, None, None]}

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002
        params: Params,
        flags: Flags,  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Multiply."""
        return input * params["gain"].to(input)


def augmentation(settings: AugmentSettings) -> Augmentation:
    """Return the pipeline as a function of a batch and a seed.

    The same batch and seed give the same result anywhere; the global random state is left
    as it was. Gradients flow through to the image.
    """
    p = settings.probability
    steps: list[Any] = []
    if settings.flip:
        steps += [
            ka.RandomHorizontalFlip(p=0.5),
            ka.RandomVerticalFlip(p=0.5),
            RandomTranspose(p=0.5),
        ]
    if settings.shift > 0:
        steps.append(RandomShift(settings.shift, p=p))
    if settings.zoom > 1:
        zoom = ka.RandomAffine(
            degrees=0.0, scale=(1.0, settings.zoom), padding_mode="reflection", p=p
        )
        steps.append(zoom)
    if settings.brightness > 0 or settings.band_gain > 0:
        steps.append(RandomGain(settings.brightness, settings.band_gain, p=p))
    if settings.cutout > 0:
        area = settings.cutout**2
        steps.append(ka.RandomErasing(scale=(area, area), ratio=(1.0, 1.0), p=p))
    if not steps:
        return lambda image, seed: image  # noqa: ARG005
    pipeline = ka.AugmentationSequential(*steps, data_keys=["input"])

    def augment(image: Float[Tensor, "b c h w"], seed: int) -> Float[Tensor, "b c h w"]:
        with forked_rng(seed):
            augmented: Tensor = pipeline(image)
        return augmented

    return augment


def _reflected(shift: Tensor, side: int) -> Tensor:
    """Return the source index of each of `side` pixels after a shift, reflected at the edges."""
    index = (torch.arange(side, device=shift.device)[None, :] - shift[:, None]).abs()
    return torch.where(index > side - 1, 2 * (side - 1) - index, index)
