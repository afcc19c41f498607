"""How good a target is on labelled tiles or on tiles with masks, each figure with its interval."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.target.load import check_fit
from rs_lowconf.target.truth import Source, in_order, is_known, truth_of
from rs_lowconf.types import MaskSource, TargetModel, TileSource
from rs_lowconf.vocabulary import class_list, require

_BINS = 15
_DRAWS = 200
#: Below this many tiles a bin has a dozen or fewer, and chance alone gives an ECE of several %.
_FEW_TILES = 200
_RESAMPLES = 2_000
#: Below this many blocks the bootstrap's intervals are too narrow.
_FEW_BLOCKS = 20


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


def evaluate_classifier(model: TargetModel, source: TileSource) -> ClassifierReport:
    """Return the figures of `model` on a labelled split, matching bands and classes by name.

    Raises:
        DataError: the split is empty.
        ModelError: bands, level or classes of model and split do not fit.
    """
    if len(source) == 0:
        raise DataError("the split to evaluate on has no tile", expected="at least one")
    answers = _answers(model, source, "data", "choose classes with --set data.classes=[...]")
    log_probability, truth = zip(*answers, strict=True)
    return report(torch.cat(log_probability), torch.cat(truth), model.classes)


def evaluate_segmenter(
    model: TargetModel,
    source: MaskSource,
    blocks: Sequence[Hashable],
    *,
    seed: int = 0,
    class_map: ClassMap = PLAIN,
) -> SegmentationReport:
    """Return the figures of `model` on a split, matching bands and classes by name.

    Args:
        model: a pixelwise target.
        source: the split.
        blocks: the block of land of each tile.
        seed: of the bootstrap.
        class_map: which classes of model and split mean the same; the figures are of their common
            names.

    Raises:
        DataError: no pixel's class is known.
        ModelError: the model predicts one class per tile, or bands, level or classes do not fit.
        SettingsError: the map lacks a class of the split.
    """
    if not model.pixelwise:
        raise ModelError("the target predicts one class per tile", expected="one class per pixel")
    classes = class_map.commons(model.classes)
    k = len(classes)
    to_common = torch.tensor([classes.index(class_map.common(name)) for name in model.classes])
    confusion: dict[Hashable, Tensor] = {}
    gaps, confidence_sum, tile = torch.zeros(1, dtype=torch.float64), 0.0, iter(blocks)
    answers = _answers(model, source, "masks", "correct data.mask_classes", class_map)
    for log_probability, truth in answers:
        largest, said = log_probability.max(1)
        predicted = to_common[said]
        known = is_known(truth)
        # By block: pixels of land that lies together are not independent.
        for true, answer, here in zip(truth, predicted, known, strict=True):
            block = next(tile)
            counts = confusion_of(true[here], answer[here], k)
            confusion[block] = confusion.get(block, 0) + counts
        confidence = largest[known].double().exp()
        gaps = gaps + calibration_gaps(confidence, (predicted == truth)[known])
        confidence_sum += confidence.sum().item()
    known_blocks = [counts for counts in confusion.values() if counts.any()]
    if not known_blocks:
        raise DataError("no pixel of the split to evaluate on has a known class")
    pixels = sum(int(counts.sum()) for counts in known_blocks)
    calibration = (math.fsum(gaps.abs().tolist()) / pixels, confidence_sum / pixels)
    return _report(torch.stack(known_blocks), classes, len(source), calibration, seed)


def _answers(
    model: TargetModel, source: Source, what: str, remedy: str, class_map: ClassMap = PLAIN
) -> Iterator[tuple[Float[Tensor, "b k *pixels"], Int[Tensor, "b *pixels"]]]:
    """Yield log-probabilities of all tiles, and their true classes by the model's common names.

    Args:
        model: the target.
        source: the split.
        what: the source in messages.
        remedy: what to do where its classes do not fit.
        class_map: which classes of target and source mean the same.
    """
    told, known = class_list(f"the {what}", source.classes), class_list("the target", model.classes)
    if class_map.names:
        class_map.meet(told, known, error=ModelError)
    named, commons = (replace(side, names=class_map.commons(side.names)) for side in (told, known))
    require(named, commons, remedy=remedy, error=ModelError, class_map=class_map.names)
    places = [commons.names.index(class_map.common(name)) for name in told.names]
    channels = list(check_fit(model.bands, source.bands))
    to_model = torch.full((max(UNKNOWN + 1, len(places)),), UNKNOWN)
    to_model[: len(places)] = torch.tensor(places)
    for batch in in_order(source):
        with torch.no_grad():
            log_probability = model.predict(batch.image[:, channels]).cpu()
        yield log_probability, to_model[truth_of(batch)]


def report(
    log_probability: Float[Tensor, "n k"], label: Int[Tensor, " n"], classes: tuple[str, ...]
) -> ClassifierReport:
    """Return the figures of predictions whose true classes index `classes`."""
    n, k = log_probability.shape
    predicted = log_probability.argmax(1)
    right = predicted == label
    confidence = log_probability.double().exp().max(1).values
    confusion = confusion_of(label, predicted, k)
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
        confusion=_table(classes, confusion),
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
        confusion=_table(classes, blocks.sum(0)),
        note=few if len(blocks) < _FEW_BLOCKS else "",
    )


def _table(classes: tuple[str, ...], confusion: Int[Tensor, "k k"]) -> dict[str, dict[str, int]]:
    """Return counts by true class, then by predicted class."""
    rows = zip(classes, confusion.tolist(), strict=True)
    return {name: dict(zip(classes, row, strict=True)) for name, row in rows}


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
