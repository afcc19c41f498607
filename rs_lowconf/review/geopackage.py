"""The GeoPackage of a sheet's cells, written with plain SQL: version 1.2, no spatial index.

A spatial index would need functions that only GDAL's SQLite has, so that a plain UPDATE of the
table would fail; GeoPackage 1.4, the default of newer writers, makes older GDALs warn. The sheet
has no coordinate system: srs_id -1, undefined Cartesian.
"""

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from rs_lowconf.review.fields import GEOMETRY, LAYER, Field
from rs_lowconf.runs import replacing

Extent = tuple[float, float, float, float]
"""Smallest x, smallest y, largest x, largest y."""

_NO_CRS = -1
_EXTENSION = "http://www.geopackage.org/spec121/#extension_schema"
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,'
    'AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],'
    'AUTHORITY["EPSG","4326"]]'
)

# Tables of OGC 12-128r15 (GeoPackage 1.2.1), and QGIS's own table of styles.
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
  definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL,
  identifier TEXT UNIQUE, description TEXT DEFAULT '',
  last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
  geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL,
  m TINYINT NOT NULL, CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
  CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
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


def write_geopackage(
    path: Path,
    fields: Sequence[Field],
    rows: Sequence[Mapping[str, str | float | None]],
    cells: Sequence[Extent],
    style: str,
    *,
    layer: str = LAYER,
    changed: datetime | None = None,
) -> None:
    """Write one layer, its style and its enums, atomically.

    Args:
        path: the file, replaced when it exists.
        fields: the columns.
        rows: values by column name; a column without value is NULL, that is, pending.
        cells: the frame of each row's cell on the contact sheet.
        style: the QML document that QGIS applies when the layer is added to any project.
        layer: the layer's name.
        changed: time of the content, in UTC; None is now.
    """
    time = f"{changed or datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
    # In memory first, because SQLite hides a full disk behind another error.
    # isolation_level None: the whole file is one transaction, begun here.
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute("PRAGMA application_id = 1196444487")  # 'GPKG'
        database.execute("PRAGMA user_version = 10200")
        database.executescript("BEGIN;" + _TABLES)
        _write_catalogue(database, layer, cells, time)
        _write_layer(database, layer, fields, rows, cells)
        _write_enums(database, layer, fields)
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
            " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description,"
            " owner, update_time)"
            " VALUES ('', '', ?, ?, ?, ?, '', 1, 'Form and symbols', '', ?)",
            (layer, GEOMETRY, layer, style, time),
        )
        database.execute("COMMIT")
        content = database.serialize()
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _write_catalogue(
    database: sqlite3.Connection, layer: str, cells: Sequence[Extent], time: str
) -> None:
    database.executemany(
        "INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)",
        [
            ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", "no place on Earth"),
            ("Undefined geographic SRS", 0, "NONE", 0, "undefined", "unknown place"),
            ("WGS 84 geodetic", 4326, "EPSG", 4326, _WGS84, "longitude and latitude"),
        ],
    )
    left, bottom, right, top = zip(*cells, strict=True)
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change, min_x, min_y,"
        " max_x, max_y, srs_id) VALUES (?, 'features', ?, ?, ?, ?, ?, ?, ?)",
        (layer, layer, time, min(left), min(bottom), max(right), max(top), _NO_CRS),
    )
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change)"
        " VALUES ('layer_styles', 'attributes', 'layer_styles', ?)",
        (time,),
    )
    database.execute(
        "INSERT INTO gpkg_geometry_columns VALUES (?, ?, 'POLYGON', ?, 0, 0)",
        (layer, GEOMETRY, _NO_CRS),
    )


def _write_layer(
    database: sqlite3.Connection,
    layer: str,
    fields: Sequence[Field],
    rows: Sequence[Mapping[str, str | float | None]],
    cells: Sequence[Extent],
) -> None:
    columns = ", ".join(f'"{field.name}" {field.sql}' for field in fields)
    database.execute(
        f'CREATE TABLE "{layer}" (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,'
        f' "{GEOMETRY}" POLYGON, {columns})'
    )
    marks = ", ".join("?" * (len(fields) + 1))
    names = ", ".join(f'"{field.name}"' for field in fields)
    database.executemany(
        f'INSERT INTO "{layer}" ("{GEOMETRY}", {names}) VALUES ({marks})',  # noqa: S608 (ours)
        [
            (_polygon(cell), *(row.get(field.name) for field in fields))
            for row, cell in zip(rows, cells, strict=True)
        ],
    )


def _write_enums(database: sqlite3.Connection, layer: str, fields: Sequence[Field]) -> None:
    """Record allowed values by the schema extension, for readers that do not know QML."""
    for table in ("gpkg_data_columns", "gpkg_data_column_constraints"):
        database.execute(
            "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_schema', ?, 'read-write')",
            (table, _EXTENSION),
        )
    for field in fields:
        rule = f"{layer}_{field.name}" if field.widget in ("choice", "range") else None
        database.execute(
            "INSERT INTO gpkg_data_columns VALUES (?, ?, ?, ?, NULL, NULL, ?)",
            (layer, field.name, field.name, field.alias, rule),
        )
        if field.widget == "choice":
            database.executemany(
                "INSERT INTO gpkg_data_column_constraints (constraint_name, constraint_type,"
                " value) VALUES (?, 'enum', ?)",
                [(rule, choice) for choice in field.choices],
            )
        if field.widget == "range":
            database.execute(
                "INSERT INTO gpkg_data_column_constraints (constraint_name, constraint_type,"
                " min, min_is_inclusive, max, max_is_inclusive)"
                " VALUES (?, 'range', ?, 1, ?, 1)",
                (rule, *field.limits),
            )


def _polygon(cell: Extent) -> bytes:
    """Return a GeoPackage geometry: header with envelope, then the rectangle as WKB."""
    left, bottom, right, top = cell
    corners = ((left, top), (left, bottom), (right, bottom), (right, top), (left, top))
    header = struct.pack("<2sBBi4d", b"GP", 0, 0b011, _NO_CRS, left, right, bottom, top)
    body = struct.pack("<BIII", 1, 3, 1, len(corners))
    return header + body + b"".join(struct.pack("<2d", *corner) for corner in corners)
