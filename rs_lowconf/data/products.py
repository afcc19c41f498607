"""Reads processing level and processing baseline from the names of Sentinel-2 products.

ESA's names carry both, such as
`S2B_MSIL2A_20230701T103629_N0509_R008_T32UPU_20230701T135112.SAFE`; those of granules, of STAC
items and of downloads from portals often carry only the level.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import cast

from rs_lowconf.bands import Level
from rs_lowconf.errors import DataError

_WITH_OFFSET = (4, 0)
"""The first baseline whose digital numbers are 1000 too high: RADIO_ADD_OFFSET, BOA_ADD_OFFSET."""
_OFFSET = -1000.0
_TOOLBOX = (99, 99)
"""The baseline of products that a user made with Sen2Cor, whose version decides on the offset."""

_TILE = r"T?\d{1,2}[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]"
#: Unmistakable names: these count in the names of folders, too.
_PRODUCTS = (
    rf"S2[A-D]_MSIL(?P<level>1C|2A)_\d{{8}}T\d{{6}}(?:_N(?P<baseline>\d{{4}}))?_R\d{{3}}_{_TILE}",
    r"S2[A-D]_\w{4}_(?:PRD|MTD)_MSIL?(?P<level>1C|2A)",
    rf"S2[A-D]_\w{{4}}_MSI_L(?P<level>1C|2A)_T[LC]_\w+_{_TILE}(?:_N(?P<baseline>\d\d\.\d\d))?",
    rf"L(?P<level>1C|2A)_{_TILE}_A\d{{6}}_\d{{8}}T\d{{6}}",
    rf"S2[A-D]_{_TILE}_\d{{8}}_\d+_L(?P<level>1C|2A)",
    rf"SENTINEL2[A-D]_\d{{8}}-\d{{6}}-\d{{3}}_L(?P<level>2A)_{_TILE}",
)
#: How file names abbreviate the level.
_WORDS = (r"(?:S2|Sentinel-?2)[_-]?(?:MSI)?[_-]?L?(?P<level>1C|2A)",)
_BEFORE, _AFTER = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(f"{_BEFORE}{pattern}{_AFTER}", re.IGNORECASE | re.ASCII) for pattern in patterns
    )


_IN_FOLDERS = _compiled(_PRODUCTS)
_IN_FILES = _compiled((*_PRODUCTS, *_WORDS))


@dataclass(frozen=True, kw_only=True)
class ProductName:
    """What the name of a product states."""

    text: str
    """The part of the name that states it."""
    level: Level
    baseline: tuple[int, int] | None
    """Major and minor number; None if the name has none."""

    @property
    def dn_offset(self) -> float | None:
        """Offset to add to the product's digital numbers; None if the name does not state it."""
        return None if self.baseline is None else offset_from(self.baseline)

    @property
    def words(self) -> str:
        """Level and baseline as text."""
        if self.baseline is None:
            return self.level
        major, minor = self.baseline
        return f"{self.level}, baseline {major:02d}.{minor:02d}"


def offset_from(baseline: tuple[int, int]) -> float | None:
    """Return the offset to add to digital numbers of a baseline; None if it depends on the user."""
    if baseline == _TOOLBOX:
        return None
    return _OFFSET if baseline >= _WITH_OFFSET else 0.0


def product_in(path: PurePath | str) -> ProductName | None:
    """Return what the name of a file, or of its folders, states about its product.

    Folders count if named as by ESA or archives, files also by abbreviations such as
    `Sentinel-2_L2A`. A name with a baseline takes precedence over one without.

    Raises:
        DataError: the names contradict each other.

    Example:
        >>> name = product_in("S2B_MSIL2A_20230701T103629_N0509_R008_T32UPU_20230701T135112.SAFE")
        >>> name.level, name.dn_offset
        ('L2A', -1000.0)
    """
    *folders, name = PurePath(path).parts or ("",)
    return _joined(name, tuple(folders))


@lru_cache(maxsize=1024)
def _joined(name: str, folders: tuple[str, ...]) -> ProductName | None:
    """Join the names of a file and its folders, the nearest first."""
    found = list(_products_in(name, _IN_FILES))
    for folder in reversed(folders):
        found += _products_in(folder, _IN_FOLDERS)
    levels = dict.fromkeys(product.level for product in found)
    dated = [product for product in found if product.baseline is not None]
    if len(levels) > 1 or len({product.baseline for product in dated}) > 1:
        raise DataError(
            f"the names {' and '.join(dict.fromkeys(product.text for product in found))} "
            "contradict each other",
            expected="one level and one baseline",
        )
    return next(iter([*dated, *found]), None)


def _products_in(text: str, patterns: Iterable[re.Pattern[str]]) -> Iterator[ProductName]:
    for pattern in patterns:
        for match in pattern.finditer(text):
            digits = (match.groupdict().get("baseline") or "").replace(".", "")
            yield ProductName(
                text=match[0],
                level=cast("Level", f"L{match['level'].upper()}"),
                baseline=(int(digits[:2]), int(digits[2:])) if digits else None,
            )
