"""The QGIS project: one layer of cells over sheets of pictures, without a coordinate system.

Written as XML, because no library on PyPI can write projects. Without a CRS QGIS draws the sheet in
its pixels without any warning; an invented one would show a "no transform" warning and suggest a
location on Earth.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from rs_lowconf.review.fields import LAYER
from rs_lowconf.review.style import DOCTYPE, QGIS_VERSION, raster_style
from rs_lowconf.runs import replacing

# QGIS silently ignores layers whose id has ten characters or fewer.
_SHEET_ID = "contact_sheet_of_the_tiles"
_SHEET_NAME = "contact sheet"
_SHOWN = "Qt::Checked"
_CANVAS_GREY = 235


def write_project(
    path: Path,
    size: tuple[int, int],
    style: Sequence[ET.Element],
    title: str,
    *,
    layer: str = LAYER,
    read_only: bool = False,
    panels: Mapping[str, Sequence[ET.Element]] | None = None,
) -> None:
    """Write the .qgz, atomically.

    Args:
        path: the file, beside LAYER.gpkg and `contact.vrt`, replaced when it exists.
        size: width and height of the sheet, to which the map is zoomed.
        style: symbols, labels and form of the layer of cells.
        title: of the project's window.
        layer: the name of that layer and of its GeoPackage.
        read_only: whether that layer is read-only in QGIS.
        panels: styles of further sheets by name, each NAME.vrt of the same size; None or
            empty without any.
    """
    cells_id = f"{layer}_cells_of_the_sheet"
    root = ET.Element("qgis", version=QGIS_VERSION, projectname=title)
    ET.SubElement(root, "title").text = title
    _append_crs(ET.SubElement(root, "projectCrs"))
    panels = panels or {}
    layers = (
        (cells_id, layer, "ogr"),
        *((_panel_id(name), name, "gdal") for name in panels),
        (_SHEET_ID, _SHEET_NAME, "gdal"),
    )
    tree = ET.SubElement(root, "layer-tree-group")
    for identifier, name, provider in layers:
        ET.SubElement(
            tree,
            "layer-tree-layer",
            id=identifier,
            name=name,
            providerKey=provider,
            checked=_SHOWN,
            # An open legend explains the colours; that of the contact sheet is useless.
            expanded="0" if name == _SHEET_NAME else "1",
        )
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "unknown"
    canvas.append(_extent("extent", size))
    ET.SubElement(canvas, "rotation").text = "0"
    _append_crs(ET.SubElement(canvas, "destinationsrs"))
    project_layers = ET.SubElement(root, "projectlayers")
    project_layers.append(_cells_layer(cells_id, layer, style, read_only=read_only))
    for name, panel_style in panels.items():
        project_layers.append(_raster_layer(_panel_id(name), name, f"{name}.vrt", panel_style))
    sheet_style = raster_style((1, 2, 3), None)
    project_layers.append(_raster_layer(_SHEET_ID, _SHEET_NAME, "contact.vrt", sheet_style))
    order = ET.SubElement(root, "layerorder")
    for identifier, _, _ in layers:
        ET.SubElement(order, "layer", id=identifier)
    root.append(_properties())
    settings = ET.SubElement(root, "ProjectViewSettings")
    settings.append(_extent("DefaultViewExtent", size))
    write_qgz(path, root)


def write_qgz(path: Path, root: ET.Element) -> None:
    """Write a project's document as a .qgz, atomically."""
    ET.indent(root, " ")
    text = DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"
    # A fixed date, so that the same package gives the same bytes.
    entry = zipfile.ZipInfo(f"{path.stem}.qgs", date_time=(2000, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(entry, text)


def _cells_layer(
    identifier: str, name: str, style: Sequence[ET.Element], *, read_only: bool
) -> ET.Element:
    layer = ET.Element(
        "maplayer",
        type="vector",
        geometry="Polygon",
        wkbType="Polygon",
        labelsEnabled="1",
        readOnly=str(int(read_only)),
        styleCategories="AllStyleCategories",
    )
    ET.SubElement(layer, "id").text = identifier
    ET.SubElement(layer, "datasource").text = f"./{name}.gpkg|layername={name}"
    ET.SubElement(layer, "layername").text = name
    _append_crs(ET.SubElement(layer, "srs"))
    ET.SubElement(layer, "provider", encoding="UTF-8").text = "ogr"
    layer.extend(style)
    return layer


def _raster_layer(identifier: str, name: str, file: str, style: Sequence[ET.Element]) -> ET.Element:
    layer = ET.Element("maplayer", type="raster", styleCategories="AllStyleCategories")
    ET.SubElement(layer, "id").text = identifier
    ET.SubElement(layer, "datasource").text = f"./{file}"
    ET.SubElement(layer, "layername").text = name
    _append_crs(ET.SubElement(layer, "srs"))
    ET.SubElement(layer, "provider").text = "gdal"
    layer.extend(style)
    return layer


def _panel_id(name: str) -> str:
    return f"{name}_of_the_tiles"


def _properties() -> ET.Element:
    properties = ET.Element("properties")
    reference = ET.SubElement(properties, "SpatialRefSys")
    ET.SubElement(reference, "ProjectionsEnabled", type="int").text = "0"
    paths = ET.SubElement(properties, "Paths")
    ET.SubElement(paths, "Absolute", type="bool").text = "false"
    gui = ET.SubElement(properties, "Gui")
    for colour in ("Red", "Green", "Blue"):
        ET.SubElement(gui, f"CanvasColor{colour}Part", type="int").text = str(_CANVAS_GREY)
    return properties


def _append_crs(parent: ET.Element) -> None:
    """Declare that there is no coordinate system."""
    reference = ET.SubElement(parent, "spatialrefsys")
    ET.SubElement(reference, "wkt")


def _extent(tag: str, size: tuple[int, int]) -> ET.Element:
    width, height = size
    element = ET.Element(tag)
    for name, value in (("xmin", 0), ("ymin", -height), ("xmax", width), ("ymax", 0)):
        if tag == "extent":
            ET.SubElement(element, name).text = str(value)
        else:
            element.set(name, str(value))
    return element
