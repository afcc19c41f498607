"""What a network is trained for: one class per tile, from labels, or one per pixel, from masks."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import ClassifierSettings, SegmenterSettings
from rs_lowconf.target.evaluate import confusion_of, iou_of
from rs_lowconf.target.trained import Kind, NetworkSpec
from rs_lowconf.target.truth import Source, in_order, is_known, truth_of
from rs_lowconf.types import Augmentation, MaskAugmentation, MaskSource, TileSource


class ClassificationTask:
    """One class per tile.

    Every epoch draws as many tiles as the training split has (rounded up to full batches), each
    class equally often on average.
    """

    score = "val_accuracy"
    """Name of the figure of the validation split that is reported beside its loss."""
    score_text = "validation accuracy {:.3f}"
    """The same in words, to be formatted with its value."""

    def __init__(
        self,
        train: TileSource,
        val: TileSource,
        settings: ClassifierSettings,
        augment: Augmentation,
    ) -> None:
        """Check that the splits fit together.

        Args:
            train: the training tiles.
            val: the tiles that choose the epoch.
            settings: architecture and schedule.
            augment: applied to every training batch.

        Raises:
            DataError: the splits disagree, one is empty, or a class has no training tile.
        """
        self.train, self.val, self.settings = train, val, settings
        self.spec = _spec("classifier", train, val, settings.architecture, settings.width)
        counts = torch.bincount(train.labels, minlength=len(train.classes))
        _require_all(counts, train, "tile", "choose the classes with --set data.classes=[...]")
        self._labels, self._augment = train.labels, augment

    def draws(self, seed: int) -> Int[Tensor, "steps b"]:
        """Return tiles, each class equally likely."""
        steps = math.ceil(len(self._labels) / self.settings.batch_size)
        weight = 1.0 / torch.bincount(self._labels).double()[self._labels]
        drawn = torch.multinomial(
            weight,
            steps * self.settings.batch_size,
            replacement=True,
            generator=torch.Generator().manual_seed(seed),
        )
        return drawn.view(steps, -1)

    def augmented(
        self, image: Float[Tensor, "b c h w"], truth: Int[Tensor, " b"], seed: int
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, " b"]]:
        """Return changed tiles and the same classes."""
        return self._augment(image, seed), truth

    def loss(self, logits: Float[Tensor, "b k"], truth: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return the mean label-smoothed cross-entropy."""
        return F.cross_entropy(logits, truth, label_smoothing=self.settings.label_smoothing)

    def figures(
        self, logits: Float[Tensor, "n k"], truth: Int[Tensor, " n"]
    ) -> tuple[float, float]:
        """Return mean negative log-likelihood and accuracy."""
        right = logits.argmax(1) == truth
        return F.cross_entropy(logits, truth).item(), right.double().mean().item()


class SegmentationTask:
    """One class per pixel; pixels of unknown class count nowhere.

    Every epoch reads each tile once; the last batch is filled up with the first tiles, because
    batch norm needs full batches.
    """

    score = "val_mean_iou"
    score_text = "validation mIoU {:.3f}"

    def __init__(
        self,
        train: MaskSource,
        val: MaskSource,
        settings: SegmenterSettings,
        augment: MaskAugmentation,
    ) -> None:
        """Check that the splits fit together, and weight the classes.

        Args:
            train: the training tiles.
            val: the tiles that choose the epoch.
            settings: architecture and schedule.
            augment: applied to every training batch.

        Raises:
            DataError: the splits disagree, one is empty, or a class has no training pixel.
        """
        self.train, self.val, self.settings = train, val, settings
        self.spec = _spec("segmenter", train, val, settings.encoder, settings.width)
        self._weight, self._augment = class_weights(train, settings.class_weight), augment

    def draws(self, seed: int) -> Int[Tensor, "steps b"]:
        """Return all tiles in random order."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        steps = math.ceil(len(order) / self.settings.batch_size)
        drawn = steps * self.settings.batch_size
        return order.repeat(math.ceil(drawn / len(order)))[:drawn].view(steps, -1)

    def augmented(
        self, image: Float[Tensor, "b c h w"], truth: Int[Tensor, "b h w"], seed: int
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return changed tiles and the masks that moved with them."""
        return self._augment(image, truth, seed)

    def loss(
        self, logits: Float[Tensor, "b k h w"], truth: Int[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """Return the mean class-weighted cross-entropy."""
        return masked_loss(logits, truth, self._weight.to(logits.device))

    def figures(
        self, logits: Float[Tensor, "n k"], truth: Int[Tensor, " n"]
    ) -> tuple[float, float]:
        """Return mean class-weighted cross-entropy, and mean intersection over union."""
        confusion = confusion_of(truth, logits.argmax(1), logits.shape[1]).double()
        return (
            F.cross_entropy(logits, truth, self._weight).item(),
            iou_of(confusion).nanmean().item(),
        )


Task = ClassificationTask | SegmentationTask
"""Two splits, and how a network learns from one and is measured on the other."""


def class_weights(source: MaskSource, power: float) -> Float[Tensor, " k"]:
    """Return the weight of each class: its share of the known pixels to the power of -`power`.

    They are scaled so that the mean weight of a pixel is 1.

    Raises:
        DataError: a class has no pixel.
    """
    counts = torch.zeros(len(source.classes), dtype=torch.float64)
    for batch in in_order(source):
        truth = truth_of(batch)
        counts += torch.bincount(truth[is_known(truth)], minlength=len(counts))
    _require_all(
        counts,
        source,
        "pixel",
        "map its value to another class or to null in data.mask_classes, "
        "or try another data.block_seed",
    )
    share = counts / counts.sum()
    weight = share**-power
    return (weight / (share * weight).sum()).float()


def masked_loss(
    logits: Float[Tensor, "b k h w"], mask: Int[Tensor, "b h w"], weight: Float[Tensor, " k"]
) -> Float[Tensor, ""]:
    """Return the mean weighted cross-entropy of the known pixels; 0 where there are none."""
    known = is_known(mask)
    loss = F.cross_entropy(logits, mask, weight, ignore_index=UNKNOWN, reduction="sum")
    scale = weight[mask[known]].sum()
    return loss / scale if known.any() else loss


def _spec(kind: Kind, train: Source, val: Source, architecture: str, width: int) -> NetworkSpec:
    for name, source in (("training", train), ("validation", val)):
        if len(source) == 0:
            raise DataError(f"the {name} split has no tile", expected="at least one")
    if train.bands != val.bands or train.classes != val.classes:
        raise DataError("training and validation split differ in their bands or classes")
    return NetworkSpec(
        kind=kind,
        architecture=architecture,
        width=width,
        bands=train.bands,
        classes=train.classes,
        tile_size=train.batch([0]).image.shape[-1],
    )


def _require_all(counts: Tensor, source: Source, what: str, remedy: str) -> None:
    absent = [name for name, n in zip(source.classes, counts.tolist(), strict=True) if n == 0]
    if absent:
        raise DataError(f"no training {what} of class {', '.join(absent)}", remedy=remedy)
