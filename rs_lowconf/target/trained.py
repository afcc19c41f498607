"""A network trained by this package: a classifier of tiles or a segmenter of pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.runs import kind_of, read_checkpoint, write_checkpoint
from rs_lowconf.target.answers import log_probabilities, require_finite
from rs_lowconf.target.networks import (
    ClassificationNetwork,
    Network,
    SegmentationNetwork,
    classification_network,
)
from rs_lowconf.vocabulary import class_list

Kind = Literal["classifier", "segmenter"]
"""Of a checkpoint: a classifier predicts one class per tile, a segmenter one per pixel."""

_ARCHITECTURE = {"classifier": "architecture", "segmenter": "encoder"}
"""The name of the architecture in the header of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that is needed, besides the weights, to rebuild a network."""

    kind: Kind
    """Whether it predicts one class per tile or per pixel."""

    architecture: str
    """Of a classifier `small_cnn`, `resnet`, `residual_cnn` or `timm:NAME`; of a segmenter the name
    of its encoder in segmentation_models_pytorch."""

    width: int
    """Channels of a classifier's first stage, or of a segmenter's decoder at full resolution."""

    bands: BandSpec
    """The bands it reads, in the order of its first layer's channels."""

    classes: tuple[str, ...]
    """Class names in the order of its outputs."""

    tile_size: int
    """Side in pixels of the tiles it was trained on: the only size that a classifier accepts; a
    segmenter accepts any multiple of 16."""

    def build(self) -> Network:
        """Return the network with random weights.

        Raises:
            SettingsError: there is no such architecture.
        """
        shape = {"width": self.width, "bands": len(self.bands), "classes": len(self.classes)}
        if self.kind == "segmenter":
            return SegmentationNetwork(self.architecture, **shape)
        return classification_network(self.architecture, tile_size=self.tile_size, **shape)


class TrainedNetwork:
    """A network in eval mode with frozen weights and a calibrated temperature.

    Satisfies `TargetModel`, and a classifier also `FeatureExtractor`. Differentiable with respect
    to the image.
    """

    differentiable = True

    def __init__(
        self,
        spec: NetworkSpec,
        network: Network,
        *,
        temperature: float = 1.0,
        figures: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> None:
        """Freeze the network, which must not be trained further.

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
        self.pixelwise = spec.kind == "segmenter"

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *pixels"]:
        """Return log-probabilities at the calibrated temperature, on the network's device.

        Raises:
            ModelError: the tiles have another number of bands or another size.
            AnswerError: the network returns NaN or infinity for some of them.
        """
        return log_probabilities(self._run(self.network, image), self.temperature)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return penultimate features, on the network's device.

        Raises:
            ModelError: it is a segmenter, or the tiles have another number of bands or another
                size.
            AnswerError: the network returns NaN or infinity for some of them.
        """
        if not isinstance(self.network, ClassificationNetwork):
            raise ModelError("a segmenter has no features of tiles", expected="a classifier")
        features = self._run(self.network.features, image)
        require_finite(features)
        return features

    def _run(self, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        self._require_shape(image)
        device = self.network.mean.device
        parts = [function(part.to(device)) for part in torch.split(image, self.batch_size)]
        return torch.cat(parts)

    def _require_shape(self, image: Tensor) -> None:
        bands, size, step = len(self.bands), self.spec.tile_size, SegmentationNetwork.STEP
        given = tuple(image.shape[1:])
        if self.pixelwise:
            fits = given[0] == bands and given[1] % step == given[2] % step == 0
            expected = f"{bands} bands and sides that are multiples of {step}"
        else:
            fits = given == (bands, size, size)
            expected = f"{(bands, size, size)} (bands, height, width)"
        if not fits:
            raise ModelError(
                f"the {self.spec.kind} is given tiles of shape {given}", expected=expected
            )


def save_trained(path: Path, trained: TrainedNetwork) -> None:
    """Write weights, temperature and figures as one file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    spec = trained.spec
    header = {
        _ARCHITECTURE[spec.kind]: spec.architecture,
        "width": spec.width,
        "bands": spec.bands.to_json(),
        "classes": list(spec.classes),
        "tile_size": spec.tile_size,
        "temperature": trained.temperature,
        "figures": trained.figures,
    }
    write_checkpoint(path, spec.kind, trained.network.state_dict(), header)


def load_trained(
    path: Path, device: torch.device, *, kind: Kind | None = None, batch_size: int = 32
) -> TrainedNetwork:
    """Read what `save_trained` wrote.

    Args:
        path: the file.
        device: where to compute.
        kind: the kind that is needed; default is either.
        batch_size: largest number of tiles in one forward pass.

    Raises:
        ModelError: the file is missing, damaged, of another kind or of a newer format, or its
            architecture differs in the installed timm or segmentation_models_pytorch.
        SettingsError: the installed packages have no such architecture.
    """
    if kind is None:
        kind = "segmenter" if kind_of(path) == "segmenter" else "classifier"
    tensors, header = read_checkpoint(path, kind)
    spec = NetworkSpec(
        kind=kind,
        architecture=header[_ARCHITECTURE[kind]],
        width=header["width"],
        bands=BandSpec.from_json(header["bands"]),
        classes=class_list("the model", header["classes"], error=ModelError).names,
        tile_size=header["tile_size"],
    )
    network = spec.build()
    fill(network, tensors, path)
    return TrainedNetwork(
        spec,
        network.to(device),
        temperature=header["temperature"],
        figures=header["figures"],
        batch_size=batch_size,
    )


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights read from `path` into a module, all of them and no others.

    Raises:
        ModelError: a name or a shape differs.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        # torch lists every key on a separate line; the first lines show the kind of mismatch.
        lines = " ".join(str(error).split())
        raise ModelError(
            f"the weights in {path} do not fit the architecture ({lines[:300]})",
            expected="weights of the same architecture, bands and classes",
        ) from error
