"""The contact sheet: where each picture lies, and the VRT that takes it from the tiles.

One VRT instead of a layer a tile: 500 raster layers take QGIS seconds and gigabytes, one
VRT 0.3 s. The sheet has no coordinate system; x counts its pixels to the right, y counts
them upwards from 0 at the top edge, so that y is negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from xml.etree import ElementTree as ET

from rs_lowconf.bands import BandSpec
from rs_lowconf.review.composites import Composite

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the sheet, counted from its upper left corner."""

_ASPECT = 1.1  # width by height of a map canvas that has the form beside it


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Cells of one size in rows; each shows the composites of one tile a block."""

    count: int
    """Cells, filled row by row."""

    width: int
    """Width of a tile in pixels."""

    height: int
    """Height of a tile in pixels."""

    blocks: int
    """Tiles side by side in a cell: 2 with a real tile left of the one to judge, else 1."""

    composites: tuple[Composite, ...]
    """What is shown of each tile, from left to right."""

    @property
    def line(self) -> int:
        """Height of one line of text; the sheet's only measure beside the tile's size."""
        return max(4, self.width // 8)

    @property
    def cell_size(self) -> tuple[int, int]:
        """Width and height of a cell, without the gutter around it."""
        gap = self.line // 4
        block = len(self.composites) * self.width + (len(self.composites) - 1) * gap
        width = self.blocks * block + (self.blocks + 1) * self.line
        return width, self.height + 5 * self.line

    @cached_property  # asked for by every cell
    def columns(self) -> int:
        """Cells in a row: what brings the sheet closest to the shape of a map canvas."""
        width, height = self.cell_size

        def distance(columns: int) -> float:
            rows = math.ceil(self.count / columns)
            return abs(math.log(columns * width / (rows * height) / _ASPECT))

        return min(range(1, self.count + 1), key=distance)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet in pixels, gutters included."""
        width, height = self.cell_size
        rows = math.ceil(self.count / self.columns)
        return (
            self.columns * (width + self.line) + self.line,
            rows * (height + self.line) + self.line,
        )

    def cell(self, index: int) -> Box:
        """Return the frame around one sample."""
        row, column = divmod(index, self.columns)
        width, height = self.cell_size
        left = self.line + column * (width + self.line)
        top = self.line + row * (height + self.line)
        return left, top, left + width, top + height

    def extent(self, index: int) -> tuple[float, float, float, float]:
        """Return a cell's frame in map coordinates, which count upwards: x, y, x, y."""
        left, top, right, bottom = self.cell(index)
        return float(left), -float(bottom), float(right), -float(top)

    def picture(self, index: int, block: int, composite: int) -> Box:
        """Return the place of one composite; blocks count from the left, the sample is last."""
        cell_left, cell_top, _, _ = self.cell(index)
        offset_x, offset_y = self.offset(block, composite)
        left, top = cell_left + offset_x, cell_top + offset_y
        return left, top, left + self.width, top + self.height

    def offset(self, block: int, composite: int) -> tuple[int, int]:
        """Return how far a picture lies to the right of and below its cell's corner."""
        gap = self.line // 4
        block_width = len(self.composites) * (self.width + gap) - gap
        x = self.line + block * (block_width + self.line) + composite * (self.width + gap)
        return x, 4 * self.line


def contact_vrt(sheet: Sheet, bands: BandSpec, cells: Sequence[Sequence[str]]) -> str:
    """Return a VRT of three byte bands that shows the tiles straight from their files.

    Gaps are nodata (0). Pictures are stretched by lookup tables, which clip by themselves.

    Args:
        sheet: the places.
        bands: what the channels of the files hold.
        cells: for each cell its files in the order of blocks, relative to the VRT.
    """
    width, height = sheet.size
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ET.SubElement(root, "GeoTransform").text = "0, 1, 0, 0, 0, -1"
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(channel + 1))
        ET.SubElement(band, "NoDataValue").text = "0"
        ET.SubElement(band, "ColorInterp").text = colour
        for index, files in enumerate(cells):
            for block, file in enumerate(files):
                for place, composite in enumerate(sheet.composites):
                    source = _source(sheet, bands, file, composite, channel)
                    left, top, _, _ = sheet.picture(index, block, place)
                    source.append(_rectangle("DstRect", left, top, sheet))
                    source.append(_lookup(composite))
                    band.append(source)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def _source(
    sheet: Sheet, bands: BandSpec, file: str, composite: Composite, channel: int
) -> ET.Element:
    source = ET.Element("ComplexSource")
    ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = file
    (position,) = bands.index_of((composite.bands[channel],))
    ET.SubElement(source, "SourceBand").text = str(position + 1)
    # With the size stated here, GDAL opens a tile only when it is drawn.
    ET.SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(sheet.width),
        RasterYSize=str(sheet.height),
        DataType="UInt16",
        BlockXSize=str(sheet.width),
        BlockYSize=str(sheet.height),
    )
    source.append(_rectangle("SrcRect", 0, 0, sheet))
    return source


def _rectangle(tag: str, left: int, top: int, sheet: Sheet) -> ET.Element:
    return ET.Element(
        tag, xOff=str(left), yOff=str(top), xSize=str(sheet.width), ySize=str(sheet.height)
    )


def _lookup(composite: Composite) -> ET.Element:
    element = ET.Element("LUT")
    element.text = f"0:1,{composite.white}:255"
    return element
