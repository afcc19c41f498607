"""A classifier trained by this package: a target, or the extractor of features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.target.answers import log_probabilities, require_finite
from rs_lowconf.target.networks import Network, build_network
from rs_lowconf.vocabulary import class_list

_KIND = "classifier"

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """All that is needed, besides the weights, to rebuild a classifier."""

    architecture: str
    """`small_cnn`, `resnet`, `residual_cnn` or `timm:NAME`."""

    width: int
    """Channels of the first stage."""

    bands: BandSpec
    """The bands it reads, in the order of its first layer's channels."""

    classes: tuple[str, ...]
    """Class names in the order of its outputs."""

    tile_size: int
    """Side in pixels of the tiles it was trained on, the only size it accepts."""

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
        """Freeze the network; the classifier takes ownership of it.

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

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return log-probabilities at the calibrated temperature, on the network's device.

        Raises:
            ModelError: the tiles have another number of bands or another size.
            AnswerError: the network returns NaN or infinity for some of them.
        """
        return log_probabilities(self._run(self.network, image), self.temperature)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return penultimate features, on the network's device; counts as an evaluation.

        Raises:
            ModelError: the tiles have another number of bands or another size.
            AnswerError: the network returns NaN or infinity for some of them.
        """
        features = self._run(self.network.features, image)
        require_finite(features)
        return features

    def _run(self, function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        shape = (len(self.bands), self.spec.tile_size, self.spec.tile_size)
        if tuple(image.shape[1:]) != shape:
            raise ModelError(
                f"the classifier is given tiles of shape {tuple(image.shape[1:])}",
                expected=f"{shape} (bands, height, width)",
            )
        device = self.network.mean.device
        parts = [function(part.to(device)) for part in torch.split(image, self.batch_size)]
        return torch.cat(parts)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write weights, temperature and figures as one file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    spec = classifier.spec
    write_trained(path, _KIND, classifier.network, spec, classifier.temperature, classifier.figures)


def load_classifier(path: Path, device: torch.device, *, batch_size: int = 32) -> Classifier:
    """Read what `save_classifier` wrote.

    Raises:
        ModelError: the file is missing, damaged, not a classifier, or its architecture differs in
            the installed timm.
    """
    tensors, header = read_checkpoint(path, _KIND)
    spec = spec_in(header, ClassifierSpec)
    network = spec.build()
    fill(network, tensors, path)
    return Classifier(
        spec,
        network.to(device),
        temperature=header["temperature"],
        figures=header["figures"],
        batch_size=batch_size,
    )


def write_trained(  # noqa: PLR0917 - where, what, and what is known of it
    path: Path,
    kind: str,
    network: torch.nn.Module,
    spec: Any,
    temperature: float,
    figures: Mapping[str, Any],
) -> None:
    """Write one of our networks as one file, atomically; `spec_in` reads its specification.

    Args:
        path: the file.
        kind: of checkpoint.
        network: its weights are written.
        spec: a dataclass of plain values, `bands` and `classes`, which rebuilds the network.
        temperature: logits are divided by it.
        figures: JSON values measured on held-out tiles.

    Raises:
        OutputError: the file cannot be written.
    """
    header = {
        **vars(spec),
        "bands": spec.bands.to_json(),
        "classes": list(spec.classes),
        "temperature": temperature,
        "figures": dict(figures),
    }
    write_checkpoint(path, kind, network.state_dict(), header)


def spec_in(header: Mapping[str, Any], kind: type[S]) -> S:
    """Return the specification in the header of what `write_trained` wrote."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # S is a dataclass
    values = {name: header[name] for name in names}
    classes = class_list("the model", header["classes"], error=ModelError).names
    values |= {"bands": BandSpec.from_json(header["bands"]), "classes": classes}
    return kind(**values)


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
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
