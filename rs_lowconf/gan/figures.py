"""Quick figures of a generator during training; `rslow evaluate` computes the full table."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.bands import TRUE_COLOUR, BandSpec
from rs_lowconf.gan.critic import critic_logit
from rs_lowconf.gan.distances import poly_kernel
from rs_lowconf.gan.frozen import FrozenNetwork, pooled
from rs_lowconf.gan.mask_networks import MaskGenerator
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import BYTE, Rendering
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

_BATCH = 40
_COMPARED = 400


@torch.no_grad()
def sample(
    generator: ClassGenerator | MaskGenerator, condition: Int[Tensor, "n *pixels"], seed: int
) -> Float[Tensor, "n c h w"]:
    """Return tiles of random latents; the same latents for the same seed and number.

    Args:
        generator: of either kind.
        condition: labels, or masks, whichever it takes.
        seed: of the latents.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "gan", "sample"))
    z = torch.randn(len(condition), generator.latent_dim, generator=rng)
    device = next(generator.parameters()).device
    parts = zip(torch.split(z, _BATCH), torch.split(condition, _BATCH), strict=True)
    return torch.cat([generator(a.to(device), b.to(device)).cpu() for a, b in parts])


@torch.no_grad()
def figures(
    generator: ClassGenerator,
    discriminator: Discriminator,
    train: TileSource,
    val: TileSource,
    seed: int,
) -> dict[str, float]:
    """Compare generated tiles with the validation split, at its class shares.

    Returns:
        those of `spectral_figures`, and
        overfit: how much more real training tiles seem than validation tiles, as a share of
            the distance between training and generated tiles (0 none, 1 all).
    """
    return {
        **spectral_figures(generator, val, seed),
        "overfit": overfit(discriminator, generator, train, val, seed),
    }


@torch.no_grad()
def spectral_figures(generator: ClassGenerator, val: TileSource, seed: int) -> dict[str, float]:
    """Compare spectra and finest texture of generated tiles with held-out ones.

    Returns:
        band_mean: mean over bands of |difference of means| / standard deviation of reals.
        band_std: mean over bands of |log ratio of standard deviations|.
        correlation: root mean square difference of the band correlation matrices.
        detail: mean over bands of |log ratio of the power of pixel differences|.
    """
    count = max(1, 200 // len(val))
    real = val.batch(range(len(val))).image
    fake = sample(generator, val.labels.repeat(count), seed)
    real_pixels = real.transpose(0, 1).flatten(1)
    fake_pixels = fake.transpose(0, 1).flatten(1)
    real_std, fake_std = real_pixels.std(1), fake_pixels.std(1).clamp_min(1e-9)
    correlation = torch.corrcoef(real_pixels) - torch.corrcoef(fake_pixels)
    return {
        "band_mean": float(((real_pixels.mean(1) - fake_pixels.mean(1)).abs() / real_std).mean()),
        "band_std": float((fake_std / real_std).log().abs().mean()),
        "correlation": float(correlation.square().mean().sqrt()),
        "detail": float((_detail(fake) / _detail(real)).log().abs().mean()),
    }


@torch.no_grad()
def domain_distance(
    generator: ClassGenerator,
    val: TileSource,
    features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]],
    seed: int,
) -> float:
    """Return how far generated tiles are from held-out ones, to choose a checkpoint by.

    The squared MMD with KID's kernel (Binkowski et al., "Demystifying MMD GANs", ICLR 2018)
    of several generated tiles for every held-out one. It must not be reported: the
    checkpoint with the smallest of many looks better than it is, and as both sets have the
    same number of tiles per class, it has an offset (the same for all checkpoints).
    """
    label = val.labels.repeat(max(1, _COMPARED // len(val)))
    real = val.batch(range(len(val))).image
    fake = sample(generator, label, seed)
    device = next(generator.parameters()).device
    x, y = (
        torch.cat([features(part.to(device)).cpu() for part in torch.split(image, _BATCH)]).double()
        for image in (real, fake)
    )
    return squared_mmd(x, y)


def squared_mmd(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> float:
    """Return the unbiased squared MMD of two sets of features with KID's kernel."""
    within = [
        (kernel.sum() - kernel.diagonal().sum()) / (len(kernel) * (len(kernel) - 1))
        for kernel in (poly_kernel(x, x), poly_kernel(y, y))
    ]
    return float(within[0] + within[1] - 2 * poly_kernel(x, y).mean())


@torch.no_grad()
def overfit(
    discriminator: Discriminator,
    generator: ClassGenerator,
    train: TileSource,
    val: TileSource,
    seed: int,
) -> float:
    """Return how much more real training tiles seem than validation tiles.

    As a share of the distance between training and generated tiles: 0 none, 1 all (Karras
    et al., "Training generative adversarial networks with limited data", 2020, equation 1).
    Logits are compared within classes, whose constants differ: the training tiles are drawn
    with the classes of the validation tiles.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "gan", "overfit"))
    some = []
    for name in (val.classes[k] for k in val.labels.tolist()):
        members = torch.nonzero(train.labels == train.classes.index(name))[:, 0]
        some.append(int(members[torch.randint(len(members), (1,), generator=rng)]))
    device = next(discriminator.parameters()).device
    means = []
    for image in (
        train.batch(some).image,
        val.batch(range(len(val))).image,
        sample(generator, val.labels, seed),
    ):
        parts = zip(torch.split(image, _BATCH), torch.split(val.labels, _BATCH), strict=True)
        logit = [critic_logit(discriminator, a.to(device), b.to(device)).cpu() for a, b in parts]
        means.append(float(torch.cat(logit).mean()))
    seen, held_out, generated = means
    return (seen - held_out) / max(seen - generated, 1e-6)


def _detail(image: Float[Tensor, "n c h w"]) -> Float[Tensor, " c"]:
    """Return the mean squared difference of neighbouring pixels per band."""
    across = image.diff(dim=-1).square().mean((0, 2, 3))
    down = image.diff(dim=-2).square().mean((0, 2, 3))
    return (across + down).clamp_min(1e-12)


class FrozenDistance:
    """How far generated tiles are from held-out real ones, on features of a pretrained network.

    KID's squared MMD (Binkowski et al., "Demystifying MMD GANs", ICLR 2018) on `pooled` features
    of true-colour tiles that went through the rendering of their source. To choose a checkpoint by
    it, the network must differ from that of the critics.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        val: TileSource,
        *,
        rendering: Rendering,
        white: float,
        most: int = 1_000,
    ) -> None:
        """Compute the features of held-out tiles, `most` of them, evenly spread over the split.

        Args:
            network: gives the features.
            val: held-out tiles with the bands `TRUE_COLOUR`.
            rendering: how their source stores reflectance.
            white: reflectance that is shown as 255.
            most: tiles of each set.
        """
        chosen = torch.linspace(0, len(val) - 1, min(most, len(val))).long()
        self._network, self._rendering, self._white = network, rendering, white
        self._label = val.labels[chosen]
        parts = torch.split(chosen, _BATCH)
        images = (val.batch(part.tolist()).image for part in parts)
        self._real = torch.cat([self._features(image, val.bands) for image in images])

    def __call__(self, generator: ClassGenerator, seed: int) -> float:
        """Return the squared MMD to as many generated tiles of the same classes."""
        return self.to(sample(generator, self._label, seed), generator.bands)

    def to(self, image: Float[Tensor, "n c h w"], bands: BandSpec) -> float:
        """Return the squared MMD to other tiles, whose bands include those of the rendering."""
        parts = [
            self._features(self._rendering(part, bands), self._rendering.bands)
            for part in torch.split(image, _BATCH)
        ]
        return squared_mmd(self._real.double(), torch.cat(parts).double())

    def _features(self, image: Float[Tensor, "b c h w"], bands: BandSpec) -> Float[Tensor, "b f"]:
        picked = image[:, list(bands.index_of(TRUE_COLOUR))]
        picture = (picked * (BYTE / self._white)).clamp(0, BYTE)
        return pooled(self._network, picture.to(self._network.mean.device)).cpu()
