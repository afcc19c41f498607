"""Review packages of tiles with masks: their files, what they tell, and what comes back."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.colours import PALETTE, colours_of
from rs_lowconf.errors import ReviewError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review.fields import FORMAT_OF_MASKS, MASK_DECISIONS
from rs_lowconf.review.geotiff import observed_tags, read_classes, read_confidence, write_classes
from rs_lowconf.review.panels import PAPER
from rs_lowconf.review.previews import LEGEND
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.rounds import round_reports
from rs_lowconf.review.samples import Generated, Prediction, TileMasks
from rs_lowconf.review.settle import settling_package
from rs_lowconf.review.store import FORMAT, ReviewStore
from rs_lowconf.review.verdicts import agreement, verdicts
from rs_lowconf.runs import sha256_of
from tests.conftest import Run
from tests.review_samples import (
    ATTRIBUTION,
    GRID,
    PIXEL_CLASSES,
    SIZE,
    TARGET_CLASSES,
    mask_of,
    masked,
    package,
    published,
    sample,
    sheet_of,
)
from tests.test_review_package import files_in, without_times

NOW = 1_790_000_000_000

# Tiles that show no place have none.
without_place = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
both_kinds = pytest.mark.parametrize("real", [True, False], ids=["beside real", "alone"])


def masks_of(one: Generated) -> TileMasks:
    assert one.masks is not None
    return one.masks


@given(st.lists(st.text(max_size=3), max_size=60), st.lists(st.text(max_size=3), max_size=60))
def test_a_class_has_one_colour(first: list[str], others: list[str]) -> None:
    """Names are coloured alike whatever comes after them; as many as can be told apart differ."""
    colours = colours_of([*first, *others])
    assert colours_of(first).items() <= colours.items()
    assert set(colours) == {*first, *others}
    some = list(colours.values())[: 3 * len(PALETTE)]
    assert len(set(some)) == len(some)
    assert all(0 <= part <= 255 for colour in some for part in colour)


@both_kinds
def test_package_has_its_parts(tmp_path: Path, real: bool) -> None:
    """Beside the files of every package there are those of masks, a set a sample."""
    folder = package(tmp_path / "review", [masked(0, real=real), masked(1, real=real)])
    rasters = ["tiles", "confidence", *(["anchors"] if real else [])]
    classes = ["masks", "predicted", *(["anchor_masks"] if real else [])]
    each = {
        name
        for i in ("s0000", "s0001")
        for name in (
            *(f"{place}/{i}.png" for place in ("previews", "opinions")),
            *(f"{place}/{i}.{end}" for place in rasters for end in ("tif", "qml")),
            *(f"{place}/{i}.{end}" for place in classes for end in ("tif", "qml", "tif.aux.xml")),
        )
    }
    whole = {"review.html", "review.qgz", "review.gpkg", "contact.vrt", "manifest.json"}
    whole |= {"mask.vrt", "predicted.vrt", "confidence.vrt", "opinions.gpkg"}
    assert set(files_in(folder)) == each | whole
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == FORMAT_OF_MASKS
    assert manifest["pixel_classes"] == list(PIXEL_CLASSES)
    for entry in manifest["samples"]:
        for kind in ("tile", "mask", "predicted", "confidence"):
            assert entry[f"{kind}_sha256"] == sha256_of(folder / entry[kind])
        assert ("anchor_mask_sha256" in entry) == real


@without_place
def test_foreign_readers_see_classes(tmp_path: Path) -> None:
    """Rasterio sees values, colours, nodata and tags; the names are where GDAL looks for them."""
    one = masked(3)
    own = masks_of(one)
    folder = package(tmp_path / "review", [one])
    for place, values, classes in (
        ("masks", own.mask, PIXEL_CLASSES),
        ("predicted", own.predicted, TARGET_CLASSES),
    ):
        assert values is not None
        path = folder / place / "s0003.tif"
        colours = colours_of((*PIXEL_CLASSES, *TARGET_CLASSES))
        with rasterio.open(path) as file:
            assert file.dtypes == ("uint8",)
            assert file.nodata == UNKNOWN
            assert file.colorinterp[0].name == "palette"
            assert np.array_equal(file.read(1), values)
            for index, name in enumerate(classes):
                assert file.colormap(1)[index] == (*colours[name], 255)
            tags = file.tags()
            assert path.with_name(f"{path.name}.aux.xml").as_posix() in file.files
        assert json.loads(tags["RSLOW_CLASSES"]) == list(classes)
        assert tags["RSLOW_SYNTHETIC"] == "true"
        assert "NOT AN OBSERVATION" in tags["TIFFTAG_IMAGEDESCRIPTION"]
        assert tags["RSLOW_CONDITION"] == "scene_3"
        assert "RSLOW_PREDICTED" not in tags
        root = ET.parse(path.with_name(f"{path.name}.aux.xml")).getroot()  # noqa: S314 (ours)
        assert [one.text for one in root.iter("Category")] == list(classes)
    with rasterio.open(folder / "confidence" / "s0003.tif") as file:
        assert file.dtypes == ("float32",)
        assert (file.scales, file.offsets) == ((1.0,), (0.0,))
        assert own.confidence is not None
        assert np.array_equal(file.read(1), own.confidence)
        assert file.tags()["RSLOW_SYNTHETIC"] == "true"
    with rasterio.open(folder / "anchor_masks" / "s0003.tif") as file:
        assert np.array_equal(file.read(1), mask_of(12))
        assert file.tags()["RSLOW_SYNTHETIC"] == "false"
        assert file.crs.to_string() == GRID.crs


def test_masks_come_back_and_other_files_are_named(tmp_path: Path) -> None:
    """What is written is read again and the same each time; a tile is not taken for a mask."""
    folder = package(tmp_path / "review", [masked(1)])
    own = masks_of(masked(1))
    assert own.confidence is not None
    assert np.array_equal(read_classes(folder / "masks" / "s0001.tif"), own.mask)
    assert np.array_equal(read_confidence(folder / "confidence" / "s0001.tif"), own.confidence)
    for name in ("a.tif", "b.tif"):
        write_classes(tmp_path / name, own.mask, colours_of("abc"), observed_tags("x"), GRID)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    with pytest.raises(ReviewError, match=r"s0001\.tif contains uint16; expected uint8"):
        read_classes(folder / "tiles" / "s0001.tif")
    with pytest.raises(ReviewError, match=r"none\.tif cannot be read"):
        read_confidence(tmp_path / "none.tif")


@both_kinds
def test_sheets_have_each_kind_at_its_place(tmp_path: Path, real: bool) -> None:
    """The sheet of each kind is as large as that of the composites and covers none of them."""
    samples = [masked(number, real=real) for number in range(5)]
    folder = package(tmp_path / "review", samples)
    sheet = sheet_of(samples)
    with rasterio.open(folder / "contact.vrt") as file:
        covered = file.read().any(0)
    last = sheet.blocks - 1
    for place, kind in enumerate(("mask", "predicted", "confidence"), len(sheet.composites)):
        nodata = -1 if kind == "confidence" else UNKNOWN
        expected = np.full((sheet.size[1], sheet.size[0]), nodata, dtype=np.float32)
        for index, one in enumerate(samples):
            shown = [(last, getattr(masks_of(one), kind))]
            if one.neighbour is not None and kind == "mask":
                shown.append((0, one.neighbour.mask))
            for block, values in shown:
                left, top, right, bottom = sheet.picture(index, block, place)
                assert not covered[top:bottom, left:right].any(), "pictures overlap"
                covered[top:bottom, left:right] = True
                expected[top:bottom, left:right] = values
                frame = sheet.cell(index)
                assert frame[0] < left < right < frame[2]
                assert frame[1] < top < bottom < frame[3]
        with rasterio.open(folder / f"{kind}.vrt") as file:
            assert np.array_equal(file.read(1), expected)
            assert file.nodata == nodata


def test_form_asks_for_no_class(tmp_path: Path) -> None:
    """There is no column about classes, and the decisions are those of masks."""
    folder = package(tmp_path / "review", [masked(0)])
    rows = geopandas.read_file(folder / "review.gpkg", layer="review")
    assert not {"cond_class", "true_class", "pred_class", "second_class"} & set(rows.columns)
    assert list(rows["mask_name"]) == ["scene_0"]
    assert rows["decision"].isna().all()
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        offered = database.execute(
            "SELECT value FROM gpkg_data_columns JOIN gpkg_data_column_constraints"
            " USING (constraint_name) WHERE column_name = 'decision' ORDER BY constraint_name"
        ).fetchall()
    assert {value for (value,) in offered} == set(MASK_DECISIONS)


@both_kinds
def test_previews_show_the_masks_and_what_colours_mean(tmp_path: Path, real: bool) -> None:
    """The target's mask and confidence are in another picture, which is for after the decision."""
    one = masked(0, real=real)
    folder = package(tmp_path / "review", [one])
    colours = colours_of((*PIXEL_CLASSES, *TARGET_CLASSES))
    own, zoom = masks_of(one), 96 // SIZE
    assert own.predicted is not None
    assert own.confidence is not None
    grey = np.repeat((own.confidence.astype(float) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    said = np.array([colours[name] for name in TARGET_CLASSES], dtype=np.uint8)[own.predicted]
    mask = np.array([*[colours[name] for name in PIXEL_CLASSES], *[PAPER] * 253], dtype=np.uint8)
    shown = {
        "previews": ([mask[own.mask]], [said, grey], PIXEL_CLASSES),
        "opinions": ([mask[own.mask], said, grey], [], (*PIXEL_CLASSES, *TARGET_CLASSES)),
    }
    for place, (there, hidden, names) in shown.items():
        with Image.open(folder / place / "s0000.png") as picture:
            found = np.asarray(picture.convert("RGB"))
        for pixels in (*there, *hidden):
            assert holds(found, pixels, zoom) == any(pixels is each for each in there), place
        below = found[-LEGEND:].reshape(-1, 3)
        for name, colour in colours.items():
            assert ((below == colour).all(1).sum() > 100) == (name in names), (place, name)


def holds(
    picture: UInt8[np.ndarray, "h w 3"], pixels: UInt8[np.ndarray, "v u 3"], zoom: int
) -> bool:
    """Return whether a picture has these pixels somewhere, enlarged."""
    large = pixels.repeat(zoom, 0).repeat(zoom, 1)
    height, width, _ = large.shape
    firsts = (picture[: -height + 1, : -width + 1] == large[0, 0]).all(-1)
    return any(
        np.array_equal(picture[row : row + height, column : column + width], large)
        for row, column in np.argwhere(firsts).tolist()
    )


@without_place
def test_unknown_pixels_alone_are_shown_as_paper(tmp_path: Path) -> None:
    """A mask of which nothing is known is written and read, and shows no class."""
    one = masked(0, real=False)
    nothing = np.full((SIZE, SIZE), UNKNOWN, dtype=np.uint8)
    folder = package(
        tmp_path / "review", [replace(one, masks=replace(masks_of(one), mask=nothing))]
    )
    with rasterio.open(folder / "masks" / "s0000.tif") as file:
        assert not file.dataset_mask().any()


@without_place
@both_kinds
def test_blind_package_leaks_nothing(tmp_path: Path, real: bool) -> None:
    """The mask is shown; the package is the same whatever the model says and whose mask it is."""
    samples = [masked(number, real=real) for number in range(4)]
    disguised = [
        replace(
            one,
            condition=f"LEAKED-SCENE-{number}",
            prediction=Prediction(
                class_name="LEAKED-CLASS", second="LEAKED-CLASS", confidence=0.777777
            ),
            realism=5.4321,
            provenance={"secret": "LEAKED-PROVENANCE"},
            masks=TileMasks(mask=masks_of(one).mask),
            neighbour=one.neighbour
            and replace(one.neighbour, tile_id="LEAKED-TILE", mask=mask_of(77), grid=None),
        )
        for number, one in enumerate(samples)
    ]
    first = package(tmp_path / "first", samples, "blind")
    second = package(tmp_path / "second", disguised, "blind")
    files = [files_in(folder) for folder in (first, second)]
    assert without_times(files[0], first) == without_times(files[1], second)
    words = ["LEAKED", "scene_", "0.777777", "5.4321", "mask_name", "pred_class", "d_score"]
    words += ["confidence", "predicted", "anchor_mask", "RSLOW_CONDITION", "EPSG:32633"]
    for name, content in files[0].items():
        for word in words:
            assert word not in name
            assert word.encode() not in content, (name, word)
    told = files_in(package(tmp_path / "confirm", samples))
    for word in ("scene_", "mask_name", "predicted", "RSLOW_CONDITION"):
        assert any(word.encode() in text for text in told.values()), word
    for number, one in enumerate(samples):
        path = first / "masks" / f"s{number:04d}.tif"
        assert np.array_equal(read_classes(path), masks_of(one).mask)
        with rasterio.open(path) as file:
            assert file.tags()["RSLOW_SYNTHETIC"] == "undisclosed"


def edited(one: Generated, **change: UInt8[np.ndarray, "h w"]) -> Generated:
    return replace(one, masks=replace(masks_of(one), **change))


def test_misfits_are_named(tmp_path: Path) -> None:
    """Masks for some samples only, or of classes that there are not, are refused in one line."""
    one, many = masked(0), np.full((SIZE, SIZE), 3, dtype=np.uint8)
    cases: list[tuple[list[Generated], str]] = [
        ([one, sample(1)], "1 of 2 samples have masks, and there are 3 classes of pixels"),
        ([sample(1), one], "1 of 2 samples have masks, and there are 0 classes of pixels"),
        ([edited(one, mask=many)], r"holds the class 3; expected 0 to 2 \(Water, Wood"),
        ([edited(one, predicted=many)], "holds the class 3; expected 0 to 2 .Town, Bog"),
        ([replace(one, neighbour=one.neighbour and replace(one.neighbour, mask=many))], "class 3"),
        ([replace(one, masks=TileMasks(mask=mask_of(1)))], "s0000 has no predicted mask"),
    ]
    for samples, message in cases:
        with pytest.raises(ReviewError, match=message):
            package(tmp_path / "review", samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda own: replace(own, confidence=own.confidence + 0.5), r"confidence is from 0\.5"),
        (lambda own: replace(own, confidence=own.confidence * np.float32(np.nan)), "from nan"),
        (lambda own: replace(own, confidence=None), "without confidence"),
        (lambda own: TileMasks(mask=own.mask[1:]), r"shape \(31, 32\); expected the tile's"),
    ],
)
def test_impossible_masks_are_refused(make: Callable[[Any], TileMasks], message: str) -> None:
    """Masks are checked when they are made, and against the tile when that is."""
    with pytest.raises(ReviewError, match=message):
        replace(masked(0), masks=make(masked(0).masks))


def decide(folder: Path, *decisions: str | None, reviewer: str = "Ada") -> None:
    """Decide as QGIS does: a plain UPDATE of the layer's table."""
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        for number, decision in enumerate(decisions):
            database.execute(
                "UPDATE review SET decision = ?, reviewer = ?, reviewed_ms = ? WHERE sample_id = ?",
                (decision, reviewer, NOW + 7_000 * number, f"s{number:04d}"),
            )


def test_answers_come_back(rslow: Run, tmp_path: Path) -> None:
    """Decisions about masks are read, counted, imported and reported; there is no class."""
    store = ReviewStore(tmp_path / "reviews.sqlite")
    folder = published(store, tmp_path / "review", [masked(number) for number in range(6)])
    assert store.packages()[0].pixel_classes == PIXEL_CLASSES
    decide(folder, "accept", "mask wrong", "reject", "accept", "unsure")
    said = rslow("review", "status", folder)
    assert "5 of 6 decided (2 accept, 1 mask wrong, 1 reject, 1 unsure) by Ada" in said.out
    said = rslow("review", "import", folder, "--set", f"run.dir={tmp_path}")
    assert said.code == 0, said.err
    assert "5 new" in said.out
    opinions = store.opinions()
    assert [one.decision for one in opinions] == [
        *("accept", "mask wrong", "reject", "accept", "unsure")
    ]
    assert all(one.true_class is None for one in opinions)
    assert verdicts(opinions)["s0001"].decision == "mask wrong"
    report = round_reports(store)[1]
    shares = {
        name: (report[name]["count"], report[name]["n"])
        for name in ("accepted", "rejected", "mixed", "mask_wrong", "mask_kept", "label_kept")
    }
    assert shares == {
        "accepted": (2, 4),
        "rejected": (1, 4),
        "mixed": (0, 4),
        "mask_wrong": (1, 4),
        "mask_kept": (2, 3),
        "label_kept": (0, 0),
    }


def test_answers_of_other_packages_are_refused(tmp_path: Path) -> None:
    """Neither package takes the other's decision; an edited mask is found by its checksum."""
    folder = package(tmp_path / "review", [masked(0)])
    decide(folder, "mixed")
    with pytest.raises(ReviewError, match="unknown decision 'mixed'"):
        read_package(folder)
    other = package(tmp_path / "other", [sample(0)])
    decide(other, "mask wrong")
    with pytest.raises(ReviewError, match="unknown decision 'mask wrong'"):
        read_package(other)
    decide(folder, "accept")
    assert read_package(folder).answers[0].decision == "accept"
    path = folder / "masks" / "s0000.tif"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ReviewError, match=r"masks/s0000\.tif was edited"):
        read_package(folder)


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_disagreements_are_shown_again_with_their_masks(tmp_path: Path, label: Any) -> None:
    """A package that settles shows what the first one showed, and its answer counts alone."""
    store = ReviewStore(tmp_path / "reviews.sqlite")
    folder = published(store, tmp_path / "review", [masked(n) for n in range(3)], label)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    decide(folder, "accept", "accept", "reject")
    decide(other, "accept", "mask wrong", "reject", reviewer="Bo")
    for one in (folder, other):
        store.add(read_package(one))
    found = agreement(store.opinions())
    assert found["samples_disagreed_on"] == ["s0001"]
    assert found["alpha_decision"] == found["alpha_decision_and_class"]
    again = tmp_path / "settle"
    assert settling_package(store, [read_package(folder)], {"s0001"}, again, ATTRIBUTION) == 1
    before, after = files_in(folder), files_in(again)
    shown = {name for name in before if "s0001" in name}
    assert shown == {name for name in after if "s0001" in name}
    assert all(before[name] == after[name] for name in shown)
    with closing(sqlite3.connect(again / "review.gpkg")) as database, database:
        database.execute(
            "UPDATE review SET decision = 'mask wrong', reviewer = 'Cy', reviewed_ms = ?", (NOW,)
        )
    store.add(read_package(again))
    assert verdicts(store.opinions())["s0001"].decision == "mask wrong"


def test_a_test_set_wants_the_package_of_its_masks(rslow: Run, tmp_path: Path) -> None:
    """One line says which package is missing; nothing is written."""
    store = ReviewStore(tmp_path / "reviews.sqlite")
    folder = published(store, tmp_path / "generate" / "review", [masked(0)])
    decide(folder, "accept")
    store.add(read_package(folder))
    folder.rename(tmp_path / "elsewhere")
    words = ("--set", "testset.licence=CC-BY-4.0", "--set", f"run.dir={tmp_path}")
    ran = rslow("testset", "build", *words)
    assert ran.code == 6
    assert f"the review package {folder} is missing" in ran.err
    assert "\n" not in ran.err.strip()
    assert not (tmp_path / "testset").exists()


def test_stores_from_before_masks_go_on(tmp_path: Path) -> None:
    """A store of format 1 is read; once it takes another package it is of the newest."""
    store = ReviewStore(tmp_path / "reviews.sqlite")
    published(store, tmp_path / "first", [masked(0)])
    with closing(sqlite3.connect(store.path)) as database, database:
        (content,) = database.execute("SELECT content FROM package").fetchone()
        old = json.loads(content)
        del old["pixel_classes"]
        database.execute("UPDATE package SET content = ?", (json.dumps(old),))
        database.execute("PRAGMA user_version = 1")
    assert store.packages()[0].pixel_classes == ()
    published(store, tmp_path / "second", [masked(1)], package_id="f" * 16)
    assert [one.pixel_classes for one in store.packages()] == [(), PIXEL_CLASSES]
    with closing(sqlite3.connect(store.path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (FORMAT,)
