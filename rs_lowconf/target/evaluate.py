"""How good a target is on labelled tiles: accuracy with its interval, and calibration."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor

from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import TargetModel, TileSource
from rs_lowconf.vocabulary import class_list, require

_BATCH = 64
_BINS = 15
_DRAWS = 200
#: Below this many tiles a bin has a dozen or fewer, and chance alone gives an ECE of several %.
_FEW_TILES = 200


@dataclass(frozen=True, kw_only=True)
class ClassifierReport:
    """Figures of one model on one labelled split, as shares, not percentages."""

    tiles: int
    accuracy: float
    accuracy_low: float
    """Lower end of the Wilson 95 % interval of the accuracy."""
    accuracy_high: float
    """Upper end of the Wilson 95 % interval of the accuracy."""
    class_accuracy: dict[str, float | None]
    """Share of each class's tiles classified correctly; None for a class without tiles."""
    class_intervals: dict[str, tuple[float, float] | None]
    """Their Wilson 95 % intervals."""
    nll: float
    """Mean negative log-likelihood of the true class, in nats."""
    ece: float
    """Expected calibration error over 15 bins of equal width."""
    ece_equal_count: float
    """The same over 15 bins of equal numbers of tiles, so that no bin is empty."""
    ece_by_chance: float
    """Mean of this error for a perfectly calibrated model with the same confidences."""
    mean_confidence: float
    """Mean of the largest probability."""
    confusion: dict[str, dict[str, int]]
    """Tiles by true class, then by predicted class."""
    note: str
    """A reservation about the figures; empty when there is none."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for a metrics file or a checkpoint's header."""
        return asdict(self)


def evaluate_classifier(model: TargetModel, source: TileSource) -> ClassifierReport:
    """Return the figures of `model` on a labelled split, matching bands and classes by name.

    Raises:
        DataError: the split is empty.
        ModelError: bands, level or classes of model and split do not fit.
    """
    if len(source) == 0:
        raise DataError("the split to evaluate on has no tile", expected="at least one")
    places = require(
        class_list("the data", source.classes),
        class_list("the target", model.classes),
        remedy="choose classes with --set data.classes=[...]",
        error=ModelError,
    )
    channels = list(check_fit(model.bands, source.bands))
    with torch.no_grad():
        parts = []
        for first in range(0, len(source), _BATCH):
            indices = range(first, min(first + _BATCH, len(source)))
            parts.append(model.predict(source.batch(indices).image[:, channels]).cpu())
    return report(torch.cat(parts), torch.tensor(places)[source.labels], model.classes)


def report(
    log_probability: Float[Tensor, "n k"], label: Int[Tensor, " n"], classes: tuple[str, ...]
) -> ClassifierReport:
    """Return the figures of predictions whose true classes index `classes`."""
    n, k = log_probability.shape
    predicted = log_probability.argmax(1)
    right = predicted == label
    confidence = log_probability.double().exp().max(1).values
    confusion = torch.bincount(label * k + predicted, minlength=k * k).view(k, k)
    low, high = wilson_interval(int(right.sum()), n)
    by_class = dict(zip(classes, confusion.tolist(), strict=True))
    return ClassifierReport(
        tiles=n,
        accuracy=right.double().mean().item(),
        accuracy_low=low,
        accuracy_high=high,
        class_accuracy={
            name: row[i] / sum(row) if sum(row) else None
            for i, (name, row) in enumerate(by_class.items())
        },
        class_intervals={
            name: wilson_interval(row[i], sum(row)) if sum(row) else None
            for i, (name, row) in enumerate(by_class.items())
        },
        nll=F.nll_loss(log_probability.double(), label).item(),
        ece=expected_calibration_error(confidence, right),
        ece_equal_count=equal_count_error(confidence, right),
        ece_by_chance=error_by_chance(confidence),
        mean_confidence=confidence.mean().item(),
        confusion={name: dict(zip(classes, row, strict=True)) for name, row in by_class.items()},
        note=f"{n} tiles are too few for a precise ECE" if n < _FEW_TILES else "",
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share (Wilson 1927)."""
    interval = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def expected_calibration_error(
    confidence: Float[Tensor, " n"], right: Tensor, bins: int = _BINS
) -> float:
    """Return the mean over tiles of |accuracy - confidence| of the tile's confidence bin."""
    gaps = calibration_gaps(confidence, right, bins)
    return math.fsum(gaps.abs().tolist()) / len(confidence)


def equal_count_error(confidence: Float[Tensor, " n"], right: Tensor, bins: int = _BINS) -> float:
    """Return the calibration error over bins of equal numbers of tiles, in order of confidence.

    A good model's tiles nearly all lie in the last bins of equal width; these bins resolve them
    (Nguyen and O'Connor 2015, "Posterior calibration and exploratory analysis").
    """
    order = confidence.argsort(stable=True)
    gap = (right.double() - confidence.double())[order]
    return math.fsum(abs(float(part.sum())) for part in gap.tensor_split(bins)) / len(gap)


def error_by_chance(confidence: Float[Tensor, " n"], bins: int = _BINS) -> float:
    """Return the mean `equal_count_error` of a perfectly calibrated model.

    Whether it is right is drawn with the stated confidence; with so few tiles the error is never
    exactly 0.
    """
    rng = torch.Generator().manual_seed(0)
    confidence = confidence.double().sort().values
    right = torch.rand(_DRAWS, len(confidence), generator=rng, dtype=torch.float64) < confidence
    gaps = (right.double() - confidence).tensor_split(bins, 1)
    return float(torch.stack([gap.sum(1).abs() for gap in gaps]).sum(0).mean()) / len(confidence)


def calibration_gaps(
    confidence: Float[Tensor, " n"], right: Tensor, bins: int = _BINS
) -> Float[Tensor, " bins"]:
    """Return the sum of (right - confidence) in each confidence bin; parts of data add up.

    Bins are of equal width, open at their lower end (Naeini et al. 2015; Guo et al. 2017).
    """
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64)
    return gap.index_add_(0, place, right.double() - confidence.double())
