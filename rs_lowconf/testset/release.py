"""A release of the test set: tiles that people accepted, with all data on each.

```
release.json      format, version, classes, bands, counts, licence, provenance, parent
labels.parquet    one row per tile: class, reviewers, round, target's prediction, checksum
tiles/            the GeoTIFFs as they were reviewed, byte by byte, each with a .qml
masks/            where pixels have classes: the masks that reviewers accepted, likewise
stac/             collection.json, items/ and labels/ of the label extension
DATASHEET.md      intended uses, and misuses
release.qgz       project for QGIS: contact.vrt (and mask.vrt) below labels.gpkg, not to be edited
SHA256SUMS        checksums of all other files, for `sha256sum -c`
```

A release never changes. Its content depends only on its inputs: no clock, no path, no host, so the
same tiles and reviews give the same checksums (with the same versions of SQLite, zlib and Arrow,
which affect the files they write).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError

FORMAT: Final = 1
FORMAT_OF_MASKS: Final = 2
"""Format of releases with masks, which older readers would misread."""

DESCRIPTION: Final = "release.json"
LABELS: Final = "labels.parquet"
CHECKSUMS: Final = "SHA256SUMS"

WARNING: Final = (
    "The tiles are SYNTHETIC and were selected for the low confidence of one target: accuracy on "
    "them is no estimate of accuracy in the field and must never be averaged with accuracy on "
    "real test data."
)

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_SAFE_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ReleaseMask:
    """An accepted mask."""

    path: Path
    """Its GeoTIFF: the index of each pixel's class, or `masks.UNKNOWN`."""

    sha256: str
    """Checksum of that GeoTIFF as it was exported for review."""

    classes: tuple[str, ...]
    """The classes that it shows, in the order of indices."""


@dataclass(frozen=True, kw_only=True)
class ReleaseTile:
    """An accepted tile."""

    sample_id: str
    """Names its files: letters, digits, - and _, at most 40."""

    path: Path
    """Its GeoTIFF: uint16 reflectance x 10000, marked SYNTHETIC, without georeference."""

    sha256: str
    """Checksum of that GeoTIFF, as shown to the reviewers."""

    class_name: str | None
    """The reviewers' class: the label. None where the label is a mask."""

    condition: str
    """The class for which the tile was generated, or the name of its mask."""

    predicted: str | None
    """The class that the searched target found most likely; None where it gives pixels a class."""

    confidence: float
    """The target's probability of `predicted`, or the mean over pixels of the largest one."""

    round: int
    """The round of search and review that the tile is from, starting at 1."""

    reviewers: tuple[str, ...]
    """Who agreed on the label, in alphabetical order."""

    reviewed_ms: int
    """Time of the deciding review; milliseconds since 1970, UTC."""

    realism: int | None
    """The reviewers' realism score, 1 to 5; None without one."""

    mask: ReleaseMask | None = None
    """The classes of its pixels: the label. None where the whole tile has a class."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """Its origin, such as the seed of its latent."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes that it shows: the reviewers' class, or those of its mask."""
        if self.mask is not None:
            return self.mask.classes
        return () if self.class_name is None else (self.class_name,)

    def __post_init__(self) -> None:
        """Check the fields."""
        if not _SAFE_ID.fullmatch(self.sample_id):
            raise DataError(
                f"sample id {self.sample_id!r} cannot name a file",
                expected="at most 40 letters, digits, - and _, not starting with - or _",
            )
        for name, fits, expected in (
            ("sha256", _SHA256.fullmatch(self.sha256), "64 hexadecimal digits"),
            ("class_name", (self.class_name is None) == bool(self.mask), "a class or a mask"),
            ("mask", self.mask is None or self.mask.classes, "a mask with known pixels"),
            ("confidence", 0 <= self.confidence <= 1, "a probability"),
            ("round", self.round >= 1, "1 or more"),
            ("reviewers", self.reviewers, "at least one"),
            ("reviewed_ms", self.reviewed_ms >= 1, "the time of the deciding answer"),
            ("realism", self.realism in (None, 1, 2, 3, 4, 5), "1 to 5 or none"),
        ):
            if not fits:
                raise DataError(
                    f"tile {self.sample_id} has the {name} {getattr(self, name)!r}",
                    expected=expected,
                    remedy="correct its review, or omit the tile",
                )


@dataclass(frozen=True, kw_only=True)
class ParentRelease:
    """The release that another one continues."""

    version: str

    checksum: str
    """SHA-256 of its SHA256SUMS."""

    added: tuple[str, ...]
    """Sample ids that are new."""

    removed: tuple[str, ...]
    """Sample ids that were removed."""

    relabelled: tuple[str, ...]
    """Sample ids whose class differs."""


FEW_TILES = 30
"""A release of fewer says little: see `Release.cautions`."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release on disk."""

    folder: Path

    version: str
    """Its name: that of the folder it was written to."""

    checksum: str
    """SHA-256 of SHA256SUMS, which stands for every file."""

    classes: tuple[str, ...]
    """The classes that reviewers could choose, or those of masks, in the order of indices."""

    pixelwise: bool
    """Whether the labels are masks."""

    bands: BandSpec
    """Bands of the tiles; digital numbers are reflectance x 10000."""

    attribution: str
    """Notice that the licence of the real data requires."""

    licence: str
    """SPDX identifier or text."""

    provenance: Mapping[str, str]
    """Origin of the tiles, such as checksums of models."""

    parent: ParentRelease | None
    """None for a first release."""

    tiles: tuple[ReleaseTile, ...]
    """In the order of classes, then of sample ids; with masks of sample ids alone."""

    @property
    def cautions(self) -> tuple[str, ...]:
        """Return what makes it a weak test: too few tiles, or labels that one person decided."""
        found = []
        if len(self.tiles) < FEW_TILES:
            # Clopper and Pearson's of 15 out of 30 is 31 .. 69 %.
            found.append(
                f"{len(self.tiles):,} tiles are too few to compare targets: below {FEW_TILES}, the "
                "95 % interval of an accuracy can be more than 37 % wide"
            )
        people = {name for tile in self.tiles for name in tile.reviewers}
        if len(people) == 1:
            found.append(
                "one reviewer decided all labels: nobody knows how often another would disagree"
            )
        elif all(len(tile.reviewers) == 1 for tile in self.tiles):
            found.append("every label is one reviewer's: no tile was judged twice")
        return tuple(found)


def check_version(version: str) -> str:
    """Return the name of a release, checked.

    Raises:
        DataError: it cannot name a folder and a STAC collection.
    """
    if not _SAFE_VERSION.fullmatch(version):
        raise DataError(
            f"{version!r} cannot name a release",
            expected="at most 64 letters, digits, ., - and _, such as v1",
        )
    return version


def counts(tiles: Sequence[ReleaseTile], classes: Sequence[str]) -> dict[str, Any]:
    """Return numbers of tiles: per class, per round, and per class and round.

    A tile with a mask counts for every class that the mask shows.
    """
    by_round = Counter(tile.round for tile in tiles)
    rounds = sorted(by_round)
    both = Counter((name, tile.round) for tile in tiles for name in tile.classes)
    return {
        "class": {name: sum(both[name, number] for number in rounds) for name in classes},
        "round": {str(number): by_round[number] for number in rounds},
        "class_and_round": {
            name: {str(number): both[name, number] for number in rounds} for name in classes
        },
    }


def compare(
    version: str, checksum: str, before: Iterable[ReleaseTile], now: Iterable[ReleaseTile]
) -> ParentRelease:
    """Return the comparison of the tiles `now` with their parent release."""
    old, new = (
        {tile.sample_id: tile.mask.sha256 if tile.mask else tile.class_name for tile in tiles}
        for tiles in (before, now)
    )
    return ParentRelease(
        version=version,
        checksum=checksum,
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        relabelled=tuple(
            sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
        ),
    )
