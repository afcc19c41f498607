"""Single tiles and masks as GeoTIFFs that state what they are, even if copied elsewhere.

Pixels are reflectance x 10000 without scale and offset tags: with such tags QGIS shows
0.0486 where the fixed stretch of the package expects 486. Colour interpretation is left
alone, because QGIS ignores it beyond three bands; the .qml beside each tile chooses bands.

Masks are bytes with a colour table. TIFF cannot store class names: GDAL and QGIS read them from the
.aux.xml beside the file, and rasterio, which cannot access that, from the tag RSLOW_CLASSES, a list
in JSON. Confidence is float32, so that every reader shows the probability itself; 16-bit numbers
would need the scale that QGIS shows and rasterio does not apply.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
from jaxtyping import Float32, Shaped, UInt8, UInt16
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.transform import Affine

from rs_lowconf.bands import BandSpec, Level
from rs_lowconf.colours import Colour
from rs_lowconf.errors import DataError, ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.runs import replacing, write_text

NO_CONFIDENCE = -1.0
"""Nodata of confidence."""

_LEVEL = "RSLOW_LEVEL"
"""Tag of the processing level."""

_AI_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A tile as read by `read_tile`."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000; 0 means no data."""

    names: tuple[str, ...]
    """Band names in channel order, from the band descriptions."""

    tags: Mapping[str, str]
    """All tags of the file, such as RSLOW_SYNTHETIC."""

    grid: Grid | None
    """Where the tile lies; None without georeference."""

    @property
    def level(self) -> Level:
        """Return the processing level; tiles of the first versions name none and are L1C."""
        return "L2A" if self.tags.get(_LEVEL) == "L2A" else "L1C"


def synthetic_tags(attribution: str) -> dict[str, str]:
    """Return the tags that mark a generated tile."""
    return {
        "TIFFTAG_IMAGEDESCRIPTION": "SYNTHETIC image made by a generative model, "
        "NOT AN OBSERVATION",
        "TIFFTAG_COPYRIGHT": attribution,
        "RSLOW_SYNTHETIC": "true",
        "RSLOW_DIGITAL_SOURCE_TYPE": _AI_MEDIA,
    }


def undisclosed_tags(attribution: str) -> dict[str, str]:
    """Return the tags of every reviewed tile in a blind package, generated or not."""
    return {
        "TIFFTAG_IMAGEDESCRIPTION": "MAY BE SYNTHETIC, NOT TO BE USED AS AN OBSERVATION "
        "(tile of a blind review)",
        "TIFFTAG_COPYRIGHT": attribution,
        "RSLOW_SYNTHETIC": "undisclosed",
    }


def observed_tags(attribution: str) -> dict[str, str]:
    """Return the tags of a real tile, shown for comparison or for review."""
    return {
        "TIFFTAG_IMAGEDESCRIPTION": "Real Sentinel-2 tile of a review",
        "TIFFTAG_COPYRIGHT": attribution,
        "RSLOW_SYNTHETIC": "false",
    }


def write_tile(
    path: Path,
    pixels: UInt16[np.ndarray, "c h w"],
    bands: BandSpec,
    tags: Mapping[str, str],
    grid: Grid | None = None,
) -> None:
    """Write all bands of one tile as a deflated GeoTIFF, atomically and reproducibly.

    Args:
        path: the file, replaced when it exists.
        pixels: reflectance x 10000; zeros are raised to 1, because nodata is 0.
        bands: names of the channels, kept as band descriptions, and their level, kept as a tag.
        tags: namespaced RSLOW_* and TIFFTAG_* tags.
        grid: the true location of the tile. None writes no georeference at all: coordinates are
            never invented.
    """
    channels, height, width = pixels.shape
    if channels != len(bands):
        raise DataError(f"{channels} channels to write", expected=f"{len(bands)} ({bands.names})")
    profile = {
        "count": channels,
        "height": height,
        "width": width,
        "dtype": "uint16",
        "nodata": 0,
        "predictor": 2,
        "interleave": "band",
        "photometric": "MINISBLACK",
    }
    with _written(path, profile, grid) as file:
        file.write(np.maximum(pixels, 1))
        file.descriptions = bands.names
        file.update_tags(**{_LEVEL: bands.level, **tags})


def write_classes(
    path: Path,
    mask: UInt8[np.ndarray, "h w"],
    classes: Mapping[str, Colour],
    tags: Mapping[str, str],
    grid: Grid | None = None,
) -> None:
    """Write the classes of a tile's pixels like `write_tile`; `write_names` adds their names.

    Args:
        path: the file, replaced when it exists.
        mask: indices of `classes`; `UNKNOWN` is nodata.
        classes: colours by name, in the order of indices.
        tags: as of the tile.
        grid: as of the tile.
    """
    height, width = mask.shape
    profile = {
        "count": 1,
        "height": height,
        "width": width,
        "dtype": "uint8",
        "nodata": UNKNOWN,
        "photometric": "PALETTE",
    }
    with _written(path, profile, grid) as file:
        file.write(mask, 1)
        file.write_colormap(1, dict(enumerate(classes.values())))
        file.update_tags(**tags, RSLOW_CLASSES=json.dumps(list(classes)))


def write_names(path: Path, classes: Mapping[str, Colour]) -> None:
    """Write PATH.aux.xml, from which GDAL reads the names of a file's classes.

    Args:
        path: what `write_classes` wrote.
        classes: in the order of indices.
    """
    root = ET.Element("PAMDataset")
    ET.SubElement(root, "PAMRasterBand", band="1").append(category_names(classes))
    ET.indent(root, " ")
    text = ET.tostring(root, encoding="unicode") + "\n"
    write_text(path.with_name(f"{path.name}.aux.xml"), text)


def write_confidence(
    path: Path,
    confidence: Float32[np.ndarray, "h w"],
    tags: Mapping[str, str],
    grid: Grid | None = None,
) -> None:
    """Write the largest probability of each of a tile's pixels, as `write_tile` does."""
    height, width = confidence.shape
    profile = {
        "count": 1,
        "height": height,
        "width": width,
        "dtype": "float32",
        "nodata": NO_CONFIDENCE,
        "predictor": 3,
    }
    with _written(path, profile, grid) as file:
        file.write(confidence, 1)
        file.update_tags(**tags)


def category_names(classes: Mapping[str, Colour]) -> ET.Element:
    """Return class names in GDAL's XML for sidecar files and VRTs."""
    names = ET.Element("CategoryNames")
    for name in classes:
        ET.SubElement(names, "Category").text = name
    return names


def read_tile(path: Path) -> Tile:
    """Return the pixels, band names, tags and grid of a tile.

    Raises:
        ReviewError: the file is missing or not a raster, or does not contain 16-bit numbers.
    """
    try:
        with _without_georeference(), rasterio.open(path) as file:
            if set(file.dtypes) != {"uint16"}:
                raise ReviewError(f"{path} contains {file.dtypes[0]}", expected="a tile of uint16")
            grid = None
            if file.crs is not None:
                a, b, c, d, e, f = tuple(file.transform)[:6]
                grid = Grid(crs=file.crs.to_string(), transform=(a, b, c, d, e, f))
            return Tile(
                pixels=file.read(),
                names=tuple(name or "" for name in file.descriptions),
                tags=dict(file.tags()),
                grid=grid,
            )
    except RasterioError as error:
        raise ReviewError(f"tile {path} cannot be read ({error})") from error


def read_classes(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Return what `write_classes` wrote.

    Raises:
        ReviewError: the file is missing or not a raster, or does not contain bytes.
    """
    return _read(path, "uint8")


def read_confidence(path: Path) -> Float32[np.ndarray, "h w"]:
    """Return what `write_confidence` wrote.

    Raises:
        ReviewError: the file is missing or not a raster, or does not contain floating-point
            numbers.
    """
    return _read(path, "float32")


def _read(path: Path, dtype: str) -> Shaped[np.ndarray, "h w"]:
    try:
        with _without_georeference(), rasterio.open(path) as file:
            if set(file.dtypes) != {dtype}:
                raise ReviewError(f"{path} contains {file.dtypes[0]}", expected=dtype)
            values: Shaped[np.ndarray, "h w"] = file.read(1)
            return values
    except RasterioError as error:
        raise ReviewError(f"mask {path} cannot be read ({error})") from error


@contextmanager
def _written(path: Path, profile: Mapping[str, Any], grid: Grid | None) -> Iterator[DatasetWriter]:
    """Yield a deflated GeoTIFF to write to, which then replaces the file."""
    place = {} if grid is None else {"crs": grid.crs, "transform": Affine(*grid.transform)}
    # In memory first, because GDAL hides a full disk behind another error.
    with MemoryFile() as memory:
        with (
            _without_georeference(),
            memory.open(driver="GTiff", compress="deflate", **profile, **place) as file,
        ):
            yield file
        with replacing(path) as temporary:
            temporary.write_bytes(memory.read())


@contextmanager
def _without_georeference() -> Iterator[None]:
    """Silence rasterio's warning about files without georeference, which is intended here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
