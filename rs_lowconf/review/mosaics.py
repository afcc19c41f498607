"""Georeferenced tiles as few rasters: VRTs straight from the files, without resampling.

Tiles share a raster if their pixel grids coincide, as for tiles cut out of Sentinel-2 images of one
UTM zone: then every tile is at its exact corners and none is resampled. Tiles with another pixel
size, phase or CRS get a separate raster, and so do tiles that would be covered. Rasters on the same
pixel grid have the same corners, so that rasters of real tiles and of their variants differ only in
their pixels.

One raster per tile would be as exact, but QGIS keeps every raster of a project open: a thousand
layers reach the limit of open files and fill the list of layers, where overlapping tiles would be
hard to find. A VRT opens its tiles only when they are drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from rasterio.crs import CRS

from rs_lowconf.bands import BandSpec
from rs_lowconf.grid import Grid
from rs_lowconf.review.sheet import picture_source

_ROUNDING = 1e-6
"""Tolerance of corners in pixels, for pixel sizes that are not round numbers."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The common extent of all rasters on the same pixel grid."""

    grid: Grid
    width: int
    """In pixels."""
    height: int
    corners: Mapping[Grid, tuple[int, int]]
    """Column and row where the tile of each grid begins."""


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Tiles of a frame that do not cover each other."""

    frame: Frame
    tiles: tuple[tuple[str, Grid], ...]
    """Files, and their grids."""


def frames_of(grids: Sequence[Grid], width: int, height: int) -> dict[Grid, Frame]:
    """Return the frame of each grid, for tiles of one size."""
    members: list[dict[Grid, tuple[int, int]]] = []
    for grid in dict.fromkeys(grids):
        for member in members:
            corner = _offset(grid, next(iter(member)))
            if corner is not None:
                member[grid] = corner
                break
        else:
            members.append({grid: (0, 0)})
    found: dict[Grid, Frame] = {}
    for member in members:
        columns, rows = zip(*member.values(), strict=True)
        left, top = min(columns), min(rows)
        # From the tiles at its edges, because sums of fractional numbers would be rounded.
        outermost = (
            next(grid for grid in member if member[grid][0] == left),
            next(grid for grid in member if member[grid][1] == top),
        )
        a, b, c, d, e, _ = outermost[0].transform
        transform = (a, b, c, d, e, outermost[1].transform[5])
        frame = Frame(
            grid=Grid(crs=outermost[0].crs, transform=transform),
            width=max(columns) - left + width,
            height=max(rows) - top + height,
            corners={grid: (column - left, row - top) for grid, (column, row) in member.items()},
        )
        found |= dict.fromkeys(member, frame)
    return found


def mosaics_of(
    tiles: Sequence[tuple[str, Grid]], frames: Mapping[Grid, Frame], width: int, height: int
) -> list[Mosaic]:
    """Return few mosaics that show all tiles, each in the first mosaic where it is not covered."""
    found: list[tuple[Frame, list[tuple[str, Grid]]]] = []
    for file, grid in tiles:
        frame = frames[grid]
        column, row = frame.corners[grid]
        for placed_frame, placed in found:
            corners = (frame.corners.get(other, (0, 0)) for _, other in placed)
            if placed_frame is frame and all(
                abs(column - x) >= width or abs(row - y) >= height for x, y in corners
            ):
                placed.append((file, grid))
                break
        else:
            found.append((frame, [(file, grid)]))
    return [Mosaic(frame=frame, tiles=tuple(placed)) for frame, placed in found]


def mosaic_vrt(mosaic: Mosaic, folder: str, bands: BandSpec, width: int, height: int) -> str:
    """Return a VRT of all bands; gaps between tiles are nodata (0).

    Args:
        mosaic: the tiles.
        folder: to which their files are relative, itself relative to the VRT.
        bands: of the files.
        width: of a tile.
        height: of a tile.
    """
    frame = mosaic.frame
    root = ET.Element("VRTDataset", rasterXSize=str(frame.width), rasterYSize=str(frame.height))
    ET.SubElement(root, "SRS").text = CRS.from_string(frame.grid.crs).to_wkt()
    a, b, c, d, e, f = frame.grid.transform
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, (c, a, b, f, d, e)))
    for number, name in enumerate(bands.names, start=1):
        band = ET.SubElement(root, "VRTRasterBand", dataType="UInt16", band=str(number))
        ET.SubElement(band, "Description").text = name
        ET.SubElement(band, "NoDataValue").text = "0"
        for file, grid in mosaic.tiles:
            path, corner = f"{folder}/{file}", frame.corners[grid]
            band.append(picture_source((width, height), path, corner, number, "UInt16"))
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _offset(grid: Grid, origin: Grid) -> tuple[int, int] | None:
    """Return columns and rows from one grid's corner to another's; None unless they are whole."""
    a, b, c, d, e, f = grid.transform
    first = origin.transform
    turned = b or d
    if turned or grid.crs != origin.crs or (a, e) != (first[0], first[4]):
        return None
    column, row = (c - first[2]) / a, (f - first[5]) / e
    if max(abs(column - round(column)), abs(row - round(row))) > _ROUNDING:
        return None
    return round(column), round(row)
