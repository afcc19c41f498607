"""The encoder: real tiles to latents from which a finished generator draws them again.

It is trained after the generator and does not change it. The inversion of a tile starts at its
output; otherwise it would start at the best of many random latents.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.gan.beside import BesideRecord, Lesson, train_beside
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.feature_critic import TextureCritic
from rs_lowconf.gan.mask_networks import MaskDiscriminator
from rs_lowconf.gan.masks import MaskCritic
from rs_lowconf.gan.networks import Discriminator, Encoder
from rs_lowconf.gan.source_critics import SourcesCritic
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import EncoderSettings, GeneratorSettings

Draw = Callable[[Float[Tensor, "b d"], Tensor], Float[Tensor, "b c h w"]]
"""The generator: latents and conditions (classes or masks) to reflectance."""

Tiles = Callable[[int, int, torch.Generator], tuple[Float[Tensor, "b c h w"], Tensor]]
"""Draws a number of augmented training tiles with their conditions, for a step and its rng."""

Project = Callable[[Float[Tensor, "b d"]], Float[Tensor, "b d"]]
"""Returns the nearest latents where the prior has its mass."""


class Comparison:
    """Dissimilarity of two tiles, pixel by pixel and to the generator's own discriminator.

    Whitened and compressed pixels, so that every band and dark water count; and the discriminator's
    features of each patch, without which a blur minimises the error (Larsen et al., "Autoencoding
    beyond pixels using a learned similarity metric", ICML 2016).
    """

    def __init__(self, discriminator: Discriminator | MaskDiscriminator) -> None:
        """Compare by a trained discriminator."""
        self.bands = discriminator.bands
        self._discriminator = discriminator

    def components(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the discriminator's input for reflectance, without dither."""
        return self._discriminator.components(image, torch.zeros_like(image[:1]))

    def __call__(
        self, image: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """Return the mean absolute difference of components, and that of patches over their size.

        Differentiable in `image`; `other` is treated as constant.
        """
        seen, known = self.components(image), self.components(other).detach()
        patches = self._discriminator.patches(seen)
        wanted = self._discriminator.patches(known).detach()
        size = wanted.abs().mean((1, 2, 3)).clamp_min(1e-6)
        apart: Tensor = (patches - wanted).abs().mean((1, 2, 3)) / size
        return (seen - known).abs().mean((1, 2, 3)) + apart


class FrozenComparison:
    """Dissimilarity of two tiles, pixel by pixel and to the critics on frozen features.

    As `Comparison`, with mixed features of all composites and scales instead of patches: a
    perceptual distance (Zhang et al., "The unreasonable effectiveness of deep features as a
    perceptual metric", CVPR 2018).
    """

    def __init__(self, critic: SourcesCritic) -> None:
        """Compare by trained critics, one of which is native to all bands of the generator."""
        self.bands = critic.bands
        self._critic = critic
        self._native = next(
            part.network
            for part in critic.critics.critics
            if isinstance(part.network, TextureCritic | Discriminator)
            and part.network.bands.names == critic.bands.names
        )

    def components(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return whitened and compressed reflectance."""
        return self._native.components(image, torch.zeros_like(image[:1]))

    def __call__(
        self, image: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """Return the mean absolute difference of components, and that of features over their size.

        Differentiable in `image`; `other` is treated as constant.
        """
        with torch.no_grad():
            known, wanted = self.components(other), self._critic.scales(other)
        total: Tensor = (self.components(image) - known).abs().mean((1, 2, 3))
        found = self._critic.scales(image)
        parts = [
            (a - b).abs().mean((1, 2, 3)) / b.abs().mean((1, 2, 3)).clamp_min(1e-6)
            for some, same in zip(found, wanted, strict=True)
            for a, b in zip(some, same, strict=True)
        ]
        return total + torch.stack(parts).mean(0)


def comparison_of(
    critic: RealismCritic | MaskCritic | SourcesCritic,
) -> Comparison | FrozenComparison:
    """Return the comparison of tiles by the critics of a generator."""
    if isinstance(critic, SourcesCritic):
        return FrozenComparison(critic)
    return Comparison(critic.discriminator)


def train_encoder(  # noqa: PLR0917 - generator, tiles, recipe, chance, place: the order of the work
    draw: Draw,
    unlike: Comparison | FrozenComparison,
    tiles: Tiles,
    project: Project,
    recipe: GeneratorSettings,
    settings: EncoderSettings,
    seed: int,
    device: torch.device,
) -> Iterator[BesideRecord[Encoder]]:
    """Train an encoder of the latents of a finished generator; the weight average counts.

    Half of each batch are training tiles. The other half are generated, of which the latents are
    known: they are unlimited, so that the encoder does not memorise few training tiles.

    Args:
        draw: the generator, finished and frozen.
        unlike: compares tiles as the generator's critics see them.
        tiles: draws training tiles.
        project: keeps latents where the generator has learned to draw.
        recipe: of the generator, which sets the sizes of latent and network.
        settings: of this training.
        seed: the run's.
        device: where to compute.

    Raises:
        JobError: the loss is no longer a number.
    """
    with forked_rng(seed_of(seed, "encoder", "weights")):
        encoder = Encoder(recipe, bands=unlike.bands).to(device)
    half = math.ceil(settings.batch_size / 2)

    def lesson(number: int, rng: torch.Generator) -> Lesson:
        real, condition = tiles(half, number, rng)
        latent = project(torch.randn(half, _dim(recipe, real), generator=rng)).to(device)
        with torch.no_grad():
            fake = draw(latent, condition)
        image = torch.cat([real, fake])
        found = project(encoder(unlike.components(image))[0])
        again = draw(found, torch.cat([condition, condition]))
        known = (found[half:] - latent).square().mean()
        loss = unlike(again, image).mean() + settings.latent_weight * known
        return Lesson(total=loss, loss=loss)

    return train_beside(
        encoder,
        lesson,
        settings,
        seed=seed,
        stream=("encoder", "step"),
        real=half,
        momentum=0.9,
        cosine=True,
        diverged=("training of the encoder", "lower encoder.learning_rate"),
    )


def encoding(
    encoder: Encoder, unlike: Comparison | FrozenComparison, project: Project
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b d"]]:
    """Return the function from reflectance to latents where the prior has its mass."""

    @torch.no_grad()
    def encode(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return project(encoder(unlike.components(image))[0])

    return encode


def _dim(recipe: GeneratorSettings, image: Float[Tensor, "b c h w"]) -> int:
    return recipe.latent_global + recipe.latent_map * (image.shape[-1] // 8) ** 2
