"""Reads STAC items as providers publish them: static catalogs, item collections, GeoParquet.

Documents of STAC 1.0 and 1.1 are read as plain JSON and checked by models. A reader that resolves
links automatically stops at the first dead one; here each bad item is one line.
"""

import datetime as dt
import json
import os
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import url2pathname, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from rs_lowconf.boundary import reading
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.tiles import TileError
from rs_lowconf.errors import DataError

_SECONDS = 60
"""Timeout of a server in seconds."""

#: GDAL's prefixes for files in object stores.
_STORES = {"s3": "/vsis3/", "gs": "/vsigs/"}


class ItemError(TileError):
    """One item that cannot be used; `data.skip_bad` skips it."""

    general = "data.skip_bad=true skips such items"
    checked_by = ""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Numbers(_Model):
    """What STAC may state about the numbers of a band, an asset, or all assets of an item."""

    scale: FiniteFloat | None = Field(None, validation_alias=AliasChoices("raster:scale", "scale"))
    offset: FiniteFloat | None = Field(
        None, validation_alias=AliasChoices("raster:offset", "offset")
    )
    nodata: float | None = None
    data_type: str | None = None


class Band(Numbers):
    """A band object of STAC 1.1, or of the eo or raster extension of 1.0."""

    name: str | None = None
    common_name: str | None = Field(
        None, validation_alias=AliasChoices("eo:common_name", "common_name")
    )
    resolution: FiniteFloat | None = Field(
        None,
        validation_alias=AliasChoices("raster:spatial_resolution", "spatial_resolution", "gsd"),
    )


class Asset(_Model):
    """A file of an item."""

    href: str
    type: str | None = None
    roles: tuple[str, ...] | None = None
    gsd: FiniteFloat | None = None
    bands: tuple[Band, ...] | None = None
    eo_bands: tuple[Band, ...] | None = Field(None, alias="eo:bands")
    raster_bands: tuple[Band, ...] | None = Field(None, alias="raster:bands")
    # Only of the raster extension: `scale` of an asset may mean anything.
    scale: FiniteFloat | None = Field(None, alias="raster:scale")
    offset: FiniteFloat | None = Field(None, alias="raster:offset")
    nodata: float | None = None
    data_type: str | None = None

    @property
    def named(self) -> tuple[Band, ...]:
        """The objects that name the bands."""
        return self.bands or self.eo_bands or ()

    @property
    def numbers(self) -> tuple[Numbers, ...]:
        """Statements about the numbers of each band; if bands have none, those of the asset."""
        described_bands = self.raster_bands or self.bands or (Numbers.model_validate({}),)
        mine = ("scale", "offset", "nodata", "data_type")
        return tuple(
            Numbers.model_validate(
                {
                    name: getattr(band, name) if getattr(band, name) is not None else value
                    for name, value in ((name, getattr(self, name)) for name in mine)
                }
            )
            for band in described_bands
        )


class Link(_Model):
    """A link to another document."""

    rel: str
    href: str
    method: str = "GET"


class Properties(_Model):
    """Properties of an item; further ones are in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    datetime: dt.datetime | None = None
    start_datetime: dt.datetime | None = None
    scale: FiniteFloat | None = Field(None, alias="raster:scale")
    offset: FiniteFloat | None = Field(None, alias="raster:offset")

    def text(self, name: str) -> str | None:
        """Return a property that is text; None where there is none."""
        value = (self.model_extra or {}).get(name)
        return value if isinstance(value, str) and value else None


class Item(_Model):
    """An item, checked."""

    type: Literal["Feature"]
    id: str = Field(min_length=1)
    collection: str | None = None
    geometry: dict[str, Any] | None = None
    properties: Properties
    assets: dict[str, Asset]
    links: tuple[Link, ...] = ()


_EXPECTED = (
    "the catalog.json or collection.json of a static STAC, an item collection, or items as "
    "GeoParquet"
)
_REMEDY = "set data.root to that file"


def read_items(path: Path, left_out: LeftOut) -> Iterator[tuple[str, Item]]:
    """Yield the items of a STAC, each with the base address of its relative paths.

    Args:
        path: a catalog, a collection, an item, an item collection, or items as GeoParquet.
        left_out: counts items that cannot be read.

    Raises:
        DataError: it is none of these, or, unless bad items are skipped, an item is bad.
    """
    found = _table_items(path) if path.suffix.lower() == ".parquet" else _linked(path, left_out)
    for address, where, values in found:
        try:
            yield address, Item.model_validate(values)
        except ValidationError as error:
            left_out.fault("item", ItemError(where, "is not a STAC item", detail=described(error)))


def location(href: str, address: str) -> str:
    """Return the path by which GDAL opens the file of an item's href.

    Args:
        href: absolute, or relative to `address`.
        address: path or URL of the item's document.
    """
    href = href.removeprefix("/vsicurl/") if href.startswith("/vsicurl/http") else href
    fixed = "://" in href or href.startswith("/") or not _is_url(address)
    whole = href if fixed else urljoin(address, href)
    parts = urlsplit(whole)
    if "://" not in whole or whole.startswith("/"):
        path = Path(address).parent / whole
        plain = Path(address).parent / unquote(whole)
        return str((plain if plain.exists() and not path.exists() else path).absolute())
    if parts.scheme == "file":
        return url2pathname(parts.path)
    if parts.scheme in _STORES:
        return f"{_STORES[parts.scheme]}{parts.netloc}{parts.path}"
    # Not as /vsicurl/https://...: a path has no two slashes in a row.
    return f"/vsicurl?url={quote(whole, safe='')}"


def described(error: ValidationError) -> str:
    """Return the first error of a pydantic model as text."""
    first, *more = error.errors()
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" + (f" and {len(more)} more" if more else "")


_Found = tuple[str, str, Any]
"""Base address of relative paths, the item's name in messages, its values."""


def _linked(path: Path, left_out: LeftOut) -> Iterator[_Found]:
    """Yield candidates for items, in the order of the links."""
    root = str(path.absolute())
    try:
        waiting, seen = [(root, _document(root))], {root}
    except ItemError as error:
        raise _no_stac(path, error.detail) from error
    if not isinstance(waiting[0][1], Mapping) or not waiting[0][1].keys() & {"type", "links"}:
        raise _no_stac(path, "it has neither type nor links")
    while waiting:
        href, document = waiting.pop()
        kind = document.get("type") if isinstance(document, Mapping) else None
        if kind == "FeatureCollection":
            yield from _features(href, document, left_out)
        elif kind == "Feature" or not (
            kind in ("Catalog", "Collection") or _list_in(document, "links")
        ):
            yield href, href, document
        following = []
        for link in _links(href, document, left_out):
            target = _joined(href, link.href)
            if not _leads_on(link, target, left_out) or target in seen:
                continue
            seen.add(target)
            try:
                following.append((target, _document(target)))
            except ItemError as error:
                left_out.fault("item", error)
        waiting.extend(reversed(following))


def _leads_on(link: Link, target: str, left_out: LeftOut) -> bool:
    """Return whether a link leads to items, and count pages that are not fetched."""
    if link.rel in ("item", "child"):
        return True
    if link.rel not in ("next", "items"):
        return False
    if link.rel == "next" and link.method == "GET" and not _is_url(target):
        return True
    left_out.count("page", f"named by a link rel={link.rel}, not fetched", target)
    return False


def _features(href: str, document: Any, left_out: LeftOut) -> Iterator[_Found]:
    for number, values in enumerate(_list_in(document, "features")):
        name = values.get("id", number) if isinstance(values, Mapping) else number
        # A static copy of an API response: relative paths start at the item's original address.
        links = _links(href, values, left_out) if isinstance(values, Mapping) else ()
        addresses = [link.href for link in links if link.rel == "self"]
        address = next((base for base in addresses if _is_url(base) or base.startswith("/")), href)
        yield address, f"{href}, item {name},", values


def _links(href: str, document: Any, left_out: LeftOut) -> Iterator[Link]:
    for values in _list_in(document, "links"):
        try:
            link = Link.model_validate(values)
        except ValidationError as error:
            fault = ItemError(href, "has an invalid link", detail=described(error))
            left_out.fault("item", fault)
        else:
            yield link


def _list_in(document: Any, name: str) -> list[Any]:
    values = document.get(name) if isinstance(document, Mapping) else None
    return values if isinstance(values, list) else []


def _table_items(path: Path) -> Iterator[_Found]:
    """Yield items of a table that stac-geoparquet or geopandas wrote."""
    with reading(path, problem="is not a STAC", expected=_EXPECTED, remedy=_REMEDY):
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        missing = [name for name in ("id", "assets", "geometry") if name not in names]
        if missing:
            raise _no_stac(path, f"it lacks the columns {', '.join(missing)}")
        if "rslow:window" in names:
            raise DataError(
                f"{path} is a catalog of tiles already",
                remedy="set catalog.path to it; it need not be built",
            )
        for batch in file.iter_batches(batch_size=1000):
            for record in pa.Table.from_batches([batch]).to_pylist():
                yield str(path.absolute()), f"{path}, item {record['id']},", _as_item(record)


def _as_item(record: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of an item, whose properties are columns of the table."""
    values = _without_nulls(record)
    wkb = values.pop("geometry", None)
    top = {name: values.pop(name) for name in ("id", "collection", "assets") if name in values}
    shape = None if wkb is None else json.loads(shapely.to_geojson(shapely.from_wkb(wkb)))
    for name in ("type", "bbox", "links", "stac_version", "stac_extensions"):
        values.pop(name, None)
    return {"type": "Feature", **top, "geometry": shape, "properties": values}


def _without_nulls(value: Any) -> Any:
    """Return records without the null fields that Parquet adds to give all the same schema."""
    if isinstance(value, dict):
        return {name: _without_nulls(child) for name, child in value.items() if child is not None}
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return value


def _document(href: str) -> Any:
    """Read JSON.

    Raises:
        ItemError: it cannot be read.
    """
    try:
        if _is_url(href):
            with urlopen(href, timeout=_SECONDS) as answer:  # noqa: S310  # http and https alone
                return json.loads(answer.read())
        return json.loads(Path(href).read_bytes())
    except (OSError, ValueError, RecursionError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ItemError(href, "cannot be read", detail=reason, expected="JSON") from error


def _joined(address: str, href: str) -> str:
    if _is_url(href):
        return href
    if href.startswith("file://"):
        return url2pathname(urlsplit(href).path)
    if _is_url(address):
        return urljoin(address, href)
    return os.path.normpath(Path(address).parent / href)


def _is_url(href: str) -> bool:
    return href.startswith(("http://", "https://"))


def _no_stac(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a STAC ({' '.join(reason.split())})",
        expected=_EXPECTED,
        remedy=_REMEDY,
    )
