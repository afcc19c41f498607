"""Learning from reviews: rejected tiles become fakes that the gate's critic has to recognise."""

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.gan.beside import BesideRecord, Lesson, train_beside
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.judge import logistic
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.train import BalancedDraw, seen_pair
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
) -> Iterator[BesideRecord[Discriminator]]:
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
    draw, size = BalancedDraw(source), settings.batch_size
    by_class = [torch.nonzero(label == k)[:, 0] for k in range(len(source.classes))]

    def lesson(number: int, rng: torch.Generator) -> Lesson:
        drawn_label, chosen = draw(size, rng)
        z = torch.randn(size, generator.latent_dim, generator=rng).to(device)
        with torch.no_grad():
            fake = generator(z, drawn_label.to(device))
            for row in range(0, size, 2):
                rejected_here = by_class[int(drawn_label[row])]
                if len(rejected_here):
                    pick = rejected_here[torch.randint(len(rejected_here), (1,), generator=rng)]
                    fake[row] = rejected[pick][0].to(device)
            pair = (source.batch(chosen).image.to(device), fake)
            both = seen_pair(
                judge, pair, augment, lambda kind: seed_of(seed, "refine", kind, number), rng
            )
        loss = logistic(judge(both, drawn_label.repeat(2).to(device)))
        return Lesson(total=loss, loss=loss)

    return train_beside(
        judge,
        lesson,
        settings,
        seed=seed,
        stream=("refine",),
        diverged=("refining the critic", "lower update.learning_rate"),
    )
