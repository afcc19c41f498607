"""`rslow batch review`: the real tiles that the target is least sure of, as people judge them."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.store import ReviewStore
from rs_lowconf.stored import stored_numbers
from tests.conftest import Ran, Run


@pytest.fixture
def scored(project: Path, rslow: Run) -> Path:
    """Return a project with a catalog whose tiles have scores."""
    config = ("-c", project / "config.yaml")
    for words in (
        ("catalog", "build"),
        ("batch", "score", "-s", "batch.executor=serial", "-s", "batch.seconds=null"),
    ):
        ran = rslow(*words, *config)
        assert ran.code == 0, ran.err
    return project


def review(rslow: Run, folder: Path, *words: str) -> Ran:
    """Run the command; by default every tile is of low confidence."""
    sure = ("-s", "search.tau=0.999999")
    return rslow("batch", "review", "-c", folder / "config.yaml", *sure, *words)


def scores_of(folder: Path) -> geopandas.GeoDataFrame:
    """Return the scores, the lowest first."""
    frame = geopandas.read_parquet(folder / "run" / "batch" / "score" / "scores.parquet")
    return frame.sort_values(["confidence", "id"]).set_index("id")


def entries(folder: Path, name: str = "review") -> list[dict[str, Any]]:
    """Return the manifest's entries of a package's samples."""
    manifest = folder / "run" / "batch" / name / "manifest.json"
    found: list[dict[str, Any]] = json.loads(manifest.read_text())["samples"]
    return found


def shown(folder: Path, name: str = "review") -> list[str]:
    """Return the ids in the catalog of the tiles of a package, in its order."""
    package = folder / "run" / "batch" / name
    return [read_tile(package / one["tile"]).tags["RSLOW_TILE_ID"] for one in entries(folder, name)]


def rows(folder: Path) -> dict[str, CatalogRow]:
    """Return the catalog."""
    tables = Catalog(folder / "run" / "catalog.parquet").tables()
    return {row.tile_id: row for table in tables for row in from_table(table)}


def without_labels(folder: Path, kept: int) -> None:
    """Take the labels of all but the first tiles out of the catalog."""
    path = folder / "run" / "catalog.parquet"
    table = pq.read_table(path)
    labels = [own if i < kept else None for i, own in enumerate(table["rslow:label"].to_pylist())]
    index = table.column_names.index("rslow:label")
    table = table.set_column(index, "rslow:label", pa.array(labels, pa.string()))
    pq.write_table(table, path)


def test_the_least_sure_tiles_are_shown_as_they_are(scored: Path, rslow: Run) -> None:
    """The lowest come first, with pixels, grid and class of the catalog, tagged as real."""
    ran = review(rslow, scored, "-s", "review.max_samples=10")
    assert ran.code == 0, ran.err
    assert "10 are chosen" in ran.out
    scores = scores_of(scored)
    names = shown(scored)
    assert names == list(scores.index[:10])
    package, catalog = scored / "run" / "batch" / "review", rows(scored)
    for name, entry in zip(names, entries(scored), strict=True):
        row, tile = catalog[name], read_tile(package / entry["tile"])
        expected = stored_numbers(reflectance(row, read_row(row), row.bands))
        assert np.array_equal(tile.pixels, expected.numpy())
        assert tile.grid == row.grid
        assert tile.tags["RSLOW_SYNTHETIC"] == "false"
        assert tile.tags["RSLOW_CLASS"] == row.label
        assert tile.tags["RSLOW_PREDICTED"] == scores["predicted"][name]
        assert float(tile.tags["RSLOW_CONFIDENCE"]) == pytest.approx(
            scores["confidence"][name], abs=1e-6
        )
    assert (package / "context.qgz").exists()


def test_only_tiles_below_tau(scored: Path, rslow: Run) -> None:
    """A threshold, or a quantile of the scores, parts the tiles."""
    confidence = scores_of(scored)["confidence"]
    tau = float(confidence.iloc[4:6].mean())
    assert review(rslow, scored, "-s", f"search.tau={tau}").code == 0
    assert len(shown(scored)) == 5
    ran = review(rslow, scored, "-s", "search.tau_quantile=0.25")
    assert ran.code == 0, ran.err
    assert len(shown(scored, "review-2")) == (confidence < np.quantile(confidence, 0.25)).sum()


def test_quotas(scored: Path, rslow: Run) -> None:
    """No class and no region has more than its number, and each has its lowest."""
    west, _, east, _ = scores_of(scored).total_bounds
    degrees = (east - west) / 3
    ran = review(
        rslow, scored, "-s", "batch.per_class=3", "-s", "batch.per_region=2",
        "-s", f"batch.region_degrees={degrees}",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    scores = scores_of(scored)
    taken: list[str] = []
    of_class: Counter[str] = Counter()
    of_region: Counter[tuple[int, int]] = Counter()
    for name, row in scores.iterrows():
        centre = row.geometry.centroid
        region = (int(np.floor(centre.x / degrees)), int(np.floor(centre.y / degrees)))
        if of_class[row["label"]] < 3 and of_region[region] < 2:
            taken.append(str(name))
            of_class[row["label"]] += 1
            of_region[region] += 1
    assert shown(scored) == taken
    assert max(of_region.values()) == 2 < max(of_class.values())


def test_splits_are_respected(scored: Path, rslow: Run) -> None:
    """With batch.splits no tile of another split is shown."""
    assert review(rslow, scored, "-s", "batch.splits=[val]").code == 0
    splits = scores_of(scored)["rslow:split"]
    assert sorted(shown(scored)) == sorted(splits.index[splits == "val"])


def test_without_a_label_nothing_is_suggested(scored: Path, rslow: Run) -> None:
    """The suggestion is the catalog's class, never the target's."""
    without_labels(scored, 7)
    ran = review(rslow, scored)
    assert ran.code == 0, ran.err
    layer = geopandas.read_file(scored / "run" / "batch" / "review" / "review.gpkg", layer="review")
    catalog = rows(scored)
    suggested = layer["cond_class"].fillna("none").tolist()
    assert suggested == [catalog[name].label or "none" for name in shown(scored)]
    assert suggested.count("none") == len(layer) - 7


def test_blind_tells_nothing_of_class_and_target(scored: Path, rslow: Run) -> None:
    """The order is another than that of confidence, and no file holds class, score or name."""
    ran = review(rslow, scored, "-s", "review.mode=blind")
    assert ran.code == 0, ran.err
    package = scored / "run" / "batch" / "review"
    names = [one["sample_id"] for one in entries(scored)]
    assert names == sorted(names)
    told = b"".join(p.read_bytes() for p in package.rglob("*") if p.suffix in (".tif", ".vrt"))
    for word in (b"RSLOW_CLASS", b"RSLOW_PREDICTED", b"RSLOW_CONFIDENCE", b"woods_0"):
        assert word not in told
    assert read_tile(package / entries(scored)[0]["tile"]).grid is not None


def test_answers_come_back_and_are_no_reviews_of_generated_tiles(scored: Path, rslow: Run) -> None:
    """They are imported, asked no more, and neither update nor release takes them for its own."""
    config = ("-c", scored / "config.yaml")
    assert review(rslow, scored, "-s", "review.max_samples=30").code == 0
    package = scored / "run" / "batch" / "review"
    answered = [one["sample_id"] for one in entries(scored)][:12]
    with closing(sqlite3.connect(package / "review.gpkg")) as database, database:
        for number, name in enumerate(answered):
            database.execute(
                "UPDATE review SET decision = ?, true_class = ?, reviewer = 'Ada', reviewed_ms = ?"
                " WHERE sample_id = ?",
                (*(("accept", "woods") if number % 2 else ("reject", None)), 10**12 + number, name),
            )
    ran = rslow("review", "import", package, *config)
    assert "12 new" in ran.out, ran.err
    store = ReviewStore(scored / "run" / "reviews.sqlite")
    assert {one.sample_id for one in store.opinions()} == set(answered)
    loop = rslow("status", *config)
    assert loop.code == 0, loop.err
    assert "Round" not in loop.out
    for words in (("update",), ("testset", "build", "-s", "testset.licence=CC-BY-4.0")):
        ran = rslow(*words, *config)
        assert ran.code == 6
        assert "no generated sample was accepted" in ran.err
        assert len(ran.err.strip().splitlines()) == 1
    before = set(shown(scored)[:12])
    ran = review(rslow, scored)
    assert "12 of them answered before" in ran.out
    assert not before & set(shown(scored, "review-2"))
    assert before | set(shown(scored, "review-2")) == set(scores_of(scored).index)


def test_the_same_tiles_are_not_written_twice(scored: Path, rslow: Run) -> None:
    """The same command names the package that is there, and touches nothing in it."""
    assert review(rslow, scored, "-s", "review.max_samples=3").code == 0
    manifest = scored / "run" / "batch" / "review" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    again = review(rslow, scored, "-s", "review.max_samples=3")
    assert str(manifest.parent / "review.qgz") in again.out
    assert manifest.stat().st_mtime_ns == before
    assert not manifest.parent.with_name("review-2").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("search.tau=0.01",), "none of 48 scored tiles is below 0.010, the lowest is"),
        (("batch.splits=[nowhere]",), "no tile is left of 48"),
        (("target.batch_size=3",), "of another target"),
        (("catalog.path=nowhere.parquet",), "there is no catalog nowhere.parquet"),
    ],
)
def test_nothing_to_review(scored: Path, rslow: Run, words: tuple[str, ...], reason: str) -> None:
    """Why there is no package is said in one line, and nothing is written."""
    ran = review(rslow, scored, *(part for word in words for part in ("-s", word)))
    assert ran.code != 0
    assert reason in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (scored / "run" / "batch" / "review").exists()
    assert not (scored / "run" / "reviews.sqlite").exists()


def test_without_scores(project: Path, rslow: Run) -> None:
    """A catalog alone is not enough, and what is missing is named."""
    assert rslow("catalog", "build", "-c", project / "config.yaml").code == 0
    ran = review(rslow, project)
    assert ran.code == 7
    assert "run rslow batch score" in ran.err
