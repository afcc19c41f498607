"""Training of a classifier on one split and its temperature calibration on another."""

import copy
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import ClassifierSettings
from rs_lowconf.target.classifier import Classifier, ClassifierSpec
from rs_lowconf.target.learning import learn, require_alike, require_finite
from rs_lowconf.target.networks import Network
from rs_lowconf.target.normalise import band_statistics, decorrelation
from rs_lowconf.types import Augmentation, TileSource

log = logging.getLogger(__name__)

#: Range of calibrated temperatures: without it, a network without mistakes on the #: validation
#: split would be sharpened endlessly.
TEMPERATURES = (0.2, 5.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochRecord:
    """One epoch of training, measured on the validation split."""

    epoch: int
    """From 1 on."""

    train_loss: float
    """Mean label-smoothed cross-entropy of the epoch's augmented tiles, in nats."""

    val_loss: float
    """Mean negative log-likelihood of the validation tiles, in nats, at temperature 1."""

    val_accuracy: float
    """Share of validation tiles classified correctly."""

    learning_rate: float
    """Of the epoch's last step."""

    seconds: float
    """Wall time of the epoch, validation included."""

    best: Classifier | None
    """The classifier after this epoch, at temperature 1, when every epoch before had a
    higher `val_loss`; None otherwise."""


def train_classifier(  # noqa: PLR0917 - data, recipe, chance, place: the order of the work
    train: TileSource,
    val: TileSource,
    settings: ClassifierSettings,
    augment: Augmentation,
    seed: int,
    device: torch.device,
) -> Iterator[EpochRecord]:
    """Train epoch by epoch; the last record with a `best` holds the one to `calibrate`.

    Every epoch draws as many tiles as the training split has (rounded up to full batches),
    each class equally often on average. The result is the running average of the weights
    (`rs_lowconf.target.learning`). The best epoch is the one with the lowest `val_loss`: on a few
    dozen tiles accuracy moves in steps of percents, and its maximum picks lucky early epochs. The
    result depends on the arguments only, bit for bit on one machine with a fixed number of threads.

    Args:
        train: the training tiles.
        val: the tiles that choose the epoch.
        settings: architecture and schedule.
        augment: applied to every training batch.
        seed: seeds weights, draws, augmentation and dropout.
        device: where to compute.

    Raises:
        SettingsError: the architecture is unknown.
        DataError: the splits disagree, one is empty, or a class has no training tile.
        JobError: the loss is no longer a number.
    """
    spec = _spec(train, val, settings)
    with forked_rng(seed_of(seed, "weights")):
        network = spec.build().to(device)
    mean, covariance = band_statistics(train)
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
        loss_of=lambda logits, label: F.cross_entropy(
            logits, label, label_smoothing=settings.label_smoothing
        ),
    ):
        logits, labels = _logits(average, val, settings.batch_size)
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        val_loss = F.cross_entropy(logits, labels).item()
        require_finite(learned, val_loss)
        better = val_loss < best
        best = min(best, val_loss)
        yield EpochRecord(
            epoch=learned.epoch,
            train_loss=learned.train_loss,
            val_loss=val_loss,
            val_accuracy=accuracy,
            learning_rate=learned.learning_rate,
            seconds=time.perf_counter() - learned.start,
            best=Classifier(spec, copy.deepcopy(average)) if better else None,
        )


def calibrate(classifier: Classifier, val: TileSource) -> Classifier:
    """Return the same classifier at the temperature with the lowest validation NLL."""
    logits, labels = _logits(classifier.network, val, classifier.batch_size)
    return Classifier(
        classifier.spec,
        classifier.network,
        temperature=best_temperature(logits, labels),
        batch_size=classifier.batch_size,
    )


def best_temperature(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> float:
    """Return the T within `TEMPERATURES` that minimises the NLL of `logits / T`.

    The NLL is convex in 1 / T, so it has one minimum (Guo et al. 2017, On Calibration of
    Modern Neural Networks, section 4.2).
    """
    logits = logits.double()

    def negative_log_likelihood(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    temperature = math.exp(found.x)
    if min(abs(found.x - bound) for bound in bounds) < 0.01:
        log.warning(
            "temperature %.2f is at the edge of its range: %d validation tiles do not determine it",
            temperature,
            len(labels),
        )
    return temperature


def _spec(train: TileSource, val: TileSource, settings: ClassifierSettings) -> ClassifierSpec:
    require_alike(train, val)
    counts = torch.bincount(train.labels, minlength=len(train.classes))
    absent = [name for name, n in zip(train.classes, counts.tolist(), strict=True) if n == 0]
    if absent:
        raise DataError(
            f"no training tile of class {', '.join(absent)}",
            remedy="choose the classes with --set data.classes=[...]",
        )
    return ClassifierSpec(
        architecture=settings.architecture,
        width=settings.width,
        bands=train.bands,
        classes=train.classes,
        tile_size=train.batch([0]).image.shape[-1],
    )


def _batches(
    train: TileSource,
    settings: ClassifierSettings,
    augment: Augmentation,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Float[Tensor, "b c h w"], Int[Tensor, " b"], int]]:
    """Yield an epoch's augmented tiles, labels and a seed, each class equally likely."""
    batches = math.ceil(len(train) / settings.batch_size)
    weight = 1.0 / torch.bincount(train.labels).double()[train.labels]
    drawn = torch.multinomial(
        weight,
        batches * settings.batch_size,
        replacement=True,
        generator=torch.Generator().manual_seed(seed),
    )
    for step, indices in enumerate(drawn.view(batches, settings.batch_size).tolist()):
        image = train.batch(indices).image.to(device)
        label = train.labels[indices].to(device)
        yield augment(image, seed_of(seed, step, "augment")), label, seed_of(seed, step, "dropout")


@torch.no_grad()
def _logits(
    network: Network, source: TileSource, batch_size: int
) -> tuple[Float[Tensor, "b k"], Int[Tensor, " b"]]:
    network.eval()
    device = network.mean.device
    parts = []
    for first in range(0, len(source), batch_size):
        indices = range(first, min(first + batch_size, len(source)))
        parts.append(network(source.batch(indices).image.to(device)).cpu())
    return torch.cat(parts), source.labels
