"""Training of the generator of tiles with given masks: OASIS with zero-centred penalties.

With the recipe `frozen`, critics on frozen features of three-band composites judge the same tiles
beside the discriminator.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rs_lowconf.errors import DataError
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.feature_critic import FeatureMixer
from rs_lowconf.gan.mask_losses import (
    agreement,
    critic_losses,
    generator_loss,
)
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator
from rs_lowconf.gan.pairing import critic_pairing, generator_pairing, inputs_of
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.gan.source_critics import (
    SourceCritic,
    SourceShape,
    feature_critics,
    modules_of,
    scale_features,
)
from rs_lowconf.gan.steps import (
    SavedTraining,
    follow,
    improve,
    network_shape,
    optimiser,
    precision,
    set_learning_rate,
    some_tiles,
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
    losses: Mapping[str, float] | None = None
    """Loss of every critic on frozen features by name, where there are any."""


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
        moved, mask = self.augmented(image, mask, number)
        return dithered(discriminator, moved, rng), mask

    def augmented(
        self, image: Float[Tensor, "b c h w"], mask: Int[Tensor, "b h w"], number: int
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return augmented tiles and their masks."""
        # One seed for real and generated tiles, so that both still have one mask and can be mixed.
        seed, stream = self._name
        return self._augment(image, mask, seed_of(seed, stream, "augment", number))


def dithered(
    discriminator: MaskDiscriminator, image: Float[Tensor, "b c h w"], rng: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Return the discriminator's input for reflectance with random dither."""
    dither = torch.rand(image.shape, generator=rng).to(image.device) - 0.5
    return discriminator.components(image, dither)


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
            DataError: there are no tiles, or with the recipe `frozen` they have no composite.
            ModelError: the weights of the frozen network are not installed.
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
            self._mixers, self._critics = dict[str, FeatureMixer](), list[SourceCritic]()
            if settings.recipe == "frozen":
                tiles = SourceShape(
                    name="tiles", rendering=Rendering(bands=source.bands), tiles=len(source)
                )
                self._mixers, self._critics = feature_critics(
                    settings, [tiles], conditions=len(source.classes) + 1, device=device
                )
                scale_features(self._mixers, [some_tiles(source, seed)])
        self.average = copy.deepcopy(self.generator).requires_grad_(requires_grad=False)
        self._optimisers = {
            "generator": optimiser(self.generator, settings),
            "discriminator": optimiser(self.discriminator, settings),
            **{critic.name: optimiser(critic.network, settings) for critic in self._critics},
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
        real, seen_mask = self._show.augmented(real, mask, number)
        fake, _ = self._show.augmented(fake, mask, number)
        seen_real = dithered(self.discriminator, real, rng)
        seen_fake = dithered(self.discriminator, fake, rng)

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
        seen = inputs_of(self._critics, {0: (real, fake)}, rng)
        paired = critic_pairing(self._critics, seen, seen_mask, settings, self.images)
        names = ["discriminator", *paired.losses]
        improve([self._optimisers[name] for name in names], losses.total + paired.total)

        self.discriminator.requires_grad_(requires_grad=False)
        loss = generator_loss(self._judge(seen_fake), losses.of_real, seen_mask)
        loss = loss + generator_pairing(self._critics, seen, seen_mask, paired)
        improve([self._optimisers["generator"]], loss)
        for module in (self.discriminator, *(critic.network for critic in self._critics)):
            module.requires_grad_(requires_grad=True)

        self.images += len(real)
        follow(self.average, self.generator, settings, self.images)
        return MaskStepRecord(
            images=self.images,
            critic_loss=losses.adversarial.item(),
            generator_loss=loss.item(),
            mix_loss=losses.consistency.item(),
            penalty=None if losses.penalty is None else losses.penalty.item(),
            agreement=float(agreement(losses.of_real.detach(), seen_mask).mean()),
            losses={name: part.item() for name, part in paired.losses.items()} or None,
        )

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            **self.feature_modules(),
        }

    def feature_modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights of the critics on frozen features, by name."""
        return modules_of(self._critics, self._mixers)

    def _judge(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        with precision(self.settings, self._device):
            logits: Tensor = self.discriminator(components)
        return logits
