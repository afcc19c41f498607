"""A trained segmentation network: a target that predicts one class per pixel."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.runs import read_checkpoint
from rs_lowconf.target.answers import log_probabilities
from rs_lowconf.target.classifier import fill, spec_in, write_trained

SEGMENTER = "segmenter"
"""The kind of its checkpoints."""

_DEPTH = 4
_STEP = 2**_DEPTH


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """All that is needed, besides the weights, to rebuild a segmenter."""

    encoder: str
    """Name in segmentation_models_pytorch."""

    width: int
    """Channels of the decoder at full resolution."""

    bands: BandSpec
    """The bands it reads, in the order of its first layer's channels."""

    classes: tuple[str, ...]
    """Class names in the order of its outputs."""

    tile_size: int
    """Side in pixels of the tiles it was trained on; it accepts any multiple of 16."""

    def build(self) -> "SegmentationNetwork":
        """Return the network with random weights.

        Raises:
            SettingsError: there is no such encoder.
        """
        return SegmentationNetwork(
            self.encoder, width=self.width, bands=len(self.bands), classes=len(self.classes)
        )


class SegmentationNetwork(nn.Module):
    """A U-Net on decorrelated bands, beside a small network that sees each pixel alone.

    Encoders halve the resolution in their first layer, so no part of a U-Net sees full resolution;
    information in a single pixel's spectrum, such as healthy or red crowns, would be blurred.
    """

    mean: Float[Tensor, " c"]
    """Mean reflectance of every band over the training tiles."""

    decorrelation: Float[Tensor, "c c"]
    """Applied to reflectance minus mean; see `rs_lowconf.target.normalise`."""

    def __init__(self, encoder: str, *, width: int, bands: int, classes: int) -> None:
        """Build with random weights drawn from torch's global state.

        Raises:
            SettingsError: there is no such encoder.
        """
        super().__init__()
        # Imported late, because it takes seconds.
        smp = importlib.import_module("segmentation_models_pytorch")
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("decorrelation", torch.eye(bands))
        try:
            self.unet = smp.Unet(
                encoder,
                encoder_depth=_DEPTH,
                encoder_weights=None,
                decoder_channels=[4 * width, 2 * width, width, width],
                in_channels=bands,
                classes=classes,
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise SettingsError(
                f"segmentation_models_pytorch cannot build encoder {encoder!r}",
                expected="such as resnet18, mobilenet_v2 or tu-resnet10t",
                remedy="correct target.segmenter.encoder",
            ) from error
        self.spectral = nn.Sequential(
            nn.Conv2d(bands, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1)
        )

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of every pixel."""
        centred = image - self.mean[:, None, None]
        normal = F.conv2d(centred, self.decorrelation[:, :, None, None])  # b c h w
        logits: Tensor = self.unet(normal) + self.spectral(normal)
        return logits


class Segmenter:
    """A network in eval mode with frozen weights and a calibrated temperature.

    Satisfies `TargetModel`. Differentiable with respect to the image.
    """

    differentiable = True
    pixelwise = True

    def __init__(
        self,
        spec: SegmenterSpec,
        network: SegmentationNetwork,
        *,
        temperature: float = 1.0,
        figures: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> None:
        """Freeze the network; the segmenter takes ownership of it.

        Args:
            spec: what `network` was built from.
            network: trained weights, on the device to compute on.
            temperature: logits are divided by it.
            figures: JSON values measured on held-out tiles, kept with the weights.
            batch_size: largest number of tiles in one forward pass.
        """
        self.spec = spec
        self.network = network.eval().requires_grad_(False)
        self.temperature = temperature
        self.figures = dict(figures or {})
        self.batch_size = batch_size
        self.bands = spec.bands
        self.classes = spec.classes

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return log-probabilities of every pixel, on the network's device.

        Raises:
            ModelError: the tiles have another number of bands, or sides that are no multiple
                of 16.
            AnswerError: the network returns NaN or infinity for some of them.
        """
        bands, height, width = image.shape[1:]
        if bands != len(self.bands) or height % _STEP or width % _STEP:
            raise ModelError(
                f"the segmenter is given tiles of shape {tuple(image.shape[1:])}",
                expected=f"{len(self.bands)} bands and sides that are multiples of {_STEP}",
            )
        device = self.network.mean.device
        parts = [self.network(part.to(device)) for part in torch.split(image, self.batch_size)]
        return log_probabilities(torch.cat(parts), self.temperature)


def save_segmenter(path: Path, segmenter: Segmenter) -> None:
    """Write weights, temperature and figures as one file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    spec = segmenter.spec
    write_trained(
        path, SEGMENTER, segmenter.network, spec, segmenter.temperature, segmenter.figures
    )


def load_segmenter(path: Path, device: torch.device, *, batch_size: int = 32) -> Segmenter:
    """Read what `save_segmenter` wrote.

    Raises:
        ModelError: the file is missing, damaged, not a segmenter, or its encoder differs in the
            installed segmentation_models_pytorch.
    """
    tensors, header = read_checkpoint(path, SEGMENTER)
    spec = spec_in(header, SegmenterSpec)
    network = spec.build()
    fill(network, tensors, path)
    return Segmenter(
        spec,
        network.to(device),
        temperature=header["temperature"],
        figures=header["figures"],
        batch_size=batch_size,
    )
