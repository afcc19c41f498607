"""Sources of a catalog's tiles: files on disk, a GeoPackage of files, a static STAC."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pyogrio
import shapely
from rasterio.crs import CRS
from shapely.errors import ShapelyError

from rs_lowconf.boundary import reading
from rs_lowconf.data.catalog.rows import BandFile, SourceImage
from rs_lowconf.data.catalog.stac import items_of
from rs_lowconf.data.check import left_out_of, list_splits
from rs_lowconf.data.declared import Statement
from rs_lowconf.data.files import files_in
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.tiles import TileError
from rs_lowconf.errors import DataError
from rs_lowconf.outlines import WGS84, split_at_180
from rs_lowconf.settings import (
    EuroSatTiles,
    FolderTiles,
    GeoPackageData,
    ImageData,
    LabelledTiles,
    MaskData,
    Rasters,
    StacData,
)
from rs_lowconf.vocabulary import class_name, text_of

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
"""What `catalog.collection` does not allow."""
#: The column that names the file: gdaltindex calls it location.
_PATH_COLUMNS = ("location", "href", "path")
_STAMPS = (
    (re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)"), "%Y%m%dT%H%M%S"),
    (re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)"), "%Y-%m-%d"),
)


def list_images(settings: Rasters, left_out: LeftOut) -> Iterator[SourceImage]:
    """Yield the images of a source without masks, in a stable order.

    Args:
        settings: of the data.
        left_out: counts files, rows and items that are not used.

    Raises:
        DataError: there is no such source, or it names no image.
    """
    match settings:
        case ImageData():
            yield from _folder(settings, left_out)
        case GeoPackageData():
            yield from _geopackage(settings, left_out)
        case StacData():
            yield from items_of(settings, left_out)
        case EuroSatTiles() | FolderTiles():
            yield from _labelled(settings, left_out)


def collection_of(settings: Rasters, image: SourceImage | None = None) -> str:
    """Return the name of the source of an image: its collection, else of its folder or file."""
    if isinstance(settings, ImageData | MaskData):
        path = settings.images.resolve()
    else:
        assert isinstance(settings, LabelledTiles | GeoPackageData | StacData)  # noqa: S101
        path = settings.root.resolve()
    name = path.stem if path.suffix in {".gpkg", ".parquet"} else path.name
    if path.suffix == ".json":  # usually called catalog or collection: its folder tells more
        name = path.parent.name
    said = image.collection if image is not None else None
    return _UNUSUAL.sub("-", said or name).strip("._-") or "tiles"


def date_in(name: str) -> datetime | None:
    """Return the time in a file's name, as in Sentinel-2 products; else None."""
    for pattern, form in _STAMPS:
        found = pattern.search(name)
        if found:
            try:
                return datetime.strptime(found[1], form).replace(tzinfo=UTC)
            except ValueError:
                continue
    return None


def _labelled(settings: LabelledTiles, left_out: LeftOut) -> Iterator[SourceImage]:
    listings = list_splits(settings)
    left_out.add(left_out_of(listings))
    for listing in listings:
        for file in listing.files:
            yield SourceImage(
                name=file.tile_id,
                files=(BandFile(href=str(file.path.absolute()), bands=()),),
                label=listing.dataset.classes[file.label],
                split=listing.split,
                taken=date_in(file.path.name),
            )


def _folder(settings: ImageData, left_out: LeftOut) -> Iterator[SourceImage]:
    root = settings.images
    for path in files_in(root, settings.image_name, "image", left_out):
        yield SourceImage(
            name=path.relative_to(root).with_suffix("").as_posix(),
            files=(BandFile(href=str(path.absolute()), bands=()),),
            taken=date_in(path.name),
        )


def _geopackage(settings: GeoPackageData, left_out: LeftOut) -> Iterator[SourceImage]:
    """Yield a layer's rows; a relative path starts at the GeoPackage's folder."""
    path = settings.root
    if not path.is_file():
        raise DataError(f"there is no GeoPackage {path}", remedy="correct data.root")
    named = f" with layer {settings.layer}" if settings.layer else ""
    with reading(path, expected=f"a GeoPackage{named}"):
        # Not as a data frame, which turns 1 into 1.0 in columns with missing values.
        meta, layer = pyogrio.read_arrow(path, layer=settings.layer)
        records = layer.to_pylist()
    shape = meta["geometry_name"] or "wkb_geometry"
    names = [name for name in layer.column_names if name != shape]
    column = next((name for name in _PATH_COLUMNS if name in names), None)
    if column is None or not len(layer):
        raise DataError(
            f"{path} names no files (columns {', '.join(names)}, {len(layer)} rows)",
            expected=f"one row per image, its path in column {' or '.join(_PATH_COLUMNS)}",
        )
    for number, record in enumerate(records, start=1):
        try:
            image = _image(path.parent, record, column, record.get(shape), meta["crs"])
        except (ValueError, ShapelyError) as error:
            fault = TileError(
                f"row {number} of {path}:", str(error), remedy="correct it, or clear that cell"
            )
            left_out.fault("image", fault)
            continue
        yield image


def _image(
    folder: Path, record: Mapping[str, Any], column: str, outline: bytes | None, crs: str | None
) -> SourceImage:
    """Return the image that a row describes.

    Raises:
        ValueError: it names no file, or a cell is invalid.
    """
    named = _text(record[column])
    if named is None:
        raise ValueError(f"it names no file in {column}")
    href = Path(named)
    area = shapely.from_wkb(outline)
    # Without a CRS the outlines are taken as degrees.
    if area is not None and (crs is None or CRS.from_user_input(crs).is_geographic):
        area = split_at_180(area)
    offset = _number(record.get("dn_offset"))
    return SourceImage(
        name=_text(record.get("id")) or href.with_suffix("").as_posix().lstrip("/"),
        files=(BandFile(href=str((folder / href).absolute()), bands=()),),
        label=class_name(_text(record.get("label"))),
        split=_text(record.get("split")),
        taken=_time(record.get("datetime")) or date_in(href.name),
        area=None if area is None or area.is_empty else area,
        area_crs=crs or WGS84,
        said=()
        if offset is None
        else (Statement(quantity="dn_offset", value=offset, by="column dn_offset"),),
    )


def _text(value: Any) -> str | None:
    text = None if pandas.isna(value) else text_of(value)
    return (text and text.strip()) or None


def _number(value: Any) -> float | None:
    text = _text(value)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"dn_offset is {text!r}, expected a number")
    return number


def _time(value: Any) -> datetime | None:
    text = _text(value)
    if text is None:
        return None
    try:
        stamp = value if isinstance(value, datetime) else datetime.fromisoformat(text)
        return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"datetime is {text!r}, expected ISO 8601 such as 2024-05-31T10:30:00Z"
        ) from error
