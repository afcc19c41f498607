"""Quick figures of a generator of tiles with masks during training, to choose a checkpoint."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.figures import sample, squared_mmd
from rs_lowconf.gan.mask_losses import agreement
from rs_lowconf.gan.mask_networks import MaskDiscriminator, MaskGenerator, mask_layers
from rs_lowconf.gan.tiles import some_rows
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource

_MOST_TILES = 400
_BATCH = 64


@torch.no_grad()
def mask_figures(
    generator: MaskGenerator, discriminator: MaskDiscriminator, val: MaskSource, seed: int
) -> dict[str, float]:
    """Compare tiles drawn for held-out masks with the tiles that these masks are of.

    Returns:
        region_distance: squared MMD of `region_features`, with KID's kernel; the smallest of many
            checkpoints looks better than it is, so it must not be reported.
        class_mean: mean over classes and principal components of the absolute difference of
            means, in deviations of real pixels.
        class_spread: mean over the same of the absolute log ratio of deviations in regions.
        detail: the same of the differences of neighbouring pixels.
        agreement_real: share of pixels of held-out tiles that the discriminator puts into
            their class; below that of training tiles as far as it memorised those.
        agreement_generated: the same of generated tiles.
    """
    chosen = some_rows(len(val), _MOST_TILES, seed_of(seed, "mask figures"))
    tiles = val.batch(chosen.tolist())
    mask, k = masks_of(tiles), len(val.classes)
    seen = [
        _components(discriminator, image) for image in (tiles.image, sample(generator, mask, seed))
    ]
    features = [region_features(components, mask, k) for components in seen]
    agreements = [
        float(agreement(_logits(discriminator, components), mask).mean()) for components in seen
    ]
    present = mask_layers(mask, k)[:, :k].flatten(2).any(2)  # n k
    (mean, spread, detail), (own_mean, own_spread, own_detail) = (
        components.view(len(mask), k, 3, -1)[present].unbind(1) for components in features
    )
    deviation = seen[0].transpose(0, 1).flatten(1).std(1).clamp_min(1e-9)
    gap = torch.stack(
        [((own_mean - mean) / deviation)[present.nonzero()[:, 1] == i].mean(0) for i in range(k)]
    )
    return {
        "region_distance": squared_mmd(*(values.double() for values in features)),
        "class_mean": float(gap.nan_to_num().abs().mean()),
        "class_spread": _log_ratio(own_spread, spread),
        "detail": _log_ratio(own_detail, detail),
        "agreement_real": agreements[0],
        "agreement_generated": agreements[1],
    }


def region_features(
    components: Float[Tensor, "b c h w"], mask: Int[Tensor, "b h w"], classes: int
) -> Float[Tensor, "b f"]:
    """Return mean, deviation and mean step to the next pixel of each component in each class.

    In the order class, these three, component; all are 0 where a tile lacks the class.
    """
    layers = mask_layers(mask, classes)[:, :classes].flatten(2)  # b k hw
    share = layers / layers.sum(2, keepdim=True).clamp_min(1)
    step = torch.zeros_like(components)
    step[:, :, :, 1:] += components.diff(dim=3).abs()
    step[:, :, 1:] += components.diff(dim=2).abs()
    flat = components.flatten(2).mT  # b hw c
    mean = share @ flat
    variance = (share @ flat.square() - mean.square()).clamp_min(0)
    return torch.stack([mean, variance.sqrt(), share @ step.flatten(2).mT], 2).flatten(1)


def _log_ratio(measured: Float[Tensor, "r c"], wanted: Float[Tensor, "r c"]) -> float:
    ratio = measured.mean(0).clamp_min(1e-6) / wanted.mean(0).clamp_min(1e-6)
    return float(ratio.log().abs().mean())


def _components(
    discriminator: MaskDiscriminator, image: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    device = next(discriminator.parameters()).device
    still = torch.zeros_like(image[:1]).to(device)
    return torch.cat(
        [
            discriminator.components(part.to(device), still).cpu()
            for part in torch.split(image, _BATCH)
        ]
    )


def _logits(
    discriminator: MaskDiscriminator, components: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n m h w"]:
    device = next(discriminator.parameters()).device
    return torch.cat(
        [discriminator(part.to(device)).cpu() for part in torch.split(components, _BATCH)]
    )
