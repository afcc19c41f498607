"""`rslow evaluate`: how good the generator is, in figures with intervals and floors."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import print_measurement, progress, show
from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import Settings, further_sources

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rs_lowconf.cli.evaluate_sources import Judged
    from rs_lowconf.gan.quality import Right, Sets
    from rs_lowconf.target.classifier import Classifier
    from rs_lowconf.types import TileSource
    from rs_lowconf.workflows.quality import Tiles

FORMAT = 1
_HEADER = """# Quality of the generator

{tiles}

Every class weighs the same. Intervals are 95 %: Wilson's for shares of tiles, else a bootstrap
over tiles, or half-samples where repeated tiles would distort a figure. The floor is what real
tiles reach in the place of generated ones, at the same number a class: where figure and floor
agree, this measure cannot tell the tiles from real ones at this number. Features are those of the
reporter, a network that selects and gates nothing; it has {reporter:.1%} of these tiles right.
"""
_SPLITS = {
    "test": " Compared with the test split.",
    "val": " Compared with the validation split, on which networks of this report chose their "
    "epochs: fit for comparing models, too favourable to report.",
}

FoundOption = Annotated[
    list[str] | None,
    typer.Option(
        "--found",
        help="A search below run.dir whose found tiles the probe judges too. Repeatable.",
        show_default="generate, where there is one",
    ),
]
NameOption = Annotated[str, typer.Option("--name", help="Folder of this evaluation below run.dir.")]


@app.command()
def evaluate(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "evaluate",
    found: FoundOption = None,
) -> None:
    """Measure the generator against real tiles: likeness, usefulness, spectra, copies.

    Needs a GAN and real tiles of the split evaluate.split; trains the classifiers it measures
    with. Writes report.json, report.md, plots/ and mixed.png (generated tiles without labels; the
    key is mixed.json) into run.dir/NAME. With pictures in data.more, the probe tries to tell
    generated tiles from real ones by a network that nothing else sees through; probe.jsonl logs
    every time it does. Of tiles with masks: fidelity to these, spectra, and sheets/ in the place of
    plots.
    """
    settings = load_settings(config, set_)
    _refuse_idle(settings, found)
    if settings.data.masked:
        from rs_lowconf.cli.evaluate_masks import evaluate_mask_gan

        evaluate_mask_gan(settings, settings.run.dir / name)
        return
    from rs_lowconf.cli.classifiers import load_reporter, train_and_test
    from rs_lowconf.runs import RunFolder
    from rs_lowconf.workflows.quality import load_tiles

    tiles = show(load_tiles(settings))
    folder = settings.run.dir / name
    RunFolder(folder, settings)
    judges = None
    if any(section.kind == "pictures" for section in further_sources(settings.data)):
        from rs_lowconf.cli.evaluate_sources import judge_sources, open_judges

        # Before anything is trained: what cannot be read is better known now.
        judges = open_judges(settings, tiles, found or ())
    reporter = load_reporter(settings, tiles, folder / "reporter.safetensors")
    right = train_and_test(settings, tiles)
    sets = measure(settings, tiles, reporter)
    distances = nearest_training_tiles(settings, tiles, reporter)
    judged = None if judges is None else judge_sources(settings, tiles, folder, judges)
    _write(settings, tiles, folder, reporter, (sets, right, distances, judged))


def _refuse_idle(settings: Settings, found: list[str] | None) -> None:
    """Refuse settings and options that this evaluation would not read.

    Raises:
        SettingsError: there is one.
    """
    own = settings.evaluate
    if settings.data.masked and own.split != "test":
        raise SettingsError(
            f"evaluate.split={own.split} has no effect on tiles with masks",
            remedy="remove it: they are compared with the test split",
        )
    pictures = [section for section in further_sources(settings.data) if section.kind == "pictures"]
    for name in ("probe_tiles", "picture_tiles", "cas_rgb", "cas_seeds", "cas_classifier"):
        if not pictures and getattr(own, name) != type(own).model_fields[name].default:
            raise SettingsError(
                f"evaluate.{name} has no effect without pictures",
                remedy="remove it, or add a source with kind: pictures to data.more",
            )
    if found and not pictures:
        raise SettingsError(
            "--found has no effect without pictures, which the probe takes",
            remedy="leave it out, or add a source with kind: pictures to data.more",
        )
    if pictures and own.probe_tiles > own.picture_tiles:
        raise SettingsError(
            f"evaluate.probe_tiles={own.probe_tiles} is more than "
            f"evaluate.picture_tiles={own.picture_tiles}",
            remedy="the probe takes some of the picture_tiles: raise these",
        )


def measure(settings: Settings, tiles: "Tiles", reporter: "Classifier") -> "Sets":
    """Measure features and spectra of generated, training and test tiles."""
    from rs_lowconf.gan.quality import matched_sets
    from rs_lowconf.gan.spectra import limits_of, tile_spectra
    from rs_lowconf.gan.tiles import at_most
    from rs_lowconf.search.neighbours import features_of
    from rs_lowconf.seeds import seed_of

    seed = seed_of(settings.run.seed, "evaluate")
    sources: dict[str, TileSource] = {
        "generated": tiles.generated,
        # As many as there are generated: more could not be compared at the same number.
        "train": at_most(tiles.train, settings.evaluate.tiles_per_class, seed),
        "test": tiles.test,
    }
    features, spectra = {}, {}
    with progress("measuring tiles", 2 * len(sources)) as bar:
        limits = limits_of(tiles.train)
        for number, (name, source) in enumerate(sources.items()):
            features[name] = features_of(reporter, source, tiles.device)
            bar.update(2 * number + 1, f"{name} tiles")
            spectra[name] = tile_spectra(source, limits, seed_of(seed, name))
            bar.update(2 * number + 2, f"{name} tiles")
    return matched_sets(
        features, spectra, bands=tiles.train.bands, classes=tiles.train.classes, seed=seed
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Distances:
    """To the nearest training tile over the symmetries of the square, by space."""

    generated: "dict[str, Float[Tensor, ' _']]"
    held_out: "dict[str, Float[Tensor, ' _']]"
    """Of real tiles of the validation and, where that is opened, the test split."""


def nearest_training_tiles(settings: Settings, tiles: "Tiles", reporter: "Classifier") -> Distances:
    """Look for the training tile that each generated and each held-out tile is nearest to."""
    import torch

    from rs_lowconf.gan.distances import nearest_features, nearest_pixels
    from rs_lowconf.gan.spectra import band_deviations
    from rs_lowconf.gan.tiles import all_turns, at_most
    from rs_lowconf.search.neighbours import features_of

    own = settings.evaluate.tiles_per_class
    seed = settings.run.seed
    parts: dict[str, list[TileSource]] = {
        "generated": [tiles.generated],
        "held_out": [at_most(split, own, seed) for split in tiles.held_out],
    }
    bank = features_of(reporter, tiles.train, tiles.device)
    scale = band_deviations(tiles.train)
    found: dict[str, dict[str, Tensor]] = {}
    total, done = sum(len(split) for splits in parts.values() for split in splits), 0
    with progress("looking for copies", total) as bar:
        for name, splits in parts.items():
            features, pixels = [], []
            for split in splits:
                versions = [features_of(reporter, view, tiles.device) for view in all_turns(split)]
                features.append(nearest_features(versions, bank))
                for part in nearest_pixels(split, tiles.train, scale):
                    pixels.append(part)
                    done += len(part)
                    bar.update(done)
            found[name] = {"features": torch.cat(features), "pixels": torch.cat(pixels)}
    return Distances(**found)


def _write(
    settings: Settings,
    tiles: "Tiles",
    folder: Path,
    reporter: "Classifier",
    results: "tuple[Sets, Right, Distances, Judged | None]",
) -> None:
    """Write report, plots and the mixed sheet, and say what the report says."""
    from rs_lowconf.gan.quality import (
        classification_figures,
        distribution_figures,
        markdown,
        memorisation_figures,
    )
    from rs_lowconf.gan.quality_plots import write_mixed_sheet, write_plots
    from rs_lowconf.gan.spectral_quality import spectral_figures
    from rs_lowconf.runs import write_json, write_text

    sets, right, distances, judged = results
    with progress("figures with intervals", 3) as bar:
        distribution = distribution_figures(sets)
        bar.update(1)
        spectral, details = spectral_figures(sets)
        bar.update(2)
        groups = {
            "Likeness and diversity": distribution,
            "Use: classifiers trained on generated tiles alone": classification_figures(
                right, len(sets.classes), sets.seed
            ),
            "Spectra and texture": spectral,
            "Copies of training tiles": memorisation_figures(
                distances.generated, distances.held_out
            ),
            **(judged.groups if judged else {}),
        }
        write_plots(folder / "plots", sets, right, distances.generated, distances.held_out)
        key = write_mixed_sheet(folder / "mixed.png", tiles.generated, settings.run.seed)
        write_json(folder / "mixed.json", key)
        bar.update(3)
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
        "figures": {name: [one.to_json() for one in own] for name, own in groups.items()},
        **details,
        **({"probe": judged.probe} if judged else {}),
    }
    table = markdown(groups)
    counted = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
    header = _HEADER.format(
        tiles=f"GAN after {images:,} images. Tiles: {counted}.{_SPLITS[split]}",
        reporter=reporter.figures["accuracy"],
    )
    write_text(folder / "report.md", f"{header}\n{table}{judged.text if judged else ''}")
    write_json(folder / "report.json", report)
    shown = [distribution, groups["Use: classifiers trained on generated tiles alone"]]
    for one in chain(*shown, *(judged.groups.values() if judged else ())):
        print_measurement(one)
    if judged:
        print(judged.opened)
    print(f"The whole table: {folder / 'report.md'}")
    print(f"Plots: {folder / 'plots'}; generated tiles to judge by eye: {folder / 'mixed.png'}")
