"""Inversion: the latent from which the generator reproduces a real tile as well as it can.

An encoder's guess is refined by Adam within the prior's shell: a latent outside may reproduce the
tile better, but the generator was not trained to draw its neighbourhood.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.batches import fixed_batches
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.settings import InversionSettings
from rs_lowconf.stored import as_stored
from rs_lowconf.types import TileGenerator

Encode = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b d"]]
"""Reflectance in the generator's bands to latents."""

Unlike = Callable[[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]], Float[Tensor, " b"]]
"""Dissimilarity of two sets of tiles, differentiable in the first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversion:
    """Result of the inversion of tiles."""

    z: Float[Tensor, "b d"]
    label: Int[Tensor, " b"]
    """The condition of each; estimated where it was unknown."""
    image: Float[Tensor, "b c h w"]
    """The reconstructed tiles, as stored in a file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inverter:
    """Inverts tiles independently of each other, in padded batches of one size."""

    generator: TileGenerator
    encode: Encode
    unlike: Unlike
    shell: PriorShell
    settings: InversionSettings
    micro_batch: int
    device: torch.device

    def __call__(self, image: Float[Tensor, "n c h w"], label: Int[Tensor, " n"]) -> Inversion:
        """Invert tiles.

        Args:
            image: reflectance in the generator's bands.
            label: the condition of each; where it is negative, the condition is chosen for which
                the encoder's latent reproduces the tile best.
        """
        found = []
        for count, (some, labels) in fixed_batches(self.micro_batch, image, label):
            batch = self._batch(some.to(self.device), labels.to(self.device))
            found.append([part[:count].cpu() for part in batch])
        z, conditions, drawn = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Inversion(z=z, label=conditions, image=drawn)

    def _batch(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> tuple[Tensor, ...]:
        z = self.encode(image)
        label = self._conditions(z, image, label)
        best, least = z.clone(), torch.full((len(z),), torch.inf, device=self.device)
        # Adam updates every number separately, so no tile depends on another.
        leaf = z.clone().requires_grad_()
        adam = torch.optim.Adam([leaf], lr=self.settings.learning_rate, betas=(0.9, 0.99))
        for step in range(self.settings.steps + 1):
            apart = self.unlike(self.generator(leaf, label), image)
            with torch.no_grad():
                nearer = apart < least
                least = torch.where(nearer, apart, least)
                best[nearer] = leaf[nearer]
            if step == self.settings.steps:
                break
            (leaf.grad,) = torch.autograd.grad(apart.sum(), leaf)
            adam.step()
            with torch.no_grad():
                leaf.copy_(self.shell.project(leaf))
        with torch.no_grad():
            drawn = as_stored(self.generator(best, label))
        return best, label, drawn

    @torch.no_grad()
    def _conditions(
        self, z: Float[Tensor, "b d"], image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Int[Tensor, " b"]:
        if (label >= 0).all():
            return label
        apart = torch.stack(
            [
                self.unlike(self.generator(z, torch.full_like(label, index)), image)
                for index in range(len(self.generator.classes))
            ]
        )
        return torch.where(label >= 0, label, apart.argmin(0))
