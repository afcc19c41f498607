"""Learning from reviews: rejected tiles become fakes that the gate's critic has to recognise."""

import copy
from collections.abc import Iterator
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.errors import JobError
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.judge import JudgeRecord
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.train import BalancedDraw
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import UpdateSettings
from rs_lowconf.types import Augmentation, TileSource

LAST_STAGE = ("patch", "patch_class", "to16", "block16", "pool", "whole", "whole_class")
"""Modules that are trained: a few hundred tiles would spoil the texture layers."""


def refine_critic(  # noqa: PLR0917 - opponents, reviews, recipe, chance: the order of the work
    critic: RealismCritic,
    generator: ClassGenerator,
    source: TileSource,
    rejected: Float[Tensor, "n c h w"],
    label: Int[Tensor, " n"],
    settings: UpdateSettings,
    augment: tuple[Augmentation, Augmentation],
    seed: int,
) -> Iterator[JudgeRecord[Discriminator]]:
    """Continue training the last stage of a critic, with rejected tiles as half of the fakes.

    Both halves are drawn by class; a class without rejected tiles uses generated tiles only.

    Args:
        critic: to start from; it is not changed.
        generator: draws the other half.
        source: training tiles, in the generator's bands and classes.
        rejected: tiles that reviewers took for fakes, in the generator's bands.
        label: the class that each was generated for.
        settings: of the training.
        augment: of real tiles, and of fakes.
        seed: of this update.

    Raises:
        JobError: the loss is no longer a number.
    """
    judge = copy.deepcopy(critic.discriminator).train()
    device = next(judge.parameters()).device
    for name in LAST_STAGE:
        judge.get_submodule(name).requires_grad_(requires_grad=True)
    free = [p for p in judge.parameters() if p.requires_grad]
    average = copy.deepcopy(judge).requires_grad_(requires_grad=False)
    optimiser = torch.optim.Adam(free, lr=settings.learning_rate, betas=(0.0, 0.99))
    draw, size = BalancedDraw(source), settings.batch_size
    by_class = [torch.nonzero(label == k)[:, 0] for k in range(len(source.classes))]
    for number in count():
        rng = torch.Generator().manual_seed(seed_of(seed, "refine", number))
        chosen_label, chosen = draw(size, rng)
        z = torch.randn(size, generator.latent_dim, generator=rng).to(device)
        with torch.no_grad():
            fake = generator(z, chosen_label.to(device))
            for row in range(0, size, 2):
                rejected_here = by_class[int(chosen_label[row])]
                if len(rejected_here):
                    pick = rejected_here[torch.randint(len(rejected_here), (1,), generator=rng)]
                    fake[row] = rejected[pick][0].to(device)
            pair = (source.batch(chosen).image.to(device), fake)
            seen = []
            for kind, image, change in zip(("real", "fake"), pair, augment, strict=True):
                augmented = change(image, seed_of(seed, "refine", kind, number))
                dither = torch.rand(image.shape, generator=rng).to(device) - 0.5
                seen.append(judge.components(augmented, dither))
        logit = judge(torch.cat(seen), chosen_label.repeat(2).to(device))
        real, unreal = logit.chunk(2)
        loss = (F.softplus(-real).mean() + F.softplus(unreal).mean()) / 2
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        optimiser.step()
        images = (number + 1) * size
        keep = 0.5 ** (size / min(settings.ema_images, images / 4))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), judge.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        if not loss.isfinite():
            raise JobError(
                f"refining the critic diverged after {images:,} images",
                remedy="lower update.learning_rate",
            )
        yield JudgeRecord(images=images, loss=loss.item(), average=average)
        if images >= settings.images:
            return
