"""One row of a catalog: a window of an image, its location, and what its numbers mean."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from jaxtyping import Float
from shapely.geometry.base import BaseGeometry

from rs_lowconf.bands import RESOLUTION_M, BandSpec, known_band
from rs_lowconf.boundary import in_a_line
from rs_lowconf.data.declared import Statement
from rs_lowconf.errors import DataError
from rs_lowconf.grid import Grid
from rs_lowconf.outlines import WGS84, degrees, outlines
from rs_lowconf.vocabulary import class_name

STAC_VERSION = "1.1.0"
STAC_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
IMAGE = "image"
"""The asset of an image whose bands are in one file; else there is one asset per band."""

_ASSET = pa.struct(
    [
        ("href", pa.string()),
        ("type", pa.string()),
        ("roles", pa.list_(pa.string())),
        ("bands", pa.list_(pa.struct([("name", pa.string())]))),
    ]
)
_TIME = pa.timestamp("us", tz="UTC")
_LAUNCH = datetime(2015, 6, 23, tzinfo=UTC)
"""Launch of Sentinel-2A: no image is older."""
_BOX = ("xmin", "ymin", "xmax", "ymax")

#: Columns of this package carry a prefix, as STAC asks of fields that no extension defines.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("type", pa.string()),
        ("stac_version", pa.string()),
        ("stac_extensions", pa.list_(pa.string())),
        ("collection", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(side, pa.float64()) for side in _BOX])),
        ("datetime", _TIME),
        ("start_datetime", _TIME),
        ("end_datetime", _TIME),
        ("links", pa.list_(pa.struct([("href", pa.string()), ("rel", pa.string())]))),
        ("assets", pa.struct([(name, _ASSET) for name in (IMAGE, *RESOLUTION_M)])),
        ("proj:code", pa.string()),
        ("proj:shape", pa.list_(pa.int64())),
        ("proj:transform", pa.list_(pa.float64())),
        ("processing:level", pa.string()),
        ("rslow:bands", pa.list_(pa.string())),
        ("rslow:scale", pa.float64()),
        ("rslow:dn_offset", pa.float64()),
        ("rslow:nodata", pa.float64()),
        ("rslow:said", pa.string()),
        ("rslow:window", pa.list_(pa.int64())),
        ("rslow:valid", pa.float64()),
        ("rslow:sha256", pa.string()),
        ("rslow:label", pa.string()),
        ("rslow:split", pa.string()),
        ("rslow:masks", pa.list_(pa.string())),
        ("rslow:mask_classes", pa.string()),
    ]
)
PLACE = ("proj:code", "proj:transform", "proj:shape")
"""Columns with the location of a tile."""
OUTLINES = ("geometry", "bbox")
"""Columns that follow from `PLACE`: geopandas drops one, and reprojects the other."""
SAME = {
    "type": "Feature",
    "stac_version": STAC_VERSION,
    "stac_extensions": list(STAC_EXTENSIONS),
    "links": [],
}
"""Columns with the same value in all rows."""
_OPTIONAL = (
    *OUTLINES,
    *SAME,
    "start_datetime",
    "end_datetime",
    "rslow:nodata",
    "rslow:said",
    "rslow:label",
    "rslow:split",
    "rslow:masks",
    "rslow:mask_classes",
)
_SAID = ("id", "collection", "rslow:sha256")
"""Text that each row must have; other missing values are found where they are used."""
REQUIRED = tuple(name for name in SCHEMA.names if name not in _OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """A file that holds bands of an image."""

    href: str
    """A path, absolute once the catalog is read, or anything that GDAL opens."""
    bands: tuple[str, ...]
    """Names of all bands in the order of the file: canonical, or other names for unused bands."""

    @property
    def used(self) -> tuple[str, ...]:
        """Canonical names of the bands that are used, in the order of the file."""
        return tuple(filter(known_band, self.bands))

    @property
    def channels(self) -> tuple[int, ...]:
        """Positions of the used bands in the file."""
        return tuple(channel for channel, name in enumerate(self.bands) if known_band(name))


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image of which tiles are to be cut."""

    name: str
    """Unique within the source; ids of tiles begin with it."""
    files: tuple[BandFile, ...]
    """A single one without band names if the file or the settings name its bands."""
    label: str | None = None
    split: str | None = None
    taken: datetime | None = None
    area: BaseGeometry | None = None
    """Only tiles with their centre inside are used; None uses all."""
    area_crs: str = WGS84
    """Of `area`: authority code or WKT."""
    said: tuple[Statement, ...] = ()
    """Statements of the source about the numbers."""
    nodata: float | None = None
    """The nodata value that the source declares."""
    collection: str | None = None
    """The collection that the source says it belongs to."""


@dataclass(frozen=True, kw_only=True)
class CatalogRow:
    """One tile."""

    tile_id: str
    """Unique within the catalog."""
    collection: str
    files: tuple[BandFile, ...]
    """All cover the same ground; the first has the finest pixels, and its grid is the tile's."""
    window: tuple[int, int, int, int]
    """First row and column, height and width in the first file."""
    bands: BandSpec
    """All bands in the order of the files, and how to convert their numbers to reflectance."""
    grid: Grid
    """Of the window; north is up."""
    valid: float
    """Share of pixels that are not nodata."""
    sha256: str
    """Of the digital numbers in the window, see `reading.checksum`."""
    nodata: float | None = None
    """Nodata value declared by a catalog of the images, in addition to those of the files."""
    said: str | None = None
    """Text on what the digital numbers mean and the source of this."""
    taken: datetime | None = None
    """When the image was taken, in UTC; None if unknown."""
    before: datetime | None = None
    """The image was taken before this: the file's last change. None when `taken` is known."""
    label: str | None = None
    split: str | None = None
    masks: tuple[str, ...] = ()
    """Files with one class per pixel, on any grid; where several overlap, the first counts."""
    mask_classes: Mapping[int, str | None] | None = None
    """The class of each value of a mask, None where a value means unknown."""

    def __post_init__(self) -> None:
        """Check the fields."""
        named = tuple(name for file in self.files for name in file.used)
        if named != self.bands.names:
            raise DataError(
                f"tile {self.tile_id} has bands {' '.join(self.bands.names)}",
                expected=f"{' '.join(named)}, as its files",
            )

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The corners of the window in the unit of its CRS, from the upper left, clockwise."""
        return self.grid.corners(*self.window[2:])


def to_table(rows: Sequence[CatalogRow]) -> pa.Table:
    """Return rows as a table of `SCHEMA`; geometries are WKB in degrees.

    The bbox of a tile across 180 degrees goes around the earth: readers that filter by it compare
    numbers, and must not miss the tile.
    """
    corners = np.array([row.corners for row in rows], dtype=np.float64).reshape(-1, 4, 2)
    shapes = outlines(corners, [row.grid.crs for row in rows])
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    records = [
        {
            **SAME,
            "id": row.tile_id,
            "collection": row.collection,
            "geometry": geometry,
            "bbox": dict(zip(_BOX, box, strict=True)),
            "datetime": row.taken,
            # STAC asks for a span where the time is unknown.
            "start_datetime": _LAUNCH if row.taken is None else None,
            "end_datetime": row.before,
            "assets": _assets(row),
            "proj:code": row.grid.crs,
            "proj:shape": list(row.window[2:]),
            "proj:transform": list(row.grid.transform),
            "processing:level": row.bands.level,
            "rslow:bands": list(row.bands.names),
            "rslow:scale": row.bands.scale,
            "rslow:dn_offset": row.bands.dn_offset,
            "rslow:nodata": row.nodata,
            "rslow:said": row.said,
            "rslow:window": list(row.window),
            "rslow:valid": row.valid,
            "rslow:sha256": row.sha256,
            "rslow:label": row.label,
            "rslow:split": row.split,
            "rslow:masks": list(row.masks),
            "rslow:mask_classes": None
            if row.mask_classes is None
            else json.dumps({str(value): name for value, name in row.mask_classes.items()}),
        }
        for row, geometry, box in zip(rows, shapely.to_wkb(shapes), bounds.tolist(), strict=True)
    ]
    return pa.Table.from_pylist(records, schema=SCHEMA)


def from_table(table: pa.Table) -> list[CatalogRow]:
    """Return the rows of a table that `to_table` wrote, or another tool with its columns.

    Raises:
        DataError: a value is missing or invalid.
    """
    rows: list[CatalogRow] = []
    name = "a row"
    try:
        for record in table.to_pylist():
            name = f"row {record.get('id')!r}"
            rows.append(_row(record))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise DataError(
            f"{name} of the catalog cannot be used ({in_a_line(error)})",
            expected="the columns that `rslow catalog build` writes",
        ) from error
    return rows


def _row(record: dict[str, Any]) -> CatalogRow:
    empty = [name for name in _SAID if not record[name]]
    if empty:
        raise ValueError(f"no {', '.join(empty)}")
    files = tuple(
        BandFile(href=asset["href"], bands=tuple(band["name"] for band in asset["bands"]))
        for asset in record["assets"].values()
        if asset is not None
    )
    classes = record.get("rslow:mask_classes")
    taken: datetime | None = record["datetime"]
    before: datetime | None = record.get("end_datetime")
    a, b, c, d, e, f = record["proj:transform"][:6]
    row, col, height, width = record["rslow:window"]
    # Another program may have written the assets in another order.
    names = tuple(record["rslow:bands"])
    files = tuple(sorted(files, key=lambda file: names.index(file.used[0])))
    return CatalogRow(
        tile_id=record["id"],
        collection=record["collection"],
        files=files,
        window=(row, col, height, width),
        bands=BandSpec(
            names=names,
            level=record["processing:level"],
            scale=record["rslow:scale"],
            dn_offset=record["rslow:dn_offset"],
        ),
        grid=Grid(crs=record["proj:code"], transform=(a, b, c, d, e, f)),
        valid=record["rslow:valid"],
        sha256=record["rslow:sha256"],
        nodata=record.get("rslow:nodata"),
        said=record.get("rslow:said"),
        taken=None if taken is None else taken.astimezone(UTC),
        before=None if before is None else before.astimezone(UTC),
        label=class_name(record.get("rslow:label")),
        split=record.get("rslow:split"),
        masks=tuple(record.get("rslow:masks") or ()),
        mask_classes=None
        if classes is None
        else {int(value): class_name(name) for value, name in json.loads(classes).items()},
    )


def centres(table: pa.Table) -> Float[np.ndarray, "n 2"]:
    """Return longitude and latitude of each tile's centre, transformed from its CRS.

    Args:
        table: with the columns of `PLACE`.
    """
    places = list(_places(table))
    middles = [grid.at(height / 2, width / 2) for grid, height, width in places]
    xy = np.array(middles, dtype=np.float64).reshape(-1, 2)
    return degrees(xy, [grid.crs for grid, _, _ in places])


def with_outlines(table: pa.Table) -> pa.Table:
    """Return the table with the columns `OUTLINES` computed from the tiles' grids.

    Args:
        table: with the columns of `PLACE` and `OUTLINES`.
    """
    places = list(_places(table))
    corners = [grid.corners(height, width) for grid, height, width in places]
    shapes = outlines(
        np.array(corners, dtype=np.float64).reshape(-1, 4, 2), [grid.crs for grid, _, _ in places]
    )
    boxes = [dict(zip(_BOX, box, strict=True)) for box in shapely.bounds(shapes).tolist()]
    for name, values in zip(OUTLINES, (shapely.to_wkb(shapes).tolist(), boxes), strict=True):
        field = SCHEMA.field(name)
        index = table.column_names.index(name)
        table = table.set_column(index, field, pa.array(values, field.type))
    return table


def _places(table: pa.Table) -> Iterator[tuple[Grid, int, int]]:
    """Yield grid, height and width of each tile."""
    for code, place, (height, width) in zip(
        *(table[name].to_pylist() for name in PLACE), strict=True
    ):
        a, b, c, d, e, f = place[:6]
        yield Grid(crs=code, transform=(a, b, c, d, e, f)), height, width


def _assets(row: CatalogRow) -> dict[str, Any]:
    named = {IMAGE: row.files[0]} if len(row.files) == 1 else {f.used[0]: f for f in row.files}
    return {
        name: {
            "href": file.href,
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "bands": [{"name": band} for band in file.bands],
        }
        for name, file in named.items()
    }
