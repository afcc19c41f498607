"""One tile file: its header, its bands, its pixels and its errors."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from torch import Tensor

from rs_lowconf.bands import (
    EUROSAT_ORDER,
    RESOLUTION_M,
    BandSpec,
    known_band,
)
from rs_lowconf.boundary import in_a_line
from rs_lowconf.data.declared import (
    ContradictionError,
    Meaning,
    Statement,
    by_file,
    by_name,
    meaning_of,
)
from rs_lowconf.data.nodata import Part, no_data
from rs_lowconf.errors import DataError, RsLowconfError
from rs_lowconf.grid import Grid
from rs_lowconf.percents import percent
from rs_lowconf.settings import OwnRasters, Rasters

#: Names for bands that are not Sentinel-2 bands.
_COLOUR = re.compile(r"(coastal|aerosol|blue|green|red|nir|swir|cirrus|water|band)", re.IGNORECASE)


class TileError(DataError):
    """One file that cannot be used; `data.skip_bad` skips it."""

    general = "data.skip_bad=true skips such files"
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
        """Compose the message.

        Args:
            path: the file, or the name of something like a file, such as an item of a catalog.
            problem: the same text for every file with this problem.
            detail: of this file.
            expected: what was expected instead.
            remedy: for this problem in particular.
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
        """Problem and remedy, as the same text for every such file."""
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """The metadata of a GeoTIFF."""

    path: Path
    count: int
    height: int
    width: int
    dtype: str
    nodata: float | None
    """The value declared as nodata, which may be NaN."""
    descriptions: tuple[str | None, ...]
    """One per band; None where the file gives none."""
    scales: tuple[tuple[float, float], ...]
    """Scale and offset of each band, from the file's tags; 1 and 0 without tags."""
    alpha: int | None
    """The channel that the file declares as alpha."""
    masked: bool
    """Whether there is a mask of valid pixels inside the file or beside it."""
    tags: Mapping[str, str]
    """Metadata of the file."""
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
    """Which pixels are nodata: see `nodata.no_data`."""

    def select(self, bands: BandSpec) -> Float[Tensor, "c h w"]:
        """Return digital numbers in the order and scale of `bands`; nodata is zero reflectance.

        Files of one data set may differ in scale and offset; they are converted to those of
        `bands`.
        """
        stored = self.bands
        pixels = self.pixels[list(stored.index_of(bands.names))]
        if (stored.scale, stored.dn_offset) != (bands.scale, bands.dn_offset):
            pixels = (pixels + stored.dn_offset) * (bands.scale / stored.scale) - bands.dn_offset
        return pixels.masked_fill(self.nodata, -bands.dn_offset)


@runtime_checkable
class Items(Protocol):
    """The part of a torchgeo data set that is used; importing torchgeo takes seconds."""

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
        kinds = file.colorinterp
        alpha = kinds.index(ColorInterp.alpha) if ColorInterp.alpha in kinds else None
        return FileProfile(
            path=path,
            count=file.count,
            height=file.height,
            width=file.width,
            dtype=file.dtypes[0],
            nodata=file.nodata,
            descriptions=tuple(file.descriptions),
            scales=tuple(zip(file.scales, file.offsets, strict=True)),
            alpha=alpha,
            masked=_has_mask(file),
            tags=file.tags(),
            grid=grid,
        )


def read_tile(
    settings: Rasters,
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
    channels = channels_in(band_names(settings, profile))
    pixels, nodata = used_pixels(pixels, profile, bands, channels, None)
    return Tile(profile=profile, bands=bands, pixels=pixels, nodata=nodata)


def used_pixels(
    pixels: Float[Tensor, "f h w"],
    profile: FileProfile,
    bands: BandSpec,
    channels: Sequence[int],
    window: Window | None,
) -> tuple[Float[Tensor, "c h w"], Bool[Tensor, "h w"]]:
    """Return the bands that are used, and which pixels are nodata.

    Args:
        pixels: of all channels of the file.
        profile: of the file.
        bands: that are used, in the order of the file.
        channels: where these lie in the file.
        window: that was read; None for the whole file.

    Raises:
        TileError: the mask of the file cannot be read.
    """
    masked = None
    if profile.masked or profile.alpha not in (None, *channels):
        with read_errors(profile.path, "cannot be read"):
            masked = masked_pixels(open_file(profile.path), channels, window=window)
    if len(channels) < len(pixels):
        pixels = pixels[list(channels)]
    declared = () if profile.nodata is None else (profile.nodata,)
    part = Part(pixels=pixels, nodata=declared, masked=masked)
    return pixels, no_data([part], bands.dn_offset)


def masked_pixels(
    file: rasterio.DatasetReader, channels: Sequence[int], **where: Any
) -> Bool[Tensor, "h w"] | None:
    """Return the pixels that a file's mask or alpha band makes invalid; None without either.

    Args:
        file: opened.
        channels: that are used: a band declared as alpha may be B08 in a file of four bands.
        where: window and sampling, as for `rasterio.DatasetReader.read`.
    """
    invalid = []
    if _has_mask(file):
        invalid.append(file.read_masks(1, **where) == 0)
    for channel, kind in enumerate(file.colorinterp):
        if kind == ColorInterp.alpha and channel not in channels:
            invalid.append(file.read(channel + 1, **where) == 0)
    return torch.from_numpy(np.logical_or.reduce(invalid)) if invalid else None


def _has_mask(file: rasterio.DatasetReader) -> bool:
    flags = file.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def read_window(path: Path, window: Window) -> NDArray[np.generic]:
    """Return the numbers of all bands in a window of a file.

    Recently read files stay open, so that GDAL decompresses a block once for all its windows.

    Raises:
        TileError: the file is missing or truncated.
    """
    with read_errors(path, "cannot be read"):
        numbers: NDArray[np.generic] = open_file(path).read(window=window)
        return numbers


def open_file(path: Path) -> rasterio.DatasetReader:
    """Return a file that stays open with other recent files; use only within `read_errors`.

    A path that is not a local file, but that GDAL can open, is assumed never to change.
    """
    return _opened(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=16)
def _opened(path: Path, changed: int) -> rasterio.DatasetReader:  # noqa: ARG001
    """Open a file, again if it has `changed`."""
    return rasterio.open(path)


def unreal_pixels(pixels: Float[Tensor, "c h w"], nodata: Bool[Tensor, "h w"]) -> int:
    """Count the pixels with NaN or infinity in a band that are not nodata."""
    if pixels.sum().isfinite():
        return 0
    return int((~torch.isfinite(pixels).all(dim=0) & ~nodata).sum())


def band_spec(settings: Rasters, profile: FileProfile, said: Sequence[Statement] = ()) -> BandSpec:
    """Describe the bands of a file that are used, in the order of the file.

    Args:
        settings: of the data.
        profile: of the file.
        said: statements of other sources about its digital numbers.

    Raises:
        TileError: the file names other bands than the settings, nothing names them, or statements
            about its digital numbers contradict each other.
    """
    every = band_names(settings, profile)
    meaning = meaning_of_files(settings, [(profile, every)], said)
    return BandSpec(
        names=tuple(filter(known_band, every)),
        level=meaning.level,
        scale=meaning.scale,
        dn_offset=meaning.dn_offset,
    )


def channels_in(names: Sequence[str]) -> tuple[int, ...]:
    """Return where the bands that are used lie among all that a file has."""
    return tuple(channel for channel, name in enumerate(names) if known_band(name))


def band_names(settings: Rasters, profile: FileProfile) -> tuple[str, ...]:
    """Name each band of a file: canonically, or by its description if it is not used.

    Descriptions that are band names must agree with `data.file_bands`; with it, others
    (such as "red") are ignored. Bands declared as alpha, or described as something that is not a
    Sentinel-2 band (such as QA60), are not used.

    Raises:
        TileError: the file names other bands than the settings, or nothing names them.
    """
    if not isinstance(settings, OwnRasters):
        if "int" not in profile.dtype:
            # torchgeo's loader would truncate reflectance to whole numbers.
            raise TileError(
                profile.path,
                f"contains {profile.dtype}",
                expected="the whole numbers of EuroSAT",
                remedy="set data.kind=folder for your own data",
            )
        _require_count(profile, EUROSAT_ORDER)
        return EUROSAT_ORDER
    names = _all_names(settings, profile)
    twice = sorted({name for name in names if known_band(name) and names.count(name) > 1})
    if twice:
        raise TileError(profile.path, f"has band {', '.join(twice)} more than once")
    return names


def _all_names(settings: OwnRasters, profile: FileProfile) -> tuple[str, ...]:
    described = [_described(profile, channel) for channel in range(profile.count)]
    if settings.file_bands is None:
        names = tuple(filter(None, described))
        if len(names) < profile.count or not any(map(known_band, names)):
            raise TileError(
                profile.path,
                f"describes its {profile.count} bands as {_listed(profile)}",
                expected="one name per band, such as B04",
                remedy="list their order in data.file_bands",
            )
        return names
    wanted = tuple(known_band(name) or name for name in settings.file_bands)
    others = described[len(wanted) :]
    if not others or None in others or any(map(known_band, filter(None, others))):
        _require_count(profile, wanted)
    if any(
        known_band(name or "") not in (None, due)
        for name, due in zip(described, wanted, strict=False)
    ):
        raise TileError(
            profile.path,
            f"names its bands {_listed(profile)}",
            expected=f"{' '.join(wanted)}, as in data.file_bands",
            remedy="remove data.file_bands (then the names in the files are used) or fix the files",
        )
    return (*wanted, *filter(None, others))


def _described(profile: FileProfile, channel: int) -> str | None:
    """Return a file's name of a band, canonical for Sentinel-2 bands; None without a name.

    Names of colours do not identify a band, but the band must not be left out for that.
    """
    text = (profile.descriptions[channel] or "").strip()
    if _COLOUR.match(text):
        return None
    return known_band(text) or text or ("alpha" if profile.alpha == channel else None)


def _require_count(profile: FileProfile, names: Sequence[str]) -> None:
    if len(names) != profile.count:
        raise TileError(
            profile.path,
            f"has {profile.count} bands",
            expected=f"{len(names)}: {' '.join(names)}",
            remedy="name every band of the files in data.file_bands, also bands that are not "
            "from Sentinel-2, such as QA60"
            if profile.count > len(names)
            else "",
        )


def used_bands(settings: Rasters, path: Path, bands: BandSpec) -> BandSpec:
    """Return the bands of a file to use, in the order to use them.

    Without `data.bands` this is `data.file_bands` or EuroSAT's order, and for files that name their
    bands ESA's order: it must not depend on which file comes first.

    Raises:
        TileError: the file lacks one that `data.bands` names.
        DataError: `data.bands` names something that is not a band, or a band twice.
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
    if not isinstance(settings, OwnRasters) or settings.file_bands is not None:
        return bands
    return bands.select([name for name in RESOLUTION_M if name in bands.names])


def problems_of(tile: Tile, side: int, max_nodata: float = 0.0) -> list[TileError]:
    """Return why a tile cannot be used; empty when it can.

    Args:
        tile: to look at.
        side: in pixels that it must have.
        max_nodata: largest share of nodata that it may have.
    """
    path = tile.profile.path
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
    elif empty > max_nodata:
        problems.append(
            TileError(
                path,
                f"has more nodata than data.max_nodata={max_nodata:g} allows",
                detail=f"{percent(empty, 1)} of the pixels",
            )
        )
    return problems


def require_same_bands(path: Path, found: BandSpec, bands: BandSpec) -> None:
    """Require that a file has the same bands as the others, in any order.

    Raises:
        TileError: it has others.
    """
    if set(found.names) != set(bands.names):
        raise TileError(
            path,
            f"has bands {' '.join(found.names)}",
            expected=f"{' '.join(bands.names)}, as the files before it",
            remedy="list in data.bands only bands that all files have",
        )
    if found.level != bands.level:
        raise TileError(
            path,
            f"is {found.level}",
            expected=f"{bands.level}, as the files before it",
            remedy="separate the levels, or set data.level if one is right for all",
        )


def meaning_of_files(
    settings: Rasters,
    files: Sequence[tuple[FileProfile, Sequence[str]]],
    said: Sequence[Statement] = (),
) -> Meaning:
    """Return the meaning of an image's digital numbers.

    The tags of its files and other sources have to agree. The name of its product counts for what
    they do not state: it describes how ESA made the numbers, not later processing.

    Args:
        settings: of the data.
        files: of the image, with the names of their bands.
        said: statements of other sources than the files.

    Raises:
        TileError: the statements contradict each other.
    """
    first, tags, names_say = files[0][0], list[Statement](), list[Statement]()
    try:
        for profile, names in files:
            first = profile
            scales = _used_scales(settings, profile, names)
            tags += by_file(settings, profile.tags, scales)
        if isinstance(settings, OwnRasters):
            for profile, _ in files:
                first = profile
                whole = "int" in profile.dtype
                names_say += by_name(settings, profile.path, said, tags, whole=whole)
        return meaning_of(settings, [*said, *tags, *names_say])
    except ContradictionError as error:
        raise TileError(
            first.path, error.found, expected=error.expected, remedy=error.remedy
        ) from error


def file_meaning(settings: Rasters, profile: FileProfile) -> Meaning:
    """Return the meaning of a file's digital numbers, from its tags and its name.

    Raises:
        TileError: it contradicts itself, or nothing names its bands.
    """
    return meaning_of_files(settings, [(profile, band_names(settings, profile))])


def _used_scales(
    settings: Rasters, profile: FileProfile, names: Sequence[str]
) -> list[tuple[float, float]]:
    """Return the distinct pairs of scale and offset of the bands that are used."""
    wanted = settings.bands and {known_band(name) for name in settings.bands}
    pairs = zip(names, profile.scales, strict=True)
    used = {pair for name, pair in pairs if known_band(name) and (not wanted or name in wanted)}
    return sorted(used)


def said_of(settings: Rasters, profile: FileProfile) -> str:
    """Describe the meaning of a file's digital numbers, from its tags and its name.

    Raises:
        TileError: it contradicts itself, or nothing names its bands.
    """
    meaning = file_meaning(settings, profile)
    return f"{meaning.why}; {said_of_pixels(profile, band_names(settings, profile))}"


def said_of_pixels(profile: FileProfile, names: Sequence[str]) -> str:
    """Describe how a file declares nodata, and which of its bands are not used."""
    ways = []
    if profile.nodata is not None:
        ways.append(f"nodata {profile.nodata:g} by its tag")
    if profile.masked:
        ways.append("nodata by its mask")
    if profile.alpha not in (None, *channels_in(names)):
        ways.append("nodata by its alpha band")
    idle = [name for name in names if not known_band(name)]
    unused = f", not used: {', '.join(idle)}" if idle else ""
    return (" and ".join(ways) or "no nodata declared") + unused


def _listed(profile: FileProfile) -> str:
    return ", ".join(text or "(none)" for text in dict.fromkeys(profile.descriptions))


@contextmanager
def read_errors(path: Path, problem: str, error: type[TileError] = TileError) -> Iterator[None]:
    """Turn errors of GDAL and other libraries into a `TileError`.

    A file without georeference is not an error.
    """
    try:
        # Inside an Env GDAL logs its warnings; outside it prints them.
        with rasterio.Env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except RsLowconfError:
        raise
    except Exception as fault:  # as in `boundary.reading`
        known = isinstance(fault, RasterioError | OSError)
        reason = " ".join(str(fault).split()) if known else in_a_line(fault)
        # GDAL repeats the path, which the error names anyway.
        raise error(path, problem, detail=reason.replace(str(path), path.name)) from fault
