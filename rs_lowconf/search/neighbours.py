"""The real tile that resembles a generated one most, in an extractor's feature space."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.types import FeatureExtractor, TileSource

_BATCH = 32


@torch.no_grad()
def features_of(
    extractor: FeatureExtractor, source: TileSource, device: torch.device
) -> Float[Tensor, "n f"]:
    """Return the features of every tile of a source, on the CPU."""
    channels = list(source.bands.index_of(extractor.bands.names))
    rows = range(len(source))
    parts = [rows[start : start + _BATCH] for start in range(0, len(source), _BATCH)]
    return torch.cat(
        [extractor.features(source.batch(p).image[:, channels].to(device)).cpu() for p in parts]
    )


def nearest(
    features: Float[Tensor, "b f"],
    bank: Float[Tensor, "n f"],
    allowed: Bool[Tensor, "b n"] | None = None,
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """Return the index of the nearest row of `bank` and its Euclidean distance.

    Args:
        features: the tiles to find neighbours of.
        bank: features of the real tiles.
        allowed: which rows may be neighbours of which tile; all when missing.
    """
    distance = torch.cdist(features, bank)
    if allowed is not None:
        distance = distance.masked_fill(~allowed, torch.inf)
    best = distance.min(dim=1)
    return best.indices, best.values


def same_class(
    label: Sequence[str], source_classes: Sequence[str], labels: Int[Tensor, " n"]
) -> Bool[Tensor, "b n"]:
    """Return which real tiles have the class of each generated tile, by name.

    A class that the real tiles lack allows all of them.
    """
    rows = []
    for name in label:
        same = labels == source_classes.index(name) if name in source_classes else labels < 0
        rows.append(same if same.any() else torch.ones_like(same))
    return torch.stack(rows)
