"""`rslow catalog build | merge | check | show`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import progress
from rs_lowconf.cli.progress import show as shown
from rs_lowconf.cli.tables import (
    open_console,
    radiometry,
    range_rows,
    save_report,
    show_finding,
    show_findings,
    show_meanings,
    show_table,
    with_counts,
)
from rs_lowconf.errors import DataError, SettingsError, listed
from rs_lowconf.places import catalog_path
from rs_lowconf.settings import MaskData, Rasters

if TYPE_CHECKING:
    import pyarrow as pa

    from rs_lowconf.data.catalog.check import CatalogReport
    from rs_lowconf.data.catalog.rows import CatalogRow
    from rs_lowconf.data.catalog.scan import Account
    from rs_lowconf.data.catalog.table import Catalog

_PIECE = 2_000

catalog_app = typer.Typer(help="Catalogs of tiles, for batch jobs.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")


@catalog_app.command()
def build(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Catalog the tiles of any kind of data as GeoParquet with STAC columns, one row per tile.

    Images of any size are cut into tiles of data.tile_size with spacing data.stride. Every tile is
    read once. Ids begin with catalog.collection, which by default is the name of the source. Files
    that cannot be used are an error with exit code 4, unless data.skip_bad is set.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.data.catalog.scan import Account
    from rs_lowconf.data.catalog.table import Catalog, write_catalog
    from rs_lowconf.data.left_out import LeftOut
    from rs_lowconf.data.mixtures import Finding

    path = catalog_path(settings)
    data = settings.data
    if not isinstance(data, Rasters):
        raise SettingsError(
            f"a catalog needs images, and data.kind is {data.kind}",
            expected="data.kind eurosat, folder, scenes, chips, images, geopackage or stac",
        )
    account = Account(left_out=LeftOut(skip_bad=data.skip_bad))
    console = open_console()
    try:
        number = write_catalog(path, _pieces(_rows(data, settings.catalog.collection, account)))
    finally:
        # Also for a catalog without tiles.
        for line in account.left_out.counted():
            console.print(f"left out: {line}")
    for fault in account.left_out.faults:
        show_finding(console, Finding(severity="warning", text=f"left out: {fault}"))
    show_meanings(console, dict(account.meanings.most_common()), "image")
    tables = Catalog(path).tables(["collection"])
    names = sorted({name for table in tables for name in table["collection"].to_pylist()})
    print(f"{number:,} tiles of {listed(names)}: {path}")
    hint("Check its digital numbers", "catalog check")


@catalog_app.command()
def merge(
    catalogs: Annotated[list[Path], typer.Argument(help="Catalogs of other tiles.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write the tiles of several catalogs into one."""
    settings = load_settings(config, set_)
    from rs_lowconf.data.catalog import table

    path = catalog_path(settings)
    opened = [table.Catalog(file) for file in catalogs]
    for catalog in opened:
        catalog.require_files()
    number = table.merge(path, opened)
    print(f"{number:,} tiles: {path}")


@catalog_app.command()
def check(
    config: ConfigOption = None,
    set_: SetOption = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Save the report here, with all tiles.", show_default="none"),
    ] = None,
) -> None:
    """Check tiles of a catalog for wrong offsets, band order and nodata.

    Reads catalog.sample tiles of each collection. Exit code 4 if a tile cannot be used or has
    changed since it was catalogued.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.data.catalog.check import check_tiles, groups_of
    from rs_lowconf.workflows.catalog import tiles_of
    from rs_lowconf.workflows.records import counted

    catalog, most = tiles_of(settings), settings.catalog.sample
    groups = groups_of(catalog)
    total = sum(min(most, tiles) for tiles in groups.values())
    report = shown(counted(check_tiles(catalog, groups, most), "checking tiles", total))
    show_meanings(open_console(), report.meanings, "tile")
    _show(report)
    save_report(json, report.to_json())
    found = [finding for part in report.collections for finding in part.findings]
    bad = sum(len(finding.names) for finding in found if finding.severity == "error")
    if bad:
        raise DataError(
            f"{bad:,} tiles cannot be used, see above",
            remedy="fix the files or build the catalog again",
        )


@catalog_app.command()
def show(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Count the tiles of a catalog by collection, class, split and year."""
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.catalog import catalog_of

    catalog = catalog_of(settings)
    console = open_console()
    console.print(f"{len(catalog):,} tiles in {catalog.path}\n")
    show_table(console, "Tiles by", "lll", _counts(catalog))


def _rows(data: Rasters, collection: str | None, account: "Account") -> "Iterator[CatalogRow]":
    """Yield the rows of all images; errors are raised, or collected if skip_bad is set."""
    from rs_lowconf.data.catalog.scan import looked_at, masked_rows, rows_of
    from rs_lowconf.data.catalog.sources import collection_of, list_images
    from rs_lowconf.data.tiles import TileError

    if isinstance(data, MaskData):
        cut = masked_rows(data, collection or collection_of(data), account.left_out)
        by_image = {row.files[0].href: row.said or "" for row in cut}
        account.meanings.update(by_image.values())
        work = [partial(looked_at, row, data, account.left_out) for row in cut]
    else:
        images = list_images(data, account.left_out)
        work = [
            partial(rows_of, image, data, collection or collection_of(data, image), account)
            for image in images
        ]
    with progress("cataloguing", len(work)) as bar:
        for done, tiles in enumerate(work, start=1):
            try:
                yield from tiles()
            except TileError as error:
                account.left_out.fault("image", error)
            bar.update(done)


def _pieces(rows: "Iterable[CatalogRow]") -> "Iterator[pa.Table]":
    """Yield rows some thousand at a time, so that memory does not grow with them."""
    from rs_lowconf.data.catalog.rows import to_table

    rest = iter(rows)
    while piece := list(islice(rest, _PIECE)):
        yield to_table(piece)


def _counts(catalog: "Catalog") -> Iterable[Sequence[str]]:
    names = {
        "collection": "collection",
        "level": "processing:level",
        "class": "rslow:label",
        "split": "rslow:split",
        "CRS": "proj:code",
    }
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*names, "bands", "year")}
    for table in catalog.tables([*names.values(), "rslow:bands", "datetime"]):
        for name, column in names.items():
            counts[name].update(value or "none" for value in table[column].to_pylist())
        counts["bands"].update(" ".join(bands) for bands in table["rslow:bands"].to_pylist())
        counts["year"].update(
            "unknown" if taken is None else str(taken.year)
            for taken in table["datetime"].to_pylist()
        )
    yield "", "number", "(tiles)"
    for name, values in counts.items():
        yield name, f"{len(values):,}", with_counts(dict(values.most_common(12)))


def _show(report: "CatalogReport") -> None:
    console = open_console()
    for part in report.collections:
        title = (
            f"{part.collection}: {part.tiles:,} tiles, {part.read:,} read; {radiometry(part.bands)}"
        )
        show_table(console, title, "lrrrrrr", range_rows(part.ranges))
        if part.findings:
            show_findings(console, part.findings)
            console.print()
    if report.findings or not any(part.findings for part in report.collections):
        show_findings(console, report.findings)
