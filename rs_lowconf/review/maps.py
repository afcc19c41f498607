"""QGIS projects that show tiles at their location on Earth, unlike contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import geopandas
import shapely
from rasterio.crs import CRS

from rs_lowconf.review.project import write_qgz
from rs_lowconf.review.style import QGIS_VERSION, set_properties
from rs_lowconf.runs import replacing

MAP_CRS = "EPSG:3857"
"""CRS of the map view; layers keep theirs and are reprojected by QGIS."""

Bounds = tuple[float, float, float, float]
"""West, south, east and north."""

_MERCATOR: Bounds = (-180.0, -85.06, 180.0, 85.06)
"""Where `MAP_CRS` is defined, in degrees."""

#: From low to high confidence: ColorBrewer's RdYlGn for five classes.
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
    nearer_than: int | None = None
    """Drawn at scales larger than 1 : N; None draws it at every scale."""


@dataclass(frozen=True, kw_only=True)
class MapGroup:
    """Layers that are switched on and off together."""

    name: str
    layers: Sequence[MapLayer]
    shown: bool = True
    """Whether it is switched on when the project opens."""


def write_features(path: Path, frame: geopandas.GeoDataFrame, layer: str) -> None:
    """Write a GeoPackage of one layer that older QGIS reads too, atomically."""
    with replacing(path) as temporary:
        # GDAL requires this suffix, and creates the file itself.
        beside = temporary.with_name(f"{temporary.name}.gpkg")
        try:
            frame.to_file(beside, layer=layer, driver="GPKG", VERSION="1.2")
            beside.replace(temporary)
        finally:
            beside.unlink(missing_ok=True)


def bounds_of(frame: geopandas.GeoDataFrame) -> Bounds:
    """Return the bounds of shapes in degrees in `MAP_CRS`, which does not reach the poles."""
    shown = frame.geometry.clip_by_rect(*_MERCATOR)
    if shown.is_empty.all():
        shown = geopandas.GeoSeries([shapely.box(*_MERCATOR)], crs=frame.crs)
    west, south, east, north = shown.to_crs(MAP_CRS).total_bounds.tolist()
    return west, south, east, north


def write_map(
    path: Path, content: Sequence[MapLayer | MapGroup], bounds: Bounds, title: str
) -> None:
    """Write a project with layers, the first on top, atomically.

    Args:
        path: the .qgz, replaced when it exists.
        content: at least one layer.
        bounds: to which the map is zoomed, in `MAP_CRS`.
        title: of the project's window.
    """
    root = ET.Element("qgis", version=QGIS_VERSION, projectname=title)
    ET.SubElement(root, "title").text = title
    _append_crs(ET.SubElement(root, "projectCrs"), MAP_CRS)
    layers = _append_tree(root, content)
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "meters"
    extent = ET.SubElement(canvas, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True):
        ET.SubElement(extent, name).text = repr(value)
    ET.SubElement(canvas, "rotation").text = "0"
    _append_crs(ET.SubElement(canvas, "destinationsrs"), MAP_CRS)
    project = ET.SubElement(root, "projectlayers")
    order = ET.SubElement(root, "layerorder")
    for identifier, layer in layers.items():
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
        edges: six ascending values; values outside get the outermost colours.
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
        set_properties(layer, drawn)
        symbol.append(_dot(f"@{number}@1", colour))
    # The lowest come last, on top of their neighbours.
    order = ET.SubElement(ET.SubElement(renderer, "orderby"), "orderByClause", asc="0")
    order.text = f'"{attribute}"'
    return renderer


def places(colour: str, name: str, title: str, *, near: int) -> list[ET.Element]:
    """Return outlines with titles above them at large scales, and dots at small scales.

    Args:
        colour: red, green and blue.
        name: in the legend.
        title: a QGIS expression.
        near: the number N of the scale 1 : N between the two.
    """
    renderer = ET.Element("renderer-v2", type="RuleRenderer", symbollevels="0")
    rules = ET.SubElement(renderer, "rules", key="{places}")
    ET.SubElement(rules, "rule", key="{near}", symbol="0", scalemaxdenom=str(near), label=name)
    far = f"{name} (dot)"
    ET.SubElement(rules, "rule", key="{far}", symbol="1", scalemindenom=str(near), label=far)
    symbols = ET.SubElement(renderer, "symbols")
    outline = ET.SubElement(symbols, "symbol", type="fill", name="0", alpha="1")
    line = ET.SubElement(outline, "layer", {"class": "SimpleFill", "enabled": "1"})
    drawn = {
        "style": "no",
        "outline_color": f"{colour},255",
        "outline_style": "solid",
        "outline_width": "0.6",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    set_properties(line, drawn)
    ET.SubElement(symbols, "symbol", type="fill", name="1", alpha="1").append(_dot("@1@0", colour))
    labeling = ET.Element("labeling", type="simple")
    settings = ET.SubElement(labeling, "settings", calloutType="simple")
    style = ET.SubElement(
        settings,
        "text-style",
        # No font family: QGIS then uses its default, which always exists.
        fieldName=title,
        isExpression="1",
        fontSize="9",
        fontSizeUnit="Point",
        fontWeight="75",
        textColor=f"{colour},255",
        textOpacity="1",
        multilineHeight="1",
    )
    ET.SubElement(
        style,
        "text-buffer",
        bufferDraw="1",
        bufferSize="0.8",
        bufferSizeUnits="MM",
        bufferColor="255,255,255,255",
        bufferOpacity="1",
    )
    ET.SubElement(settings, "text-format", autoWrapLength="40", multilineAlign="0")
    ET.SubElement(
        settings,
        "placement",
        placement="1",  # over the upper left corner ...
        quadOffset="2",  # ... so that the picture stays free
        geometryGenerator="make_point(x_min($geometry), y_max($geometry))",
        geometryGeneratorEnabled="1",
        geometryGeneratorType="PointGeometry",
    )
    ET.SubElement(
        settings,
        "rendering",
        drawLabels="1",
        displayAll="0",
        obstacle="0",
        scaleVisibility="1",
        scaleMin="0",
        scaleMax=str(near),
    )
    return [renderer, labeling]


def _dot(name: str, colour: str) -> ET.Element:
    """Return a dot in the middle of a polygon, visible at the scale of countries."""
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
    set_properties(shape, drawn)
    return layer


def _append_tree(root: ET.Element, content: Sequence[MapLayer | MapGroup]) -> dict[str, MapLayer]:
    """Append the list of layers, and return them by their ids, from the top."""
    tree = ET.SubElement(root, "layer-tree-group")
    layers: dict[str, MapLayer] = {}
    for entry in content:
        parent = tree
        if isinstance(entry, MapGroup):
            parent = ET.SubElement(
                tree, "layer-tree-group", name=entry.name, expanded="0", checked=_checked(entry)
            )
        for layer in entry.layers if isinstance(entry, MapGroup) else [entry]:
            # QGIS silently ignores layers whose id has ten characters or fewer.
            identifier = f"layer_{len(layers):05d}_of_the_map"
            layers[identifier] = layer
            ET.SubElement(
                parent,
                "layer-tree-layer",
                id=identifier,
                name=layer.name,
                providerKey=layer.provider,
                checked=_checked(layer),
                expanded="1" if layer.provider == "ogr" else "0",
            )
    return layers


def _checked(entry: MapLayer | MapGroup) -> str:
    return "Qt::Checked" if entry.shown else "Qt::Unchecked"


def _layer(identifier: str, layer: MapLayer) -> ET.Element:
    kind = {"ogr": "vector", "gdal": "raster"}[layer.provider]
    element = ET.Element("maplayer", type=kind, styleCategories="AllStyleCategories")
    if kind == "vector":
        element.set("geometry", "Polygon")
        element.set("wkbType", "Polygon")
        element.set("readOnly", "1")
        element.set("labelsEnabled", str(int(any(one.tag == "labeling" for one in layer.style))))
    if layer.nearer_than is not None:
        element.set("hasScaleBasedVisibilityFlag", "1")
        element.set("minScale", str(layer.nearer_than))
        element.set("maxScale", "0")
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
