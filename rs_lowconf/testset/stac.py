"""A release as STAC 1.1, with the label, file, processing and version extensions.

Plain JSON, because pystac's output, and with it the checksums of a release, would depend on its
version. Tiles have no location, so items have no geometry, and the extent of the collection, which
must have one, is the whole Earth. Their time is the time of the review. No platform or instrument
is named: no satellite took them.

An item is a label item of the extension (`raster` with a mask; a class for the whole tile is
`vector`, because there is no raster of labels) and also contains the tile itself, as there is no
other item to link to.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rs_lowconf.runs import sha256_of
from rs_lowconf.testset.release import DESCRIPTION, LABELS, WARNING, ReleaseTile
from rs_lowconf.testset.table import mask_name, reviewed, tile_name

_VERSION: Final = "1.1.0"
_EXTENSION: Final = "https://stac-extensions.github.io"
_LABEL: Final = f"{_EXTENSION}/label/v1.0.1/schema.json"
_FILE: Final = f"{_EXTENSION}/file/v2.1.0/schema.json"
_PROCESSING: Final = f"{_EXTENSION}/processing/v1.2.0/schema.json"
_VERSIONING: Final = f"{_EXTENSION}/version/v1.2.0/schema.json"
_LEVEL: Final = "L4"  # model output, not a measurement

_SPDX = re.compile(r"[\w.+-]+")
_GEOTIFF = "image/tiff; application=geotiff"
_GEOJSON = "application/geo+json"
_PARQUET = "application/vnd.apache.parquet"
_SHA256_MULTIHASH = "1220"
_PROPERTY = "class"


def write_stac(folder: Path, tiles: Sequence[ReleaseTile], description: dict[str, Any]) -> None:
    """Write stac/collection.json, stac/items/ID.json and stac/labels/ID.geojson.

    The tiles and the labels table must be there already; their checksums are noted.
    """
    stac = folder / "stac"
    (stac / "items").mkdir(parents=True)
    for tile in tiles:
        if tile.mask is None:
            (stac / "labels").mkdir(exist_ok=True)
            _write(stac / "labels" / f"{tile.sample_id}.geojson", _label(tile))
        _write(stac / "items" / f"{tile.sample_id}.json", _item(folder, tile, description))
    _write(stac / "collection.json", _collection(folder, tiles, description))


def _collection(
    folder: Path, tiles: Sequence[ReleaseTile], description: dict[str, Any]
) -> dict[str, Any]:
    stac, times = folder / "stac", [_time(tile) for tile in tiles]
    licence = description["licence"]
    return {
        "type": "Collection",
        "stac_version": _VERSION,
        "stac_extensions": [_LABEL, _FILE, _PROCESSING, _VERSIONING],
        "id": f"rslow-testset-{description['version']}",
        "title": f"Reviewed synthetic tiles, {description['version']}",
        "description": f"{WARNING} {description['attribution']}",
        "version": description["version"],
        # STAC accepts SPDX identifiers only; any other text is in release.json.
        "license": licence if _SPDX.fullmatch(licence) else "other",
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [[min(times), max(times)]]},
        },
        "summaries": {
            **{
                f"label:{key}": value if isinstance(value, list) else [value]
                for key, value in _kind(tiles[0], description).items()
            },
            "label:overviews": _overview(tiles[0], description["counts"]["class"]),
            "processing:level": [_LEVEL],
            "rslow:synthetic": [True],
        },
        "rslow:parent": description["parent"],
        "rslow:provenance": description["provenance"],
        "assets": {
            "labels": _asset(folder, LABELS, stac, _PARQUET, "metadata"),
            "description": _asset(folder, DESCRIPTION, stac, "application/json", "metadata"),
        },
        "links": [
            _link("root", "./collection.json"),
            *(_link("item", f"./items/{tile.sample_id}.json", _GEOJSON) for tile in tiles),
        ],
    }


def _item(folder: Path, tile: ReleaseTile, description: dict[str, Any]) -> dict[str, Any]:
    reviewers = ", ".join(name or "unnamed" for name in tile.reviewers)
    items = folder / "stac" / "items"
    image = {
        **_asset(folder, tile_name(tile), items, _GEOTIFF, "data"),
        "title": "SYNTHETIC tile: reflectance x 10000, 0 is nodata",
        "data_type": "uint16",
        "nodata": 0,
        "bands": [{"name": name} for name in description["bands"]["names"]],
    }
    if tile.mask is None:
        label, media = f"stac/labels/{tile.sample_id}.geojson", _GEOJSON
    else:
        label, media = mask_name(tile), _GEOTIFF
    return {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": [_LABEL, _FILE, _PROCESSING],
        "id": tile.sample_id,
        "collection": f"rslow-testset-{description['version']}",
        "geometry": None,
        "properties": {
            "datetime": _time(tile),
            "description": WARNING,
            **{f"label:{key}": value for key, value in _kind(tile, description).items()},
            "label:description": f"The {'class' if tile.mask is None else 'mask'} on which the "
            f"reviewers of this synthetic tile agreed ({reviewers})",
            "label:overviews": _overview(tile, dict.fromkeys(tile.classes, 1)),
            "processing:level": _LEVEL,
            "rslow:synthetic": True,
            "rslow:derived_from": description["attribution"],
            **({"rslow:class": tile.class_name} if tile.mask is None else {}),
            "rslow:condition": tile.condition,
            **({"rslow:predicted": tile.predicted} if tile.mask is None else {}),
            "rslow:confidence": tile.confidence,
            "rslow:round": tile.round,
            "rslow:reviewers": list(tile.reviewers),
            "rslow:realism": tile.realism,
            "rslow:provenance": dict(sorted(tile.provenance.items())),
        },
        "assets": {"image": image, "labels": _asset(folder, label, items, media, "labels")},
        "links": [
            _link(relation, "../collection.json") for relation in ("root", "parent", "collection")
        ],
    }


def _label(tile: ReleaseTile) -> dict[str, Any]:
    feature = {"type": "Feature", "geometry": None, "properties": {_PROPERTY: tile.class_name}}
    return {"type": "FeatureCollection", "features": [feature]}


def _kind(tile: ReleaseTile, description: dict[str, Any]) -> dict[str, Any]:
    """Return what the label extension tells of all labels of a release."""
    raster = tile.mask is not None
    return {
        "type": "raster" if raster else "vector",
        "properties": None if raster else [_PROPERTY],
        "classes": [{"name": None if raster else _PROPERTY, "classes": description["classes"]}],
        "tasks": ["segmentation" if raster else "classification"],
        "methods": ["manual"],
    }


def _overview(tile: ReleaseTile, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Return numbers of tiles by class, each with the property that holds it; a raster has none."""
    counts = [{"name": name, "count": number} for name, number in numbers.items()]
    return [{"property_key": _PROPERTY if tile.mask is None else None, "counts": counts}]


def _asset(folder: Path, name: str, origin: Path, media: str, role: str) -> dict[str, Any]:
    """Return a file below `folder` as an asset of a document that lies in `origin`."""
    path = folder / name
    return {
        "href": Path(os.path.relpath(path, origin)).as_posix(),
        "type": media,
        "roles": [role],
        "file:size": path.stat().st_size,
        "file:checksum": _SHA256_MULTIHASH + sha256_of(path),
    }


def _link(relation: str, target: str, media: str = "application/json") -> dict[str, str]:
    return {"rel": relation, "href": target, "type": media}


def _time(tile: ReleaseTile) -> str:
    return reviewed(tile).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path.write_bytes(text.encode())
