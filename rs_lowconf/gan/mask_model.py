"""The trained model of tiles with masks as one file, the bank of masks included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.gan.masks import MaskBank, MaskCritic, MaskedGenerator
from rs_lowconf.gan.model import fill_network, header_of, shape_of, weights_of
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import MaskGanSettings

CRITIC_KIND = "mask critic"


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskGanModel:
    """The parts of a trained GAN that a search needs of tiles with masks."""

    generator: MaskedGenerator
    critic: MaskCritic
    header: dict[str, Any]
    """Settings, bands, classes of pixels, tile size, images seen, attribution, seed, names."""


def save_mask_model(
    path: Path, training: MaskGanTraining, bank: MaskBank, *, attribution: str
) -> None:
    """Write the averaged generator, the discriminator and the masks to draw tiles of."""
    write_checkpoint(
        path,
        training.kind,
        weights_of(training) | {"bank.masks": bank.masks},
        header_of(training) | {"attribution": attribution, "names": list(bank.names)},
    )


def load_mask_model(path: Path, device: torch.device) -> MaskGanModel:
    """Read what `save_mask_model` wrote.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    tensors, header = read_checkpoint(path, MaskGanTraining.kind)
    settings = MaskGanSettings.model_validate(header["settings"])
    shape = shape_of(header)
    generator = MaskGenerator(settings, **shape)
    discriminator = MaskDiscriminator(settings.critic_width, **shape)
    fill_network(generator, tensors, "generator", path)
    fill_network(discriminator, tensors, "discriminator", path)
    bank = MaskBank(
        masks=tensors["bank.masks"],
        names=tuple(header["names"]),
        classes=shape["classes"],
    )
    return MaskGanModel(
        generator=MaskedGenerator(generator.to(device), bank),
        critic=MaskCritic(discriminator.to(device), bank),
        header=header,
    )


def save_mask_critic(path: Path, discriminator: MaskDiscriminator) -> None:
    """Write the gate's critic of tiles with masks; it judges those of any bank."""
    tensors = {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    header = {
        "width": discriminator.width,
        "bands": discriminator.bands.to_json(),
        "classes": list(discriminator.classes),
        "tile_size": discriminator.tile_size,
    }
    write_checkpoint(path, CRITIC_KIND, tensors, header)


def load_mask_critic(path: Path, bank: MaskBank, device: torch.device) -> MaskCritic:
    """Read what `save_mask_critic` wrote, to judge tiles of a bank's masks.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
        DataError: the bank is of other classes or of another size.
    """
    tensors, header = read_checkpoint(path, CRITIC_KIND)
    discriminator = MaskDiscriminator(header["width"], **shape_of(header))
    fill_network(discriminator, tensors, "discriminator", path)
    return MaskCritic(discriminator.to(device), bank)
