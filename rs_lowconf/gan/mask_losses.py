"""The losses of OASIS (see `rs_lowconf.gan.mask_networks`); no pixel of no known class counts.

Shapes: m counts the classes and "generated", or in masks the classes and `UNKNOWN`.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.gan.mask_networks import MaskDiscriminator, layer_of, realness
from rs_lowconf.types import UNKNOWN


def class_weights(mask: Int[Tensor, "b h w"], classes: int) -> Float[Tensor, " k"]:
    """Return weights with which every class in a batch counts as much as any other (equation 2).

    Their mean over known pixels is 1; a class that the batch lacks weighs 0.
    """
    count = torch.bincount(mask[mask != UNKNOWN].flatten().long(), minlength=classes).float()
    present = count > 0
    weight = count.sum() / (count.clamp_min(1) * present.sum().clamp_min(1))
    return torch.where(present, weight, 0.0)


def class_loss(logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the weighted cross-entropy of pixels with their classes, in nats.

    The discriminator's of real tiles, and the generator's of its own.
    """
    weight = class_weights(mask, logits.shape[1] - 1)
    return _mean_loss(logits, mask, F.pad(weight, (0, 1)))


def generated_loss(
    logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Return the discriminator's mean cross-entropy of generated pixels, in nats."""
    generated = torch.where(mask == UNKNOWN, mask, logits.shape[1] - 1)
    return _mean_loss(logits, generated, None)


def _mean_loss(
    logits: Float[Tensor, "b m h w"],
    wanted: Int[Tensor, "b h w"],
    weight: Float[Tensor, " m"] | None,
) -> Float[Tensor, ""]:
    total = F.cross_entropy(
        logits, wanted.long(), weight=weight, ignore_index=UNKNOWN, reduction="sum"
    )
    return total / (wanted != UNKNOWN).sum().clamp_min(1)


def agreement(logits: Float[Tensor, "b m h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Return the share of a tile's known pixels whose likeliest real class is the mask's.

    A tile without any known pixel agrees.
    """
    known = mask != UNKNOWN
    right = (logits[:, :-1].argmax(1) == mask) & known
    count = known.sum((1, 2))
    return torch.where(count > 0, right.sum((1, 2)) / count.clamp_min(1), 1.0)


def random_regions(
    mask: Int[Tensor, "b h w"], classes: int, dice: torch.Generator
) -> Bool[Tensor, "b h w"]:
    """Return, tile by tile, the pixels of a random half of the classes (section 3.2, LabelMix)."""
    chosen = torch.rand(len(mask), classes + 1, generator=dice).to(mask.device) < 0.5
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
    """Return how far the logits of mixed tiles are from the mixed logits (equation 4)."""
    known = mask != UNKNOWN
    apart = (of_mixed - mixed).square().mean(1)
    return (apart * known).sum() / known.sum().clamp_min(1)


def realness_penalty(
    discriminator: MaskDiscriminator,
    components: Float[Tensor, "b c h w"],
    mask: Int[Tensor, "b h w"],
) -> Float[Tensor, ""]:
    """Return the squared gradient of the known pixels' summed realness, a pixel of the tile.

    On real and generated halves it is (R1 + R2) / 2. Classes may change from one pixel to the
    next, so what tells them apart is left free.
    """
    leaf = components.detach().requires_grad_()
    total = (realness(discriminator(leaf)) * (mask != UNKNOWN)).sum()
    (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
    penalty: Tensor = gradient.square().sum(1).mean()
    return penalty
