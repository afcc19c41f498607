"""The gate's critic: a discriminator of another seed, trained against the finished generator.

The generator was trained to satisfy its discriminator, and the search's energy uses that
discriminator; neither can judge how real a searched tile is. This critic took part in neither.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from rs_lowconf.errors import JobError
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.steps import follow, some_tiles
from rs_lowconf.gan.train import BalancedDraw, gradient_penalty
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import GateSettings
from rs_lowconf.types import Augmentation, TileSource

_WHITENING = 0.01
_PENALTY_EVERY = 8


D = TypeVar("D", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgeRecord(Generic[D]):
    """One training step of a network that is trained beside a finished generator."""

    images: int
    """Real tiles shown so far."""
    loss: float
    """Of a discriminator, in nats: the mean over real and generated tiles, so that log 2 is chance,
    or the sum where each pixel is judged. Of an encoder: see `encode.Comparison`."""
    average: D
    """The weight average so far; training still updates it, so copy it to keep it."""


def train_judge(  # noqa: PLR0917 - opponents, recipe, chance, place: the order of the work
    generator: ClassGenerator,
    source: TileSource,
    settings: GateSettings,
    augment: tuple[Augmentation, Augmentation],
    seed: int,
    device: torch.device,
) -> Iterator[JudgeRecord[Discriminator]]:
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
        shape: dict[str, Any] = {
            "bands": source.bands,
            "classes": source.classes,
            "tile_size": generator.tile_size,
            "basis": spectral_basis(some_tiles(source, seed), source.bands, _WHITENING),
        }
        judge = Discriminator(settings.width, **shape).to(device)
    average = copy.deepcopy(judge).requires_grad_(requires_grad=False)
    optimiser = torch.optim.Adam(judge.parameters(), lr=settings.learning_rate, betas=(0.0, 0.99))
    weight = settings.gamma / 2 * 3 / len(source.bands) * _PENALTY_EVERY
    for number in range(math.ceil(settings.images / settings.batch_size)):
        rng = torch.Generator().manual_seed(seed_of(seed, "critic", "step", number))
        label, chosen = draw(settings.batch_size, rng)
        z = torch.randn(settings.batch_size, generator.latent_dim, generator=rng).to(device)
        label = label.to(device)
        with torch.no_grad():
            pair = (source.batch(chosen).image.to(device), generator(z, label))
            seen = []
            for kind, image, augmentation in zip(("real", "fake"), pair, augment, strict=True):
                augmented = augmentation(image, seed_of(seed, "critic", "augment", kind, number))
                dither = torch.rand(image.shape, generator=rng).to(device) - 0.5
                seen.append(judge.components(augmented, dither))
        both = torch.cat(seen)
        real, fake = judge(both, label.repeat(2)).chunk(2)
        loss = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
        total = loss
        if number % _PENALTY_EVERY == 0:
            total = loss + weight * gradient_penalty(judge, both, label.repeat(2))
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        optimiser.step()
        images = (number + 1) * settings.batch_size
        follow(average, judge, settings, images)
        if not math.isfinite(loss.item()):
            raise JobError(
                f"training of the critic diverged after {images:,} images",
                remedy="lower critic.learning_rate or raise critic.gamma",
            )
        yield JudgeRecord(images=images, loss=loss.item(), average=average)
