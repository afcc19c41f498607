"""The distribution of reflectance in a data set, and whether it is plausible."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import TRUE_COLOUR, BandSpec

_STEP = 1e-4
_LOWEST, _HIGHEST = -1.0, 7.0

#: The median of any band of a data set is below this, unless everything is cloud or snow.
_MOST_USUAL = 1.0
#: Reflectance of the brightest band over land.
_USUAL = 0.3
_DIM = 0.03
"""Data of any land have values above this in some band."""
_VISIBLE_USUAL = 0.3
"""The median of a visible band is rarely above this; land is brighter in near infrared."""
_SCALES = {
    1.0: "1 fits files that hold reflectance",
    100.0: "100 fits percentages",
    255.0: "255 fits some pictures",
    10_000.0: "Sentinel-2 products have 10000",
    65_535.0: "65535 fits numbers that fill 0 .. 65535",
}
#: Digital numbers of 1000 too many or too few, as reflectance.
_OFFSET = 0.1
#: First percentile of the darkest band. Water and shadow reflect about 0.01 in the short-wave #:
#: infrared; with a forgotten offset nothing lies below 0.1.
_TOO_BRIGHT = 0.09
_TOO_DARK = -0.03


@dataclass(frozen=True, kw_only=True)
class BandRange:
    """The distribution of one band's reflectance over all usable pixels."""

    minimum: float
    p1: float
    median: float
    p99: float
    maximum: float


class BandStatistics:
    """Quantiles of every band from histograms: memory does not grow with the data.

    Quantiles are exact to 0.0001 of reflectance, one digital number of Sentinel-2; the
    outermost bins count everything outside -1 .. 7.
    """

    def __init__(self, bands: BandSpec) -> None:
        """Start without a pixel."""
        self.bands = bands
        bins = round((_HIGHEST - _LOWEST) / _STEP) + 1
        self._counts = np.zeros((len(bands), bins), dtype=np.int64)
        self._minimum = np.full(len(bands), np.inf)
        self._maximum = np.full(len(bands), -np.inf)

    def add(self, reflectance: Float[Tensor, "c n"]) -> None:
        """Count the pixels of a tile, in the order of `bands`."""
        values = reflectance.numpy().astype(np.float64)
        self._minimum = np.minimum(self._minimum, values.min(axis=1))
        self._maximum = np.maximum(self._maximum, values.max(axis=1))
        clipped = np.clip(values, _LOWEST, _HIGHEST)
        bins = np.rint((clipped - _LOWEST) / _STEP).astype(np.int64)
        for counts, band_bins in zip(self._counts, bins, strict=True):
            first = band_bins.min()
            found = np.bincount(band_bins - first)
            counts[first : first + len(found)] += found

    def ranges(self) -> dict[str, BandRange]:
        """Return the range of each band by name; empty without a pixel."""
        if not self._counts.any():
            return {}
        return {name: self._range(i) for i, name in enumerate(self.bands.names)}

    def _range(self, band: int) -> BandRange:
        below = np.cumsum(self._counts[band])
        bins = [int(np.searchsorted(below, share * below[-1])) for share in (0.01, 0.5, 0.99)]
        p1, median, p99 = (round(_LOWEST + i * _STEP, 4) for i in bins)
        return BandRange(
            minimum=float(self._minimum[band]),
            p1=p1,
            median=median,
            p99=p99,
            maximum=float(self._maximum[band]),
        )


def picture_warnings(bands: BandSpec, ranges: Mapping[str, BandRange]) -> list[str]:
    """Return warnings about the range of reflectance that bytes stand for."""
    if not ranges:
        return []
    brightest = max(band.p99 for band in ranges.values())
    bright = [
        (band.median, name)
        for name, band in ranges.items()
        if band.median > (_VISIBLE_USUAL if name in TRUE_COLOUR else _MOST_USUAL)
    ]
    white = bands.reflectance(255.0)
    if brightest < _DIM:
        return [
            f"99 % of all values are below {brightest:.4f}: probably data.reflectance ends at too "
            f"small a value, {white:.3g}; 0.3 is usual for true colour"
        ]
    if bright:
        usual, name = max(bright)
        return [
            f"half the values of {name} are above {usual:.2g}: probably data.reflectance ends at "
            f"too large a value, {white:.3g}, unless all is cloud or snow; 0.3 is usual for true "
            "colour"
        ]
    return []


def radiometric_warnings(bands: BandSpec, ranges: Mapping[str, BandRange]) -> list[str]:
    """Return warnings about scale, offset and level, with their certainty."""
    if not ranges:
        return []
    found = [*_level_warnings(bands, set(ranges))]
    brightest = max(band.p99 for band in ranges.values())
    if brightest < _DIM:
        return [
            *found,
            f"99 % of all values are below {brightest:.4f}: nearly certainly data.scale="
            f"{bands.scale:g} is too large; 1 fits files that hold reflectance, 255 some pictures",
        ]
    usual = max(band.median for band in ranges.values())
    if usual > _MOST_USUAL:
        sure = "nearly certainly" if usual > _MOST_USUAL * 2 else "probably"
        fits = min(_SCALES, key=lambda scale: abs(math.log(usual * bands.scale / scale / _USUAL)))
        return [
            *found,
            f"half the values of a band are above {usual:.2g}: {sure} data.scale={bands.scale:g} "
            f"is too small, unless all is cloud or snow; {_SCALES[fits]}",
        ]
    darkest = min(ranges, key=lambda name: ranges[name].p1)
    floor = ranges[darkest].p1
    if floor >= _TOO_BRIGHT:
        found.append(
            f"no band is darker than {floor:.3f} (1 % of {darkest}): {_sureness(ranges, floor)} an "
            "offset of 1000 was left in; set data.dn_offset=-1000 if the products are of "
            "processing baseline 04.00 or later"
        )
    if floor <= _TOO_DARK:
        sure = "nearly certainly" if floor <= 0.8 * -_OFFSET else "probably"
        cause = (
            f"data.dn_offset={bands.dn_offset:g} is applied to data that have no offset or had "
            "it removed already; try data.dn_offset=0"
            if bands.dn_offset < 0
            else "an offset was subtracted twice before the files were written"
        )
        found.append(
            f"1 % of {darkest} is below {floor:.3f}, a negative reflectance: {sure} {cause}"
        )
    return found


def _sureness(ranges: Mapping[str, BandRange], floor: float) -> str:
    """Return how certain a missing offset is, from bands that are known to be dark somewhere."""
    if floor < 1.5 * _OFFSET:
        if "B10" in ranges:
            return "nearly certainly (B10 does not see the ground and should be about 0.00)"
        if {"B11", "B12"} & set(ranges):
            return "probably (water and shadow should be below 0.02 in B11 and B12)"
    return "possibly (the tiles may just be bright)"


def _level_warnings(bands: BandSpec, names: set[str]) -> list[str]:
    if bands.level == "L2A" and "B10" in names:
        return ["B10 is among the bands, which L2A products lack: probably data.level is L1C"]
    if bands.level == "L1C" and len(names) == 12 and "B10" not in names:
        return ["only B10 is missing, as in L2A products: probably data.level should be L2A"]
    return []
