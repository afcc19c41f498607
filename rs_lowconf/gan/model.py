"""The trained model as one file: averaged generator, discriminator and realism calibration."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.gan.networks import Discriminator, Encoder, Generator
from rs_lowconf.gan.pyramid import ClassGenerator, PyramidGenerator
from rs_lowconf.gan.source_critics import SourcesCritic, SourceShape, build_critics
from rs_lowconf.gan.spectral import SpectralBasis
from rs_lowconf.gan.train import GanTraining
from rs_lowconf.gan.train_sources import SourcesTraining
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import GanSettings, GeneratorSettings
from rs_lowconf.training_state import tensors_below
from rs_lowconf.vocabulary import class_list

log = logging.getLogger(__name__)

STATE, CHECKPOINT = "state.safetensors", "gan.safetensors"
"""In the folder of a training: everything that its next step depends on, and its best model."""
CRITIC_KIND = "critic"
ENCODER_KIND = "encoder"


@dataclass(frozen=True, kw_only=True, eq=False)
class GanModel:
    """The parts of a trained GAN that a search needs."""

    generator: ClassGenerator
    critic: RealismCritic | SourcesCritic
    header: dict[str, Any]
    """Settings, bands, classes, tile size, images seen, attribution, seed."""


def save_model(
    path: Path, training: GanTraining, critic: RealismCritic, *, attribution: str
) -> None:
    """Write the averaged generator, the discriminator and the realism calibration."""
    realism = {"realism.slope": critic.slope, "realism.offset": critic.offset}
    write_checkpoint(
        path,
        training.kind,
        weights_of(training) | realism,
        header_of(training) | {"attribution": attribution},
    )


def save_sources_model(
    path: Path, training: SourcesTraining, critic: SourcesCritic, *, attribution: str
) -> None:
    """Write the weight average, its critics and the realism calibration.

    Args:
        path: the file.
        training: whose average `settled` has just been called.
        critic: of its critics.
        attribution: of the data.
    """
    tensors = {f"generator.{k}": v for k, v in training.average.state_dict().items()}
    for name, module in critic.critics.modules().items():
        tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
    tensors |= {"realism.slope": critic.slope, "realism.offset": critic.offset}
    header = header_of(training) | {
        "attribution": attribution,
        "sources": [shape.to_json() for shape in critic.critics.shapes],
    }
    write_checkpoint(path, training.kind, tensors, header)


def weights_of(training: GanTraining | MaskGanTraining) -> dict[str, Tensor]:
    """Return the averaged generator and the discriminator as tensors by name."""
    tensors = {f"generator.{k}": v for k, v in training.average.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in training.discriminator.state_dict().items()}
    return tensors


def header_of(training: GanTraining | MaskGanTraining | SourcesTraining) -> dict[str, Any]:
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


def load_model(path: Path, device: torch.device) -> GanModel:
    """Read what `save_model` or `save_sources_model` wrote.

    The first checkpoints of trainings from several sources have no calibrated critics; their
    realism is the plain sum of the logits.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
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
    return GanModel(generator=generator, critic=critic, header=header)


def load_generator(path: Path, device: torch.device) -> tuple[ClassGenerator, dict[str, Any]]:
    """Return the generator of a trained GAN alone, without its critics, and the file's header.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
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


def save_critic(path: Path, critic: RealismCritic) -> None:
    """Write the gate's critic."""
    tensors = {f"discriminator.{k}": v for k, v in critic.discriminator.state_dict().items()}
    tensors |= {"realism.slope": critic.slope, "realism.offset": critic.offset}
    header = {
        "width": critic.discriminator.width,
        "bands": critic.bands.to_json(),
        "classes": list(critic.classes),
        "tile_size": critic.discriminator.tile_size,
    }
    write_checkpoint(path, CRITIC_KIND, tensors, header)


def load_critic(path: Path, device: torch.device) -> RealismCritic:
    """Read what `save_critic` wrote.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    tensors, header = read_checkpoint(path, CRITIC_KIND)
    discriminator = Discriminator(header["width"], **shape_of(header))
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


def save_state(path: Path, training: GanTraining | MaskGanTraining | SourcesTraining) -> None:
    """Write everything that the next training step depends on."""
    header = {"seed": training.seed, "settings": training.settings.model_dump(mode="json")}
    write_checkpoint(path, _state_kind(training), training.state(), header)


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


def restore_state(path: Path, training: GanTraining | MaskGanTraining | SourcesTraining) -> None:
    """Continue a training from what `save_state` wrote.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    tensors, header = read_checkpoint(path, _state_kind(training))
    _require_same(path, header, training)
    training.restore(tensors)


def resume(folder: Path, training: GanTraining | MaskGanTraining | SourcesTraining) -> None:
    """Continue a training from its folder, if there is anything: its state, or else its checkpoint.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    state, checkpoint = folder / STATE, folder / CHECKPOINT
    if state.exists():
        restore_state(state, training)
    elif checkpoint.exists():
        tensors, header = read_checkpoint(checkpoint, training.kind)
        _require_same(checkpoint, header, training)
        training.begin_at(tensors, header["images"])
        log.warning(
            "%s is missing: training goes on from %s after %s images, with averaged weights and an "
            "optimiser that knows nothing of the steps before",
            state,
            checkpoint.name,
            f"{training.images:,}",
        )


def _require_same(
    path: Path,
    header: Mapping[str, Any],
    training: GanTraining | MaskGanTraining | SourcesTraining,
) -> None:
    """Raise a ModelError if a file is of a training with other settings or seed."""
    # A setting that did not exist then had today's default.
    before = type(training.settings).model_validate(header["settings"]).model_dump(mode="json")
    free = ("images", "checkpoint_images", "sheet_columns", "bank")
    wanted = training.settings.model_dump(mode="json")
    changed = [key for key in wanted if key not in free and wanted[key] != before[key]]
    if header["seed"] != training.seed:
        changed.append("run.seed")
    if changed:
        raise ModelError(
            f"{path} was trained with other settings of {', '.join(changed)}",
            remedy="restore them, or choose another run.dir",
        )


def _state_kind(training: GanTraining | MaskGanTraining | SourcesTraining) -> str:
    return f"{training.kind} training state"
