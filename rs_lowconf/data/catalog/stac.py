"""Items of a STAC as images of which tiles are to be cut."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from rs_lowconf.data.catalog.assets import assets_with_bands
from rs_lowconf.data.catalog.items import Item, ItemError, location, read_items
from rs_lowconf.data.catalog.numbers import nodata_of, statements_of
from rs_lowconf.data.catalog.rows import BandFile, SourceImage
from rs_lowconf.data.declared import ContradictionError, meaning_of
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.errors import DataError
from rs_lowconf.outlines import split_at_180
from rs_lowconf.settings import StacData


def items_of(settings: StacData, left_out: LeftOut) -> Iterator[SourceImage]:
    """Yield the items of a STAC, in the order of their links.

    Args:
        settings: of the data.
        left_out: counts items and assets that are not used.

    Raises:
        DataError: it cannot be read, has no items, or, unless bad items are skipped, one is bad.
    """
    path = settings.root
    seen: dict[str, str] = {}
    for address, item in read_items(path, left_out):
        where = f"item {item.id} of {path}"
        try:
            if item.id in seen:
                raise ItemError(where, "has the id of another item", detail=seen[item.id])
            image = _image(item, address, where, settings, left_out)
        except ItemError as error:
            left_out.fault("item", error)
            continue
        seen[item.id] = address
        yield image
    if not seen and not left_out.number("item"):
        raise DataError(f"{path} has no items", expected="a STAC with items")


def _image(
    item: Item, address: str, where: str, settings: StacData, left_out: LeftOut
) -> SourceImage:
    chosen = assets_with_bands(item, where, left_out)
    taken = item.properties.datetime or item.properties.start_datetime
    statements = statements_of(item, chosen, where, settings.scale)
    try:
        meaning_of(settings, statements)
    except ContradictionError as error:
        raise ItemError(where, error.found, expected="one value", remedy=error.remedy) from error
    return SourceImage(
        name=item.id,
        files=tuple(
            BandFile(href=location(band_asset.asset.href, address), bands=band_asset.bands)
            for band_asset in chosen
        ),
        taken=None if taken is None else _in_utc(taken),
        area=_area(item, where),
        said=statements,
        nodata=nodata_of(chosen, where),
        collection=item.collection,
    )


def _area(item: Item, where: str) -> BaseGeometry | None:
    if item.geometry is None:
        return None
    try:
        return split_at_180(shapely.from_geojson(json.dumps(item.geometry)))
    except (ShapelyError, ValueError) as error:
        raise ItemError(
            where, "has an invalid geometry", detail=" ".join(str(error).split())
        ) from error


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
