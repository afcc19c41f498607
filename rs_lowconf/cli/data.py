"""`rslow data check`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import show
from rs_lowconf.cli.tables import (
    open_console,
    radiometry,
    range_rows,
    save_report,
    show_findings,
    show_meanings,
    show_table,
    with_counts,
)
from rs_lowconf.errors import DataError
from rs_lowconf.percents import percent
from rs_lowconf.settings import MaskData

if TYPE_CHECKING:
    from rs_lowconf.data.check import CheckReport
    from rs_lowconf.data.mask_check import MaskReport

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
    from rs_lowconf.data.check import check_tiles, list_sources
    from rs_lowconf.workflows.records import counted

    reports = []
    for source, listings in list_sources(settings.data):
        title, total = (
            f"checking tiles in {source.root}",
            sum(len(split.files) for split in listings),
        )
        report = show(counted(check_tiles(source, listings), title, total))
        _show(report, source.root)
        reports.append((source, report))
    first, *others = (report.to_json() for _, report in reports)
    save_report(json, {**first, "more": others} if others else first)
    for source, report in reports:
        _require_usable(
            bad=0 if source.skip_bad else sum(report.unusable.values()),
            lacking=any(0 in counts for counts in report.usable.values()),
            remedy="add tiles, or list the classes to use in data.classes",
        )


def _check_masks(settings: MaskData, json: Path | None) -> None:
    """Report on scenes or chips, and raise errors for problems."""
    from rs_lowconf.data.mask_check import check_masks

    report = check_masks(settings)
    console = open_console()
    console.print(f"{report.images:,} images in {settings.images} can be used.\n")
    show_table(console, "Tiles and pixels by split", "lrrr", _mask_counts(report))
    if report.bands is not None:
        show_table(console, radiometry(report.bands), "lrrrrrr", range_rows(report.ranges))
    form = [("", "(number of images)"), ("CRS", with_counts(report.crs))]
    show_table(console, "Format", "ll", form)
    _show_end(report, "image")
    save_report(json, report.to_json())
    faults = sum(finding.severity == "error" for finding in report.findings)
    _require_usable(
        bad=0 if settings.skip_bad else faults,
        lacking=any(0 in (found.tiles, *found.pixels.values()) for found in report.splits.values()),
        remedy="try another data.block_seed or a smaller data.block_size",
    )


def _mask_counts(report: "MaskReport") -> Iterable[Sequence[str]]:
    splits = report.splits.values()
    yield "", *report.splits
    yield "tiles", *(f"{found.tiles:,}" for found in splits)
    yield "blocks", *(f"{found.blocks:,}" for found in splits)
    yield "(tiles left out)", *(f"{found.left_out:,}" for found in splits)
    for name in next(iter(splits)).pixels:
        yield f"pixels of {name}", *(f"{found.pixels[name]:,}" for found in splits)
    yield "pixels repeated", *(f"{found.repeated:,}" for found in splits)
    yield "pixels unknown", *(f"{found.unknown:,}" for found in splits)
    yield "of these nodata", *(f"{found.nodata:,}" for found in splits)


def _require_usable(*, bad: int, lacking: bool, remedy: str) -> None:
    """Raise the errors that training would raise on these data.

    Args:
        bad: files that cannot be used and are not to be skipped.
        lacking: whether a class has no tile or pixel in a split.
        remedy: of the latter.
    """
    if bad:
        raise DataError(
            f"{bad:,} files cannot be used, see above",
            remedy="fix or remove them, or skip them with data.skip_bad=true",
        )
    if lacking:
        raise DataError("a split lacks a class, see above", remedy=remedy)


def _show(report: "CheckReport", root: Path) -> None:
    console = open_console()
    good = sum(sum(counts) for counts in report.usable.values())
    bad = sum(report.unusable.values())
    console.print(f"{good + bad:,} tiles in {root}: {good:,} can be used, {bad:,} cannot.\n")
    show_table(console, "Usable tiles by class and split", "lrrrr", _counts(report))
    if report.bands is not None:
        show_table(console, radiometry(report.bands), "lrrrrrr", range_rows(report.ranges))
    show_table(console, "Format", "ll", _format(report))
    _show_end(report, "file")


def _show_end(report: "CheckReport | MaskReport", what: str) -> None:
    """Show what a report says below its tables."""
    console = open_console()
    show_meanings(console, report.meanings, what)
    for line in report.left_out:
        console.print(f"Left out: {line}")
    show_findings(console, report.findings)


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
    yield "tile size", with_counts(report.sizes)
    if report.pixel_size:
        low, high = (f"{side:.4g}" for side in report.pixel_size)
        yield "pixel size", f"{low} to {high} in the unit of the CRS"
    yield "data type", with_counts(report.dtypes)
    yield "CRS", with_counts(report.crs)
    yield (
        "nodata",
        f"{percent(report.nodata_share, 2)} of the pixels, in {report.nodata_tiles:,} tiles",
    )
