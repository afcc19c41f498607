"""Trained models as files: averaged generator, critics, calibration, masks; critic; encoder."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.gan.condition import Condition, MaskBank, TileClasses
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.gan.masks import MaskCritic, MaskedGenerator
from rs_lowconf.gan.networks import Discriminator, Encoder, Generator
from rs_lowconf.gan.pyramid import ClassGenerator, PyramidGenerator
from rs_lowconf.gan.source_critics import SourcesCritic, SourceShape, build_critics
from rs_lowconf.gan.spectral import SpectralBasis
from rs_lowconf.gan.train import GanTraining
from rs_lowconf.gan.train_sources import SourcesTraining
from rs_lowconf.runs import kind_of, read_checkpoint, write_checkpoint
from rs_lowconf.settings import GanSettings, GeneratorSettings, MaskGanSettings
from rs_lowconf.training_state import tensors_below
from rs_lowconf.vocabulary import class_list

log = logging.getLogger(__name__)

CRITIC_KIND, MASK_CRITIC_KIND = "critic", "mask critic"
ENCODER_KIND = "encoder"


AnyTraining = GanTraining | SourcesTraining | MaskGanTraining
GanCritic = RealismCritic | SourcesCritic | MaskCritic
"""What judges a generator's tiles after its own training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GanModel:
    """The parts of a trained GAN that a search needs."""

    generator: ClassGenerator | MaskedGenerator
    critic: GanCritic
    condition: Condition
    """What it draws tiles of."""
    recipe: GanSettings | MaskGanSettings
    header: dict[str, Any]
    """Settings, bands, classes, tile size, images seen, attribution, seed; names of masks."""

    @property
    def network(self) -> ClassGenerator | MaskGenerator:
        """Return what draws tiles of latents and conditions themselves: classes, or masks."""
        generator = self.generator
        return generator.generator if isinstance(generator, MaskedGenerator) else generator

    @property
    def class_generator(self) -> ClassGenerator:
        """Return the generator of a class for each tile.

        Raises:
            ModelError: it draws tiles of given masks.
        """
        if isinstance(self.generator, MaskedGenerator):
            raise _masked_error()
        return self.generator

    @property
    def masked(self) -> tuple[MaskedGenerator, MaskCritic]:
        """Return generator and critic of tiles with given masks.

        Raises:
            ModelError: it draws tiles of classes.
        """
        if isinstance(self.generator, MaskedGenerator) and isinstance(self.critic, MaskCritic):
            return self.generator, self.critic
        raise ModelError(
            "the generator draws tiles of classes",
            expected="one that draws tiles of given masks",
            remedy="use one that was trained on tiles with masks",
        )

    def of_masks(self, bank: MaskBank) -> tuple[MaskedGenerator, MaskCritic]:
        """Return generator and critic of other masks, such as those of held-out tiles.

        Raises:
            ModelError: it draws tiles of classes.
            DataError: the masks are of other classes or of another size.
        """
        generator, critic = self.masked
        return MaskedGenerator(generator.generator, bank), critic.on(bank)


def _masked_error() -> ModelError:
    return ModelError(
        "the generator draws tiles of given masks",
        expected="one that draws tiles of classes",
        remedy="use one that was trained on tiles with labels",
    )


def save_model(path: Path, training: AnyTraining, critic: GanCritic, *, attribution: str) -> None:
    """Write the weight average, its critics, their calibration, and the masks to draw tiles of.

    Args:
        path: the file.
        training: of the generator; of several sources, `settled` has just been called.
        critic: of its critics.
        attribution: of the data.
    """
    tensors = _weights_of({"generator": training.average})
    header = header_of(training) | {"attribution": attribution}
    if isinstance(critic, SourcesCritic):
        header["sources"] = [shape.to_json() for shape in critic.critics.shapes]
    if isinstance(training, MaskGanTraining):
        # A training goes on with them; a search needs only the discriminator.
        tensors |= _weights_of(training.feature_modules())
    if isinstance(critic, MaskCritic):
        tensors["bank.masks"] = critic.bank.masks
        header["names"] = list(critic.bank.names)
    write_checkpoint(path, training.kind, tensors | _tensors_of(critic), header)


def _tensors_of(critic: GanCritic) -> dict[str, Tensor]:
    """Return the weights and the calibration of a critic as tensors by name."""
    if isinstance(critic, SourcesCritic):
        tensors = _weights_of(critic.critics.modules())
    else:
        tensors = _weights_of({"discriminator": critic.discriminator})
    if isinstance(critic, MaskCritic):
        return tensors
    return tensors | {"realism.slope": critic.slope, "realism.offset": critic.offset}


def _weights_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()
    }


def header_of(training: AnyTraining) -> dict[str, Any]:
    """Return all that is needed to rebuild the networks, and the training progress."""
    generator = training.average
    return {
        "settings": training.settings.model_dump(mode="json"),
        "bands": generator.bands.to_json(),
        "classes": list(generator.classes),
        "tile_size": generator.tile_size,
        "images": training.images,
        "seed": training.seed,
    }


def draws_masks(path: Path) -> bool:
    """Return whether a checkpoint is of a generator of tiles with given masks."""
    return kind_of(path) == MaskGanTraining.kind


def load_model(path: Path, device: torch.device) -> GanModel:
    """Read what `save_model` wrote.

    The first checkpoints of trainings from several sources have no calibrated critics; their
    realism is the plain sum of the logits.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    if draws_masks(path):
        return _load_masked(path, device)
    tensors, header = read_checkpoint(path, GanTraining.kind)
    settings = GanSettings.model_validate(header["settings"])
    shape = shape_of(header)
    if settings.recipe == "frozen" and "realism.slope" not in tensors:
        log.warning(
            "%s: its critics are not calibrated yet; this happens at the end of training", path
        )
        no_offset = torch.zeros(len(header["classes"]))
        tensors |= {"realism.slope": torch.ones(()), "realism.offset": no_offset}
    calibration = {
        "slope": tensors["realism.slope"].to(device),
        "offset": tensors["realism.offset"].to(device),
    }
    generator = _generator_of(tensors, header, path).to(device)
    critic: RealismCritic | SourcesCritic
    if settings.recipe == "frozen":
        shapes = [SourceShape.from_json(values) for values in header["sources"]]
        critics = build_critics(
            settings,
            shapes,
            [empty_basis(len(shape.bands), header["tile_size"]) for shape in shapes],
            classes=generator.classes,
            tile_size=generator.tile_size,
            device=device,
        )
        for name, module in critics.modules().items():
            fill_network(module, tensors, name, path)
        critic = SourcesCritic(
            critics, bands=generator.bands, classes=generator.classes, **calibration
        )
    else:
        discriminator = Discriminator(settings.critic_width, **shape)
        fill_network(discriminator, tensors, "discriminator", path)
        critic = RealismCritic(discriminator.to(device), **calibration)
    return GanModel(
        generator=generator,
        critic=critic,
        condition=TileClasses(names=generator.classes),
        recipe=settings,
        header=header,
    )


def _load_masked(path: Path, device: torch.device) -> GanModel:
    """Read a generator of tiles with given masks, with its critic and the stored masks."""
    tensors, header = read_checkpoint(path, MaskGanTraining.kind)
    settings = MaskGanSettings.model_validate(header["settings"])
    shape = shape_of(header)
    generator = MaskGenerator(settings, **shape)
    discriminator = MaskDiscriminator(settings.critic_width, **shape)
    fill_network(generator, tensors, "generator", path)
    fill_network(discriminator, tensors, "discriminator", path)
    bank = MaskBank(
        masks=tensors["bank.masks"], names=tuple(header["names"]), classes=shape["classes"]
    )
    return GanModel(
        generator=MaskedGenerator(generator.to(device), bank),
        critic=MaskCritic(discriminator.to(device), bank),
        condition=bank,
        recipe=settings,
        header=header,
    )


def load_generator(path: Path, device: torch.device) -> tuple[ClassGenerator, dict[str, Any]]:
    """Return a generator of classes alone, without its critics, and the file's header.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or it draws given masks.
    """
    if draws_masks(path):
        raise _masked_error()
    tensors, header = read_checkpoint(path, GanTraining.kind)
    return _generator_of(tensors, header, path).to(device), header


def _generator_of(
    tensors: Mapping[str, Tensor], header: dict[str, Any], path: Path
) -> ClassGenerator:
    """Return a generator with the weights of a checkpoint, frozen."""
    settings = GanSettings.model_validate(header["settings"])
    shape = shape_of(header)
    generator: ClassGenerator
    if settings.recipe == "frozen":
        generator = PyramidGenerator(settings, **shape)
    else:
        generator = Generator(settings, **shape)
    fill_network(generator, tensors, "generator", path)
    return generator.eval().requires_grad_(requires_grad=False)


def save_critic(path: Path, critic: RealismCritic | MaskCritic) -> None:
    """Write the gate's critic; that of tiles with masks judges those of any bank."""
    network = critic.discriminator
    header = {
        "width": network.width,
        "bands": network.bands.to_json(),
        "classes": list(network.classes),
        "tile_size": network.tile_size,
    }
    kind = MASK_CRITIC_KIND if isinstance(critic, MaskCritic) else CRITIC_KIND
    write_checkpoint(path, kind, _tensors_of(critic), header)


@overload
def load_critic(path: Path, condition: TileClasses, device: torch.device) -> RealismCritic: ...


@overload
def load_critic(path: Path, condition: MaskBank, device: torch.device) -> MaskCritic: ...


def load_critic(
    path: Path, condition: Condition, device: torch.device
) -> RealismCritic | MaskCritic:
    """Read what `save_critic` wrote, to judge tiles of a generator's conditions.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
        DataError: the masks are of other classes or of another size.
    """
    kind = MASK_CRITIC_KIND if condition.pixelwise else CRITIC_KIND
    tensors, header = read_checkpoint(path, kind)
    shape = shape_of(header)
    if isinstance(condition, MaskBank):
        judge = MaskDiscriminator(header["width"], **shape)
        fill_network(judge, tensors, "discriminator", path)
        return MaskCritic(judge.to(device), condition)
    discriminator = Discriminator(header["width"], **shape)
    fill_network(discriminator, tensors, "discriminator", path)
    return RealismCritic(
        discriminator.to(device),
        slope=tensors["realism.slope"].to(device),
        offset=tensors["realism.offset"].to(device),
    )


def save_encoder(
    path: Path, encoder: Encoder, recipe: GeneratorSettings, *, models: Mapping[str, str]
) -> None:
    """Write an encoder.

    Args:
        path: the file.
        encoder: trained.
        recipe: of its generator.
        models: the checksum of that generator, by name.
    """
    header = {
        "recipe": recipe.model_dump(mode="json", include=set(GeneratorSettings.model_fields)),
        "bands": encoder.bands.to_json(),
        "models": dict(models),
    }
    tensors = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    write_checkpoint(path, ENCODER_KIND, tensors, header)


def load_encoder(path: Path, models: Mapping[str, str], device: torch.device) -> Encoder:
    """Read what `save_encoder` wrote, for the generator of this checksum.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or of another generator.
    """
    tensors, header = read_checkpoint(path, ENCODER_KIND)
    if header["models"] != dict(models):
        raise ModelError(f"{path} belongs to another generator", command="train encoder")
    recipe = GeneratorSettings.model_validate(header["recipe"])
    encoder = Encoder(recipe, bands=BandSpec.from_json(header["bands"]))
    fill_network(encoder, tensors, "encoder", path)
    return encoder.to(device).eval().requires_grad_(requires_grad=False)


def fill_network(module: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load the weights below `name` into a network.

    Raises:
        ModelError: they do not fit.
    """
    try:
        module.load_state_dict(tensors_below(tensors, name))
    except RuntimeError as error:
        raise ModelError(
            f"the weights in {path} do not fit the {name} of this version of rs_lowconf",
            remedy="train again, or use the version that its run's versions.json names",
        ) from error


def shape_of(header: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments to build networks, with a basis of the right shapes only.

    The values of the basis come with the weights; its tensors are separate, not views, so that they
    can be copied into.
    """
    bands = BandSpec.from_json(header["bands"])
    return {
        "bands": bands,
        "classes": class_list("the model", header["classes"], error=ModelError).names,
        "tile_size": header["tile_size"],
        "basis": empty_basis(len(bands), header["tile_size"]),
    }


def empty_basis(count: int, side: int) -> SpectralBasis:
    """Return a basis of the right shapes, to be filled with stored weights.

    Args:
        count: bands.
        side: of a tile in pixels.
    """
    return SpectralBasis(
        centre=torch.zeros(count),
        forward=torch.zeros(count, count),
        inverse=torch.zeros(count, count),
        resample=torch.zeros(count, side, side),
    )
