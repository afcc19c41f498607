"""GeoPackages of one layer, written by GDAL: version 1.2, because 1.4 makes older GDALs warn.

Cells of a sheet have no spatial index: it needs functions that only GDAL's SQLite has, so that a
plain UPDATE of the table would fail.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import geopandas
import pandas as pd
import pyogrio
import shapely

from rs_lowconf.review.fields import Field
from rs_lowconf.runs import replacing

Extent = tuple[float, float, float, float]
"""Smallest x, smallest y, largest x, largest y."""

_NO_CRS = 'LOCAL_CS["Undefined Cartesian SRS"]'
"""By this name GDAL writes srs_id -1: a plane, but no place on Earth."""
_TYPES = {"TEXT": "object", "INTEGER": "Int64", "REAL": "float64"}
_SCHEMA = "http://www.geopackage.org/spec121/#extension_schema"

# What GDAL creates on its own use only: the schema extension, and QGIS's table of styles.
_TABLES = """
CREATE TABLE gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL,
  definition TEXT NOT NULL, scope TEXT NOT NULL,
  CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
CREATE TABLE gpkg_data_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT,
  title TEXT, description TEXT, mime_type TEXT, constraint_name TEXT,
  CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
  CONSTRAINT gdc_tn UNIQUE (table_name, name));
CREATE TABLE gpkg_data_column_constraints (constraint_name TEXT NOT NULL,
  constraint_type TEXT NOT NULL, value TEXT, min NUMERIC, min_is_inclusive BOOLEAN,
  max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
  CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value));
CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
  f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
  useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
  update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')));
"""


def write_features(
    path: Path, frame: pd.DataFrame, layer: str, indexed: Sequence[str] = ()
) -> None:
    """Write one layer, or table without geometry, that older QGIS reads too, atomically.

    Args:
        path: the file, replaced when it exists.
        frame: the features.
        layer: its name.
        indexed: columns by which QGIS filters, so that a million features open as fast as ten.
    """
    with replacing(path) as temporary:
        # GDAL requires this suffix, and creates the file itself.
        beside = temporary.with_name(f"{temporary.name}.gpkg")
        try:
            pyogrio.write_dataframe(frame, beside, layer=layer, driver="GPKG", VERSION="1.2")
            with closing(sqlite3.connect(beside)) as database, database:
                for column in indexed:
                    database.execute(f'CREATE INDEX "{layer}_{column}" ON "{layer}" ("{column}")')
            beside.replace(temporary)
        finally:
            beside.unlink(missing_ok=True)


def table_of(
    fields: Sequence[Field], rows: Sequence[Mapping[str, str | float | None]]
) -> pd.DataFrame:
    """Return a column per field; values that a row lacks are missing."""
    columns = {
        field.name: pd.Series([row.get(field.name) for row in rows], dtype=_TYPES[field.sql])
        for field in fields
    }
    return pd.DataFrame(columns)


def write_cells(
    path: Path,
    fields: Sequence[Field],
    rows: Sequence[Mapping[str, str | float | None]],
    cells: Sequence[Extent],
    *,
    style: str,
    titles: Mapping[str, str],
    changed: datetime | None = None,
) -> None:
    """Write the cells of a sheet with their style and the allowed values, atomically.

    Args:
        path: the file, replaced when it exists; its layer has the same name.
        fields: the columns.
        rows: values by column name; a column without value is NULL, that is, pending.
        cells: the frame of each row's cell on the contact sheet.
        style: the QML document that QGIS applies when the layer is added to any project.
        titles: of the columns, by their names.
        changed: time of the content, in UTC; None is now.
    """
    frames = [shapely.box(*cell) for cell in cells]
    frame = geopandas.GeoDataFrame(table_of(fields, rows), geometry=frames, crs=_NO_CRS)
    layer, time = path.stem, f"{changed or datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
    # In memory first, because SQLite hides a full disk behind another error.
    memory, options = BytesIO(), {"SPATIAL_INDEX": "NO", "ADD_GPKG_OGR_CONTENTS": "NO"}
    frame.to_file(memory, layer=layer, driver="GPKG", VERSION="1.2", **options)
    # isolation_level None: all that is added is one transaction, begun here.
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(memory.getvalue())
        database.executescript("BEGIN;" + _TABLES)
        _write_enums(database, layer, fields, titles)
        database.execute(
            "INSERT INTO layer_styles VALUES"
            " (1, '', '', ?, 'geom', ?, ?, '', 1, 'Form and symbols', '', NULL, ?)",
            (layer, layer, style, time),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier)"
            " VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        database.execute("UPDATE gpkg_contents SET last_change = ?", (time,))
        database.execute("COMMIT")
        content = bytearray(database.serialize())
    # The counter of changes, which depends on whether GDAL's clock moved on while it wrote.
    content[24:28] = content[92:96] = (1).to_bytes(4, "big")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _write_enums(
    database: sqlite3.Connection, layer: str, fields: Sequence[Field], titles: Mapping[str, str]
) -> None:
    """Record allowed values by the schema extension, for readers that do not know QML."""
    for table in ("gpkg_data_columns", "gpkg_data_column_constraints"):
        database.execute(
            "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_schema', ?, 'read-write')",
            (table, _SCHEMA),
        )
    for field in fields:
        rule = f"{layer}_{field.name}" if field.choices or field.limits else None
        database.execute(
            "INSERT INTO gpkg_data_columns VALUES (?, ?, ?, ?, NULL, NULL, ?)",
            (layer, field.name, field.name, titles[field.name], rule),
        )
        database.executemany(
            "INSERT INTO gpkg_data_column_constraints (constraint_name, constraint_type, value)"
            " VALUES (?, 'enum', ?)",
            [(rule, choice) for choice in field.choices],
        )
        if field.limits:
            database.execute(
                "INSERT INTO gpkg_data_column_constraints (constraint_name, constraint_type,"
                " min, min_is_inclusive, max, max_is_inclusive) VALUES (?, 'range', ?, 1, ?, 1)",
                (rule, *field.limits),
            )
