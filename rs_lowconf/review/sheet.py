"""The contact sheet: the position of each picture, and the VRT that reads it from the tiles.

One VRT instead of one layer per tile: 500 raster layers take QGIS seconds and gigabytes, one VRT
0.3 s. The sheet has no coordinate system; x counts its pixels to the right, y counts them upwards
from 0 at the top edge, so that y is negative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from xml.etree import ElementTree as ET

from rs_lowconf.bands import BandSpec, Composite
from rs_lowconf.review.composites import Range, ranges_of

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the sheet, counted from its upper left corner."""

_ASPECT = 1.1  # width by height of a map canvas that has the form beside it


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Cells of one size in rows; each shows one block per tile: composites, then panels."""

    count: int
    """Cells, filled row by row."""

    width: int
    """Width of a tile in pixels."""

    height: int
    """Height of a tile in pixels."""

    blocks: int
    """Tiles in a cell: 2 with a real tile left of or above the one to review, else 1."""

    composites: tuple[Composite, ...]
    """Pictures of each tile, from left to right."""

    panels: tuple[tuple[str, ...], ...] = ()
    """For each block the captions of its panels. Such blocks are wide, so they are below each
    other; empty if no block has panels."""

    @property
    def line(self) -> int:
        """Height of one line of text; the sheet's only dimension besides the tile's size."""
        return max(4, self.width // 8)

    @property
    def cell_size(self) -> tuple[int, int]:
        """Width and height of a cell, without the gutter around it."""
        if self.panels:
            height = self.blocks * (self.height + 3 * self.line) + 2 * self.line
            return self._block_width + 2 * self.line, height
        width = self.blocks * self._block_width + (self.blocks + 1) * self.line
        return width, self.height + 5 * self.line

    @cached_property  # used for every cell
    def columns(self) -> int:
        """Cells in a row, so that the sheet's shape is closest to that of a map canvas."""
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

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return the sheet's extent in map coordinates: x, y, x, y."""
        width, height = self.size
        return 0.0, -float(height), float(width), 0.0

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

    def captions(self, block: int) -> tuple[str, ...]:
        """Return the captions of a block's pictures, from left to right."""
        beside = self.panels[block] if self.panels else ()
        return (*(composite.caption for composite in self.composites), *beside)

    def picture(self, index: int, block: int, place: int) -> Box:
        """Return the position of a picture of a block; the sample is the last block."""
        cell_left, cell_top, _, _ = self.cell(index)
        offset_x, offset_y = self.offset(block, place)
        left, top = cell_left + offset_x, cell_top + offset_y
        return left, top, left + self.width, top + self.height

    def offset(self, block: int, place: int) -> tuple[int, int]:
        """Return how far a picture lies to the right of and below its cell's corner."""
        x, y = self.line + place * (self.width + self.line // 4), 4 * self.line
        if self.panels:
            return x, y + block * (self.height + 3 * self.line)
        return x + block * (self._block_width + self.line), y

    @cached_property
    def _block_width(self) -> int:
        gap = self.line // 4
        pictures = max(len(self.captions(block)) for block in range(self.blocks))
        return pictures * (self.width + gap) - gap


def contact_vrt(sheet: Sheet, bands: BandSpec, cells: Sequence[Sequence[str]]) -> str:
    """Return a VRT of three byte bands that shows the tiles straight from their files.

    Gaps are nodata (0). Pictures are stretched by lookup tables, which also clip.

    Args:
        sheet: the places.
        bands: of the files.
        cells: the files of each cell in the order of blocks, relative to the VRT.
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
                    (position,) = bands.index_of((composite.bands[channel],))
                    box = sheet.picture(index, block, place)
                    size = (sheet.width, sheet.height)
                    source = picture_source(size, file, box[:2], position + 1, "UInt16")
                    source.append(_lookup(ranges_of(bands, composite)[channel]))
                    band.append(source)
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"


def picture_source(
    size: tuple[int, int], file: str, corner: tuple[int, int], band: int, data_type: str
) -> ET.Element:
    """Return the source of a VRT that shows a band of a tile.

    Args:
        size: width and height of the tile.
        file: relative to the VRT.
        corner: column and row of the VRT where the tile begins.
        band: of the file, counted from 1.
        data_type: of the file, as named by GDAL.
    """
    width, height = map(str, size)
    source = ET.Element("ComplexSource")
    ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = file
    ET.SubElement(source, "SourceBand").text = str(band)
    # With the size stated here, GDAL opens a tile only when it is drawn.
    ET.SubElement(
        source,
        "SourceProperties",
        RasterXSize=width,
        RasterYSize=height,
        DataType=data_type,
        BlockXSize=width,
        BlockYSize=height,
    )
    left, top = map(str, corner)
    ET.SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=width, ySize=height)
    ET.SubElement(source, "DstRect", xOff=left, yOff=top, xSize=width, ySize=height)
    return source


def _lookup(shown: Range) -> ET.Element:
    element = ET.Element("LUT")
    element.text = "{}:1,{}:255".format(*shown)
    return element
