"""Catalog files: GeoParquet written piece by piece, so that a million rows need little memory."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rs_lowconf.data.catalog.rows import REQUIRED, SCHEMA
from rs_lowconf.errors import DataError
from rs_lowconf.runs import replacing

FORMAT = 1
#: Rows of a row group: what a reader has to unpack for a single row.
GROUP = 20_000
_OWN = b"rs_lowconf"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_catalog(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of `SCHEMA` one after another as one catalog, and return the rows.

    Paths below the catalog's folder are written relative to it: they move with it.

    Raises:
        DataError: two rows have the same id, or there is none.
        OutputError: the file cannot be written.
    """
    seen: set[str] = set()
    bounds = [180.0, 90.0, -180.0, -90.0]
    home = path.parent.resolve()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for table in _regrouped(tables):
            _add_ids(seen, table)
            _widen(bounds, table)
            writer.write_table(_relative(table.cast(SCHEMA), home))
        if not seen:
            raise DataError("the catalog would hold no tile")
        writer.add_key_value_metadata({"geo": _geo(bounds), _OWN.decode(): _header()})
    return len(seen)


class Catalog:
    """A catalog on disk, read piece by piece."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: the file is missing, damaged, no catalog, or of a newer format.
        """
        self.path = path
        if not path.is_file():
            raise DataError(
                f"there is no catalog {path}", remedy="make one with `rslow catalog build`"
            )
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path} is no Parquet file, or a damaged one ({' '.join(str(error).split())})",
                remedy="make it again with `rslow catalog build`",
            ) from error
        own = (self._file.metadata.metadata or {}).get(_OWN)
        if own is not None and json.loads(own)["format"] > FORMAT:
            raise DataError(
                f"catalog {path} has format {json.loads(own)['format']}",
                expected=f"at most {FORMAT}",
                remedy="upgrade rs_lowconf",
            )
        missing = [name for name in REQUIRED if name not in self._file.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path} lacks the columns {', '.join(missing)}",
                expected="the columns that `rslow catalog build` writes",
            )

    def __len__(self) -> int:
        """Return the number of tiles."""
        rows: int = self._file.metadata.num_rows
        return rows

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, some thousand at a time, with absolute paths.

        Args:
            columns: only these; columns that the file lacks are null.
        """
        wanted = list(columns or SCHEMA.names)
        present = [name for name in wanted if name in self._file.schema_arrow.names]
        home = self.path.parent.resolve()
        for batch in self._file.iter_batches(batch_size=GROUP, columns=present):
            table = pa.Table.from_batches([batch])
            for name in wanted:
                if name not in present:
                    nothing = pa.nulls(len(table), SCHEMA.field(name).type)
                    table = table.append_column(name, nothing)
            yield _absolute(table.select(wanted), home)


def merge(path: Path, catalogs: Sequence[Catalog]) -> int:
    """Write the rows of several catalogs as one, and return how many they are.

    Raises:
        DataError: two rows have the same id.
        OutputError: the file cannot be written.
    """
    return write_catalog(path, (table for one in catalogs for table in one.tables()))


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in row groups of even size."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= GROUP:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, GROUP)
            waiting = [whole.slice(GROUP)]
    rest = pa.concat_tables(waiting) if waiting else SCHEMA.empty_table()
    if len(rest):
        yield rest


def _add_ids(seen: set[str], table: pa.Table) -> None:
    for tile_id in table["id"].to_pylist():
        if tile_id in seen:
            raise DataError(
                f"two tiles of the catalog are called {tile_id}",
                remedy="give the catalogs different catalog.collection names, or leave one out",
            )
        seen.add(tile_id)


def _widen(bounds: list[float], table: pa.Table) -> None:
    for index, side in enumerate(_SIDES):
        own = pc.min_max(pc.struct_field(table["bbox"], side)).as_py()
        bounds[index] = (
            min(bounds[index], own["min"]) if index < 2 else max(bounds[index], own["max"])
        )


def _geo(bounds: Sequence[float]) -> str:
    """Return GeoParquet 1.1's metadata; without `crs` it is longitude and latitude, WGS 84."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "bbox": list(bounds),
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    return json.dumps(
        {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    )


def _header() -> str:
    return json.dumps({"format": FORMAT})


def _relative(table: pa.Table, home: Path) -> pa.Table:
    before = f"{home}{os.sep}"

    def changed(hrefs: pa.Array) -> pa.Array:
        below = pc.starts_with(hrefs, before)
        return pc.if_else(below, pc.utf8_slice_codeunits(hrefs, len(before)), hrefs)

    return _with_paths(table, changed)


def _absolute(table: pa.Table, home: Path) -> pa.Table:
    def changed(hrefs: pa.Array) -> pa.Array:
        # GDAL's virtual paths begin with a slash, URLs have a scheme.
        whole = pc.or_(pc.starts_with(hrefs, "/"), pc.match_substring(hrefs, "://"))
        return pc.if_else(whole, hrefs, pc.binary_join_element_wise(f"{home}", hrefs, os.sep))

    return _with_paths(table, changed)


def _with_paths(table: pa.Table, changed: Callable[[pa.Array], pa.Array]) -> pa.Table:
    """Return the table with other paths."""
    if "assets" in table.column_names:
        index = table.column_names.index("assets")
        assets = table["assets"].combine_chunks()
        # `flatten` carries the nulls of the record into its parts.
        parts = [_asset_with_paths(asset, changed) for asset in assets.flatten()]
        whole = pa.StructArray.from_arrays(parts, fields=list(assets.type))
        table = table.set_column(index, SCHEMA.field("assets"), whole)
    if "rslow:masks" in table.column_names:
        index = table.column_names.index("rslow:masks")
        masks = table["rslow:masks"].combine_chunks().fill_null([])
        lengths = pc.cumulative_sum(pc.list_value_length(masks)).to_pylist()
        paths = pa.ListArray.from_arrays([0, *lengths], changed(masks.flatten()))
        table = table.set_column(index, SCHEMA.field("rslow:masks"), paths)
    return table


def _asset_with_paths(
    asset: pa.StructArray, changed: Callable[[pa.Array], pa.Array]
) -> pa.StructArray:
    if asset.null_count == len(asset):
        return asset
    href, *others = asset.flatten()
    return pa.StructArray.from_arrays(
        [changed(href), *others], fields=list(asset.type), mask=asset.is_null()
    )
