"""The trained model as one file: averaged generator, discriminator and realism calibration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.networks import Discriminator, Generator
from rs_lowconf.gan.spectral import SpectralBasis
from rs_lowconf.gan.train import GanTraining, tensors_below
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import GanSettings

KIND = "gan"
STATE_KIND = "gan training state"


@dataclass(frozen=True, kw_only=True, eq=False)
class GanModel:
    """What search needs of a trained GAN."""

    generator: Generator
    critic: RealismCritic
    header: dict[str, Any]
    """Settings, bands, classes, tile size, images seen, attribution, seed."""


def save_model(
    path: Path, training: GanTraining, critic: RealismCritic, *, attribution: str
) -> None:
    """Write the averaged generator, the discriminator and the realism calibration."""
    generator = training.average
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in training.discriminator.state_dict().items()}
    tensors |= {"realism.slope": critic.slope, "realism.offset": critic.offset}
    header = {
        "settings": training.settings.model_dump(mode="json"),
        "bands": generator.bands.to_json(),
        "classes": list(generator.classes),
        "tile_size": generator.tile_size,
        "images": training.images,
        "seed": training.seed,
        "attribution": attribution,
    }
    write_checkpoint(path, KIND, tensors, header)


def load_model(path: Path, device: torch.device) -> GanModel:
    """Read what `save_model` wrote.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    tensors, header = read_checkpoint(path, KIND)
    bands = BandSpec.from_json(header["bands"])
    settings = GanSettings.model_validate(header["settings"])
    # The basis comes with the weights; this one only gives the shapes. Three tensors, not
    # views of one: the weights are copied into them.
    count = len(bands)
    shape: dict[str, Any] = {
        "bands": bands,
        "classes": tuple(header["classes"]),
        "tile_size": header["tile_size"],
        "basis": SpectralBasis(
            centre=torch.zeros(count),
            forward=torch.zeros(count, count),
            inverse=torch.zeros(count, count),
        ),
    }
    generator = Generator(settings, **shape)
    generator.load_state_dict(tensors_below(tensors, "generator"))
    discriminator = Discriminator(settings, **shape)
    discriminator.load_state_dict(tensors_below(tensors, "discriminator"))
    critic = RealismCritic(
        discriminator.to(device),
        slope=tensors["realism.slope"].to(device),
        offset=tensors["realism.offset"].to(device),
    )
    generator = generator.to(device).eval().requires_grad_(requires_grad=False)
    return GanModel(generator=generator, critic=critic, header=header)


def save_state(path: Path, training: GanTraining) -> None:
    """Write everything that the next training step depends on."""
    header = {"seed": training.seed, "settings": training.settings.model_dump(mode="json")}
    write_checkpoint(path, STATE_KIND, training.state(), header)


def restore_state(path: Path, training: GanTraining) -> None:
    """Continue a training from what `save_state` wrote.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    tensors, header = read_checkpoint(path, STATE_KIND)
    now = training.settings.model_dump(mode="json")
    free = ("images", "checkpoint_images", "sheet_columns")
    changed = [k for k in now if k not in free and now[k] != header["settings"].get(k)]
    if header["seed"] != training.seed:
        changed.append("run.seed")
    if changed:
        raise ModelError(
            f"{path} was trained with other settings of {', '.join(changed)}",
            remedy="restore them, or choose another run.dir",
        )
    training.restore(tensors)
