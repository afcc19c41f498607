"""Review packages in the real QGIS, which runs under a Python of its own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.review.composites import stretch
from rs_lowconf.review.fields import Label
from rs_lowconf.review.panels import panels_of
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.rounds import judged_samples, round_reports
from rs_lowconf.review.samples import Generated, ReviewSample, suggestion_of
from rs_lowconf.review.sheet import Sheet
from rs_lowconf.review.store import ReviewStore
from tests.offscreen import run_offscreen
from tests.review_samples import (
    PIXEL_CLASSES,
    SIZE,
    TARGET_CLASSES,
    blocks_of,
    masked,
    observed,
    package,
    published,
    sample,
    sheet_of,
)

SCRIPT = Path(__file__).parent / "qgis" / "open_package.py"
SCALE = 2  # as in the script
CANVAS = (235, 235, 235)
COUNT = 5
DECIDED = 3
"""Samples that `open_package` decides."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one run of QGIS on a package left behind."""

    report: dict[str, Any]
    pictures: Path
    rows: geopandas.GeoDataFrame
    samples: list[ReviewSample]

    def picture(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Return what QGIS drew."""
        with Image.open(self.pictures / name) as image:
            return np.asarray(image.convert("RGB"))

    @property
    def sheet(self) -> Sheet:
        """Return the places of the samples."""
        return sheet_of(self.samples)


def run(
    python: str, folder: Path, label: Label, made: Iterable[ReviewSample], decision: str = "accept"
) -> Session:
    """Write a package, let QGIS open, draw and edit it."""
    # Names that would leave the cell of a sample alone if they were not drawn smaller.
    samples = [
        replace(one, sample_id=f"sample-with-a-long-name-{9999 - number:04d}")
        for number, one in enumerate(made)
    ]
    where = package(folder / "review", samples, label)
    result = run_offscreen([python, str(SCRIPT), str(where), str(folder), decision], folder)
    assert result.returncode == 0, result.stderr
    rows = geopandas.read_file(where / "review.gpkg", layer="review")
    report = json.loads(result.stdout.splitlines()[-1])
    return Session(report=report, pictures=folder, rows=rows, samples=samples)


@pytest.fixture(scope="module", params=[True, False], ids=["beside real", "alone"])
def confirm(
    request: pytest.FixtureRequest, qgis_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    samples = [sample(number, real=request.param) for number in range(COUNT)]
    return run(qgis_python, tmp_path_factory.mktemp("confirm"), "confirm", samples)


@pytest.fixture(scope="module")
def blind(qgis_python: str, tmp_path_factory: pytest.TempPathFactory) -> Session:
    samples = [sample(number) for number in range(COUNT)]
    return run(qgis_python, tmp_path_factory.mktemp("blind"), "blind", samples)


@pytest.fixture(scope="module", params=[True, False], ids=["beside real", "alone"])
def masks(
    request: pytest.FixtureRequest, qgis_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    samples = [masked(number, real=request.param) for number in range(COUNT)]
    folder = tmp_path_factory.mktemp("masks")
    return run(qgis_python, folder, "confirm", samples, "mask wrong")


@pytest.fixture(scope="module", params=[True, False], ids=["labelled", "unlabelled"])
def real(
    request: pytest.FixtureRequest, qgis_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    """Real tiles to judge, of which the first has a class in its data set or not.

    A model was asked about all of them, or about the first alone.
    """
    samples = [
        observed(n, labelled=request.param and not n, asked=request.param or not n)
        for n in range(COUNT)
    ]
    return run(qgis_python, tmp_path_factory.mktemp("real"), "confirm", samples)


def test_project_opens_whole(confirm: Session) -> None:
    """QGIS reads the project without a coordinate system, both layers valid and switched on."""
    assert confirm.report["read"]
    assert confirm.report["valid"] == dict.fromkeys(("review", "opinions", "contact sheet"), True)
    assert confirm.report["drawn"] == ["review", "contact sheet"]
    assert not any(confirm.report["crs"])
    assert "SYNTHETIC" in confirm.report["title"]
    assert confirm.report["complaints"] == []


@pytest.mark.parametrize("source", ["project", "geopackage"])
def test_form_is_applied(confirm: Session, source: str) -> None:
    """The drag-and-drop form and its widgets come from the project and from the GeoPackage."""
    style = confirm.report[source]
    assert style["layout"] == 1  # Qgis.AttributeFormLayout.DragAndDrop
    assert style["tabs"]["Look after deciding"] == [
        "pred_class",
        "second_class",
        "confidence",
        "d_score",
    ]
    assert not set(style["tabs"]["Judge"]) & set(style["tabs"]["Look after deciding"])
    expected = {
        "decision": "ValueMap",
        "true_class": "ValueMap",
        "realism": "Range",
        "preview": "ExternalResource",
    }
    assert {name: style["widgets"][name] for name in expected} == expected
    assert style["decisions"] == ["(pending)", "accept", "reject", "unsure", "mixed"]
    assert style["categories"] == ["accept", "reject", "unsure", "mixed", "pending"]
    locked = set(style["widgets"]) - set(style["editable"])
    assert {"sample_id", "cond_class", "pred_class", "confidence", "d_score"} <= locked


def test_map_shows_the_tiles(confirm: Session) -> None:
    """Every picture on the map has the colours that the stretch gives, pixel by pixel."""
    drawn = confirm.picture("map.png")
    sheet = confirm.sheet
    assert drawn.shape == (sheet.size[1] * SCALE, sheet.size[0] * SCALE, 3)
    for index, one in enumerate(confirm.samples):
        for block, pixels in enumerate(blocks_of(one)):
            for place, composite in enumerate(sheet.composites):
                left, top, right, bottom = sheet.picture(index, block, place)
                centres = drawn[top * SCALE : bottom * SCALE, left * SCALE : right * SCALE]
                expected = stretch(pixels, one.bands, composite).repeat(SCALE, 0).repeat(SCALE, 1)
                assert np.array_equal(centres, expected), (index, block, place)
    assert tuple(drawn[1, 1]) == CANVAS


def test_cells_are_labelled(confirm: Session) -> None:
    """Above every picture there is ink, and the labels stay inside their cell."""
    sheet = confirm.sheet
    ink, decided = (confirm.picture(f"{name}.png").max(-1) < 100 for name in ("map", "decided"))
    for index in range(COUNT):
        for block in range(sheet.blocks):
            left, top, right, _ = sheet.picture(index, block, 0)
            cell_top = sheet.cell(index)[1]
            header = ink[cell_top * SCALE + 4 : top * SCALE, left * SCALE : right * SCALE]
            assert header.sum() > 50, (index, block)
    width, height = sheet.cell_size
    gutter = slice((sheet.line + width) * SCALE + 4, (2 * sheet.line + width) * SCALE - 4)
    assert not ink[:, gutter].any()
    assert not decided[:, gutter].any()
    assert height > SIZE


def test_form_is_drawn_with_its_picture(confirm: Session) -> None:
    """The form shows both tabs and the preview beside the decision."""
    assert confirm.report["form"]["tabs"] == ["Judge", "Look after deciding"]
    assert confirm.report["form"]["picture"] > 200
    drawn = confirm.picture("form.png")
    colours = drawn.astype(int) @ (65536, 256, 1)
    assert len(np.unique(colours)) > 500


def test_accepting_confirms_the_suggestion(confirm: Session) -> None:
    """Accepting in the form without naming a class stores the suggested one, who and when."""
    row = confirm.rows.iloc[0]
    assert confirm.report["form"]["committed"]
    assert row["decision"] == "accept"
    assert row["true_class"] == row["cond_class"] == suggestion_of(confirm.samples[0])
    assert row["comment"] == "typed in the form"
    assert row["reviewer"]
    assert row["reviewed_ms"] > 1.6e12  # milliseconds, not seconds


OPINION = ("pred_class", "second_class", "confidence", "d_score")


def test_nothing_tells_the_opinion_before_a_decision(confirm: Session) -> None:
    """Identify lists what the model says of decided samples only, and so does the open form."""
    before, after = confirm.report["identified"]["before"], confirm.report["identified"]["after"]
    for shown, seen, one in zip(before, after, confirm.samples, strict=False):
        said = one.prediction
        assert said is not None
        assert [shown[name] for name in OPINION] == [""] * 4
        assert not {said.class_name, said.second, str(said.confidence)} & (
            {*shown.values()} - {suggestion_of(one)}
        )
        assert [seen[name] for name in OPINION] == [said.class_name, said.second, "0.31", "-0.25"]
        assert shown["sample_id"] == one.sample_id
    assert confirm.report["form"]["confidence"] == ["", "0.31"]


def test_the_list_beside_the_form_is_in_order_of_rank(confirm: Session) -> None:
    """Each entry begins with the rank, by which it is sorted."""
    names = [one.sample_id for one in confirm.samples]
    assert confirm.report["list"] == [f"{n} {name}" for n, name in enumerate(names, start=1)]


def test_correcting_is_stored(confirm: Session) -> None:
    """A class named by the reviewer stays, and a rejected sample has none."""
    assert confirm.report["edits"] == [True, True]
    corrected, rejected = confirm.rows.iloc[1], confirm.rows.iloc[2]
    assert (corrected["decision"], corrected["true_class"]) == ("accept", "Water")
    assert corrected["cond_class"] != "Water"
    assert corrected["realism"] == 4
    assert rejected["decision"] == "reject"
    assert rejected["true_class"] is None or rejected.isna()["true_class"]
    assert confirm.rows["decision"].isna().sum() == COUNT - 3


def test_decisions_are_seen_on_the_map(confirm: Session) -> None:
    """After deciding, a cell's frame is green or red; pending frames are grey."""
    drawn = confirm.picture("decided.png").astype(int)
    frames = []
    for index in (0, 2, 3):
        left, top, _, bottom = confirm.sheet.cell(index)
        frames.append(drawn[(top + bottom) // 2 * SCALE, left * SCALE])
    accepted, rejected, pending = frames
    assert accepted[1] > accepted[0] + 80
    assert rejected[0] > rejected[1] + 80
    assert np.ptp(pending) == 0


def test_blind_form_demands_a_class(blind: Session) -> None:
    """Without a suggestion, accepting without a class is not saved; naming one is."""
    assert blind.report["form"]["tabs"] == ["Judge"]
    (complaint,) = blind.report["complaints"]
    assert "will not be saved" in complaint
    assert blind.rows["decision"].isna()[0]
    assert blind.rows["true_class"][1] == "Water"
    assert not {"cond_class", "pred_class", "confidence"} & set(blind.rows.columns)


def test_masks_have_layers_with_names_of_classes(masks: Session) -> None:
    """One layer a kind; each legend names its classes, and a class has one colour everywhere."""
    names = ["review", "mask", "predicted", "confidence", "contact sheet"]
    assert masks.report["drawn"] == names
    assert masks.report["valid"] == dict.fromkeys([*names, "opinions"], True)
    assert masks.report["complaints"] == []
    assert {*masks.report["told by Identify"]} == {"mask", "contact sheet"}
    legends = masks.report["legends"]
    for name, classes in (("mask", PIXEL_CLASSES), ("predicted", TARGET_CLASSES)):
        assert [one[:2] for one in legends[name]] == [[i, one] for i, one in enumerate(classes)]
    assert legends["confidence"] == []
    colours = [{one[1]: one[2] for one in legends[name]} for name in ("mask", "predicted")]
    shared = set(colours[0]) & set(colours[1])
    assert shared == {"Water", "Town"}
    assert all(colours[0][name] == colours[1][name] for name in shared)
    assert len({*colours[0].values(), *colours[1].values()}) == 4
    files = masks.report["files"]
    assert files["masks"] == legends["mask"]
    assert files["predicted"] == legends["predicted"]
    assert files.get("anchor_masks", legends["mask"]) == legends["mask"]


def test_map_shows_masks_beside_the_composites(masks: Session) -> None:
    """Every picture is at its place in its colours, and where no class is known the map shows.

    What the target says is covered in cells that are not decided.
    """
    pending, decided, sheet = masks.picture("map.png"), masks.picture("decided.png"), masks.sheet
    panels = panels_of("confirm", PIXEL_CLASSES, TARGET_CLASSES)
    for index, one in enumerate(masks.samples):
        assert isinstance(one, Generated)
        assert one.masks is not None
        values = [one.masks.mask, one.masks.predicted, one.masks.confidence]
        rows = [[(panels[i], values[i]) for i in range(3)]]
        if one.neighbour is not None:
            rows.insert(0, [(panels[0], one.neighbour.mask)])
        for block, (pixels, beside) in enumerate(zip(blocks_of(one), rows, strict=True)):
            expected = [stretch(pixels, one.bands, how) for how in sheet.composites]
            expected += [panel.paint(value) for panel, value in beside if value is not None]
            for place, picture in enumerate(expected):
                left, top, right, bottom = sheet.picture(index, block, place)
                for drawn, told in ((pending, False), (decided, index < DECIDED)):
                    seen = drawn[top * SCALE : bottom * SCALE, left * SCALE : right * SCALE]
                    covered = place > len(sheet.composites) and not told
                    shown = np.full_like(picture, CANVAS[0]) if covered else picture
                    assert np.array_equal(seen, shown.repeat(SCALE, 0).repeat(SCALE, 1)), (
                        index,
                        block,
                        place,
                        told,
                    )
        left, _, _, bottom = sheet.picture(index, sheet.blocks - 1, 3)
        assert tuple(pending[bottom * SCALE - 1, left * SCALE]) == CANVAS


def test_form_offers_mask_wrong_and_no_class(masks: Session) -> None:
    """The form has no column about classes; what it and the layer store is read back."""
    for source in ("project", "geopackage"):
        style = masks.report[source]
        offered = ["accept", "mask wrong", "reject", "unsure"]
        assert style["decisions"] == ["(pending)", *offered]
        assert style["categories"] == [*offered, "pending"]
        assert style["tabs"]["Look after deciding"] == ["confidence", "d_score", "opinion"]
        assert "mask_name" in style["tabs"]["Judge"]
        assert not {"cond_class", "true_class", "pred_class", "second_class"} & set(
            style["widgets"]
        )
    assert masks.report["form"]["picture"] > 200
    assert masks.report["form"]["committed"]
    reviewed = read_package(masks.pictures / "review")
    said = [one.decision for one in reviewed.answers]
    assert said == ["mask wrong", "accept", "reject", None, None]
    assert all(one.reviewer and one.reviewed_ms for one in reviewed.answers[:3])
    assert list(masks.rows["mask_name"]) == [suggestion_of(one) for one in masks.samples]


def test_cells_of_masks_are_labelled(masks: Session) -> None:
    """Above every picture of the tile to judge there is ink, and none in the gutters."""
    sheet = masks.sheet
    ink = masks.picture("map.png").max(-1) < 150  # small letters are grey
    for index in range(COUNT):
        for place in range(len(sheet.captions(sheet.blocks - 1))):
            left, top, right, _ = sheet.picture(index, sheet.blocks - 1, place)
            above = ink[(top - sheet.line) * SCALE : top * SCALE, left * SCALE : right * SCALE]
            assert above.sum() > 10, (index, place)
    left, _, right, _ = sheet.cell(0)
    assert not ink[:, right * SCALE + 4 : (right + sheet.line) * SCALE - 4].any()


def test_real_tiles_are_asked_for_their_class(real: Session) -> None:
    """What the reviewer says is read back; accepting needs a class that somebody named."""
    assert real.report["title"] == "Review of real tiles"
    style = real.report["project"]
    assert style["tabs"]["Look after deciding"] == ["pred_class", "second_class", "confidence"]
    assert "realism" not in style["tabs"]["Judge"]
    labelled = bool(suggestion_of(real.samples[0]))
    complaints = real.report["complaints"]
    assert len(complaints) == (not labelled)
    assert all("will not be saved" in complaint for complaint in complaints)
    reviewed = read_package(real.pictures / "review")
    said = [(one.decision, one.true_class) for one in reviewed.answers]
    first = ("accept", suggestion_of(real.samples[0])) if labelled else (None, None)
    assert said == [first, ("accept", "Water"), ("reject", None), (None, None), (None, None)]


def test_real_tiles_are_answers_of_no_round(real: Session) -> None:
    """The store takes them, and no figure of generator, gate or reviewers knows of them."""
    reviewed = read_package(real.pictures / "review")
    store = ReviewStore(real.pictures / "reviews.sqlite")
    published(store, real.pictures / "again", real.samples)
    added = store.add(reviewed, "Ada")
    assert added.new == reviewed.decided
    assert len(store.opinions()) == reviewed.decided
    assert judged_samples(store, store.opinions()) == {}
    assert round_reports(store) == {}


def test_real_tiles_are_headed_as_such(real: Session) -> None:
    """Above every picture there is ink, and the labels stay inside their cell."""
    sheet = real.sheet
    ink = real.picture("map.png").max(-1) < 100
    for index in range(COUNT):
        left, top, right, _ = sheet.picture(index, 0, 0)
        cell_top = sheet.cell(index)[1]
        header = ink[cell_top * SCALE + 4 : top * SCALE, left * SCALE : right * SCALE]
        assert header.sum() > 50, index
