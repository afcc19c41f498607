"""Variants of real tiles in their place: files, rasters and the map, by rasterio and by QGIS."""

import json
import re
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.errors import ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.review.composites import composites_of, stretch
from rs_lowconf.review.fields import Label
from rs_lowconf.review.geotiff import read_confidence, read_tile
from rs_lowconf.review.mosaics import frames_of, mosaics_of
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.samples import Generated, Observed
from rs_lowconf.review.settle import settling_package
from rs_lowconf.review.store import ReviewStore
from tests.offscreen import run_offscreen
from tests.review_samples import (
    ATTRIBUTION,
    CLASSES,
    SIZE,
    masked,
    observed,
    package,
    published,
    sample,
)

SCRIPT = Path(__file__).parent / "qgis" / "open_context.py"
MAGENTA = (220, 0, 130)


def grid_at(zone: int, column: float, row: float, *, pixel: float = 10.0) -> Grid:
    """Return the grid of a tile so many pixels from a corner."""
    west, north = 500_000.0 + pixel * column, 5_000_000.0 - pixel * row
    return Grid(crs=f"EPSG:326{zone}", transform=(pixel, 0.0, west, 0.0, -pixel, north))


#: Three samples around one tile and one around a tile that overlaps it; tiles far away, in
#: another zone, between the pixels of the others, and of a pixel size that is no round number.
GRIDS = (
    grid_at(33, 0, 0),
    grid_at(33, SIZE / 2, SIZE / 2),
    grid_at(33, 0, 0),
    grid_at(33, 0, 0),
    grid_at(33, 3_000, -40_000),
    grid_at(32, 0, 0),
    grid_at(33, 300.37, 300),
    grid_at(33, 600, 0, pixel=9.9707),
)


def variants() -> list[Generated]:
    """Return a sample around the real tile on each grid."""
    samples: dict[Grid, Generated] = {}
    made = []
    for number, grid in enumerate(GRIDS):
        one = replace(sample(number, grid=grid), anchored=True)
        anchor = samples.setdefault(grid, one)
        date = {"anchor_taken": "2023-07-01T10:36:29+00:00"}
        made.append(replace(one, neighbour=anchor.neighbour, provenance={**one.provenance, **date}))
    return made


def taken(one: Observed, number: int) -> Observed:
    """Return the tile with the day of July on which it was taken, from 1."""
    date = f"2023-07-0{number + 1}T10:36:29+00:00"
    return replace(one, provenance={**one.provenance, "taken": date})


def box_of(grid: Grid) -> list[float]:
    """Return west, south, east and north of a tile."""
    a, _, c, _, e, f = grid.transform
    return [c, f + SIZE * e, c + SIZE * a, f]


def test_files_of_variants_have_the_grid_of_their_anchor(tmp_path: Path) -> None:
    """Tile, mask, predicted mask and confidence lie where the anchor lies, and say SYNTHETIC."""
    one = masked(0)
    assert one.neighbour is not None
    folder = package(tmp_path / "review", [replace(one, anchored=True)])
    places = []
    for kind in ("tiles", "masks", "predicted", "confidence", "anchors"):
        with rasterio.open(folder / kind / "s0000.tif") as file:
            places.append((file.crs.to_string(), tuple(file.transform)[:6], file.shape))
            assert file.tags()["RSLOW_SYNTHETIC"] == str(kind != "anchors").lower()
    assert len(set(places)) == 1
    assert places[0][1] == one.neighbour.grid.transform  # type: ignore[union-attr]
    tags = read_tile(folder / "tiles" / "s0000.tif").tags
    assert tags["RSLOW_ANCHOR"] == one.neighbour.tile_id
    assert "RSLOW_NEAREST_REAL" not in tags
    assert (read_confidence(folder / "confidence" / "s0000.tif") <= 1).all()


def test_only_packages_with_a_place_have_a_map(tmp_path: Path) -> None:
    """Without a grid there is no map; in a blind package neither map nor grid."""
    package(tmp_path / "nowhere", [sample(0)])
    package(tmp_path / "blind", variants(), "blind")
    for name in ("nowhere", "blind"):
        folder = tmp_path / name
        assert not [path.name for path in folder.iterdir() if "context" in path.name]
        assert read_tile(folder / "tiles" / "s0000.tif").grid is None
    told = b"".join(path.read_bytes() for path in (tmp_path / "blind").rglob("*.*"))
    assert b"32633" not in told


@pytest.mark.parametrize("real", [True, False], ids=["without a place", "none"])
def test_a_place_is_that_of_the_anchor(real: bool) -> None:
    """A sample has no place but that of a real tile beside it."""
    one = sample(0, grid=None, real=real)
    with pytest.raises(ReviewError, match="expected an anchor with a place"):
        replace(one, anchored=True)


def test_outlines_are_those_of_the_tiles(tmp_path: Path) -> None:
    """Geopandas reads a row a sample, whose corners are those of its tile."""
    folder = package(tmp_path / "review", variants())
    rows = geopandas.read_file(folder / "context.gpkg")
    assert list(rows["sample_id"]) == [one.sample_id for one in variants()]
    assert list(rows["rank"]) == [*"12345678"]
    assert list(rows["condition"]) == [one.condition for one in variants()]
    assert list(rows["anchor"][:4]) == ["Forest_0", "Field_1", "Forest_0", "Forest_0"]
    for grid, outline in zip(GRIDS, rows.geometry, strict=True):
        own = geopandas.GeoSeries([outline], crs=rows.crs).to_crs(grid.crs).iloc[0]
        assert own.bounds == pytest.approx(box_of(grid), abs=1e-3)


def test_a_sample_without_a_place_is_not_on_the_map(tmp_path: Path) -> None:
    """Samples with and without a place may be in one package."""
    alone = sample(9)
    folder = package(tmp_path / "review", [*variants()[:2], alone])
    assert len(geopandas.read_file(folder / "context.gpkg")) == 2
    assert read_tile(folder / "tiles" / f"{alone.sample_id}.tif").grid is None


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_real_tiles_are_on_the_map_as_such(tmp_path: Path, label: Label) -> None:
    """Nothing on it is called SYNTHETIC, and nothing tells what the target takes a tile for.

    In a blind package nothing tells how sure it is, or what the catalog says, either.
    """
    samples = [taken(observed(number, grid), number) for number, grid in enumerate(GRIDS)]
    folder = package(tmp_path / "review", samples, label)
    rows = geopandas.read_file(folder / "context.gpkg")
    dates = [f"2023-07-0{number + 1}" for number in range(len(GRIDS))]
    if label == "confirm":
        titles = [f"{number + 1} {CLASSES[number % 4]}?" for number in range(len(GRIDS))]
    else:
        titles = [f"{number + 1}" for number in range(len(GRIDS))]
        columns = ["sample_id", "rank", "date", "title", "place", "geometry"]
        assert list(rows.columns) == columns
    assert list(rows["date"]) == dates
    assert list(rows["title"]) == titles
    assert not {"predicted", "confidence"} & {*rows.columns}
    with zipfile.ZipFile(folder / "context.qgz") as archive:
        told = archive.read("context.qgs").decode()
    assert "REAL 3 of each location" in told
    assert "SYNTHETIC" not in told
    assert not {*CLASSES, "0.31"} & {*re.findall(r"[\w.]+", told)}
    assert ("opinions" in told) == (label == "confirm")


@pytest.mark.parametrize("label", ["confirm", "blind"])
@pytest.mark.parametrize("real", [True, False], ids=["real", "variants"])
def test_disagreements_are_settled_in_their_place(tmp_path: Path, label: Label, real: bool) -> None:
    """What is shown again has the tags, the place and the map that it had."""
    samples: list[Generated] | list[Observed] = variants()
    if real:
        samples = [observed(number, grid) for number, grid in enumerate(GRIDS)]
    store = ReviewStore(tmp_path / "reviews.sqlite")
    first = published(store, tmp_path / "first", samples, label)
    names = [one.sample_id for one in samples]
    settle = tmp_path / "settle"
    assert settling_package(store, [read_package(first)], names, settle, ATTRIBUTION) == len(names)
    for name in names:
        again, before = (read_tile(one / "tiles" / f"{name}.tif") for one in (settle, first))
        assert again.grid == before.grid
        assert again.tags == before.tags
        assert np.array_equal(again.pixels, before.pixels)
    rasters = [{path.name for path in one.glob("context/*")} for one in (settle, first)]
    assert rasters[0] == rasters[1]
    assert bool(rasters[0]) == (real or label == "confirm")


corners = st.lists(
    st.tuples(st.sampled_from([32, 33]), st.integers(-99, 99), st.integers(-99, 99)), min_size=1
)


@given(corners, st.sampled_from([10.0, 9.9707]), st.integers(0, 3))
def test_mosaics_hold_every_tile_once_and_none_covers_another(
    tiles: list[tuple[int, int, int]], pixel: float, shifted: int
) -> None:
    """A tile's corner in its mosaic is its own corner, whatever other tiles there are."""
    grids = [grid_at(zone, column, row, pixel=pixel) for zone, column, row in tiles]
    grids += [grid_at(33, 0.3 + number, 0, pixel=pixel) for number in range(shifted)]
    frames = frames_of(grids, SIZE, SIZE)
    files = [(f"{number}.tif", grid) for number, grid in enumerate(grids)]
    found = mosaics_of(files, frames, SIZE, SIZE)
    assert sorted(one for mosaic in found for one in mosaic.tiles) == sorted(files)
    for mosaic in found:
        a, _, c, _, e, f = mosaic.frame.grid.transform
        places = []
        for _, grid in mosaic.tiles:
            assert grid.crs == mosaic.frame.grid.crs
            column, row = mosaic.frame.corners[grid]
            own = grid.transform
            assert (c + a * column, f + e * row) == pytest.approx((own[2], own[5]), abs=1e-5)
            if pixel == 10.0 and own[2] == round(own[2]):
                assert (c + a * column, f + e * row) == (own[2], own[5])
            assert 0 <= column <= mosaic.frame.width - SIZE
            assert 0 <= row <= mosaic.frame.height - SIZE
            places.append((column, row))
        for (x, y), (u, v) in combinations(places, 2):
            assert abs(x - u) >= SIZE or abs(y - v) >= SIZE


@pytest.fixture(scope="module")
def session(qgis_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what QGIS reports of the map; its pictures lie in report["pictures"]."""
    folder = tmp_path_factory.mktemp("context")
    where = package(folder / "review", variants())
    samples = {
        one.sample_id: {"crs": grid.crs, "box": box_of(grid)}
        for one, grid in zip(variants(), GRIDS, strict=True)
    }
    request = {"samples": samples, "size": SIZE, "decide": "s0002"}
    (folder / "request.json").write_text(json.dumps(request))
    done = run_offscreen(
        [
            qgis_python,
            str(SCRIPT),
            str(where),
            str(folder / "request.json"),
            str(folder),
            str(folder / "report.json"),
        ],
        folder,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report | {"pictures": folder}


def picture(session: dict[str, Any], name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return what QGIS drew."""
    with Image.open(session["pictures"] / name) as image:
        return np.asarray(image.convert("RGB"))


def test_qgis_opens_the_map(session: dict[str, Any]) -> None:
    """All layers are valid; what is generated is called SYNTHETIC and switched off."""
    assert session["read"]
    assert session["complaints"] == []
    assert session["crs"] == "EPSG:3857"
    assert "SYNTHETIC" in session["title"]
    groups = {group["name"]: group for group in session["groups"]}
    assert list(groups) == [f"SYNTHETIC {number} of each location" for number in (1, 2, 3)] + [
        "REAL"
    ]
    assert [group["shown"] for group in groups.values()] == [False, False, False, True]
    for name, group in groups.items():
        assert all(one["valid"] for one in group["rasters"])
        assert all(one["name"].split()[0] == name.split()[0] for one in group["rasters"])
    (places,) = session["places"]
    assert places["valid"]
    assert places["shown"]
    assert "SYNTHETIC" in places["name"]
    columns = "fid sample_id rank condition anchor date title place decided_fid confidence"
    assert {*places["rows"][0]} == {*columns.split()}
    assert len(places["rows"]) == len(GRIDS)
    first = "location of SYNTHETIC tiles\n1 Forest\n3 Town\n4 Water\n2023-07-01"
    assert places["labels"][0] == places["labels"][2] == first
    assert places["labels"][1] == "location of SYNTHETIC tiles\n2 Field\n2023-07-01"


def test_the_map_tells_what_the_model_says_after_the_decision(session: dict[str, Any]) -> None:
    """Identify and labels have the confidence of the decided sample, and of no other."""
    (places,), decided = session["places"], session["decided"]
    assert {row["confidence"] for row in places["rows"]} == {None}
    assert not any("model" in label for label in places["labels"])
    told = {row["sample_id"]: row["confidence"] for row in decided["rows"]}
    assert told.pop("s0002") == pytest.approx(0.31)
    assert {*told.values()} == {None}
    first = "location of SYNTHETIC tiles\n1 Forest\n3 Town model 31 %\n4 Water\n2023-07-01"
    assert decided["labels"][0] == first
    assert decided["labels"][1] == places["labels"][1]


def test_corners_are_those_of_the_anchor(session: dict[str, Any]) -> None:
    """For QGIS, tile, anchor and catalog grid of every sample have the same corners and size."""
    for one, grid in zip(variants(), GRIDS, strict=True):
        tile, anchor = (
            session["files"][f"{kind}/{one.sample_id}"] for kind in ("tiles", "anchors")
        )
        for key in ("crs", "extent", "size", "pixel"):
            assert tile[key] == anchor[key]
        assert tile["crs"] == grid.crs
        assert tile["extent"] == box_of(grid)
        assert tile["size"] == [SIZE, SIZE]


def test_layers_show_every_pixel_in_its_place(session: dict[str, Any]) -> None:
    """One layer has a sample's pixels at its place, and one of equal corners its anchor's."""
    *synthetic, real = session["groups"]
    for one, grid in zip(variants(), GRIDS, strict=True):
        assert one.neighbour is not None
        pixels = one.pixels[0].ravel().tolist()
        own = [
            layer
            for group in synthetic
            for layer in group["rasters"]
            if layer["blocks"].get(one.sample_id) == pixels
        ]
        beside = [
            layer
            for layer in real["rasters"]
            if layer["blocks"].get(one.sample_id) == one.neighbour.pixels[0].ravel().tolist()
        ]
        assert len(own) == len(beside) == 1
        for key in ("crs", "extent", "size", "pixel"):
            assert own[0][key] == beside[0][key]
        west, _, _, north = own[0]["extent"]
        column, row = (
            round((grid.transform[2] - west) / grid.transform[0]),
            round((north - grid.transform[5]) / grid.transform[0]),
        )
        assert west + column * grid.transform[0] == grid.transform[2]
        assert north - row * grid.transform[0] == grid.transform[5]
        assert [name.split(": ")[1] for name in own[0]["bands"]] == list(one.bands.names)


def test_qgis_draws_anchor_and_variant(session: dict[str, Any]) -> None:
    """The real tile shows until the variants are switched on; both have the package's stretch."""
    one = variants()[0]
    assert one.neighbour is not None
    composite = composites_of(one.bands)[0]
    for name, pixels in (("off.png", one.neighbour.pixels), ("on.png", one.pixels)):
        drawn = picture(session, name)
        expected = stretch(pixels, one.bands, composite).repeat(4, 0).repeat(4, 1)
        # The outlines of the tile and of its neighbour run along edges.
        inside = slice(4, 4 * SIZE // 2 - 4)
        # The contact sheet leaves byte 0 for gaps, QGIS does not.
        gap = np.abs(drawn[inside, inside].astype(int) - expected[inside, inside])
        assert gap.max() <= 2, name


def test_places_are_seen_from_afar(session: dict[str, Any]) -> None:
    """The map opens with all tiles in view and a dot at each place, and no raster."""
    west, south, east, north = session["view"]
    drawn = picture(session, "whole.png").astype(int)
    height, width, _ = drawn.shape
    rows = geopandas.read_file(session["pictures"] / "review" / "context.gpkg")
    for point in rows.to_crs("EPSG:3857").geometry.centroid:
        column = round((point.x - west) / (east - west) * width)
        row = round((north - point.y) / (north - south) * height)
        around = drawn[row - 3 : row + 4, column - 3 : column + 4].reshape(-1, 3)
        assert (np.abs(around - MAGENTA).max(1) < 30).any()


def test_titles_say_whose_place_it_is(session: dict[str, Any]) -> None:
    """Above a tile there is ink in the colour of the outlines, whatever is switched on."""
    for name in ("around_off.png", "around_on.png"):
        drawn = picture(session, name).astype(int)
        above = drawn[4 * SIZE // 2 - 24 : 4 * SIZE // 2 - 4]
        assert (np.abs(above - MAGENTA).max(-1) < 30).sum() > 100
