"""`rslow batch score`: the oracle is the target, asked about each tile alone."""

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.warp import transform

from rs_lowconf.batch.score_page import MOST_TILES
from rs_lowconf.data.catalog.table import Catalog, write_catalog
from rs_lowconf.data.source import open_split
from rs_lowconf.settings import load
from rs_lowconf.target.trained import load_trained
from tests.conftest import Run
from tests.offscreen import run_offscreen

MAP = Path(__file__).parent / "qgis" / "open_map.py"


@pytest.fixture
def catalogued(project: Path, rslow: Run) -> Path:
    """Return a project with models and a catalog of all its tiles."""
    ran = rslow("catalog", "build", "-c", project / "config.yaml")
    assert ran.code == 0, ran.err
    return project


def score(rslow: Run, folder: Path, *words: str) -> Any:
    """Run the job in one process."""
    return rslow(
        "batch", "score", "-c", folder / "config.yaml", "-s", "batch.executor=serial",
        "-s", "batch.seconds=null", "-s", "batch.chunk=10", *words,
    )  # fmt: skip


def scores(folder: Path) -> geopandas.GeoDataFrame:
    """Return what the job found."""
    return geopandas.read_parquet(folder / "run" / "batch" / "score" / "scores.parquet")


def parts(folder: Path) -> dict[str, int]:
    """Return the parts of a job and when they were written."""
    where = folder / "run" / "batch" / "score" / "parts"
    return {path.name: path.stat().st_mtime_ns for path in where.iterdir()}


def test_scores_are_what_the_target_says(catalogued: Path, rslow: Run) -> None:
    """Every tile has the answer that the target gives to it alone, and lies where it lies."""
    ran = score(rslow, catalogued)
    assert ran.code == 0, ran.err
    found = scores(catalogued).set_index("id")
    settings = load(catalogued / "config.yaml")
    target = load_trained(catalogued / "run" / "target" / "target.safetensors", torch.device("cpu"))
    count = 0
    for split in ("train", "val", "test"):
        source = open_split(settings.data, split)
        channels = list(source.bands.index_of(target.bands.names))
        for index, name in enumerate(source.ids):
            batch = source.batch([index])
            with torch.no_grad():
                told = target.predict(batch.image[:, channels])[0].exp()
            row = found.loc[f"tiles/{name}_r00000_c00000"]
            assert row["confidence"] == pytest.approx(float(told.max()), abs=1e-5)
            assert row["predicted"] == target.classes[int(told.argmax())]
            assert row["label"] == source.classes[int(source.labels[index])]
            assert row["rslow:split"] == split
            np.testing.assert_allclose(row["probabilities"], told.numpy(), atol=1e-5)
            count += 1
    assert count == len(found)
    path = catalogued / "tiles" / "woods" / "woods_003.tif"
    with rasterio.open(path) as file:
        left, bottom, right, top = file.bounds
        x, y = transform(file.crs, "EPSG:4326", [left, left, right, right], [bottom, top] * 2)
    outline = found.loc["tiles/woods/woods_003_r00000_c00000"].geometry
    assert outline.bounds == pytest.approx((min(x), min(y), max(x), max(y)), abs=1e-9)


def test_processes_give_the_same_scores(catalogued: Path, rslow: Run) -> None:
    """Two processes and other chunks change no bit."""
    assert score(rslow, catalogued).code == 0
    alone = scores(catalogued)
    words = ("-s", "batch.executor=process", "-s", "batch.workers=2", "-s", "batch.seconds=60")
    ran = score(rslow, catalogued, *words, "-s", f"run.dir={catalogued / 'run'}", "-s",
                "batch.chunk=7", "-s", "search.micro_batch=5")  # fmt: skip
    assert ran.code == 0, ran.err
    both = scores(catalogued)
    np.testing.assert_allclose(alone["confidence"], both["confidence"], atol=1e-6)
    assert score(rslow, catalogued, "-s", "search.micro_batch=5").code == 0
    assert both.equals(scores(catalogued))


def test_a_second_run_does_nothing(catalogued: Path, rslow: Run) -> None:
    """It touches no file and says so, also of a tile that failed, and does not import torch."""
    (catalogued / "tiles" / "woods" / "woods_003.tif").unlink()
    assert score(rslow, catalogued).code == 0
    folder = catalogued / "run" / "batch" / "score"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    program = (
        "import sys\nfrom rs_lowconf.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "batch", "score", "-c", str(catalogued / "config.yaml")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "47 of 48 tiles done, 1 failed" in done.stdout
    assert "woods_003" in done.stdout
    assert "Nothing to do" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "name", ["scores.parquet", "scores.gpkg", "scores.qgz", "collected.json", "report.html"]
)
def test_a_lost_file_is_made_again(catalogued: Path, rslow: Run, name: str) -> None:
    """Whatever is missing of the files at the end comes back, without scoring a tile again."""
    assert score(rslow, catalogued).code == 0
    found, first = scores(catalogued), parts(catalogued)
    (catalogued / "run" / "batch" / "score" / name).unlink()
    ran = score(rslow, catalogued)
    assert "Nothing to do" not in ran.out
    assert parts(catalogued) == first
    assert scores(catalogued).equals(found)
    assert "Nothing to do" in score(rslow, catalogued).out


def test_the_page_shows_the_tiles_below_the_limit_that_are_at_hand(
    catalogued: Path, rslow: Run
) -> None:
    """One picture for each tile below tau whose file is there; another tau makes another page."""
    assert score(rslow, catalogued).code == 0
    page = catalogued / "run" / "batch" / "score" / "report.html"
    found = scores(catalogued)
    tau = 0.9
    below = found[found["confidence"] < tau]
    assert 0 < len(below) <= MOST_TILES
    text = html.unescape(page.read_text())
    assert text.count("<article>") == text.count("data:image/webp") - 1 == len(below)
    assert f"below 90 % on {len(below)} of {len(found)} scored tiles" in text
    places = [text.index(f"{name}, ") for name in below.sort_values("confidence")["id"]]
    assert places == sorted(places)
    first = parts(catalogued)
    for lost in below["id"]:
        name = lost.removeprefix("tiles/").removesuffix("_r00000_c00000")
        (catalogued / "tiles" / f"{name}.tif").unlink()
    ran = score(rslow, catalogued, "-s", f"search.tau={tau + 1e-9}")
    assert ran.code == 0, ran.err
    assert parts(catalogued) == first
    text = page.read_text()
    assert "<article>" not in text
    assert f"{len(below)} of them are not shown" in text


def test_another_split_is_told_without_scoring_again(catalogued: Path, rslow: Run) -> None:
    """What stands beside a score follows the catalog, though no score depends on it."""
    assert score(rslow, catalogued).code == 0
    before, first = scores(catalogued), parts(catalogued)
    path = catalogued / "run" / "catalog.parquet"
    whole = pa.concat_tables(list(Catalog(path).tables()))
    place = whole.schema.get_field_index("rslow:split")
    write_catalog(path, [whole.set_column(place, "rslow:split", [["test"] * len(whole)])])
    assert score(rslow, catalogued).code == 0
    assert parts(catalogued) == first
    after = scores(catalogued)
    assert set(before["rslow:split"]) == {"train", "val", "test"}
    assert set(after["rslow:split"]) == {"test"}
    assert after.drop(columns="rslow:split").equals(before.drop(columns="rslow:split"))


def test_only_what_changed_is_done_again(catalogued: Path, rslow: Run) -> None:
    """A second run does nothing; a setting that scores do not depend on neither; others all."""
    assert score(rslow, catalogued).code == 0
    first = parts(catalogued)
    assert "Nothing to do" in score(rslow, catalogued, "-s", "review.max_samples=9").out
    # The page tells how many tiles are below the threshold; scores do not depend on it.
    assert "Nothing to do" not in score(rslow, catalogued, "-s", "search.tau=0.3").out
    assert parts(catalogued) == first
    assert score(rslow, catalogued, "-s", "search.micro_batch=4").code == 0
    assert not set(parts(catalogued)) & set(first)
    # What comes back is not done again, but the files of the other setting are replaced.
    assert "Nothing to do" not in score(rslow, catalogued).out
    assert parts(catalogued) == first


def test_a_damaged_tile_stops_nothing(catalogued: Path, rslow: Run) -> None:
    """It is told of by the job and by `status`; mended, `retry` has it done and it alone."""
    path = catalogued / "tiles" / "woods" / "woods_003.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    ran = score(rslow, catalogued)
    assert ran.code == 0, ran.err
    assert "47 of 48 tiles done, 1 failed" in ran.out
    assert "woods_003" in ran.out
    config = ("-c", catalogued / "config.yaml")
    assert "woods_003" in rslow("batch", "status", *config).out
    path.write_bytes(whole)
    before = parts(catalogued)
    assert "1 tiles will be tried" in rslow("batch", "retry", *config).out
    assert "48 of 48" in score(rslow, catalogued).out
    after = parts(catalogued)
    assert sum(before[name] != after[name] for name in before) == 1
    assert len(scores(catalogued)) == 48


def test_tiles_that_the_target_cannot_read(catalogued: Path, rslow: Run) -> None:
    """A catalog of another level is refused as a whole, in one line, before the first tile."""
    ran = rslow("catalog", "build", "-c", catalogued / "config.yaml", "-s", "data.level=L2A")
    assert ran.code == 0, ran.err
    ran = score(rslow, catalogued)
    assert ran.code == 4
    assert "the tile is L2A; expected L1C" in ran.err
    assert "tiles done" not in ran.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_without_gpu_ends_the_job(catalogued: Path, rslow: Run) -> None:
    """Where CUDA is wanted and a worker has none, the job ends in a line and blames no tile."""
    config = ("-c", catalogued / "config.yaml")
    words = ("-s", "run.device=cuda", "-s", "batch.executor=process", "-s", "batch.workers=1")
    ran = rslow("batch", "score", *config, *words)
    assert ran.code == 3
    assert "run.device is cuda, but torch finds no GPU" in ran.err
    assert "0 of 48 tiles done, 0 failed" in rslow("batch", "status", *config).out


@pytest.mark.parametrize("command", ["status", "retry", "stop"])
def test_no_job(command: str, tmp_path: Path, rslow: Run) -> None:
    """What needs a job says where there is none."""
    ran = rslow("batch", command, "-s", f"run.dir={tmp_path}")
    assert ran.code != 0
    assert str(tmp_path) in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_the_map_opens_in_qgis(
    catalogued: Path, rslow: Run, qgis_python: str, tmp_path: Path
) -> None:
    """All tiles are in the layer, in their place; the least sure is framed red over its image."""
    assert score(rslow, catalogued).code == 0
    frame = scores(catalogued)
    lowest = frame.to_crs("EPSG:3857").loc[[frame["confidence"].idxmin()]].geometry.iloc[0]
    centre = lowest.centroid
    project = catalogued / "run" / "batch" / "score" / "scores.qgz"
    report_path = tmp_path / "report.json"
    words = (MAP, project, tmp_path / "map.png", report_path, centre.x, centre.y, 200)
    done = run_offscreen([qgis_python, *words], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["opened"]
    assert report["crs"] == "EPSG:3857"
    layer, imagery = report["layers"]
    assert layer["valid"]
    assert imagery["valid"]
    assert imagery["crs"] == "EPSG:32631"
    assert layer["crs"] == "EPSG:4326"
    assert layer["features"] == len(frame)
    assert layer["extent"] == pytest.approx(frame.total_bounds, abs=1e-6)
    with Image.open(tmp_path / "map.png") as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    assert (drawn == layer["legend"][0][2][:3]).all(-1).sum() > 1_000
    assert drawn[250:350, 250:350].std() > 2  # pixels of the tile, not one colour
