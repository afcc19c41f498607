"""Catalog files: GeoParquet written in chunks, so that a million rows need little memory."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rs_lowconf.boundary import reading
from rs_lowconf.data.catalog.rows import OUTLINES, PLACE, REQUIRED, SAME, SCHEMA, with_outlines
from rs_lowconf.errors import DataError
from rs_lowconf.runs import replacing

FORMAT = 2
"""2: `rslow:nodata`, `rslow:said`, and bands of files that are not used."""
#: Rows of a row group: what a reader has to decompress for a single row.
GROUP = 20_000
_OWN = b"rs_lowconf"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_DEGREES = (("OGC", "CRS84"), ("EPSG", 4326))
_EXPECTED = "the columns that `rslow catalog build` writes"


def write_catalog(path: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables of `SCHEMA` one after another as one catalog, and return the rows.

    Paths below the catalog's folder are written relative to it, also behind links, so that the
    folder can be moved.

    Raises:
        DataError: two rows have the same id, or there is none.
        OutputError: the file cannot be written.
    """
    seen: set[str] = set()
    bounds = [180.0, 90.0, -180.0, -90.0]
    relative = partial(_relative, home=path.parent, folders={})
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True) as writer,
    ):
        for table in _regrouped(tables):
            _add_ids(seen, table)
            _widen(bounds, table)
            writer.write_table(_with_paths(table.cast(SCHEMA), relative))
        if not seen:
            raise DataError("the catalog would contain no tile")
        writer.add_key_value_metadata({"geo": _geo(bounds), _OWN.decode(): _header()})
    return len(seen)


class Catalog:
    """A catalog on disk, read in chunks."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: the file is missing, damaged, not a catalog, or of a newer format.
        """
        self.path = path
        if not path.is_file():
            raise DataError(f"there is no catalog {path}")
        with reading(
            path,
            problem="is damaged or not a Parquet file",
            remedy="restore it, or build the catalog again",
        ):
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            self._names = self._file.schema_arrow.names
            metadata = self._file.metadata.metadata or {}
        number = _said(metadata, _OWN, "format")
        if isinstance(number, int) and number > FORMAT:
            raise DataError(
                f"catalog {path} has format {number}",
                expected=f"at most {FORMAT}",
                remedy="upgrade rs_lowconf",
            )
        twice = sorted({name for name in self._names if self._names.count(name) > 1})
        if twice:
            raise DataError(f"{path} has more than one column {', '.join(twice)}")
        missing = [name for name in REQUIRED if name not in self._names]
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}", expected=_EXPECTED)
        self._outlined = _in_degrees(metadata) and set(OUTLINES) <= set(self._names)

    def __len__(self) -> int:
        """Return the number of tiles."""
        rows: int = self._file.metadata.num_rows
        return rows

    def require_unique(self) -> None:
        """Reject a catalog with duplicate ids, which another program may have written.

        Raises:
            DataError: there are such rows.
        """
        with reading(self.path, expected=_EXPECTED):
            found = pc.value_counts(self._file.read(columns=["id"])["id"])
            twice = found.filter(pc.greater(found.field("counts"), 1)).field("values")
        if len(twice):
            raise DataError(
                f"{len(twice)} ids of catalog {self.path} occur more than once, such as {twice[0]}",
                expected="one row per tile",
                remedy="remove the duplicates",
            )

    def require_files(self) -> None:
        """Reject a catalog that another program copied to another folder.

        Paths below the catalog's folder are relative to it, and such a program keeps them
        unchanged. Single files may be missing, which is reported tile by tile.

        Raises:
            DataError: all paths of the first thousands of tiles are relative, and none of them
                leads to a file; a single path only counts as a missing file.
        """
        home = f"{self.path.parent.resolve()}{os.sep}"
        table = next(self.tables(["assets"]), None)
        hrefs: set[str | None] = set()
        for asset in () if table is None else table["assets"].combine_chunks().flatten():
            hrefs.update(pc.unique(asset.flatten()[0]).to_pylist())
        paths = sorted(href for href in hrefs if href is not None)
        lead = (
            not path.startswith(home) or os.path.exists(path)  # noqa: PTH110 - never raises
            for path in paths
        )
        if len(paths) > 1 and not any(lead):
            raise DataError(
                f"no file of catalog {self.path} exists at its relative paths, such as {paths[0]}",
                expected="the catalog in the folder that it was written for",
                remedy="move it back there, or build it again",
            )

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows in order, some thousand at a time, with absolute paths.

        Args:
            columns: only these; columns that the file lacks are null.
        """
        wanted = list(columns or SCHEMA.names)
        outlined = self._outlined or set(wanted).isdisjoint(OUTLINES)
        read = wanted if outlined else list(dict.fromkeys((*wanted, *PLACE, *OUTLINES)))
        present = [name for name in read if name in self._names]
        home = self.path.parent.resolve()
        rows = 0
        with reading(self.path, expected=_EXPECTED):
            for batch in self._file.iter_batches(batch_size=GROUP, columns=present):
                table = _conformed(pa.Table.from_batches([batch]), read)
                table = table if outlined else with_outlines(table)
                rows += len(table)
                yield _with_paths(table.select(wanted), partial(_absolute, home=home))
            if rows != len(self):
                # At damaged pages of files without checksums the library stops silently.
                raise ValueError(f"only {rows:,} of its {len(self):,} rows can be read")


def merge(path: Path, catalogs: Sequence[Catalog]) -> int:
    """Write the rows of several catalogs as one, and return how many they are.

    Raises:
        DataError: two rows have the same id.
        OutputError: the file cannot be written.
    """
    return write_catalog(path, (table for catalog in catalogs for table in catalog.tables()))


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
                remedy="give the catalogs different catalog.collection names, or omit one",
            )
        seen.add(tile_id)


def _widen(bounds: list[float], table: pa.Table) -> None:
    for index, side in enumerate(_SIDES):
        extent = pc.min_max(pc.struct_field(table["bbox"], side)).as_py()
        bounds[index] = (
            min(bounds[index], extent["min"]) if index < 2 else max(bounds[index], extent["max"])
        )


def _geo(bounds: Sequence[float]) -> str:
    """Return GeoParquet 1.1's metadata; without `crs` it is longitude and latitude, WGS 84."""
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "bbox": list(bounds),
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    return json.dumps(
        {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    )


def _header() -> str:
    return json.dumps({"format": FORMAT})


def _relative(hrefs: pa.Array, home: Path, folders: dict[str, str]) -> pa.Array:
    """Return paths relative to the catalog's folder where they lie below it.

    Args:
        hrefs: absolute.
        home: the catalog's folder.
        folders: cache of the files' folders with links resolved.
    """
    real = f"{home.resolve()}{os.sep}"
    places = (f"{home.absolute()}{os.sep}", real)

    def shortened(href: str) -> str:
        # GDAL's virtual paths begin with a slash, too.
        if not href.startswith(os.sep) or href.startswith("/vsi"):
            return href
        for place in places:
            rest = href.removeprefix(place)
            if rest != href and ".." not in Path(rest).parts:
                return rest
        folder, name = os.path.split(href)
        if folder not in folders:
            folders[folder] = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
        whole = folders[folder] + name
        return whole.removeprefix(real) if whole.startswith(real) else href

    encoded = hrefs.dictionary_encode()
    paths = [shortened(href) for href in encoded.dictionary.to_pylist()]
    return pa.array(paths, pa.string()).take(encoded.indices)


def _absolute(hrefs: pa.Array, home: Path) -> pa.Array:
    # GDAL's virtual paths begin with a slash, URLs have a scheme.
    whole = pc.or_(pc.starts_with(hrefs, "/"), pc.match_substring(hrefs, "://"))
    return pc.if_else(whole, hrefs, pc.binary_join_element_wise(f"{home}", hrefs, os.sep))


def _conformed(table: pa.Table, wanted: Sequence[str]) -> pa.Table:
    """Return columns in the types of `SCHEMA`, whatever library wrote them.

    Missing columns are null, or the value that they have in all catalogs.
    """
    for name in wanted:
        field = SCHEMA.field(name)
        if name not in table.column_names:
            values = pa.array([SAME.get(name)] * len(table), field.type)
            table = table.append_column(field, values)
    for index, name in enumerate(table.column_names):
        column, field = table[name], SCHEMA.field(name)
        if column.type == field.type:
            continue
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.combine_chunks().storage
        if pa.types.is_nested(field.type):
            # Fields of records may be missing, in another order or null throughout.
            column = pa.array(column.to_pylist(), field.type)
        table = table.set_column(index, field, column.cast(field.type, safe=False))
    return table


def _said(metadata: dict[bytes, bytes], key: bytes, *names: str) -> Any:
    """Return a value of the JSON in a file's metadata; None if there is none."""
    try:
        value = json.loads(metadata.get(key, b"{}"))
    except ValueError:
        return None
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _in_degrees(metadata: dict[bytes, bytes]) -> bool:
    """Return whether the outlines are in degrees, which is the default."""
    column = _said(metadata, b"geo", "columns", "geometry")
    if not isinstance(column, dict) or "crs" not in column:
        return True
    code = column["crs"].get("id") if isinstance(column["crs"], dict) else None
    return isinstance(code, dict) and (code.get("authority"), code.get("code")) in _DEGREES


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
