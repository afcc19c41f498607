"""One step of several critics: the relativistic pairing loss with both gradient penalties.

As in R3GAN (Huang et al., NeurIPS 2024): a critic compares a real tile with a generated one of the
same condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.gan.source_critics import SourceCritic
from rs_lowconf.gan.steps import fallen
from rs_lowconf.gan.train import penalty_on
from rs_lowconf.settings import FrozenSettings

Seen = Mapping[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
"""The inputs of critics by their names, of real and of generated tiles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """What critics make of real and generated tiles."""

    losses: Mapping[str, Float[Tensor, ""]]
    """By critic."""
    penalties: Sequence[Float[Tensor, ""]]
    """Weighted R1 + R2 of the critics that are penalised in this step."""
    logits: Mapping[str, tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]]
    """Of real and of generated tiles, by critic, without gradients."""

    @property
    def total(self) -> Float[Tensor, ""]:
        """Return the sum of losses and penalties; 0 without critics."""
        return added([added(list(self.losses.values())), *self.penalties])

    @property
    def penalty(self) -> float | None:
        """Return the sum of the weighted penalties; None in steps without any."""
        return sum(part.item() for part in self.penalties) if self.penalties else None


def due_critics(critics: Sequence[SourceCritic], number: int) -> list[SourceCritic]:
    """Return the critics that judge in a step."""
    return [critic for critic in critics if number % critic.turn[1] == critic.turn[0]]


def inputs_of(
    critics: Sequence[SourceCritic],
    shown: Mapping[int, tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]],
    rng: torch.Generator,
) -> Seen:
    """Return what critics see of augmented tiles.

    Args:
        critics: of this step.
        shown: real and generated tiles, by source.
        rng: of the dither.
    """
    seen = {}
    for critic in critics:
        real, generated = shown[critic.source]
        dither = torch.rand((2, *real.shape), generator=rng).to(real.device) - 0.5
        with torch.no_grad():
            known = critic.see(real, dither[0])
        seen[critic.name] = (known, critic.see(generated, dither[1]))
    return seen


def critic_pairing(
    critics: Sequence[SourceCritic],
    seen: Seen,
    condition: Int[Tensor, "b *pixels"],
    settings: FrozenSettings,
    images: int,
) -> Paired:
    """Return the losses of critics on one batch.

    Args:
        critics: of this step.
        seen: their inputs.
        condition: classes or masks of the tiles.
        settings: of the training.
        images: real tiles shown so far, with which penalties become weaker.
    """
    number = images // settings.batch_size
    left = fallen(images / settings.gamma_images, settings.final_gamma)
    twice = torch.cat([condition, condition])
    losses, penalties, logits = {}, [], {}
    for place, critic in enumerate(critics):
        known, drawn = seen[critic.name]
        still = tuple(part.detach() for part in drawn)
        both = tuple(torch.cat(pair) for pair in zip(known, still, strict=True))
        real, fake = critic.judge(both, twice).chunk(2)
        logits[critic.name] = (real.detach(), fake.detach())
        losses[critic.name] = F.softplus(fake - real).mean(0).sum()
        if (number // critic.turn[1] + place) % settings.penalty_every == 0:
            weight = left * critic.gamma / 2 * settings.penalty_every
            penalty = 2 * penalty_on(partial(critic.judge, label=twice), both)
            penalties.append(weight * penalty)
    return Paired(losses=losses, penalties=penalties, logits=logits)


def generator_pairing(
    critics: Sequence[SourceCritic],
    seen: Seen,
    condition: Int[Tensor, "b *pixels"],
    paired: Paired,
) -> Float[Tensor, ""]:
    """Return the generator's loss by all critics, whose weights get no gradients from it."""
    losses = []
    for critic in critics:
        critic.network.requires_grad_(requires_grad=False)
        judged = critic.judge(seen[critic.name][1], condition)
        apart = F.softplus(paired.logits[critic.name][0] - judged).mean(0).sum()
        losses.append(critic.weight * apart)
    return added(losses)


def added(values: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Return the sum of values, of which there may be none."""
    return torch.stack(list(values)).sum() if values else torch.zeros(())
