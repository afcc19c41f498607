"""Hand-made copies of what items of three public STACs look like, with small files of their bands.

Earth Search v1 (sentinel-2-l2a, sentinel-2-c1-l2a, sentinel-2-l1c), the Planetary Computer
(sentinel-2-l2a) and the Copernicus Data Space (sentinel-2-l2a, sentinel-2-l1c): keys, roles, band
objects and the fields that tell what numbers mean are as there; the rest is left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from rs_lowconf.bands import RESOLUTION_M, WAVELENGTH_NM
from tests.make_scenes import corner, write

SIDE_M = 960
"""Of the ground that an item covers; pixels of 10, 20 and 60 m fit into it."""
PLACE = (600_000.0, 5_200_000.0)
DATE = "2023-07-01T10:36:29.024000Z"
PRODUCT = "S2B_MSIL{level}_20230701T103629_N{baseline}_R008_T33TXM_20230701T135112"

EARTH_SEARCH = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05",
    "rededge2": "B06", "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09",
    "cirrus": "B10", "swir16": "B11", "swir22": "B12",
}  # fmt: skip
_COMMON = {
    **{band: name for name, band in EARTH_SEARCH.items()},
    **dict.fromkeys(("B05", "B06", "B07"), "rededge"),
}
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
_EO_2 = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"
_RASTER_2 = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
L2A = tuple(name for name in RESOLUTION_M if name != "B10")
L1C = tuple(RESOLUTION_M)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An item with the files of its bands."""

    path: Path
    """Of the item."""
    files: Mapping[str, Path]
    """The finest file of each band."""
    added: int
    """What the digital numbers in these files have too much."""


def earth_search(
    folder: Path, *, baseline: str = "05.09", applied: bool | None = True, **properties: Any
) -> Drawn:
    """Write an item of sentinel-2-l2a, or with `applied` None of sentinel-2-c1-l2a.

    Where the offset is `applied`, it has been taken off the GeoTIFFs.
    """
    offset = -0.1 if baseline >= "04.00" else 0
    added = 1000 if offset and not applied else 0
    files = {name: folder / f"{name}.tif" for name in L2A}
    assets: dict[str, Any] = {}
    for key, name in EARTH_SEARCH.items():
        if name == "B10":
            continue
        meaning = {
            "nodata": 0, "data_type": "uint16", "bits_per_sample": 15,
            "spatial_resolution": RESOLUTION_M[name], "scale": 0.0001, "offset": offset,
        }  # fmt: skip
        bands = [{"name": key, "common_name": _COMMON[name]}]
        more = {"roles": ["data", "reflectance"], "eo:bands": bands, "raster:bands": [meaning]}
        assets[key] = {"href": f"./{name}.tif", "type": _COG, "title": key, **more}
        # In front of the GeoTIFF, so that the order does not choose.
        jp2 = {"href": f"s3://sentinel-s2-l2a/tiles/33/T/XM/{name}.jp2", "type": "image/jp2"}
        if applied is not None:
            assets = {f"{key}-jp2": {**jp2, **more}, **assets}
    colours = [{"name": key, "common_name": key} for key in ("red", "green", "blue")]
    assets = {"visual": {
        "href": "./TCI.tif", "type": _COG, "roles": ["visual"], "eo:bands": colours,
    }, **assets}  # fmt: skip
    for key in ("aot", "wvp", "scl"):
        assets[key] = {"href": f"./{key}.tif", "type": _COG, "roles": ["data", "reflectance"],
                       "raster:bands": [{"scale": 0.001, "offset": 0}]}  # fmt: skip
    assets["thumbnail"] = {"href": "./t.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    assets["granule_metadata"] = {"href": "./m.xml", "type": "application/xml"}
    if applied is not None:
        properties["earthsearch:boa_offset_applied"] = applied
    properties |= {"s2:processing_baseline": baseline, "s2:product_type": "S2MSI2A"}
    collection = "sentinel-2-l2a" if applied is not None else "sentinel-2-c1-l2a"
    name = "S2B_33TXM_20230701_0_L2A" if applied is not None else "S2B_T33TXM_20230701T103629_L2A"
    return _drawn(
        folder=folder, name=name, collection=collection, assets=assets, files=files, added=added,
        properties=properties, extensions=[_EO, _RASTER],
    )  # fmt: skip


def earth_search_l1c(folder: Path, **properties: Any) -> Drawn:
    """Write an item of sentinel-2-l1c, whose bands are ESA's JP2 files."""
    files = {name: folder / f"{name}.jp2" for name in L1C}
    assets: dict[str, Any] = {}
    for key, name in EARTH_SEARCH.items():
        meaning = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1,
                   "spatial_resolution": RESOLUTION_M[name]}  # fmt: skip
        assets[key] = {
            "href": f"./{name}.jp2", "type": "image/jp2", "roles": ["data", "reflectance"],
            "eo:bands": [{"name": key, "common_name": _COMMON[name]}], "raster:bands": [meaning],
        }  # fmt: skip
    colours = [{"name": key, "common_name": key} for key in ("red", "green", "blue")]
    assets["visual"] = {"href": "./TCI.jp2", "type": "image/jp2", "roles": ["visual"],
                        "eo:bands": colours}  # fmt: skip
    properties |= {"s2:processing_baseline": "05.09", "s2:product_type": "S2MSI1C",
                   "earthsearch:boa_offset_applied": False}  # fmt: skip
    name = "S2B_33TXM_20230701_0_L1C"
    return _drawn(
        folder=folder, name=name, collection="sentinel-2-l1c", assets=assets, files=files,
        added=1000, properties=properties, extensions=[_EO, _RASTER],
    )  # fmt: skip


def planetary_computer(folder: Path, *, baseline: str = "05.09", **properties: Any) -> Drawn:
    """Write an item of sentinel-2-l2a, which says nothing of scale and offset."""
    added = 1000 if baseline >= "04.00" else 0
    files = {name: folder / f"{name}_10m.tif" for name in L2A}
    colours = [
        {"name": name, "common_name": _COMMON[name], "center_wavelength": WAVELENGTH_NM[name] / 1e3}
        for name in ("B04", "B03", "B02")
    ]
    assets: dict[str, Any] = {
        "visual": {"href": "./TCI_10m.tif", "type": _COG, "roles": ["data"], "gsd": 10,
                   "eo:bands": colours},
        "AOT": {"href": "./AOT_10m.tif", "type": _COG, "roles": ["data"], "gsd": 10},
    }  # fmt: skip
    for name in L2A:
        band = {"name": name, "common_name": _COMMON[name], "description": f"Band {name[1:]}"}
        size = SIDE_M // RESOLUTION_M[name]
        assets[name] = {
            "href": f"./{name}_10m.tif", "type": _COG, "roles": ["data"],
            "gsd": RESOLUTION_M[name], "eo:bands": [band], "proj:shape": [size, size],
        }  # fmt: skip
    assets |= {
        "SCL": {"href": "./SCL_20m.tif", "type": _COG, "roles": ["data"], "gsd": 20},
        "WVP": {"href": "./WVP_10m.tif", "type": _COG, "roles": ["data"], "gsd": 10},
        "preview": {"href": "./preview.tif", "type": _COG, "roles": ["thumbnail"]},
        "safe-manifest": {"href": "./m.safe", "type": "application/xml", "roles": ["metadata"]},
        "tilejson": {"href": "https://x/tilejson.json?item=a", "type": "application/json"},
        "rendered_preview": {"href": "https://x/p.png?item=a", "type": "image/png",
                             "roles": ["overview"]},
    }  # fmt: skip
    product = PRODUCT.format(level="2A", baseline=baseline.replace(".", ""))
    properties |= {
        "s2:processing_baseline": baseline, "s2:product_type": "S2MSI2A",
        "s2:product_uri": f"{product}.SAFE", "proj:epsg": 32633, "s2:mgrs_tile": "33TXM",
    }  # fmt: skip
    name = "S2B_MSIL2A_20230701T103629_R008_T33TXM_20230701T185112"
    return _drawn(
        folder=folder, name=name, collection="sentinel-2-l2a", assets=assets, files=files,
        added=added, properties=properties, extensions=[_EO],
    )  # fmt: skip


def copernicus(folder: Path, *, level: str = "L2A", **properties: Any) -> Drawn:
    """Write an item of sentinel-2-l2a or sentinel-2-l1c: STAC 1.1, ESA's JP2 files."""
    assets: dict[str, Any] = {}
    files = {}
    for name in L2A if level == "L2A" else L1C:
        native = RESOLUTION_M[name]
        sizes = {native}
        if level == "L2A" and name != "B08":
            # L2A products hold bands at all coarser resolutions, too, and B01 at 20 m.
            sizes |= {size for size in (10, 20, 60) if size > native or (name, size) == ("B01", 20)}
        for size in sorted(sizes, reverse=True):
            key = f"{name}_{size}m" if level == "L2A" else name
            assets[key] = {
                "href": f"./{key}.jp2", "type": "image/jp2", "gsd": size, "title": key,
                "bands": [{"name": name, "eo:common_name": _COMMON[name]}],
                "data_type": "uint16", "nodata": 0, "raster:scale": 0.0001, "raster:offset": -0.1,
                "proj:code": "EPSG:32633", "proj:shape": [SIDE_M // size] * 2,
                "roles": ["data", "reflectance", f"gsd:{size}m",
                          f"sampling:{'original' if size == native else 'downsampled'}"],
            }  # fmt: skip
            files[name] = folder / f"{key}.jp2"
    colours = [{"name": name, "eo:common_name": _COMMON[name]} for name in ("B04", "B03", "B02")]
    key = "TCI_10m" if level == "L2A" else "TCI"
    assets = {key: {"href": f"./{key}.jp2", "type": "image/jp2", "roles": ["visual"],
                    "gsd": 10, "bands": colours, "data_type": "uint8"}, **assets}  # fmt: skip
    assets["SCL_20m"] = {"href": "./SCL.jp2", "type": "image/jp2", "roles": ["data"], "gsd": 20}
    assets["AOT_10m"] = {"href": "./AOT.jp2", "type": "image/jp2", "roles": ["data"], "gsd": 10,
                         "raster:scale": 0.001, "raster:offset": 0}  # fmt: skip
    assets["safe_manifest"] = {"href": "./m.safe", "type": "application/xml", "roles": ["metadata"]}
    properties |= {
        "processing:level": level, "processing:version": "05.11",
        "product:type": f"S2MSI{level[1:]}",
    }  # fmt: skip
    name = PRODUCT.format(level=level[1:], baseline="0511")
    return _drawn(
        folder=folder, name=name, collection=f"sentinel-2-{level.lower()}", assets=assets,
        files=files, added=1000, properties=properties, extensions=[_EO_2, _RASTER_2],
        version="1.1.0",
    )  # fmt: skip


def write_root(folder: Path, items: list[Path], collection: str = "drawn") -> Path:
    """Write a collection with links to items, and return its path."""
    links = [{"rel": "root", "href": "./collection.json", "type": "application/json"}]
    links += [
        {"rel": "item", "href": f"./{path.relative_to(folder)}", "type": "application/geo+json"}
        for path in items
    ]
    values = {
        "type": "Collection", "stac_version": "1.0.0", "id": collection, "description": "Drawn",
        "license": "other", "links": links,
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]},
                   "temporal": {"interval": [[DATE, None]]}},
    }  # fmt: skip
    path = folder / "collection.json"
    path.write_text(json.dumps(values))
    return path


def reflectance_of(name: str) -> NDArray[np.float64]:
    """Return the reflectance of a band that all items show, in its native pixels."""
    rng = np.random.default_rng(list(RESOLUTION_M).index(name))
    size = SIDE_M // RESOLUTION_M[name]
    return rng.integers(100, 4000, (size, size)) / 10_000


def _drawn(
    *,
    folder: Path,
    name: str,
    collection: str,
    assets: dict[str, Any],
    files: dict[str, Path],
    added: int,
    properties: dict[str, Any],
    extensions: list[str],
    version: str = "1.0.0",
) -> Drawn:
    """Write the files of an item, and the item."""
    for band, path in files.items():
        numbers = np.rint(reflectance_of(band) * 10_000).astype(np.uint16) + np.uint16(added)
        size = RESOLUTION_M[band]
        if "B01_20m" in path.name:
            numbers, size = numbers.repeat(3, 0).repeat(3, 1), 20
        if path.suffix == ".jp2":
            lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
            write(path, numbers, corner(*PLACE, float(size)), **lossless)
        else:
            write(path, numbers, corner(*PLACE, float(size)), nodata=0)
    x, y = PLACE
    bounds = transform_bounds("EPSG:32633", "EPSG:4326", x, y - SIDE_M, x + SIDE_M, y)
    item = {
        "type": "Feature", "stac_version": version, "stac_extensions": extensions, "id": name,
        "collection": collection, "bbox": list(bounds),
        "geometry": shapely.geometry.mapping(shapely.box(*bounds).buffer(0.001)),
        "properties": {"datetime": DATE, "platform": "sentinel-2b", "constellation": "sentinel-2",
                       "instruments": ["msi"], "eo:cloud_cover": 0.1, **properties},
        "links": [{"rel": "self", "href": f"https://stac.example/{name}"}],
        "assets": assets,
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(item))
    return Drawn(path=path, files=files, added=added)
