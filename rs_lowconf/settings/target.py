"""Settings of the model under test: one class of settings per kind, each with what it reads."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from rs_lowconf.bands import Level
from rs_lowconf.settings.section import ClassNames, Section


class OwnTarget(Section):
    """A target in the format of this package, which says itself what it reads and returns."""

    kind: str
    batch_size: PositiveInt = 32
    """Largest number of tiles in one forward pass."""


class EmbeddedTarget(OwnTarget):
    """A target that comes with the package."""

    kind: Literal["embedded"] = "embedded"
    """`embedded`: one that is inside the package."""
    embedded: Literal["visible", "multispectral"] = "multispectral"
    """Which one: that of the three visible bands, which learned from 17,471 tiles, or that of all
    13 bands, which learned from 273."""


class TrainedTarget(OwnTarget):
    """A target that `rslow train target` made."""

    kind: Literal["trained"] = "trained"
    """`trained`: one that `rslow train target` made."""
    path: Path | None = None
    """Its checkpoint; that in run.dir when missing."""


class ModelFormat(Section):
    """What a foreign model reads and returns."""

    bands: tuple[str, ...]
    """The bands the model reads, in its order."""
    level: Level = "L1C"
    """The processing level that the model was made for."""
    input: Literal["reflectance", "digital_numbers"] = "reflectance"
    """What the model reads, before `mean` and `std`; digital numbers are
    10 000 times reflectance, without the offset of processing baseline 04.00."""
    mean: tuple[float, ...] | None = None
    """Subtracted per band (or one value for all), in the unit of `input`."""
    std: tuple[float, ...] | None = None
    """Divided by per band (or one value for all)."""
    input_size: PositiveInt | None = None
    """Side of the square that the model takes; missing means tiles as they
    are."""
    input_fit: Literal["resize", "mirror"] = "resize"
    """How a tile becomes `input_size` pixels wide: resized (bilinear), or at its own resolution
    with its mirror images around it, a fifth of the window before it. Answers for pixels are
    brought back to the tile."""
    classes: ClassNames
    """The model's own class list, in the order of its outputs. One that returns
    a single number, for or against, has two: the one against comes first."""
    output: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the model returns. `probabilities` sum to 1, or to 100 as per cent;
    they may be rounded. `sigmoid` is one number from 0 to 1 for each class, as models for several
    labels return: its log-odds are taken as logits."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this."""
    batch_size: PositiveInt = 32
    """Largest number of tiles in one forward pass."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelFormat":
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, len(self.bands)):
                raise ValueError(f"{name} has {len(values)} values for {len(self.bands)} bands")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        if len(self.classes) < 2:
            raise ValueError("classes must list at least two, also for a model of one output")
        if self.input_fit == "mirror" and self.input_size is None:
            raise ValueError("input_fit mirror needs input_size, the side of the model's window")
        return self


class ForeignModel(ModelFormat):
    """A model from elsewhere."""

    kind: str


class FileTarget(ForeignModel):
    """A foreign model in a file."""

    path: Path
    """Checkpoint, program or model file; `package:NAME/FILE` is FILE inside the installed package
    NAME, which is not imported for that."""


class WholeFileTarget(FileTarget):
    """A foreign model whose file says how it is built."""

    kind: Literal["torchgeo", "export", "torchscript", "onnx"]
    """`torchgeo`: a checkpoint of one of its tasks. `export`: what torch.export.save wrote.
    `torchscript`: what torch.jit.save wrote. `onnx`: a graph for ONNX Runtime."""


class TimmTarget(FileTarget):
    """Weights of a network of timm."""

    kind: Literal["timm"]
    """`timm`: weights of one of its networks."""
    architecture: str
    """The network's name in timm."""


class SmpTarget(FileTarget):
    """Weights of a network of segmentation_models_pytorch."""

    kind: Literal["smp"]
    """`smp`: weights of a network of segmentation_models_pytorch."""
    architecture: str
    """The network's name, such as unet."""
    encoder: str
    """The encoder's name, such as resnet34."""


class TableTarget(FileTarget):
    """A model that reads tables."""

    kind: Literal["lightgbm", "sklearn"]
    """`lightgbm`: a booster that LightGBM saved as text. `sklearn`: a pickled estimator."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the model is asked for: raw scores and decision_function as logits, or
    probabilities."""
    rows: Literal["pixel", "tile", "statistics"] = "pixel"
    """What a row of its table is. `pixel`: the bands of one pixel, so that the target answers for
    every pixel; `tile`: all pixels of a tile, band after band, line after line; `statistics`: the
    means of all bands of a tile, then their standard deviations."""


class NamedTarget(ForeignModel):
    """A model that Python code returns."""

    kind: Literal["python", "callable"]
    """`python`: a function that returns an nn.Module. `callable`: a function of arrays."""
    python: str
    """`python`: `module:factory`; the factory takes no argument and returns an nn.Module.
    `callable`: `module:function`; the function takes a float32 array b c h w."""


class ProcessTarget(ForeignModel):
    """A model that a program runs."""

    kind: Literal["process"]
    """`process`: a program that reads tiles and writes answers."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The program that answers, and its arguments, without a shell; an argument
    `package:NAME/FILE` is FILE inside the installed package NAME."""
    startup_seconds: PositiveFloat = 120.0
    """Time until the program says that it is ready."""
    batch_seconds: PositiveFloat = 60.0
    """Time for the answer to one batch."""

    @field_validator("command")
    @classmethod
    def _as_in_a_shell(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(os.path.expanduser, words))


TargetSettings = Annotated[
    EmbeddedTarget
    | TrainedTarget
    | WholeFileTarget
    | TimmTarget
    | SmpTarget
    | TableTarget
    | NamedTarget
    | ProcessTarget,
    Field(discriminator="kind"),
]
"""The model under test: embedded, trained by `rslow train target`, or from elsewhere."""
