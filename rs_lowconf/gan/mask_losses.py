"""The losses of OASIS (see `rs_lowconf.gan.mask_networks`) without pixels of unknown class.

Shapes: m counts the classes and "generated", or in masks the classes and `UNKNOWN`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.gan.mask_networks import MaskDiscriminator, layer_of, realness
from rs_lowconf.masks import UNKNOWN


def class_weights(mask: Int[Tensor, "b h w"], classes: int) -> Float[Tensor, " k"]:
    """Return weights that make all classes in a batch count equally.

    Their mean over known pixels is 1; a class that the batch lacks weighs 0.
    """
    count = torch.bincount(mask[mask != UNKNOWN].flatten().long(), minlength=classes).float()
    present = count > 0
    weight = count.sum() / (count.clamp_min(1) * present.sum().clamp_min(1))
    return torch.where(present, weight, 0.0)


def balanced_mean(
    values: Float[Tensor, "b h w"], mask: Int[Tensor, "b h w"], classes: int
) -> Float[Tensor, ""]:
    """Return the mean over known pixels in which all classes present count equally."""
    known = mask != UNKNOWN
    weight = class_weights(mask, classes)[torch.where(known, mask, 0).long()] * known
    return (values * weight).sum() / known.sum().clamp_min(1)


def class_loss(logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the discriminator's cross-entropy of real pixels with their classes, in nats."""
    values = F.cross_entropy(logits, mask.long(), ignore_index=UNKNOWN, reduction="none")
    return balanced_mean(values, mask, logits.shape[1] - 1)


def generated_loss(
    logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the discriminator's cross-entropy of generated pixels with "generated", in nats.

    Weighted like real pixels. With equal weights, as in the paper, pixels of rare classes would
    seem more real because they are rare, and the generator would exaggerate them.
    """
    return balanced_mean(F.softplus(realness(logits)), mask, logits.shape[1] - 1)


def generator_loss(
    logits: Float[Tensor, "b m h w"],
    real: Float[Tensor, "b m h w"],
    mask: Int[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return how far generated pixels are from being real, and from being as distinct as real ones.

    The paper's loss is the cross-entropy with the mask: that of being real, plus that of the
    class among the real ones. The second is unbounded: more distinct than real is better still, and
    classes that overlap in real tiles would be separated. So here each class only needs to be as
    distinct as in the real tiles of the same masks, by the same discriminator.

    Args:
        logits: of generated tiles.
        real: of the real tiles of the same masks.
        mask: of both.
    """
    classes = logits.shape[1] - 1
    unreal = balanced_mean(F.softplus(-realness(logits)), mask, classes)
    return unreal + (_unclear(logits, mask) - _unclear(real.detach(), mask)).abs().sum()


def _unclear(logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, " k"]:
    """Return each class's share in the balanced cross-entropy among real classes."""
    values = F.cross_entropy(logits[:, :-1], mask.long(), ignore_index=UNKNOWN, reduction="none")
    count = torch.stack([(mask == k).sum() for k in range(logits.shape[1] - 1)])
    total = torch.stack([(values * (mask == k)).sum() for k in range(len(count))])
    return total / count.clamp_min(1) / (count > 0).sum().clamp_min(1)


def agreement(logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Return the share of a tile's known pixels whose likeliest real class is the mask's.

    A tile without any known pixel agrees.
    """
    known = mask != UNKNOWN
    right = (logits[:, :-1].argmax(1) == mask) & known
    count = known.sum((1, 2))
    return torch.where(count > 0, right.sum((1, 2)) / count.clamp_min(1), 1.0)


def random_regions(
    mask: Int[Tensor, "b h w"], classes: int, rng: torch.Generator
) -> Bool[Tensor, "b h w"]:
    """Return, tile by tile, the pixels of a random half of the classes (LabelMix)."""
    chosen = torch.rand(len(mask), classes + 1, generator=rng).to(mask.device) < 0.5
    layers = layer_of(mask, classes).flatten(1)
    return chosen.gather(1, layers).view_as(mask)


def mix(
    real: Float[Tensor, "b c h w"],
    generated: Float[Tensor, "b c h w"],
    region: Bool[Tensor, "b h w"],
) -> Float[Tensor, "b c h w"]:
    """Return real pixels within the region and generated ones elsewhere."""
    return torch.where(region[:, None], real, generated)


def mix_loss(
    of_mixed: Float[Tensor, "b m h w"],
    mixed: Float[Tensor, "b m h w"],
    mask: Int[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return how far the logits of mixed tiles are from the mixed logits (LabelMix)."""
    known = mask != UNKNOWN
    apart = (of_mixed - mixed).square().mean(1)
    return (apart * known).sum() / known.sum().clamp_min(1)


def realness_penalty(
    discriminator: MaskDiscriminator,
    components: Float[Tensor, "b c h w"],
    mask: Int[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return the squared gradient of the known pixels' summed realness, per pixel of the tile.

    On real and generated halves it is (R1 + R2) / 2 of R3GAN (the paper has spectral norms
    instead). Classes may change from one pixel to the next, so the logits that distinguish them are
    not penalised.
    """
    leaf = components.detach().requires_grad_()
    total = (realness(discriminator(leaf)) * (mask != UNKNOWN)).sum()
    (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
    penalty: Tensor = gradient.square().sum(1).mean()
    return penalty


@dataclass(frozen=True, kw_only=True, eq=False)
class CriticLosses:
    """Losses of a discriminator on one batch, in nats per known pixel."""

    total: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    """Of real and of generated pixels, without consistency and penalty."""
    consistency: Float[Tensor, ""]
    """Squared inconsistency of the logits on mixed tiles, before weighting."""
    penalty: Float[Tensor, ""] | None
    """R1 + R2 before weighting; None if its weight is 0."""
    of_real: Float[Tensor, "b m h w"]
    """Logits of the real tiles."""


def critic_losses(
    discriminator: MaskDiscriminator,
    judge: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b m h w"]],
    seen: tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]],
    mask: Int[Tensor, "b h w"],
    *,
    mix_weight: float,
    penalty_weight: float,
    rng: torch.Generator,
) -> CriticLosses:
    """Return the losses of a discriminator on real tiles and generated ones of the same masks.

    Args:
        discriminator: to train.
        judge: its logits, in the precision of the training.
        seen: components of real and of generated tiles.
        mask: of both.
        mix_weight: of the consistency on mixed tiles.
        penalty_weight: of the gradient penalties, before scaling by 3 / bands; 0 leaves them out.
        rng: for the regions that are mixed.
    """
    real, fake = seen
    region = random_regions(mask, len(discriminator.classes), rng)
    mixed = mix(real, fake, region)
    of_real, of_fake, of_mixed = judge(torch.cat([real, fake, mixed])).chunk(3)
    adversarial = class_loss(of_real, mask) + generated_loss(of_fake, mask)
    consistency = mix_loss(of_mixed, mix(of_real, of_fake, region), mask)
    total = adversarial + mix_weight * consistency
    penalty = None
    if penalty_weight:
        both = torch.cat([real, fake])
        penalty = realness_penalty(discriminator, both, mask.repeat(2, 1, 1)) * 2
        # The penalty sums over channels, so gamma is scaled from 3 bands to the number of bands.
        total = total + penalty_weight / 2 * 3 / len(discriminator.bands) * penalty
    return CriticLosses(
        total=total,
        adversarial=adversarial,
        consistency=consistency,
        penalty=penalty,
        of_real=of_real,
    )
