"""`rslow generate` against black boxes: any callable, searched on the embedded generator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rasterio

PROGRAM = [sys.executable, "-c", "from rs_lowconf.cli import main; main()"]

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
        if how == "shape":
            return np.full((len(image), 4), 0.25)
        if how == "unnormalised":
            return np.full((len(image), 3), 0.9)
    red, infrared = image[:, 0].mean((1, 2)), image[:, 1].mean((1, 2))
    index = (infrared - red) / (infrared + red)
    logit = np.stack([-4 * index, np.full_like(index, -1), 4 * index - 2], 1)
    weight = np.exp(logit - logit.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)
"""
SETTINGS = {
    "target.kind": "callable",
    "target.python": "mine:score",
    "target.bands": "[B04, B08]",
    "target.classes": "[water, soil, plants]",
    "target.output": "probabilities",
    "search.classes": "[Pasture, River]",
    "search.count": "5",
    "search.baseline_evaluations": "0",
    "search.splitting.particles": "8",
    "search.splitting.replicates": "2",
    "search.student.first": "64",
    "search.student.rounds": "1",
    "search.student.each": "32",
    "search.student.steps": "40",
}


def generate(folder: Path, run: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run `rslow generate` in a folder that holds the target; FAIL_... go to it."""
    (folder / "mine.py").write_text(TARGET)
    settings = SETTINGS | {k: v for k, v in changed.items() if not k.startswith("FAIL")}
    words = [f"--set={name}={value}" for name, value in settings.items()]
    failing = {k: v for k, v in changed.items() if k.startswith("FAIL")}
    return subprocess.run(
        [*PROGRAM, "generate", "--trust-code", f"--set=run.dir={run}", *words],
        check=False,
        cwd=folder,
        env=os.environ | failing,
        capture_output=True,
        text=True,
    )


def tiles_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "generate" / "tiles").iterdir()}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("method", ["student", "splitting"])
def test_a_black_box_is_searched_and_what_is_found_is_its_own(tmp_path: Path, method: str) -> None:
    """Every exported tile, read with rasterio and scored by the model alone, is unsure."""
    done = generate(tmp_path, "run", **{"search.method": method})
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "generate" / "report.json").read_text())
    assert report["method"] == method
    assert report["search"]["accepted"] >= 5
    assert ("student" in report) == (method == "student")
    if method == "student":
        assert report["student"]["evaluations"] == 96
        assert report["search"]["evaluations"] > 96
    else:
        low, high = report["low_confidence"]["interval_95"]
        assert 0 < low < report["low_confidence"]["value"] < high
        assert "Probability of low confidence" in done.stdout
    scope: dict[str, object] = {}
    exec(TARGET, scope)  # noqa: S102  # the same program, apart from rslow
    table = pq.read_table(tmp_path / "run" / "generate" / "samples.parquet").to_pylist()
    for row in table:
        with rasterio.open(tmp_path / "run" / "generate" / row["tile"]) as tile:
            names = list(tile.descriptions)
            image = tile.read()[[names.index("B04"), names.index("B08")]] / 10_000
        said = scope["score"](image[None])  # type: ignore[operator]
        assert said.max() < 0.5
        assert said.max() == pytest.approx(row["confidence"], abs=1e-5)


@pytest.mark.parametrize("how", ["raises", "nan", "shape", "unnormalised"])
def test_a_target_that_fails_in_the_middle_loses_nothing(tmp_path: Path, how: str) -> None:
    """One clear line; mended, the same command goes on and ends as if nothing had happened."""
    splitting = {"search.method": "splitting"}
    broken = generate(tmp_path, "run", **splitting, FAIL_AFTER="650", FAIL_HOW=how)
    assert broken.returncode == 5, broken.stderr
    assert "Traceback" not in broken.stderr
    assert "target" in broken.stderr.splitlines()[-1]
    journal = tmp_path / "run" / "generate" / "search" / "journal.jsonl"
    before = journal.read_text()
    assert before.count("\n") >= 8
    assert generate(tmp_path, "run", **splitting).returncode == 0
    assert journal.read_text().startswith(before)
    if how == "raises":
        assert generate(tmp_path, "unbroken", **splitting).returncode == 0
        assert tiles_of(tmp_path / "run") == tiles_of(tmp_path / "unbroken")


def test_gradients_of_a_black_box_are_refused(tmp_path: Path) -> None:
    """One line says what the target lacks and what to set."""
    done = generate(tmp_path, "run", **{"search.method": "gradient"})
    assert done.returncode == 3
    assert "student or splitting" in done.stderr
