"""Chooses the assets of an item that contain its bands: the finest pixels first."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from rs_lowconf.bands import RESOLUTION_M, canonical_name
from rs_lowconf.data.catalog.items import Asset, Item, ItemError
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.errors import DataError

#: Sentinel-2's bands by the common names of STAC's eo extension, and by Earth Search's keys, where
#: `nir` is B08 and `nir08` B8A. `rededge` stands for three bands.
_COMMON = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge071": "B05",
    "rededge2": "B06",
    "rededge075": "B06",
    "rededge3": "B07",
    "rededge078": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir22": "B12",
}
_SUFFIXES = ("", ".tif", ".tiff", ".jp2", ".vrt")
"""Suffixes of rasters without a media type."""
_PICTURES = {"visual", "overview", "thumbnail"}
_PICTURE_KEY = re.compile(r"(visual|tci|preview|overview|thumbnail)(?![a-z])", re.IGNORECASE)
_RESOLUTION = re.compile(r"(?:gsd:|.*_)(\d+)m", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BandAsset:
    """An asset with bands."""

    key: str
    asset: Asset
    bands: tuple[str, ...]
    """Canonical names."""

    @property
    def is_jp2(self) -> bool:
        """Whether it is ESA's original file instead of a Cloud Optimized GeoTIFF."""
        return "jp2" in (self.asset.type or self.asset.href).lower()

    @property
    def pixel(self) -> float:
        """The side of a pixel in metres if the item gives it, else that of the bands."""
        for text in (self.key, *(self.asset.roles or ())):
            if found := _RESOLUTION.fullmatch(text):
                return float(found[1])
        bands = (*self.asset.named, *(self.asset.raster_bands or ()))
        resolutions = [band.resolution for band in bands if band.resolution]
        native = [float(RESOLUTION_M[name]) for name in self.bands]
        return min(resolutions or ([self.asset.gsd] if self.asset.gsd else native))


def assets_with_bands(item: Item, where: str, left_out: LeftOut) -> list[BandAsset]:
    """Return the assets to read: each band once.

    Args:
        item: whose assets.
        where: its name in messages.
        left_out: counts the other assets.

    Raises:
        ItemError: there is none, or a band cannot be read exactly once.
    """
    found = []
    for key, asset in item.assets.items():
        candidate = BandAsset(key=key, asset=asset, bands=_names(key, asset))
        if not candidate.bands or not _is_raster(asset):
            left_out.count("asset", "no Sentinel-2 bands", f"{item.id}: {key}")
        elif _is_picture(key, asset):
            left_out.count("asset", "a picture", f"{item.id}: {key}")
        else:
            found.append(candidate)
    if not found:
        raise ItemError(
            where,
            "has no asset of Sentinel-2 bands",
            expected="assets with bands named B01 .. B12, or by the eo extension's common names",
        )
    # A file of one band identifies its band more reliably than a file of several.
    found.sort(key=lambda candidate: (candidate.pixel, len(candidate.bands) > 1, candidate.is_jp2))
    chosen: dict[str, BandAsset] = {}
    for candidate in found:
        taken = [name for name in candidate.bands if name in chosen]
        if not taken:
            chosen.update(dict.fromkeys(candidate.bands, candidate))
        elif len(taken) < len(candidate.bands):
            raise ItemError(
                where,
                f"has bands named more than once: {', '.join(taken)}",
                detail=f"{candidate.key} and {chosen[taken[0]].key}",
            )
        else:
            left_out.count(
                "asset", _why(candidate, chosen[taken[0]]), f"{item.id}: {candidate.key}"
            )
    return list({candidate.key: candidate for candidate in chosen.values()}.values())


def _why(candidate: BandAsset, better: BandAsset) -> str:
    if candidate.pixel > better.pixel:
        return "coarser pixels than another of the same bands"
    if candidate.is_jp2 and not better.is_jp2:
        return "JP2, also available as a GeoTIFF"
    return "bands that other assets have"


def _names(key: str, asset: Asset) -> tuple[str, ...]:
    """Return the bands of an asset: by its band objects, else by its key; empty for others."""
    names = [_name(band.name, band.common_name) for band in asset.named]
    if names and all(names):
        return tuple(name for name in names if name)
    alone = _name(key, None)
    return (alone,) if alone and len(names) <= 1 else ()


def _name(*texts: str | None) -> str | None:
    for name in texts:
        try:
            return canonical_name(name or "")
        except DataError:
            continue
    return next((_COMMON[name.lower()] for name in texts if name and name.lower() in _COMMON), None)


def _is_raster(asset: Asset) -> bool:
    if asset.type:
        return any(word in asset.type.lower() for word in ("tiff", "jp2"))
    return PurePosixPath(urlsplit(asset.href).path).suffix.lower() in _SUFFIXES


def _is_picture(key: str, asset: Asset) -> bool:
    kinds = {numbers.data_type for numbers in asset.numbers}
    return (
        not _PICTURES.isdisjoint(asset.roles or ())
        or _PICTURE_KEY.match(key) is not None
        or kinds == {"uint8"}
    )
