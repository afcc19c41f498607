"""Training: the relativistic pairing loss with both zero-centred gradient penalties."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.errors import DataError
from rs_lowconf.gan.figures import overfit
from rs_lowconf.gan.networks import ClassTable, Discriminator, Encoder, Generator, Redrawer
from rs_lowconf.gan.steps import (
    SavedTraining,
    follow,
    improve,
    network_shape,
    optimiser,
    precision,
    set_learning_rate,
)
from rs_lowconf.measures import SYMMETRIES, turn
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import GanSettings
from rs_lowconf.types import Augmentation, TileSource

AugmentationsAt = Callable[[float], tuple[Augmentation, Augmentation]]

CONTROL_IMAGES = 4_000
"""Images between adjustments of the strength of augmentation."""
CONTROL_STEP = 0.05
REDRAW_EVERY = 2
"""Real tiles are redrawn in every n-th step, with n times the weight."""
PRIOR_WEIGHT = 0.02
"""Weight of the mean divergence of a real tile's latents from the prior, in nats per latent number,
against the redrawn tile's mean error in deviations."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Figures of one training step."""

    images: int
    """Real tiles shown so far."""
    critic_loss: float
    generator_loss: float
    logit_real: float
    """Mean logit of the batch's real tiles."""
    logit_fake: float
    penalty: float | None
    """R1 + R2 before weighting; None in steps without it."""
    strength: float
    """Probability of each augmentation."""
    losses: Mapping[str, float] | None = None
    """Loss of every critic of this step by name, where there are several; `critic_loss` is then
    that of the first."""


class GanTraining(SavedTraining):
    """Networks, weight average and optimisers between steps."""

    kind = "gan"
    """Kind of the files that it writes."""

    def __init__(
        self,
        settings: GanSettings,
        source: TileSource,
        *,
        augment_at: AugmentationsAt,
        strength: float,
        seed: int,
        device: torch.device,
        val: TileSource | None = None,
    ) -> None:
        """Start from scratch.

        Args:
            settings: of networks and training.
            source: the training split.
            augment_at: gives, for a probability, the augmentations of real tiles before the
                discriminator sees them, and those of generated tiles: the same without symmetries,
                which are drawn uniformly. If both went through those, a generator that draws every
                field in one direction would look perfect (Karras et al., "Training generative
                adversarial networks with limited data", 2020, section 2.2).
            strength: the probability to start with, constant unless overfitting adjusts it.
            seed: the run's.
            device: where to compute.
            val: held-out tiles, needed if overfitting adjusts the strength.

        Raises:
            DataError: a class has no tile.
        """
        self.settings = settings
        self.seed = seed
        self.images = 0
        self.strength = strength
        self._source = source
        self._val = val
        self._augment_at = augment_at
        self._device = device
        self._draw = BalancedDraw(source)
        with forked_rng(seed_of(seed, "gan", "weights")):
            shape = network_shape(
                source, source.batch([0]).image.shape[-1], seed, settings.whitening
            )
            self.generator = Generator(settings, **shape).to(device)
            self.discriminator = Discriminator(settings.critic_width, **shape).to(device)
            self._encoder = Encoder(settings, bands=source.bands).to(device)
            self._redrawer = Redrawer(settings.critic_width, bands=source.bands).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(requires_grad=False)
        self._optimisers = {
            "generator": optimiser(self.generator, settings),
            "discriminator": optimiser(self.discriminator, settings),
            "encoder": optimiser(self._encoder, settings),
            "redrawer": optimiser(self._redrawer, settings),
        }

    def adopt(self, generator: Generator, discriminator: Discriminator) -> None:
        """Continue from finished networks of the same settings instead of from scratch."""
        for network in (self.generator, self.average):
            network.load_state_dict(generator.state_dict())
        self.discriminator.load_state_dict(discriminator.state_dict())

    def step(self) -> StepRecord:
        """Show one batch to the discriminator, then improve the generator on the same batch."""
        settings, number = self.settings, self.images // self.settings.batch_size
        set_learning_rate(self._optimisers.values(), settings, self.images)
        self._control(number)
        rng = torch.Generator().manual_seed(seed_of(self.seed, "gan", "step", number))
        label, chosen = self._draw(settings.batch_size, rng)
        real = self._source.batch(chosen).image.to(self._device)
        z = torch.randn(settings.batch_size, self.generator.latent_dim, generator=rng)
        label = label.to(self._device)
        with precision(self.settings, self._device):
            fake = self.generator(z.to(self._device), label)
        # One generated batch serves both steps: half the generator's and augmentation's work.
        seen_real = self._seen(real, rng, number, "real")
        seen_fake = self._seen(fake, rng, number, "fake")

        both = torch.cat([seen_real, seen_fake.detach()])
        patches, logits = self._judge(both, label.repeat(2))
        logit_real, logit_fake = logits.chunk(2)
        critic_loss = F.softplus(logit_fake - logit_real).mean()
        penalty = None
        total = critic_loss
        if number % settings.penalty_every == 0:
            # The penalty sums over channels, so gamma is scaled from 3 bands to the number of
            # bands.
            weight = settings.gamma / 2 * 3 / len(self._source.bands) * settings.penalty_every
            penalty = gradient_penalty(self.discriminator, both, label.repeat(2)) * 2
            total = total + weight * penalty
        if settings.self_supervision:
            total = total + settings.self_supervision * self._memory_loss(
                seen_real, patches[: len(real)]
            )
        improve((self._optimisers[name] for name in ("discriminator", "redrawer")), total)

        self.discriminator.requires_grad_(requires_grad=False)
        _, judged = self._judge(seen_fake, label)
        generator_loss = F.softplus(logit_real.detach() - judged).mean()
        total = generator_loss
        if settings.reconstruction and number % REDRAW_EVERY == 0:
            weight = settings.reconstruction * REDRAW_EVERY
            total = total + weight * self._redrawing_loss(real, label, rng)
        improve((self._optimisers[name] for name in ("generator", "encoder")), total)
        self.discriminator.requires_grad_(requires_grad=True)

        self.images += settings.batch_size
        follow(self.average, self.generator, settings, self.images)
        return StepRecord(
            images=self.images,
            critic_loss=critic_loss.item(),
            generator_loss=generator_loss.item(),
            logit_real=logit_real.mean().item(),
            logit_fake=logit_fake.mean().item(),
            penalty=None if penalty is None else penalty.item(),
            strength=self.strength,
        )

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as tensors by name."""
        return super().state() | {"strength": torch.tensor(self.strength, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            ModelError: the state is of a network with other settings or data.
        """
        super().restore(tensors)
        self.strength = float(tensors["strength"])

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""
        modules: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }
        # A state contains the auxiliary networks that its settings use.
        if self.settings.reconstruction:
            modules["encoder"] = self._encoder
        if self.settings.self_supervision:
            modules["redrawer"] = self._redrawer
        return modules

    def _control(self, number: int) -> None:
        """Set what depends on progress and on overfitting: classes' share and augmentation."""
        settings = self.settings
        share = min(1.0, self.images / settings.blend_images) if settings.blend_images else 1.0
        for module in (self.generator, self.average, self.discriminator):
            for part in module.modules():
                if isinstance(part, ClassTable):
                    part.share.fill_(share)
        every = max(1, CONTROL_IMAGES // settings.batch_size)
        if settings.overfit_target is not None and self._val is not None and number % every == 0:
            seen = overfit(
                self.discriminator, self.generator, self._source, self._val, self.seed + number
            )
            change = CONTROL_STEP if seen > settings.overfit_target else -CONTROL_STEP
            self.strength = round(min(1.0, max(0.0, self.strength + change)), 6)
        real, fake = self._augment_at(self.strength)
        self._augment = {"real": real, "fake": fake}

    def _seen(
        self, image: Float[Tensor, "b c h w"], rng: torch.Generator, number: int, kind: str
    ) -> Float[Tensor, "b c h w"]:
        """Return the discriminator's input: dithered, augmented components."""
        seed = seed_of(self.seed, "gan", "augment", kind, number)
        return seen(self.discriminator, image, self._augment[kind], seed, rng)

    def _judge(
        self, components: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b p v u"], Float[Tensor, " b"]]:
        """Return patch features and logits."""
        with precision(self.settings, self._device):
            patches, whole = self.discriminator.trunk(components)
        patches = patches.float()
        return patches, self.discriminator.heads(patches, whole.float(), label)

    def _memory_loss(
        self, seen: Float[Tensor, "b c h w"], patches: Float[Tensor, "b p v u"]
    ) -> Float[Tensor, ""]:
        """Return how badly real tiles are reconstructed from the discriminator's features of them.

        Features that must describe layout cannot be a list of known tiles (Liu et al.,
        "Towards faster and stabilized GAN training for high-fidelity few-shot image
        synthesis", ICLR 2021).
        """
        with precision(self.settings, self._device):
            drawn = self._redrawer(patches)
        loss: Tensor = (drawn.float() - F.avg_pool2d(seen, 2)).abs().mean()
        return loss

    def _redrawing_loss(
        self, real: Float[Tensor, "b c h w"], label: Int[Tensor, " b"], rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return how far tiles drawn from real tiles' latents are from the real tiles.

        A generator that must be able to draw every real tile cannot forget kinds of them, and
        learns edges and roofs from real examples. Tiles are compared by their components and
        by the discriminator's features; the latents are drawn towards the prior (Larsen et
        al., "Autoencoding beyond pixels using a learned similarity metric", ICML 2016).
        """
        real = turn(real, int(torch.randint(SYMMETRIES, (), generator=rng)))
        still = torch.zeros_like(real[:1])
        seen = self.discriminator.components(real, still)
        with precision(self.settings, self._device):
            mean, log_variance = self._encoder(seen)
        noise = torch.randn(mean.shape, generator=rng).to(self._device)
        with precision(self.settings, self._device):
            drawn = self.generator(mean + (log_variance / 2).exp() * noise, label)
        again = self.discriminator.components(drawn, still)
        known, _ = self._judge(seen, label)
        features, _ = self._judge(again, label)
        apart = (features - known).abs().mean() / known.abs().mean().clamp_min(1e-6)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        loss: Tensor = (again - seen).abs().mean() + apart + PRIOR_WEIGHT * divergence
        return loss


class BalancedDraw:
    """Draws tiles so that all classes are equally frequent."""

    def __init__(self, source: TileSource, name: str = "") -> None:
        """Sort the tiles by class.

        Args:
            source: the tiles.
            name: of the source, where there are several.

        Raises:
            DataError: a class has no tile.
        """
        self._by_class = [
            torch.nonzero(source.labels == label)[:, 0] for label in range(len(source.classes))
        ]
        empty = [
            n for n, members in zip(source.classes, self._by_class, strict=True) if not len(members)
        ]
        if empty:
            raise DataError(
                f"{f'source {name} has ' if name else ''}no training tile of class "
                f"{', '.join(empty)}",
                remedy="add some, or omit the class from data.classes",
            )

    def __call__(self, count: int, rng: torch.Generator) -> tuple[Int[Tensor, " b"], list[int]]:
        """Return random classes and a random tile of each."""
        label = torch.randint(len(self._by_class), (count,), generator=rng)
        return label, self.of(label, rng)

    def of(self, label: Int[Tensor, " b"], rng: torch.Generator) -> list[int]:
        """Return a random tile of each class."""
        chosen = []
        for one in label.tolist():
            members = self._by_class[one]
            chosen.append(int(members[torch.randint(len(members), (1,), generator=rng)]))
        return chosen


def seen(
    discriminator: Discriminator,
    image: Float[Tensor, "b c h w"],
    augment: Augmentation,
    seed: int,
    rng: torch.Generator,
) -> Float[Tensor, "b c h w"]:
    """Return a discriminator's input: dithered, augmented components.

    Args:
        discriminator: that sees it.
        image: reflectance.
        augment: of the tiles.
        seed: of the augmentation.
        rng: for the dither.
    """
    dither = torch.rand(image.shape, generator=rng).to(image.device) - 0.5
    return discriminator.components(augment(image, seed), dither)


def seen_pair(
    discriminator: Discriminator,
    pair: tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]],
    augment: tuple[Augmentation, Augmentation],
    seed_at: Callable[[str], int],
    rng: torch.Generator,
) -> Float[Tensor, "2*b c h w"]:
    """Return a discriminator's input of real and of generated tiles; see `seen`.

    Args:
        discriminator: that sees it.
        pair: real and generated tiles.
        augment: of real tiles, and of generated ones.
        seed_at: seed of the augmentation of tiles that are "real", or "fake".
        rng: for the dither.
    """
    return torch.cat(
        [
            seen(discriminator, image, change, seed_at(kind), rng)
            for kind, image, change in zip(("real", "fake"), pair, augment, strict=True)
        ]
    )


def gradient_penalty(
    discriminator: Discriminator, components: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Return the mean squared gradient norm; on real and fake halves it is (R1 + R2) / 2."""
    return penalty_on(lambda seen: discriminator(seen[0], label), (components,))


def penalty_on(
    judge: Callable[[tuple[Tensor, ...]], Float[Tensor, "b *s"]],
    seen: tuple[Float[Tensor, "b _ _ _"], ...],
) -> Float[Tensor, ""]:
    """Return the mean squared gradient norm of logits, summed over all inputs.

    Args:
        judge: from the inputs of a batch to its logits, which may be several per tile.
        seen: parts of one batch, such as features of several scales.
    """
    leaves = tuple(part.detach().requires_grad_() for part in seen)
    gradients = torch.autograd.grad(judge(leaves).sum(), leaves, create_graph=True)
    return torch.stack([part.square().sum((1, 2, 3)).mean() for part in gradients]).sum()
