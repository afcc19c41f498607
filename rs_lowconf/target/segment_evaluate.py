"""How good a pixelwise target is on tiles with masks: overlap with its interval, calibration."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.target.evaluate import calibration_gaps
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import MaskSource, TargetModel
from rs_lowconf.vocabulary import class_list, require

_BATCH = 64
_RESAMPLES = 2_000
#: Below this many blocks the bootstrap's intervals are too narrow.
_FEW_BLOCKS = 20


@dataclass(frozen=True, kw_only=True)
class SegmentationReport:
    """Figures of one model on one split with masks, as shares, not percentages.

    Intervals are percentiles of a bootstrap that draws whole blocks of land, because pixels
    and tiles of a block are not independent evidence.
    """

    tiles: int
    blocks: int
    pixels: int
    """Pixels of known class; only these count."""
    iou: dict[str, float | None]
    """Intersection over union of each class; None for one neither present nor predicted."""
    iou_95: dict[str, list[float] | None]
    """Its interval."""
    mean_iou: float
    """Mean over the classes with an IoU."""
    mean_iou_95: list[float]
    floor_class: str
    """The most frequent class: a map of this class everywhere is the floor."""
    floor_iou: dict[str, float | None]
    floor_mean_iou: float
    pixel_accuracy: float
    pixel_accuracy_95: list[float]
    floor_pixel_accuracy: float
    ece: float
    """Expected calibration error of pixels over 15 bins of equal width."""
    mean_confidence: float
    """Mean over the pixels of the largest probability."""
    confusion: dict[str, dict[str, int]]
    """Pixels by true class, then by predicted class."""
    note: str
    """A reservation about the figures; empty when there is none."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a metrics file or a checkpoint's header."""
        return asdict(self)


def evaluate_segmenter(
    model: TargetModel, source: MaskSource, blocks: Sequence[Hashable], *, seed: int = 0
) -> SegmentationReport:
    """Return the figures of `model` on a split, matching bands and classes by name.

    Args:
        model: a pixelwise target.
        source: the split.
        blocks: the block of land of each tile.
        seed: of the bootstrap.

    Raises:
        DataError: no pixel's class is known.
        ModelError: the model predicts one class per tile, or bands, level or classes do not fit.
    """
    if not model.pixelwise:
        raise ModelError("the target predicts one class per tile", expected="one class per pixel")
    places = require(
        class_list("the masks", source.classes),
        class_list("the target", model.classes),
        remedy="correct data.mask_classes",
        error=ModelError,
    )
    channels = list(check_fit(model.bands, source.bands))
    k = len(model.classes)
    to_model = torch.full((UNKNOWN + 1,), UNKNOWN)
    to_model[: len(places)] = torch.tensor(places)
    names = list(dict.fromkeys(blocks))
    confusion = torch.zeros(len(names), k, k, dtype=torch.int64)
    gaps, confidence_sum = torch.zeros(1, dtype=torch.float64), 0.0
    for first in range(0, len(source), _BATCH):
        indices = range(first, min(first + _BATCH, len(source)))
        batch = source.batch(indices)
        assert batch.mask is not None  # noqa: S101  # a MaskSource has masks
        with torch.no_grad():
            log_probability = model.predict(batch.image[:, channels]).cpu()
        largest, predicted = log_probability.max(1)
        mask = to_model[batch.mask]
        known = mask != UNKNOWN
        for i, is_known in enumerate(known):
            counts = confusion_of(mask[i][is_known], predicted[i][is_known], k)
            confusion[names.index(blocks[indices[i]])] += counts
        confidence = largest[known].double().exp()
        gaps = gaps + calibration_gaps(confidence, (predicted == mask)[known])
        confidence_sum += confidence.sum().item()
    pixels = int(confusion.sum())
    if pixels == 0:
        raise DataError("no pixel of the split to evaluate on has a known class")
    known_blocks = confusion[confusion.sum((1, 2)) > 0]
    calibration = (math.fsum(gaps.abs().tolist()) / pixels, confidence_sum / pixels)
    return _report(known_blocks, model.classes, len(source), calibration, seed)


def confusion_of(
    truth: Int[Tensor, " n"], predicted: Int[Tensor, " n"], k: int
) -> Int[Tensor, "k k"]:
    """Return the number of pixels by true class, then by predicted class."""
    return torch.bincount(truth * k + predicted, minlength=k * k).view(k, k)


def iou_of(confusion: Float[Tensor, "*n k k"]) -> Float[Tensor, "*n k"]:
    """Return the intersection over union of each class, NaN for one that occurs nowhere.

    Args:
        confusion: pixels by true class, then by predicted class.
    """
    both = confusion.diagonal(dim1=-2, dim2=-1)
    return both / (confusion.sum(-1) + confusion.sum(-2) - both)


def resampled(
    confusion: Int[Tensor, "n k k"], seed: int, resamples: int = _RESAMPLES
) -> Float[Tensor, "r k k"]:
    """Return the summed confusion of bootstrap resamples of blocks."""
    n, k = confusion.shape[:2]
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(resamples, n, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return (times @ confusion.double().flatten(1)).view(resamples, k, k)


def _report(
    blocks: Int[Tensor, "n k k"],
    classes: tuple[str, ...],
    tiles: int,
    calibration: tuple[float, float],
    seed: int,
) -> SegmentationReport:
    total = blocks.sum(0).double()
    draws = resampled(blocks, seed)
    iou, drawn_iou = iou_of(total), iou_of(draws)
    truth = total.sum(1)
    commonest = int(truth.argmax())
    floor = torch.zeros_like(total)
    floor[:, commonest] = truth
    few = f"{len(blocks)} blocks are few: the intervals are too narrow"
    return SegmentationReport(
        tiles=tiles,
        blocks=len(blocks),
        pixels=int(total.sum()),
        iou=_by_class(classes, iou),
        iou_95={name: _interval(drawn_iou[:, i]) for i, name in enumerate(classes)},
        mean_iou=iou.nanmean().item(),
        mean_iou_95=_interval(drawn_iou.nanmean(1)) or [],
        floor_class=classes[commonest],
        floor_iou=_by_class(classes, iou_of(floor)),
        floor_mean_iou=iou_of(floor).nanmean().item(),
        pixel_accuracy=_accuracy(total).item(),
        pixel_accuracy_95=_interval(_accuracy(draws)) or [],
        floor_pixel_accuracy=_accuracy(floor).item(),
        ece=calibration[0],
        mean_confidence=calibration[1],
        confusion={
            name: dict(zip(classes, map(int, row), strict=True))
            for name, row in zip(classes, total.tolist(), strict=True)
        },
        note=few if len(blocks) < _FEW_BLOCKS else "",
    )


def _by_class(classes: tuple[str, ...], values: Float[Tensor, " k"]) -> dict[str, float | None]:
    numbers = values.tolist()
    return {
        name: None if math.isnan(value) else value
        for name, value in zip(classes, numbers, strict=True)
    }


def _accuracy(confusion: Float[Tensor, "*n k k"]) -> Float[Tensor, "*n"]:
    return confusion.diagonal(dim1=-2, dim2=-1).sum(-1) / confusion.sum((-2, -1))


def _interval(values: Float[Tensor, " r"]) -> list[float] | None:
    """Return the central 95 % of the draws that have a value."""
    finite = values[~values.isnan()]
    if not len(finite):
        return None
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=finite.dtype)).tolist()
    return [low, high]
