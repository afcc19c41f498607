"""One row of a catalog: a window of an image, where it lies, and what its numbers mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from rasterio.warp import transform as to_crs

from rs_lowconf.bands import RESOLUTION_M, BandSpec, Level
from rs_lowconf.errors import DataError
from rs_lowconf.grid import Grid
from rs_lowconf.vocabulary import class_name

STAC_VERSION = "1.1.0"
STAC_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)
IMAGE = "image"
"""The asset of an image whose bands lie in one file; else there is one a band."""

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
"""Of Sentinel-2A: no image is older."""
_BOX = ("xmin", "ymin", "xmax", "ymax")

#: Own columns carry a prefix, as STAC asks of fields that no extension defines.
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
        ("rslow:window", pa.list_(pa.int64())),
        ("rslow:valid", pa.float64()),
        ("rslow:sha256", pa.string()),
        ("rslow:label", pa.string()),
        ("rslow:split", pa.string()),
        ("rslow:masks", pa.list_(pa.string())),
        ("rslow:mask_classes", pa.string()),
    ]
)
REQUIRED = tuple(
    name
    for name in SCHEMA.names
    if name
    not in (
        "start_datetime",
        "end_datetime",
        "rslow:label",
        "rslow:split",
        "rslow:masks",
        "rslow:mask_classes",
    )
)


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """A file that holds bands of an image."""

    href: str
    """A path, absolute once the catalog is read, or whatever GDAL opens."""
    bands: tuple[str, ...]
    """Canonical names in the order of the file."""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """An image of which tiles are to be cut."""

    name: str
    """Unique within the source; ids of tiles begin with it."""
    files: tuple[BandFile, ...]
    """One without band names where the file itself or the settings name them."""
    label: str | None = None
    split: str | None = None
    taken: datetime | None = None
    area: shapely.Geometry | None = None
    """In degrees: only tiles with their centre in it; None takes all."""
    scale: float | None = None
    """None: as the settings say."""
    dn_offset: float | None = None
    level: Level | None = None


@dataclass(frozen=True, kw_only=True)
class CatalogRow:
    """One tile."""

    tile_id: str
    """Unique within the catalog."""
    collection: str
    files: tuple[BandFile, ...]
    """All on the same ground; the first has the finest pixels, and the tile has its grid."""
    window: tuple[int, int, int, int]
    """First row and column, height and width in the first file."""
    bands: BandSpec
    """All bands, in the order of the files, and how their numbers become reflectance."""
    grid: Grid
    """Of the window; north is up."""
    valid: float
    """Share of pixels that are not nodata."""
    sha256: str
    """Of the digital numbers in the window, see `reading.checksum`."""
    taken: datetime | None = None
    """When the image was taken, in UTC; None when nobody says."""
    before: datetime | None = None
    """Before this it was taken: when the file was last changed. None when `taken` is known."""
    label: str | None = None
    split: str | None = None
    masks: tuple[str, ...] = ()
    """Files with a class a pixel, on any grid; where several say something, the first counts."""
    mask_classes: Mapping[int, str | None] | None = None
    """The class of each value of a mask, None where a value means unknown."""

    def __post_init__(self) -> None:
        """Check once."""
        named = tuple(name for file in self.files for name in file.bands)
        if named != self.bands.names:
            raise DataError(
                f"tile {self.tile_id} has bands {' '.join(self.bands.names)}",
                expected=f"{' '.join(named)}, as its files",
            )

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The corners of the window in the unit of its CRS, from the upper left, clockwise."""
        a, b, c, d, e, f = self.grid.transform
        height, width = self.window[2:]
        return [
            (a * col + b * row + c, d * col + e * row + f)
            for col, row in ((0, 0), (width, 0), (width, height), (0, height))
        ]


def to_table(rows: Sequence[CatalogRow]) -> pa.Table:
    """Return rows as a table of `SCHEMA`; geometries are WKB in degrees."""
    footprints = _footprints(rows)
    bounds = shapely.bounds(footprints).reshape(-1, 4)
    records = [
        {
            "id": row.tile_id,
            "type": "Feature",
            "stac_version": STAC_VERSION,
            "stac_extensions": list(STAC_EXTENSIONS),
            "collection": row.collection,
            "geometry": geometry,
            "bbox": dict(zip(_BOX, box, strict=True)),
            "datetime": row.taken,
            # STAC asks for a span where the time is unknown.
            "start_datetime": _LAUNCH if row.taken is None else None,
            "end_datetime": row.before,
            "links": [],
            "assets": _assets(row),
            "proj:code": row.grid.crs,
            "proj:shape": list(row.window[2:]),
            "proj:transform": list(row.grid.transform),
            "processing:level": row.bands.level,
            "rslow:bands": list(row.bands.names),
            "rslow:scale": row.bands.scale,
            "rslow:dn_offset": row.bands.dn_offset,
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
        for row, geometry, box in zip(
            rows, shapely.to_wkb(footprints), bounds.tolist(), strict=True
        )
    ]
    return pa.Table.from_pylist(records, schema=SCHEMA)


def from_table(table: pa.Table) -> list[CatalogRow]:
    """Return the rows of a table that `to_table` wrote, or another tool with its columns.

    Raises:
        DataError: a value is missing or makes no sense.
    """
    rows = []
    for record in table.to_pylist():
        try:
            rows.append(_row(record))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"row {record.get('id')!r} of the catalog cannot be used ({error})",
                expected="the columns that `rslow catalog build` writes",
            ) from error
    return rows


def _row(record: dict[str, Any]) -> CatalogRow:
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
    # Whoever wrote the table may have put the assets into another order.
    names = tuple(record["rslow:bands"])
    files = tuple(sorted(files, key=lambda file: names.index(file.bands[0])))
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
        taken=None if taken is None else taken.astimezone(UTC),
        before=None if before is None else before.astimezone(UTC),
        label=class_name(record.get("rslow:label")),
        split=record.get("rslow:split"),
        masks=tuple(record.get("rslow:masks") or ()),
        mask_classes=None
        if classes is None
        else {int(value): class_name(name) for value, name in json.loads(classes).items()},
    )


def _footprints(rows: Sequence[CatalogRow]) -> "np.ndarray[tuple[int], np.dtype[np.object_]]":
    """Return the outlines in degrees; one call a CRS, which is most of the work."""
    corners = np.array([row.corners for row in rows], dtype=np.float64).reshape(-1, 4, 2)
    crs = np.array([row.grid.crs for row in rows])
    for code in dict.fromkeys(crs.tolist()):
        own = corners[crs == code].reshape(-1, 2)
        degrees = np.stack(to_crs(code, "EPSG:4326", own[:, 0], own[:, 1]), axis=-1)
        corners[crs == code] = degrees.reshape(-1, 4, 2)
    return np.asarray(shapely.polygons(corners))


def _assets(row: CatalogRow) -> dict[str, Any]:
    named = {IMAGE: row.files[0]} if len(row.files) == 1 else {f.bands[0]: f for f in row.files}
    return {
        name: {
            "href": file.href,
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "bands": [{"name": band} for band in file.bands],
        }
        for name, file in named.items()
    }
