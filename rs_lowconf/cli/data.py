"""`rslow data check`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import progress
from rs_lowconf.cli.tables import (
    counted,
    open_console,
    radiometry,
    range_rows,
    show_finding,
    show_meanings,
    show_table,
)
from rs_lowconf.errors import DataError
from rs_lowconf.settings import MaskData

if TYPE_CHECKING:
    from rs_lowconf.data.check import CheckReport, SplitListing
    from rs_lowconf.data.mask_check import MaskReport
    from rs_lowconf.settings import ClassedTiles

data_app = typer.Typer(help="Inspect and validate the data.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def _group() -> None:
    """Keep `check` a separate word while it is the only command."""


@data_app.command()
def check(
    config: ConfigOption = None,
    set_: SetOption = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Save the report here, with all files.", show_default="none"),
    ] = None,
) -> None:
    """Read every tile and report counts and problems, before training on it.

    Exit code 4 if a class has no tiles or a file cannot be used, unless data.skip_bad is set. For
    scenes and chips it counts the pixels of each class and the blocks of land in each split. Each
    source of data.more has a separate report.
    """
    settings = load_settings(config, set_)
    if isinstance(settings.data, MaskData):
        _check_masks(settings.data, json)
        return
    from rs_lowconf.data.check import list_sources
    from rs_lowconf.runs import write_json

    reports = []
    for own, listed in list_sources(settings.data):
        report = _look_through(own, listed)
        _show(report, own.root)
        reports.append((own, report))
    if json is not None:
        first, *others = (report.to_json() for _, report in reports)
        write_json(json, {**first, "more": others} if others else first)
        print(f"Saved as {json}.")
    for own, report in reports:
        _judge(report, skip_bad=own.skip_bad)


def _look_through(settings: "ClassedTiles", listings: "tuple[SplitListing, ...]") -> "CheckReport":
    """Read every file of one source of tiles."""
    from rs_lowconf.data.check import Tally, check_files

    tally = Tally(settings, listings)
    total = sum(len(listing.files) for listing in listings)
    with progress(f"checking tiles in {settings.root}", total) as bar:
        for done, record in enumerate(check_files(settings, listings), start=1):
            tally.add(record)
            bar.update(done)
    return tally.report()


def _check_masks(settings: MaskData, json: Path | None) -> None:
    """Report on scenes or chips, and raise errors for problems."""
    from rs_lowconf.data.mask_check import check_masks
    from rs_lowconf.runs import write_json

    report = check_masks(settings)
    console = open_console()
    console.print(f"{report.images:,} images in {settings.images} can be used.\n")
    show_table(console, "Tiles and pixels by split", "lrrr", _mask_counts(report))
    if report.bands is not None:
        show_table(console, radiometry(report.bands), "lrrrrrr", range_rows(report.ranges))
    show_table(console, "Format", "ll", [("", "(number of images)"), ("CRS", counted(report.crs))])
    show_meanings(console, report.meanings, "image")
    for line in report.left_out:
        console.print(f"Left out: {line}")
    for fault in report.faults:
        show_finding(console, "error", fault, ())
    for warning in report.warnings:
        show_finding(console, "warning", warning, ())
    for mixture in report.mixtures:
        show_finding(console, "warning", mixture.text, mixture.files)
    if not report.faults and not report.warnings and not report.mixtures:
        console.print("No problems found.")
    if json is not None:
        write_json(json, report.to_json())
        print(f"Saved as {json}.")
    if report.faults and not settings.skip_bad:
        raise DataError(
            f"{len(report.faults):,} files cannot be used, see above",
            remedy="fix or remove them, or skip them with data.skip_bad=true",
        )
    if any(0 in (own.tiles, *own.pixels.values()) for own in report.splits.values()):
        raise DataError(
            "a split lacks a class, see above",
            remedy="try another data.block_seed or a smaller data.block_size",
        )


def _mask_counts(report: "MaskReport") -> Iterable[Sequence[str]]:
    splits = report.splits.values()
    yield "", *report.splits
    yield "tiles", *(f"{own.tiles:,}" for own in splits)
    yield "blocks", *(f"{own.blocks:,}" for own in splits)
    yield "(tiles left out)", *(f"{own.left_out:,}" for own in splits)
    for name in next(iter(splits)).pixels:
        yield f"pixels of {name}", *(f"{own.pixels[name]:,}" for own in splits)
    yield "pixels unknown", *(f"{own.unknown:,}" for own in splits)
    yield "of these nodata", *(f"{own.nodata:,}" for own in splits)


def _judge(report: "CheckReport", *, skip_bad: bool) -> None:
    """Raise the errors that training would raise on these data."""
    bad = sum(report.unusable.values())
    if bad and not skip_bad:
        raise DataError(
            f"{bad:,} files cannot be used, see above",
            remedy="fix or remove them, or skip them with data.skip_bad=true",
        )
    if any(0 in counts for counts in report.usable.values()):
        raise DataError(
            "a split lacks a class, see above",
            remedy="add tiles, or list the classes to use in data.classes",
        )


def _show(report: "CheckReport", root: Path) -> None:
    console = open_console()
    good = sum(sum(counts) for counts in report.usable.values())
    bad = sum(report.unusable.values())
    console.print(f"{good + bad:,} tiles in {root}: {good:,} can be used, {bad:,} cannot.\n")
    show_table(console, "Usable tiles by class and split", "lrrrr", _counts(report))
    if report.bands is not None:
        show_table(console, radiometry(report.bands), "lrrrrrr", range_rows(report.ranges))
    show_table(console, "Format", "ll", _format(report))
    show_meanings(console, report.meanings, "file")
    for line in report.left_out:
        console.print(f"Left out: {line}")
    if not report.findings:
        console.print("No problems found.")
    for finding in report.findings:
        show_finding(console, finding.severity, finding.text, finding.files)


def _counts(report: "CheckReport") -> Iterable[Sequence[str]]:
    yield "class", *report.usable, "all"
    for name, *counts in zip(report.classes, *report.usable.values(), strict=True):
        yield name, *(f"{n:,}" for n in (*counts, sum(counts)))
    sums = [sum(counts) for counts in report.usable.values()]
    yield "all", *(f"{n:,}" for n in (*sums, sum(sums)))
    if any(report.unusable.values()):
        bad = [*report.unusable.values()]
        yield "(cannot be used)", *(f"{n:,}" for n in (*bad, sum(bad)))


def _format(report: "CheckReport") -> Iterable[Sequence[str]]:
    yield "", "(number of tiles)"
    yield "tile size", counted(report.sizes)
    if report.pixel_size:
        low, high = (f"{side:.4g}" for side in report.pixel_size)
        yield "pixel size", f"{low} to {high} in the unit of the CRS"
    yield "data type", counted(report.dtypes)
    yield "CRS", counted(report.crs)
    yield "nodata", f"{report.nodata_share:.2%} of the pixels, in {report.nodata_tiles:,} tiles"
