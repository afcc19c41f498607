"""`rslow estimate plan | draw | report`: from scores by labels to an error rate."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.intervals import answering, ff
from rs_lowconf.review.ids import sample_ids
from rs_lowconf.settings import DesignName
from tests.conftest import Ran, Run
from tests.offscreen import run_offscreen

LABEL_PACKAGE = Path(__file__).parent / "qgis" / "label_package.py"
UNITS = 600


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of scores of 600 units in three classes, with labels; about 9 % are wrong."""
    path = tmp_path_factory.mktemp("pool") / "scores.parquet"
    dice = np.random.default_rng(11)
    g = dice.beta(0.3, 2.5, UNITS) * 0.9
    predicted = dice.integers(3, size=UNITS)
    truth = np.where(dice.random(UNITS) < g, (predicted + 1) % 3, predicted)
    names = np.array(["crop", "forest", "water"])
    pd.DataFrame(
        {
            "id": [f"u{i:04d}" for i in range(UNITS)],
            "predicted": names[predicted],
            "confidence": 1 - g,
            "label": names[truth],
            "x": np.arange(UNITS) * 10.0,
        }
    ).to_parquet(path)
    return path


def words(table: Path, folder: Path, *more: str) -> list[str]:
    """Return the settings of a test."""
    own = (f"run.dir={folder / 'run'}", f"estimate.scores={table}", *more)
    return [part for word in own for part in ("--set", word)]


def truth_of(table: Path) -> dict[str, str]:
    """Return the class of every unit."""
    frame = pd.read_parquet(table)
    return dict(zip(frame["id"], frame["label"], strict=True))


def fill(path: Path, truth: dict[str, str], changes: dict[str, str] | None = None) -> None:
    """Fill in the labels of a table as somebody who knows the truth."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame["label"] = [(changes or {}).get(name, truth[name]) for name in frame["id"]]
    frame.to_csv(path, index=False)


def draw_of(folder: Path, wave: int = 1) -> dict[str, Any]:
    """Return a draw as it is written."""
    path = folder / "run" / "estimate" / "draw" / f"draw-{wave}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def report_of(folder: Path) -> dict[str, Any]:
    """Return what the report tells to programs."""
    path = folder / "run" / "estimate" / "draw" / "report.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def one_line(ran: Ran, code: int, *parts: str) -> None:
    """Check that a command ended with a code and one line of error that holds some text."""
    assert ran.code == code, ran.err
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    for part in parts:
        assert part in ran.err


class TestTable:
    """Units of a table, labelled in a CSV."""

    @pytest.mark.parametrize(
        "design", ["uniform", "by_class", "stratified", "importance", "lure", "active"]
    )
    def test_the_report_is_the_estimate_of_the_draw(
        self, table: Path, tmp_path: Path, rslow: Run, design: DesignName
    ) -> None:
        """Each design ends in the numbers that its estimator gives, in all three files."""
        own = words(table, tmp_path, f"estimate.design={design}", "estimate.budget=80")
        assert rslow("estimate", "draw", *own).code == 0
        folder = tmp_path / "run" / "estimate" / "draw"
        asked = pd.read_csv(folder / "labels-1.csv")
        assert list(asked) == ["id", "x", "label"]
        assert asked["label"].isna().all()
        fill(folder / "labels-1.csv", truth_of(table))
        ran = rslow("estimate", "report", *own)
        assert ran.code == 0, ran.err
        frame = pd.read_parquet(table)
        pool = Pool(
            g=1 - frame["confidence"].to_numpy(),
            predicted=pd.Categorical(frame["predicted"]).codes.astype(np.int64),
        )
        draw = DESIGNS[design].prepare(pool, 80)(0)
        assert [one["id"] for one in draw_of(tmp_path)["units"]] == list(frame["id"][draw.index])
        error = (frame["label"] != frame["predicted"]).to_numpy()
        found = estimate(draw, error[draw.index], pool)
        told = report_of(tmp_path)
        assert told["error_rate"] == pytest.approx(found.value)
        interval = answering(found, simple_random=design == "uniform")
        assert told["intervals"][0]["high"] == pytest.approx(interval.high)
        assert told["answer"] == ran.out.splitlines()[0]
        assert told["errors_found"] == int(error[draw.index].sum())
        assert f"{100 * found.value:.3g} %" in (folder / "report.md").read_text()
        page = (folder / "report.html").read_text()
        assert page.count("data:image/webp;base64,") == 3
        assert "http" not in page.replace("http-equiv", "")
        assert "biased" in page
        assert "biased" in ran.out

    def test_waves_learn_and_are_a_function_of_their_labels(
        self, table: Path, tmp_path: Path, rslow: Run
    ) -> None:
        """Five waves, each after the labels of those before; doing it again draws the same."""
        own = words(table, tmp_path, "estimate.design=adaptive", "estimate.budget=100")
        truth, folder = truth_of(table), tmp_path / "run" / "estimate" / "draw"
        for wave in range(1, 6):
            ran = rslow("estimate", "draw", *own)
            assert f"Wave {wave} of 5" in ran.out, ran.err
            assert f"Wave {wave} of 5" in rslow("estimate", "draw", *own).out
            assert not (folder / f"draw-{wave + 1}.json").exists()
            one_line(rslow("estimate", "report", *own), 4, "drawn units have no label")
            fill(folder / f"labels-{wave}.csv", truth)
            if wave < 5:
                one_line(rslow("estimate", "report", *own), 4, f"{wave} of 5 waves are drawn")
        drawn = [draw_of(tmp_path, wave) for wave in range(1, 6)]
        asked = [pd.read_csv(folder / f"labels-{wave}.csv")["id"] for wave in range(1, 6)]
        assert sum(len(one["units"]) for one in drawn) == 100
        assert not pd.concat(asked).duplicated().any()
        assert set(pd.concat(asked)) == {unit["id"] for one in drawn for unit in one["units"]}
        assert drawn[0]["control_mean"] == [0.0]
        assert 0.01 < drawn[4]["control_mean"][0] < 0.3
        assert rslow("estimate", "report", *own).code == 0
        told = report_of(tmp_path)
        assert told["waves"] == 5
        assert abs(told["error_rate"] - 0.09) < 0.08
        # The third wave again, from the same labels.
        before = (folder / "draw-3.json").read_bytes()
        for wave in (3, 4, 5):
            (folder / f"draw-{wave}.json").unlink()
        assert rslow("estimate", "draw", *own).code == 0
        assert (folder / "draw-3.json").read_bytes() == before

    def test_unclear_units_are_refused_or_counted(
        self, table: Path, tmp_path: Path, rslow: Run
    ) -> None:
        """A question mark is no label; counted as wrong or right it moves the estimate between."""
        own = words(table, tmp_path, "estimate.budget=60")
        assert rslow("estimate", "draw", *own).code == 0
        first = draw_of(tmp_path)["units"][0]["id"]
        path = tmp_path / "run" / "estimate" / "draw" / "labels-1.csv"
        fill(path, truth_of(table), {first: "?"})
        one_line(rslow("estimate", "report", *own), 4, first, "estimate.unclear=wrong or right")
        rates = {}
        for said in ("wrong", "right"):
            more = ("--set", f"estimate.unclear={said}")
            assert rslow("estimate", "report", *own, *more).code == 0
            told = report_of(tmp_path)
            assert told["unclear"]["units"] == 1
            rates[said] = told["error_rate"]
        assert rates["wrong"] > rates["right"]
        assert told["unclear"]["if_wrong"]["error_rate"] == pytest.approx(rates["wrong"])

    def test_a_class_that_the_target_does_not_know(
        self, table: Path, tmp_path: Path, rslow: Run
    ) -> None:
        """Text that is no class is taken for a mistake until the settings name it."""
        own = words(table, tmp_path, "estimate.budget=60")
        assert rslow("estimate", "draw", *own).code == 0
        first = draw_of(tmp_path)["units"][0]["id"]
        path = tmp_path / "run" / "estimate" / "draw" / "labels-1.csv"
        fill(path, truth_of(table), {first: "snow"})
        one_line(
            rslow("estimate", "report", *own), 4, f"{first} has the unknown class 'snow'",
            "estimate.classes",
        )  # fmt: skip
        assert rslow("estimate", "report", *own, "--set", "estimate.classes=[snow]").code == 0
        assert report_of(tmp_path)["accuracy"]["classes"] == ["crop", "forest", "water", "snow"]

    def test_what_a_draw_may_not_be_changed_in(
        self, table: Path, tmp_path: Path, rslow: Run
    ) -> None:
        """An edited draw, another pool, other settings, a lost file: a line each, nothing lost."""
        own = words(table, tmp_path, "estimate.budget=60")
        assert rslow("estimate", "draw", *own).code == 0
        folder = tmp_path / "run" / "estimate" / "draw"
        path = folder / "draw-1.json"
        good = path.read_text()
        values = json.loads(good)
        values["units"][0]["chance"] /= 2
        path.write_text(json.dumps(values))
        one_line(rslow("estimate", "report", *own), 4, "its checksum differs")
        path.write_text(good[: len(good) // 2])
        one_line(rslow("estimate", "report", *own), 4, "is no draw")
        path.write_text(good.replace('"format": 1', '"format": 9'))
        one_line(rslow("estimate", "report", *own), 4, "has format 9")
        path.write_text(good)
        one_line(rslow("estimate", "draw", *own, "--set", "run.seed=5"), 3, "seed 0 instead of 5")
        pool = folder / "pool.parquet"
        kept = pool.read_bytes()
        pd.read_parquet(pool).iloc[::-1].to_parquet(pool)
        assert rslow("estimate", "report", *own).code == 4
        pool.write_bytes(kept[:100])
        one_line(rslow("estimate", "report", *own), 4, "pool.parquet is damaged")
        pool.write_bytes(kept)
        fill(folder / "labels-1.csv", truth_of(table))
        assert rslow("estimate", "report", *own).code == 0
        one_line(rslow("estimate", "report", *own, "--name", "other"), 4, "holds no draw")

    def test_labels_that_do_not_fit(self, table: Path, tmp_path: Path, rslow: Run) -> None:
        """Missing ones, a unit twice, a foreign unit and no such column: a line each."""
        own = words(table, tmp_path, "estimate.budget=60")
        assert rslow("estimate", "draw", *own).code == 0
        path = tmp_path / "run" / "estimate" / "draw" / "labels-1.csv"
        fill(path, truth_of(table))
        whole = pd.read_csv(path, dtype=str)
        for frame, said in (
            (whole.iloc[:-3], "3 of 60 drawn units have no label"),
            (whole.assign(label=[None, *whole["label"][1:]]), "1 of 60 drawn units have no label"),
            (pd.concat([whole, whole.iloc[:1]]), "1 ids occur more than once"),
            (whole.assign(id=["strange", *whole["id"][1:]]), "strange was not drawn"),
            (whole.rename(columns={"label": "class"}), "expected id and label"),
        ):
            frame.to_csv(path, index=False)
            one_line(rslow("estimate", "report", *own), 4, said)

    def test_a_plan_comes_before_any_label(self, table: Path, tmp_path: Path, rslow: Run) -> None:
        """Without validation it says what it assumes; with it, ranges; both tell the ceiling."""
        own = words(table, tmp_path, "estimate.budget=80")
        ran = rslow("estimate", "plan", *own, "--set", "estimate.width=0.1")
        assert ran.code == 0, ran.err
        assert "assuming calibration" in ran.out
        assert "Ceiling" in ran.out
        told = json.loads((tmp_path / "run" / "estimate" / "plan.json").read_text())
        by_case = {(one["method"], one["defensive"]): one for one in told["prospects"]}
        assert by_case["stratified", 0.1]["saving"] > by_case["stratified", 0.5]["saving"] > 1
        assert by_case["stratified", 0.5]["labels"] < by_case["uniform", 1.0]["labels"]
        ran = rslow("estimate", "plan", *own, "--set", f"estimate.validation={table}")
        assert ran.code == 0, ran.err
        assert "assuming" not in ran.out
        assert "chosen by validation labels" in ran.out
        told = json.loads((tmp_path / "run" / "estimate" / "plan.json").read_text())
        low, high = told["ceiling_range"]
        assert low <= told["ceiling"] <= high
        assert "by_class" in (tmp_path / "run" / "estimate" / "plan.md").read_text()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda f: f.drop(columns="confidence"), "has no column confidence"),
            (lambda f: f.assign(confidence=f["confidence"] * 100), "outside 0..1"),
            (lambda f: f.assign(confidence=np.nan), "rows without confidence"),
            (lambda f: f.assign(id="same"), "ids occur more than once, such as same"),
            (lambda f: f.iloc[:0], "has no rows"),
        ],
    )
    def test_scores_that_cannot_be_used(
        self, table: Path, tmp_path: Path, rslow: Run, change: Any, said: str
    ) -> None:
        """What is wrong with a table is told in a line, and nothing is written."""
        path = tmp_path / "bad.parquet"
        change(pd.read_parquet(table)).to_parquet(path)
        one_line(rslow("estimate", "draw", *words(path, tmp_path)), 4, said)
        assert not (tmp_path / "run").exists()

    def test_files_that_are_no_scores(self, table: Path, tmp_path: Path, rslow: Run) -> None:
        """A missing file, a truncated one, and too many labels for the pool."""
        missing = words(tmp_path / "none.parquet", tmp_path)
        one_line(rslow("estimate", "plan", *missing), 4, "there is no table of scores")
        path = tmp_path / "cut.parquet"
        path.write_bytes(table.read_bytes()[:2_000])
        one_line(rslow("estimate", "draw", *words(path, tmp_path)), 4, "cannot be read")
        own = words(table, tmp_path, "estimate.budget=601")
        one_line(rslow("estimate", "draw", *own), 3, "601 labels of a pool of 600")
        assert not (tmp_path / "run").exists()
        csv = tmp_path / "scores.csv"
        pd.read_parquet(table).to_csv(csv, index=False)
        same = words(csv, tmp_path, "estimate.budget=60")
        assert rslow("estimate", "draw", *same).code == 0
        others = words(table, tmp_path / "other", "estimate.budget=60")
        assert rslow("estimate", "draw", *others).code == 0
        assert draw_of(tmp_path)["units"] == draw_of(tmp_path / "other")["units"]


def test_real_tiles_from_plan_to_report_in_qgis(
    eurosat_root: Path, qgis_python: str, tmp_path: Path, rslow: Run
) -> None:
    """Plan, draw 100 real tiles, label them in QGIS by a script, import, report.

    The report's interval holds the error rate of the pool, as do those of 180 of 200 draws of
    other seeds.
    """
    own = [
        part
        for word in (
            f"run.dir={tmp_path / 'run'}",
            "data.kind=eurosat",
            f"data.root={eurosat_root}",
            "estimate.budget=100",
            "review.mode=blind",
            "batch.executor=serial",
            "batch.seconds=null",
        )
        for part in ("--set", word)
    ]
    for command in (("catalog", "build"), ("batch", "score"), ("estimate", "plan")):
        ran = rslow(*command, *own)
        assert ran.code == 0, ran.err
    ran = rslow("estimate", "draw", *own)
    assert ran.code == 0, ran.err
    package = tmp_path / "run" / "estimate" / "draw" / "wave-1" / "review"
    scores = pd.read_parquet(tmp_path / "run" / "batch" / "score" / "scores.parquet")
    names = sample_ids(0, scores["id"])
    answers = tmp_path / "answers.json"
    truth = dict(zip(names, scores["label"], strict=True))
    answers.write_text(json.dumps(truth))
    one_line(rslow("estimate", "report", *own), 4, "100 of 100 drawn units have no label")
    label_in_qgis(qgis_python, package, answers, tmp_path)
    assert "100 new" in rslow("review", "import", package, *own).out
    again = rslow("estimate", "draw", *own)
    assert "Drawn and labelled" in again.out
    ran = rslow("estimate", "report", *own)
    assert ran.code == 0, ran.err
    error = (scores["label"] != scores["predicted"]).to_numpy()
    told = report_of(tmp_path)
    interval = told["intervals"][0]
    assert interval["low"] <= error.mean() <= interval["high"]
    assert told["units"] == 389
    pool = Pool(g=(1 - scores["confidence"]).clip(0, 1).to_numpy())
    draw_of, covered = DESIGNS["stratified"].prepare(pool, 100), 0
    for seed in range(200):
        draw = draw_of(seed)
        found = ff(estimate(draw, error[draw.index], pool))
        covered += found.low <= error.mean() <= found.high
    assert covered >= 180


def label_in_qgis(python: str, package: Path, answers: Path, folder: Path) -> None:
    """Let QGIS write the answers into a package."""
    result = run_offscreen([python, str(LABEL_PACKAGE), str(package), str(answers)], folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "100"


def test_tiles_of_a_catalog_in_several_packages(project: Path, rslow: Run) -> None:
    """As many packages as the limit asks for, none twice, and without what the target says."""
    config = ("-c", project / "config.yaml")
    for command in (
        ("catalog", "build"),
        ("batch", "score", "-s", "batch.executor=serial", "-s", "batch.seconds=null"),
    ):
        assert rslow(*command, *config).code == 0
    own = ("-s", "estimate.budget=30", "-s", "review.max_samples=12", "-s", "review.mode=blind")
    ran = rslow("estimate", "draw", *config, *own)
    assert ran.code == 0, ran.err
    folder = project / "run" / "estimate" / "draw" / "wave-1"
    packages = sorted(one.name for one in folder.iterdir())
    assert packages == ["review", "review-2", "review-3"]
    shown = [
        one["sample_id"]
        for name in packages
        for one in json.loads((folder / name / "manifest.json").read_text())["samples"]
    ]
    assert len(set(shown)) == 30
    drawn = [one["id"] for one in draw_of(project)["units"]]
    assert set(shown) == set(sample_ids(0, drawn))
    manifest = folder / "review" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    shutil.rmtree(folder / "review-3")
    assert rslow("estimate", "draw", *config, *own).code == 0
    assert manifest.stat().st_mtime_ns == before
    assert (folder / "review-3" / "review.qgz").exists()
    ran = rslow("estimate", "draw", *config, *own, "-s", "batch.splits=[nowhere]")
    assert ran.code == 0  # the draw is there already and keeps its pool
    ran = rslow("estimate", "draw", *config, *own, "-s", "batch.splits=[nowhere]", "--name", "b")
    one_line(ran, 4, "no tile is left of", "of split")
