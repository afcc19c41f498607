"""Training of a classifier or a segmenter: it learns, is calibrated, tested and written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, cast

from rs_lowconf.data.augment import augmentation, mask_augmentation
from rs_lowconf.data.masks import open_masks
from rs_lowconf.data.source import open_split
from rs_lowconf.device import choose_device
from rs_lowconf.runs import RunFolder, write_json
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.classifier import Classifier, save_classifier
from rs_lowconf.target.evaluate import ClassifierReport, evaluate_classifier
from rs_lowconf.target.segment_evaluate import SegmentationReport, evaluate_segmenter
from rs_lowconf.target.segment_train import calibrate_segmenter, train_segmenter
from rs_lowconf.target.segmenter import Segmenter, save_segmenter
from rs_lowconf.target.train import calibrate, train_classifier
from rs_lowconf.workflows.records import Step, Work

Report = TypeVar("Report", ClassifierReport, SegmentationReport)


@dataclass(frozen=True, kw_only=True)
class TrainedTarget(Generic[Report]):
    """A network that was trained, calibrated on validation tiles and measured on test tiles."""

    report: Report
    temperature: float
    path: Path
    """Of its weights; report.json and metrics.jsonl are beside it."""


def train_labels(
    settings: Settings, name: Literal["target", "extractor"]
) -> Work[TrainedTarget[ClassifierReport]]:
    """Train a classifier into run.dir/NAME; yield every epoch.

    Raises:
        DataError: the tiles cannot be used.
    """
    section = settings.classifier if name == "target" else settings.extractor
    device = choose_device(settings.run)
    train, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    test = open_split(settings.data, "test")
    augment = augmentation(settings.augment)
    folder = RunFolder(settings.run.dir / name, settings)
    folder.trim_log("epoch", 0)
    seed = seed_of(settings.run.seed, name)
    best = None
    for record in train_classifier(train, val, section, augment, seed, device):
        best = record.best or best
        folder.log(
            {
                "epoch": record.epoch,
                "train_loss": record.train_loss,
                "val_loss": record.val_loss,
                "val_accuracy": record.val_accuracy,
                "learning_rate": record.learning_rate,
                "seconds": record.seconds,
            }
        )
        yield Step(
            title=f"training the {name}",
            done=record.epoch,
            total=section.epochs,
            text=f"validation accuracy {record.val_accuracy:.1%}",
        )
    # The first epoch is better than none, so there is a best one.
    classifier = calibrate(cast("Classifier", best), val)
    report = evaluate_classifier(classifier, test)
    classifier.figures = report.to_json()
    path = folder.path / f"{name}.safetensors"
    save_classifier(path, classifier)
    return _written(
        folder, TrainedTarget(report=report, temperature=classifier.temperature, path=path)
    )


def train_masks(settings: Settings) -> Work[TrainedTarget[SegmentationReport]]:
    """Train a segmenter into run.dir/target; yield every epoch.

    Raises:
        DataError: the tiles cannot be used.
    """
    device, section = choose_device(settings.run), settings.segmenter
    train, val = open_masks(settings.data, "train"), open_masks(settings.data, "val")
    test = open_masks(settings.data, "test")
    augment = mask_augmentation(settings.augment)
    folder = RunFolder(settings.run.dir / "target", settings)
    folder.trim_log("epoch", 0)
    seed = seed_of(settings.run.seed, "target")
    best = None
    for record in train_segmenter(train, val, section, augment, seed, device):
        best = record.best or best
        folder.log(
            {
                "epoch": record.epoch,
                "train_loss": record.train_loss,
                "val_loss": record.val_loss,
                "val_mean_iou": record.val_mean_iou,
                "learning_rate": record.learning_rate,
                "seconds": record.seconds,
            }
        )
        yield Step(
            title="training the target",
            done=record.epoch,
            total=section.epochs,
            text=f"validation mIoU {record.val_mean_iou:.3f}",
        )
    # The first epoch is better than none, so there is a best one.
    segmenter = calibrate_segmenter(cast("Segmenter", best), val)
    report = evaluate_segmenter(segmenter, test, test.blocks, seed=seed_of(seed, "bootstrap"))
    segmenter.figures = report.to_json()
    path = folder.path / "target.safetensors"
    save_segmenter(path, segmenter)
    return _written(
        folder, TrainedTarget(report=report, temperature=segmenter.temperature, path=path)
    )


def _written(folder: RunFolder, trained: TrainedTarget[Report]) -> TrainedTarget[Report]:
    """Write report.json, and return what it says."""
    figures = {"split": "test", "temperature": trained.temperature, **trained.report.to_json()}
    write_json(folder.path / "report.json", figures)
    return trained
