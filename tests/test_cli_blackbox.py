"""`rslow generate` against black boxes: any callable, searched on the embedded generator."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rasterio

from tests.conftest import Ran, run_program

#: A model of three classes that reads means of two bands; it fails as the environment says.
TARGET = """
import os
import numpy as np

calls = 0

def score(image):
    global calls
    calls += len(image)
    if calls > int(os.environ.get("FAIL_AFTER", "1000000000")):
        how = os.environ["FAIL_HOW"]
        if how == "raises":
            raise RuntimeError("out of coffee")
        if how == "nan":
            return np.full((len(image), 3), np.nan)
    red, infrared = image[:, 0].mean((1, 2)), image[:, 1].mean((1, 2))
    index = (infrared - red) / (infrared + red)
    logit = np.stack([-4 * index, np.full_like(index, -1), 4 * index - 2], 1)
    weight = np.exp(logit - logit.max(1, keepdims=True))
    scores = weight / weight.sum(1, keepdims=True)
    if calls > int(os.environ.get("FAIL_AFTER", "1000000000")):
        # Every fifth tile or so, whatever it shows.
        scores[(image.astype(np.float64).sum((1, 2, 3)) * 1e4).astype(np.int64) % 5 == 0] = np.nan
    return scores
"""
SETTINGS = {
    "target.kind": "callable",
    "target.python": "mine:score",
    "target.bands": "[B04, B08]",
    "target.classes": "[water, soil, plants]",
    "target.output": "probabilities",
    "search.conditions": "[Pasture, River]",
    "search.count": "3",
    "search.baseline_evaluations": "0",
    "search.splitting.particles": "8",
    "search.splitting.replicates": "2",
    "search.student.first": "64",
    "search.student.rounds": "1",
    "search.student.each": "32",
    "search.student.steps": "40",
}


def generate(folder: Path, run: str, **changed: str) -> Ran:
    """Run `rslow generate` in a folder that holds the target; FAIL_... go to it."""
    (folder / "mine.py").write_text(TARGET)
    settings = SETTINGS | {k: v for k, v in changed.items() if not k.startswith("FAIL")}
    words = [f"--set={name}={value}" for name, value in settings.items()]
    with pytest.MonkeyPatch.context() as patch:
        # As in a process of its own, which starts there and counts from nought.
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.delitem(sys.modules, "mine", raising=False)
        for name, value in changed.items():
            if name.startswith("FAIL"):
                patch.setenv(name, value)
        ran = run_program("generate", "--trust-code", f"--set=run.dir={run}", *words)
        sys.modules.pop("mine", None)
    return ran


def tiles_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "generate" / "tiles").iterdir()}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    """Return what a search by splitting said, and the folder of its run."""
    folder = tmp_path_factory.mktemp("split")
    return generate(folder, "run", **{"search.method": "splitting"}), folder / "run"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("method", [pytest.param("student", marks=pytest.mark.slow), "splitting"])
def test_a_black_box_is_searched_and_what_is_found_is_its_own(
    split: tuple[Ran, Path], tmp_path: Path, method: str
) -> None:
    """Every exported tile, read with rasterio and scored by the model alone, is unsure."""
    done, run = split
    if method == "student":
        done, run = generate(tmp_path, "run", **{"search.method": method}), tmp_path / "run"
    assert done.code == 0, done.err
    report = json.loads((run / "generate" / "report.json").read_text())
    assert report["method"] == method
    assert report["search"]["accepted"] >= 3
    assert ("student" in report) == (method == "student")
    # Before the search begins, and only if there is a student to pay for.
    assert ("The target gives no gradients" in done.out) == (method == "student")
    if method == "student":
        assert report["student"]["evaluations"] == 96
        assert report["search"]["evaluations"] > 96
    else:
        low, high = report["low_confidence"]["interval_95"]
        assert 0 < low < report["low_confidence"]["value"] < high
        assert "Probability of low confidence" in done.out
    scope: dict[str, object] = {}
    exec(TARGET, scope)  # noqa: S102  # the same program, apart from rslow
    table = pq.read_table(run / "generate" / "samples.parquet").to_pylist()
    for row in table:
        with rasterio.open(run / "generate" / row["tile"]) as tile:
            names = list(tile.descriptions)
            image = tile.read()[[names.index("B04"), names.index("B08")]] / 10_000
        said = scope["score"](image[None])  # type: ignore[operator]
        assert said.max() < 0.5
        assert said.max() == pytest.approx(row["confidence"], abs=1e-5)


def test_a_target_that_fails_in_the_middle_loses_nothing(
    split: tuple[Ran, Path], tmp_path: Path
) -> None:
    """One clear line; mended, the same command goes on and ends as if nothing had happened.

    It fails where the first population is judged, and then in the second. Other ways to fail are
    the matter of other tests.
    """
    journal = tmp_path / "run" / "generate" / "search" / "journal.jsonl"
    before = ""
    # 483 calls or so are for the check of the target, which is made each time.
    for how, calls in (("raises", 500), ("nan", 620)):
        failing = {"FAIL_AFTER": str(calls), "FAIL_HOW": how}
        broken = generate(tmp_path, "run", **{"search.method": "splitting"}, **failing)
        assert broken.code == 5, broken.err
        assert "Traceback" not in broken.err
        assert "target" in broken.err.splitlines()[-1]
        after = journal.read_text()
        assert after.startswith(before)
        before = after
    assert before.count("\n") >= 8
    assert generate(tmp_path, "run", **{"search.method": "splitting"}).code == 0
    assert journal.read_text().startswith(before)
    assert tiles_of(tmp_path / "run") == tiles_of(split[1])


def test_populations_that_started_by_other_rules_are_not_continued(
    split: tuple[Ran, Path], tmp_path: Path
) -> None:
    """A journal of the former rules is refused in one line, and stays as it is."""
    shutil.copytree(split[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "generate" / "review")  # which no unfinished search has
    about = tmp_path / "run" / "generate" / "search" / "journal.json"
    former = json.loads(about.read_text())
    assert former.pop("rules of splitting") == 2
    about.write_text(json.dumps(former))
    ran = generate(tmp_path, "run", **{"search.method": "splitting"})
    assert ran.code == 3, ran.err
    assert "an unfinished search with other rules of splitting" in ran.err
    assert json.loads(about.read_text()) == former


def test_a_target_without_an_answer_to_some_tiles_is_searched(tmp_path: Path) -> None:
    """They are not accepted, and are counted by reason in the report and on the terminal."""
    some = {"FAIL_AFTER": "500", "FAIL_HOW": "some"}
    done = generate(tmp_path, "run", **{"search.method": "splitting"}, **some)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "generate" / "report.json").read_text())["search"]
    ((reason, count),) = report["unanswered"]["by_reason"].items()
    assert "NaN or infinity" in reason
    assert 0.05 < count / report["evaluations"] < 0.5
    assert f"has no answer to {count:,} tiles of the search, and none" in done.told
    table = pq.read_table(tmp_path / "run" / "generate" / "samples.parquet").to_pylist()
    assert len(table) == report["accepted"] >= 3
    assert all(0 < row["confidence"] < 0.5 for row in table)


def test_gradients_of_a_black_box_are_refused(tmp_path: Path) -> None:
    """One line says what the target lacks and what to set."""
    done = generate(tmp_path, "run", **{"search.method": "gradient"})
    assert done.code == 3
    assert "student or splitting" in done.err
