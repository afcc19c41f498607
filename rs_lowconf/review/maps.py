"""Where maps are zoomed to, which show tiles at their location on Earth, unlike contact sheets."""

import geopandas
import shapely

from rs_lowconf.review.project import Bounds

MAP_CRS = "EPSG:3857"
"""CRS of the map view in the templates; layers keep theirs and are reprojected by QGIS."""

_MERCATOR: Bounds = (-180.0, -85.06, 180.0, 85.06)
"""Where `MAP_CRS` is defined, in degrees."""


def bounds_of(frame: geopandas.GeoDataFrame) -> Bounds:
    """Return the bounds of shapes in degrees in `MAP_CRS`, which does not reach the poles."""
    shown = frame.geometry.clip_by_rect(*_MERCATOR)
    if shown.is_empty.all():
        shown = geopandas.GeoSeries([shapely.box(*_MERCATOR)], crs=frame.crs)
    west, south, east, north = shown.to_crs(MAP_CRS).total_bounds.tolist()
    return west, south, east, north
