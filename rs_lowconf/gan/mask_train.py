"""Training of the generator of tiles with given masks: OASIS with zero-centred penalties."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rs_lowconf.errors import DataError, JobError
from rs_lowconf.gan.mask_losses import (
    agreement,
    class_loss,
    generated_loss,
    generator_loss,
    mix,
    mix_loss,
    random_regions,
    realness_penalty,
)
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.masks import masks_of
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.steps import (
    fill,
    follow,
    optimiser,
    precision,
    set_learning_rate,
    some_tiles,
    tensors_of,
)
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import MaskGanSettings
from rs_lowconf.types import MaskAugmentation, MaskSource


@dataclass(frozen=True, kw_only=True)
class MaskStepRecord:
    """What one training step says of itself; losses are in nats a known pixel."""

    images: int
    """Real tiles shown so far."""
    critic_loss: float
    """Of the discriminator on real and on generated pixels, without consistency and penalty."""
    generator_loss: float
    mix_loss: float
    """Squared inconsistency of the discriminator's logits on mixed tiles, before weighting."""
    penalty: float | None
    """R1 + R2 before weighting; None in steps that leave it out."""
    agreement: float
    """Share of known real pixels that the discriminator puts into their class."""


class MaskGanTraining:
    """Networks, weight average and optimisers between steps.

    Every random choice of a step is derived from the run seed and the step's number, so
    there is no random state to save: a resumed run equals the unbroken one.
    """

    kind = "mask gan"
    """Of what it writes."""

    def __init__(
        self,
        settings: MaskGanSettings,
        source: MaskSource,
        *,
        turn: MaskAugmentation,
        augment: MaskAugmentation,
        seed: int,
        device: torch.device,
    ) -> None:
        """Start from scratch.

        Args:
            settings: of networks and training.
            source: the training split.
            turn: symmetries that real tiles and their masks go through; the generator is
                given the turned masks.
            augment: what real and generated tiles and their masks go through, alike in both,
                before the discriminator sees them.
            seed: the run's.
            device: where to compute.

        Raises:
            DataError: there are no tiles.
        """
        if not len(source):
            raise DataError("there are no training tiles")
        self.settings = settings
        self.seed = seed
        self.images = 0
        self._source = source
        self._turn = turn
        self._augment = augment
        self._device = device
        with forked_rng(seed_of(seed, "mask gan", "weights")):
            shape: dict[str, Any] = {
                "bands": source.bands,
                "classes": source.classes,
                "tile_size": source.batch([0]).image.shape[-1],
                "basis": spectral_basis(some_tiles(source, seed), source.bands, settings.whitening),
            }
            self.generator = MaskGenerator(settings, **shape).to(device)
            self.discriminator = MaskDiscriminator(settings.critic_width, **shape).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(requires_grad=False)
        self._optimisers = {
            "generator": optimiser(self.generator, settings),
            "discriminator": optimiser(self.discriminator, settings),
        }

    def step(self) -> MaskStepRecord:
        """Show one batch to the discriminator, then improve the generator on the same batch."""
        settings, number = self.settings, self.images // self.settings.batch_size
        set_learning_rate(self._optimisers.values(), settings, self.images)
        dice = torch.Generator().manual_seed(seed_of(self.seed, "mask gan", "step", number))
        real, mask = self._draw(dice, number)
        z = torch.randn(len(real), self.generator.latent_dim, generator=dice)
        with precision(settings, self._device):
            fake = self.generator(z.to(self._device), mask)
        seen_real, seen_mask = self._seen(real, mask, dice, number)
        seen_fake, _ = self._seen(fake, mask, dice, number)

        region = random_regions(seen_mask, len(self._source.classes), dice)
        both = torch.cat([seen_real, seen_fake.detach()])
        mixed = mix(seen_real, seen_fake.detach(), region)
        of_real, of_fake, of_mixed = self._judge(torch.cat([both, mixed])).chunk(3)
        critic_loss = class_loss(of_real, seen_mask) + generated_loss(of_fake, seen_mask)
        consistency = mix_loss(of_mixed, mix(of_real, of_fake, region), seen_mask)
        penalty = None
        total = critic_loss + settings.mix_weight * consistency
        if number % settings.penalty_every == 0:
            # The penalty sums over channels, so gamma is scaled from 3 bands to ours.
            weight = settings.gamma / 2 * 3 / len(self._source.bands) * settings.penalty_every
            penalty = realness_penalty(self.discriminator, both, seen_mask.repeat(2, 1, 1)) * 2
            total = total + weight * penalty
        self._update("discriminator", total)

        self.discriminator.requires_grad_(requires_grad=False)
        loss = generator_loss(self._judge(seen_fake), of_real, seen_mask)
        self._update("generator", loss)
        self.discriminator.requires_grad_(requires_grad=True)

        self.images += len(real)
        follow(self.average, self.generator, settings, self.images)
        return MaskStepRecord(
            images=self.images,
            critic_loss=critic_loss.item(),
            generator_loss=loss.item(),
            mix_loss=consistency.item(),
            penalty=None if penalty is None else penalty.item(),
            agreement=float(agreement(of_real.detach(), seen_mask).mean()),
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as tensors by name."""
        return {
            "images": torch.tensor(self.images),
            **tensors_of(self._modules(), self._optimisers),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            ModelError: the state is of a network with other settings or data.
        """
        fill(self._modules(), self._optimisers, tensors)
        self.images = int(tensors["images"])

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }

    def _draw(
        self, dice: torch.Generator, number: int
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return random training tiles and their masks, turned."""
        count = self.settings.batch_size
        tiles = self._source.batch(
            torch.randint(len(self._source), (count,), generator=dice).tolist()
        )
        mask = masks_of(tiles).to(self._device)
        return self._turn(
            tiles.image.to(self._device), mask, seed_of(self.seed, "mask gan", "turn", number)
        )

    def _seen(
        self,
        image: Float[Tensor, "b c h w"],
        mask: Int[Tensor, "b h w"],
        dice: torch.Generator,
        number: int,
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return what the discriminator is shown: dithered, augmented components, and where."""
        dither = torch.rand(image.shape, generator=dice).to(self._device) - 0.5
        # One seed for real and generated tiles, so that both still have one mask and can be mixed.
        moved, mask = self._augment(image, mask, seed_of(self.seed, "mask gan", "augment", number))
        return self.discriminator.components(moved, dither), mask

    def _judge(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        with precision(self.settings, self._device):
            logits: Tensor = self.discriminator(components)
        return logits

    def _update(self, name: str, loss: Float[Tensor, ""]) -> None:
        self._optimisers[name].zero_grad(set_to_none=True)
        # torch leaves backward untyped.
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimisers[name].step()


def train_on_masks(training: MaskGanTraining) -> Iterator[MaskStepRecord]:
    """Yield a record after each step until the set number of images has been shown.

    Raises:
        JobError: a loss is no longer a number; what was saved before is still good.
    """
    while training.images < training.settings.images:
        record = training.step()
        if not math.isfinite(record.critic_loss + record.generator_loss):
            raise JobError(
                f"training diverged after {record.images:,} images (a loss is not finite)",
                remedy=(
                    "lower mask_gan.learning_rate or raise mask_gan.gamma, and train in a new "
                    "run.dir"
                ),
            )
        yield record
