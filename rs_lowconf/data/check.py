"""Checks every file of every split before hours of training are spent on them."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import (
    SPLITS,
    EuroSATSplit,
    FolderSplit,
    Split,
    TileFile,
    absent_files,
    list_files,
    open_dataset,
    require_classes,
)
from rs_lowconf.data.left_out import LeftOut, joined
from rs_lowconf.data.mixtures import Spectra
from rs_lowconf.data.pictures import PictureSplit, list_pictures, picture_tile
from rs_lowconf.data.radiometry import (
    BandRange,
    BandStatistics,
    picture_warnings,
    radiometric_warnings,
)
from rs_lowconf.data.sources import refuse_moved, splits_by_name
from rs_lowconf.data.tiles import (
    FileProfile,
    Tile,
    TileError,
    problems_of,
    read_profile,
    read_tile,
    require_same_bands,
    said_of,
    used_bands,
)
from rs_lowconf.settings import ClassedTiles, PictureData, Tiles, further_sources


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitListing:
    """The files of one split."""

    split: Split
    dataset: EuroSATSplit | FolderSplit | PictureSplit
    files: tuple[TileFile, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileRecord:
    """What was found in one file."""

    split: Split
    file: TileFile
    profile: FileProfile | None
    """None when the file cannot be opened."""
    tile: Tile | None
    """None when its bands or pixels cannot be read."""
    bands: BandSpec | None
    """The bands to use, None with `tile`."""
    errors: tuple[TileError, ...]
    """Why the file cannot be used; empty when it can."""
    meaning: str | None
    """What its digital numbers mean, the source of this, and what is nodata; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem, with all the files that have it."""

    severity: Literal["error", "warning"]
    """An error keeps a file or a class from being used."""
    text: str
    files: tuple[str, ...] = ()
    """Path below the data set's root, with details; empty when it is about the whole set."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `rslow data check` shows and saves."""

    classes: tuple[str, ...]
    usable: Mapping[Split, tuple[int, ...]]
    """Files that can be used, by split, in the order of `classes`."""
    unusable: Mapping[Split, int]
    bands: BandSpec | None
    """The bands in use; None when no file can be used."""
    ranges: Mapping[str, BandRange]
    """Reflectance by band, nodata pixels not counted."""
    nodata_share: float
    """Share of nodata among the pixels of usable files."""
    nodata_tiles: int
    crs: Mapping[str, int]
    """Tiles by coordinate reference system; "none" without georeference."""
    sizes: Mapping[str, int]
    """Tiles by height x width in pixels."""
    pixel_size: tuple[float, float] | None
    """Smallest and largest side of a pixel, in the unit of the coordinate reference system."""
    dtypes: Mapping[str, int]
    findings: tuple[Finding, ...]
    """Errors first."""
    left_out: tuple[str, ...]
    """Files in the folders that are not used, counted: one line per reason."""
    meanings: Mapping[str, int]
    """Number of files by what their digital numbers mean, the source of this, and their nodata."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {**asdict(self), "bands": self.bands.to_json() if self.bands else None}


def list_splits(
    settings: Tiles,
    *,
    classes: tuple[str, ...] | None = None,
    known: Mapping[str, Split] | None = None,
) -> tuple[SplitListing, ...]:
    """List all splits; EuroSAT is downloaded when asked for.

    Args:
        settings: of the data.
        classes: the class list to use; when missing, that of the settings.
        known: see `pictures.list_pictures`.

    Raises:
        SettingsError: these data have no class per tile.
        DataError: there is no such data set.
    """
    if isinstance(settings, PictureData):
        pictures = list_pictures(settings, classes=classes, known=known)
        return tuple(
            SplitListing(split=split, dataset=dataset, files=dataset.files)
            for split, dataset in pictures.items()
        )
    if classes is not None:
        settings = settings.model_copy(update={"classes": classes})
    listings = []
    for split in SPLITS:
        dataset = open_dataset(settings, split)
        listings.append(SplitListing(split=split, dataset=dataset, files=list_files(dataset)))
    return tuple(listings)


def list_sources(settings: Tiles) -> list[tuple[ClassedTiles, tuple[SplitListing, ...]]]:
    """List the files of data with one class per tile, and of the sources in their `more`.

    Args:
        settings: of the data.

    Returns:
        The settings and the splits of each source.

    Raises:
        SettingsError: these data have no class per tile.
        DataError: there is no such data set, or one name is in different splits of two sources.
    """
    splits = list_splits(settings)
    first = require_classes(settings)
    classes = tuple(splits[0].dataset.classes)
    known = splits_by_name((listing.split, listing.files) for listing in splits)
    found = [(first, splits)]
    for source in further_sources(settings):
        listings = list_splits(source, classes=classes, known=known)
        for listing in listings:
            ids = [file.tile_id for file in listing.files]
            refuse_moved(ids, listing.split, known, source, first.root)
        found.append((source, listings))
    return found


def left_out_of(listings: tuple[SplitListing, ...]) -> LeftOut:
    """Return what the listings of all splits leave out; several may list the same folders."""
    by_folder = {str(listing.dataset.root): listing.dataset.left_out for listing in listings}
    return joined(by_folder.values())


def check_files(settings: ClassedTiles, listings: tuple[SplitListing, ...]) -> Iterator[FileRecord]:
    """Read every file and say what is wrong with it."""
    bands: BandSpec | None = None
    for listing in listings:
        for index, file in enumerate(listing.files):
            record = _look_at(settings, listing, index, file, bands)
            if bands is None and not record.errors:
                bands = record.bands
            yield record


class Tally:
    """Adds up the records of a data set; keeps no pixels."""

    def __init__(self, settings: ClassedTiles, listings: tuple[SplitListing, ...]) -> None:
        """Start before the first record."""
        self._settings = settings
        self._listings = listings
        self._classes = tuple(listings[0].dataset.classes)
        self._usable: Counter[tuple[Split, int]] = Counter()
        self._unusable: Counter[Split] = Counter()
        self._statistics: BandStatistics | None = None
        self._pixels = self._nodata_pixels = self._nodata_tiles = 0
        self._crs: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._pixel_size: tuple[float, float] | None = None
        self._dtypes: Counter[str] = Counter()
        self._meanings: Counter[str] = Counter()
        self._spectra: Spectra | None = None
        self._twins: dict[bytes, list[tuple[Split, TileFile]]] = {}
        self._errors: dict[str, list[str]] = {}
        self._warnings: dict[str, list[str]] = {}

    def add(self, record: FileRecord) -> None:
        """Count one file."""
        if record.profile is not None:
            self._count_format(record.profile)
        if record.meaning is not None:
            self._meanings[record.meaning] += 1
        for error in record.errors:
            self._errors.setdefault(error.kind, []).append(
                self._name(record.file) + (f" ({error.detail})" if error.detail else "")
            )
        if record.errors or record.tile is None or record.bands is None:
            self._unusable[record.split] += 1
        else:
            self._usable[record.split, record.file.label] += 1
            self._count_pixels(record, record.tile, record.bands)

    def report(self) -> CheckReport:
        """Return what has been found so far."""
        usable = {
            split: tuple(self._usable[split, label] for label in range(len(self._classes)))
            for split in SPLITS
        }
        statistics = self._statistics
        ranges = statistics.ranges() if statistics else {}
        errors = [
            *self._missing_classes(usable),
            *(_finding("error", text, files) for text, files in self._errors.items()),
        ]
        suspicious = (
            picture_warnings if isinstance(self._settings, PictureData) else radiometric_warnings
        )
        radiometric = suspicious(statistics.bands, ranges) if statistics else []
        mixtures = self._spectra.mixtures() if self._spectra else ()
        warnings = [
            *(_finding("warning", text, []) for text in radiometric),
            *(_finding("warning", mixture.text, [*mixture.files]) for mixture in mixtures),
            *self._absent(),
            *self._duplicates(),
            *(_finding("warning", text, files) for text, files in self._warnings.items()),
        ]
        return CheckReport(
            classes=self._classes,
            usable=usable,
            unusable={split: self._unusable[split] for split in SPLITS},
            bands=statistics.bands if statistics else None,
            ranges=ranges,
            nodata_share=self._nodata_pixels / max(self._pixels, 1),
            nodata_tiles=self._nodata_tiles,
            crs=dict(self._crs.most_common()),
            sizes=dict(self._sizes.most_common()),
            pixel_size=self._pixel_size,
            dtypes=dict(self._dtypes.most_common()),
            findings=(*errors, *warnings),
            left_out=tuple(left_out_of(self._listings).lines()),
            meanings=dict(self._meanings.most_common()),
        )

    def _count_format(self, profile: FileProfile) -> None:
        self._sizes[f"{profile.height} x {profile.width}"] += 1
        self._dtypes[profile.dtype] += 1
        if profile.grid is None:
            self._crs["none"] += 1
        else:
            self._crs[profile.grid.crs] += 1
            a, b, _, d, e, _ = profile.grid.transform
            sides = (math.hypot(a, d), math.hypot(b, e), *(self._pixel_size or ()))
            self._pixel_size = (min(sides), max(sides))

    def _count_pixels(self, record: FileRecord, tile: Tile, bands: BandSpec) -> None:
        if self._statistics is None or self._spectra is None:
            self._statistics, self._spectra = BandStatistics(bands), Spectra(bands)
        bands = self._statistics.bands
        numbers = tile.select(bands)
        digest = hashlib.sha256(numbers.numpy().tobytes()).digest()
        self._twins.setdefault(digest, []).append((record.split, record.file))
        nodata = tile.nodata
        self._pixels += nodata.numel()
        self._nodata_pixels += int(nodata.sum())
        self._nodata_tiles += bool(nodata.any())
        valid = numbers[:, ~nodata]
        reflectance = (valid + bands.dn_offset) / bands.scale
        self._statistics.add(reflectance)
        if record.profile is not None and record.profile.dtype != "uint8":
            # 8-bit files are pictures, each stretched by itself: an offset of 1000 does not fit.
            self._spectra.add(self._name(record.file), reflectance)
        for name, values in zip(self._statistics.bands.names, valid, strict=True):
            if values.min() == values.max():
                self._warnings.setdefault(f"{name} is constant over the whole tile", []).append(
                    f"{self._name(record.file)} ({values[0]:g})"
                )

    def _missing_classes(self, usable: Mapping[Split, tuple[int, ...]]) -> Iterator[Finding]:
        for split, counts in usable.items():
            missing = [
                name for name, count in zip(self._classes, counts, strict=True) if count == 0
            ]
            if missing:
                yield _finding(
                    "error", f"the {split} split has no usable tile of {', '.join(missing)}", []
                )

    def _absent(self) -> Iterator[Finding]:
        for listing in self._listings:
            absent = absent_files(listing.dataset)
            if absent:
                yield _finding(
                    "warning",
                    f"{absent:,} of the files that EuroSAT's list of the {listing.split} split "
                    "names are not on disk; unpack the archive again unless you want a subset",
                    [],
                )

    def _duplicates(self) -> Iterator[Finding]:
        groups = [group for group in self._twins.values() if len(group) > 1]
        leaks = [group for group in groups if len({split for split, _ in group}) > 1]
        within = [group for group in groups if group not in leaks]
        for text, some in (
            ("the same pixels are in two splits, which inflates scores", leaks),
            ("the same pixels are in one split more than once", within),
        ):
            if some:
                lines = [" = ".join(f"{self._name(f)} ({split})" for split, f in g) for g in some]
                yield _finding("warning", text, lines)
        torn = [group for group in groups if len({file.label for _, file in group}) > 1]
        if torn:
            lines = [" = ".join(self._name(file) for _, file in group) for group in torn]
            yield _finding("warning", "the same pixels have two classes", lines)

    def _name(self, file: TileFile) -> str:
        return file.tile_id + file.path.suffix


def _look_at(
    settings: ClassedTiles,
    listing: SplitListing,
    index: int,
    file: TileFile,
    bands: BandSpec | None,
) -> FileRecord:
    profile, tile, used, meaning = None, None, None, None
    try:
        if isinstance(settings, PictureData):
            tile = picture_tile(file.path, settings)
            profile, meaning = tile.profile, _said_of_picture(tile.bands)
            used, max_nodata = tile.bands, 0.0
        else:
            assert not isinstance(listing.dataset, PictureSplit)  # noqa: S101  # see `list_splits`
            profile = read_profile(file.path)
            meaning = said_of(settings, profile)
            tile = read_tile(settings, listing.dataset, index, profile)
            used, max_nodata = used_bands(settings, file.path, tile.bands), settings.max_nodata
        require_same_bands(file.path, used, bands or used)
        errors = problems_of(tile, settings.tile_size, max_nodata)
    except TileError as error:
        errors = [error]
    return FileRecord(
        split=listing.split,
        file=file,
        profile=profile,
        tile=tile,
        bands=used,
        errors=tuple(errors),
        meaning=meaning,
    )


def _said_of_picture(bands: BandSpec) -> str:
    low, high = ((byte + bands.dn_offset) / bands.scale for byte in (0, 255))
    return f"bytes 0 .. 255 as reflectance {low:.4g} .. {high:.4g} (data.reflectance); no nodata"


def _finding(severity: Literal["error", "warning"], text: str, files: list[str]) -> Finding:
    return Finding(severity=severity, text=text, files=tuple(files))
