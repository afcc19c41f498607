"""Where the tiles of a catalog come from: files on disk, a GeoPackage of files, a static STAC."""

import logging
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import pandas
from pyogrio.errors import DataLayerError, DataSourceError

from rs_lowconf.data.catalog.rows import BandFile, SourceImage
from rs_lowconf.data.catalog.stac import items_of
from rs_lowconf.data.check import list_splits
from rs_lowconf.data.files import files_in, refuse_idle
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import DataSettings
from rs_lowconf.vocabulary import class_name, text_of

log = logging.getLogger(__name__)

#: The column that names the file: gdaltindex calls it location.
_PATH_COLUMNS = ("location", "href", "path")
_STAMPS = (
    (re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)"), "%Y%m%dT%H%M%S"),
    (re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)"), "%Y-%m-%d"),
)


def list_images(settings: DataSettings) -> Iterator[SourceImage]:
    """Yield the images of a source without masks, in an order that does not change.

    Raises:
        SettingsError: no data are set, or a setting has no effect on this kind of data.
        DataError: there is no such source, or it names no image.
    """
    refuse_idle(settings, also=("stride",))
    kinds = {"images": _folder, "geopackage": _geopackage, "stac": items_of}
    if settings.kind == "none":
        raise SettingsError(
            "a catalog needs tiles and none are set (data.kind is none)",
            expected="data.kind eurosat, folder, scenes, chips, images, geopackage or stac",
        )
    yield from kinds.get(settings.kind, _labelled)(settings)


def date_in(name: str) -> datetime | None:
    """Return the time that a file's name tells, as Sentinel-2 products' do; else None."""
    for pattern, form in _STAMPS:
        found = pattern.search(name)
        if found:
            try:
                return datetime.strptime(found[1], form).replace(tzinfo=UTC)
            except ValueError:
                continue
    return None


def _labelled(settings: DataSettings) -> Iterator[SourceImage]:
    for listing in list_splits(settings):
        for file in listing.files:
            yield SourceImage(
                name=file.tile_id,
                files=(BandFile(href=str(file.path.absolute()), bands=()),),
                label=listing.dataset.classes[file.label],
                split=listing.split,
                taken=date_in(file.path.name),
            )


def _folder(settings: DataSettings) -> Iterator[SourceImage]:
    assert settings.images is not None  # noqa: S101  # the settings are complete
    root = settings.images.expanduser()
    for path in files_in(root, settings.image_name, "image"):
        yield SourceImage(
            name=path.relative_to(root).with_suffix("").as_posix(),
            files=(BandFile(href=str(path.absolute()), bands=()),),
            taken=date_in(path.name),
        )


def _geopackage(settings: DataSettings) -> Iterator[SourceImage]:
    """Yield a layer's rows; a relative path starts at the GeoPackage's folder."""
    path = settings.root.expanduser()
    if not path.is_file():
        raise DataError(f"there is no GeoPackage {path}", remedy="correct data.root")
    try:
        # Whole numbers beside an empty cell stay whole, however long they are.
        layer = geopandas.read_file(
            path,
            layer=settings.layer,
            use_arrow=True,
            arrow_to_pandas_kwargs={"integer_object_nulls": True},
        )
    except (DataSourceError, DataLayerError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())})",
            expected="a GeoPackage" + (f" with layer {settings.layer}" if settings.layer else ""),
        ) from error
    column = next((name for name in _PATH_COLUMNS if name in layer.columns), None)
    if column is None or not len(layer):
        raise DataError(
            f"{path} names no files (columns {', '.join(layer.columns)}, {len(layer)} rows)",
            expected=f"a row an image, its path in column {' or '.join(_PATH_COLUMNS)}",
        )
    outlines = layer.geometry.to_crs("EPSG:4326") if layer.crs is not None else layer.geometry
    for index, record in enumerate(layer.drop(columns="geometry").to_dict("records")):
        try:
            image = _image(path.parent, record, column)
        except ValueError as error:
            fault = DataError(
                f"row {index + 1} of {path}: {error}", remedy="correct it, or empty that cell"
            )
            if not settings.skip_bad:
                raise fault from error
            log.warning("left out: %s", fault)
            continue
        area = outlines.iloc[index]
        yield replace(image, area=None if area is None or area.is_empty else area)


def _image(folder: Path, record: Mapping[Hashable, Any], column: str) -> SourceImage:
    """Return what a row says of its image.

    Raises:
        ValueError: it names no file, or a cell makes no sense.
    """
    named = _text(record[column])
    if named is None:
        raise ValueError(f"it names no file in {column}")
    href = Path(named)
    return SourceImage(
        name=_text(record.get("id")) or href.with_suffix("").as_posix().lstrip("/"),
        files=(BandFile(href=str((folder / href).absolute()), bands=()),),
        label=class_name(_text(record.get("label"))),
        split=_text(record.get("split")),
        taken=_time(record.get("datetime")) or date_in(href.name),
        dn_offset=_number(record.get("dn_offset")),
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
