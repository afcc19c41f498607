"""What an item states about its digital numbers: level, scale, offset, nodata.

The raster extension defines reflectance as number * scale + offset. Other fields describe ESA's
product: from processing baseline 04.00 on, numbers are 1000 too high. Earth Search subtracts that
in some of its GeoTIFFs, states so, and leaves the field of the raster extension unchanged.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import get_args

from rs_lowconf.bands import PRODUCT_SCALE, Level
from rs_lowconf.data.catalog.assets import BandAsset
from rs_lowconf.data.catalog.items import Item, ItemError
from rs_lowconf.data.declared import Statement, named
from rs_lowconf.data.products import offset_from, product_in
from rs_lowconf.errors import DataError

_LEVELS = ("processing:level", "s2:processing_level", "s2:product_type", "product:type")
_BASELINES = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
_NAMES = ("s2:product_uri", "sentinel:product_id", "title")
_APPLIED = re.compile(r"\w+:boa_offset_applied")


def statements_of(
    item: Item, chosen: Sequence[BandAsset], where: str, scale: float | None
) -> tuple[Statement, ...]:
    """Return the statements of an item about the numbers of its bands.

    Args:
        item: with its properties.
        chosen: the assets that are read.
        where: the item's name in messages.
        scale: the setting, for offsets that come without a scale.

    Raises:
        ItemError: its statements are impossible or contradict each other.
    """
    _require_sentinel_2(item, where)
    try:
        product = [*_levels(item), *_baselines(item), *_named(item, chosen)]
    except DataError as error:
        raise ItemError(where, "contradicts itself", detail=str(error)) from error
    of_level = [statement for statement in product if statement.quantity == "level"]
    of_offset = [statement for statement in product if statement.quantity == "dn_offset"]
    applied = _applied(item)
    found = list(of_level)
    for band_asset in chosen:
        rasters = list(_rasters(item, band_asset, where, scale))
        if applied is not None and not band_asset.is_jp2:
            rasters = [statement for statement in rasters if statement.quantity != "dn_offset"]
            found += [*rasters, Statement(quantity="dn_offset", value=0.0, by=applied)]
        else:
            found += [*rasters, *of_offset]
    return tuple(found)


def nodata_of(chosen: Sequence[BandAsset], where: str) -> float | None:
    """Return the nodata value that an item declares; None if it declares none.

    Raises:
        ItemError: its assets have several.
    """
    values = {
        numbers.nodata
        for band_asset in chosen
        for numbers in band_asset.asset.numbers
        if numbers.nodata is not None
    }
    known = {"nan" if math.isnan(value) else value for value in values}
    if len(known) > 1:
        raise ItemError(
            where,
            f"has several values of nodata: {', '.join(map(str, sorted(known, key=str)))}",
            expected="one value for all bands",
        )
    return next(iter(values), None)


def _levels(item: Item) -> Iterator[Statement]:
    for name in _LEVELS:
        found = re.search(r"(1C|2A)(?![0-9A-Za-z])", (item.properties.text(name) or "").upper())
        if found:
            level = next(level for level in get_args(Level) if found[1] in level)
            yield Statement(quantity="level", value=level, by=name)


def _baselines(item: Item) -> Iterator[Statement]:
    for name in _BASELINES:
        text = item.properties.text(name) or ""
        found = re.fullmatch(r"N?(\d\d)\.?(\d\d)", text.strip())
        offset = offset_from((int(found[1]), int(found[2]))) if found else None
        if offset is not None:
            yield Statement(quantity="dn_offset", value=offset, by=f"{name} {text}")


def _named(item: Item, chosen: Sequence[BandAsset]) -> Iterator[Statement]:
    names = (item.id, *(item.properties.text(name) for name in _NAMES))
    for name in (*names, *(band_asset.asset.href for band_asset in chosen)):
        yield from named(product_in(name or ""))


def _applied(item: Item) -> str | None:
    """Return the property that states that the offset has been applied already, or None."""
    extra = item.properties.model_extra or {}
    return next((name for name in extra if _APPLIED.fullmatch(name) and extra[name] is True), None)


def _rasters(
    item: Item, band_asset: BandAsset, where: str, scale: float | None
) -> Iterator[Statement]:
    """Yield statements of the raster extension about the bands of an asset, or all assets."""
    common = item.properties
    several = len(band_asset.bands) > 1
    for number, numbers in enumerate(band_asset.asset.numbers):
        factor = common.scale if numbers.scale is None else numbers.scale
        offset = common.offset if numbers.offset is None else numbers.offset
        by = f"raster extension, {band_asset.key}" + (f", band {number + 1}" if several else "")
        real = (numbers.data_type or "").startswith("float")
        if factor is not None and (factor != 1 or real):
            if not 0 < factor <= 1:
                raise ItemError(
                    where,
                    f"has raster:scale {factor:g}",
                    detail=band_asset.key,
                    expected="reflectance per digital number, such as 0.0001",
                    remedy="correct the item",
                )
            unit = round(1 / factor, 6)
            yield Statement(quantity="scale", value=unit, by=by)
        else:
            # Writers that know no scale give 1.
            unit = scale or PRODUCT_SCALE
            if factor == 1 and offset == 0:
                continue
        if offset is not None:
            # Without a scale the offset may be in digital numbers: reflectance is below 1.
            whole = abs(offset) >= 1 and (factor is None or factor == 1)
            value = offset if whole else offset * unit
            yield Statement(quantity="dn_offset", value=round(value, 6) + 0.0, by=by)


def _require_sentinel_2(item: Item, where: str) -> None:
    for name in ("constellation", "platform"):
        text = item.properties.text(name)
        plain = re.sub(r"[^a-z0-9]", "", (text or "").lower())
        if text and "sentinel2" not in plain and not plain.startswith("s2"):
            raise ItemError(where, f"is of {text}", detail=name, expected="Sentinel-2")
