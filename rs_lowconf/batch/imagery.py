"""The images that tiles were cut from as a few rasters for QGIS: VRTs of the files on the disk.

A VRT opens its files only when they are drawn, so that a project with hundreds of scenes opens at
once. All images have the stretch of reviews, whatever their digital numbers mean.
"""

import shutil
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import rasterio
from jaxtyping import Bool, Int
from rasterio.errors import RasterioError

from rs_lowconf.bands import PRODUCT_SCALE
from rs_lowconf.batch.jobs import rows_of
from rs_lowconf.data.catalog.rows import CatalogRow
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.composites import Range, composites_of, ranges_of
from rs_lowconf.review.context import Scenes
from rs_lowconf.review.project import part
from rs_lowconf.review.sheet import picture_source
from rs_lowconf.runs import write_text

FOLDER = "imagery"
"""Beside the project."""
_MOST = 500
"""Images, because QGIS opens a raster for each date and zone."""
_TRIES = 10 * _MOST
"""Images that are looked for: on a network drive each takes a millisecond or more."""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """Images of one group in one CRS."""

    path: str
    """Of a VRT, relative to the project."""
    crs: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Imagery:
    """Rasters of images that are on the disk."""

    rasters: dict[Hashable, list[Raster]]
    """By group, such as a date."""
    shown: Bool[np.ndarray, " n"]
    """Whether the image of each tile is among them."""


@dataclass(frozen=True, kw_only=True)
class _Band:
    """One of the three bands of an image, as its file has it."""

    path: Path
    number: int
    """Counted from 1."""
    size: tuple[int, int]
    """Width and height in pixels."""
    blocks: tuple[int, int]
    data_type: str
    nodata: float
    crs: str
    transform: tuple[float, float, float, float, float, float]
    stretch: str
    """GDAL's lookup table from digital numbers to bytes; 0 is left for what has no data."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return west, south, east and north in the unit of the CRS."""
        a, _, c, _, e, f = self.transform
        return c, f + e * self.size[1], c + a * self.size[0], f


_Image = tuple[_Band, ...]
"""The bands that are shown as red, green and blue."""


def write_imagery(
    folder: Path,
    catalog: Catalog,
    scores: pd.DataFrame,
    first: Bool[np.ndarray, " n"],
    groups: Sequence[Hashable],
) -> Imagery:
    """Write VRTs of the images that tiles were cut from, one for each group and CRS.

    Images that are missing, damaged, not on this machine or without colours are left out. There are
    at most 500: those of `first`, then those with the lowest confidence.

    Args:
        folder: of the project; its folder `imagery` is written anew.
        catalog: of the tiles.
        scores: one row per tile with its `id` and `confidence`.
        first: whether a tile is in the initial view.
        groups: the group of each tile; an image has that of its least sure tile.
    """
    ids, confidence = scores["id"].tolist(), scores["confidence"].to_numpy()
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    names, codes = _images_of(catalog, ids)
    # The least sure tile of each image speaks for it.
    order = np.lexsort((confidence, ~first))
    _, leading = np.unique(codes[order], return_index=True)
    places = [place for place in order[np.sort(leading)].tolist() if codes[place] >= 0]
    there = [place for place in places[:_TRIES] if Path(names[codes[place]]).is_file()]
    rows = rows_of(catalog, [ids[place] for place in there])
    opened = ((place, _opened(row)) for place, row in zip(there, rows, strict=True))
    readable = ((place, image) for place, image in opened if image is not None)
    found = [*islice(readable, _MOST)]
    rasters: dict[Hashable, list[Raster]] = defaultdict(list)
    mosaics = _mosaics((groups[place], image) for place, image in found)
    for number, ((group, crs), images) in enumerate(mosaics.items(), start=1):
        path = f"{FOLDER}/{number:03d}.vrt"
        write_text(folder / path, _vrt(images))
        rasters[group].append(Raster(path=path, crs=crs))
    shown = np.isin(codes, [codes[place] for place, _ in found])
    return Imagery(rasters=dict(rasters), shown=shown)


def scenes_around(rows: Sequence[CatalogRow], *, blind: bool) -> list[Scenes]:
    """Return the images on the disk that are larger than the tiles cut from them, by date and CRS.

    The images of the first tiles are on top.

    Args:
        rows: of the tiles.
        blind: whether to leave out images whose class the catalog has, because the name of a file
            or of its folder may be that class.
    """
    files: dict[str, CatalogRow] = {}
    for row in rows:
        files.setdefault(row.files[0].href, row)
    named = {row.files[0].href for row in rows if row.label is not None}
    images: list[tuple[str, _Image]] = []
    for href, row in files.items():
        told = blind and href in named
        image = None if told or not Path(href).is_file() else _opened(row)
        if image is not None and _is_larger(image, row):
            images.append((f"{row.taken:%Y-%m-%d}" if row.taken else "an unknown date", image))
    return [
        Scenes(name=f"of {date}, {crs}", crs=crs, vrt=_vrt(found))
        for (date, crs), found in _mosaics(images).items()
    ]


def _is_larger(image: _Image, row: CatalogRow) -> bool:
    """Return whether an image shows more than the tile that was cut from it."""
    west, south, east, north = image[0].box
    x, y = np.array(row.corners).T
    half = image[0].transform[0] / 2
    return bool(east - west > np.ptp(x) + half or north - south > np.ptp(y) + half)


def _mosaics(
    images: Iterable[tuple[Hashable, _Image]],
) -> dict[tuple[Hashable, str], list[_Image]]:
    """Return the images of each group and CRS, in their order."""
    mosaics: dict[tuple[Hashable, str], list[_Image]] = defaultdict(list)
    for group, image in images:
        mosaics[group, image[0].crs].append(image)
    return mosaics


def _images_of(catalog: Catalog, ids: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Return the first file of each image, and the number of the image of each tile.

    The number of tiles that the catalog does not have is -1.
    """
    index, numbers = pd.Index(ids), dict[str, int]()
    codes = np.full(len(ids), -1)
    for table in catalog.tables(("id", "assets")):
        places = index.get_indexer(table["id"].to_pandas())
        assets = table["assets"].combine_chunks().flatten()
        files = pc.coalesce(*(asset.flatten()[0] for asset in assets), "").dictionary_encode()
        names = files.dictionary.to_pylist()
        own = np.array([numbers.setdefault(name, len(numbers)) for name in names])
        known = places >= 0
        codes[places[known]] = own[files.indices.to_numpy()[known]]
    return [*numbers], codes


def _opened(row: CatalogRow) -> _Image | None:
    """Return the image of a tile in true colour if its bands allow, None if it cannot be shown."""
    try:
        composite = composites_of(row.bands)[0]
        shown = zip(composite.bands, ranges_of(row.bands, composite), strict=True)
        return tuple(_band(row, name, limits) for name, limits in shown)
    except (ReviewError, RasterioError):
        return None


def _band(row: CatalogRow, name: str, limits: Range) -> _Band:
    """Return a band of the image of a tile, with the range that is shown.

    Raises:
        RasterioError: the file is missing or damaged.
        ReviewError: it cannot be put on a map.
    """
    file = next(file for file in row.files if name in file.used)
    number = file.bands.index(name)
    with rasterio.open(file.href) as opened:
        a, b, c, d, e, f = tuple(opened.transform)[:6]
        upright = not b and not d and a > 0 > e
        if opened.crs is None or not upright or number >= opened.count:
            raise ReviewError(f"{file.href} has no place on a map", expected="a CRS, north up")
        kind, (rows, columns) = opened.dtypes[number], opened.block_shapes[number]
        declared = (opened.nodatavals[number], row.nodata, 0.0)
        black, white = (float(row.bands.numbers(limit / PRODUCT_SCALE)) for limit in limits)
        return _Band(
            path=Path(file.href),
            number=number + 1,
            size=(opened.width, opened.height),
            blocks=(columns, rows),
            data_type="Byte" if kind == "uint8" else kind.capitalize().replace("Uint", "UInt"),
            nodata=next(value for value in declared if value is not None),
            crs=opened.crs.to_string(),
            transform=(a, b, c, d, e, f),
            stretch=f"{black!r}:1,{white!r}:255",
        )


def _vrt(images: Sequence[_Image]) -> str:
    """Return a VRT with three bands of bytes; the first image is on top."""
    every = [band for image in images for band in image]
    pixel = min(band.transform[0] for band in every)
    boxes = np.array([band.box for band in every])
    west, south = boxes[:, :2].min(0).tolist()
    east, north = boxes[:, 2:].max(0).tolist()
    width, height = (max(1, round(length / pixel)) for length in (east - west, north - south))
    root = ET.Element("VRTDataset", rasterXSize=f"{width}", rasterYSize=f"{height}")
    ET.SubElement(root, "SRS").text = rasterio.CRS.from_string(every[0].crs).to_wkt()
    transform = (west, pixel, 0.0, north, 0.0, -pixel)
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, transform))
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        target = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(channel + 1))
        ET.SubElement(target, "NoDataValue").text = "0"
        ET.SubElement(target, "ColorInterp").text = colour
        for image in reversed(images):
            band = image[channel]
            left, _, right, top = band.box
            source = picture_source(band.size, f"{band.path}", (0, 0), band.number, band.data_type)
            part(source, "SourceFilename").set("relativeToVRT", "0")
            blocks = dict(zip(("BlockXSize", "BlockYSize"), map(str, band.blocks), strict=True))
            part(source, "SourceProperties").attrib |= blocks
            place = (left - west, north - top, right - left, top - band.box[1])
            for side, length in zip(("xOff", "yOff", "xSize", "ySize"), place, strict=True):
                part(source, "DstRect").set(side, repr(length / pixel))
            ET.SubElement(source, "NODATA").text = repr(band.nodata)
            ET.SubElement(source, "LUT").text = band.stretch
            target.append(source)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"
