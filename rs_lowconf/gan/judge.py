"""The gate's critic: a discriminator of another seed, trained against the finished generator.

The generator was trained to satisfy its discriminator, and the search's energy uses that
discriminator; neither can judge how real a searched tile is. This critic took part in neither.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.gan.beside import BesideRecord, Lesson, train_beside
from rs_lowconf.gan.mask_losses import critic_losses
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.mask_train import MaskShow
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.steps import network_shape
from rs_lowconf.gan.train import BalancedDraw, gradient_penalty, seen_pair
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import GateSettings, MaskGanSettings
from rs_lowconf.types import Augmentation, MaskAugmentation, MaskSource, TileSource

_WHITENING = 0.01
_PENALTY_EVERY = 8
_DIVERGED = "training of the critic"


def train_judge(  # noqa: PLR0917 - opponents, recipe, chance, place: the order of the work
    generator: ClassGenerator,
    source: TileSource,
    settings: GateSettings,
    augment: tuple[Augmentation, Augmentation],
    seed: int,
    device: torch.device,
) -> Iterator[BesideRecord[Discriminator]]:
    """Train a new discriminator to distinguish training tiles from generated ones, by class.

    Logistic loss with both zero-centred gradient penalties; the weight average counts.

    Args:
        generator: finished and frozen.
        source: the training split, in the generator's bands and classes.
        settings: of network and training.
        augment: of real tiles, and of generated ones.
        seed: the run's; the critic has a separate random stream.
        device: where to compute.

    Raises:
        DataError: a class has no tile.
        JobError: the loss is no longer a number.
    """
    draw = BalancedDraw(source)
    with forked_rng(seed_of(seed, "critic", "weights")):
        shape = network_shape(source, generator.tile_size, seed, _WHITENING)
        judge = Discriminator(settings.width, **shape).to(device)
    weight = settings.gamma / 2 * 3 / len(source.bands) * _PENALTY_EVERY

    def lesson(number: int, rng: torch.Generator) -> Lesson:
        label, chosen = draw(settings.batch_size, rng)
        z = torch.randn(settings.batch_size, generator.latent_dim, generator=rng).to(device)
        label = label.to(device)
        with torch.no_grad():
            pair = (source.batch(chosen).image.to(device), generator(z, label))
            both = seen_pair(
                judge,
                pair,
                augment,
                lambda kind: seed_of(seed, "critic", "augment", kind, number),
                rng,
            )
        label = label.repeat(2)
        loss = total = logistic(judge(both, label))
        if number % _PENALTY_EVERY == 0:
            total = loss + weight * gradient_penalty(judge, both, label)
        return Lesson(total=total, loss=loss)

    return train_beside(
        judge,
        lesson,
        settings,
        seed=seed,
        stream=("critic", "step"),
        diverged=(_DIVERGED, "lower gate.learning_rate or raise gate.gamma"),
    )


def logistic(logits: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Return the logistic loss of logits of which the first half are of real tiles."""
    real, fake = logits.chunk(2)
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def train_mask_judge(
    generator: MaskGenerator,
    source: MaskSource,
    settings: GateSettings,
    recipe: MaskGanSettings,
    *,
    augment: tuple[MaskAugmentation, MaskAugmentation],
    seed: int,
    device: torch.device,
) -> Iterator[BesideRecord[MaskDiscriminator]]:
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
        shape = network_shape(source, generator.tile_size, seed, recipe.whitening)
        judge = MaskDiscriminator(settings.width, **shape).to(device)

    def lesson(number: int, rng: torch.Generator) -> Lesson:
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
        return Lesson(total=losses.total, loss=losses.adversarial)

    return train_beside(
        judge,
        lesson,
        settings,
        seed=seed,
        stream=("mask critic", "step"),
        diverged=(_DIVERGED, "lower gate.learning_rate or raise mask_gan.gamma"),
    )
