"""One YAML file is one frozen settings tree. A stage gets its section, never the whole tree.

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
"""Normalised as for all comparisons of class names, each once."""
MaskClasses = Annotated[dict[int, str | None], AfterValidator(_masked)]
Architecture = Annotated[str, Field(pattern="^(small_cnn|resnet|residual_cnn|timm:.+)$")]

WORKER = "RSLOW_WORKER"
"""The environment variable with the number of a worker process on its machine, from 0, by which
workers are distributed over its GPUs."""


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
    """Where results go and what makes them reproducible."""

    dir: Path = Path("runs/default")
    """Folder of the run; each stage writes a subfolder named after itself."""
    models: Literal["embedded", "trained"] = "embedded"
    """Generator, gate and extractor: those in the package (EuroSAT's bands and classes), or those
    that `rslow train` wrote into `dir`."""
    seed: NonNegativeInt = 0
    """Seed of every random choice: the same seed and settings give the same results on the same
    kind of machine."""
    device: Device = "auto"
    """`auto` is cuda if available; in a batch job each worker chooses for itself."""
    threads: NonNegativeInt = 0
    """CPU threads of torch; 0: torch's default."""


class DataSettings(Section):
    """The real tiles for training and evaluation."""

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
    """`none`: no real tiles; the embedded models need none, but then no real tile is shown beside a
    generated one. `eurosat`: torchgeo.datasets.EuroSAT. `folder`: class-named subfolders of
    GeoTIFFs. `pictures`: class-named subfolders of JPEG or PNG files, also in the layout of
    torchvision.datasets.EuroSAT. With one class per pixel, `scenes`: images and masks of any extent
    and CRS, matched by location; `chips`: pairs of image and mask on the same grid, matched by
    name. Only for catalogs, `images`: a folder of GeoTIFFs; `geopackage`: a layer that names
    GeoTIFFs; `stac`: a static STAC."""
    root: Path = Path("data")
    """EuroSAT's folder, the one with the class-named subfolders, a GeoPackage, or the
    catalog.json, collection.json or items of a STAC."""
    layer: str | None = None
    """GeoPackage: the layer to read; default is the first."""
    download: bool = False
    """EuroSAT only: let torchgeo fetch the 2 GB archive when it is not in `root`."""
    bands: tuple[str, ...] | None = None
    """The bands to use, by name and in this order; default is all bands of the files."""
    file_bands: tuple[str, ...] | None = None
    """The order of the bands in files without band descriptions; EuroSAT's is known. Names that are
    not Sentinel-2 bands, such as QA60, stand for bands that are not used."""
    level: Level | None = None
    """Processing level of the files; EuroSAT is L1C. Default is the level in their metadata, else
    L1C."""
    scale: PositiveFloat | None = None
    """Digital numbers per unit of reflectance. Default is the scale in the metadata, else 10000."""
    dn_offset: float | None = None
    """Added to digital numbers before division: -1000 from processing baseline 04.00 on. Default is
    the offset in the metadata, else 0."""
    classes: ClassNames | None = None
    """EuroSAT and folder: the classes to use, in order; default is all."""
    images: Path | None = None
    """Images, scenes and chips: the folder of the images, with subfolders."""
    masks: Path | None = None
    """Scenes and chips: the folder of the masks, with subfolders."""
    image_name: str = "*.tif"
    """Images, scenes and chips: which files of `images` to use. For chips, the part that matches *
    is the name by which image and mask are paired; several dates may share a mask."""
    mask_name: str = "*.tif"
    """Scenes and chips: which files of `masks` to use."""
    mask_classes: MaskClasses | None = None
    """Scenes and chips: the class of each value of a mask, or null if a value means unknown. 255
    and the file's declared nodata are unknown unless they are named here; so is `?`."""
    tile_size: PositiveInt = Field(default=64, multiple_of=16)
    """Side of every tile in pixels; tiles of this size are cut out of scenes and chips."""
    stride: PositiveInt | None = None
    """Spacing of training tiles of scenes or chips in pixels, default `tile_size`; in scenes as
    many tiles lie at random positions. Validation and test tiles never overlap. In catalogs of
    other kinds, the spacing of all tiles."""
    block_size: PositiveFloat = 2_000.0
    """Scenes and chips: side in metres of the blocks of land that are split as a whole."""
    block_seed: NonNegativeInt = 0
    """Scenes and chips: seed that assigns blocks to splits."""
    max_nodata: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of a tile's pixels that may be nodata: declared by tags or masks, or 0 in every
    band over an area if files declare nothing; in scenes and chips tiles with more are left out."""
    skip_bad: bool = False
    """Skip files that cannot be used instead of stopping at the first."""
    val_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for validation: by block for scenes and chips, by file for a folder without
    train/val/test subfolders."""
    test_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for testing, in the same way."""
    reflectance: tuple[float, float] | None = None
    """Pictures: the reflectance that bytes 0 and 255 stand for."""
    chroma: Literal["full", "half"] = "half"
    """Pictures: resolution of their colour differences (chroma), half in most JPEGs."""
    more: tuple["DataSettings", ...] = ()
    """Further tiles to train the generator on (gan.recipe=frozen), with fewer bands or another
    scale; a picture whose name is in a split above belongs to the same split here, while other
    kinds of data with a tile in another split are an error."""
    attribution: str = "Contains modified Copernicus Sentinel data"
    """Notice written into every exported tile, as the licence of Sentinel data requires."""

    @property
    def masked(self) -> bool:
        """Whether these are tiles with one class per pixel."""
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
                raise ValueError(f"{name} {getattr(self, name)!r} must contain one * for chips")
        return self


class CatalogSettings(Section):
    """The catalog of tiles for batch jobs."""

    path: Path | None = None
    """The GeoParquet file; default is run.dir/catalog.parquet."""
    collection: str = Field(default="tiles", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of these tiles in `rslow catalog build`; prefix of their ids."""
    sample: PositiveInt = 1_000
    """Tiles of each collection that `rslow catalog check` reads, evenly spread."""


class AugmentSettings(Section):
    """One augmentation pipeline for target, extractor and discriminator."""

    flip: bool = True
    """The eight symmetries of the square, for real tiles, which have no preferred direction."""
    shift: float = Field(default=0.125, ge=0.0, lt=0.5)
    """Largest shift in whole pixels, as a share of the side; edges are reflected."""
    zoom: float = Field(default=1.2, ge=1.0, le=2.0)
    """Largest isotropic magnification."""
    cutout: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Side of the square that is blanked, as a share of the tile's side."""
    brightness: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Range of the factor common to all bands."""
    band_gain: float = Field(default=0.02, ge=0.0, lt=0.5)
    """Range of the independent gain of each band: 2 % is the calibration uncertainty."""
    probability: float = Field(default=0.8, ge=0.0, le=1.0)
    """Probability of each of shift, zoom, cutout and gains."""


class ClassifierSettings(Section):
    """How our classifiers are trained: target and extractor."""

    architecture: Architecture = "small_cnn"
    """`small_cnn`, `resnet`, `residual_cnn`, or `timm:NAME` for any timm backbone."""
    width: PositiveInt = 48
    """Channels of the first stage of our CNNs."""
    epochs: PositiveInt = 60
    """Passes over the training tiles."""
    average_epochs: NonNegativeFloat = 3.0
    """Half-life of the running average of the weights, in epochs; 0: no averaging."""
    batch_size: PositiveInt = 32
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 2e-3
    """Step size of Adam."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay (AdamW)."""
    label_smoothing: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of a label's probability that is spread over all classes, in training."""


class SegmenterSettings(Section):
    """How our segmentation network is trained, for data with masks."""

    encoder: str = "resnet18"
    """Encoder of the U-Net, by its name in segmentation_models_pytorch; not pretrained."""
    width: PositiveInt = 32
    """Channels of the decoder at full resolution; coarser stages are wider."""
    epochs: PositiveInt = 60
    """Passes over the training tiles."""
    average_epochs: NonNegativeFloat = 3.0
    """Half-life of the running average of the weights, in epochs; 0: no averaging."""
    batch_size: PositiveInt = 32
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 2e-3
    """Step size of Adam."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay (AdamW)."""
    class_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """A class is weighted by its share of the pixels to the power of minus this: 0 weights all
    pixels equally, 1 all classes, which finds more of a rare class but overestimates it."""


class ExtractorSettings(ClassifierSettings):
    """The extractor: a different architecture from the target."""

    architecture: Architecture = "residual_cnn"
    width: PositiveInt = 24


class ModelFormat(Section):
    """Input and output of an external model."""

    bands: tuple[str, ...] | None = None
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
    classes: ClassNames | None = None
    """The model's class list, in the order of its outputs. A binary model with a single output has
    two: the negative class comes first."""
    output: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the model returns. `probabilities` sum to 1, or to 100 as percentages; they may be
    rounded. `sigmoid` is one number from 0 to 1 per class, as in multi-label models: its log-odds
    are taken as logits. `lightgbm` and `sklearn` return what is set: raw scores and
    decision_function as logits, or probabilities."""
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
            raise ValueError("classes must list at least two, also for a model with one output")
        if self.input_fit == "mirror" and self.input_size is None:
            raise ValueError("input_fit mirror needs input_size, the side of the model's window")
        return self


class TargetSettings(ModelFormat):
    """The model under test: trained by `rslow train target`, or external."""

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
    """`embedded` is a model in the package, `trained` the one that `rslow train target` wrote into
    run.dir; the others are external and use `path`, `python` or `command`."""
    embedded: Literal["visible", "multispectral"] = "multispectral"
    """Which model in the package: the one for the three visible bands, trained on 17,471 tiles, or
    the one for all 13 bands, trained on 273."""
    train: ClassifierSettings = ClassifierSettings()
    """The classifier that `rslow train target` trains on labelled tiles."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """The network that `rslow train target` trains on scenes and chips."""
    path: Path | None = None
    """Checkpoint, program or model file of an external target; `package:NAME/FILE` is FILE in the
    installed package NAME, which is not imported."""
    python: str | None = None
    """`python`: `module:factory`; the factory takes no argument and returns an nn.Module.
    `callable`: `module:function`; the function takes a float32 array b c h w."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """`process`: the program that answers, and its arguments, without a shell; an argument
    `package:NAME/FILE` is FILE in the installed package NAME."""
    startup_seconds: PositiveFloat = 120.0
    """`process`: seconds until the program reports that it is ready."""
    batch_seconds: PositiveFloat = 60.0
    """`process`: seconds for the answer to one batch."""
    architecture: str | None = None
    """`timm`: the model's name. `smp`: a name of segmentation_models_pytorch, such as unet."""
    encoder: str | None = None
    """`smp`: the encoder's name, such as resnet34."""
    rows: Literal["pixel", "tile", "statistics"] = "pixel"
    """`lightgbm` and `sklearn`: the rows of their table. `pixel`: the bands of one pixel, so that
    the target predicts a class per pixel; `tile`: all pixels of a tile, band by band, line by line;
    `statistics`: the means of all bands of a tile, then their standard deviations."""

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


#: Settings that kinds of external targets need besides bands and classes, if not a path.
_NEEDED = {
    "timm": ("path", "architecture"),
    "smp": ("path", "architecture", "encoder"),
    "python": ("python",),
    "callable": ("python",),
    "process": ("command",),
}

#: Settings that only have an effect for some kinds of external targets.
_ONLY = {
    "command": ("process",),
    "startup_seconds": ("process",),
    "batch_seconds": ("process",),
    "encoder": ("smp",),
    "rows": ("lightgbm", "sklearn"),
}


class GeneratorSettings(Section):
    """Settings shared by generators of labelled tiles and of tiles with masks."""

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
    """Precision of the networks' inner layers in training: bfloat16 is twice as fast if the
    processor supports it (avx512_bf16, amx or a recent GPU) and slower if not."""
    learning_rate: PositiveFloat = 4e-4
    """Step size of Adam."""
    final_rate: float = Field(default=0.25, gt=0.0, le=1.0)
    """The learning rate falls along a cosine to this share of its first value."""
    gamma: PositiveFloat = 100.0
    """Weight of the R1 and R2 gradient penalties, before scaling by 3 / bands."""
    penalty_every: PositiveInt = 16
    """The penalties are computed every n-th step, with n times the weight."""
    ema_images: PositiveInt = 5_000
    """Half-life of the generator's weight average, in images."""
    checkpoint_images: PositiveInt = 10_000
    """Images between checkpoints, each with a sample sheet and a metrics line."""
    sheet_columns: PositiveInt = 8
    """Real and generated tiles in a row of the sample sheet."""
    whitening: float = Field(default=0.01, gt=0.0)
    """Share of the mean band variance added to each principal variance (tempering)."""


class GanSettings(GeneratorSettings):
    """The class-conditional generator and its critics."""

    recipe: Literal["native", "frozen"] = "native"
    """`native`: one discriminator trained from scratch on the tiles of data. `frozen`: critics on
    the features of a network that was pretrained on photographs, and small native critics; it needs
    far fewer images, and also uses the tiles of data.more."""
    features: Literal["efficientnet_lite0", "efficientnet_lite1"] = "efficientnet_lite0"
    """Frozen: the pretrained network of the critics. efficientnet_lite2 is not allowed: it is
    reserved for the probe of `rslow evaluate`."""
    feature_side: PositiveInt = 96
    """Frozen: side in pixels to which tiles are enlarged for it."""
    feature_gamma: PositiveFloat = 50.0
    """Frozen: weight of the gradient penalties on features."""

    latent_layout: NonNegativeInt = 0
    """Channels of a map, of the latent map's size, computed from class and latent vector, for
    structures across the whole tile such as a road; 0: none."""
    depth: PositiveInt = 1
    """Residual blocks of the generator at an eighth of the resolution; one fewer at a quarter."""
    overfit_target: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overfitting of the discriminator (0 none, 1 complete) at which the probability of
    augmentation is held; it starts at augment.probability and, without this target, stays there."""
    blend_images: NonNegativeInt = 0
    """Images over which class embeddings blend from a common one to separate ones."""
    reconstruction: NonNegativeFloat = 0.0
    """Weight of reconstructing real tiles from an encoder's latents; 0: none."""
    self_supervision: NonNegativeFloat = 0.0
    """Weight of reconstructing real tiles from the discriminator's features, which keeps it from
    memorising few tiles; 0: none."""

    @model_validator(mode="after")
    def _effective(self) -> "GanSettings":
        for name in _OF_RECIPE["frozen" if self.recipe == "native" else "native"]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with recipe {self.recipe}, remove it")
        return self


#: Settings of the generator's training that only have an effect for one recipe.
_OF_RECIPE = {
    "native": (
        *("latent_layout", "depth", "overfit_target", "blend_images", "reconstruction"),
        *("self_supervision", "precision"),
    ),
    "frozen": ("features", "feature_side", "feature_gamma"),
}


class MaskGanSettings(GeneratorSettings):
    """The generator conditioned on masks, for data with masks instead of labels."""

    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    gamma: PositiveFloat = 0.02
    """Weight of the gradient penalties, per pixel, before scaling by 3 / bands."""
    mix_weight: NonNegativeFloat = 1.0
    """Weight of the discriminator's consistency on tiles that are part real, part generated."""
    bank: PositiveInt = 500
    """Training masks stored with the generator, for which a search draws tiles."""


class GateSettings(Section):
    """The gate, which drops unrealistic tiles; fitted against the finished generator."""

    recipe: Literal["native", "frozen"] = "frozen"
    """What the gate decides on. `frozen`: linear scores on features of a pretrained network and on
    spectra and texture, fitted on real and on generated tiles. `native`: the critic, the likeness
    to training tiles and the spectra together; it drops few tiles, and is the only recipe for tiles
    with masks."""
    tiles: PositiveInt = 1_000
    """Recipe `frozen`: tiles of each generated kind to fit the scores on, and as many others to
    measure which share the gate drops."""
    most_real: PositiveInt = 6_000
    """Recipe `frozen`: most real training tiles of each source to fit the scores on."""
    side: PositiveInt = 128
    """Recipe `frozen`: pixels to which tiles are enlarged for the pretrained network."""
    generators: tuple[Path, ...] = ()
    """Recipe `frozen`: checkpoints of other generators whose tiles are also used in the fit;
    the more kinds of generated tiles they know, the more unknown ones they drop."""
    held_out: tuple[Path, ...] = ()
    """Recipe `frozen`: checkpoints of generators used only to measure the gate's power."""
    leave_out: bool = True
    """Recipe `frozen`: whether to also measure the share of each kind that is dropped by scores
    fitted without it."""
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
    """Tiles in one step of training; half of them are real."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    latent_weight: NonNegativeFloat = 0.1
    """Weight of recovering the exact latent of a generated tile, relative to reconstructing the
    tile."""
    ema_images: PositiveInt = 2_000
    """Half-life of the weight average, in images."""


class SplittingSettings(Section):
    """Search without gradients, which also estimates the probability of low confidence."""

    particles: int = Field(default=32, ge=4)
    """Latents of a population; each population has one condition."""
    moves: PositiveInt = 3
    """Proposals for each copy per level."""
    max_levels: PositiveInt = 25
    """Levels after which a population is abandoned; each has half the probability of the previous
    one."""
    drift: NonNegativeFloat = 0.5
    """Mode `sample` with a differentiable target: weight of gradients in a move; 0: none."""
    replicates: PositiveInt = 2
    """Populations of each condition before the search may stop at search.count; two or more give
    the probability an interval."""


class StudentSettings(Section):
    """Search by the gradients of a student that is trained on the target's confidence."""

    first: PositiveInt = 512
    """Random latents whose tiles the target evaluates first."""
    rounds: NonNegativeInt = 4
    """Rounds of tiles where the student expects low confidence."""
    each: PositiveInt = 128
    """Tiles of each of these rounds."""
    steps: PositiveInt = 300
    """Training steps of 32 tiles each after each round."""


class SearchSettings(Section):
    """Latent search for tiles that the target is unsure of."""

    count: PositiveInt = 64
    """Accepted samples to stop at."""
    classes: tuple[str, ...] | None = None
    """Conditions to search, by name; default is all of the generator's. If a generator is
    conditioned on masks, each of its masks is a condition."""
    most_conditions: PositiveInt | None = None
    """Search at most this many conditions, chosen at random; default is no limit."""
    method: Literal["auto", "gradient", "student", "splitting"] = "auto"
    """`gradient` follows the target's gradients, `student` those of a network that is trained on
    its confidence, `splitting` needs none and estimates the probability of low confidence. `auto`
    uses gradients if the target has them, else a student in mode `yield` and splitting in mode
    `sample`."""
    splitting: SplittingSettings = SplittingSettings()
    student: StudentSettings = StudentSettings()
    mode: Literal["yield", "sample"] = "yield"
    """`yield` finds the most hard tiles for the budget; `sample` draws tiles of the prior
    given low confidence by splitting, for several times as many evaluations, and estimates the
    probability of low confidence. If the target has gradients, moves use them."""
    tau: float = Field(default=0.5, gt=0.0, lt=1.0)
    """A sample is of low confidence when the target's largest probability is below this."""
    pixel_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Targets that predict a class per pixel: their confidence in a tile is the mean of the largest
    probabilities over this share of its pixels, the least certain ones."""
    region: Annotated[str | None, AfterValidator(class_name)] = None
    """Generators conditioned on masks: the class over whose pixels the confidence is read, while
    masks without it are not searched; default is all known pixels."""
    tau_quantile: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Replaces tau by this quantile of the target's confidence on held-out real tiles; in `rslow
    batch review` on the scored tiles of the catalog."""
    per_condition: PositiveInt | None = None
    """Most samples of one condition; default is 1.25 times an equal share."""
    per_cell: PositiveInt | None = 4
    """Most samples of one condition, second class of the target and feature cluster."""
    novelty_quantile: float | None = Field(default=0.05, ge=0.0, le=1.0)
    """A tile is a duplicate if it is nearer to an earlier one than this quantile of the
    nearest-neighbour distances of real tiles; null keeps duplicates."""
    clusters: PositiveInt = 20
    """Number of feature clusters of real tiles."""
    max_evaluations: PositiveInt = 50_000
    """Budget in evaluations of the target, the random-latent baseline not counted."""
    max_minutes: PositiveFloat = 30.0
    """Budget in minutes, of the search and then of the random-latent baseline together."""
    slots: PositiveInt = 16
    """Latents that move at the same time; more than a micro-batch is only worthwhile on a GPU."""
    micro_batch: PositiveInt = 16
    """Fixed, padded batch of every network pass, so that a sample is independent of what else is in
    the batch."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam on the latent."""
    max_age: PositiveInt = 40
    """Steps after which a latent without a find is abandoned."""
    realism_weight: NonNegativeFloat = 0.0
    """Weight of a penalty in the energy for tiles that the generator's discriminator rates as
    unreal. Worthwhile if the gate's critic rejects most tiles that are found; each step takes 1.5
    times as long."""
    spectra_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for spectra that real pixels do not have."""
    review_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for tiles that reviewers would reject; no effect before the
    first update from reviews."""
    mixing_steps: PositiveInt = 10
    """Mode `sample`: moves of a population that has arrived, which decorrelate copies."""
    false_rejection: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Share of held-out real tiles that all parts of the gate together may reject."""
    prior_tail: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Each latent is kept inside the central 1 - prior_tail of the prior's norm."""
    update: NonNegativeInt | None = None
    """Which update of the gate from reviews to use: 0 for none; default is the newest."""
    baseline_evaluations: NonNegativeInt = 2_000
    """Random latents evaluated under the same gate for comparison; 0: no baseline."""


class ReporterSettings(ClassifierSettings):
    """The reporter: wider than a target, so that its features distinguish more."""

    width: PositiveInt = 64


class PictureClassifierSettings(ClassifierSettings):
    """The classifier trained on pictures: as there are many, fewer epochs suffice."""

    width: PositiveInt = 64
    epochs: PositiveInt = 20
    """Passes over the training tiles."""
    batch_size: PositiveInt = 64
    """Tiles in one step of training."""


class EvaluateSettings(Section):
    """How the generator's quality is measured, on separately drawn tiles."""

    split: Literal["test", "val"] = "test"
    """The real tiles that generated ones are compared with. Use `val` while models are still being
    chosen, so that the test split is used once, at the end."""
    tiles_per_class: PositiveInt = 100
    """Generated tiles per class that the figures are measured on."""
    reporter: ReporterSettings = ReporterSettings()
    """The network whose features the figures are based on; not used for selection or the gate."""
    classifier: ClassifierSettings = ClassifierSettings()
    """Trained on real and, for the same number of steps, on generated tiles; `epochs` counts passes
    over real ones."""
    probe_tiles: PositiveInt = 1_000
    """With pictures in data.more: number of real and of generated tiles for the probe, equal for
    all classes."""
    picture_tiles: PositiveInt = 5_000
    """With pictures in data.more: generated tiles to measure KID, FD, precision and recall on, with
    as many real tiles as the floor and the whole split as reference."""
    cas_rgb: bool = False
    """With pictures in data.more: also train classifiers on real pictures, on as many generated
    ones and on pictures without texture, and compare their accuracy. Takes hours."""
    cas_seeds: PositiveInt = 3
    """Number of classifiers of each kind that cas_rgb trains."""
    cas_classifier: PictureClassifierSettings = PictureClassifierSettings()
    """The classifiers of cas_rgb."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """Tiles with masks: the network that segments generated and real tiles for comparison with
    their masks; not used for selection or the gate."""


class ReviewSettings(Section):
    """The package that people review in QGIS."""

    label: Literal["confirm", "blind"] = "confirm"
    """`confirm`: the reviewer confirms or corrects a suggested class; `blind`: chooses the class
    without a suggestion."""
    max_samples: PositiveInt = Field(default=500, le=500)
    """Most samples in one package; more make reviews long and QGIS slow."""
    round: PositiveInt | None = None
    """Round of reviews that the package belongs to; each round draws different latents. Default is
    one more than the gate's update."""
    real_share: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Blind packages: share of real held-out tiles, which measure how often a reviewer takes a real
    tile for a fake. Without data there are none."""
    audit_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Blind packages: share of tiles that the gate rejected, which show what the gate rejects
    wrongly."""


class TestsetSettings(Section):
    """Releases of the test set."""

    licence: Annotated[str, Field(pattern=r"\S")] | None = None
    """Licence of the tiles of a release, chosen by their publisher: an SPDX identifier such as
    CC-BY-4.0, or the text. `rslow testset build` needs it."""


class UpdateSettings(Section):
    """Updates from reviews: a head on the critic's features, then the critic, then the GAN."""

    refine_from: PositiveInt = 200
    """Number of rejected samples from which the critic's last stage is also trained, with them as
    fakes."""
    images: PositiveInt = 10_000
    """Real tiles shown in that training."""
    batch_size: PositiveInt = 16
    """Tiles in one step of training."""
    learning_rate: PositiveFloat = 1e-4
    """Step size of Adam."""
    ema_images: PositiveInt = 2_000
    """Half-life of the weight average, in images."""
    generator_images: NonNegativeInt = 0
    """Real tiles shown when the generator is trained further against the updated critic; 0: not
    trained."""


class InversionSettings(Section):
    """How the latent of a real tile is found."""

    steps: NonNegativeInt = 150
    """Steps of Adam from the encoder's guess."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam."""
    quantile: float = Field(default=0.05, gt=0.0, lt=1.0)
    """A reconstruction is good enough if its distance to the real tile, in pixels and in features,
    is below this quantile of the distances between real tiles of its class. Other tiles are
    reported and get no variants."""


class VariantSettings(Section):
    """Hard variants of the real tiles of a catalog: `rslow batch generate`."""

    inversion: InversionSettings = InversionSettings()
    count: PositiveInt = 5
    """Maximum variants per tile."""
    attempts: PositiveInt = 10
    """Starting latents tried per tile; the first is that of the tile itself."""
    reach: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Share of fresh noise in the other starting latents."""
    budget: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The distance of a variant to its tile, in pixels and in features, has to be below this
    quantile of the distances between real tiles of its class."""
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
    """Jobs over a catalog: on which tiles, and how they run."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Process only tiles of these splits, such as val and test; default is all."""
    collections: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Process only tiles of these collections; default is all."""

    executor: Literal["serial", "process", "dask"] = "process"
    """`serial`: one process; `process`: several on this machine; `dask`: a cluster on this machine,
    or the one of --scheduler."""
    workers: NonNegativeInt = 0
    """Processes on this machine; 0 is one per core."""
    chunk: PositiveInt | None = None
    """Tiles that are processed and stored together, on average; default is 256 to score and 16 to
    generate, which takes seconds per tile."""
    seconds: PositiveFloat | None = 1_200.0
    """Time limit of a chunk, after which its process is killed and the hanging tile is searched
    for; null: no limit."""
    per_class: PositiveInt | None = None
    """Generate and review: most tiles of one class, by label or else, in reviews, by prediction;
    null: no limit."""
    per_region: PositiveInt | None = None
    """Generate and review: most tiles of one region; null: no limit."""
    region_degrees: PositiveFloat = 1.0
    """Regions are cells of longitude and latitude with this side in degrees."""
    regions: Path | None = None
    """A vector file of polygons with a column `name` to use as regions instead; tiles outside form
    one more region."""


class ExperimentSettings(Section):
    """Replays of all designs on a pool with known labels: `rslow estimate experiment`."""

    budgets: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (
        0.005,
        0.01,
        0.02,
    )
    """Label budgets, as shares of the pool."""
    repetitions: int = Field(default=200, ge=20)
    """Draws of each design at each budget."""
    blind: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.3, 1.0)
    """Stress tests: shares of the errors that are hidden where none is expected."""
    validation: int = Field(default=5_000, ge=50)
    """Without estimate.validation: number of random units taken out of the pool for validation, at
    most a fifth of the pool."""
    random_latents: Path | None = None
    """Table of tiles from random latents, see `rslow estimate generated`: the paper's method."""


class RareSettings(Section):
    """Probability of low confidence and disagreement under the generator: `rslow estimate rare`."""

    thresholds: (
        Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] | None
    ) = None
    """Confidence thresholds; the probability to fall below each is estimated. All must exceed 1 /
    number of classes, the minimum of the largest probability; default is those of 0.99, 0.9, 0.7,
    0.5 and 0.4 that do."""
    classes: Annotated[ClassNames, Field(min_length=1)] | None = None
    """Conditions, by name; default is all of the generator's."""
    replicates: PositiveInt = 10
    """Independent populations of latents per condition, at least ten: the interval comes from their
    variance."""
    particles: PositiveInt = 100
    """Latents of a population: four times as many halve the interval."""
    survivors: PositiveInt = 20
    """Latents of a population that go on to the next level, at least ten; a divisor of
    particles."""
    max_levels: PositiveInt = 8
    """Levels after which a population is abandoned; each has survivors / particles times the
    probability of the previous one."""


class EstimateSettings(Section):
    """Error estimates from few labels."""

    scores: Path | None = None
    """Table of scores, Parquet or CSV: columns id, predicted, confidence and, where known, label
    and group. By default the pool is the result of `rslow batch score`, within batch.splits and
    batch.collections."""
    surrogates: tuple[Path, ...] = ()
    """Tables of other models' scores of the same units, which help to predict where the target
    errs."""
    validation: Path | None = None
    """Table of labelled units, drawn uniformly from units like the pool's, to validate error
    probabilities. Surrogates score them too."""
    generated: Path | None = None
    """Table of generated tiles with labels, such as samples.parquet of `rslow generate`: an error
    predictor trained on it is used if validation labels show that it is better."""
    measure: Literal["confidence", "margin", "entropy"] = "confidence"
    """How the target's uncertainty is measured; margin and entropy need all probabilities."""
    classes: ClassNames = ()
    """True classes in addition to those of the target and of the pool's labels."""
    design: Literal["uniform", "olofsson", "strat", "is", "lure", "asi", "adaptive"] = "strat"
    """How units are drawn: uniformly; by strata of predicted classes; by strata of error
    probability; by importance, with replacement; one after another; with fixed size; in adaptive
    waves."""
    labels: PositiveInt = 300
    """Units to draw."""
    defensive: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the labels drawn uniformly, against errors where none are expected; 0.5 to
    certify."""
    width: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Desired width of the interval, for which `plan` gives the number of labels."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Confidence level: how often intervals should cover the pool's error rate."""
    unclear: Literal["refuse", "wrong", "right"] = "refuse"
    """How to count units whose class nobody could determine."""
    experiment: ExperimentSettings = ExperimentSettings()
    rare: RareSettings = RareSettings()


class Settings(Section):
    """The whole tree, one attribute per YAML section."""

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
        SettingsError: the file is missing or not YAML, a key is unknown or given twice, a value is
            ambiguous or does not fit.
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
                f"{path} is not YAML: {error}", expected="text encoded as UTF-8"
            ) from error
        document = strict_yaml.read(text, str(path))
        tree, lines = document.value or {}, document.lines
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path} contains a {type(tree).__name__}", expected="sections of settings"
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
        values: by key; defaults are used for missing keys.

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
    """Return every key that may be set below a section, with its sections.

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
    """Return suggestions for an unknown name; empty if no name is similar.

    Keys of other sections are suggested, too: `search.count` for `count`.

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
    """Return the problems with the settings, with their lines in the file."""
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
