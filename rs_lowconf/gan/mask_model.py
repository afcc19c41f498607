"""The trained model of tiles with masks as one file, the bank of masks included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.gan.masks import MaskBank, MaskCritic, MaskedGenerator
from rs_lowconf.gan.model import check_unchanged, fill_network, shape_of
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import MaskGanSettings

KIND = "mask gan"
STATE_KIND = "mask gan training state"


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskGanModel:
    """What search needs of a trained GAN of tiles with masks."""

    generator: MaskedGenerator
    critic: MaskCritic
    header: dict[str, Any]
    """Settings, bands, classes of pixels, tile size, images seen, attribution, seed, names."""


def save_mask_model(
    path: Path, training: MaskGanTraining, bank: MaskBank, *, attribution: str
) -> None:
    """Write the averaged generator, the discriminator and the masks to draw tiles of."""
    generator = training.average
    tensors = {f"generator.{k}": v for k, v in generator.state_dict().items()}
    tensors |= {f"discriminator.{k}": v for k, v in training.discriminator.state_dict().items()}
    tensors |= {"bank.masks": bank.masks}
    header = {
        "settings": training.settings.model_dump(mode="json"),
        "bands": generator.bands.to_json(),
        "classes": list(generator.classes),
        "tile_size": generator.tile_size,
        "images": training.images,
        "seed": training.seed,
        "attribution": attribution,
        "names": list(bank.names),
    }
    write_checkpoint(path, KIND, tensors, header)


def load_mask_model(path: Path, device: torch.device) -> MaskGanModel:
    """Read what `save_mask_model` wrote.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    tensors, header = read_checkpoint(path, KIND)
    settings = MaskGanSettings.model_validate(header["settings"])
    shape = shape_of(header)
    generator = MaskGenerator(settings, **shape)
    discriminator = MaskDiscriminator(settings.critic_width, **shape)
    fill_network(generator, tensors, "generator", path)
    fill_network(discriminator, tensors, "discriminator", path)
    bank = MaskBank(
        masks=tensors["bank.masks"],
        names=tuple(header["names"]),
        classes=tuple(header["classes"]),
    )
    return MaskGanModel(
        generator=MaskedGenerator(generator.to(device), bank),
        critic=MaskCritic(discriminator.to(device), bank),
        header=header,
    )


def save_mask_state(path: Path, training: MaskGanTraining) -> None:
    """Write everything that the next training step depends on."""
    header = {"seed": training.seed, "settings": training.settings.model_dump(mode="json")}
    write_checkpoint(path, STATE_KIND, training.state(), header)


def restore_mask_state(path: Path, training: MaskGanTraining) -> None:
    """Continue a training from what `save_mask_state` wrote.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    tensors, header = read_checkpoint(path, STATE_KIND)
    before = MaskGanSettings.model_validate(header["settings"])
    check_unchanged(path, (before, header["seed"]), (training.settings, training.seed))
    training.restore(tensors)
