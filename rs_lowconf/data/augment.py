"""The augmentation pipeline of target, extractor and discriminator, for any number of bands.

No hue, saturation or per-band contrast: they break spectra. Brightness is one factor for
all bands, and kornia's own brightness is not used because it clamps at 1, which bright
cloud and snow exceed.

Every step sets kornia's probability to 1 and draws itself which tiles to leave unchanged: otherwise
kornia copies the batch once more per step, forward and backward, to merge changed and unchanged
tiles, which takes a third of the pipeline's time.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import kornia.augmentation as ka
import torch
from jaxtyping import Float, Int
from kornia.augmentation import GeometricAugmentationBase2D, IntensityAugmentationBase2D
from torch import Tensor

from rs_lowconf.masks import UNKNOWN
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import AugmentSettings
from rs_lowconf.types import Augmentation, MaskAugmentation

Params = dict[str, Tensor]
Flags = dict[str, Any]


class RandomSymmetryAndShift(GeometricAugmentationBase2D):
    """One of the eight symmetries of the square, and a shift by whole pixels.

    Both only move pixels, so together they are one exact lookup; edges are reflected.
    """

    def __init__(self, *, flip: bool, share: float, probability: float) -> None:
        """Draw a symmetry if `flip`, and, with `probability`, a shift by up to `share`."""
        super().__init__(p=1.0)
        self._flip = flip
        self._share = share
        self._probability = probability

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draw a shift in rows and columns, two flips and a transposition for each tile."""
        tiles, side = batch_shape[0], batch_shape[-1]
        most = int(self._share * side)
        shift = torch.randint(-most, most + 1, (tiles, 2))
        flips = torch.rand(tiles, 3) < 0.5
        return {
            "shift": shift * _chosen(tiles, self._probability)[:, None],
            "flips": flips & self._flip,
        }

    def compute_transformation(self, input: Tensor, params: Params, flags: Flags) -> Tensor:  # noqa: A002, ARG002
        """Return the matrix that takes the x and y of a pixel to its place in the result."""
        side = input.shape[-1]
        mirrored = params["flips"][:, :2].flip(1).float()
        matrix = torch.zeros(len(input), 3, 3)
        matrix[:, 2, 2] = 1
        matrix[:, :2, :2] = torch.diag_embed(1 - 2 * mirrored)
        # A flip comes after the shift.
        moved = (1 - 2 * mirrored) * params["shift"].flip(1)
        matrix[:, :2, 2] = mirrored * (side - 1) + moved
        swapped = matrix[:, [1, 0, 2]]
        return torch.where(params["flips"][:, 2, None, None], swapped, matrix).to(input)

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002
        params: Params,
        flags: Flags,  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Look up the source of every pixel; tiles are square."""
        tiles, bands, side = input.shape[:3]
        line = torch.arange(side)
        flips = params["flips"][:, :2, None]
        place = torch.where(flips, side - 1 - line, line) - params["shift"][:, :, None]
        place = place.abs()
        place = torch.where(place > side - 1, 2 * (side - 1) - place, place)  # b 2 side
        row, column = place[:, 0, :, None], place[:, 1, None, :]
        source = row * side + column
        source = torch.where(params["flips"][:, 2, None, None], source.mT, source)
        source = source.reshape(tiles, 1, side * side).to(input.device)
        flat = input.reshape(tiles, bands, side * side)
        return flat.gather(2, source.expand_as(flat)).view_as(input)


class RandomZoom(ka.RandomAffine):  # type: ignore[misc]  # kornia exports it without types
    """Magnify about the centre, bilinearly."""

    def __init__(self, most: float, *, probability: float) -> None:
        """Draw a magnification from 1 .. `most`, with `probability`; else 1."""
        super().__init__(degrees=0.0, scale=(1.0, most), padding_mode="reflection", p=1.0)
        self._probability = probability

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draw the magnification of each tile."""
        params: Params = super().generate_parameters(batch_shape)
        chosen = _chosen(batch_shape[0], self._probability)[:, None]
        params["scale"] = torch.where(chosen, params["scale"], 1.0)
        return params


class RandomFactor(IntensityAugmentationBase2D):
    """Multiply pixels by factors that are drawn for each tile."""

    def __init__(self, draw: Callable[[int, int, int], Tensor]) -> None:
        """Take factors from `draw`, given numbers of tiles and bands and the side in pixels."""
        super().__init__(p=1.0)
        self._draw = draw

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> Params:
        """Draw factors that can be broadcast to the batch."""
        return {"factor": self._draw(batch_shape[0], batch_shape[1], batch_shape[-1])}

    def apply_transform(
        self,
        input: Tensor,  # noqa: A002
        params: Params,
        flags: Flags,  # noqa: ARG002
        transform: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Multiply."""
        return input * params["factor"].to(input)


def _gains(settings: AugmentSettings, tiles: int, bands: int, side: int) -> Tensor:  # noqa: ARG001
    """Draw a common factor for all bands and a small additional one for each band."""
    common = 1 + settings.brightness * (2 * torch.rand(tiles, 1) - 1)
    separate = 1 + settings.band_gain * (2 * torch.rand(tiles, bands) - 1)
    chosen = _chosen(tiles, settings.probability)[:, None]
    return torch.where(chosen, common * separate, 1.0)[:, :, None, None]


def _cutouts(settings: AugmentSettings, tiles: int, bands: int, side: int) -> Tensor:  # noqa: ARG001
    """Draw a square in each tile: 0 inside it, zero reflectance in every band, else 1."""
    size = round(settings.cutout * side)
    first = torch.randint(side - size + 1, (tiles, 2, 1))
    line = torch.arange(side)
    inside = (line >= first) & (line < first + size)  # b 2 side
    blank = inside[:, 0, :, None] & inside[:, 1, None, :]
    blank &= _chosen(tiles, settings.probability)[:, None, None]
    return (~blank)[:, None].float()


def augmentation(settings: AugmentSettings) -> Augmentation:
    """Return the pipeline as a function of a batch and a seed.

    The same batch and seed give the same result on every machine; the global random state is left
    as it was. Gradients flow through to the image.
    """
    steps = _steps(settings)
    if not steps:
        return lambda image, seed: image
    pipeline = ka.AugmentationSequential(*steps, data_keys=["input"])

    def augment(image: Float[Tensor, "b c h w"], seed: int) -> Float[Tensor, "b c h w"]:
        with forked_rng(seed):
            augmented: Tensor = pipeline(image)
        return augmented

    return augment


def mask_augmentation(settings: AugmentSettings) -> MaskAugmentation:
    """Return the pipeline for tiles with masks.

    Masks move with their tiles, by nearest neighbour; what is blanked becomes unknown, as
    nodata is.
    """
    steps = _steps(settings)
    if not steps:
        return lambda image, mask, seed: (image, mask)
    pipeline = ka.AugmentationSequential(*steps, data_keys=["input", "mask"])

    def augment(
        image: Float[Tensor, "b c h w"], mask: Int[Tensor, "b h w"], seed: int
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        with forked_rng(seed):
            augmented, moved = pipeline(image, mask[:, None].to(image))
        known = (augmented != 0).any(dim=1)
        return augmented, torch.where(known, moved[:, 0].round().long(), UNKNOWN)

    return augment


def _steps(settings: AugmentSettings) -> list[Any]:
    """Return the steps of the pipeline that have an effect."""
    p = settings.probability
    steps: list[Any] = []
    if settings.flip or settings.shift > 0:
        steps.append(
            RandomSymmetryAndShift(flip=settings.flip, share=settings.shift, probability=p)
        )
    if settings.zoom > 1:
        steps.append(RandomZoom(settings.zoom, probability=p))
    if settings.brightness > 0 or settings.band_gain > 0:
        steps.append(RandomFactor(partial(_gains, settings)))
    if settings.cutout > 0:
        steps.append(RandomFactor(partial(_cutouts, settings)))
    return steps


def augmentations_at(
    settings: AugmentSettings,
) -> Callable[[float], tuple[Augmentation, Augmentation]]:
    """Return a function from a probability to the pipelines of real and of generated tiles.

    Generated tiles pass through the same steps without symmetries.
    """

    @cache
    def at(probability: float) -> tuple[Augmentation, Augmentation]:
        real = settings.model_copy(update={"probability": probability})
        return augmentation(real), augmentation(real.model_copy(update={"flip": False}))

    return at


def mask_gan_augmentations(settings: AugmentSettings) -> tuple[MaskAugmentation, MaskAugmentation]:
    """Return the symmetries alone, and the shifts and gains alone, for tiles with masks.

    A GAN needs them separately: the first for real tiles, whose transformed masks the generator is
    given, the second for real and generated tiles. It uses neither zoom nor cutout, which would
    leave pixels between two classes and mask labels for blanked pixels.
    """
    exact = settings.model_copy(update={"zoom": 1.0, "cutout": 0.0})
    still = {"shift": 0.0, "brightness": 0.0, "band_gain": 0.0}
    return (
        mask_augmentation(exact.model_copy(update=still)),
        mask_augmentation(exact.model_copy(update={"flip": False})),
    )


def _chosen(tiles: int, probability: float) -> Tensor:
    """Draw which tiles a step works on."""
    return torch.rand(tiles) < probability
