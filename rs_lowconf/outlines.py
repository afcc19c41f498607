"""Where tiles lie on the earth, in degrees, also across 180 degrees and over the poles.

A mean of longitudes or a polygon of four corners in degrees is wrong there: centres come from the
coordinate reference system of the image, and outlines are split as in GeoJSON (RFC 7946).
"""

from collections.abc import Sequence

import antimeridian
import numpy as np
import shapely
from jaxtyping import Float
from numpy.typing import NDArray
from rasterio.warp import transform
from shapely.geometry.base import BaseGeometry

from rs_lowconf.grid import Grid

WGS84 = "EPSG:4326"

_STEPS = 21
"""Points along each side of an image: sides that are straight in its CRS are curved in degrees."""

Shapes = NDArray[np.object_]
"""Geometries of shapely, one-dimensional."""


def degrees(xy: Float[np.ndarray, "n 2"], crs: Sequence[str]) -> Float[np.ndarray, "n 2"]:
    """Return longitudes and latitudes of points, each of which has its own CRS."""
    found = np.empty(xy.shape)
    codes = np.asarray(crs)
    # One call per CRS: setting up a transformation takes longer than using it.
    for code in dict.fromkeys(codes.tolist()):
        here = codes == code
        found[here] = np.stack(transform(code, WGS84, xy[here, 0], xy[here, 1]), axis=-1)
    return found


def outlines(corners: Float[np.ndarray, "n 4 2"], crs: Sequence[str]) -> Shapes:
    """Return the outlines of tiles in degrees.

    Args:
        corners: in the unit of each tile's CRS, in the order of `Grid.corners`.
        crs: of each tile.

    Returns:
        Polygons; multi-polygons for tiles across 180 degrees. Exterior rings are
        counterclockwise.
    """
    places = degrees(corners.reshape(-1, 2), np.repeat(np.asarray(crs), 4).tolist())
    rings = places.reshape(-1, 4, 2)[:, ::-1]
    lon, lat = rings[..., 0], rings[..., 1]
    # A pole has no longitude, and 180 degrees east is 180 degrees west.
    lon[:] = np.where(np.abs(lat) >= 90, np.roll(lon, 1, axis=1), lon)
    edge = np.abs(lon) == 180
    side = np.where(edge, 0, lon).sum(axis=1, keepdims=True)
    lon[:] = np.where(edge, np.copysign(180, side), lon)
    shapes: Shapes = np.asarray(shapely.polygons(rings))
    # No tile is as wide as half the earth: such an outline crosses 180 degrees or a pole.
    across = (np.ptp(lon, axis=1) > 180) | (np.abs(lon) > 180).any(axis=1)
    for index in np.flatnonzero(across):
        shapes[index] = antimeridian.fix_polygon(shapes[index])
    return shapes


def box_around(grid: Grid, height: int, width: int) -> BaseGeometry:
    """Return the bounding box of an image in degrees; in two parts across 180 degrees."""
    steps = np.linspace(0, 1, _STEPS)
    sides = [(0 * steps, steps), (steps, 1 + 0 * steps), (1 + 0 * steps, steps), (steps, 0 * steps)]
    rows, cols = np.concatenate(sides, axis=1) * [[height], [width]]
    edge = np.array([grid.at(*place) for place in zip(rows.tolist(), cols.tolist(), strict=True)])
    lon, lat = degrees(edge, [grid.crs] * len(edge)).T
    # Each longitude as close to the first as possible: values continue beyond 180 degrees.
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    if np.ptp(lon) > 179:  # around or next to a pole
        south, north = (-90.0, lat.max()) if lat.mean() < 0 else (lat.min(), 90.0)
        return shapely.box(-180, south, 180, north)
    return antimeridian.fix_polygon(shapely.box(lon.min(), lat.min(), lon.max(), lat.max()))


def split_at_180(shape: BaseGeometry) -> BaseGeometry:
    """Return a shape in degrees whose polygons across 180 degrees are split, as in GeoJSON.

    Polygons that reach from -180 to 180 degrees go around the earth and are not changed.

    Raises:
        ValueError: a polygon that has to be split is not valid.
    """
    parts, split = [], False
    for part in shapely.get_parts(shape):
        west, _, east, _ = part.bounds if not part.is_empty else (0.0, 0.0, 0.0, 0.0)
        across = east - west > 180 or west < -180 or east > 180
        if part.geom_type == "Polygon" and across and (west, east) != (-180, 180):
            parts.append(antimeridian.fix_polygon(part, fix_winding=False, great_circle=False))
            split = True
        else:
            parts.append(part)
    return shapely.union_all(parts) if split else shape
