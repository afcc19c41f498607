"""Cuts images into the rows of a catalog. Every tile is read once: for nodata and checksum."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import shapely
from rasterio.warp import transform as to_crs

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.catalog.reading import read_content
from rs_lowconf.data.catalog.rows import BandFile, CatalogRow, SourceImage
from rs_lowconf.data.catalog.sources import date_in
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.masks import Cut, open_pictures, split_cuts, too_empty
from rs_lowconf.data.tiles import (
    FileProfile,
    TileError,
    band_names,
    meaning_of_files,
    read_profile,
    said_of,
    said_of_pixels,
)
from rs_lowconf.data.windows import grid_at, grid_windows, require_place, require_size
from rs_lowconf.settings import MaskData, Rasters

#: In pixels: by how much the corners of files of other resolutions may differ from the first's.
_SLACK = 0.01


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts what a build uses and what it leaves out."""

    left_out: LeftOut
    meanings: Counter[str] = field(default_factory=Counter)
    """Number of images by what their digital numbers mean and the source of this."""


def rows_of(
    image: SourceImage, settings: Rasters, collection: str, account: Account
) -> Iterator[CatalogRow]:
    """Yield the tiles of an image with enough valid pixels, row by row of its grid.

    Args:
        image: to cut.
        settings: of the data.
        collection: prefix of the tiles' names.
        account: counts the other tiles, and the meaning of the image's digital numbers.

    Raises:
        TileError: a file cannot be used.
    """
    first, files, bands, meaning = _opened(image, settings)
    account.meanings[meaning] += 1
    side = settings.tile_size
    require_size(first, side)
    for window in grid_windows(first.height, first.width, side, settings.stride or side):
        row = CatalogRow(
            tile_id=f"{collection}/{image.name}_r{window.row:05d}_c{window.col:05d}",
            collection=collection,
            files=files,
            window=(window.row, window.col, side, side),
            bands=bands,
            grid=grid_at(first, window.row, window.col),
            valid=0.0,
            sha256="",
            nodata=image.nodata,
            said=meaning,
            taken=image.taken,
            before=None if image.taken else _changed(first.path),
            label=image.label,
            split=image.split,
        )
        if image.area is None or _lies_in(row, image):
            yield from looked_at(row, settings, account.left_out)
        else:
            account.left_out.count("tile", "centre outside the outline of its image", row.tile_id)


def masked_rows(settings: MaskData, collection: str, left_out: LeftOut) -> list[CatalogRow]:
    """Return the tiles of scenes or chips that training and tests use, without reading them.

    Args:
        settings: of the data.
        collection: prefix of the tiles' names.
        left_out: counts the other files and tiles.

    Raises:
        DataError: there is nothing to use, or too few blocks to split.
    """
    pictures = open_pictures(settings)
    for fault in pictures.faults:
        left_out.fault("image", fault)
    left_out.add(pictures.left_out)
    splits = split_cuts(settings, pictures.usable, left_out)
    return [
        _masked_row(cut, split, settings, collection) for split in SPLITS for cut in splits[split]
    ]


def looked_at(row: CatalogRow, settings: Rasters, left_out: LeftOut) -> Iterator[CatalogRow]:
    """Yield a row with checksum and valid share, or count it if it has too much nodata.

    Raises:
        TileError: a file cannot be read.
    """
    content = read_content(row)
    empty = float(content.nodata.float().mean())
    if empty <= settings.max_nodata:
        yield replace(row, valid=1.0 - empty, sha256=content.sha256)
    else:
        left_out.count("tile", too_empty(settings), row.tile_id)


def _masked_row(cut: Cut, split: str, settings: MaskData, collection: str) -> CatalogRow:
    picture = cut.picture
    side = settings.tile_size
    taken = date_in(picture.profile.path.name)
    return CatalogRow(
        tile_id=f"{collection}/{cut.tile_id}",
        collection=collection,
        files=(BandFile(href=str(picture.profile.path.absolute()), bands=picture.band_names),),
        window=(cut.window.row, cut.window.col, side, side),
        bands=picture.bands,
        grid=cut.grid,
        valid=0.0,
        sha256="",
        taken=taken,
        before=None if taken else _changed(picture.profile.path),
        split=split,
        said=said_of(settings, picture.profile),
        masks=tuple(str(path.absolute()) for path in picture.mask_files),
        mask_classes=settings.mask_classes,
    )


def _opened(
    image: SourceImage, settings: Rasters
) -> tuple[FileProfile, tuple[BandFile, ...], BandSpec, str]:
    """Return the header of the file with the finest pixels, all files, bands and statements."""
    opened = []
    for file in image.files:
        profile = read_profile(Path(file.href))
        require_place(profile)
        opened.append((profile, _named(file, profile, settings)))
    # In the order of the bands, whatever order the source has; the finest pixels first.
    opened.sort(key=lambda pair: (_pixel(pair[0]), pair[1].bands))
    first = opened[0][0]
    for profile, _ in opened[1:]:
        _require_same_ground(first, profile)
    meaning = meaning_of_files(
        settings, [(header, file.bands) for header, file in opened], image.said
    )
    pixels = dict.fromkeys(said_of_pixels(header, file.bands) for header, file in opened)
    files = tuple(file for _, file in opened)
    spec = BandSpec(
        names=tuple(name for file in files for name in file.used),
        level=meaning.level,
        scale=meaning.scale,
        dn_offset=meaning.dn_offset,
    )
    return first, files, spec, "; ".join([meaning.why, *pixels])


def _named(file: BandFile, profile: FileProfile, settings: Rasters) -> BandFile:
    """Return a file with a name for each of its bands."""
    if not file.bands:
        return replace(file, bands=band_names(settings, profile))
    names = (*file.bands, "alpha") if profile.alpha == len(file.bands) else file.bands
    if len(names) != profile.count:
        raise TileError(
            profile.path,
            f"has {profile.count} bands",
            expected=f"{len(file.bands)}: {' '.join(file.bands)}",
        )
    return replace(file, bands=names)


def _pixel(profile: FileProfile) -> float:
    assert profile.grid is not None  # noqa: S101  # `require_place`
    # Pixels of files of one image differ by factors, not by rounding.
    return float(f"{profile.grid.transform[0]:.6g}")


def _require_same_ground(first: FileProfile, other: FileProfile) -> None:
    require_place(other)
    assert first.grid is not None  # noqa: S101  # `require_place`
    assert other.grid is not None  # noqa: S101
    a, _, c, _, e, f = first.grid.transform
    p, _, r, _, t, u = other.grid.transform
    off = (abs(c - r) / a, abs(f - u) / a)
    ends = (
        abs(c + a * first.width - r - p * other.width) / a,
        abs(f + e * first.height - u - t * other.height) / a,
    )
    if (
        first.grid.crs != other.grid.crs
        or p < a * (1 - _SLACK)
        or max(*off, *ends) > max(_SLACK, p / a)
    ):
        raise TileError(
            other.path,
            f"does not cover the same ground as {first.path.name}, or is finer",
            expected="all bands of an image to cover the same ground",
        )


def _changed(path: Path) -> datetime:
    """Return when a local file was last changed; for other files, now as the latest time."""
    stamp = path.stat().st_mtime if path.exists() else time.time()
    return datetime.fromtimestamp(stamp, tz=UTC).replace(microsecond=0)


def _lies_in(row: CatalogRow, image: SourceImage) -> bool:
    """Return whether the centre of a tile lies in the outline of its image."""
    height, width = row.window[2:]
    x, y = row.grid.at(height / 2, width / 2)
    (east,), (north,) = to_crs(row.grid.crs, image.area_crs, [x], [y])
    return bool(shapely.covers(image.area, shapely.Point(east, north)))
