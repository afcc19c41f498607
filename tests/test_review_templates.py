"""Templates of QGIS projects: whoever changes one in QGIS finds it so in the next package."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rs_lowconf.batch.score_map import write_score_map
from rs_lowconf.errors import ReviewError
from rs_lowconf.review import project
from rs_lowconf.review.project import TEMPLATES
from tests.offscreen import run_offscreen
from tests.review_samples import masked, observed, package, sample
from tests.test_qgis_meaning import scored, stored

HERE = Path(__file__).parent


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the templates, from which packages are written."""
    copy = shutil.copytree(TEMPLATES, tmp_path / "templates")
    monkeypatch.setattr(project, "TEMPLATES", copy)
    return copy


def run(python: str, folder: Path, *words: object) -> str:
    """Run a program under QGIS's Python; return its error output."""
    ran = run_offscreen([python, *map(str, words)], folder)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def described(python: str, folder: Path, packages: list[Path]) -> list[Any]:
    """Return the layers `review` of packages, as QGIS reads them."""
    paths = [str(path / "review.qgz") for path in packages]
    request = {"projects": paths, "layers": [], "rasters": []}
    (folder / "request.json").write_text(json.dumps(request))
    run(python, folder, HERE / "qgis" / "describe.py", *map(folder.joinpath, FILES))
    report = json.loads((folder / "report.json").read_text())
    # Below what says how to decide.
    return [entry["layers"][1] for entry in report["projects"]]


FILES = ("request.json", "report.json")


def test_a_form_changed_in_qgis_is_in_the_next_package(
    qgis_python: str, templates: Path, tmp_path: Path
) -> None:
    """Order, names and legend are the user's, as QGIS saved them; all else is as it was."""
    run(qgis_python, tmp_path, HERE / "qgis" / "change_form.py", templates / "review.qgs")
    kinds: dict[str, Any] = {
        "confirm": [sample(0), sample(1)],
        "masks": [masked(0)],
        "real": [observed(0), observed(1, labelled=False, asked=False)],
    }
    packages = [package(tmp_path / name, samples) for name, samples in kinds.items()]
    for name, found in zip(kinds, described(qgis_python, tmp_path, packages), strict=True):
        expected = stored()["projects"][name]["layers"][1]
        expected["form"]["fields"]["comment"]["alias"] = "Why?"
        expected["form"]["tabs"][0]["Judge"].reverse()
        expected["renderer"]["classes"][-1][1] = "open"
        for part in ("form", "renderer", "labels"):
            assert found[part] == expected[part], (name, part)


def test_templates_are_what_qgis_saves(qgis_python: str, tmp_path: Path) -> None:
    """Each opens whole in any QGIS; in the one it was recorded from, nothing changes."""
    copy = shutil.copytree(TEMPLATES, tmp_path / "templates")
    run(qgis_python, tmp_path, HERE.parent / "scripts" / "record_templates", copy)
    versions = set()
    for path in sorted(copy.glob("*.q*")):
        texts = [each.read_text(encoding="utf-8") for each in (path, TEMPLATES / path.name)]
        recorded = [re.findall(r'\bversion="([\d.]+)', text) for text in texts]
        if recorded[0] == recorded[1]:
            assert texts[0] == texts[1], path.name
        versions.add(recorded[1][0])
    assert versions == {"3.22.16"}


def cut(name: str, old: str, new: str = "") -> Callable[[Path], None]:
    """Return what replaces all of a text in a template."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "of a package": (
        cut("review.qgs", 'field="d_score"', 'field="other"'),
        r"the form in .* has no column d_score; expected .*; change the template itself",
    ),
    "another layer": (
        cut("review.qgs", "<layername>review<", "<layername>my review<"),
        r"review\.qgs has the layers contact sheet, opinions, my review; expected one named review",
    ),
    "no project": (
        cut("review.qgs", "projectlayers", "layers"),
        r"has no projectlayers; expected a project or style saved by QGIS",
    ),
    "damaged": (cut("tile.qml", "</pipe>"), r"tile\.qml cannot be read .*save it again in QGIS"),
    "lost": (lambda folder: (folder / "tile.qml").unlink(), r"tile\.qml cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
def test_templates_that_do_not_fit_are_refused(templates: Path, case: str, tmp_path: Path) -> None:
    """One line says which file is wrong and what it needs, and no package is left."""
    change, message = CASES[case]
    change(templates)
    with pytest.raises(ReviewError, match=message) as caught:
        package(tmp_path / "review", [sample(0)])
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "review").exists()


def test_another_number_of_colours_is_refused(templates: Path, tmp_path: Path) -> None:
    """The map of scores has five quantiles, so that its template needs five colours."""
    text = (templates / "scores.qgs").read_text(encoding="utf-8")
    text = re.sub(r"<rule [^>]*symbol=.0. />", "", text, count=1)
    (templates / "scores.qgs").write_text(text, encoding="utf-8")
    with pytest.raises(ReviewError, match=r"scores\.qgs has 4 colours; expected 5"):
        write_score_map(tmp_path, scored())


def test_nobody_is_named(templates: Path, tmp_path: Path) -> None:
    """What a project tells of who saved it, and where, is in no package."""
    author = "<projectMetadata><author>Adams</author></projectMetadata>"
    cut("review.qgs", "<title>", f"<homePath path='/home/adams'/>{author}<title>")(templates)
    cut("review.qgs", "<qgis ", "<qgis saveUser='adams' saveUserFull='Adams' ")(templates)
    folder = package(tmp_path / "review", [sample(0)], "blind")
    shutil.unpack_archive(folder / "review.qgz", tmp_path / "open", "zip")
    written = (tmp_path / "open" / "review.qgs").read_text(encoding="utf-8")
    assert "adams" not in written.lower()
