"""One YAML file is one frozen settings tree. A stage is handed its own section, never the whole.

YAML holds values, never class paths; the sole exceptions are the target's `python:
module:name` and `command`, which run foreign code and need `--trust-code`.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from rs_lowconf import strict_yaml
from rs_lowconf.bands import Level
from rs_lowconf.errors import RsLowconfError, SettingsError
from rs_lowconf.vocabulary import class_list, class_name, vocabulary

Device = Literal["auto", "cpu", "cuda"]


def _listed(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return class_list("the classes", names).names
    except RsLowconfError as error:
        raise ValueError(str(error)) from error


def _masked(named: dict[int, str | None]) -> dict[int, str | None]:
    try:
        vocabulary("the masks", named.values())
    except RsLowconfError as error:
        raise ValueError(str(error)) from error
    return {value: class_name(name) for value, name in named.items()}


ClassNames = Annotated[tuple[str, ...], AfterValidator(_listed)]
"""In the form in which all names of classes are compared, each once."""
MaskClasses = Annotated[dict[int, str | None], AfterValidator(_masked)]
Architecture = Annotated[str, Field(pattern="^(small_cnn|resnet|residual_cnn|timm:.+)$")]

WORKER = "RSLOW_WORKER"
"""The environment variable with the number of a process among the workers of its machine, from 0
on, by which they take turns at its GPUs."""


_MOST_SUGGESTED = 3
"""Keys that a message suggests for the same last word."""


class Section(BaseModel):
    """A frozen group of settings that forbids unknown keys; in paths, ~ is the home folder."""

    # Built on first use: commands that read no settings answer sooner.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @field_validator("*", mode="after")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cls._expanded(part) for part in value)
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:
            raise ValueError(f"{value}: there is no such user, write the whole path") from error


S = TypeVar("S", bound=BaseModel)


class RunSettings(Section):
    """Where results go and what makes them repeatable."""

    dir: Path = Path("runs/default")
    """Folder of the run; each stage writes a subfolder named after itself."""
    models: Literal["embedded", "trained"] = "embedded"
    """Generator, gate and extractor: those inside the package (EuroSAT's bands and classes), or
    those that `rslow train` wrote into `dir`."""
    seed: NonNegativeInt = 0
    """Of every random choice: the same seed and settings give the same results on the same kind of
    machine."""
    device: Device = "auto"
    """`auto` is cuda where there is one; in a batch job each worker chooses for itself."""
    threads: NonNegativeInt = 0
    """CPU threads of torch; 0 leaves torch's own choice."""


class DataSettings(Section):
    """The tiles to learn from and to be measured on."""

    kind: Literal[
        "none",
        "eurosat",
        "folder",
        "pictures",
        "scenes",
        "chips",
        "images",
        "geopackage",
        "stac",
    ] = "none"
    """`none`: no real tiles at hand; the embedded models need none, but then no real tile is
    shown beside a generated one. `eurosat`: torchgeo.datasets.EuroSAT. `folder`: class-named
    subfolders of GeoTIFFs. `pictures`: class-named subfolders of JPEG or PNG files, also in the
    layout of torchvision.datasets.EuroSAT. With a class for every pixel, `scenes`: images and
    masks of any extent and CRS, matched by where they lie; `chips`: an image and a mask of the
    same grid each, matched by name. For catalogs alone, `images`: a folder of GeoTIFFs;
    `geopackage`: a layer that names GeoTIFFs; `stac`: a STAC in files."""
    root: Path = Path("data")
    """EuroSAT's folder, the one with the class-named subfolders, a GeoPackage, or the
    catalog.json, collection.json or items of a STAC."""
    layer: str | None = None
    """GeoPackage: the layer to read; the first when missing."""
    download: bool = False
    """EuroSAT only: let torchgeo fetch the 2 GB archive when it is not in `root`."""
    bands: tuple[str, ...] | None = None
    """The bands to use, by name, in the order to use them; all the files have when missing."""
    file_bands: tuple[str, ...] | None = None
    """The order of the bands in files that carry no band descriptions; EuroSAT's is known. Words
    that name no band of Sentinel-2, such as QA60, stand for bands that are not used."""
    level: Level | None = None
    """Processing level of the files; EuroSAT is L1C. When missing, what the data say, else L1C."""
    scale: PositiveFloat | None = None
    """Digital numbers per unit of reflectance. When missing, what the data say, else 10000."""
    dn_offset: float | None = None
    """Added to digital numbers before division: -1000 from processing baseline 04.00 on. When
    missing, what the data say, else 0."""
    classes: ClassNames | None = None
    """EuroSAT and folder: the classes to use, in order; all when missing."""
    images: Path | None = None
    """Images, scenes and chips: the folder of the images, with subfolders."""
    masks: Path | None = None
    """Scenes and chips: the folder of the masks, with subfolders."""
    image_name: str = "*.tif"
    """Images, scenes and chips: which files of `images` to use. Of chips, what stands for the *
    is the name by which image and mask find each other; several dates may share a mask."""
    mask_name: str = "*.tif"
    """Scenes and chips: which files of `masks` to use."""
    mask_classes: MaskClasses | None = None
    """Scenes and chips: the class of each value of a mask, or null where a value means unknown.
    255 and the file's declared nodata are unknown unless they are named here; so is `?`."""
    tile_size: PositiveInt = Field(default=64, multiple_of=16)
    """Side in pixels that every tile must have, or that is cut out of scenes and chips."""
    stride: PositiveInt | None = None
    """Pixels from one training tile of scenes or chips to the next, `tile_size` when missing; in
    scenes as many tiles lie at random places. Tiles to validate and test on never overlap. In
    catalogs of other kinds, from one tile to the next."""
    block_size: PositiveFloat = 2_000.0
    """Scenes and chips: side in metres of the blocks of land that are split as a whole."""
    block_seed: NonNegativeInt = 0
    """Scenes and chips: another seed puts other blocks on other sides."""
    max_nodata: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of a tile's pixels that may be nodata, by tags or masks of the files, or 0 in
    every band over an area where files say nothing; of scenes and chips
    such tiles are left out."""
    skip_bad: bool = False
    """Leave out files that cannot be used instead of stopping at the first."""
    val_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for validation: of scenes and chips by block, of a folder without
    train/val/test subfolders by file."""
    test_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for the test, likewise."""
    reflectance: tuple[float, float] | None = None
    """Pictures: the reflectance that bytes 0 and 255 stand for."""
    chroma: Literal["full", "half"] = "half"
    """Pictures: resolution of their colour differences, half in most JPEGs."""
    more: tuple["DataSettings", ...] = ()
    """Further tiles that the generator learns from (gan.recipe=frozen), with fewer bands or in
    other numbers; a picture whose name is in a split above belongs to the same split here, and
    other kinds with one in another split are refused."""
    attribution: str = "Contains modified Copernicus Sentinel data"
    """Notice written into every exported tile, as the licence of Sentinel data asks."""

    @property
    def masked(self) -> bool:
        """Whether these are tiles with a class for every pixel."""
        return self.kind in ("scenes", "chips")

    @model_validator(mode="after")
    def _complete(self) -> "DataSettings":
        if self.kind == "images" and self.images is None:
            raise ValueError("data.kind=images needs data.images")
        if self.kind == "pictures":
            missing = [n for n in ("bands", "reflectance") if getattr(self, n) is None]
            if missing:
                raise ValueError(
                    f"data.kind=pictures needs {' and '.join(missing)}: pictures name neither "
                    "their bands nor the reflectance that their bytes stand for"
                )
        if self.reflectance is not None and not self.reflectance[0] < self.reflectance[1]:
            raise ValueError("reflectance must rise from byte 0 to byte 255")
        if not self.masked:
            return self
        needed = ("images", "masks", "mask_classes")
        missing = [f"data.{name}" for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"data.kind={self.kind} needs {', '.join(missing)}")
        named = self.mask_classes or {}
        if len(set(named.values()) - {None}) < 2:
            raise ValueError("mask_classes must name two classes or more, such as {0: a, 1: b}")
        if self.stride is not None and self.stride > self.tile_size:
            raise ValueError(f"stride {self.stride} leaves gaps between tiles of {self.tile_size}")
        for name in ("image_name", "mask_name"):
            if self.kind == "chips" and getattr(self, name).count("*") != 1:
                raise ValueError(f"{name} {getattr(self, name)!r} must hold one * for chips")
        return self


class CatalogSettings(Section):
    """The catalog of tiles that jobs work on."""

    path: Path | None = None
    """The GeoParquet file; run.dir/catalog.parquet when missing."""
    collection: str = Field(default="tiles", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What `rslow catalog build` calls these tiles: their ids begin with it."""
    sample: PositiveInt = 1_000
    """Tiles of each collection that `rslow catalog check` reads, evenly spread."""


class AugmentSettings(Section):
    """One augmentation pipeline for target, extractor and discriminator."""

    flip: bool = True
    """The eight symmetries of the square, for real tiles: they have no preferred direction."""
    shift: float = Field(default=0.125, ge=0.0, lt=0.5)
    """Largest shift in whole pixels, as a share of the side; edges are reflected."""
    zoom: float = Field(default=1.2, ge=1.0, le=2.0)
    """Largest isotropic magnification."""
    cutout: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Side of the square that is blanked, as a share of the tile's side."""
    brightness: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Range of the one factor common to all bands."""
    band_gain: float = Field(default=0.02, ge=0.0, lt=0.5)
    """Range of the independent gain of each band: 2 % is the calibration uncertainty."""
    probability: float = Field(default=0.8, ge=0.0, le=1.0)
    """Chance of each of shift, zoom, cutout and gains."""


class ClassifierSettings(Section):
    """How a classifier of ours is trained; for the target and for the extractor."""

    architecture: Architecture = "small_cnn"
    """`small_cnn`, `resnet`, `residual_cnn`, or `timm:NAME` for any timm backbone."""
    width: PositiveInt = 48
    """Channels of the first stage of the CNNs of ours."""
    epochs: PositiveInt = 60
    """Times that every training tile is shown."""
    average_epochs: NonNegativeFloat = 3.0
    """Half-life of the running average of the weights, in epochs; 0 averages nothing."""
    batch_size: PositiveInt = 32
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 2e-3
    """Step size of Adam."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay (AdamW)."""
    label_smoothing: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of a label's probability that is spread over all classes, in training."""


class SegmenterSettings(Section):
    """How a segmentation network of ours is trained, where the data have masks."""

    encoder: str = "resnet18"
    """Encoder of the U-Net, by its name in segmentation_models_pytorch; not pretrained."""
    width: PositiveInt = 32
    """Channels of the decoder at full resolution; coarser stages are wider."""
    epochs: PositiveInt = 60
    """Times that every training tile is shown."""
    average_epochs: NonNegativeFloat = 3.0
    """Half-life of the running average of the weights, in epochs; 0 averages nothing."""
    batch_size: PositiveInt = 32
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 2e-3
    """Step size of Adam."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay (AdamW)."""
    class_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """A class counts by its share of the pixels to the power of minus this: 0 weights nothing,
    1 makes all classes count the same, which finds more of a rare one and claims too much."""


class ExtractorSettings(ClassifierSettings):
    """The extractor: another architecture than the target."""

    architecture: Architecture = "residual_cnn"
    width: PositiveInt = 24


class ModelFormat(Section):
    """What a foreign model reads and returns."""

    bands: tuple[str, ...] | None = None
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
    classes: ClassNames | None = None
    """The model's own class list, in the order of its outputs. One that returns
    a single number, for or against, has two: the one against comes first."""
    output: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the model returns. `probabilities` sum to 1, or to 100 as per cent;
    they may be rounded. `sigmoid` is one number from 0 to 1 for each class, as models for several
    labels return: its log-odds are taken as logits. `lightgbm` and `sklearn` are asked for what
    is set: raw scores and decision_function as logits, or probabilities."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this."""
    batch_size: PositiveInt = 32
    """Largest number of tiles in one forward pass."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelFormat":
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, len(self.bands or ())):
                raise ValueError(
                    f"{name} has {len(values)} values for {len(self.bands or ())} bands"
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        if self.classes is not None and len(self.classes) < 2:
            raise ValueError("classes must list at least two, also for a model of one output")
        if self.input_fit == "mirror" and self.input_size is None:
            raise ValueError("input_fit mirror needs input_size, the side of the model's window")
        return self


class TargetSettings(ModelFormat):
    """The model under test: trained by `rslow train target`, or from elsewhere."""

    kind: Literal[
        "embedded",
        "trained",
        "torchgeo",
        "timm",
        "smp",
        "export",
        "torchscript",
        "python",
        "onnx",
        "lightgbm",
        "sklearn",
        "callable",
        "process",
    ] = "embedded"
    """`embedded` is one inside the package, `trained` what `rslow train target` wrote into
    run.dir; the others are foreign and read `path`, `python` or `command`."""
    embedded: Literal["visible", "multispectral"] = "multispectral"
    """Which one inside the package: that of the three visible bands, which learned from 17,471
    tiles, or that of all 13 bands, which learned from 273."""
    train: ClassifierSettings = ClassifierSettings()
    """The classifier that `rslow train target` makes of labelled tiles."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """The network that `rslow train target` makes of scenes and chips."""
    path: Path | None = None
    """Checkpoint, program or model file of a foreign target; `package:NAME/FILE` is FILE inside
    the installed package NAME, which is not imported for that."""
    python: str | None = None
    """`python`: `module:factory`; the factory takes no argument and returns an nn.Module.
    `callable`: `module:function`; the function takes a float32 array b c h w."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """`process`: the program that answers, and its arguments, without a shell; an argument
    `package:NAME/FILE` is FILE inside the installed package NAME."""
    startup_seconds: PositiveFloat = 120.0
    """`process`: time until the program says that it is ready."""
    batch_seconds: PositiveFloat = 60.0
    """`process`: time for the answer to one batch."""
    architecture: str | None = None
    """`timm`: the model's name. `smp`: a name of segmentation_models_pytorch, such as unet."""
    encoder: str | None = None
    """`smp`: the encoder's name, such as resnet34."""
    rows: Literal["pixel", "tile", "statistics"] = "pixel"
    """`lightgbm` and `sklearn`: what a row of their table is. `pixel`: the bands of one pixel,
    so that the target answers for every pixel; `tile`: all pixels of a tile, band after band,
    line after line; `statistics`: the means of all bands of a tile, then their standard
    deviations."""

    @field_validator("command")
    @classmethod
    def _as_in_a_shell(cls, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if words is None else tuple(map(os.path.expanduser, words))

    @model_validator(mode="after")
    def _complete(self) -> "TargetSettings":
        if self.kind != "embedded" and self.embedded != _field_default(self, "embedded"):
            raise ValueError(f"embedded has no effect on target kind {self.kind}, remove it")
        if self.kind in ("embedded", "trained"):
            return self
        needed = ("bands", "classes", *_NEEDED.get(self.kind, ("path",)))
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"target kind {self.kind} needs {', '.join(missing)}")
        for name, kinds in _ONLY.items():
            if self.kind not in kinds and getattr(self, name) != _field_default(self, name):
                raise ValueError(f"{name} has no effect on target kind {self.kind}, remove it")
        if self.output == "sigmoid" and self.kind in _ONLY["rows"]:
            raise ValueError(f"target kind {self.kind} returns logits or probabilities")
        return self


def _field_default(section: BaseModel, name: str) -> object:
    return section.__class__.model_fields[name].get_default()


#: What kinds of foreign targets need beside bands and classes, where that is not a path.
_NEEDED = {
    "timm": ("path", "architecture"),
    "smp": ("path", "architecture", "encoder"),
    "python": ("python",),
    "callable": ("python",),
    "process": ("command",),
}

#: Settings that mean something for some kinds of foreign targets alone.
_ONLY = {
    "command": ("process",),
    "startup_seconds": ("process",),
    "batch_seconds": ("process",),
    "encoder": ("smp",),
    "rows": ("lightgbm", "sklearn"),
}


class GeneratorSettings(Section):
    """What a generator of labelled tiles and one of tiles with masks have in common."""

    latent_global: PositiveInt = 64
    """Length of the latent vector that sets a tile's overall appearance."""
    latent_map: PositiveInt = 16
    """Channels of the latent map (one eighth of the tile's side) that sets its layout."""
    width: PositiveInt = 40
    """Channels of the generator at half resolution; coarser stages are wider."""
    critic_width: PositiveInt = 32
    """Channels of the discriminator at half resolution; coarser stages are wider."""
    images: PositiveInt = 200_000
    """Real tiles shown to the discriminator before training ends."""
    batch_size: PositiveInt = 8
    """Tiles in one step of training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' inner layers in training: bfloat16 is twice as fast where the processor
    knows it (avx512_bf16, amx or a recent GPU) and slower where it does not."""
    learning_rate: PositiveFloat = 4e-4
    """Step size of Adam."""
    final_rate: float = Field(default=0.25, gt=0.0, le=1.0)
    """The learning rate falls along a cosine to this share of its first value."""
    gamma: PositiveFloat = 100.0
    """Weight of the R1 and R2 gradient penalties, before scaling by 3 / bands."""
    penalty_every: PositiveInt = 16
    """The penalties are computed every so many steps, with their weight times as large."""
    ema_images: PositiveInt = 5_000
    """Half-life of the generator's weight average, in images."""
    checkpoint_images: PositiveInt = 10_000
    """A checkpoint, a sample sheet and a metrics line every so many images."""
    sheet_columns: PositiveInt = 8
    """Real and generated tiles in a row of the sample sheet."""
    whitening: float = Field(default=0.01, gt=0.0)
    """Share of the mean band variance added to each principal variance (tempering)."""


class GanSettings(GeneratorSettings):
    """The class-conditional generator and its critics."""

    recipe: Literal["native", "frozen"] = "native"
    """`native`: one discriminator that learns to see from the tiles of data alone. `frozen`:
    critics on the features of a network that was pretrained on photographs, beside small native
    ones; it needs far fewer images, and reads the tiles of data.more too."""
    features: Literal["efficientnet_lite0", "efficientnet_lite1"] = "efficientnet_lite0"
    """Frozen: the pretrained network that the critics see through. efficientnet_lite2 is none of
    them: it is kept for the probe of `rslow evaluate`."""
    feature_side: PositiveInt = 96
    """Frozen: side in pixels to which tiles are enlarged for it."""
    feature_gamma: PositiveFloat = 50.0
    """Frozen: weight of the gradient penalties on features."""

    latent_layout: NonNegativeInt = 0
    """Channels of a map of the latent map's size that is computed from class and latent vector,
    for what has to agree over the whole tile, such as a road; 0 leaves it out."""
    depth: PositiveInt = 1
    """Residual blocks of the generator at an eighth of the resolution; one less at a quarter."""
    overfit_target: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overfitting of the discriminator (0 none, 1 complete) at which the chance of augmentation
    is held; it starts at augment.probability and, when this is missing, stays there."""
    blend_images: NonNegativeInt = 0
    """Images over which the classes come apart, from one for all."""
    reconstruction: NonNegativeFloat = 0.0
    """Weight of redrawing real tiles from latents that an encoder finds; 0 leaves it out."""
    self_supervision: NonNegativeFloat = 0.0
    """Weight of redrawing real tiles from the discriminator's features, which keeps it from
    learning few tiles by heart; 0 leaves it out."""

    @model_validator(mode="after")
    def _effective(self) -> "GanSettings":
        for name in _OF_RECIPE["frozen" if self.recipe == "native" else "native"]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with recipe {self.recipe}, remove it")
        return self


#: Settings of the generator's training that mean something for one recipe alone.
_OF_RECIPE = {
    "native": (
        *("latent_layout", "depth", "overfit_target", "blend_images", "reconstruction"),
        *("self_supervision", "precision"),
    ),
    "frozen": ("features", "feature_side", "feature_gamma"),
}


class MaskGanSettings(GeneratorSettings):
    """The generator of tiles with given masks, for data with masks in place of labels."""

    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    gamma: PositiveFloat = 0.02
    """Weight of the gradient penalties, a pixel, before scaling by 3 / bands."""
    mix_weight: NonNegativeFloat = 1.0
    """Weight of the discriminator's consistency on tiles that are part real, part generated."""
    bank: PositiveInt = 500
    """Training masks stored with the generator, for which a search draws tiles."""


class GateSettings(Section):
    """What drops unrealistic tiles, fitted against the finished generator."""

    recipe: Literal["native", "frozen"] = "frozen"
    """What decides. `frozen`: linear scores on features of a pretrained network and on spectra and
    texture, fitted on real and on generated tiles. `native`: the critic, the likeness to training
    tiles and the spectra together; it drops little, and is the only one for tiles with masks."""
    tiles: PositiveInt = 1_000
    """Recipe `frozen`: tiles of each generated kind that the scores are fitted on, and as many
    others on which the share that the gate drops is measured."""
    most_real: PositiveInt = 6_000
    """Recipe `frozen`: real training tiles of each source that the scores are fitted on at most."""
    side: PositiveInt = 128
    """Recipe `frozen`: pixels to which tiles are enlarged for the pretrained network."""
    generators: tuple[Path, ...] = ()
    """Recipe `frozen`: checkpoints of other generators whose tiles the scores are fitted on too;
    the more kinds of generated tiles they know, the more unknown ones they drop."""
    held_out: tuple[Path, ...] = ()
    """Recipe `frozen`: checkpoints of generators on which the power is measured alone."""
    leave_out: bool = True
    """Recipe `frozen`: whether to measure also what share of each kind is dropped by scores that
    were fitted without it."""
    width: PositiveInt = 32
    """Channels of the critic at half resolution; coarser stages are wider."""
    images: PositiveInt = 20_000
    """Real tiles shown to the critic before its training ends."""
    batch_size: PositiveInt = 16
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 4e-4
    """Step size of Adam."""
    gamma: PositiveFloat = 100.0
    """Weight of the gradient penalties, before scaling by 3 / bands."""
    ema_images: PositiveInt = 4_000
    """Half-life of the weight average, in images."""


class EncoderSettings(Section):
    """The encoder: real tiles to latents, from which the inversion of a tile starts."""

    images: PositiveInt = 16_000
    """Real tiles shown before training ends, and as many generated ones."""
    batch_size: PositiveInt = 16
    """Half of them are real."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    latent_weight: NonNegativeFloat = 0.1
    """Weight of finding the very latent of a generated tile, beside one that redraws it."""
    ema_images: PositiveInt = 2_000
    """Half-life of the weight average, in images."""


class SplittingSettings(Section):
    """Search without gradients, which also says how probable low confidence is."""

    particles: int = Field(default=32, ge=4)
    """Latents of a population; each population is of one condition."""
    moves: PositiveInt = 3
    """Proposals to each copy on a level."""
    max_levels: PositiveInt = 25
    """Levels after which a population gives up; each has half the probability of the last."""
    drift: NonNegativeFloat = 0.5
    """Mode `sample` of a target with gradients: weight of these in a move; 0 does without."""
    replicates: PositiveInt = 2
    """Populations of each condition before the search may stop at search.count; from two on
    the probability has an interval."""


class StudentSettings(Section):
    """Search by the gradients of a student that learns the target's confidence."""

    first: PositiveInt = 512
    """Random latents that the target is asked about first."""
    rounds: NonNegativeInt = 4
    """Rounds in which it is asked about tiles at which the student expects low confidence."""
    each: PositiveInt = 128
    """Tiles of each of these rounds."""
    steps: PositiveInt = 300
    """Steps of learning, of 32 tiles each, after each round."""


class SearchSettings(Section):
    """Latent search for tiles the target is unsure of."""

    count: PositiveInt = 64
    """Accepted samples to stop at."""
    classes: tuple[str, ...] | None = None
    """Conditions to search, by name; all of the generator's when missing. Where a generator
    draws tiles of given masks, each of its masks is a condition."""
    most_conditions: PositiveInt | None = None
    """Search no more than so many conditions, random ones; no limit when missing."""
    method: Literal["auto", "gradient", "student", "splitting"] = "auto"
    """`gradient` follows the target's own gradients, `student` those of a network that learns
    its confidence, `splitting` needs none and says how probable low confidence is. `auto` takes
    the first where the target gives gradients; where not, a student in mode `yield` and
    splitting in mode `sample`."""
    splitting: SplittingSettings = SplittingSettings()
    student: StudentSettings = StudentSettings()
    mode: Literal["yield", "sample"] = "yield"
    """`yield` finds the most hard tiles for the budget; `sample` draws tiles of the prior
    given low confidence by splitting, for several times as many evaluations, and says how
    probable low confidence is. Where the target gives gradients, moves use them."""
    tau: float = Field(default=0.5, gt=0.0, lt=1.0)
    """A sample is of low confidence when the target's largest probability is below this."""
    pixel_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Targets that answer for every pixel: their confidence in a tile is the mean of the largest
    probabilities over this share of its pixels, the least certain ones."""
    region: Annotated[str | None, AfterValidator(class_name)] = None
    """Generators of tiles with given masks: the class over whose pixels the confidence is read,
    and masks without it are not searched; all known pixels when missing."""
    tau_quantile: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Takes the place of tau: this quantile of the target's confidence on held-out reals;
    `rslow batch review`: on the scored tiles of the catalog."""
    per_condition: PositiveInt | None = None
    """Most samples of one condition; 1.25 times an equal share when missing."""
    per_cell: PositiveInt | None = 4
    """Most samples of one condition, second class of the target and cluster of looks."""
    novelty_quantile: float | None = Field(default=0.05, ge=0.0, le=1.0)
    """A tile that is nearer to one found before than this quantile of the distances of real
    tiles to their nearest other one is a duplicate; null keeps duplicates."""
    clusters: PositiveInt = 20
    """Clusters of looks, found among real tiles."""
    max_evaluations: PositiveInt = 50_000
    """Budget in evaluations of the target, the random-latent baseline not counted."""
    max_minutes: PositiveFloat = 30.0
    """Budget in minutes, of the search and then of the random-latent baseline together."""
    slots: PositiveInt = 16
    """Latents that move at the same time; more than a micro-batch pays on a GPU only."""
    micro_batch: PositiveInt = 16
    """Fixed, padded batch of every network pass, so that a sample is the same in any company."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam on the latent."""
    max_age: PositiveInt = 40
    """Steps after which a latent that found nothing is given up."""
    realism_weight: NonNegativeFloat = 0.0
    """Weight of a penalty in the energy for what the generator's own discriminator finds unreal.
    It pays where the gate's critic rejects most of what is found; each step takes 1.5 times as
    long."""
    spectra_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for spectra that real pixels do not have."""
    review_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for what reviewers would reject; it has no effect before
    the first update by reviews."""
    mixing_steps: PositiveInt = 10
    """Mode `sample`: moves of a population that has arrived, which let copies forget each other."""
    false_rejection: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Share of held-out real tiles that all parts of the gate together may reject."""
    prior_tail: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Each latent is kept inside the central 1 - prior_tail of the prior's norm."""
    update: NonNegativeInt | None = None
    """Which update of the gate by reviews to use: 0 for none, the newest when missing."""
    baseline_evaluations: NonNegativeInt = 2_000
    """Random latents evaluated under the same gate for comparison; 0 leaves the baseline out."""


class ReporterSettings(ClassifierSettings):
    """The reporter: wider than a target, so that its features tell more apart."""

    width: PositiveInt = 64


class PictureClassifierSettings(ClassifierSettings):
    """The classifier that learns from pictures: there are many, so fewer epochs do."""

    width: PositiveInt = 64
    epochs: PositiveInt = 20
    """Times that every training tile is shown."""
    batch_size: PositiveInt = 64
    """Tiles in one step of training."""


class EvaluateSettings(Section):
    """How the generator's quality is measured, on tiles drawn for nothing else."""

    split: Literal["test", "val"] = "test"
    """The real tiles that generated ones are compared with. `val` while models are still being
    chosen, so that the test split is used once, at the end."""
    tiles_per_class: PositiveInt = 100
    """Generated tiles a class that the figures are measured on."""
    reporter: ReporterSettings = ReporterSettings()
    """The network whose features the figures speak of; it selects and gates nothing."""
    classifier: ClassifierSettings = ClassifierSettings()
    """Trained on real and on generated tiles alike, for as many steps: `epochs` on real ones."""
    probe_tiles: PositiveInt = 1_000
    """With pictures in data.more: real and generated tiles, each, that the probe tells apart; the
    same number of every class."""
    picture_tiles: PositiveInt = 5_000
    """With pictures in data.more: generated tiles that KID, FD, precision and recall are measured
    on, beside as many real ones and the whole split."""
    cas_rgb: bool = False
    """With pictures in data.more: also train classifiers on real pictures, on as many generated
    ones and on pictures without texture, and compare their accuracy. It takes hours."""
    cas_seeds: PositiveInt = 3
    """Classifiers of each kind that cas_rgb trains."""
    cas_classifier: PictureClassifierSettings = PictureClassifierSettings()
    """The classifiers of cas_rgb."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """Tiles with masks: the network that looks for the masks in generated and in real tiles; it
    selects and gates nothing."""


class ReviewSettings(Section):
    """The package that a person judges in QGIS."""

    label: Literal["confirm", "blind"] = "confirm"
    """`confirm`: the reviewer confirms or corrects a suggested class; `blind`: names it unseen."""
    max_samples: PositiveInt = Field(default=500, le=500)
    """Samples in one package; more make reviews long and QGIS slow."""
    round: PositiveInt | None = None
    """Round of reviews that the package belongs to; each round draws other latents. One more
    than the gate's update when missing."""
    real_share: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Blind packages: share of real held-out tiles, which measure how often a reviewer takes
    reality for a fake. Without data there are none."""
    audit_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Blind packages: share of tiles that the gate rejected; without them nobody would learn
    what the gate rejects wrongly."""


class TestsetSettings(Section):
    """Releases of the test set."""

    licence: Annotated[str, Field(pattern=r"\S")] | None = None
    """Licence of the tiles of a release, which whoever publishes them chooses: an identifier of
    SPDX such as CC-BY-4.0, or the text. `rslow testset build` needs it."""


class UpdateSettings(Section):
    """What reviews change: a head on the critic's features, then the critic, then the GAN."""

    refine_from: PositiveInt = 200
    """Rejected samples from which the critic's last stage is trained on, with them as fakes."""
    images: PositiveInt = 10_000
    """Real tiles shown in that training."""
    batch_size: PositiveInt = 16
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 1e-4
    """Step size of Adam."""
    ema_images: PositiveInt = 2_000
    """Half-life of the weight average, in images."""
    generator_images: NonNegativeInt = 0
    """Real tiles shown in training the generator on against the updated critic; 0 leaves it."""


class InversionSettings(Section):
    """How the latent of a real tile is looked for."""

    steps: NonNegativeInt = 150
    """Steps of Adam from the encoder's guess."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam."""
    quantile: float = Field(default=0.05, gt=0.0, lt=1.0)
    """A tile is redrawn well enough if it is nearer to the real one, in pixels and in features,
    than this quantile of pairs of real tiles of its class are to each other. Others are reported
    and get no variants."""


class VariantSettings(Section):
    """Hard variants of the real tiles of a catalog: `rslow batch generate`."""

    inversion: InversionSettings = InversionSettings()
    count: PositiveInt = 5
    """Variants of a tile at most."""
    attempts: PositiveInt = 10
    """Latents that are searched for them; the first starts at the tile itself."""
    reach: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Share of fresh noise in the latents that the others start from."""
    budget: float = Field(default=0.2, gt=0.0, lt=1.0)
    """A variant has to be nearer to its tile, in pixels and in features, than this quantile of
    pairs of real tiles of its class are to each other."""
    weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy near the end of that budget."""

    @model_validator(mode="after")
    def _fits(self) -> "VariantSettings":
        if self.budget < self.inversion.quantile:
            raise ValueError("variants.budget is below variants.inversion.quantile")
        if self.attempts < self.count:
            raise ValueError("variants.attempts is below variants.count")
        return self


class BatchSettings(Section):
    """Jobs over a catalog: on which tiles, and how they are worked on."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Work on tiles of these splits alone, such as val and test; on all when missing."""
    collections: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Work on tiles of these collections alone."""

    executor: Literal["serial", "process", "dask"] = "process"
    """`serial`: one process; `process`: several of this machine; `dask`: a cluster on this
    machine, or the one that --scheduler names."""
    workers: NonNegativeInt = 0
    """Processes of this machine; 0 is one a core."""
    chunk: PositiveInt | None = None
    """Tiles that are worked on and stored at once, on average; when missing 256 to score and 16
    to generate, which takes seconds a tile."""
    seconds: PositiveFloat | None = 1_200.0
    """Time limit of a chunk, after which its process is killed and the tile that hangs is looked
    for; null sets none."""
    per_class: PositiveInt | None = None
    """Generate and review: most tiles of one class that are chosen, by label or else, in reviews,
    by prediction; null sets no limit."""
    per_region: PositiveInt | None = None
    """Generate and review: most tiles of one region that are chosen; null sets no limit."""
    region_degrees: PositiveFloat = 1.0
    """Side of the cells of longitude and latitude that are regions."""
    regions: Path | None = None
    """A vector file of polygons with a column `name`, which are the regions instead; what lies in
    none of them is one more."""


class ExperimentSettings(Section):
    """Replays of all designs on a pool whose labels are known: `rslow estimate experiment`."""

    budgets: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (
        0.005,
        0.01,
        0.02,
    )
    """Labels, as shares of the pool."""
    repetitions: int = Field(default=200, ge=20)
    """Draws of each design at each budget."""
    blind: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.3, 1.0)
    """Shares of the errors that are hidden where none is expected, a stress test each."""
    validation: int = Field(default=5_000, ge=50)
    """Where estimate.validation names no table: random units that are taken out of the pool for
    it, a fifth of the pool at most."""
    random_latents: Path | None = None
    """Table of tiles from random latents, see `rslow estimate generated`: the paper's own arm."""


class RareSettings(Section):
    """How rare low confidence and disagreement are under the generator: `rslow estimate rare`."""

    thresholds: (
        Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] | None
    ) = None
    """Confidences whose probability to fall below is told: all above 1 / classes of the target,
    which no largest probability falls below; when missing, those of 0.99, 0.9, 0.7, 0.5 and 0.4."""
    classes: Annotated[ClassNames, Field(min_length=1)] | None = None
    """Conditions, by name; all of the generator's when missing."""
    replicates: PositiveInt = 10
    """Independent populations of latents of each condition, ten at least: the interval comes from
    how they scatter."""
    particles: PositiveInt = 100
    """Latents of a population: four times as many halve the interval."""
    survivors: PositiveInt = 20
    """Latents of a population that go on to the next level, ten at least; a divisor of
    particles."""
    max_levels: PositiveInt = 8
    """Levels after which a population gives up; each has survivors / particles of the probability
    of the last."""


class EstimateSettings(Section):
    """Error estimates from few labels."""

    scores: Path | None = None
    """Table of scores, Parquet or CSV: columns id, predicted, confidence and, where known, label
    and group. When missing, the pool is what `rslow batch score` scored, within batch.splits and
    batch.collections."""
    surrogates: tuple[Path, ...] = ()
    """Tables of other models' scores of the same units, which tell more of where the target
    errs."""
    validation: Path | None = None
    """Table of labelled units, drawn uniformly from units like the pool's: they tell what error
    probabilities are worth. Surrogates score them too."""
    generated: Path | None = None
    """Table of generated tiles with labels, such as samples.parquet of `rslow generate`: an error
    predictor learned from it is taken if validation labels say that it is better."""
    measure: Literal["confidence", "margin", "entropy"] = "confidence"
    """What tells how sure the target is; the other two need all probabilities."""
    classes: ClassNames = ()
    """True classes beside those that the target and the labels of the pool name."""
    design: Literal["uniform", "olofsson", "strat", "is", "lure", "asi", "adaptive"] = "strat"
    """How units are drawn: uniformly; by strata of predicted classes; by strata of error
    probability; with replacement; one after another; with fixed size; in waves that learn."""
    labels: PositiveInt = 300
    """Units to draw."""
    defensive: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the labels drawn uniformly, against errors where none are expected; 0.5 to
    certify."""
    width: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Wanted width of the interval, for which `plan` tells the labels."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """How often intervals shall cover the pool's error rate."""
    unclear: Literal["refuse", "wrong", "right"] = "refuse"
    """What units count as whose class nobody could tell."""
    experiment: ExperimentSettings = ExperimentSettings()
    rare: RareSettings = RareSettings()


class Settings(Section):
    """The whole tree, one attribute a YAML section."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    catalog: CatalogSettings = CatalogSettings()
    augment: AugmentSettings = AugmentSettings()
    target: TargetSettings = TargetSettings()
    extractor: ExtractorSettings = ExtractorSettings()
    gan: GanSettings = GanSettings()
    mask_gan: MaskGanSettings = MaskGanSettings()
    gate: GateSettings = GateSettings()
    encoder: EncoderSettings = EncoderSettings()
    search: SearchSettings = SearchSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    review: ReviewSettings = ReviewSettings()
    testset: TestsetSettings = TestsetSettings()
    update: UpdateSettings = UpdateSettings()
    variants: VariantSettings = VariantSettings()
    batch: BatchSettings = BatchSettings()
    estimate: EstimateSettings = EstimateSettings()


def load(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and apply `section.key=value` overrides, whose values are YAML too.

    Raises:
        SettingsError: the file is missing or no YAML, a key is unknown or given twice, a value
            is ambiguous or does not fit.
    """
    tree: Any = {}
    lines: dict[tuple[str, ...], int] = {}
    if path is not None:
        path = path.expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"cannot read settings {path}: {error.strerror}", remedy="give a YAML file"
            ) from error
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"{path} is no YAML: {error}", expected="text encoded as UTF-8"
            ) from error
        document = strict_yaml.read(text, str(path))
        tree, lines = document.value or {}, document.lines
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path} holds a {type(tree).__name__}", expected="sections of settings"
        )
    for override in overrides:
        keys = _apply(tree, override)
        lines = {where: line for where, line in lines.items() if where[: len(keys)] != keys}
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(
            _describe(error, f"{path}", lines),
            command="settings",
        ) from error


def checked(section: type[S], values: Mapping[str, Any]) -> S:
    """Return a section of settings with these values.

    Args:
        section: class of the section.
        values: by key; defaults are taken for what is missing.

    Raises:
        SettingsError: a key is unknown, or a value does not fit.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(_describe(error, "", {})) from error


def _apply(tree: dict[str, Any], override: str) -> tuple[str, ...]:
    """Put the value of an override into the tree and return the keys that lead to it."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise SettingsError(f"override {override!r}", expected="section.key=value")
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise SettingsError(f"override {override!r}: {key} is a value", expected="a section")
        tree = branch
    tree[keys[-1]] = strict_yaml.read(text, f"override {override!r}").value
    return tuple(keys)


def keys_of(section: type[BaseModel], name: str = "") -> list[str]:
    """Return every key below a section that may be set, with its sections.

    Args:
        section: class of the section.
        name: of the section, before the keys.
    """
    found = []
    for field, info in section.model_fields.items():
        key, kind = f"{name}.{field}" if name else field, info.annotation
        inside = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += keys_of(kind, key) if inside else [key]  # type: ignore[arg-type]  # a section
    return found


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """Return the suggestion for a name that is unknown; empty where nothing is near it.

    A key in another section is suggested, too: `search.count` for `count`.

    Example:
        >>> did_you_mean("serach.tau", ["search.tau", "search.count"])
        'did you mean search.tau?'
    """
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.75)
    if not near:
        same = [key for key in known if key.rpartition(".")[2] == wrong.rpartition(".")[2]]
        near = same if len(same) <= _MOST_SUGGESTED else []
    return f"did you mean {' or '.join(near)}?" if near else ""


def _describe(error: ValidationError, file: str, lines: Mapping[tuple[str, ...], int]) -> str:
    """Return what is wrong with which settings, and in which line of the file."""
    problems = []
    for problem in error.errors():
        keys = tuple(str(part) for part in problem["loc"])
        name = f"setting {'.'.join(keys)}" if keys else "the settings"
        if keys in lines:
            name = f"{file} line {lines[keys]}: {name}"
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            near = did_you_mean(".".join(keys), keys_of(Settings))
            problems.append(f"{name} is unknown" + (f" ({near})" if near else ""))
        elif problem["type"] == "string_type":
            problems.append(f"{name} is {problem['input']!r}, write text in quotes")
        else:
            problems.append(f"{name}: {what}")
    return ", ".join(problems)
