"""Outlines and centres of tiles on the earth. Oracles are pyproj's areas and transformations."""

import math

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from rs_lowconf.data.blocks import blocks_apart, blocks_at
from rs_lowconf.grid import Grid
from rs_lowconf.outlines import box_around, degrees, outlines, split_at_180

GEOD = pyproj.Geod(ellps="WGS84")
FIJI = pyproj.Transformer.from_crs(4326, 32760, always_xy=True).transform(180.0, -16.8)
#: Of tiles of 64 pixels: across 180 degrees, beside it, over a pole, with a pole as a corner.
PLACES = {
    "across": ("EPSG:32760", FIJI[0] - 320, FIJI[1], 10.0),
    "west": ("EPSG:32760", FIJI[0] - 2000, FIJI[1], 10.0),
    "east": ("EPSG:32760", FIJI[0] + 100, FIJI[1], 10.0),
    "east in zone 1": ("EPSG:32701", 180_000.0, FIJI[1], 10.0),
    "beyond 180": ("EPSG:4326", 179.9999, 5.0, 1e-5),
    "south pole": ("EPSG:3031", -320.0, 320.0, 10.0),
    "north pole": ("EPSG:3413", -100.0, 200.0, 10.0),
    "Ross Sea": ("EPSG:3031", -320.0, -1_300_000.0, 10.0),
    "corner": ("EPSG:3031", 0.0, 0.0, 10.0),
    "corner at 180": ("EPSG:3031", -640.0, 0.0, 10.0),
    "Europe": ("EPSG:32633", 500_000.0, 5_300_000.0, 10.0),
}


def grid_of(name: str) -> Grid:
    """Return the grid of a tile."""
    crs, x, y, pixel = PLACES[name]
    return Grid(crs=crs, transform=(pixel, 0.0, x, 0.0, -pixel, y))


def outline_of(grid: Grid, side: int = 64) -> BaseGeometry:
    """Return the outline of a tile."""
    found: BaseGeometry
    (found,) = outlines(np.array([grid.corners(side, side)]), [grid.crs])
    return found


@pytest.mark.parametrize("name", PLACES)
def test_outlines_have_the_area_of_the_tile(name: str) -> None:
    """On the ellipsoid a tile covers what it covers in its CRS, and every pixel's centre."""
    grid = grid_of(name)
    outline = outline_of(grid)
    assert outline.is_valid
    area = abs(GEOD.geometry_area_perimeter(outline)[0])
    if grid.crs == "EPSG:4326":
        due = abs(GEOD.geometry_area_perimeter(shapely.box(0.0, 5 - 64e-5, 64e-5, 5.0))[0])
    else:
        factors = pyproj.Proj(grid.crs).get_factors(*degrees(
            np.array([grid.at(32.0, 32.0)]), [grid.crs])[0])  # fmt: skip
        due = 640**2 / factors.areal_scale
    assert area == pytest.approx(due, rel=1e-3)
    west, south, east, north = outline.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    # Rings as RFC 7946 wants them; a ring around a pole goes along its edge.
    assert all(part.exterior.is_ccw for part in shapely.get_parts(outline))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("across", 2), ("Ross Sea", 2), ("beyond 180", 2), ("west", 1), ("east", 1), ("corner", 1)],
)
def test_only_tiles_across_180_degrees_are_split(name: str, parts: int) -> None:
    """RFC 7946, section 3.1.9: a geometry that crosses 180 degrees is cut in two."""
    outline = outline_of(grid_of(name))
    assert len(shapely.get_parts(outline)) == parts
    assert all(np.ptp(shapely.get_coordinates(p)[:, 0]) < 91 for p in shapely.get_parts(outline))


@given(st.floats(-700, 700), st.floats(-30_000, 30_000))
def test_centres_lie_in_their_outlines(east: float, north: float) -> None:
    """A tile about 180 degrees has the centre that pyproj gives, and it lies in the outline."""
    grid = Grid(
        crs="EPSG:32760", transform=(10.0, 0.0, FIJI[0] + east, 0.0, -10.0, FIJI[1] + north)
    )
    x, y = grid.at(32.0, 32.0)
    lon, lat = pyproj.Transformer.from_crs(32760, 4326, always_xy=True).transform(x, y)
    (found,) = degrees(np.array([[x, y]]), [grid.crs])
    assert math.cos(math.radians(found[0] - lon)) == pytest.approx(1)
    assert found[1] == pytest.approx(lat)
    assert outline_of(grid).covers(shapely.Point(*found))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("side", [64, 10_980])
def test_boxes_are_around_images(name: str, side: int) -> None:
    """Every pixel of an image of any size lies in the box around it."""
    grid = grid_of(name)
    rng = np.random.default_rng(0)
    places = [grid.at(*place) for place in rng.uniform(0, side, (200, 2)).tolist()]
    lon, lat = degrees(np.array(places), [grid.crs] * len(places)).T
    lon = (lon + 180) % 360 - 180
    box = box_around(grid, side, side).buffer(1e-6)
    assert shapely.covers(box, shapely.points(lon, lat)).all()


def test_shapes_are_split_once() -> None:
    """A shape that is split already, or goes around the earth, stays as it is."""
    whole = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    halves = split_at_180(whole)
    assert halves.equals(
        shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)])
    )
    assert split_at_180(halves).equals(halves)
    for shape in (shapely.box(-180, -90, 180, 90), shapely.box(10, 10, 20, 20)):
        assert split_at_180(shape) is shape


def test_blocks_on_both_sides_of_180_degrees_are_neighbours() -> None:
    """A tile of a scene across 180 degrees lies in blocks next to each other."""
    corners = np.array(grid_of("across").corners(64, 64))
    blocks = blocks_at(corners[:, 0], corners[:, 1], "EPSG:32760", 2_000.0)
    assert np.ptp([column for column, _ in blocks]) > 10_000
    assert blocks_apart(blocks, 2_000.0) == 1
    assert blocks_apart([(0, 0), (3, 1)], 2_000.0) == 3


def test_geopandas_agrees_away_from_180_degrees() -> None:
    """Elsewhere an outline is what geopandas makes of the corners."""
    grid = grid_of("Europe")
    own = geopandas.GeoSeries([shapely.Polygon(grid.corners(64, 64))], crs=grid.crs).to_crs(4326)
    assert outline_of(grid).symmetric_difference(own.iloc[0]).area < 1e-12
