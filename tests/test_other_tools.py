"""Samples and reviews in other tools: the recipes of the guide, held to independent readers."""

import re
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from pycocotools.coco import COCO
from rasterio.errors import NotGeoreferencedWarning

import rs_lowconf as rl
from rs_lowconf.bands import COMPOSITES, BandSpec
from rs_lowconf.errors import DataError, ReviewError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review.answers import with_answers
from rs_lowconf.review.composites import stretch
from rs_lowconf.review.fields import Label
from rs_lowconf.review.geotiff import synthetic_tags, write_tile
from rs_lowconf.review.panels import mask_panel
from rs_lowconf.review.store import ReviewStore
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset import ReleaseMask
from tests.conftest import Run
from tests.fiftyone_stand_in import fiftyone
from tests.review_samples import (
    ATTRIBUTION,
    CLASSES,
    PIXEL_CLASSES,
    mask_of,
    masked,
    observed,
    package,
    published,
    sample,
)
from tests.testset_samples import release, reviewed_tiles

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "howto" / "other-tools.md"
MS = 1_750_000_000_123
Namespace = dict[str, Any]
Make = Callable[[int], Any]


def decide(folder: Path, *answers: tuple[object, ...], masks: bool = False) -> None:
    """Write decision, class, realism, comment, reviewer and time into the first rows, as QGIS."""
    columns = ("decision", "true_class", "realism", "comment", "reviewer", "reviewed_ms")
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        for number, answer in enumerate(answers, 1):
            row = dict(zip(columns, answer, strict=True))
            if masks:
                del row["true_class"]
            for name, value in row.items():
                database.execute(
                    f"UPDATE review SET {name} = ? WHERE fid = ?",  # noqa: S608 (ours)
                    (value, number),
                )


def reviewed_classes(folder: Path) -> Path:
    """Return a package of six tiles, three of them decided."""
    package(folder, [sample(number) for number in range(6)])
    decide(
        folder,
        ("accept", "Town", 4, 'a road, "wide"', "Zoë", MS),
        ("reject", None, 1, None, "Zoë", MS + 1000),
        ("accept", "Field", None, None, "", MS + 2000),
    )
    return folder


def reviewed_masks(folder: Path) -> Path:
    """Return a package of four tiles with masks, three of them decided."""
    package(folder, [masked(number) for number in range(4)])
    decide(
        folder,
        ("accept", None, None, None, "Zoë", MS),
        ("mask wrong", None, None, None, "Zoë", MS),
        ("accept", None, None, None, "Zoë", MS),
        masks=True,
    )
    return folder


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Namespace]:
    """Return what runs the blocks of the guide, behind the search, on a package in a folder."""
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone())
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)

    def run(folder: Path) -> Namespace:
        monkeypatch.chdir(tmp_path)
        pd.DataFrame({"sample_id": []}).to_parquet(folder.parent / "samples.parquet")
        names: Namespace = {"rl": rl, "package": folder}
        for block in blocks[1:]:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own text
        return names

    return run


def bands_of(path: Path) -> dict[str | None, np.ndarray]:
    """Return the bands of a GeoTIFF by their names, read by rasterio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return dict(zip(file.descriptions, file.read(), strict=True))


def size_of(path: Path | str) -> tuple[int, int]:
    """Return the width and height of a picture."""
    with Image.open(path) as picture:
        return picture.size


def pixels_of(coco: COCO, annotation: Namespace) -> np.ndarray:
    """Return the pixels of an annotation, decoded by pycocotools, which warns under NumPy 2."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        mask: np.ndarray = coco.annToMask(annotation).astype(bool)
        return mask


def test_a_table_of_reviews_has_what_the_package_has(tmp_path: Path) -> None:
    """Row by row what SQLite reads; as CSV, any reader finds the same."""
    folder = reviewed_classes(tmp_path / "review")
    table = rl.read_review(folder).to_pandas()
    columns = (
        "sample_id", "decision", "true_class", "realism", "comment", "reviewer", "reviewed",
        "condition", "predicted", "second", "confidence",
    )  # fmt: skip
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        database.execute("ATTACH ? AS model", (str(folder / "opinions.gpkg"),))
        kept = database.execute(
            "SELECT sample_id, decision, true_class, realism, coalesce(comment, ''),"
            " coalesce(reviewer, ''), reviewed_ms, cond_class, pred_class, second_class,"
            " confidence FROM review JOIN model.opinions USING (sample_id) ORDER BY review.fid"
        ).fetchall()
    times = table["reviewed"].map(lambda time: round(time.timestamp() * 1000), na_action="ignore")
    plain = table.assign(reviewed=times)[[*columns]].astype(object)
    assert [*plain.where(plain.notna(), None).itertuples(index=False, name=None)] == kept
    for name in ("tile", "preview"):
        assert all(Path(path).is_file() for path in table[name])
    table.to_csv(tmp_path / "reviews.csv", index=False)
    told = pd.read_csv(tmp_path / "reviews.csv", parse_dates=["reviewed"])
    assert told["comment"][0] == 'a road, "wide"'
    assert told["decision"].isna().sum() == 3
    assert told["reviewed"].dropna().tolist() == table["reviewed"].dropna().tolist()


@pytest.mark.parametrize("make", [sample, masked, observed])
def test_a_table_of_a_blind_package_tells_nothing_of_models(tmp_path: Path, make: Make) -> None:
    """Neither condition nor prediction nor confidence, by name or by value."""
    samples = [make(number) for number in range(4)]
    shown = rl.read_review(package(tmp_path / "open", samples)).to_pandas()
    assert {"condition", "confidence"} <= set(shown)
    table = rl.read_review(package(tmp_path / "blind", samples, label="blind")).to_pandas()
    assert set(shown) - set(table) >= {"condition", "confidence"}
    assert not set(table) & {"condition", "predicted", "second", "confidence"}
    text = table.to_csv()
    for one in samples:
        words = [one.tile, *one.provenance.values(), str(one.prediction.confidence)]
        for word in [*words, *CLASSES]:
            if len(word) > 2:
                assert word not in text, word


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_pictures_show_three_bands_as_reviews_do(tmp_path: Path, label: Label) -> None:
    """Computed again from the bands that rasterio reads by their names; they say what they are."""
    folder = package(tmp_path / "review", [sample(0), sample(1)], label=label)
    for composite, bands, low, high in (
        ("true_colour", ("B04", "B03", "B02"), (200, 400, 600), (3000, 2700, 2600)),
        ("near_infrared", ("B08", "B04", "B03"), (100, 200, 400), (5000, 3000, 2700)),
    ):
        pictures = rl.write_pictures(folder / "tiles", tmp_path / composite, composite)
        assert sorted(pictures) == ["s0000", "s0001"]
        for name, path in pictures.items():
            found = bands_of(folder / "tiles" / f"{name}.tif")
            chosen = [found[band] for band in bands]
            share = (np.stack(chosen, -1) - np.array(low)) / np.subtract(high, low)
            expected = np.clip(1 + share * 254, 1, 255)
            picture = Image.open(path)
            assert np.abs(np.array(picture) - expected).max() <= 0.5
            assert ("MAY BE" if label == "blind" else "NOT AN") in picture.info["Description"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pictures_have_the_stretch_of_their_level(tmp_path: Path) -> None:
    """A tile of surface reflectance is as bright as reviewers see it."""
    bands = BandSpec(names=("B02", "B03", "B04"), level="L2A")
    pixels = np.random.default_rng(0).integers(50, 2000, (3, 16, 16)).astype(np.uint16)
    write_tile(tmp_path / "tiles" / "a.tif", pixels, bands, {})
    pictures = rl.write_pictures(tmp_path / "tiles", tmp_path / "pictures")
    expected = stretch(pixels, bands, COMPOSITES["true_colour"])
    assert np.array_equal(np.array(Image.open(pictures["a"])), expected)


def test_what_is_no_folder_of_tiles_is_named(tmp_path: Path) -> None:
    """As is a composite that does not exist, or whose bands are not there."""
    with pytest.raises(ReviewError, match="holds no tiles; expected GeoTIFFs"):
        rl.write_pictures(tmp_path, tmp_path / "pictures")
    folder = package(tmp_path / "review", [sample(0, ("B04", "B03", "B02"))])
    with pytest.raises(DataError, match="no composite ndvi; expected one of true_colour"):
        rl.write_pictures(folder / "tiles", tmp_path, "ndvi")
    with pytest.raises(DataError, match="bands B08 are missing"):
        rl.write_pictures(folder / "tiles", tmp_path / "pictures", "near_infrared")
    assert not (tmp_path / "pictures").exists()


def test_fiftyone_has_reviews_predictions_and_pictures(
    tmp_path: Path, recipes: Callable[[Path], Namespace]
) -> None:
    """Of each sample its own; of a blind package no prediction."""
    names = recipes(reviewed_classes(tmp_path / "review"))
    found = {one["rslow_id"]: one for one in names["dataset"]}
    assert [one["decision"] for one in found.values()] == [
        "accept", "reject", "accept", "pending", "pending", "pending",
    ]  # fmt: skip
    assert [found[name]["review"].label for name in ("s0000", "s0002")] == ["Town", "Field"]
    for number, (name, one) in enumerate(found.items()):
        assert one["prediction"].label == sample(number).prediction.class_name
        assert one["prediction"].confidence == pytest.approx(0.31)
        assert Path(one.filepath).name == f"{name}.png"
        assert size_of(one.filepath) == (32, 32)
        assert one["label"] is None
    blind = package(tmp_path / "blind", [sample(0)], label="blind")
    (one,) = names["to_fiftyone"](blind, "blind-tiles")
    with pytest.raises(KeyError, match="prediction"):
        one["prediction"]


def test_fiftyone_has_masks(tmp_path: Path, recipes: Callable[[Path], Namespace]) -> None:
    """Moved by one, so that no class is its background; unknown pixels are."""
    names = recipes(reviewed_masks(tmp_path / "review"))
    assert names["dataset"].default_mask_targets == dict(enumerate(PIXEL_CLASSES, 1))
    for number, one in enumerate(names["dataset"]):
        expected = mask_of(number) + 1
        expected[-5:, :7] = 0
        np.testing.assert_array_equal(one["mask"].mask, expected)


def test_labels_of_fiftyone_are_imported(
    tmp_path: Path, recipes: Callable[[Path], Namespace], rslow: Run
) -> None:
    """Tags and labels become answers, again without doubling them; contradictions are refused."""
    store = ReviewStore(tmp_path / "run" / "reviews.sqlite")
    folder = published(
        store, tmp_path / "run" / "generate" / "review", [sample(n) for n in range(6)]
    )
    decide(folder, ("reject", None, None, None, "Bob", MS))
    names = recipes(folder)
    assert Path("answers.csv").read_text().strip() == ""  # nothing of Bob's
    dataset, label = names["dataset"], names["fo"].Classification(label="Water")
    for number, one in enumerate(dataset):
        if number < 5:
            one["label"] = label
            one.tags.append("accept" if number % 2 else "reject")
        getattr(one, "save", list)()  # as FiftyOne wants it

    def imported() -> str:
        names["answers_of"](dataset, folder).to_csv("answers.csv", index=False)
        where = ("--reviewer", "Ada", "-s", f"run.dir={tmp_path / 'run'}")
        ran = rslow("review", "import", "answers.csv", *where)
        return ran.out if ran.code == 0 else ran.err

    assert "5 new, 0 changed, 0 withdrawn, 0 older than known, 0 known, 1 pending" in imported()
    for one in dataset:  # FiftyOne changes the time of all when it computes something
        one["brightness"] = 0.5
        getattr(one, "save", list)()
    assert "0 new, 0 changed, 0 withdrawn, 0 older than known, 5 known" in imported()
    assert {one.sample_id: (one.decision, one.true_class) for one in store.opinions()} == {
        f"s{number:04d}": ("accept", "Water") if number % 2 else ("reject", None)
        for number in range(5)
    }
    assert {one.reviewer for one in store.opinions()} == {"Ada"}
    for one in dataset:
        if one["rslow_id"] == "s0001":
            one.tags.append("unsure")
            getattr(one, "save", list)()
    assert "a sample is answered twice; expected one answer per sample" in imported()


@pytest.mark.parametrize("label", ["confirm", "blind"])
@pytest.mark.parametrize("kind", ["classes", "masks"])
def test_a_table_comes_back_as_it_went(
    tmp_path: Path, kind: str, label: Label, rslow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing a package and then its table adds nothing; a change in the table is a change."""
    masks = kind == "masks"
    store = ReviewStore(tmp_path / "reviews.sqlite")
    make: Make = masked if masks else sample
    folder = published(store, tmp_path / "review", [make(n) for n in range(4)], label)
    chosen = None if masks else "Town"
    decide(
        folder,
        ("accept", chosen, 4, 'a road, "wide"', " Zoë ", MS),
        ("mask wrong" if masks else "mixed", None, None, None, "", MS + 1),
        ("unsure", None, 2, "NA", "Zoë", MS + 2),
        masks=masks,
    )
    monkeypatch.chdir(tmp_path)
    where = ("-s", f"run.dir={tmp_path}")
    assert "3 new" in rslow("review", "import", folder, *where).out
    table = rl.read_review(folder).to_pandas()
    table.to_csv("reviews.csv", index=False)
    assert with_answers(rl.read_review(folder), Path("reviews.csv")) == rl.read_review(folder)
    before = store.opinions()
    assert "3 known, 1 pending" in rslow("review", "import", "reviews.csv", *where).out
    assert store.opinions() == before
    changed = pd.read_csv("reviews.csv")  # as others do, whose numbers then have a point
    changed.loc[2, "decision"] = "reject"
    changed.to_csv("reviews.csv", index=False)
    assert "1 changed, 0 withdrawn" in rslow("review", "import", "reviews.csv", *where).out
    (one,) = [one for one in store.opinions() if one.sample_id == table["sample_id"][2]]
    assert (one.decision, one.realism, one.reviewed_ms) == ("reject", 2, MS + 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sample_id": "s0009"}, "sample s0009 is foreign"),
        ({"sample_id": "s0001"}, "a sample is answered twice"),
        ({"decision": "maybe"}, "unknown decision 'maybe'"),
        ({"true_class": "Moon"}, "unknown class 'Moon'"),
        ({"true_class": ""}, "accepted without a class"),
        ({"decision": ""}, "a class and no decision on s0000; expected accept"),
        ({"decision": "reject"}, "is reject and has the class 'Town'"),
        ({"realism": "4.5"}, "has the realism 4.5"),
        ({"realism": "good"}, "has the realism 'good'"),
        ({"reviewed": ""}, "no time of the decision on s0000; expected UTC in the column reviewed"),
        ({"reviewed": "31.05.2026 14:05"}, "no time of the decision on s0000"),
        ({"reviewed": "1969-05-31"}, "has the time -"),
        ({"package_id": "0" * 16}, "has answers to 2 packages"),
    ],
)
def test_what_the_form_does_not_allow_is_refused_in_tables(
    tmp_path: Path, change: dict[str, str], why: str
) -> None:
    """In one line that names the sample."""
    folder = reviewed_classes(tmp_path / "review")
    path = tmp_path / "reviews.csv"
    table = rl.read_review(folder).to_pandas().astype(object)
    table.loc[0, list(change)] = list(change.values())
    table.to_csv(path, index=False)
    with pytest.raises(ReviewError, match=re.escape(why)):
        with_answers(rl.read_review(folder), path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not a table of answers"),
        (b"package_id;sample_id;decision\n1;2;accept\n", "separated by commas"),
        (b"package_id,sample_id\n1,2\n", "has no column decision"),
        (b"package_id,sample_id,decision\n", "has answers to 0 packages"),
        (
            b"package_id,sample_id,decision,reviewed\n1,s0000,accept\n",
            "no time of the decision on s0000",
        ),
        (b"package_id,sample_id,decision,decision\n1,2,,\n", "more than one column decision"),
        (b"package_id,sample_id,decision\n1,2,accept,9\n", "is not a table of answers"),
        ("package_id,sample_id,decision\n1,ü,\n".encode("latin-1"), "is not a table of answers"),
        (b"\x89PNG\0", "is not a table of answers"),
    ],
)
def test_what_is_no_table_of_answers_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    """With what was expected."""
    folder = package(tmp_path / "review", [sample(0)])
    path = tmp_path / "answers.CSV"
    path.write_bytes(content)
    with pytest.raises(ReviewError, match=re.escape(why)):
        with_answers(rl.read_review(folder), path)


def test_coco_has_classes_of_tiles(tmp_path: Path, recipes: Callable[[Path], Namespace]) -> None:
    """Read by pycocotools: accepted samples, each with one class over the whole picture."""
    names = recipes(reviewed_classes(tmp_path / "review"))
    check_classes(Path("coco"), {"s0000": "Town", "s0002": "Field"})
    tiles = reviewed_tiles(tmp_path / "store", 5)
    names["release_to_coco"](release(tmp_path / "v1", tiles), tmp_path / "released")
    check_classes(tmp_path / "released", {one.sample_id: str(one.class_name) for one in tiles})


def check_classes(folder: Path, expected: dict[str, str]) -> None:
    """Compare what pycocotools reads with the class of each sample."""
    coco = COCO(folder / "labels.json")
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        size = size_of(folder / "data" / image["file_name"])
        assert size == (image["width"], image["height"])
        (one,) = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        assert (one["bbox"], one["area"]) == ([0, 0, 32, 32], 1024)
        assert pixels_of(coco, one).all()
        found[Path(image["file_name"]).stem] = coco.cats[one["category_id"]]["name"]
    assert found == expected


def test_coco_has_masks(tmp_path: Path, recipes: Callable[[Path], Namespace]) -> None:
    """Put together again by pycocotools they are the masks; unknown pixels have no class."""
    accepted = recipes(reviewed_masks(tmp_path / "review"))["accepted"]
    assert [*accepted.index] == ["s0000", "s0002"]
    check_masks(
        Path("coco"), {name: bands_of(path)[None] for name, path in accepted["mask"].items()}
    )


def test_coco_has_masks_of_a_test_set(tmp_path: Path, recipes: Callable[[Path], Namespace]) -> None:
    """Its table names them relative to the release."""
    names, store = recipes(reviewed_masks(tmp_path / "review")), tmp_path / "store"
    tiles = []
    for number, tile in enumerate(reviewed_tiles(store, 3)):
        path = store / f"mask-{number}.tif"
        mask_panel(PIXEL_CLASSES).write(path, mask_of(number), synthetic_tags(ATTRIBUTION))
        mask = ReleaseMask(path=path, sha256=sha256_of(path), classes=PIXEL_CLASSES)
        tiles.append(replace(tile, class_name=None, predicted=None, mask=mask))
    folder = release(tmp_path / "v1", tiles, classes=PIXEL_CLASSES)
    names["release_to_coco"](folder, tmp_path / "released")
    check_masks(
        tmp_path / "released",
        {one.sample_id: mask_of(number) for number, one in enumerate(tiles)},
    )


def check_masks(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """Compare masks with those that pycocotools decodes."""
    coco = COCO(folder / "labels.json")
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(PIXEL_CLASSES)
    images = coco.loadImgs(coco.getImgIds())
    assert {Path(one["file_name"]).stem for one in images} == set(expected)
    for image in images:
        mask = np.full((image["height"], image["width"]), UNKNOWN)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            area = pixels_of(coco, one)
            assert (mask[area] == UNKNOWN).all()
            assert area.sum() == one["area"]
            mask[area] = one["category_id"] - 1
        np.testing.assert_array_equal(mask, expected[Path(image["file_name"]).stem])
