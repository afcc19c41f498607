"""Training of the generator of tiles with given masks: OASIS with zero-centred penalties."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rs_lowconf.errors import DataError
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.mask_losses import (
    agreement,
    critic_losses,
    generator_loss,
)
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.steps import (
    SavedTraining,
    follow,
    improve,
    network_shape,
    optimiser,
    precision,
    set_learning_rate,
)
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import MaskGanSettings
from rs_lowconf.types import MaskAugmentation, MaskSource


@dataclass(frozen=True, kw_only=True)
class MaskStepRecord:
    """Figures of one training step; losses are in nats per known pixel."""

    images: int
    """Real tiles shown so far."""
    critic_loss: float
    """Of the discriminator on real and on generated pixels, without consistency and penalty."""
    generator_loss: float
    mix_loss: float
    """Squared inconsistency of the discriminator's logits on mixed tiles, before weighting."""
    penalty: float | None
    """R1 + R2 before weighting; None in steps without it."""
    agreement: float
    """Share of known real pixels that the discriminator puts into their class."""


class MaskShow:
    """Training tiles and generated ones of the same masks, as shown to a discriminator."""

    def __init__(
        self,
        source: MaskSource,
        *,
        turn: MaskAugmentation,
        augment: MaskAugmentation,
        seed: int,
        stream: str,
        device: torch.device,
    ) -> None:
        """Show tiles of a source; every random choice derives from seed, stream and number.

        Args:
            source: the training split.
            turn: symmetries that real tiles and their masks go through; the generator is
                given the turned masks.
            augment: the same augmentation for real and generated tiles and their masks.
            seed: the run's.
            stream: names the random stream.
            device: where to compute.
        """
        self._source = source
        self._turn = turn
        self._augment = augment
        self._name = (seed, stream)
        self._device = device

    def rng(self, number: int) -> torch.Generator:
        """Return the random number generator of a step."""
        seed, stream = self._name
        return torch.Generator().manual_seed(seed_of(seed, stream, "step", number))

    def draw(
        self, count: int, number: int, rng: torch.Generator
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return random training tiles and their masks, turned."""
        tiles = self._source.batch(
            torch.randint(len(self._source), (count,), generator=rng).tolist()
        )
        mask = masks_of(tiles).to(self._device)
        seed, stream = self._name
        return self._turn(tiles.image.to(self._device), mask, seed_of(seed, stream, "turn", number))

    def seen(
        self,
        discriminator: MaskDiscriminator,
        image: Float[Tensor, "b c h w"],
        mask: Int[Tensor, "b h w"],
        number: int,
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return the discriminator's input: dithered, augmented components, and their masks."""
        dither = torch.rand(image.shape, generator=rng).to(self._device) - 0.5
        # One seed for real and generated tiles, so that both still have one mask and can be mixed.
        seed, stream = self._name
        moved, mask = self._augment(image, mask, seed_of(seed, stream, "augment", number))
        return discriminator.components(moved, dither), mask


class MaskGanTraining(SavedTraining):
    """Networks, weight average and optimisers between steps."""

    kind = "mask gan"
    """Kind of the files that it writes."""

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
            augment: the same augmentation for real and generated tiles and their masks,
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
        self._device = device
        self._show = MaskShow(
            source, turn=turn, augment=augment, seed=seed, stream="mask gan", device=device
        )
        with forked_rng(seed_of(seed, "mask gan", "weights")):
            shape = network_shape(
                source, source.batch([0]).image.shape[-1], seed, settings.whitening
            )
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
        rng = self._show.rng(number)
        real, mask = self._show.draw(settings.batch_size, number, rng)
        z = torch.randn(len(real), self.generator.latent_dim, generator=rng)
        with precision(settings, self._device):
            fake = self.generator(z.to(self._device), mask)
        seen_real, seen_mask = self._show.seen(self.discriminator, real, mask, number, rng)
        seen_fake, _ = self._show.seen(self.discriminator, fake, mask, number, rng)

        losses = critic_losses(
            self.discriminator,
            self._judge,
            (seen_real, seen_fake.detach()),
            seen_mask,
            mix_weight=settings.mix_weight,
            penalty_weight=settings.gamma * settings.penalty_every
            if number % settings.penalty_every == 0
            else 0.0,
            rng=rng,
        )
        improve([self._optimisers["discriminator"]], losses.total)

        self.discriminator.requires_grad_(requires_grad=False)
        loss = generator_loss(self._judge(seen_fake), losses.of_real, seen_mask)
        improve([self._optimisers["generator"]], loss)
        self.discriminator.requires_grad_(requires_grad=True)

        self.images += len(real)
        follow(self.average, self.generator, settings, self.images)
        return MaskStepRecord(
            images=self.images,
            critic_loss=losses.adversarial.item(),
            generator_loss=loss.item(),
            mix_loss=losses.consistency.item(),
            penalty=None if losses.penalty is None else losses.penalty.item(),
            agreement=float(agreement(losses.of_real.detach(), seen_mask).mean()),
        )

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }

    def _judge(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        with precision(self.settings, self._device):
            logits: Tensor = self.discriminator(components)
        return logits
