"""QGIS projects that show tiles in their place on Earth, unlike the sheets of a review package."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

from rasterio.crs import CRS

from rs_lowconf.review.project import write_qgz
from rs_lowconf.review.style import QGIS_VERSION

MAP_CRS = "EPSG:3857"
"""Of the map on the screen; layers keep their own and are brought onto it by QGIS."""

Bounds = tuple[float, float, float, float]
"""West, south, east and north."""

#: From unsure to sure: ColorBrewer's RdYlGn for five classes.
_RAMP = ("215,25,28", "253,174,97", "255,255,191", "166,217,106", "26,150,65")


@dataclass(frozen=True, kw_only=True)
class MapLayer:
    """A layer of a map."""

    name: str
    provider: Literal["ogr", "gdal"]
    source: str
    """Relative to the project, such as `./scores.gpkg|layername=scores`."""
    crs: str
    """Authority code or WKT."""
    style: Sequence[ET.Element] = field(default=())
    shown: bool = True
    """Whether it is switched on when the project opens."""


def write_map(path: Path, layers: Sequence[MapLayer], bounds: Bounds, title: str) -> None:
    """Write a project with layers, the first on top, atomically.

    Args:
        path: the .qgz, replaced when it exists.
        layers: at least one.
        bounds: to which the map is zoomed, in `MAP_CRS`.
        title: of the project's window.
    """
    root = ET.Element("qgis", version=QGIS_VERSION, projectname=title)
    ET.SubElement(root, "title").text = title
    _append_crs(ET.SubElement(root, "projectCrs"), MAP_CRS)
    # QGIS ignores layers whose id has ten characters or fewer, without a word.
    ids = [f"layer_{number:05d}_of_the_map" for number in range(len(layers))]
    tree = ET.SubElement(root, "layer-tree-group")
    for identifier, layer in zip(ids, layers, strict=True):
        ET.SubElement(
            tree,
            "layer-tree-layer",
            id=identifier,
            name=layer.name,
            providerKey=layer.provider,
            checked="Qt::Checked" if layer.shown else "Qt::Unchecked",
            expanded="1" if layer.provider == "ogr" else "0",
        )
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "meters"
    extent = ET.SubElement(canvas, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True):
        ET.SubElement(extent, name).text = repr(value)
    ET.SubElement(canvas, "rotation").text = "0"
    _append_crs(ET.SubElement(canvas, "destinationsrs"), MAP_CRS)
    project = ET.SubElement(root, "projectlayers")
    order = ET.SubElement(root, "layerorder")
    for identifier, layer in zip(ids, layers, strict=True):
        project.append(_layer(identifier, layer))
        ET.SubElement(order, "layer", id=identifier)
    properties = ET.SubElement(root, "properties")
    reference = ET.SubElement(properties, "SpatialRefSys")
    ET.SubElement(reference, "ProjectionsEnabled", type="int").text = "1"
    paths = ET.SubElement(properties, "Paths")
    ET.SubElement(paths, "Absolute", type="bool").text = "false"
    view = ET.SubElement(root, "ProjectViewSettings")
    shown = ET.SubElement(view, "DefaultViewExtent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True):
        shown.set(name, repr(value))
    _append_crs(shown, MAP_CRS)
    write_qgz(path, root)


def graduated(attribute: str, edges: Sequence[float]) -> ET.Element:
    """Return five colours from red to green by the value of a column.

    Args:
        attribute: the column.
        edges: six values that rise; the outermost take what lies beyond.
    """
    renderer = ET.Element(
        "renderer-v2",
        type="graduatedSymbol",
        attr=attribute,
        graduatedMethod="GraduatedColor",
        enableorderby="1",
    )
    ranges = ET.SubElement(renderer, "ranges")
    symbols = ET.SubElement(renderer, "symbols")
    for number, colour in enumerate(_RAMP):
        low, high = edges[number], edges[number + 1]
        ET.SubElement(
            ranges,
            "range",
            render="true",
            symbol=str(number),
            lower=repr(low),
            upper=repr(high),
            label=f"{low:.3f} to {high:.3f}",
        )
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="0.7")
        layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        drawn = {
            "style": "solid",
            "color": f"{colour},255",
            "outline_color": "60,60,60,255",
            "outline_style": "solid",
            "outline_width": "0.1",
            "outline_width_unit": "MM",
        }
        for name, text in drawn.items():
            ET.SubElement(layer, "prop", k=name, v=text)
        symbol.append(_dot(f"@{number}@1", colour))
    # The lowest come last, on top of their neighbours.
    order = ET.SubElement(ET.SubElement(renderer, "orderby"), "orderByClause", asc="0")
    order.text = f'"{attribute}"'
    return renderer


def _dot(name: str, colour: str) -> ET.Element:
    """Return a dot in the middle of a polygon, which shows where whole countries are in view."""
    layer = ET.Element("layer", {"class": "CentroidFill", "enabled": "1"})
    marker = ET.SubElement(layer, "symbol", type="marker", name=name, alpha="1")
    shape = ET.SubElement(marker, "layer", {"class": "SimpleMarker", "enabled": "1"})
    drawn = {
        "name": "circle",
        "color": f"{colour},255",
        "outline_color": "60,60,60,255",
        "outline_width": "0.1",
        "outline_width_unit": "MM",
        "size": "1.8",
        "size_unit": "MM",
    }
    for key, text in drawn.items():
        ET.SubElement(shape, "prop", k=key, v=text)
    return layer


def _layer(identifier: str, layer: MapLayer) -> ET.Element:
    kind = {"ogr": "vector", "gdal": "raster"}[layer.provider]
    element = ET.Element("maplayer", type=kind, styleCategories="AllStyleCategories")
    if kind == "vector":
        element.set("geometry", "Polygon")
        element.set("wkbType", "Polygon")
        element.set("readOnly", "1")
    ET.SubElement(element, "id").text = identifier
    ET.SubElement(element, "datasource").text = layer.source
    ET.SubElement(element, "layername").text = layer.name
    _append_crs(ET.SubElement(element, "srs"), layer.crs)
    provider = ET.SubElement(element, "provider")
    provider.text = layer.provider
    if kind == "vector":
        provider.set("encoding", "UTF-8")
    element.extend(layer.style)
    return element


def _append_crs(parent: ET.Element, crs: str) -> None:
    known = CRS.from_string(crs)
    reference = ET.SubElement(parent, "spatialrefsys")
    ET.SubElement(reference, "wkt").text = known.to_wkt()
    ET.SubElement(reference, "proj4").text = known.to_proj4()
    authority = known.to_authority()
    if authority:
        ET.SubElement(reference, "srid").text = authority[1]
        ET.SubElement(reference, "authid").text = ":".join(authority)
    ET.SubElement(reference, "geographicflag").text = str(known.is_geographic).lower()
