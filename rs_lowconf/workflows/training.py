"""What trainings have in common."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import torch

from rs_lowconf.gan.judge import D, JudgeRecord
from rs_lowconf.gan.tiles import all_turns
from rs_lowconf.models import checksums
from rs_lowconf.search.calibration import Features, calibrate
from rs_lowconf.search.fitted import FittedGate
from rs_lowconf.search.neighbours import features_of
from rs_lowconf.settings import Settings
from rs_lowconf.types import Critic, FeatureExtractor, TileSource
from rs_lowconf.workflows.records import Step, Work

_LOGS = 20
"""Records of a training that are kept."""


def last_record(
    records: Iterable[JudgeRecord[D]],
    name: str,
    images: int,
    log: Callable[[dict[str, float]], None],
) -> Work[D]:
    """Train a network to the end and return its average; yield how far it is.

    Args:
        records: of its training.
        name: what to call it.
        images: after which it ends.
        log: takes a record now and then.
    """
    title, losses, network, due = f"training {name}", list[float](), None, images / _LOGS
    yield Step(title=title, done=0, total=images)
    for record in records:
        network = record.average
        losses.append(record.loss)
        done = min(record.images, images)
        yield Step(title=title, done=done, total=images, text=f"loss {record.loss:.2f}")
        if record.images >= due:
            log({"images": record.images, "loss": sum(losses) / len(losses)})
            losses.clear()
            due += images / _LOGS
    # There is one step or more.
    return cast("D", network)


def write_calibration(
    settings: Settings,
    paths: dict[str, Path],
    *,
    critics: tuple[Critic, Critic],
    extractor: tuple[FeatureExtractor, Features],
    tiles: tuple[TileSource, TileSource],
    device: torch.device,
    fitted: FittedGate | None = None,
) -> list[int]:
    """Measure what the gate knows of real tiles and write it into run.dir/gate.

    Args:
        settings: of the run.
        paths: of the models, by name.
        critics: the gate's, and that of the search's energy.
        extractor: what says which tiles look alike, and its features in the gate's bands.
        tiles: of training, and held-out ones.
        device: where the models are.
        fitted: what decides in the place of critic, likeness and spectra, if something does.

    Returns:
        The number of held-out tiles that each stage of the gate is calibrated on.
    """
    train, val = tiles
    calibration = calibrate(
        *critics,
        extractor[1],
        train,
        val,
        bank=torch.stack([features_of(extractor[0], view, device) for view in all_turns(train)]),
        seed=settings.run.seed,
        models=checksums(paths),
        device=device,
        fitted=fitted,
    )
    calibration.save(settings.run.dir / "gate" / "calibration.safetensors")
    stages = [] if fitted is None else fitted.stages
    return [len(own.reference) for own in stages] or [len(calibration.reference)]
