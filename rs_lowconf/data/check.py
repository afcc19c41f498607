"""Checks every file of every split before hours of training are spent on them."""

import hashlib
import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
from rs_lowconf.data.mixtures import Finding
from rs_lowconf.data.pictures import PictureSplit, list_pictures, picture_tile
from rs_lowconf.data.radiometry import (
    BandRange,
    picture_warnings,
    radiometric_warnings,
)
from rs_lowconf.data.sources import refuse_moved, splits_by_name
from rs_lowconf.data.tally import Tally
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
        return {
            **asdict(self),
            "bands": self.bands.to_json() if self.bands else None,
            "findings": [finding.to_json("files") for finding in self.findings],
        }


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


def check_tiles(
    settings: ClassedTiles, listings: tuple[SplitListing, ...]
) -> Generator[int, None, CheckReport]:
    """Read every file, yield 1 after each, and return what is in them and wrong with them."""
    found = _Files(settings, listings)
    for listing in listings:
        for index, file in enumerate(listing.files):
            found.read(listing, index, file)
            yield 1
    return found.report()


class _Files:
    """Adds up the files of a data set."""

    def __init__(self, settings: ClassedTiles, listings: tuple[SplitListing, ...]) -> None:
        self._settings = settings
        self._listings = listings
        self._classes = tuple(listings[0].dataset.classes)
        self._tally = Tally()
        self._usable: Counter[tuple[Split, int]] = Counter()
        self._unusable: Counter[Split] = Counter()
        self._pixels = self._nodata_pixels = self._nodata_tiles = 0
        self._crs: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._pixel_size: tuple[float, float] | None = None
        self._dtypes: Counter[str] = Counter()
        self._meanings: Counter[str] = Counter()
        self._twins: dict[bytes, list[tuple[Split, TileFile]]] = {}

    def read(self, listing: SplitListing, index: int, file: TileFile) -> None:
        """Read one file and count it, as usable or by what is wrong with it."""
        try:
            tile, bands, max_nodata = self._opened(listing, index, file)
            require_same_bands(file.path, bands, self._tally.bands or bands)
            errors = problems_of(tile, self._settings.tile_size, max_nodata)
        except TileError as error:
            errors = [error]
        for problem in errors:
            detail = f" ({problem.detail})" if problem.detail else ""
            self._tally.note("error", problem.kind, _name(file) + detail)
        if errors:
            self._unusable[listing.split] += 1
        else:
            self._usable[listing.split, file.label] += 1
            self._count_pixels(listing.split, file, tile, self._tally.bands or bands)

    def report(self) -> CheckReport:
        """Return what has been found so far."""
        usable = {
            split: tuple(self._usable[split, label] for label in range(len(self._classes)))
            for split in SPLITS
        }
        pictures = isinstance(self._settings, PictureData)
        return CheckReport(
            classes=self._classes,
            usable=usable,
            unusable={split: self._unusable[split] for split in SPLITS},
            bands=self._tally.bands,
            ranges=self._tally.ranges,
            nodata_share=self._nodata_pixels / max(self._pixels, 1),
            nodata_tiles=self._nodata_tiles,
            crs=dict(self._crs.most_common()),
            sizes=dict(self._sizes.most_common()),
            pixel_size=self._pixel_size,
            dtypes=dict(self._dtypes.most_common()),
            findings=(
                *self._missing_classes(usable),
                *self._tally.noted("error"),
                *self._tally.implausible(picture_warnings if pictures else radiometric_warnings),
                *self._tally.mixtures(),
                *self._absent(),
                *self._duplicates(),
                *self._tally.noted("warning"),
            ),
            left_out=tuple(left_out_of(self._listings).lines()),
            meanings=dict(self._meanings.most_common()),
        )

    def _opened(
        self, listing: SplitListing, index: int, file: TileFile
    ) -> tuple[Tile, BandSpec, float]:
        """Return a tile, the bands to use and the most nodata, and count the format of its file.

        Raises:
            TileError: the file cannot be used.
        """
        settings = self._settings
        if isinstance(settings, PictureData):
            tile = picture_tile(file.path, settings)
            self._count_format(tile.profile)
            self._meanings[_said_of_picture(tile.bands)] += 1
            return tile, tile.bands, 0.0
        assert not isinstance(listing.dataset, PictureSplit)  # noqa: S101  # see `list_splits`
        profile = read_profile(file.path)
        self._count_format(profile)
        self._meanings[said_of(settings, profile)] += 1
        tile = read_tile(settings, listing.dataset, index, profile)
        return tile, used_bands(settings, file.path, tile.bands), settings.max_nodata

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

    def _count_pixels(self, split: Split, file: TileFile, tile: Tile, bands: BandSpec) -> None:
        numbers, nodata, name = tile.select(bands), tile.nodata, _name(file)
        digest = hashlib.sha256(numbers.numpy().tobytes()).digest()
        self._twins.setdefault(digest, []).append((split, file))
        self._pixels += nodata.numel()
        self._nodata_pixels += int(nodata.sum())
        self._nodata_tiles += bool(nodata.any())
        constant = self._tally.add(
            bands, numbers[:, ~nodata], file=name, picture=tile.profile.dtype == "uint8"
        )
        for band, number in constant.items():
            self._tally.note(
                "warning", f"{band} is constant over the whole tile", f"{name} ({number:g})"
            )

    def _missing_classes(self, usable: Mapping[Split, tuple[int, ...]]) -> Iterator[Finding]:
        for split, counts in usable.items():
            missing = [
                name for name, count in zip(self._classes, counts, strict=True) if count == 0
            ]
            if missing:
                text = f"the {split} split has no usable tile of {', '.join(missing)}"
                yield Finding(severity="error", text=text)

    def _absent(self) -> Iterator[Finding]:
        for listing in self._listings:
            absent = absent_files(listing.dataset)
            if absent:
                yield Finding(
                    severity="warning",
                    text=f"{absent:,} of the files that EuroSAT's list of the {listing.split} "
                    "split names are not on disk; unpack the archive again unless you want a "
                    "subset",
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
                lines = (" = ".join(f"{_name(f)} ({split})" for split, f in g) for g in some)
                yield Finding(severity="warning", text=text, names=tuple(lines))
        torn = [group for group in groups if len({file.label for _, file in group}) > 1]
        if torn:
            lines = (" = ".join(_name(file) for _, file in group) for group in torn)
            text = "the same pixels have two classes"
            yield Finding(severity="warning", text=text, names=tuple(lines))


def _name(file: TileFile) -> str:
    return file.tile_id + file.path.suffix


def _said_of_picture(bands: BandSpec) -> str:
    low, high = ((byte + bands.dn_offset) / bands.scale for byte in (0, 255))
    return f"bytes 0 .. 255 as reflectance {low:.4g} .. {high:.4g} (data.reflectance); no nodata"
