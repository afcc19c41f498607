"""Training of a segmenter on one split and its temperature calibration on another."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import SegmenterSettings
from rs_lowconf.target.learning import learn, require_alike, require_finite
from rs_lowconf.target.normalise import decorrelation, pixel_statistics
from rs_lowconf.target.segment_evaluate import confusion_of, iou_of
from rs_lowconf.target.segmenter import SegmentationNetwork, Segmenter, SegmenterSpec
from rs_lowconf.target.train import best_temperature
from rs_lowconf.types import MaskAugmentation, MaskSource

_BATCH = 64
#: Pixels to fit the temperature; more would not change it.
_CALIBRATION_PIXELS = 200_000


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskEpoch:
    """One epoch of training, measured on the validation split."""

    epoch: int
    """From 1 on."""

    train_loss: float
    """Mean class-weighted cross-entropy of the known pixels of augmented tiles, in nats."""

    val_loss: float
    """The same of the validation tiles, at temperature 1."""

    val_mean_iou: float
    """Mean over the classes of intersection over union of the validation pixels."""

    learning_rate: float
    """Of the epoch's last step."""

    seconds: float
    """Wall time of the epoch, validation included."""

    best: Segmenter | None
    """The segmenter after this epoch, at temperature 1, when every epoch before had a higher
    `val_loss`; None otherwise."""


def train_segmenter(  # noqa: PLR0917 - data, recipe, chance, place: the order of the work
    train: MaskSource,
    val: MaskSource,
    settings: SegmenterSettings,
    augment: MaskAugmentation,
    seed: int,
    device: torch.device,
) -> Iterator[MaskEpoch]:
    """Train epoch by epoch; the last record with a `best` holds the one to calibrate.

    As `train_classifier`: the running average of the weights is the result, and the best
    epoch is the one of the lowest `val_loss`. Every epoch sees each tile once. Pixels of
    unknown class count nowhere.

    Args:
        train: the training tiles.
        val: the tiles that choose the epoch.
        settings: architecture and schedule.
        augment: applied to every training batch.
        seed: seeds weights, order, augmentation and dropout.
        device: where to compute.

    Raises:
        SettingsError: the encoder is unknown.
        DataError: the splits disagree, one is empty, or a class has no training pixel.
        JobError: the loss is no longer a number.
    """
    spec = _spec(train, val, settings)
    weight = class_weights(train, settings.class_weight).to(device)
    with forked_rng(seed_of(seed, "weights")):
        network = spec.build().to(device)
    mean, covariance = pixel_statistics(_known_pixels(train), len(train.bands))
    network.mean.copy_(mean)
    network.decorrelation.copy_(decorrelation(covariance))
    average = copy.deepcopy(network).requires_grad_(False)
    best = math.inf
    for learned in learn(
        network,
        average,
        settings,
        per_epoch=math.ceil(len(train) / settings.batch_size),
        steps_of=lambda epoch: _batches(train, settings, augment, seed_of(seed, epoch), device),
        loss_of=lambda logits, mask: masked_loss(logits, mask, weight),
    ):
        logits, labels = known_logits(average, val, settings.batch_size)
        val_loss = F.cross_entropy(logits, labels, weight.cpu()).item()
        require_finite(learned, val_loss)
        confusion = confusion_of(labels, logits.argmax(1), len(spec.classes)).double()
        better = val_loss < best
        best = min(best, val_loss)
        yield MaskEpoch(
            epoch=learned.epoch,
            train_loss=learned.train_loss,
            val_loss=val_loss,
            val_mean_iou=iou_of(confusion).nanmean().item(),
            learning_rate=learned.learning_rate,
            seconds=time.perf_counter() - learned.start,
            best=Segmenter(spec, copy.deepcopy(average)) if better else None,
        )


def calibrate_segmenter(segmenter: Segmenter, val: MaskSource) -> Segmenter:
    """Return the same segmenter at the temperature that suits the validation pixels best."""
    logits, labels = known_logits(segmenter.network, val, segmenter.batch_size)
    every = math.ceil(len(labels) / _CALIBRATION_PIXELS)
    return Segmenter(
        segmenter.spec,
        segmenter.network,
        temperature=best_temperature(logits[::every], labels[::every]),
        batch_size=segmenter.batch_size,
    )


def class_weights(source: MaskSource, power: float) -> Float[Tensor, " k"]:
    """Return the weight of each class: its share of the known pixels to the power of -`power`.

    They are scaled so that the mean weight of a pixel is 1.

    Raises:
        DataError: a class has no pixel.
    """
    counts = torch.zeros(len(source.classes), dtype=torch.float64)
    for _, mask in _parts(source):
        counts += torch.bincount(mask[mask != UNKNOWN], minlength=len(counts))
    absent = [name for name, n in zip(source.classes, counts.tolist(), strict=True) if n == 0]
    if absent:
        raise DataError(
            f"no training pixel of class {', '.join(absent)}",
            remedy="map its value to another class or to null in data.mask_classes, "
            "or try another data.block_seed",
        )
    share = counts / counts.sum()
    weight = share**-power
    return (weight / (share * weight).sum()).float()


def masked_loss(
    logits: Float[Tensor, "b k h w"], mask: Int[Tensor, "b h w"], weight: Float[Tensor, " k"]
) -> Float[Tensor, ""]:
    """Return the mean weighted cross-entropy of the known pixels; 0 where there are none."""
    known = mask != UNKNOWN
    loss = F.cross_entropy(logits, mask, weight, ignore_index=UNKNOWN, reduction="sum")
    scale = weight[mask[known]].sum()
    return loss / scale if known.any() else loss


@torch.no_grad()
def known_logits(
    network: SegmentationNetwork, source: MaskSource, batch_size: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, " n"]]:
    """Return logits and classes of the pixels whose class is known."""
    network.eval()
    device = network.mean.device
    logits, labels = [], []
    for image, mask in _parts(source, batch_size):
        known = mask != UNKNOWN
        logits.append(network(image.to(device)).cpu().movedim(1, 3)[known])
        labels.append(mask[known])
    return torch.cat(logits), torch.cat(labels)


def _spec(train: MaskSource, val: MaskSource, settings: SegmenterSettings) -> SegmenterSpec:
    require_alike(train, val)
    return SegmenterSpec(
        encoder=settings.encoder,
        width=settings.width,
        bands=train.bands,
        classes=train.classes,
        tile_size=train.batch([0]).image.shape[-1],
    )


def _parts(
    source: MaskSource, batch_size: int = _BATCH
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]]:
    """Yield all tiles in order."""
    for first in range(0, len(source), batch_size):
        batch = source.batch(range(first, min(first + batch_size, len(source))))
        assert batch.mask is not None  # noqa: S101  # a MaskSource has masks
        yield batch.image, batch.mask


def _known_pixels(source: MaskSource) -> Iterator[Float[Tensor, "c n"]]:
    """Yield the spectra whose class is known: nodata would shift every mean."""
    for image, mask in _parts(source):
        yield image.transpose(0, 1)[:, mask != UNKNOWN]


def _batches(
    train: MaskSource,
    settings: SegmenterSettings,
    augment: MaskAugmentation,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"], int]]:
    """Yield an epoch's augmented tiles, masks and a seed; every tile once, the last batch filled.

    The last batch is filled up with the first tiles, because batch norm needs full batches.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    steps = math.ceil(len(train) / settings.batch_size)
    rounds = math.ceil(steps * settings.batch_size / len(train))
    filled = order.repeat(rounds)[: steps * settings.batch_size]
    for step, indices in enumerate(filled.view(steps, settings.batch_size).tolist()):
        batch = train.batch(indices)
        assert batch.mask is not None  # noqa: S101  # a MaskSource has masks
        image, mask = augment(
            batch.image.to(device), batch.mask.to(device), seed_of(seed, step, "augment")
        )
        yield image, mask, seed_of(seed, step, "dropout")
