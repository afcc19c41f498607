"""Settings of what `rslow train` makes and `rslow update` changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rs_lowconf.settings.section import Section

Architecture = Annotated[str, Field(pattern="^(small_cnn|resnet|residual_cnn|timm:.+)$")]


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


class FittingSettings(Section):
    """How a network learns from labels or masks."""

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


class ClassifierSettings(FittingSettings):
    """How our classifiers are trained: target and extractor."""

    architecture: Architecture = "small_cnn"
    """`small_cnn`, `resnet`, `residual_cnn`, or `timm:NAME` for any timm backbone."""
    width: PositiveInt = 48
    """Channels of the first stage of our CNNs."""
    label_smoothing: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of a label's probability that is spread over all classes, in training."""


class SegmenterSettings(FittingSettings):
    """How our segmentation network is trained, for data with masks."""

    encoder: str = "resnet18"
    """Encoder of the U-Net, by its name in segmentation_models_pytorch; not pretrained."""
    width: PositiveInt = 32
    """Channels of the decoder at full resolution; coarser stages are wider."""
    class_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """A class is weighted by its share of the pixels to the power of minus this: 0 weights all
    pixels equally, 1 all classes, which finds more of a rare class but overestimates it."""


class ExtractorSettings(ClassifierSettings):
    """The extractor: a different architecture from the target."""

    architecture: Architecture = "residual_cnn"
    width: PositiveInt = 24


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


class FrozenSettings(GeneratorSettings):
    """Settings shared by generators that may have critics on frozen features."""

    of_recipe: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "native": (),
        "frozen": ("features", "feature_side", "feature_gamma", "final_gamma", "gamma_images"),
    }
    """Settings that mean something for one recipe alone."""

    recipe: Literal["native", "frozen"] = "native"
    features: Literal["efficientnet_lite0", "efficientnet_lite1"] = "efficientnet_lite0"
    """Frozen: the pretrained network of the critics. efficientnet_lite2 is not allowed: it is
    reserved for the probe of `rslow evaluate`."""
    feature_side: PositiveInt = 96
    """Frozen: side in pixels to which tiles are enlarged for it."""
    feature_gamma: PositiveFloat = 12.0
    """Frozen: weight of the gradient penalties on features: with less the critics win, with more
    they say too little."""
    final_gamma: float = Field(default=0.25, gt=0.0, le=1.0)
    """Frozen: the weights of all gradient penalties fall along a cosine to this share of their
    first value; once tiles are good, critics may look closer."""
    gamma_images: PositiveInt = 150_000
    """Frozen: number of images in which they do."""

    @model_validator(mode="after")
    def _effective(self) -> "FrozenSettings":
        for name in self.of_recipe["frozen" if self.recipe == "native" else "native"]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with recipe {self.recipe}, remove it")
        return self


class GanSettings(FrozenSettings):
    """The class-conditional generator and its critics."""

    of_recipe: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "native": (
            *("latent_layout", "depth", "overfit_target", "blend_images", "reconstruction"),
            *("self_supervision", "precision"),
        ),
        "frozen": (*FrozenSettings.of_recipe["frozen"], "group"),
    }

    recipe: Literal["native", "frozen"] = "native"
    """`native`: one discriminator trained from scratch on the tiles of data. `frozen`: critics on
    the features of a network that was pretrained on photographs, and small native critics; it needs
    far fewer images, and also uses the tiles of data.more."""
    group: PositiveInt = 1
    """Frozen: so many tiles in succession of a batch have the same class. From 2 on, the critics on
    features also see how much these differ, and reject tiles of a class that are too much alike."""

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
    def _whole_groups(self) -> "GanSettings":
        if self.batch_size % self.group:
            raise ValueError(f"group {self.group} does not divide batch_size {self.batch_size}")
        return self


class MaskGanSettings(FrozenSettings):
    """The generator conditioned on masks, for data with masks instead of labels."""

    recipe: Literal["native", "frozen"] = "native"
    """`native`: one discriminator trained from scratch on the tiles of data. `frozen`: beside it,
    critics on the features of a network that was pretrained on photographs."""
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
    spectra and texture, fitted on real and on generated tiles; with masks also how far tiles agree
    with them. `native`: the critic, the likeness to training tiles and the spectra together, with
    masks also the agreement; it drops few tiles."""
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


class UpdateSettings(Section):
    """Updates from reviews: a head on the critic's features, then the critic, then the GAN."""

    refine_from: PositiveInt = 200
    """Number of rejected samples from which the critic's last stage is also trained, with them as
    fakes; that of tiles with masks never is."""
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
