"""Publishing samples: what reviewers get, and what the store keeps of it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from PIL import Image

from rs_lowconf.review.fields import Label
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.ids import package_id, sample_id, sample_ids
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.rounds import round_reports
from rs_lowconf.review.samples import (
    Generated,
    Prediction,
    ReviewSample,
    suggestion_of,
)
from rs_lowconf.review.settle import settling_package
from rs_lowconf.review.store import FORMAT, ReviewStore
from rs_lowconf.review.verdicts import agreement
from rs_lowconf.runs import sha256_of
from tests.review_samples import ATTRIBUTION, masked, observed, pixel, published, sample
from tests.test_review_package import files_in, without_times

kinds = pytest.mark.parametrize(
    "make",
    [
        sample,
        masked,
        observed,
        lambda number: observed(number, labelled=False, asked=False),
        pixel,
    ],
    ids=["generated", "masked", "observed", "observed alone", "pixel"],
)
labels = pytest.mark.parametrize("label", ["confirm", "blind"])


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    return ReviewStore(tmp_path / "reviews.sqlite")


@labels
@kinds
def test_what_was_published_is_read_back(
    tmp_path: Path, store: ReviewStore, make: Callable[[int], ReviewSample], label: Label
) -> None:
    """Package and store hold the samples in their order; the store all that is known of them."""
    samples = [make(number) for number in range(3)]
    folder = published(store, tmp_path / "some" / "review", samples, label)
    reviewed = read_package(folder)
    (package,) = store.packages()
    assert (reviewed.package_id, reviewed.label) == (package.package_id, package.label)
    assert (reviewed.classes, reviewed.pixel_classes) == (package.classes, package.pixel_classes)
    assert package.folder == "some/review"
    names = [one.sample_id for one in samples]
    assert [one.sample_id for one in reviewed.answers] == names
    assert reviewed.decided == 0
    kept = store.samples(package.package_id)
    assert [one.sample_id for one in kept] == names
    assert [one.prediction for one in kept] == [one.prediction for one in samples]
    assert [one.condition or None for one in kept] == [suggestion_of(one) for one in samples]
    for entry, one in zip(reviewed.manifest["samples"], samples, strict=True):
        np.testing.assert_array_equal(read_tile(folder / entry["tile"]).pixels, one.pixels)


def test_the_checksum_is_of_the_file_when_it_was_published(
    tmp_path: Path, store: ReviewStore
) -> None:
    """A file that is edited later does not have it; a sample published again keeps it."""
    path = tmp_path / "tiles" / "s0000.tif"
    path.parent.mkdir()
    path.write_bytes(b"a tile")
    one = replace(sample(0), tile="tiles/s0000.tif", sha256=None)
    published(store, tmp_path / "first", [one])
    (kept,) = store.samples("0123456789abcdef")
    assert kept.sha256 == sha256_of(path)
    path.unlink()
    again = replace(one, sha256=kept.sha256)
    published(store, tmp_path / "second", [again], package_id="f" * 16)
    assert store.samples("f" * 16) == (kept,)


@pytest.mark.parametrize(
    "make", [lambda number: observed(number, None), sample], ids=["observed", "generated"]
)
def test_a_blind_package_is_the_same_whatever_is_known(
    tmp_path: Path, store: ReviewStore, make: Callable[[int], Any]
) -> None:
    """Neither class, model, origin nor gate changes a byte of it."""
    samples = [make(number) for number in range(3)]
    another = Prediction(class_name="Water", second="Town", confidence=0.777)
    others = [
        replace(
            one, prediction=another, condition="Town", origin="real", gate_score=0.9, realism=7.0
        )
        if isinstance(one, Generated)
        else replace(one, prediction=None, label=None, provenance={})
        for one in samples
    ]
    contents = []
    for number, some in enumerate((samples, others)):
        folder = published(store, tmp_path / str(number), some, "blind", f"{number:016x}")
        content = without_times(files_in(folder), folder)
        content["manifest.json"].pop("package_id")
        page = content["review.html"]
        content["review.html"] = page.replace(f"{number:016x}".encode(), b"the package")
        contents.append(content)
    assert contents[0] == contents[1]


@kinds
def test_who_was_not_asked_has_said_nothing(
    tmp_path: Path, store: ReviewStore, make: Callable[[int], ReviewSample]
) -> None:
    """Of a sample that no model was asked about, store, layer and tags have no answer of one."""
    samples = [make(number) for number in range(2)]
    folder = published(store, tmp_path / "review", samples)
    asked = samples[0].prediction is not None
    with closing(sqlite3.connect(store.path)) as database:
        rows = [json.loads(text) for (text,) in database.execute("SELECT content FROM sample")]
    assert [row["confidence"] for row in rows] == [0.31 if asked else None] * 2
    assert all((row["predicted"] is None) == (row["second"] is None) != asked for row in rows)
    table = geopandas.read_file(folder / "opinions.gpkg", layer="opinions")
    assert table["confidence"].isna().tolist() == [not asked] * 2
    tags = read_tile(folder / "tiles" / "s0000.tif").tags
    assert ("RSLOW_CONFIDENCE" in tags) == asked


def decide(folder: Path, decision: str, name: str | None, reviewer: str) -> None:
    """Decide as QGIS does: a plain UPDATE of the layer's table."""
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        database.execute(
            "UPDATE review SET decision = ?, true_class = ?, reviewer = ?, reviewed_ms = 5",
            (decision, name, reviewer),
        )


def as_of_format_3(store: ReviewStore) -> None:
    """Turn a store of pixels into what was written before format 4, with invented values."""
    with closing(sqlite3.connect(store.path)) as database, database:
        for key, text in database.execute("SELECT rowid, content FROM sample").fetchall():
            content = json.loads(text) | {"predicted": "", "second": "", "confidence": 1.0}
            content["origin"] = "catalog"
            database.execute(
                "UPDATE sample SET content = ? WHERE rowid = ?", (json.dumps(content), key)
            )
        database.execute("PRAGMA user_version = 3")


@pytest.mark.parametrize("old", [False, True], ids=["as it is", "of format 3"])
def test_pixels_that_reviewers_disagree_on_are_shown_again(
    tmp_path: Path, store: ReviewStore, old: bool
) -> None:
    """The pixel is framed as before, no model speaks of it, and no figure of a round knows it."""
    pixels = [pixel(number) for number in range(3)]
    folder = published(store, tmp_path / "review", pixels, "blind")
    if old:
        as_of_format_3(store)
    kept = store.samples("0123456789abcdef")
    assert [(one.origin, one.prediction, one.tile) for one in kept] == [
        ("pixel", None, f"real/{number}/{number}/7") for number in range(3)
    ]
    decide(folder, "accept", "Town", "Ada")
    store.add(read_package(folder))
    decide(folder, "reject", None, "Bo")
    store.add(read_package(folder))
    disagreed = agreement(store.opinions())["samples_disagreed_on"]
    assert disagreed == [one.sample_id for one in pixels]
    settle = tmp_path / "settle"
    source = [read_package(folder)]
    assert settling_package(store, source, disagreed[:2], settle, ATTRIBUTION) == 2
    for one in pixels[:2]:
        again, first = (read_tile(at / "tiles" / f"{one.sample_id}.tif") for at in (settle, folder))
        np.testing.assert_array_equal(again.pixels, first.pixels)
        assert (again.grid, again.tags) == (first.grid, first.tags)
        previews = []
        for at in (settle, folder):
            with Image.open(at / "previews" / f"{one.sample_id}.png") as image:
                previews.append(np.asarray(image.convert("RGB")))
        np.testing.assert_array_equal(previews[0], previews[1])
    assert store.samples(read_package(settle).package_id) == kept[:2]
    assert store.packages()[-1].settles
    assert round_reports(store) == {}
    with closing(sqlite3.connect(store.path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT,)


def test_ids_are_those_of_earlier_versions() -> None:
    """Answers that were given to them would be lost otherwise."""
    assert sample_ids(0, ["a/b", "c"]) == ["sfa49f7ec54", "s5e8b6d73f7"]
    assert sample_id(3, "sample", 7) == "s3f37c8a30e"
    assert sample_id(3, "variant", "a/b", 1, letter="v") == "v02add5e3d3"
    assert package_id(0, "catalog", True, "sfa49f7ec54") == "1427cfd8d8e77ac1"
