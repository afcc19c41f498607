"""QGIS projects that show tiles at their location on Earth, unlike contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas
import shapely

from rs_lowconf.errors import ReviewError
from rs_lowconf.review.project import TEMPLATES, Bounds, Project, fill, part, restyle

MAP_CRS = "EPSG:3857"
"""CRS of the map view in the templates; layers keep theirs and are reprojected by QGIS."""

_MERCATOR: Bounds = (-180.0, -85.06, 180.0, 85.06)
"""Where `MAP_CRS` is defined, in degrees."""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A raster of a map."""

    name: str
    source: str
    """Relative to the project."""
    crs: str
    """Authority code or WKT."""


@dataclass(frozen=True, kw_only=True)
class RasterGroup:
    """Rasters that are switched on and off together."""

    name: str
    rasters: Sequence[Raster]
    shown: bool
    """Whether it is switched on when the project opens."""


def bounds_of(frame: geopandas.GeoDataFrame) -> Bounds:
    """Return the bounds of shapes in degrees in `MAP_CRS`, which does not reach the poles."""
    shown = frame.geometry.clip_by_rect(*_MERCATOR)
    if shown.is_empty.all():
        shown = geopandas.GeoSeries([shapely.box(*_MERCATOR)], crs=frame.crs)
    west, south, east, north = shown.to_crs(MAP_CRS).total_bounds.tolist()
    return west, south, east, north


def write_score_project(path: Path, edges: Sequence[float], bounds: Bounds, title: str) -> None:
    """Write the project over scores.gpkg, which colours tiles by their confidence.

    Args:
        path: the .qgz, replaced when it exists.
        edges: of the colours, ascending, one more than the template has; values outside get the
            outermost colours.
        bounds: to which the map is zoomed, in `MAP_CRS`.
        title: of the project's window.

    Raises:
        ReviewError: the template has another number of colours.
    """
    project = Project("scores.qgs")
    layer = project.layer("confidence of the target")
    ranges = part(layer, "renderer-v2/ranges")
    if len(ranges) != len(edges) - 1:
        raise ReviewError(
            f"{TEMPLATES / 'scores.qgs'} has {len(ranges)} colours", expected=f"{len(edges) - 1}"
        )
    for colour, low, high in zip(ranges, edges[:-1], edges[1:], strict=True):
        label = f"{low:.3f} to {high:.3f}"
        colour.attrib |= {"lower": repr(low), "upper": repr(high), "label": label}
    project.connect(layer, "./scores.gpkg|layername=scores", "ogr")
    project.write(path, title, bounds)


def write_context_project(
    path: Path,
    groups: Sequence[RasterGroup],
    style: ET.Element,
    bounds: Bounds,
    title: str,
    *,
    kind: str,
    heading: str,
) -> None:
    """Write the project over context.gpkg: outlines of tiles, and their rasters in groups.

    Args:
        path: the .qgz, replaced when it exists.
        groups: the first one on top.
        style: of the rasters.
        bounds: to which the map is zoomed, in `MAP_CRS`.
        title: of the project's window.
        kind: of the tiles, in the legend.
        heading: of an outline, as a QGIS expression.
    """
    project = Project("context.qgs")
    fill(project.root, {"@kind": kind, "@heading": heading})
    places, raster = project.layer(f"locations of {kind} tiles"), project.layer("raster")
    project.connect(places, "./context.gpkg|layername=samples", "ogr")
    restyle(raster, style)
    example = part(project.tree, "layer-tree-group[@name='group']")
    for group in groups:
        for shown in group.rasters:
            project.connect(project.copy(raster, shown.name), shown.source, "gdal", shown.crs)
        checked = "Qt::Checked" if group.shown else "Qt::Unchecked"
        entry = ET.SubElement(project.tree, "layer-tree-group", example.attrib)
        entry.attrib |= {"name": group.name, "checked": checked}
        *copies, last = example.findall("layer-tree-layer")
        entry.extend(copies)
        example[:] = [last]
    project.tree.remove(example)
    project.layers.remove(raster)
    project.write(path, title, bounds)
