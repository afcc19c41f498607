"""How good a generator of tiles with given masks is: fidelity to these, spectra, the probe."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from rs_lowconf.data.augment import mask_augmentation
from rs_lowconf.data.files import Split
from rs_lowconf.data.masks import WindowSource
from rs_lowconf.device import choose_device
from rs_lowconf.gan.mask_quality import mask_fidelity, mask_spectral_figures
from rs_lowconf.gan.model import load_model
from rs_lowconf.gan.paired_probe import probe_masks
from rs_lowconf.gan.quality import markdown
from rs_lowconf.gan.sheet import write_sheets
from rs_lowconf.gan.source_quality import MEANING
from rs_lowconf.percents import percent
from rs_lowconf.places import model_path
from rs_lowconf.runs import RunFolder, sha256_of, write_json, write_text
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.evaluate import evaluate_segmenter
from rs_lowconf.target.tasks import SegmentationTask
from rs_lowconf.target.train import Training
from rs_lowconf.target.trained import TrainedNetwork, load_trained, save_trained
from rs_lowconf.workflows.probe_log import log_probe
from rs_lowconf.workflows.quality import Quality, refuse_idle
from rs_lowconf.workflows.quality_page import write_quality_page
from rs_lowconf.workflows.records import Step, Work
from rs_lowconf.workflows.training import open_like_masks

FORMAT = 1
_HEADER = """# Quality of the generator of tiles with given masks

GAN after {images:,} images. Tiles: {tiles}. Generated tiles have the masks of the test tiles
where fidelity is measured, else those of the training tiles.

Intervals are 95 %, over tiles; tiles of one place are alike, so they are rather too short. The
floor is what real tiles reach in the place of generated ones: where figure and floor agree, this
measure cannot tell the tiles from real ones. The reporter is a segmenter that selects and gates
nothing; of the test tiles' pixels it has {right} right.
"""


def evaluate_masks(settings: Settings, folder: Path, found: Sequence[str] = ()) -> Work[Quality]:
    """Measure fidelity to masks, spectra and the probe; write a page, tables and sheets/.

    Args:
        settings: of the run; the reporter's are in `evaluate.segmenter`.
        folder: of the evaluation.
        found: searches, whose tiles the probe takes of tiles with labels only: refused.

    Raises:
        SettingsError: a setting or a search would have no effect.
        ModelError: there is no generator of tiles with masks, or it is of other data.
        DataError: there are no tiles.
    """
    refuse_idle(settings, found)
    device = choose_device(settings.run)
    path = model_path(settings, "gan")
    gan = load_model(path, device)
    generator, _ = gan.masked
    splits = {name: open_like_masks(settings, generator, name) for name in get_args(Split)}
    train, test = splits["train"], splits["test"]
    RunFolder(folder, settings)
    reporter = yield from _reporter(settings, splits, folder / "reporter.safetensors", device)
    seed = seed_of(settings.run.seed, "evaluate")
    title = "figures with intervals"
    yield Step(title=title, done=0, total=4)
    fidelity = mask_fidelity(generator.generator, test, reporter, seed=seed, device=device)
    yield Step(title=title, done=1, total=4)
    spectral, details = mask_spectral_figures(generator.generator, train, test, seed)
    yield Step(title=title, done=2, total=4)
    probes = probe_masks(
        generator.generator,
        train,
        test,
        most=settings.evaluate.probe_tiles,
        seed=seed,
        device=device,
    )
    yield Step(title=title, done=3, total=4)
    write_sheets(
        folder / "sheets",
        generator.generator,
        test,
        columns=settings.mask_gan.sheet_columns,
        seed=seed,
        images=gan.header["images"],
    )
    yield Step(title=title, done=4, total=4)
    probed = [line for own in probes for line in own.measurements()]
    groups = {"Fidelity to masks": fidelity, "Spectra and texture": spectral}
    if probed:
        groups["Probe"] = probed
    numbers = {name: len(source) for name, source in splits.items()}
    report: dict[str, Any] = {
        "format": FORMAT,
        "seed": settings.run.seed,
        "gan": {"images": gan.header["images"], "sha256": sha256_of(path)},
        "reporter": reporter.figures,
        "tiles": numbers,
        "figures": {name: [figure.to_json() for figure in group] for name, group in groups.items()},
        "probe": {own.title: own.to_json() for own in probes},
        **details,
    }
    notes = list[str]()
    if any(own.generated for own in probes):
        opened = log_probe(settings, folder, report["probe"], **report["gan"])
        notes = [MEANING.replace("*", ""), opened]
    header = _HEADER.format(
        images=gan.header["images"],
        tiles=", ".join(f"{number:,} {name}" for name, number in numbers.items()),
        right=percent(reporter.figures["pixel_accuracy"], 1),
    )
    write_text(folder / "report.md", "\n".join([header, markdown(groups), *notes, ""]))
    write_json(folder / "report.json", report)
    page = write_quality_page(
        folder,
        header=header,
        groups=groups,
        tested={
            "Generator's SHA-256": report["gan"]["sha256"],
            "Generator learned from": gan.header["attribution"],
            "Real tiles": settings.data.attribution,
            "Classes": ", ".join(generator.bank.classes),
            "Bands": f"{', '.join(generator.bands.names)} ({generator.bands.level})",
        },
        notes=notes,
    )
    return Quality(
        headline=(*fidelity, *probed),
        note=notes[-1] if notes else "",
        report=folder / "report.md",
        page=page,
    )


def _reporter(
    settings: Settings, splits: dict[str, WindowSource], path: Path, device: torch.device
) -> Work[TrainedNetwork]:
    """Return the reporter of an earlier run with the same settings and tiles, or train it."""
    section = settings.evaluate.segmenter
    known = {
        "settings": section.model_dump(mode="json"),
        "augment": settings.augment.model_dump(mode="json"),
        "seed": settings.run.seed,
        "data": settings.data.model_dump(mode="json"),
    }
    if path.exists():
        earlier = load_trained(path, device, kind="segmenter")
        if earlier.figures.get("made_with") == known:
            return earlier
    seed = seed_of(settings.run.seed, "reporter")
    augment = mask_augmentation(settings.augment)
    task = SegmentationTask(splits["train"], splits["val"], section, augment)
    training = Training(task, seed, device)
    for record in training.epochs():
        yield Step(
            title="training the reporter",
            done=record.epoch,
            total=section.epochs,
            text=task.score_text.format(record.val_score),
        )
    reporter, test = training.best, splits["test"]
    report = evaluate_segmenter(reporter, test, test.blocks, seed=seed_of(seed, "bootstrap"))
    reporter.figures = {**asdict(report), "made_with": known}
    save_trained(path, reporter)
    return reporter
