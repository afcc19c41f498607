"""The probe: can a plain classifier on independent features distinguish real and generated tiles?

Logistic regression on mean and deviation of the features of a pretrained network, cross-fitted.
The network must be one that neither training, nor the choice of a checkpoint, nor the gate has
used; then a high area under the curve shows that tiles look generated, whatever the figures of the
training. Two disjoint halves of real tiles give the floor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rs_lowconf.gan.frozen import FrozenNetwork, pooled

FALSE_REJECTION = 0.05
"""Share of real tiles that may be taken for generated where `kept` is measured."""
_FOLDS = 5
_RESAMPLES = 1_000
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """How well generated tiles are distinguished from real ones; 95 % intervals over tiles."""

    real: int
    """Number of real tiles."""
    generated: int
    """Number of generated tiles."""
    auc: float
    """Area under the curve; 0.5 is chance, 1 is perfect separation."""
    auc_low: float
    auc_high: float
    kept: float
    """Share of generated tiles that pass at a threshold that rejects 5 % of real tiles."""
    kept_low: float
    kept_high: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "real": self.real,
            "generated": self.generated,
            "auc": {"value": self.auc, "interval_95": [self.auc_low, self.auc_high]},
            "kept": {"value": self.kept, "interval_95": [self.kept_low, self.kept_high]},
        }


def probe(
    real: Float[Tensor, "n f"], generated: Float[Tensor, "m f"], *, seed: int
) -> tuple[ProbeResult, Float[np.ndarray, " t"]]:
    """Distinguish generated tiles from real ones by cross-fitted logistic regression.

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
    fold = np.empty(len(features), dtype=int)
    for number, (_, left) in enumerate(folds.split(features, truth)):
        fold[left] = number
    _keep_twins_together(features, truth, fold)
    for number in range(_FOLDS):
        fit, left = fold != number, fold == number
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
        scores[left] = model.fit(features[fit], truth[fit]).decision_function(features[left])
    return result_of(scores, truth, seed=seed), scores


def _keep_twins_together(
    features: Float[np.ndarray, "t f"], truth: Bool[np.ndarray, " t"], fold: Int[np.ndarray, " t"]
) -> None:
    """Move generated tiles into the fold of the real tile that they copy bit by bit.

    A classifier fitted on one of the two would recognise the other with the wrong label.
    """
    home = {
        row.tobytes(): int(number) for row, number in zip(features[truth], fold[truth], strict=True)
    }
    for index in np.nonzero(~truth)[0]:
        # One by one: all copies of a single tile in one fold would leave none for the others.
        fold[index] = home.pop(features[index].tobytes(), fold[index])


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
    # Sums of shares round to a little more than 1.
    areas = ((counts[0] @ pairs) * counts[1]).sum(1).clip(0, 1)
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
    network: FrozenNetwork, pictures: UInt8[np.ndarray, "n h w 3"]
) -> Float[Tensor, "n f"]:
    """Return the probe's features of pictures: mean and deviation of four scales at 128 pixels.

    Args:
        network: not used for training, choice of checkpoints or gate.
        pictures: bytes as they are stored; see `gan.pictures` for generated ones.
    """
    parts = []
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH].astype(np.float32)
        image = torch.from_numpy(batch).permute(0, 3, 1, 2).to(network.mean.device)
        parts.append(pooled(network, image).cpu())
    return torch.cat(parts)
