"""The probe: can a plain classifier on features that nobody trained against tell real from made?

Logistic regression on mean and deviation of the features of a pretrained network, cross-fitted.
The network must be one that neither training, nor the choice of a checkpoint, nor the gate has
seen through; then a high area under the curve says that tiles look generated, whatever figures of
the training say. Two disjoint halves of real tiles give the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rs_lowconf.gan.frozen import FrozenNetwork, pooled
from rs_lowconf.gan.rendering import BYTE

FALSE_REJECTION = 0.05
"""Share of real tiles that may be taken for generated where `kept` is measured."""
_FOLDS = 5
_RESAMPLES = 1_000
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """How well generated tiles are told from real ones; intervals are 95 %, over tiles."""

    real: int
    """Number of real tiles."""
    generated: int
    """Number of generated tiles."""
    auc: float
    """Area under the curve; 0.5 is a coin, 1 tells all apart."""
    auc_low: float
    auc_high: float
    kept: float
    """Share of generated tiles that pass where 5 % of real tiles are rejected."""
    kept_low: float
    kept_high: float


def probe(
    real: Float[Tensor, "n f"], generated: Float[Tensor, "m f"], *, seed: int
) -> tuple[ProbeResult, Float[np.ndarray, " t"]]:
    """Tell generated tiles from real ones by cross-fitted logistic regression.

    Args:
        real: features of real tiles, see `probe_features`.
        generated: of generated tiles.
        seed: of folds and resamples.

    Returns:
        the result, and the score of every tile when it was left out of the fit, real ones first;
        higher is more real.
    """
    features = torch.cat([real, generated]).double().numpy()
    truth = np.arange(len(features)) < len(real)
    scores = np.empty(len(features))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed % 2**32)
    for fit, left in folds.split(features, truth):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
        scores[left] = model.fit(features[fit], truth[fit]).decision_function(features[left])
    return result_of(scores, truth, seed=seed), scores


def result_of(
    scores: Float[np.ndarray, " t"], truth: Bool[np.ndarray, " t"], *, seed: int
) -> ProbeResult:
    """Return the result for some tiles of a probe, such as those of one class.

    Args:
        scores: of each tile, higher for more real.
        truth: whether each is real.
        seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    real, generated = scores[truth], scores[~truth]
    # The area is the share of pairs in the right order; resampling weighs tiles by counts.
    pairs = np.sign(real[:, None] - generated) / 2 + 0.5
    chosen = [rng.integers(len(part), size=(_RESAMPLES, len(part))) for part in (real, generated)]
    counts = [
        np.stack([np.bincount(row, minlength=len(part)) for row in rows]) / len(part)
        for rows, part in zip(chosen, (real, generated), strict=True)
    ]
    areas = ((counts[0] @ pairs) * counts[1]).sum(1)
    thresholds = np.quantile(real[chosen[0]], FALSE_REJECTION, axis=1)
    shares = (generated[chosen[1]] >= thresholds[:, None]).mean(1)
    low, high = np.quantile([areas, shares], [0.025, 0.975], axis=1)
    auc = float(pairs.mean())
    kept = float((generated >= np.quantile(real, FALSE_REJECTION)).mean())
    return ProbeResult(
        real=len(real),
        generated=len(generated),
        auc=auc,
        auc_low=float(low[0]),
        auc_high=float(high[0]),
        kept=kept,
        kept_low=float(low[1]),
        kept_high=float(high[1]),
    )


def probe_features(
    network: FrozenNetwork, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> Float[Tensor, "n f"]:
    """Return what the probe sees of pictures: mean and deviation of four scales at 128 pixels.

    Args:
        network: one that nothing has been trained, chosen or gated by.
        pictures: bytes as they are stored; see `through_jpeg` for generated ones.
    """
    parts = []
    for start in range(0, len(pictures), _BATCH):
        batch = np.stack(pictures[start : start + _BATCH]).astype(np.float32)
        image = torch.from_numpy(batch).permute(0, 3, 1, 2).to(network.mean.device)
        parts.append(pooled(network, image).cpu())
    return torch.cat(parts)


def through_jpeg(
    image: Float[Tensor, "b 3 h w"], *, scale: float, dn_offset: float
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return tiles as pictures that were stored as JPEG, quality 100 and 4:2:0, as EuroSAT's are.

    Args:
        image: reflectance of red, green and blue.
        scale: bytes per unit of reflectance.
        dn_offset: added to bytes before division.
    """
    numbers = (image * scale - dn_offset).round().clamp(0, BYTE)
    stored = []
    for tile in numbers.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy():
        file = BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=100, subsampling="4:2:0")
        stored.append(np.asarray(Image.open(file)))
    return stored
