"""Review packages in the real QGIS, which runs under a Python of its own."""

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.review import Label, ReviewSample
from rs_lowconf.review.composites import stretch
from rs_lowconf.review.sheet import Sheet
from tests.review_samples import SIZE, blocks_of, package, sample, sheet_of

SCRIPT = Path(__file__).parent / "qgis" / "open_package.py"
SCALE = 2  # as in the script
CANVAS = (235, 235, 235)
COUNT = 5


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


def run(python: str, folder: Path, label: Label, *, real: bool) -> Session:
    """Write a package, let QGIS open, draw and edit it."""
    # Names that would leave the cell of a sample alone if they were not drawn smaller.
    samples = [
        replace(sample(number, real=real), sample_id=f"sample-with-a-long-name-{number:04d}")
        for number in range(COUNT)
    ]
    where = package(folder / "review", samples, label)
    environment = os.environ | {
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
        "XDG_RUNTIME_DIR": str(folder),
    }
    result = subprocess.run(
        [python, str(SCRIPT), str(where), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    rows = geopandas.read_file(where / "review.gpkg", layer="review")
    report = json.loads(result.stdout.splitlines()[-1])
    return Session(report=report, pictures=folder, rows=rows, samples=samples)


@pytest.fixture(scope="module", params=[True, False], ids=["beside real", "alone"])
def confirm(
    request: pytest.FixtureRequest, qgis_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    return run(qgis_python, tmp_path_factory.mktemp("confirm"), "confirm", real=request.param)


@pytest.fixture(scope="module")
def blind(qgis_python: str, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return run(qgis_python, tmp_path_factory.mktemp("blind"), "blind", real=True)


def test_project_opens_whole(confirm: Session) -> None:
    """QGIS reads the project without a coordinate system, both layers valid and switched on."""
    assert confirm.report["read"]
    assert confirm.report["valid"] == {"review": True, "contact sheet": True}
    assert confirm.report["drawn"] == ["review", "contact sheet"]
    assert confirm.report["crs"] == [False, False, False]
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
    assert row["true_class"] == row["cond_class"] == confirm.samples[0].condition
    assert row["comment"] == "typed in the form"
    assert row["reviewer"]
    assert row["reviewed_ms"] > 1.6e12  # milliseconds, not seconds


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
