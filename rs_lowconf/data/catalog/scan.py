"""Cuts images into the rows of a catalog. Every tile is read once: for nodata and checksum."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely
from rasterio.warp import transform as to_crs

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.catalog.reading import read_content
from rs_lowconf.data.catalog.rows import BandFile, CatalogRow, SourceImage
from rs_lowconf.data.catalog.sources import date_in
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.masks import Cut, open_pictures, split_cuts
from rs_lowconf.data.tiles import FileProfile, TileError, band_spec, read_profile
from rs_lowconf.data.windows import grid_at, grid_windows, require_place, require_size
from rs_lowconf.settings import DataSettings

#: In pixels: where files of other resolutions may begin beside the first.
_SLACK = 0.01


def rows_of(image: SourceImage, settings: DataSettings, collection: str) -> Iterator[CatalogRow]:
    """Yield the tiles of an image with enough valid pixels, row by row of its grid.

    Raises:
        TileError: a file cannot be used.
    """
    first = read_profile(Path(image.files[0].href))
    require_place(first)
    files, bands = _with_bands(image, settings, first)
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
            taken=image.taken,
            before=None if image.taken else _changed(first.path),
            label=image.label,
            split=image.split,
        )
        if image.area is None or shapely.covers(image.area, _centre(row)):
            yield from looked_at(row, settings)


def masked_rows(
    settings: DataSettings, collection: str
) -> tuple[list[CatalogRow], list[TileError]]:
    """Return the tiles of scenes or chips that training and tests see, unread, and bad files.

    Raises:
        SettingsError: a setting has no effect on this kind of data.
        DataError: there is nothing to use, or too few blocks to split.
    """
    pictures = open_pictures(settings)
    splits = split_cuts(settings, pictures.usable)
    rows = [
        _masked_row(cut, split, settings, collection) for split in SPLITS for cut in splits[split]
    ]
    return rows, list(pictures.faults)


def looked_at(row: CatalogRow, settings: DataSettings) -> Iterator[CatalogRow]:
    """Yield a row with checksum and valid share, or nothing where it has too much nodata.

    Raises:
        TileError: a file cannot be read.
    """
    content = read_content(row)
    empty = float(content.nodata.float().mean())
    if empty <= settings.max_nodata:
        yield replace(row, valid=1.0 - empty, sha256=content.sha256)


def _masked_row(cut: Cut, split: str, settings: DataSettings, collection: str) -> CatalogRow:
    picture = cut.picture
    side = settings.tile_size
    taken = date_in(picture.profile.path.name)
    return CatalogRow(
        tile_id=f"{collection}/{cut.tile_id}",
        collection=collection,
        files=(BandFile(href=str(picture.profile.path.absolute()), bands=picture.bands.names),),
        window=(cut.window.row, cut.window.col, side, side),
        bands=picture.bands,
        grid=cut.grid,
        valid=0.0,
        sha256="",
        taken=taken,
        before=None if taken else _changed(picture.profile.path),
        split=split,
        masks=tuple(str(path.absolute()) for path in picture.mask_files),
        mask_classes=settings.mask_classes,
    )


def _with_bands(
    image: SourceImage, settings: DataSettings, first: FileProfile
) -> tuple[tuple[BandFile, ...], BandSpec]:
    """Return the files with their bands, and what their numbers mean."""
    said = {"level": image.level, "scale": image.scale, "dn_offset": image.dn_offset}
    known: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if len(image.files) == 1 and not image.files[0].bands:
        spec = band_spec(settings, first)
        return (replace(image.files[0], bands=spec.names),), replace(spec, **known)
    spec = BandSpec(
        names=tuple(name for file in image.files for name in file.bands),
        level=settings.level,
        scale=settings.scale,
        dn_offset=settings.dn_offset,
    )
    for file in image.files:
        profile = first if file is image.files[0] else read_profile(Path(file.href))
        if len(file.bands) != profile.count:
            raise TileError(
                profile.path,
                f"has {profile.count} bands",
                expected=f"{len(file.bands)}: {' '.join(file.bands)}",
            )
        _require_same_ground(first, profile)
    return image.files, replace(spec, **known)


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
            f"lies elsewhere than {first.path.name}, or is finer",
            expected="the bands of an image on the same ground",
        )


def _changed(path: Path) -> datetime:
    """Return when a local file was last changed; of others nobody knows, but not later than now."""
    stamp = path.stat().st_mtime if path.exists() else time.time()
    return datetime.fromtimestamp(stamp, tz=UTC).replace(microsecond=0)


def _centre(row: CatalogRow) -> shapely.Point:
    x, y = ((row.corners[0][axis] + row.corners[2][axis]) / 2 for axis in (0, 1))
    (east,), (north,) = to_crs(row.grid.crs, "EPSG:4326", [x], [y])
    return shapely.Point(east, north)
