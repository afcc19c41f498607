"""How good a generator is: figures with intervals and floors, written as a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.errors import SettingsError
from rs_lowconf.gan.distances import nearest_features, nearest_pixels
from rs_lowconf.gan.measure import Measurement
from rs_lowconf.gan.quality import (
    Right,
    Sets,
    classification_figures,
    distribution_figures,
    markdown,
    matched_sets,
    memorisation_figures,
)
from rs_lowconf.gan.quality_plots import write_mixed_sheet, write_plots
from rs_lowconf.gan.source_quality import MEANING
from rs_lowconf.gan.spectra import band_deviations, limits_of, tile_spectra
from rs_lowconf.gan.spectral_quality import spectral_figures
from rs_lowconf.gan.tiles import all_turns, at_most
from rs_lowconf.percents import percent
from rs_lowconf.runs import RunFolder, write_json, write_text
from rs_lowconf.search.neighbours import features_of
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings, further_sources
from rs_lowconf.target.trained import TrainedNetwork
from rs_lowconf.types import TileSource
from rs_lowconf.workflows.quality_classifiers import load_reporter, train_and_test
from rs_lowconf.workflows.quality_page import write_quality_page
from rs_lowconf.workflows.quality_pictures import Judged, judge_sources, open_judges
from rs_lowconf.workflows.quality_tiles import Tiles, load_tiles
from rs_lowconf.workflows.records import Step, Work

FORMAT = 1
_HEADER = """# Quality of the generator

{tiles}

Every class weighs the same. Intervals are 95 %: Wilson's for shares of tiles, else a bootstrap
over tiles, or half-samples where repeated tiles would distort a figure. The floor is what real
tiles reach in the place of generated ones, at the same number a class: where figure and floor
agree, this measure cannot tell the tiles from real ones at this number. Features are those of the
reporter, a network that selects and gates nothing; it has {reporter} of these tiles right.
"""
_SPLITS = {
    "test": " Compared with the test split.",
    "val": " Compared with the validation split, on which networks of this report chose their "
    "epochs: fit for comparing models, too favourable to report.",
}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What an evaluation found."""

    headline: tuple[Measurement, ...]
    """The figures that say most; the report has all."""
    report: Path
    """The table of all figures, as Markdown; what else was written is beside it."""
    page: Path
    """The same as a page, with the pictures."""
    note: str = ""
    """How often the probe has been opened for this model; empty without a probe."""


def evaluate(settings: Settings, folder: Path, found: Sequence[str] = ()) -> Work[Quality]:
    """Measure a generator of labelled tiles against real ones; yield how far that is.

    Writes report.html, report.json, report.md, plots/ and mixed.png into the folder.

    Args:
        settings: of the run.
        folder: of the evaluation.
        found: searches below run.dir whose found tiles the probe judges too; `generate` when none
            is named, if it exists.

    Raises:
        SettingsError: a setting or a search would have no effect.
        DataError: the tiles cannot be used.
        ModelError: there is no generator, or it is of other data.
    """
    refuse_idle(settings, found)
    tiles = yield from load_tiles(settings)
    RunFolder(folder, settings)
    judges = None
    if any(section.kind == "pictures" for section in further_sources(settings.data)):
        # Before anything is trained: what cannot be read is better known now.
        judges = open_judges(settings, tiles, found)
    reporter = yield from load_reporter(settings, tiles, folder / "reporter.safetensors")
    right = yield from train_and_test(settings, tiles)
    sets = yield from _measure(settings, tiles, reporter)
    distances = yield from _nearest_training_tiles(settings, tiles, reporter)
    judged = None
    if judges is not None:
        judged = yield from judge_sources(settings, tiles, folder, judges)
    return (yield from _write(settings, tiles, folder, reporter, (sets, right, distances, judged)))


def refuse_idle(settings: Settings, found: Sequence[str]) -> None:
    """Refuse settings and options that this evaluation would not read.

    Raises:
        SettingsError: there is one.
    """
    section = settings.evaluate
    if settings.data.masked and section.split != "test":
        raise SettingsError(
            f"evaluate.split={section.split} has no effect on tiles with masks",
            remedy="remove it: they are compared with the test split",
        )
    pictures = [section for section in further_sources(settings.data) if section.kind == "pictures"]
    for name in ("probe_tiles", "picture_tiles", "cas_rgb", "cas_seeds", "cas_classifier"):
        read = pictures or (name == "probe_tiles" and settings.data.masked)
        if not read and getattr(section, name) != type(section).model_fields[name].default:
            raise SettingsError(
                f"evaluate.{name} has no effect without pictures",
                remedy="remove it, or add a source with kind: pictures to data.more",
            )
    if found and not pictures:
        raise SettingsError(
            "--found has no effect without pictures, which the probe takes",
            remedy="leave it out, or add a source with kind: pictures to data.more",
        )
    if pictures and section.probe_tiles > section.picture_tiles:
        raise SettingsError(
            f"evaluate.probe_tiles={section.probe_tiles} is more than "
            f"evaluate.picture_tiles={section.picture_tiles}",
            remedy="the probe takes some of the picture_tiles: raise these",
        )


def _measure(settings: Settings, tiles: Tiles, reporter: TrainedNetwork) -> Work[Sets]:
    """Measure features and spectra of generated, training and test tiles."""
    seed = seed_of(settings.run.seed, "evaluate")
    sources: dict[str, TileSource] = {
        "generated": tiles.generated,
        # As many as there are generated: more could not be compared at the same number.
        "train": at_most(tiles.train, settings.evaluate.tiles_per_class, seed),
        "test": tiles.test,
    }
    features, spectra = {}, {}
    limits = limits_of(tiles.train)
    for number, (name, source) in enumerate(sources.items(), start=1):
        features[name] = features_of(reporter, source, tiles.device)
        spectra[name] = tile_spectra(source, limits, seed_of(seed, name))
        text = f"{name} tiles"
        yield Step(title="measuring tiles", done=number, total=len(sources), text=text)
    return matched_sets(
        features, spectra, bands=tiles.train.bands, classes=tiles.train.classes, seed=seed
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Distances:
    """To the nearest training tile over the symmetries of the square, by space."""

    generated: Mapping[str, Float[Tensor, " _"]]
    held_out: Mapping[str, Float[Tensor, " _"]]
    """Of real tiles of the validation and, where that is opened, the test split."""


def _nearest_training_tiles(
    settings: Settings, tiles: Tiles, reporter: TrainedNetwork
) -> Work[Distances]:
    """Look for the training tile that each generated and each held-out tile is nearest to."""
    most, seed = settings.evaluate.tiles_per_class, settings.run.seed
    parts: dict[str, list[TileSource]] = {
        "generated": [tiles.generated],
        "held_out": [at_most(split, most, seed) for split in tiles.held_out],
    }
    bank = features_of(reporter, tiles.train, tiles.device)
    scale = band_deviations(tiles.train)
    nearest: dict[str, dict[str, Tensor]] = {}
    total, done = sum(len(split) for splits in parts.values() for split in splits), 0
    for name, splits in parts.items():
        features, pixels = [], []
        for split in splits:
            versions = [features_of(reporter, view, tiles.device) for view in all_turns(split)]
            features.append(nearest_features(versions, bank))
            for part in nearest_pixels(split, tiles.train, scale):
                pixels.append(part)
                done += len(part)
                yield Step(title="looking for copies", done=done, total=total)
        nearest[name] = {"features": torch.cat(features), "pixels": torch.cat(pixels)}
    return Distances(**nearest)


def _write(
    settings: Settings,
    tiles: Tiles,
    folder: Path,
    reporter: TrainedNetwork,
    results: tuple[Sets, Right, Distances, Judged | None],
) -> Work[Quality]:
    """Write report, plots and the mixed sheet."""
    sets, right, distances, judged = results
    title = "figures with intervals"
    yield Step(title=title, done=0, total=3)
    distribution = distribution_figures(sets)
    yield Step(title=title, done=1, total=3)
    spectral, details = spectral_figures(sets)
    yield Step(title=title, done=2, total=3)
    use = classification_figures(right, len(sets.classes), sets.seed)
    groups = {
        "Likeness and diversity": distribution,
        "Use: classifiers trained on generated tiles alone": use,
        "Spectra and texture": spectral,
        "Copies of training tiles": memorisation_figures(distances.generated, distances.held_out),
        **(judged.groups if judged else {}),
    }
    write_plots(folder / "plots", sets, right, distances.generated, distances.held_out)
    key = write_mixed_sheet(folder / "mixed.png", tiles.generated, settings.run.seed)
    write_json(folder / "mixed.json", key)
    yield Step(title=title, done=3, total=3)
    images = tiles.gan.header["images"]
    split = settings.evaluate.split
    splits = ("train", "val") if split == "val" else ("train", "val", "test")
    numbers = {
        "generated": len(tiles.generated),
        **{name: len(getattr(tiles, name)) for name in splits},
        **(judged.numbers if judged else {}),
    }
    report: dict[str, Any] = {
        "format": FORMAT,
        "seed": settings.run.seed,
        "split": split,
        "gan": {"images": images, "sha256": tiles.gan_sha256},
        "reporter": {
            "settings": settings.evaluate.reporter.model_dump(mode="json"),
            "test_accuracy": reporter.figures["accuracy"],
        },
        "tiles": numbers,
        "figures": {name: [one.to_json() for one in group] for name, group in groups.items()},
        **details,
        **({"probe": judged.probe} if judged else {}),
    }
    counted = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
    header = _HEADER.format(
        tiles=f"GAN after {images:,} images. Tiles: {counted}.{_SPLITS[split]}",
        reporter=percent(reporter.figures["accuracy"], 1),
    )
    table = f"{header}\n{markdown(groups)}{judged.text if judged else ''}"
    write_text(folder / "report.md", table)
    write_json(folder / "report.json", report)
    page = write_quality_page(
        folder,
        header=header,
        groups=groups,
        tested={
            "Generator's SHA-256": tiles.gan_sha256,
            "Generator learned from": tiles.gan.header["attribution"],
            "Real tiles": settings.data.attribution,
            "Classes": ", ".join(sets.classes),
            "Bands": f"{', '.join(sets.bands.names)} ({sets.bands.level})",
        },
        notes=[MEANING.replace("*", ""), judged.opened] if judged else [],
    )
    judges = judged.groups.values() if judged else ()
    return Quality(
        headline=tuple(chain(distribution, use, *judges)),
        note=judged.opened if judged else "",
        report=folder / "report.md",
        page=page,
    )
