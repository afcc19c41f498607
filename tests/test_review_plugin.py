"""The QGIS plugin for reviewers: without a desktop, and in the real one by key presses."""

import ast
import json
import os
import shutil
import sqlite3
import sys
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.colours import colours_of
from rs_lowconf.review.composites import composites_of, stretch
from rs_lowconf.review.fields import DECISIONS
from rs_lowconf.review.package import write_package
from rs_lowconf.review.plugin import write_plugin
from rs_lowconf.review.qgis_plugin.layout import layout_of
from rs_lowconf.review.qgis_plugin.pace import Pace
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.samples import Prediction
from rs_lowconf.review.sheet import Sheet
from tests.offscreen import run_offscreen
from tests.qgis.desktop import Desktop, Form, desktop
from tests.review_samples import (
    ATTRIBUTION,
    CLASSES,
    PIXEL_CLASSES,
    blocks_of,
    masked,
    observed,
    package,
    sample,
    sheet_of,
)

SCRIPT = Path(__file__).parent / "qgis" / "drive_dock.py"
OLDER = Path(__file__).parent / "older" / "review-confirm.zip"
"""The samples 0 to 2 of `review_samples.py`, by the code of commit 1e83602."""
COUNT = 6
MANY = tuple(f"class {number}" for number in range(12))

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "rs_lowconf_review.zip"
    write_plugin(path)
    return path


@pytest.fixture(scope="module")
def tools() -> None:
    """Without the desktop's tools skip here, and fail on the build server."""
    missing = [name for name in ("qgis", "Xvfb", "xdotool", "import") if not shutil.which(name)]
    if missing:
        reason = f"there is no {' and no '.join(missing)} on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return where pictures of the desktop are kept."""
    folder = Path(os.environ.get("RSLOW_PICTURES", tmp_path / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_packages(folder: Path) -> None:
    """Write the packages that the script asks for."""
    samples = [sample(number) for number in range(COUNT)]
    package(folder / "confirm", samples)
    package(folder / "picked", samples)
    with zipfile.ZipFile(OLDER) as archive:
        archive.extractall(folder)
    package(folder / "observed", [observed(n, labelled=n == 0, asked=n < 2) for n in range(3)])
    package(folder / "masks", [masked(number) for number in range(5)])
    package(folder / "blind masks", [masked(number, real=False) for number in range(2)], "blind")
    package(folder / "blind", [sample(number, real=False) for number in range(3)], "blind")
    among_many = Prediction(class_name=MANY[2], second=MANY[3], confidence=0.31)
    write_package(
        folder / "many",
        [replace(one, condition=MANY[3], prediction=among_many) for one in samples[:3]],
        package_id="fedcba9876543210",
        classes=MANY,
        target_classes=MANY,
        label="blind",
        attribution=ATTRIBUTION,
        provenance={},
    )
    for name in ("newer", "locked file", "locked folder"):
        package(folder / name, samples[:2])
    manifest = folder / "newer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 4'))
    (folder / "locked file" / "review.gpkg").chmod(0o444)
    (folder / "locked folder").chmod(0o555)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def report(qgis_python: str, plugin: Path, folder: Path) -> dict[str, Any]:
    """Return what the script saw in QGIS."""
    write_packages(folder)
    # Files are never read-only for one who may override permissions.
    humble = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    result = run_offscreen([*humble, qgis_python, str(SCRIPT), str(plugin), str(folder)], folder)
    (folder / "locked folder").chmod(0o755)
    assert result.returncode == 0, result.stderr
    seen: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return seen


def answers(step: dict[str, Any]) -> list[tuple[str | None, str | None]]:
    """Return decision and class of each row."""
    return [(row[1], row[2]) for row in step["stored"]]


def test_zip_is_whole_and_the_same_each_time(plugin: Path, tmp_path: Path) -> None:
    """The zip has QGIS's layout and our version, and the same version gives the same bytes."""
    with zipfile.ZipFile(plugin) as archive:
        names = archive.namelist()
        about = archive.read("rs_lowconf_review/metadata.txt").decode()
        code = archive.read("rs_lowconf_review/__init__.py").decode()
    assert {name.split("/")[0] for name in names} == {"rs_lowconf_review"}
    assert {Path(name).suffix for name in names} == {".py", ".txt"}
    assert f"\nversion={metadata.version('rs-lowconf')}\n" in about
    assert "def classFactory(" in code
    write_plugin(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == plugin.read_bytes()


def test_plugin_needs_nothing_but_qgis(plugin: Path) -> None:
    """Every file is Python 3.9 and imports QGIS, the standard library and its neighbours only."""
    with zipfile.ZipFile(plugin) as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    imported = set()
    for text in texts:
        for node in ast.walk(ast.parse(text, feature_version=(3, 9))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    assert "qgis" in imported
    assert imported - {"qgis"} <= sys.stdlib_module_names - {"socket", "urllib", "http", "ssl"}


def qt_names(text: str) -> set[str]:
    """Return the names of Qt that a source uses, such as `QtCore.Qt.Key.Key_A`."""
    tree = ast.parse(text)
    origin = {
        alias.asname or alias.name: f"{str(node.module).removeprefix('qgis.PyQt.')}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qgis.PyQt.")
        for alias in node.names
    }
    names = set(origin.values())
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in origin:
            names.add(".".join((origin[inner.id], *parts)))
    return names


def is_in_qt6(name: str) -> bool:
    """Return whether PyQt6 has this name."""
    module, *parts = name.split(".")
    found: Any = import_module(f"PyQt6.{module}")
    for part in parts:
        found = getattr(found, part, None)
    return found is not None


def test_names_of_qt_are_those_of_qt6(plugin: Path) -> None:
    """Whatever class and enum of Qt the plugin names is in PyQt6 by the same name: for QGIS 4."""
    try:
        import_module("PyQt6.QtWidgets")
    except ImportError as missing:  # also where the system lacks what Qt 6 draws with
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
    with zipfile.ZipFile(plugin) as archive:
        texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith("py")]
    # The programs that try the plugin have to go on working, too.
    texts += [path.read_text() for path in (Path(__file__).parent / "qgis").glob("*.py")]
    names = set[str]().union(*map(qt_names, texts))
    assert {"QtWidgets.QLineEdit", "QtCore.Qt.Key.Key_A", "QtCore.QEvent.Type.KeyPress"} <= names
    assert [name for name in sorted(names) if not is_in_qt6(name)] == []
    # What this would find: names that only Qt 5 has.
    old = "from qgis.PyQt.QtCore import Qt\nfrom qgis.PyQt.QtWidgets import QAction\nQt.Key_A"
    assert not any(is_in_qt6(name) for name in qt_names(old) - {"QtCore.Qt"})


def test_plugin_says_what_it_supports(plugin: Path) -> None:
    """QGIS reads from its metadata that it runs in versions 3.22 to 4, and on Qt 6."""
    with zipfile.ZipFile(plugin) as archive:
        about = ConfigParser()
        about.read_string(archive.read("rs_lowconf_review/metadata.txt").decode())
    general = about["general"]
    assert general["qgisMinimumVersion"] == "3.22"
    assert general["qgisMaximumVersion"].startswith("4.")
    assert general.getboolean("supportsQt6")


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 2),
    st.sampled_from([("B02", "B03", "B04"), ("B02", "B03", "B04", "B08"), None]),
    st.integers(0, 3),
)
def test_layout_is_the_sheets(
    width: int, height: int, blocks: int, names: tuple[str, ...] | None, panels: int
) -> None:
    """From a cell's size the plugin finds every picture where the sheet has put it."""
    bands = sample(0, names).bands if names else sample(0).bands
    composites = composites_of(bands)
    own = tuple(f"panel {number}" for number in range(panels))
    sheet = Sheet(
        count=1,
        width=width,
        height=height,
        blocks=blocks,
        composites=composites,
        panels=((), own)[-blocks:] if panels else (),
    )
    layout = layout_of(*sheet.cell_size, blocks, len(composites), panels)
    assert (layout.width, layout.height) == (width, height)
    for block in range(blocks):
        for place in range(len(composites) + panels):
            assert layout.offset(block, place) == sheet.offset(block, place)


def test_pace_forgets_breaks() -> None:
    """The time left follows the recent decisions; a lunch does not count."""
    pace, now = Pace(), 0.0
    for seconds in (0, 6, 6, 3600, 6):
        now += seconds
        pace.decided(now)
    assert pace.left(100) == "about 10 min left"
    assert pace.left(1) == "less than a minute left"
    assert pace.left(1000) == "about 1 h 40 min left"
    assert pace.left(0) == ""
    for _ in range(20):
        now += 12
        pace.decided(now)
    assert pace.left(100) == "about 20 min left"


def test_pace_begins_silent() -> None:
    """Nothing is said before there were enough decisions to tell."""
    pace = Pace()
    for now in (0.0, 6.0, 12.0):
        pace.decided(now)
        assert pace.left(100) == ""


def test_dock_waits_for_a_package(report: dict[str, Any]) -> None:
    """Without a package the dock is closed and says so; it opens with one, keys on the map."""
    assert not report["none"]["visible"]
    assert "not a review package" in report["none"]["texts"][0]
    opened = report["confirm"]["opened"]
    assert opened["visible"]
    assert opened["focus"] == "QgsMapCanvas"
    assert {"1 s0000", "of 6", "Forest", "Pending", "0 of 6 decided"} <= set(opened["texts"])


def test_keys_decide(report: dict[str, Any]) -> None:
    """A confirms the suggestion, a digit names the class, R, U and M have none; all is stored."""
    decided = report["confirm"]["decided"]
    expected = [("accept", "Forest"), ("accept", "Water"), ("reject", None), ("unsure", None)]
    assert answers(decided) == [*expected, ("mixed", None), (None, None)]
    assert all(row[4] and row[5] > 1.6e12 for row in decided["stored"][:5])
    assert decided["stored"][5][3:] == [None, None, None, None]
    assert {"6 s0005", "5 of 6 decided, less than a minute left"} <= set(decided["texts"])


def test_undo_leaves_a_withdrawal(report: dict[str, Any]) -> None:
    """Backspace goes back one decision a time; the rows are pending, with name and new time."""
    before, after = (report["confirm"][step]["stored"] for step in ("decided", "undone"))
    assert after[:3] == before[:3]
    for old, new in zip(before[3:5], after[3:5], strict=True):
        assert new[1:4] == [None, None, None]
        assert new[4] == old[4]
        assert new[5] > old[5]
    assert "4 s0003" in report["confirm"]["undone"]["texts"]


def test_undo_restores_the_decision_before(report: dict[str, Any]) -> None:
    """Undoing a changed decision brings back the old one with its name, and a newer time."""
    steps = report["confirm"]
    assert "2 s0001" in steps["went back"]["texts"]
    assert answers(steps["changed"])[1] == ("reject", None)
    (changed, restored, undone) = (
        steps[name]["stored"] for name in ("changed", "restored", "undone")
    )
    assert [row[:5] for row in restored] == [row[:5] for row in undone]
    assert restored[1][5] > changed[1][5]
    assert "Accepted: Water" in steps["restored"]["texts"]
    assert "There is nothing to undo." in report["staying"]["nothing"]["texts"]


def test_a_click_on_a_cell_shows_its_sample(report: dict[str, Any]) -> None:
    """The first click on the map, also where the dock was closed; dragging only moves the map."""
    steps = report["picking"]
    assert "1 s0000" in steps["opened"]["texts"]
    assert {"4 s0003", "Pending"} <= set(steps["picked"]["texts"])
    assert steps["picked"]["visible"]
    assert steps["picked"]["focus"] == "QgsMapCanvas"
    texts, moved = steps["dragged"]
    assert "4 s0003" in texts
    assert moved
    assert answers(steps["decided"])[3] == ("accept", "Water")


def test_comment_and_realism_are_of_the_sample_decided_last(report: dict[str, Any]) -> None:
    """Not of the next one, which is shown; after moving by hand, of the sample that is shown."""
    steps = report["picking"]
    assert {"5 s0004", "Comment on 4", "Realism of 4"} <= set(steps["decided"]["texts"])
    assert steps["asked"]["focus"].startswith("Enter")
    notes = [(row[3], row[6]) for row in steps["noted"]["stored"]]
    assert notes == [(None, None)] * 3 + [("a note", 4)] + [(None, None)] * 2
    # R rejects s0004, J scores it; an arrow goes past s0005 to s0000, which D scores.
    scores = [row[6] for row in steps["went back"]["stored"]]
    assert scores == [1, None, None, 4, 5, None]
    assert answers(steps["went back"])[4] == ("reject", None)
    assert {"5 s0004", "Comment", "Realism"} <= set(steps["went back"]["texts"])


def test_what_the_model_says_is_shown_after_the_decision(report: dict[str, Any]) -> None:
    """Only of samples that are decided."""
    steps = report["picking"]
    for step in ("opened", "picked", "decided"):
        assert "shown after the decision" in steps[step]["texts"]
        assert not any("confidence" in text for text in steps[step]["texts"])
    said = "Field, confidence 31 %; then Forest; critic's score -0.25"
    assert said in steps["seen"]["texts"]
    assert not any("Model" in text for text in report["masks"]["blind"]["texts"])


def test_an_older_package_is_reviewed(report: dict[str, Any], folder: Path) -> None:
    """With the model's opinion in the layer: it is shown after the decision only, and read."""
    steps = report["older"]
    assert {"1 s0000", "Pending", "shown after the decision"} <= set(steps["opened"]["texts"])
    said = "Field, confidence 31 %; then Forest; critic's score -0.25"
    assert not any("confidence" in text for text in steps["opened"]["texts"])
    assert {said, "Accepted: Forest"} <= set(steps["seen"]["texts"])
    first, *others = read_package(folder / "older").answers
    assert (first.decision, first.true_class, first.realism) == ("accept", "Forest", 5)
    assert [one.decision for one in others] == [None, None]


def test_brightness_is_changed_for_all_samples(report: dict[str, Any]) -> None:
    """Plus and minus scale what the map shows, within limits, and nothing is to be saved."""
    plain, brighter, darker, again, most, least = [
        np.array(pixels, dtype=float) for pixels, _ in report["brightness"][:6]
    ]
    said = [texts for _, texts in report["brightness"][:6]]
    assert all(f"Brightness {value} %" in texts for value, texts in zip(
        (125, 80, 100, 500, 40), said[1:], strict=True
    ))  # fmt: skip
    assert np.allclose(brighter, np.minimum(plain * 1.25, 255), atol=2)
    assert np.allclose(darker, plain * 0.8, atol=2)
    assert np.allclose(again, plain, atol=1)
    assert plain.std() > 5
    assert most.mean() > brighter.mean() > plain.mean() > least.mean()
    assert report["brightness"][6] == [False]


def test_typing_does_not_decide(report: dict[str, Any]) -> None:
    """Keys in the comment are text; Enter stores it with the sample and leaves, Esc only leaves."""
    steps = report["confirm"]
    assert steps["typing"]["stored"] == steps["restored"]["stored"]
    assert steps["typing"]["focus"].startswith("Enter")
    assert answers(steps["commented"]) == answers(steps["restored"])
    assert [row[3] for row in steps["commented"]["stored"]][:3] == [None, "arum 012n", None]
    assert steps["commented"]["focus"] == "QgsMapCanvas"
    assert steps["discarded"]["stored"] == steps["commented"]["stored"]
    assert steps["discarded"]["focus"] == "QgsMapCanvas"


def test_comment_is_kept_however_it_is_left(report: dict[str, Any]) -> None:
    """What was typed is stored when a decision is clicked meanwhile, or the package closed."""
    clicked = report["confirm"]["clicked"]
    assert clicked["stored"][3][1:4] == ["unsure", None, "by mouse"]
    assert clicked["stored"][4][3] is None
    assert clicked["focus"] == "QgsMapCanvas"
    assert report["elsewhere"]["stored"][0][3] == "typed in the forminterrupted"


def test_key_held_decides_once(report: dict[str, Any]) -> None:
    """A key that repeats decides one sample, not one after the other."""
    steps = report["confirm"]
    changed = [
        new[0]
        for old, new in zip(steps["clicked"]["stored"], steps["held"]["stored"], strict=True)
        if old != new
    ]
    assert changed == ["s0004"]


def test_next_pending_wraps(report: dict[str, Any]) -> None:
    """N goes to what is left, from the end to the beginning, and then says that all is done."""
    steps = report["confirm"]
    assert {"5 s0004", "Pending"} <= set(steps["wrapped"]["texts"])
    assert all(decision for decision, _ in answers(steps["finished"]))
    assert {"All samples are decided.", "6 of 6 decided"} <= set(steps["finished"]["texts"])


def test_space_shows_real_and_sample_side_by_side(report: dict[str, Any], folder: Path) -> None:
    """Space goes from the cell through the composites, each beside the real tile's, and back."""
    one = sample(0)
    sheet = sheet_of([sample(number) for number in range(COUNT)])
    left, top, right, _ = sheet.cell(0)
    centre, y = (left + right) / 2, top + sheet.offset(0, 0)[1]
    corners = [centre - sheet.width - sheet.line / 2, centre + sheet.line / 2]
    extents = [seen["extent"] for seen in report["views"]]
    assert extents[0] == extents[4]
    assert extents[0][0] < left
    assert extents[0][2] > right
    for place, composite in enumerate(sheet.composites):
        drawn = picture(folder / f"view{place + 1}.png")
        extent = extents[place + 1]
        scale = drawn.shape[1] / (extent[2] - extent[0])
        for pixels, x in zip(blocks_of(one), corners, strict=True):
            columns = (x - extent[0] + np.arange(sheet.width) + 0.5) * scale
            rows = (extent[3] + y + np.arange(sheet.height) + 0.5) * scale
            seen = drawn[np.ix_(rows.astype(int), columns.astype(int))]
            assert np.array_equal(seen, stretch(pixels, one.bands, composite))


def picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_edits_of_the_form_are_safe(report: dict[str, Any]) -> None:
    """Unsaved edits of the form are neither lost nor saved; saved ones are seen, not undone."""
    steps = report["beside form"]
    assert steps["refused"]["stored"] == steps["before"]["stored"]
    assert any("unsaved edits" in text for text in steps["refused"]["texts"])
    assert steps["still edited"]
    assert steps["saved"]["stored"][0][3] == "typed in the form"
    assert not any("unsaved edits" in text for text in steps["saved"]["texts"])
    assert answers(steps["decided"])[0] == ("unsure", None)
    assert steps["still editing"]
    assert answers(steps["not undone"])[0] == ("mixed", None)
    assert any("changed since" in text for text in steps["not undone"]["texts"])


def test_blind_asks_for_the_class(report: dict[str, Any]) -> None:
    """Without a suggestion A asks; the digit then accepts. The dock stays when told to."""
    steps = report["staying"]
    assert answers(steps["asked"]) == [(None, None)] * 3
    assert "Which class? Press its digit." in steps["asked"]["texts"]
    assert answers(steps["decided"]) == [("accept", "Town"), (None, None), (None, None)]
    assert {"1 s0000", "Accepted: Town"} <= set(steps["decided"]["texts"])
    assert steps["decided"]["stored"][0][4] == "Ada u r"
    assert steps["remembered"] == [False, "Ada u r"]


def test_many_classes_are_searched(report: dict[str, Any]) -> None:
    """With more classes than digits a class is found by its name, or by a part of it."""
    steps = report["many"]
    assert answers(steps["digit"]) == answers(steps["unknown"]) == [(None, None)] * 3
    assert steps["asked"]["focus"] == steps["unknown"]["focus"] != "QgsMapCanvas"
    assert "There is no class 'nothing'." in steps["unknown"]["texts"]
    assert answers(steps["exact"])[0] == ("accept", "class 1")
    assert answers(steps["part"])[1] == ("accept", "class 11")
    assert answers(steps["part"])[2] == (None, None)
    assert steps["part"]["focus"] == "QgsMapCanvas"


def test_of_real_tiles_the_class_is_asked(report: dict[str, Any]) -> None:
    """A confirms the class of the data set, and asks where there is none; R says unusable."""
    steps = report["observed"]
    assert {"Suggested class", "Forest"} <= set(steps["opened"]["texts"])
    assert "R   Reject / cannot be used" in steps["buttons"]
    assert answers(steps["asked"]) == [("accept", "Forest"), (None, None), (None, None)]
    assert {"none", "Which class? Press its digit."} <= set(steps["asked"]["texts"])
    assert answers(steps["decided"]) == [("accept", "Forest"), ("accept", "Town"), ("reject", None)]


def test_masks_are_judged_without_classes(report: dict[str, Any]) -> None:
    """A accepts the mask, M says that it is wrong; no digit and no C does anything."""
    steps = report["masks"]
    opened = steps["opened"]
    assert {"Mask of", "scene_0", "Pending"} <= set(opened["texts"])
    assert "Accept as" not in opened["texts"]
    assert {"A   Accept", "M   Mask wrong"} <= set(steps["buttons"])
    assert not any(text[0].isdigit() or "Mixed" in text for text in steps["buttons"])
    assert [row[1] for row in steps["ignored"]["stored"]] == [None] * 5
    assert steps["ignored"]["focus"] == "QgsMapCanvas"
    said = [row[1] for row in steps["decided"]["stored"]]
    assert said == ["accept", "mask wrong", "reject", "unsure", None]
    assert "Mask wrong" in steps["went back"]["texts"]
    assert [row[1] for row in steps["undone"]["stored"]] == ["accept", "mask wrong", *[None] * 3]
    assert {"Mask of", "none"} <= set(steps["blind"]["texts"])
    assert [row[1] for row in steps["blind"]["stored"]] == ["mask wrong", None]


def test_space_shows_the_mask_beside_each_composite(report: dict[str, Any], folder: Path) -> None:
    """Large, a composite is between the real tile's and the mask that it has to fit."""
    one = masked(0)
    assert one.masks is not None
    sheet = sheet_of([masked(number) for number in range(5)])
    # Where no class is known the map's own colour shows, which is white without a project's.
    colours = np.full((256, 3), 255)
    colours[: len(PIXEL_CLASSES)] = [*colours_of(PIXEL_CLASSES).values()]
    composite = sheet.composites[1]
    expected = [stretch(pixels, one.bands, composite) for pixels in blocks_of(one)]
    expected.append(colours[one.masks.mask].astype(np.uint8))
    extent = report["masks"]["view"]["extent"]
    drawn = picture(folder / "masks.png")
    scale = drawn.shape[1] / (extent[2] - extent[0])
    left, top, right, _ = sheet.cell(0)
    step = sheet.width + sheet.line
    first = (left + right) / 2 - (3 * step - sheet.line) / 2
    rows = (extent[3] + top + sheet.offset(0, 0)[1] + np.arange(sheet.height) + 0.5) * scale
    for number, pixels in enumerate(expected):
        columns = (first + number * step - extent[0] + np.arange(sheet.width) + 0.5) * scale
        seen = drawn[np.ix_(rows.astype(int), columns.astype(int))]
        assert np.array_equal(seen, pixels), number


@pytest.mark.parametrize(
    ("name", "reason"),
    [("newer", "format 4"), ("locked file", "read-only"), ("locked folder", "read-only")],
)
def test_unusable_packages_are_refused(report: dict[str, Any], name: str, reason: str) -> None:
    """What cannot be reviewed is refused in one line, and no key changes it."""
    seen = report[name]
    (line,) = seen["texts"]
    assert reason in line
    assert seen["visible"]
    assert answers(seen) == [(None, None)] * 2


def test_keys_are_given_back(report: dict[str, Any]) -> None:
    """Arrows move the map again when the dock is hidden or the package closed."""
    steps = report["elsewhere"]
    before, after = steps["package"]
    assert before == after
    for step in ("hidden", "cleared"):
        before, after = steps[step]
        assert before != after
    assert "not a review package" in steps["texts"][0]


def test_unloading_leaves_nothing(report: dict[str, Any]) -> None:
    """Dock, menu entry, items on the map and keys are gone after the plugin is switched off."""
    steps = report["unloaded"]
    assert steps["menu"] == ["Review"]
    assert steps["menu left"] == []
    assert not steps["dock left"]
    with_package, left = steps["items"]
    assert with_package > left == 0
    before, after = steps["arrow"]
    assert before != after
    assert steps["stored"] == report["elsewhere"]["stored"]


def stored(where: Path, *files: str) -> Rows:
    """Return the rows in a copy of these files alone."""
    with closing(sqlite3.connect(":memory:")) as rows:
        for file in files:
            shutil.copyfile(where / file, where.parent / file)
        with closing(sqlite3.connect(where.parent / files[0])) as copy:
            copy.backup(rows)
        query = "SELECT sample_id, decision, true_class, comment FROM review ORDER BY fid"
        return rows.execute(query).fetchall()


def secured(where: Path, expected: Rows) -> Callable[[], bool]:
    """Return whether the GeoPackage alone holds these rows; a copy may be taken mid-write."""

    def check() -> bool:
        try:
            return stored(where, "review.gpkg") == expected
        except sqlite3.DatabaseError:
            return False

    return check


def shows(running: Desktop, *texts: str) -> Callable[[], bool]:
    """Return whether texts of the dock begin so, and the map is drawn."""

    def check() -> bool:
        said = running.shown["dock"] or []
        begun = all(any(one.startswith(text) for one in said) for text in texts)
        return begun and not running.shown["drawing"]

    return check


@pytest.mark.usefixtures("tools", "qgis_python")
def test_reviewing_by_keys_survives_a_kill(tmp_path: Path, pictures: Path, plugin: Path) -> None:
    """Twenty samples by key presses in the real desktop: after kill -9 every decision is there."""
    where = package(tmp_path / "review", [sample(number) for number in range(20)])
    with desktop(tmp_path / "profile", where, plugin) as running:
        running.wait(shows(running, "01 s0000", "0 of 20 decided"), "the dock is open")
        running.press("a", "3", "r", "u", "m")
        running.wait(shows(running, "06 s0005", "5 of 20 decided"), "five are decided")
        running.picture(pictures / "dock.png")
        running.press("BackSpace", "BackSpace")
        running.wait(shows(running, "04 s0003", "3 of 20 decided"), "two are undone")
        running.press("m", "Return")
        running.wait(lambda: running.shown["focus"] == "QLineEdit", "the comment has the keys")
        running.type("a runway? mauve, nr 1")
        running.press("Return", "Right", "n")
        running.wait(shows(running, "07 s0006", "4 of 20 decided"), "two were passed over")
        last = pictures / "whole.png"
        running.picture(last)
        for number in range(1, 4):
            running.press("space")
            view = pictures / f"view{number}.png"
            running.wait(partial(differs, running, view, last), "another composite shows")
            last = view
        running.press("space", "0", "Left", "r")
        running.wait(shows(running, "08 s0007", "5 of 20 decided"), "one is changed")
        running.press(*"aaur1ma2ruamr")
        running.wait(shows(running, "05 s0004", "18 of 20 decided"), "the passed over are left")
        running.press("a", "2")
        running.wait(shows(running, "All samples are decided."), "all are decided")
        running.press("BackSpace")
        expected = rows(
            "a:Forest a:Water r m a:Forest - r a:Water a:Forest u r a:Field m a:Field a:Town r u "
            "a:Field m r",
            {3: "a runway? mauve, nr 1"},
        )
        running.wait(secured(where, expected), "the GeoPackage alone is complete")
        running.kill()
    assert stored(where, "review.gpkg") == expected
    with desktop(tmp_path / "profile", where) as running:
        running.wait(shows(running, "06 s0005", "19 of 20 decided"), "the dock goes on")
        running.picture(pictures / "reopened.png")
        running.click(500, 600)  # the first click, below the cell in the middle
        running.wait(lambda: "06 s0005" not in running.shown["dock"], "another sample is shown")
        running.picture(pictures / "clicked.png")
        running.kill()
    assert stored(where, "review.gpkg") == expected


def differs(running: Desktop, new: Path, old: Path) -> bool:
    """Return whether the screen differs from an old picture; save it."""
    running.picture(new)
    return not np.array_equal(picture(new), picture(old))


def rows(marks: str, comments: dict[int, str]) -> Rows:
    """Return the rows that these marks stand for: a:CLASS, r, u, m, or - for pending."""
    words = {"a": "accept", "r": "reject", "u": "unsure", "m": "mixed", "-": None}
    return [
        (f"s{n:04d}", words[mark[0]], mark[2:] or None, comments.get(n))
        for n, mark in enumerate(marks.split())
    ]


@pytest.mark.usefixtures("tools", "qgis_python")
@pytest.mark.parametrize(
    ("kind", "docked"),
    [("beside real", True), ("alone", False), ("masks", False), ("masks", True)],
)
def test_stock_form_needs_no_scrolling(
    tmp_path: Path, pictures: Path, kind: str, docked: bool
) -> None:
    """On a screen of 1366 x 768 sample, class and decision are seen as soon as the form opens.

    Beside a real tile in a window, the next test sees it, too.
    """
    samples = {
        "beside real": [sample(number) for number in range(3)],
        "alone": [sample(number, real=False) for number in range(3)],
        "masks": [masked(number) for number in range(3)],
    }
    where = package(tmp_path / "review", samples[kind])
    names = ("sample_id", *(() if kind == "masks" else ("cond_class", "true_class")), "decision")
    with desktop(tmp_path / "profile", where, docked=docked) as running:
        form = Form(running)
        form.wait_for("sample_id", "s0000")
        running.wait(lambda: all(form.shows(name) for name in names), f"{names} are seen whole")
        running.picture(pictures / f"form {kind} {'panel' if docked else 'window'}.png")


@pytest.mark.usefixtures("tools", "qgis_python")
@pytest.mark.slow
def test_stock_form_survives_a_kill(tmp_path: Path, pictures: Path) -> None:
    """Twenty samples in QGIS's own form, without the plugin: saved edits are there, no others.

    Keys do everything but what QGIS has none for: the clicks into the form's first field, and
    those on the list beside it: on the arrow to the next sample, and on its empty end.
    """
    where = package(tmp_path / "review", [sample(number) for number in range(20)])
    marks = "a:Water r u m a:Forest r u m a:Forest r u m a:Forest r u m a:Forest r u m"
    expected = rows(marks, {0: "a runway? mauve, nr 1"})
    with desktop(tmp_path / "profile", where) as running:
        form = Form(running)
        for name in ("sample_id", "cond_class", "true_class", "decision"):
            running.wait(partial(form.shows, name), f"{name} is seen without scrolling")
        running.picture(pictures / "form beside real window.png")
        for number, row in enumerate(expected):
            form.wait_for("sample_id", row[0])
            form.choose("decision", row[1], DECISIONS.index(row[1]) + 1)
            if number == 0:
                form.choose("true_class", "Water", CLASSES.index("Water") + 1)
                form.write("comment", row[3])
                running.picture(pictures / "form.png")
            if number < 19:
                form.click("mNextFeatureButton")
        form.save()
        form.edit()
        form.write("comment", "never saved")
        running.wait(lambda: running.shown["unsaved"], "there is an edit that is not saved")
        running.kill()
    assert stored(where, "review.gpkg", "review.gpkg-wal") == expected
