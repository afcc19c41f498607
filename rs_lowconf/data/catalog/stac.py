"""Items of a static STAC: which assets are bands, and what their numbers mean."""

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, get_args

import pystac
import shapely

from rs_lowconf.bands import RESOLUTION_M, Level, canonical_name
from rs_lowconf.data.catalog.rows import BandFile, SourceImage
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings

#: Sentinel-2's bands by the common names of STAC's eo extension; `rededge` is three of them,
#: `nir` is B08 and `nir08` B8A, as Earth Search has it.
_COMMON = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir22": "B12",
}


def items_of(settings: DataSettings) -> Iterator[SourceImage]:
    """Yield the items below a catalog or collection, in the order of their links.

    Raises:
        DataError: it cannot be read, has no items, or an item has no assets of bands.
    """
    path = settings.root.expanduser()
    try:
        root = pystac.read_file(str(path))
    except (OSError, ValueError, KeyError, pystac.STACError) as error:
        raise DataError(
            f"{path} is no STAC ({' '.join(str(error).split()) or type(error).__name__})",
            expected="the catalog.json or collection.json of a static STAC",
            remedy="set data.root to that file",
        ) from error
    items = root.get_items(recursive=True) if isinstance(root, pystac.Catalog) else iter([root])
    number = 0
    for number, item in enumerate(items, start=1):  # noqa: B007  # counts
        yield _image(item, path)
    if number == 0:
        raise DataError(f"{path} has no items", expected="a STAC with items")


def _image(item: Any, path: Path) -> SourceImage:
    files, meanings = [], set()
    for key, asset in item.assets.items():
        names = _names(key, asset)
        if names and "overview" not in (asset.roles or ()) and _is_raster(asset):
            files.append(BandFile(href=asset.get_absolute_href(), bands=names))
            meanings.add(_meaning(asset))
    if not files:
        raise DataError(
            f"item {item.id} of {path} has no asset of Sentinel-2 bands",
            expected="assets with bands named B01 .. B12, or by the eo extension's common names",
        )
    if len(meanings) > 1:
        raise DataError(
            f"the assets of item {item.id} of {path} differ in scale or offset",
            expected="one meaning of all its digital numbers",
        )
    scale, offset = meanings.pop()
    # In the order of the bands, whatever order the item has; the finest pixels first.
    files.sort(key=lambda file: (RESOLUTION_M[file.bands[0]], file.bands))
    taken = item.datetime or item.common_metadata.start_datetime
    said = str(item.properties.get("processing:level", "")).upper().replace("LEVEL-", "L")
    levels: tuple[Level, ...] = get_args(Level)
    return SourceImage(
        name=item.id,
        files=tuple(files),
        taken=None if taken is None else taken.astimezone(UTC),
        area=None if item.geometry is None else shapely.geometry.shape(item.geometry),
        scale=scale,
        dn_offset=offset,
        level=next((level for level in levels if level == said), None),
    )


def _names(key: str, asset: Any) -> tuple[str, ...]:
    """Return the bands of an asset: by its band objects, else by its key; empty for others."""
    told = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or ()
    names = [
        _name(band.get("name"), band.get("eo:common_name", band.get("common_name")))
        for band in told
    ]
    if names and all(names):
        return tuple(name for name in names if name)
    alone = _name(key, key)
    return (alone,) if alone and len(told) <= 1 else ()


def _name(name: str | None, common: str | None) -> str | None:
    try:
        return canonical_name(name or "")
    except DataError:
        return _COMMON.get((common or name or "").lower())


def _is_raster(asset: Any) -> bool:
    kind = (asset.media_type or "").lower()
    return "tiff" in kind or "jp2" in kind or not kind


def _meaning(asset: Any) -> tuple[float | None, float | None]:
    """Return scale and offset to digital numbers; None where the asset does not tell."""
    fields = asset.extra_fields
    own = (fields.get("raster:bands") or fields.get("bands") or [{}])[0]
    scale = own.get("scale", own.get("raster:scale", fields.get("raster:scale")))
    offset = own.get("offset", own.get("raster:offset", fields.get("raster:offset")))
    if not scale:
        return None, None
    # reflectance = number * scale + offset, which here is (number + dn_offset) / scale.
    return round(1 / scale, 6), round((offset or 0.0) / scale, 6)
