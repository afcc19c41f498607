"""One tile file: its header, its bands, its pixels, and what is wrong with it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import rasterio
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from torch import Tensor

from rs_lowconf.bands import EUROSAT_ORDER, RESOLUTION_M, BandSpec, Level, canonical_name
from rs_lowconf.boundary import in_a_line
from rs_lowconf.data.declared import ContradictionError, Meaning, Statement, meaning_of
from rs_lowconf.errors import DataError, RsLowconfError
from rs_lowconf.grid import Grid
from rs_lowconf.settings import DataSettings


class TileError(DataError):
    """One file that cannot be used; `data.skip_bad` leaves it out."""

    general = "data.skip_bad=true leaves such files out"
    checked_by = "data check"
    """The command that lists them all."""

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        detail: str = "",
        expected: str = "",
        remedy: str = "",
    ) -> None:
        """Compose the line.

        Args:
            path: the file, or in words what is like a file, such as an item of a catalog.
            problem: what is wrong, in words that are the same for every file with this problem.
            detail: how it shows in this file.
            expected: what was expected instead.
            remedy: what to do about this problem in particular.
        """
        self.problem = "; ".join(filter(None, (problem, expected and f"expected {expected}")))
        self.detail = detail
        self.remedy = remedy
        super().__init__(
            f"{path} {problem}" + (f" ({detail})" if detail else ""),
            expected=expected,
            remedy=f"{remedy}; {self.general}" if remedy else self.general,
            command=self.checked_by,
        )

    @property
    def kind(self) -> str:
        """What is wrong and what to do, in words that are the same for every such file."""
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """What a GeoTIFF says of itself."""

    path: Path
    count: int
    height: int
    width: int
    dtype: str
    nodata: float | None
    """The value declared as nodata, which may be NaN."""
    descriptions: tuple[str | None, ...]
    """One a band; None where the file gives none."""
    grid: Grid | None
    """None without a coordinate reference system or without a geotransform."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A file's digital numbers."""

    profile: FileProfile
    bands: BandSpec
    """The bands as they lie in the file."""
    pixels: Float[Tensor, "c h w"]
    """Digital numbers, in the order of `bands`."""

    nodata: Bool[Tensor, "h w"]
    """Which pixels are nodata: see `nodata_mask`."""

    def select(self, bands: BandSpec) -> Float[Tensor, "c h w"]:
        """Return digital numbers in the order of `bands`; nodata becomes zero reflectance."""
        pixels = self.pixels[list(self.bands.index_of(bands.names))]
        return pixels.masked_fill(self.nodata, -bands.dn_offset)


@runtime_checkable
class Items(Protocol):
    """A torchgeo data set, by what is read of it: torchgeo itself takes seconds to import."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an item with the key `image`, c h w."""
        ...


def read_profile(path: Path) -> FileProfile:
    """Read a GeoTIFF's header.

    Raises:
        TileError: the file cannot be opened as a raster.
    """
    with read_errors(path, "cannot be opened"), rasterio.open(path) as file:
        grid = None
        if file.crs is not None and not file.transform.is_identity:
            authority = file.crs.to_authority()
            a, b, c, d, e, f = tuple(file.transform)[:6]
            grid = Grid(
                crs=":".join(authority) if authority else file.crs.to_wkt(),
                transform=(a, b, c, d, e, f),
            )
        return FileProfile(
            path=path,
            count=file.count,
            height=file.height,
            width=file.width,
            dtype=file.dtypes[0],
            nodata=file.nodata,
            descriptions=tuple(file.descriptions),
            grid=grid,
        )


def read_tile(
    settings: DataSettings,
    dataset: Items,
    index: int,
    profile: FileProfile,
) -> Tile:
    """Read a tile through torchgeo, all bands in file order.

    Raises:
        TileError: the file is truncated, or its bands are not what the settings say.
    """
    bands = band_spec(settings, profile)
    with read_errors(profile.path, "cannot be read"):
        pixels: Tensor = dataset[index]["image"]
    nodata = nodata_mask(pixels, profile.nodata)
    return Tile(profile=profile, bands=bands, pixels=pixels, nodata=nodata)


def read_window(path: Path, window: Window) -> NDArray[np.generic]:
    """Return the numbers of all bands in a window of a file.

    The files read last stay open: GDAL then unpacks a block once for all its windows.

    Raises:
        TileError: the file is missing or truncated.
    """
    with read_errors(path, "cannot be read"):
        numbers: NDArray[np.generic] = open_file(path).read(window=window)
        return numbers


def open_file(path: Path) -> rasterio.DatasetReader:
    """Return a file that stays open with the ones opened last; within `read_errors` only.

    A path that is no local file, which GDAL may still open, is taken as never changing.
    """
    return _opened(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=16)
def _opened(path: Path, changed: int) -> rasterio.DatasetReader:  # noqa: ARG001
    """Open a file, anew when it has `changed`."""
    return rasterio.open(path)


def nodata_mask(pixels: Float[Tensor, "c h w"], declared: float | None) -> Bool[Tensor, "h w"]:
    """Return which pixels are nodata.

    That is 0 in every band, because a single 0 is a dark pixel; or, in any band, a value
    other than 0 that the file declares to be nodata.
    """
    empty = (pixels == 0).all(dim=0)
    if declared is None or declared == 0:
        return empty
    if math.isnan(declared):
        return empty | pixels.isnan().any(dim=0)
    return empty | (pixels == declared).any(dim=0)


def unreal_pixels(pixels: Float[Tensor, "c h w"], nodata: Bool[Tensor, "h w"]) -> int:
    """Count the pixels with NaN or infinity in a band that are not nodata."""
    if pixels.sum().isfinite():
        return 0
    return int((~torch.isfinite(pixels).all(dim=0) & ~nodata).sum())


def band_spec(
    settings: DataSettings, profile: FileProfile, said: Sequence[Statement] = ()
) -> BandSpec:
    """Describe the bands of a file as it lies on disk.

    Descriptions that are band names must agree with `data.file_bands`; with it, others
    (such as "red") are passed over.

    Args:
        settings: of the data.
        profile: of the file.
        said: what others say of the file's numbers.

    Raises:
        TileError: the file names other bands than the settings, or nobody names them.
    """
    if settings.kind == "eurosat":
        if "int" not in profile.dtype:
            # torchgeo's loader would cut reflectance down to whole numbers.
            raise TileError(
                profile.path,
                f"holds {profile.dtype}",
                expected="the whole numbers of EuroSAT",
                remedy="set data.kind=folder for data of your own",
            )
        return _spec(settings, profile, EUROSAT_ORDER, said, "L1C")
    described = [_canonical_or_none(text) for text in profile.descriptions]
    if settings.file_bands is not None:
        wanted = tuple(canonical_name(name) for name in settings.file_bands)
        spec = _spec(settings, profile, wanted, said)
        if any(name not in (None, due) for name, due in zip(described, wanted, strict=True)):
            raise TileError(
                profile.path,
                f"names its bands {_listed(profile)}",
                expected=f"{' '.join(wanted)}, as data.file_bands says",
                remedy="drop data.file_bands (the files' own names are used) or mend the files",
            )
        return spec
    names = tuple(name for name in described if name is not None)
    if len(names) < profile.count:
        raise TileError(
            profile.path,
            f"describes its {profile.count} bands as {_listed(profile)}",
            expected="a band name each, such as B04",
            remedy="list their order in data.file_bands",
        )
    return _spec(settings, profile, names, said)


def used_bands(settings: DataSettings, path: Path, bands: BandSpec) -> BandSpec:
    """Return the bands of a file to use, in the order to use them.

    Without `data.bands` that is `data.file_bands` or EuroSAT's order, and for files that
    name their bands ESA's order: it must not depend on which file happens to come first.

    Raises:
        TileError: the file lacks one that `data.bands` names.
        DataError: `data.bands` names something that is no band, or a band twice.
    """
    if settings.bands is not None:
        wanted = replace(bands, names=settings.bands)
        missing = [name for name in wanted.names if name not in bands.names]
        if missing:
            raise TileError(
                path,
                f"lacks {', '.join(missing)} of data.bands",
                expected=f"some of {' '.join(bands.names)}",
            )
        return wanted
    if settings.kind == "eurosat" or settings.file_bands is not None:
        return bands
    return bands.select([name for name in RESOLUTION_M if name in bands.names])


def problems_of(tile: Tile, settings: DataSettings) -> list[TileError]:
    """Return why a tile cannot be used; empty when it can."""
    path, side = tile.profile.path, settings.tile_size
    height, width = tile.pixels.shape[1:]
    problems = []
    if (height, width) != (side, side):
        problems.append(
            TileError(
                path,
                f"is {height} x {width} pixels",
                expected=f"{side} x {side} (data.tile_size)",
            )
        )
    unreal = unreal_pixels(tile.pixels, tile.nodata)
    if unreal:
        problems.append(TileError(path, "has NaN or infinity", detail=f"{unreal} pixels"))
    empty = float(tile.nodata.float().mean())
    if empty == 1.0:
        problems.append(TileError(path, "is nodata everywhere"))
    elif empty > settings.max_nodata:
        problems.append(
            TileError(
                path,
                f"has more nodata than data.max_nodata={settings.max_nodata:g} allows",
                detail=f"{empty:.1%} of the pixels",
            )
        )
    return problems


def require_same_bands(path: Path, own: BandSpec, bands: BandSpec) -> None:
    """Make sure that a file has the bands that the others have, in whatever order.

    Raises:
        TileError: it has others.
    """
    if set(own.names) != set(bands.names):
        raise TileError(
            path,
            f"has bands {' '.join(own.names)}",
            expected=f"{' '.join(bands.names)}, as the files before it",
            remedy="name the bands that all files have in data.bands",
        )


def _spec(
    settings: DataSettings,
    profile: FileProfile,
    names: tuple[str, ...],
    said: Sequence[Statement],
    level: Level | None = None,
) -> BandSpec:
    if len(names) != profile.count:
        raise TileError(
            profile.path,
            f"has {profile.count} bands",
            expected=f"{len(names)}: {' '.join(names)}",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TileError(profile.path, f"has band {', '.join(twice)} more than once")
    meaning = file_meaning(settings, profile.path, said)
    return BandSpec(
        names=names,
        level=level or meaning.level,
        scale=meaning.scale,
        dn_offset=meaning.dn_offset,
    )


def file_meaning(settings: DataSettings, path: Path, said: Sequence[Statement]) -> Meaning:
    """Return what the numbers of a file mean.

    Raises:
        TileError: what is said of them contradicts itself.
    """
    try:
        return meaning_of(settings, said)
    except ContradictionError as error:
        raise TileError(path, error.found, expected="one value", remedy=error.remedy) from error


def _canonical_or_none(description: str | None) -> str | None:
    try:
        return canonical_name(description or "")
    except DataError:
        return None


def _listed(profile: FileProfile) -> str:
    return ", ".join(text or "(none)" for text in dict.fromkeys(profile.descriptions))


@contextmanager
def read_errors(path: Path, problem: str) -> Iterator[None]:
    """Turn GDAL's complaints into a `TileError`; a file without georeference is no complaint."""
    try:
        # Inside an Env GDAL logs its warnings; outside it prints them.
        with rasterio.Env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except RsLowconfError:
        raise
    except Exception as error:  # as in `boundary.reading`
        known = isinstance(error, RasterioError | OSError)
        reason = " ".join(str(error).split()) if known else in_a_line(error)
        # GDAL names the file with its folders, which the error does anyway.
        raise TileError(path, problem, detail=reason.replace(str(path), path.name)) from error
