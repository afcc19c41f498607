"""A trained classifier: the target model of ours and the extractor of features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.target.networks import Network, build_network

_KIND = "classifier"


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """What it takes, beside the weights, to rebuild a classifier."""

    architecture: str
    """`small_cnn`, `residual_cnn` or `timm:NAME`."""

    width: int
    """Channels of the first stage."""

    bands: BandSpec
    """The bands it reads, in the order of its first layer's channels."""

    classes: tuple[str, ...]
    """Class names in the order of its outputs."""

    tile_size: int
    """Side in pixels of the tiles it was trained on, and the only one it takes."""

    def build(self) -> Network:
        """Return the network with random weights."""
        return build_network(
            self.architecture,
            width=self.width,
            bands=len(self.bands),
            classes=len(self.classes),
            tile_size=self.tile_size,
        )


class Classifier:
    """A network in eval mode with frozen weights and a calibrated temperature.

    Satisfies `TargetModel` and `FeatureExtractor`. Differentiable with respect to the image.
    """

    differentiable = True
    pixelwise = False

    def __init__(
        self,
        spec: ClassifierSpec,
        network: Network,
        *,
        temperature: float = 1.0,
        figures: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> None:
        """Freeze the network, which the classifier owns from here on.

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
        self.evaluations = 0

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return log-probabilities at the calibrated temperature, on the network's device.

        Raises:
            ModelError: the tiles have another number of bands or another size.
        """
        return torch.log_softmax(self._run(self.network, image) / self.temperature, dim=1)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return penultimate features, on the network's device; counts as an evaluation.

        Raises:
            ModelError: the tiles have another number of bands or another size.
        """
        return self._run(self.network.features, image)

    def _run(self, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        shape = (len(self.bands), self.spec.tile_size, self.spec.tile_size)
        if tuple(image.shape[1:]) != shape:
            raise ModelError(
                f"the classifier is given tiles of shape {tuple(image.shape[1:])}",
                expected=f"{shape} (bands, height, width)",
            )
        self.evaluations += len(image)
        device = self.network.mean.device
        parts = [function(part.to(device)) for part in torch.split(image, self.batch_size)]
        return torch.cat(parts)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write weights, temperature and figures as one file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    spec = classifier.spec
    header = {
        "architecture": spec.architecture,
        "width": spec.width,
        "bands": spec.bands.to_json(),
        "classes": list(spec.classes),
        "tile_size": spec.tile_size,
        "temperature": classifier.temperature,
        "figures": classifier.figures,
    }
    write_checkpoint(path, _KIND, classifier.network.state_dict(), header)


def load_classifier(path: Path, device: torch.device, *, batch_size: int = 32) -> Classifier:
    """Read what `save_classifier` wrote.

    Raises:
        ModelError: the file is missing, damaged, no classifier, or its architecture is
            another one in the installed timm.
    """
    tensors, header = read_checkpoint(path, _KIND)
    spec = ClassifierSpec(
        architecture=header["architecture"],
        width=header["width"],
        bands=BandSpec.from_json(header["bands"]),
        classes=tuple(header["classes"]),
        tile_size=header["tile_size"],
    )
    network = spec.build()
    fill(network, tensors, path)
    return Classifier(
        spec,
        network.to(device),
        temperature=header["temperature"],
        figures=header["figures"],
        batch_size=batch_size,
    )


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights read from `path` into a module, all of them and no others.

    Raises:
        ModelError: a name or a shape differs.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        # torch lists every key on its own line; the first lines say what kind of misfit it is.
        lines = " ".join(str(error).split())
        raise ModelError(
            f"the weights in {path} do not fit the architecture ({lines[:300]})",
            expected="weights of the same architecture, bands and classes",
        ) from error
