"""Where maps are zoomed to, which show tiles at their location on Earth, unlike contact sheets."""

from itertools import product

import geopandas
import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from rs_lowconf.review.project import Bounds

MAP_CRS = "EPSG:3857"
"""CRS of the map view in the templates; layers keep theirs and are reprojected by QGIS."""
PACIFIC_CRS = "EPSG:3832"
"""A Mercator projection, too, whose edges are at 30 degrees west, for what lies across 180."""

_MERCATOR: Bounds = (-180.0, -85.06, 180.0, 85.06)
"""Where `MAP_CRS` is defined, in degrees."""
_HALF_WORLD = 20_037_508.0
"""In metres of both projections."""


def on_map(shapes: geopandas.GeoSeries) -> geopandas.GeoSeries:
    """Return shapes in degrees in the CRS of a map that shows them together.

    That is `MAP_CRS`, which does not reach the poles, except for shapes on both sides of 180
    degrees, which would be at opposite edges of that map.
    """
    shown = shapes.clip_by_rect(*_MERCATOR)
    if shown.is_empty.all():
        shown = geopandas.GeoSeries([shapely.box(*_MERCATOR)], crs=shapes.crs)
    maps = [shown.to_crs(crs) for crs in (MAP_CRS, PACIFIC_CRS)]
    widths = [float(np.ptp(each.total_bounds[[0, 2]])) for each in maps]
    return maps[1] if widths[1] < _HALF_WORLD < widths[0] else maps[0]


def cells_of(
    lon: Float[np.ndarray, " n"],
    lat: Float[np.ndarray, " n"],
    size: tuple[float, float],
    shift: tuple[float, float] = (0.0, 0.0),
) -> Int[np.ndarray, " n"]:
    """Return the number of each point's cell in a grid of equal cells over the earth.

    Args:
        lon: in degrees.
        lat: in degrees.
        size: width and height of a cell on the ground, in degrees of a meridian.
        shift: of the grid, in cells.
    """
    width, height = size
    row = np.floor(lat / height + shift[1])
    # Meridians converge towards the poles, and cells do not become narrower.
    middle = (row + 0.5 - shift[1]) * height
    column = np.floor(lon * np.cos(np.radians(middle)) / width + shift[0])
    rows, columns = row.astype(np.int64), column.astype(np.int64)
    across: Int[np.ndarray, " n"] = rows * (int(720 / width) + 4) + columns
    return across


def largest_cluster(
    lon: Float[np.ndarray, " n"],
    lat: Float[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    size: tuple[float, float],
) -> Bool[np.ndarray, " n"]:
    """Return which tiles are the largest cluster: the most of one group within a window.

    Windows are cells of four grids, each shifted by half a cell. So every window of half this width
    and height is inside one of them, and no such window holds more tiles. Among equal clusters that
    of the lowest confidence is taken.

    Args:
        lon: centres of tiles in degrees; at least one.
        lat: theirs in degrees.
        confidence: in each tile.
        groups: number of the group of each tile, such as its date.
        size: width and height of the window on the ground, in degrees of a meridian.
    """
    best, chosen = (0, 0.0), np.zeros(len(lon), dtype=np.bool_)
    _, groups = np.unique(groups, return_inverse=True)
    # The edge of longitudes splits clusters: once it is at 180 degrees, once at 0.
    for turned, shift in product((lon, lon % 360), product((0.0, 0.5), repeat=2)):
        _, cells = np.unique(cells_of(turned, lat, size, shift), return_inverse=True)
        _, window, counts = np.unique(
            cells * (groups.max() + 1) + groups, return_inverse=True, return_counts=True
        )
        lowest = np.full(len(counts), np.inf)
        np.minimum.at(lowest, window, confidence)
        first = np.lexsort((lowest, -counts))[0]
        found = (int(counts[first]), -float(lowest[first]))
        if not best[0] or found > best:
            best, chosen = found, window == first
    return chosen
