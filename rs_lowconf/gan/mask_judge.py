"""The gate's critic of tiles with masks: trained from another seed against the finished generator.

The counterpart of `rs_lowconf.gan.judge` for tiles with masks; the losses are those of the
generator's discriminator.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch

from rs_lowconf.errors import JobError
from rs_lowconf.gan.judge import JudgeRecord
from rs_lowconf.gan.mask_losses import critic_losses
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.mask_train import MaskShow
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.steps import follow, some_tiles
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import GateSettings, MaskGanSettings
from rs_lowconf.types import MaskAugmentation, MaskSource


def train_mask_judge(
    generator: MaskGenerator,
    source: MaskSource,
    settings: GateSettings,
    recipe: MaskGanSettings,
    *,
    augment: tuple[MaskAugmentation, MaskAugmentation],
    seed: int,
    device: torch.device,
) -> Iterator[JudgeRecord[MaskDiscriminator]]:
    """Train a fresh discriminator on real tiles and generated ones of the same masks.

    Args:
        generator: finished and frozen.
        source: the training split, in the generator's bands and classes.
        settings: of network and training.
        recipe: weights of penalty and consistency, as in the generator's training.
        augment: symmetries of real tiles, and shifts and gains of both.
        seed: the run's; the critic has a separate random stream.
        device: where to compute.

    Raises:
        JobError: the loss is no longer a number.
    """
    turn, shift = augment
    show = MaskShow(
        source, turn=turn, augment=shift, seed=seed, stream="mask critic", device=device
    )
    with forked_rng(seed_of(seed, "mask critic", "weights")):
        shape: dict[str, Any] = {
            "bands": source.bands,
            "classes": source.classes,
            "tile_size": generator.tile_size,
            "basis": spectral_basis(some_tiles(source, seed), source.bands, recipe.whitening),
        }
        judge = MaskDiscriminator(settings.width, **shape).to(device)
    average = copy.deepcopy(judge).requires_grad_(requires_grad=False)
    optimiser = torch.optim.Adam(judge.parameters(), lr=settings.learning_rate, betas=(0.0, 0.99))
    for number in range(math.ceil(settings.images / settings.batch_size)):
        rng = show.rng(number)
        real, mask = show.draw(settings.batch_size, number, rng)
        z = torch.randn(len(real), generator.latent_dim, generator=rng).to(device)
        with torch.no_grad():
            fake = generator(z, mask)
            seen_real, seen_mask = show.seen(judge, real, mask, number, rng)
            seen_fake, _ = show.seen(judge, fake, mask, number, rng)
        penalised = number % recipe.penalty_every == 0
        losses = critic_losses(
            judge,
            judge,
            (seen_real, seen_fake),
            seen_mask,
            mix_weight=recipe.mix_weight,
            penalty_weight=recipe.gamma * recipe.penalty_every if penalised else 0.0,
            rng=rng,
        )
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        optimiser.step()
        images = (number + 1) * settings.batch_size
        follow(average, judge, settings, images)
        loss = losses.adversarial.item()
        if not math.isfinite(loss):
            raise JobError(
                f"training of the critic diverged after {images:,} images",
                remedy="lower gate.learning_rate or raise mask_gan.gamma",
            )
        yield JudgeRecord(images=images, loss=loss, average=average)
