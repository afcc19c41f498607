"""The scenes around real tiles on the map of a review package, through the command and in QGIS."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from jaxtyping import Int
from PIL import Image

import rs_lowconf as rl
from rs_lowconf.bands import BandSpec, Level
from rs_lowconf.batch.imagery import scenes_around
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow
from rs_lowconf.review.composites import composites_of, ranges_of, stretch
from rs_lowconf.review.fields import Label
from rs_lowconf.review.maps import MAP_CRS
from rs_lowconf.review.package import write_package
from rs_lowconf.review.samples import Observed
from rs_lowconf.stored import stored_numbers
from tests.conftest import Run
from tests.make_scenes import corner, make_scenes, write
from tests.offscreen import run_offscreen
from tests.review_samples import about
from tests.test_score_map import SCRIPT

SIDE, COLUMNS = 16, 8
DATES = ("2023-06-01", "2023-07-01")


def rows_in(folder: Path, level: Level, numbers: Sequence[Sequence[int]]) -> list[CatalogRow]:
    """Return the tiles of a scene per date, in bands of constant numbers at one place."""
    shape = (4, SIDE * COLUMNS, SIDE * COLUMNS)
    images = {
        date: np.array(np.broadcast_to(np.array(own, np.uint16)[:, None, None], shape))
        for date, own in zip(DATES, numbers, strict=True)
    }
    return make_scenes(folder, level, images, SIDE)


def shown_as(row: CatalogRow, number: int) -> Observed:
    """Return a tile as reviewers judge it."""
    return Observed(
        sample_id=f"s{number:04d}",
        pixels=stored_numbers(reflectance(row, read_row(row), row.bands)).numpy(),
        bands=row.bands,
        label=None,
        prediction=None,
        grid=row.grid,
        tile=row.tile_id,
        provenance={"taken": row.taken.isoformat()} if row.taken else {},
    )


def opened(python: str, package: Path, *where: object) -> dict[str, Any]:
    """Return what QGIS reports of a package's map, and the picture that it draws."""
    folder = package.parent
    words = (SCRIPT, package / "context.qgz", folder / "map.png", folder / "map.json", *where)
    done = run_offscreen([python, *words], folder)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((folder / "map.json").read_text())
    assert report["opened"]
    assert all(layer["valid"] for layer in report["layers"])
    with Image.open(folder / "map.png") as image:
        return report | {"picture": np.asarray(image.convert("RGB")).astype(int)}


def share(picture: Int[np.ndarray, "h w 3"], colour: Sequence[int]) -> float:
    """Return the share of pixels of about this colour."""
    return float((np.abs(picture - np.array(colour)).max(-1) <= 2).mean())


@pytest.mark.parametrize("label", ["confirm", "blind"])
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_zooming_out_shows_the_scene(
    tmp_path: Path, qgis_python: str, level: Level, label: Label
) -> None:
    """Around a tile the map has its scene, in the colours of the tile, and one layer per date."""
    numbers = [(1250, 1000, 750, 2000), (900, 1200, 600, 2600)]
    rows = rows_in(tmp_path, level, numbers)
    middle = COLUMNS // 2 * SIDE
    chosen = [row for row in rows if row.window[:2] == (middle, middle)]
    samples = [shown_as(row, number) for number, row in enumerate(chosen)]
    blind = label == "blind"
    write_package(
        tmp_path / "review",
        samples,
        **about(samples, label, "0123456789abcdef"),
        scenes=scenes_around(chosen, blind=blind),
    )
    report = opened(qgis_python, tmp_path / "review", *centre(chosen[0]), 3 * 160)
    scenes = [layer for layer in report["layers"] if "scenes" in layer["name"]]
    assert [layer["name"] for layer in scenes] == [f"REAL scenes of {d}, EPSG:32633" for d in DATES]
    assert {layer["group"]["name"] for layer in scenes} == {"REAL scenes around the tiles"}
    assert report["layers"][-2:] == scenes
    shown = ranges_of(chosen[0].bands, composites_of(chosen[0].bands)[0])
    pairs = zip(numbers[0][2::-1], shown, strict=True)
    ground = [round(1 + 254 * (own - low) / (high - low)) for own, (low, high) in pairs]
    assert share(report["picture"], ground) > 0.8  # the tile alone is a ninth of the picture


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_scenes_have_the_stretch_of_reviews(tmp_path: Path, level: Level) -> None:
    """Rasterio reads from the VRT the bytes that a tile of the same pixels has in a package."""
    names = ("B02", "B03", "B04", "B08")
    pixels = np.random.default_rng(0).integers(1, 4000, (4, 128, 128)).astype(np.uint16)
    (row, *_) = rows_in(tmp_path, level, [(500, 500, 500, 500)] * 2)
    write(Path(row.files[0].href), pixels, corner(500_000, 5_000_000))
    (scenes,) = scenes_around([row], blind=False)
    (tmp_path / "scenes.vrt").write_text(scenes.vrt)
    with rasterio.open(tmp_path / "scenes.vrt") as file:
        found = np.moveaxis(file.read(), 0, -1).astype(int)
    bands = BandSpec(names=names, level=level)
    assert np.abs(found - stretch(pixels, bands, composites_of(bands)[0])).max() <= 1


def test_only_images_that_show_more_than_their_tile_and_no_class(tmp_path: Path) -> None:
    """Files of single tiles are left out, missing ones, and blindly those with a class."""
    rows = rows_in(tmp_path, "L1C", [(500, 500, 500, 500)] * 2)
    assert [each.name[3:13] for each in scenes_around(rows[::-1], blind=True)] == [*DATES[::-1]]
    named = [replace(row, label="River") for row in rows if row.taken and row.taken.month == 6]
    others = [row for row in rows if row.taken and row.taken.month == 7]
    assert len(scenes_around([*named, *others], blind=False)) == 2
    (left,) = scenes_around([*named, *others], blind=True)
    assert "20230701" in left.vrt
    assert "20230601" not in left.vrt
    single = replace(others[0], window=(0, 0, SIDE * COLUMNS, SIDE * COLUMNS))
    assert scenes_around([single], blind=False) == []
    next((tmp_path / "scenes").glob("*20230701*")).unlink()
    assert scenes_around(others, blind=False) == []


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_batch_review_shows_the_scenes(tmp_path: Path, rslow: Run, label: Label) -> None:
    """The package of the least sure tiles of a scene has it, from the catalog to the project."""
    tiles = rl.load_generator().sample("River", 4, seed=0)
    rows = [np.concatenate(list(tiles.numpy()[i : i + 2]), axis=-1) for i in (0, 2)]
    pixels = (np.concatenate(rows, axis=-2) * 10_000).astype(np.uint16)
    write(tmp_path / "scenes" / "S2_20230601T103629.tif", pixels, corner(500_000, 5_000_000))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}/run}}\n"
        f"data: {{kind: images, images: {tmp_path}/scenes, level: L1C, scale: 10000, dn_offset: 0,"
        f" file_bands: [{', '.join(tiles.bands.names)}], attribution: Contains Copernicus data}}\n"
        "target: {kind: embedded, model: multispectral}\n"
        f"review: {{mode: {label}}}\n"
        "batch: {executor: serial, seconds: null}\n"
        "search: {tau_quantile: 0.9}\n"
    )
    for words in (("catalog", "build"), ("batch", "score"), ("batch", "review")):
        ran = rslow(*words, "-c", config)
        assert ran.code == 0, ran.err
    package = tmp_path / "run" / "batch" / "review"
    (vrt,) = package.glob("context/scenes_*.vrt")
    with rasterio.open(vrt) as file:
        assert file.shape == (128, 128)
        assert (file.read() > 0).all()
    with zipfile.ZipFile(package / "review.qgz") as archive:
        assert b"S2_20230601" not in archive.read("review.qgs")
    assert b"S2_20230601" not in (package / "review.html").read_bytes()


def centre(row: CatalogRow) -> tuple[float, float]:
    """Return the centre of a tile in the unit of the map."""
    x, y = np.mean(row.corners, axis=0)
    (point,) = geopandas.GeoSeries.from_xy([x], [y], crs=row.grid.crs).to_crs(MAP_CRS)
    return point.x, point.y
