"""Realism of a tile: the discriminator's logit without its arbitrary constant per class."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

_BATCH = 32
_MOST_TILES = 500


class RealismCritic:
    """A `Critic`: 0 means that real and generated are equally likely, given the class."""

    def __init__(
        self,
        discriminator: Discriminator,
        *,
        slope: Float[Tensor, ""],
        offset: Float[Tensor, " k"],
    ) -> None:
        """Keep a trained discriminator and the calibration of `fit_realism`."""
        self.bands = discriminator.bands
        self.classes = discriminator.classes
        self.slope = slope
        self.offset = offset
        self.discriminator = discriminator.eval().requires_grad_(requires_grad=False)

    def realism(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the calibrated realism logit, higher for more real."""
        logit = critic_logit(self.discriminator, image, label)
        return self.slope.to(logit) * (logit - self.offset.to(logit)[label])

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the discriminator's features of tiles: mean patch and whole-tile features."""
        still = torch.zeros_like(image[:1])
        patches, whole = self.discriminator.trunk(self.discriminator.components(image, still))
        return torch.cat([patches.mean((2, 3)), whole], dim=1)


def critic_logit(
    discriminator: Discriminator, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Return the discriminator's logit of unchanged tiles: no augmentation, no dither."""
    logit: Tensor = discriminator(
        discriminator.components(image, torch.zeros_like(image[:1])), label
    )
    return logit


def fit_realism(
    discriminator: Discriminator, generator: ClassGenerator, source: TileSource, seed: int
) -> RealismCritic:
    """Return a critic with the calibrated logit of a discriminator; see `fit_logit`."""

    def logit(image: Tensor, label: Tensor) -> Tensor:
        return critic_logit(discriminator, image, label)

    slope, offset = fit_logit(logit, generator, source, seed)
    # A copy, because the critic freezes weights that training still updates.
    return RealismCritic(copy.deepcopy(discriminator), slope=slope, offset=offset)


@torch.no_grad()
def fit_logit(
    logit: Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]],
    generator: ClassGenerator,
    source: TileSource,
    seed: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """Calibrate a logit by logistic regression with one slope and an offset per class.

    A relativistic loss sees only differences of logits within a class, so each class has an
    arbitrary constant. Real and generated tiles of each class enter with equal weight (Platt,
    "Probabilistic outputs for support vector machines", 1999).

    Args:
        logit: of reflectance in the generator's bands, and labels.
        generator: draws as many tiles as there are real ones.
        source: real tiles in the generator's bands.
        seed: of the tiles and latents.

    Returns:
        slope and offsets: slope x (logit - offset of the class) is the calibrated logit.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "gan", "realism"))
    chosen = torch.randperm(len(source), generator=rng)[:_MOST_TILES]
    device = next(generator.parameters()).device
    real, fake = [], []
    label = source.labels[chosen]
    for part in torch.split(chosen, _BATCH):
        batch_label = source.labels[part].to(device)
        image = source.batch(part.tolist()).image.to(device)
        z = torch.randn(len(part), generator.latent_dim, generator=rng).to(device)
        real.append(logit(image, batch_label))
        fake.append(logit(generator(z, batch_label), batch_label))
    return _platt(torch.cat(real).cpu(), torch.cat(fake).cpu(), label, len(source.classes))


def _platt(
    real: Float[Tensor, " n"], fake: Float[Tensor, " n"], label: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """Minimise the mean logistic loss over log slope and offsets."""
    centre = torch.stack(
        [
            (real[label == k].mean() + fake[label == k].mean()) / 2
            if (label == k).any()
            else (real.mean() + fake.mean()) / 2
            for k in range(classes)
        ]
    ).double()
    spread = torch.cat([real - centre[label], fake - centre[label]]).std().clamp_min(1e-6).double()
    scaled_real = (real - centre[label]) / spread
    scaled_fake = (fake - centre[label]) / spread

    def loss(values: Float[np.ndarray, " t"]) -> tuple[float, list[float]]:
        with torch.enable_grad():
            theta = torch.from_numpy(values).clone().requires_grad_()
            slope, shift = theta[0].exp(), theta[1:][label]
            # The weak pull keeps the optimum finite when real and fake separate perfectly.
            total = (
                F.softplus(-slope * (scaled_real - shift)).mean()
                + F.softplus(slope * (scaled_fake - shift)).mean()
                + 1e-3 * theta.square().sum()
            )
            (slant,) = torch.autograd.grad(total, theta)
        return total.item(), slant.tolist()

    best = minimize(loss, [0.0] * (1 + classes), jac=True, method="L-BFGS-B").x
    slope = torch.tensor(best[0], dtype=torch.float64).exp() / spread
    offset = centre + spread * torch.tensor(best[1:], dtype=torch.float64)
    return slope.float(), offset.float()
