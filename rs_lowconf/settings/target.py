"""Settings of the model under test: one class of settings per kind, each with what it reads."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from rs_lowconf.bands import Level
from rs_lowconf.class_map import ClassMap
from rs_lowconf.settings.section import ClassNames, CommonNames, Section


class NamedClasses(Section):
    """A target whose classes may have other names than those of the generator and the data."""

    class_map: CommonNames = Field(default_factory=dict)
    """Which classes mean the same, where the target names others than the generator or the data: a
    common name for each, such as `{River: water, SeaLake: water}` for a target that knows `water`.
    Many names may have one; a name may be of either side. A class of the data that the target does
    not know is mapped to itself."""

    @property
    def common_names(self) -> ClassMap:
        """Return `class_map` as what compares classes."""
        return ClassMap(names=self.class_map)

    @property
    def answers(self) -> str:
        """Return, as JSON, all settings that the target's answers depend on."""
        return self.model_dump_json(exclude={"class_map"})


class OwnTarget(NamedClasses):
    """A target in the format of this package, which says itself what it reads and returns."""

    kind: str
    batch_size: PositiveInt = 32
    """Largest number of tiles in one forward pass."""


class EmbeddedTarget(OwnTarget):
    """A target that comes with the package."""

    kind: Literal["embedded"] = "embedded"
    """`embedded`: a model in the package."""
    model: Literal["visible", "multispectral"] = "multispectral"
    """Which model in the package: the one for the three visible bands, trained on 17,471 tiles, or
    the one for all 13 bands, trained on 273."""


class TrainedTarget(OwnTarget):
    """A target that `rslow train target` made."""

    kind: Literal["trained"] = "trained"
    """`trained`: the model that `rslow train target` trained."""
    path: Path | None = None
    """Its checkpoint; default is the one in run.dir."""


class ModelFormat(NamedClasses):
    """Input and output of an external model."""

    bands: tuple[str, ...]
    """The bands that the model reads, in its order."""
    level: Level = "L1C"
    """The processing level that the model was made for."""
    input: Literal["reflectance", "digital_numbers"] = "reflectance"
    """Input of the model, before `mean` and `std`; digital numbers are
    10 000 times reflectance, without the offset of processing baseline 04.00."""
    mean: tuple[float, ...] | None = None
    """Subtracted per band (or one value for all), in the unit of `input`."""
    std: tuple[float, ...] | None = None
    """Divided by per band (or one value for all)."""
    input_size: PositiveInt | None = None
    """Side of the model's square input in pixels; default is unchanged tiles."""
    input_fit: Literal["resize", "mirror"] = "resize"
    """How a tile becomes `input_size` pixels wide: `resize` (bilinear), or `mirror`: at its
    original resolution, padded with its mirror images, a fifth of the window before it. Pixel
    predictions are transformed back to the tile."""
    classes: ClassNames
    """The model's class list, in the order of its outputs. A binary model with a single output has
    two: the negative class comes first."""
    output: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the model returns. `probabilities` sum to 1, or to 100 as percentages; they may be
    rounded. `sigmoid` is one number from 0 to 1 per class, as in multi-label models: its log-odds
    are taken as logits."""
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
    """An external model."""

    kind: str


class FileTarget(ForeignModel):
    """An external model in a file."""

    path: Path
    """Checkpoint, program or model file; `package:NAME/FILE` is FILE in the installed package NAME,
    which is not imported."""


class WholeFileTarget(FileTarget):
    """An external model whose file says how it is built."""

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
    """The rows of its table. `pixel`: the bands of one pixel, so that the target predicts a class
    per pixel; `tile`: all pixels of a tile, band by band, line by line; `statistics`: the means of
    all bands of a tile, then their standard deviations."""


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
    `package:NAME/FILE` is FILE in the installed package NAME."""
    startup_seconds: PositiveFloat = 120.0
    """Seconds until the program reports that it is ready."""
    batch_seconds: PositiveFloat = 60.0
    """Seconds for the answer to one batch."""

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
"""The model under test: in the package, trained by `rslow train target`, or external."""
