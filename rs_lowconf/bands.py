"""Sentinel-2 bands by name. Nothing in this project relies on a band's position.

torchgeo's EuroSAT files store B8A last; torchgeo's `Sentinel2` and ESA's products put it
after B08; pretrained weights spell `B1` and `B8a`. Red, green, blue and B08 are at the same
position in all of them, so a wrong order is invisible in true colour.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal, TypeVar, cast, get_args

from rs_lowconf.errors import DataError

Level = Literal["L1C", "L2A"]

Values = TypeVar("Values")
"""An array or a tensor of floats, or a float."""

EUROSAT_ORDER: Final = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B09",
    "B10",
    "B11",
    "B12",
    "B8A",
)

#: Native ground sampling distance in metres (Sentinel-2 User Handbook, table 1).
RESOLUTION_M: Final = {
    "B01": 60,
    "B02": 10,
    "B03": 10,
    "B04": 10,
    "B05": 20,
    "B06": 20,
    "B07": 20,
    "B08": 10,
    "B8A": 20,
    "B09": 60,
    "B10": 60,
    "B11": 20,
    "B12": 20,
}

#: Central wavelength of Sentinel-2A in nanometres (Sentinel-2 User Handbook, table 1).
WAVELENGTH_NM: Final = {
    "B01": 443,
    "B02": 490,
    "B03": 560,
    "B04": 665,
    "B05": 705,
    "B06": 740,
    "B07": 783,
    "B08": 842,
    "B8A": 865,
    "B09": 945,
    "B10": 1375,
    "B11": 1610,
    "B12": 2190,
}

PRODUCT_SCALE: Final = 10_000.0
"""Digital numbers per unit of reflectance in Sentinel-2 products, and in tiles that we write."""

TRUE_COLOUR: Final = ("B04", "B03", "B02")
NEAR_INFRARED: Final = ("B08", "B04", "B03")
SHORT_WAVE_INFRARED: Final = ("B12", "B8A", "B04")


@dataclass(frozen=True, kw_only=True)
class Composite:
    """Three bands shown as red, green and blue, always with the same stretch.

    A stretch fitted to each tile would hide that a generated tile is too bright or too flat.
    """

    name: str
    """Name in file names and reports."""
    caption: str
    """Title above the picture in reviews."""
    bands: tuple[str, str, str]
    """Bands shown as red, green and blue."""
    white: float
    """Reflectance shown at full brightness in plots; 0 is shown black. Reviews have others, see
    `review.composites`."""
    network_white: float
    """Reflectance that pretrained networks get as 255."""


#: The range of true colour for networks is that of EuroSAT's JPEGs, so that they see these as
#: stored; critics are trained with these ranges, so a change invalidates trained ones.
COMPOSITES: Final = {
    composite.name: composite
    for composite in (
        Composite(
            name="true_colour",
            caption="true colour",
            bands=TRUE_COLOUR,
            white=0.3,
            network_white=0.275,
        ),
        Composite(
            name="near_infrared",
            caption="NIR",
            bands=NEAR_INFRARED,
            white=0.4,
            network_white=0.5,
        ),
        Composite(
            name="short_wave_infrared",
            caption="SWIR",
            bands=SHORT_WAVE_INFRARED,
            white=0.4,
            network_white=0.5,
        ),
    )
}
"""By name, in the order in which they are shown."""


_BAND = re.compile(r"(?<![0-9A-Za-z])[Bb]0*(1[0-2]|8[Aa]|[1-9])(?![0-9A-Za-z])")


@cache
def known_band(text: str) -> str | None:
    """Return the band that a description begins with; None for anything else.

    A description with two bands, such as `B8 minus B4`, is computed from them and is not a band.

    Example:
        >>> known_band("B4, central wavelength 665 nm"), known_band("QA60")
        ('B04', None)
    """
    found = list(_BAND.finditer(text.strip()))
    if len(found) != 1 or found[0].start() > 0:
        return None
    core = found[0][1].upper()
    return f"B{core}" if core == "8A" else f"B{int(core):02d}"


def canonical_name(name: str) -> str:
    """Return `B04` for `B4`, `b04` or `B04 (red)`, and `B8A` for `B8a` or `B08A`.

    Raises:
        DataError: the name is not one of the 13 Sentinel-2 bands.
    """
    band = known_band(name)
    if band is None:
        raise DataError(
            f"band name {name!r} is unknown",
            expected=f"one of {', '.join(RESOLUTION_M)}",
        )
    return band


@dataclass(frozen=True, kw_only=True)
class BandSpec:
    """The bands of an array's channel axis, and how digital numbers become reflectance."""

    names: tuple[str, ...]
    """Canonical band names in channel order, each at most once."""

    level: Level
    """Processing level: L1C is top-of-atmosphere, L2A is surface reflectance."""

    scale: float = PRODUCT_SCALE
    """Digital numbers per unit of reflectance."""

    dn_offset: float = 0.0
    """Added to digital numbers before division: -1000 from processing baseline 04.00 on."""

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "names", tuple(canonical_name(name) for name in self.names))
        if not self.names:
            raise DataError("the band list is empty", expected="at least one band")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise DataError(f"bands named more than once: {', '.join(twice)}")
        if self.level not in get_args(Level):
            raise DataError(f"level {self.level!r} is unknown", expected="L1C or L2A")
        if not 0 < self.scale < math.inf:
            raise DataError(f"scale {self.scale} is not positive", expected="a finite number")
        if not math.isfinite(self.dn_offset):
            raise DataError(f"offset {self.dn_offset} is not a number")

    def __len__(self) -> int:
        """Return the number of bands."""
        return len(self.names)

    def reflectance(self, numbers: Values) -> Values:
        """Return the reflectance of digital numbers; they are divided here only."""
        values: Any = numbers
        reflectance: Values = (values + self.dn_offset) / self.scale
        return reflectance

    def numbers(self, reflectance: Values) -> Values:
        """Return the digital numbers of reflectance, not rounded."""
        values: Any = reflectance
        numbers: Values = values * self.scale - self.dn_offset
        return numbers

    @property
    def as_stored(self) -> "BandSpec":
        """Return the description of the same bands in a tile that we write."""
        return replace(self, scale=PRODUCT_SCALE, dn_offset=0.0)

    def index_of(self, wanted: Sequence[str]) -> tuple[int, ...]:
        """Return the channel of each wanted band: the only way to reorder bands.

        Raises:
            DataError: a wanted band is not among `names`.
        """
        names = [canonical_name(name) for name in wanted]
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                f"bands {', '.join(missing)} are missing",
                expected=f"them among the data's bands {', '.join(self.names)}",
            )
        return tuple(self.names.index(name) for name in names)

    def select(self, wanted: Sequence[str]) -> "BandSpec":
        """Return the description of the channels that `index_of(wanted)` picks."""
        return replace(self, names=tuple(self.names[i] for i in self.index_of(wanted)))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for a checkpoint or manifest."""
        return {
            "names": list(self.names),
            "level": self.level,
            "scale": self.scale,
            "dn_offset": self.dn_offset,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BandSpec":
        """Read what `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            return cls(
                names=tuple(values["names"]),
                level=cast("Level", values["level"]),
                scale=float(values["scale"]),
                dn_offset=float(values["dn_offset"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{values} does not describe bands ({error!r})") from error


def composites_of(bands: BandSpec) -> tuple[Composite, ...]:
    """Return the composites that the bands allow, true colour first; there may be none."""
    return tuple(each for each in COMPOSITES.values() if set(each.bands) <= set(bands.names))


def composites_or_grey(bands: BandSpec) -> tuple[Composite, ...]:
    """Return the composites that the bands allow; without any, the first band in grey."""
    first = bands.names[0]
    grey = Composite(
        name=first, caption=first, bands=(first, first, first), white=0.4, network_white=0.5
    )
    return composites_of(bands) or (grey,)
