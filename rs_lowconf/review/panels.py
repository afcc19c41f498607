"""Panels right of a tile's composites: its mask, the target's prediction, its confidence.

Each kind has separate files, one VRT of the whole sheet and one layer in QGIS, with the same
colours everywhere: classes in the colours of `colours_of`, confidence in grey from black (0) to
white (1). Pixels without class are transparent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import numpy as np
from jaxtyping import Float32, UInt8

from rs_lowconf.colours import Colour, colours_of
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review import geotiff
from rs_lowconf.review.fields import Label
from rs_lowconf.review.geotiff import NO_CONFIDENCE, category_names
from rs_lowconf.review.project import document, template
from rs_lowconf.review.sheet import Sheet, picture_source
from rs_lowconf.review.style import classes_style
from rs_lowconf.runs import write_text

Kind = Literal["mask", "predicted", "confidence"]

PAPER: Colour = (235, 235, 235)
"""Shown where there is no class: the grey of the map around the pictures."""

_FOLDERS: Mapping[Kind, str] = {
    "mask": "masks",
    "predicted": "predicted",
    "confidence": "confidence",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One kind of picture."""

    kind: Kind
    """Name of its VRT and its layer, and caption of its pictures."""

    classes: Mapping[str, Colour]
    """Colours of its classes by name, in the order of indices; empty for confidence."""

    @property
    def of_target(self) -> bool:
        """Whether it shows what the target says, which reviewers see after the decision."""
        return self.kind != "mask"

    def file(self, sample_id: str) -> str:
        """Return the path of a sample's file in the package."""
        return f"{_FOLDERS[self.kind]}/{sample_id}.tif"

    def write(
        self,
        path: Path,
        values: UInt8[np.ndarray, "h w"] | Float32[np.ndarray, "h w"],
        tags: Mapping[str, str],
        grid: Grid | None = None,
    ) -> None:
        """Write the file of one tile, with a .qml so that QGIS shows it as in the package."""
        if self.classes:
            geotiff.write_classes(path, values, self.classes, tags, grid)
        else:
            geotiff.write_confidence(path, values, tags, grid)
        self.describe(path)

    def describe(self, path: Path) -> None:
        """Write what stands beside a file: its style, and the names of its classes if any."""
        if self.classes:
            geotiff.write_names(path, self.classes)
        write_text(path.with_suffix(".qml"), document(self.style()))

    def paint(
        self, values: UInt8[np.ndarray, "h w"] | Float32[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return the colours in which QGIS shows one tile."""
        if not self.classes:
            grey = (values.astype(np.float64) * 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        table = np.full((UNKNOWN + 1, 3), PAPER, dtype=np.uint8)
        table[: len(self.classes)] = list(self.classes.values())
        painted: UInt8[np.ndarray, "h w 3"] = table[values]
        return painted

    def style(self) -> ET.Element:
        """Return how QGIS shows it, the legend included."""
        return classes_style(self.classes) if self.classes else template("confidence.qml")


def panels_of(
    label: Label, pixel_classes: Sequence[str], target_classes: Sequence[str]
) -> tuple[Panel, ...]:
    """Return the panels of a package, from left to right; a blind one shows none of the target.

    Args:
        label: of the package.
        pixel_classes: classes of masks; empty when tiles have none.
        target_classes: classes of the model under test.
    """
    if not pixel_classes:
        return ()
    colours = colours_of((*pixel_classes, *target_classes))
    mask = mask_panel(pixel_classes)
    if label == "blind":
        return (mask,)
    predicted = Panel(kind="predicted", classes={name: colours[name] for name in target_classes})
    return (mask, predicted, Panel(kind="confidence", classes={}))


def mask_panel(pixel_classes: Sequence[str]) -> Panel:
    """Return the panel of masks; classes have the same colours beside those of any target."""
    return Panel(kind="mask", classes=colours_of(pixel_classes))


def legend_of(panels: Sequence[Panel]) -> dict[str, Colour]:
    """Return what the colours of panels mean; empty without panels."""
    legend: dict[str, Colour] = {}
    for panel in panels:
        legend |= panel.classes or {"confidence 0": (0, 0, 0), "confidence 1": (255, 255, 255)}
    return legend


def panel_vrt(sheet: Sheet, panel: Panel, cells: Sequence[Sequence[str | None]]) -> str:
    """Return a VRT of the sheet's size that shows one kind straight from its files.

    Args:
        sheet: the places.
        panel: the kind.
        cells: the files of each cell in the order of blocks, relative to the VRT; None for a block
            without file.
    """
    width, height = sheet.size
    data_type, nodata = ("Byte", UNKNOWN) if panel.classes else ("Float32", NO_CONFIDENCE)
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ET.SubElement(root, "GeoTransform").text = "0, 1, 0, 0, 0, -1"
    band = ET.SubElement(root, "VRTRasterBand", dataType=data_type, band="1")
    ET.SubElement(band, "NoDataValue").text = str(nodata)
    if panel.classes:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        band.append(category_names(panel.classes))
        table = ET.SubElement(band, "ColorTable")
        for red, green, blue in panel.classes.values():
            ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
    for index, files in enumerate(cells):
        for block, file in enumerate(files):
            if file is not None:
                box = sheet.picture(index, block, sheet.captions(block).index(panel.kind))
                size = (sheet.width, sheet.height)
                band.append(picture_source(size, file, box[:2], 1, data_type))
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode") + "\n"
