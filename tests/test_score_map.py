"""The map of scores: its view by brute force, and what the real QGIS shows of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.bands import TRUE_COLOUR
from rs_lowconf.batch.score_map import ranges_of, write_score_map
from rs_lowconf.data.catalog.rows import centres, to_table
from rs_lowconf.data.catalog.table import Catalog, write_catalog
from rs_lowconf.outlines import degrees, outlines
from rs_lowconf.review.composites import RANGES
from rs_lowconf.review.maps import MAP_CRS, PACIFIC_CRS, largest_cluster
from tests.make_scenes import make_scenes
from tests.offscreen import run_offscreen

SCRIPT = Path(__file__).parent / "qgis" / "open_map.py"
DATES = ("2023-06-01", "2023-07-01")
COLUMNS, ROWS, SIDE = 12, 6, 16
NUMBERS = (500, 1000, 1500, 2000)
"""Digital numbers of B02, B03, B04 and B08 in all of the drawn scenes."""
RED = (215, 25, 28)


def scored(
    corners: Sequence[tuple[float, float]],
    crs: Sequence[str],
    confidence: Sequence[float],
    side: float = 640.0,
) -> geopandas.GeoDataFrame:
    """Return scores of tiles of this side in metres at these upper left corners, on one date."""
    xy = np.array(corners)
    steps = side * np.array([(0, 0), (1, 0), (1, -1), (0, -1)])
    shapes = outlines(xy[:, None] + steps, crs)
    lon, lat = degrees(xy + side * np.array([0.5, -0.5]), crs).T
    time = pd.Timestamp("2023-07-01T10:30", tz="UTC")
    columns = {
        "id": [f"t{number}" for number in range(len(xy))],
        "datetime": [time] * len(xy),
        "confidence": np.array(confidence, dtype=np.float64),
        "lon": lon,
        "lat": lat,
    }
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")


def opened(python: str, folder: Path, *where: object) -> dict[str, Any]:
    """Return what QGIS reports of the project in a folder, and the picture that it draws."""
    words = (SCRIPT, folder / "scores.qgz", folder / "map.png", folder / "report.json", *where)
    done = run_offscreen([python, *words], folder)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["opened"]
    assert all(layer["valid"] for layer in report["layers"])
    with Image.open(folder / "map.png") as image:
        return report | {"picture": np.asarray(image.convert("RGB"))}


def painted(picture: UInt8[np.ndarray, "h w 3"], colour: Sequence[int]) -> int:
    """Return the number of pixels of exactly this colour."""
    return int((picture == np.array(colour[:3])).all(-1).sum())


degree = st.integers(-40, 40).map(lambda steps: steps / 10)


@given(st.lists(st.tuples(degree, degree, st.integers(0, 1)), min_size=1, max_size=30))
def test_no_window_of_half_the_size_holds_more_tiles(tiles: list[tuple[float, float, int]]) -> None:
    """The cluster lies in one window and one group; brute force finds no larger one."""
    lon, lat, groups = (np.array(values) for values in zip(*tiles, strict=True))
    own = largest_cluster(lon.astype(float), lat.astype(float), lat / 10, groups, (2.0, 1.0))
    assert np.ptp(lon[own]) <= 2.01
    assert np.ptp(lat[own]) <= 1
    assert len(set(groups[own])) == 1
    for west in lon:
        for south in lat:
            inside = (west <= lon) & (lon <= west + 0.95) & (south <= lat) & (lat <= south + 0.45)
            assert max(np.bincount(groups[inside], minlength=1)) <= own.sum()


def test_a_cluster_across_180_degrees_is_one() -> None:
    """Three tiles at both sides of 180 degrees are more than two elsewhere."""
    lon = np.array([179.95, -179.99, -179.9, 10.0, 10.1])
    own = largest_cluster(lon, np.zeros(5), np.zeros(5), np.zeros(5, dtype=int), (1.0, 1.0))
    assert own.tolist() == [True, True, True, False, False]


@given(st.lists(st.sampled_from([0.2, 0.25, 0.31, 0.5, 0.99991, 0.99992, 1.0]), min_size=1))
def test_every_tile_has_one_colour(values: list[float]) -> None:
    """Each range holds tiles, the lowest is red unless all are equal, and labels differ."""
    confidence = np.array(values)
    ranges = ranges_of(confidence)
    within = [(each.above < confidence) & (confidence <= each.upto) for each in ranges]
    assert (np.sum(within, axis=0) == 1).all()
    assert all(own.any() for own in within)
    assert len({each.label for each in ranges}) == len(ranges)
    assert ranges[0].colour == (0 if len(set(values)) > 1 else 4)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the map of a place on two dates; the second's image is missing.

    On the first date twelve tiles are unsure, on the second one, more so, at another place. The ten
    least sure of all are this one and nine of the others.
    """
    folder = tmp_path_factory.mktemp("stacked")
    image = np.array(np.broadcast_to(np.array(NUMBERS, np.uint16)[:, None, None], (4, 96, 192)))
    rows = make_scenes(folder, "L2A", dict.fromkeys(DATES, image), SIDE)
    write_catalog(folder / "catalog.parquet", [to_table(rows)])
    catalog = Catalog(folder / "catalog.parquet")
    table = pa.concat_tables([*catalog.tables()])
    confidence = 0.9 + np.linspace(0, 0.05, len(table))
    for position, row in enumerate(rows):
        y, x = row.window[0] // SIDE, row.window[1] // SIDE
        first = row.taken is not None and f"{row.taken:%Y-%m-%d}" == DATES[0]
        if first and x in (7, 8, 9, 10) and y in (1, 2, 3):
            confidence[position] = 0.3 + 0.001 * (x + y)
        if not first and (x, y) == (2, 4):
            confidence[position] = 0.25
    lon, lat = centres(table).T
    scores = geopandas.GeoDataFrame(
        {
            "id": table["id"].to_pylist(),
            "datetime": table["datetime"].to_pandas(),
            "confidence": confidence,
            "lon": lon,
            "lat": lat,
        },
        geometry=shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False)),
        crs="EPSG:4326",
    )
    next((folder / "scenes").glob("*20230701*")).unlink()
    write_score_map(folder, scores, catalog)
    return folder


def test_one_date_is_seen_at_a_time_over_its_image(stacked: Path, qgis_python: str) -> None:
    """The view holds the nine tiles of the first date, framed in the legend's colours."""
    report = opened(qgis_python, stacked)
    confidence, imagery, second, every = report["layers"]
    names = [layer["group"]["name"] for layer in report["layers"]]
    assert names == [f"{DATES[0]} (9 unsure)"] * 2 + [f"{DATES[1]} (1 unsure)", "all 2 dates"]
    assert all(layer["group"]["alone"] for layer in report["layers"])
    assert [layer["shown"] for layer in report["layers"]] == [True, True, False, False]
    assert [layer["features"] for layer in (confidence, second, every)] == [72, 72, 144]
    assert imagery["crs"] == "EPSG:32633"
    assert all(layer["opaque"] for layer in report["layers"])
    west, south, east, north = report["view"]
    scores = geopandas.read_file(stacked / "scores.gpkg").to_crs(report["crs"])
    lowest = scores.sort_values("confidence").iloc[:10]
    unsure = lowest[lowest["date"] == DATES[0]]
    assert len(unsure) == 9
    bounds = unsure.total_bounds
    assert (west, south) < (bounds[0], bounds[1])
    assert (bounds[2], bounds[3]) < (east, north)
    side = np.median(unsure.bounds["maxy"] - unsure.bounds["miny"])
    assert max((east - west) / 40, (north - south) / 20) < 1.2 * side
    picture = report["picture"]
    assert painted(picture, RED) > 300
    shown = zip(NUMBERS[2::-1], (RANGES["L2A"][band] for band in TRUE_COLOUR), strict=True)
    ground = [round(1 + 254 * (number - low) / (high - low)) for number, (low, high) in shown]
    inside = (np.abs(picture.astype(int) - ground).max(-1) <= 1).sum()
    assert inside > 0.2 * picture[..., 0].size


def test_the_least_sure_of_all_dates_is_on_top(stacked: Path, qgis_python: str) -> None:
    """Filled tiles have the colours of the legend, and hide those that are surer below them."""
    report = opened(qgis_python, stacked, *centre_of(stacked, 0.25), 60, "all")
    every = report["layers"][-1]
    assert every["shown"]
    assert not report["layers"][0]["shown"]
    titles = {title for title, _, _ in every["legend"]}
    assert titles == {"zoomed in", "zoomed out: dots"}
    assert painted(report["picture"], RED) == 600 * 600
    surest = opened(qgis_python, stacked, *centre_of(stacked, 0.9), 60, "all")
    colours = [colour for title, _, colour in every["legend"] if title == "zoomed in"]
    assert sum(painted(surest["picture"], colour) for colour in colours) == 600 * 600


def test_tiles_without_their_image_are_filled(stacked: Path, qgis_python: str) -> None:
    """The second date, whose scene is missing, is shown in colours, and says how many of each."""
    report = opened(qgis_python, stacked, *centre_of(stacked, 0.25), 60, DATES[1])
    second = report["layers"][2]
    assert second["shown"]
    assert painted(report["picture"], RED) == 600 * 600
    near = [label for title, label, _ in second["legend"] if title == "zoomed in"]
    assert sum(int(label.split("[")[1].rstrip("]")) for label in near) == 72


def centre_of(folder: Path, confidence: float) -> tuple[float, float]:
    """Return the centre of the tile of this confidence in the unit of the map."""
    scores = geopandas.read_file(folder / "scores.gpkg").to_crs(MAP_CRS)
    own = scores.iloc[(scores["confidence"] - confidence).abs().argmin()]
    return own.geometry.centroid.x, own.geometry.centroid.y


def far_apart() -> tuple[list[tuple[float, float]], list[str], list[float]]:
    """Return tiles in zones 60 and 1, close to 180 degrees, and in zone 33; where, and scores."""
    west = [(829_000.0 + 640 * n, 1_000_000.0) for n in range(4)]
    places = [*west, *((171_000.0 - 640 * n, 1_000_000.0) for n in range(1, 5)), (5e5, 5e6)]
    crs = ["EPSG:32660"] * 4 + ["EPSG:32601"] * 4 + ["EPSG:32633"]
    return places, crs, [0.3] * 8 + [0.9]


def test_tiles_on_both_sides_of_180_degrees_are_seen_together(
    tmp_path: Path, qgis_python: str
) -> None:
    """The map's edge is elsewhere then, and the view is as narrow as anywhere."""
    write_score_map(tmp_path, scored(*far_apart()))
    report = opened(qgis_python, tmp_path)
    assert report["crs"] == PACIFIC_CRS
    west, _, east, _ = report["view"]
    assert east - west < 40 * 1.2 * 640
    assert painted(report["picture"], RED) > 500


def test_single_dates_and_missing_dates_need_no_groups(tmp_path: Path, qgis_python: str) -> None:
    """Tiles next to each other are one layer, whenever they were taken, and dots from afar."""
    corners, confidence = [(5e5 + 640 * n, 5e6) for n in range(40)], np.linspace(0.2, 1, 40)
    frame = scored(corners, ["EPSG:32633"] * 40, confidence.tolist())
    frame["datetime"] = [pd.NaT if n % 2 else frame["datetime"][0] for n in range(40)]
    write_score_map(tmp_path, frame)
    assert not (tmp_path / "imagery").exists()
    (layer,) = opened(qgis_python, tmp_path)["layers"]
    assert layer["features"] == 40
    x, y = centre_of(tmp_path, 0.2)
    far = opened(qgis_python, tmp_path, x, y, 2_000_000)
    assert 10 < painted(far["picture"], RED) < 200


def test_scattered_tiles_are_seen_from_afar(tmp_path: Path, qgis_python: str) -> None:
    """Tiles without neighbours: the map opens on all of the least sure, not on one of them."""
    corners, confidence = [(2e5 + 60_000 * n, 5e6) for n in range(12)], np.linspace(0.2, 1, 12)
    write_score_map(tmp_path, scored(corners, ["EPSG:32633"] * 12, confidence.tolist()))
    report = opened(qgis_python, tmp_path)
    west, south, east, north = report["view"]
    scores = geopandas.read_file(tmp_path / "scores.gpkg").to_crs(report["crs"])
    bounds = scores.sort_values("confidence").iloc[:10].total_bounds
    assert (west, south) < (bounds[0], bounds[1])
    assert (bounds[2], bounds[3]) < (east, north)
    assert painted(report["picture"], RED) > 10
