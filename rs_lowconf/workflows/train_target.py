"""Training of a classifier or a segmenter: it learns, is calibrated, tested and written."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rs_lowconf.data.augment import augmentation, mask_augmentation
from rs_lowconf.data.masks import open_masks
from rs_lowconf.data.source import open_split
from rs_lowconf.device import choose_device
from rs_lowconf.runs import RunFolder, write_json
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.evaluate import (
    ClassifierReport,
    SegmentationReport,
    evaluate_classifier,
    evaluate_segmenter,
)
from rs_lowconf.target.tasks import ClassificationTask, SegmentationTask, Task
from rs_lowconf.target.train import Training, calibrate, restore_state, save_state
from rs_lowconf.target.trained import TrainedNetwork, save_trained
from rs_lowconf.workflows.records import Expected, Step, Work

Name = Literal["target", "extractor"]
Report = ClassifierReport | SegmentationReport

_SAVE_SECONDS = 60.0
"""Between two saved states of a training; what was learned since is lost if it is killed."""


@dataclass(frozen=True, kw_only=True)
class TrainedTarget:
    """A network that was trained, calibrated on validation tiles and measured on test tiles."""

    report: Report
    temperature: float
    path: Path
    """Of its weights; report.json and metrics.jsonl are beside it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lesson:
    """What is learned, and how it is tested."""

    task: Task
    test: Callable[[TrainedNetwork], Report]
    made_with: dict[str, Any]
    """Settings by name, all that the training depends on."""


def train_network(settings: Settings, name: Name) -> Work[TrainedTarget]:
    """Train a network into run.dir/NAME, from where it stopped; yield every epoch.

    Closed between two epochs, it keeps what it has learned.

    Args:
        settings: of the run. Of tiles with masks it trains a segmenter, by the section `segmenter`;
            of others a classifier, by the section `classifier` or `extractor`.
        name: which network.

    Raises:
        DataError: the tiles cannot be used.
        ModelError: the folder holds an unfinished training with other settings.
        JobError: the training diverged.
    """
    device, seed = choose_device(settings.run), seed_of(settings.run.seed, name)
    masked = name == "target" and settings.data.masked
    lesson = _with_masks(settings, seed) if masked else _with_labels(settings, name)
    task, path = lesson.task, settings.run.dir / name
    training, state = Training(task, seed, device), path / "state.safetensors"
    if state.exists():
        restore_state(state, training, lesson.made_with)
    folder = RunFolder(path, settings)
    folder.trim_log("epoch", training.epoch)
    file, saved = path / f"{name}.safetensors", time.monotonic()
    try:
        if masked:
            yield Expected(what="Training the segmenter", seconds=training.seconds_left())
        for record in training.epochs():
            named = {"val_score": task.score}
            folder.log({named.get(key, key): value for key, value in asdict(record).items()})
            if time.monotonic() - saved >= _SAVE_SECONDS:
                save_state(state, training, lesson.made_with)
                saved = time.monotonic()
            yield Step(
                title=f"training the {name}",
                done=record.epoch,
                total=task.settings.epochs,
                text=task.score_text.format(record.val_score),
            )
        trained = calibrate(training.best, task.val)
        report = lesson.test(trained)
        trained.figures = asdict(report)
        save_trained(file, trained)
        figures = {"split": "test", "temperature": trained.temperature, **trained.figures}
        write_json(path / "report.json", figures)
        # Whoever asked to stop since the last epoch is heard here, and need not train again.
        yield Step(title=f"testing the {name}", done=1, total=1)
    except GeneratorExit:
        save_state(state, training, lesson.made_with)
        raise
    state.unlink(missing_ok=True)
    return TrainedTarget(report=report, temperature=trained.temperature, path=file)


def _with_labels(settings: Settings, name: Name) -> _Lesson:
    section = settings.classifier if name == "target" else settings.extractor
    train, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    test = open_split(settings.data, "test")
    return _Lesson(
        task=ClassificationTask(train, val, section, augmentation(settings.augment)),
        test=lambda trained: evaluate_classifier(trained, test),
        made_with=_made_with(settings, "classifier" if name == "target" else name),
    )


def _with_masks(settings: Settings, seed: int) -> _Lesson:
    train, val = open_masks(settings.data, "train"), open_masks(settings.data, "val")
    test, section = open_masks(settings.data, "test"), settings.segmenter
    bootstrap = seed_of(seed, "bootstrap")
    return _Lesson(
        task=SegmentationTask(train, val, section, mask_augmentation(settings.augment)),
        test=lambda trained: evaluate_segmenter(trained, test, test.blocks, seed=bootstrap),
        made_with=_made_with(settings, "segmenter"),
    )


def _made_with(settings: Settings, section: str) -> dict[str, Any]:
    values = settings.model_dump(mode="json", include={section, "augment", "data"})
    return {**values, "run.seed": settings.run.seed}
