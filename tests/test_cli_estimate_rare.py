"""`rslow estimate rare`: its oracle is plain random latents, and counts of real tiles by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rs_lowconf.estimate.intervals import clopper_pearson
from rs_lowconf.estimate.ladder import Events, Ladder, generated_ladders, real_ladders
from rs_lowconf.estimate.ladder_report import Ladders, markdown, told
from rs_lowconf.estimate.rare import RareEvent, SubsetRules, counted_event, rare_event
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.runs import write_checkpoint
from rs_lowconf.settings import load
from rs_lowconf.workflows.latents import load_law
from tests.conftest import Ran, Run, run_program

SMALL = (
    *("-s", "estimate.rare.particles=20", "-s", "estimate.rare.survivors=10"),
    *("-s", "estimate.rare.max_levels=2", "-s", "search.micro_batch=50"),
)
RULES = SubsetRules(particles=100, survivors=20, max_levels=3)

#: A black box of bright and dark tiles, whose settings name it `bright:score`.
BRIGHT = """
import os, signal
import numpy as np

def score(image):
    # Not while it is looked at before the work begins, when Ctrl-C may be ignored.
    if len(image) > 8 and os.path.exists("stop"):
        os.remove("stop")
        os.kill(os.getpid(), signal.SIGINT)
    bright = 1 / (1 + np.exp(-300 * (image.mean((1, 2, 3)) - 0.18)))
    return np.stack([bright, 1 - bright], 1)

def sure(image):
    return np.tile([1.0, 0.0], (len(image), 1))

def moody(image, silent=1):
    # A fifth of all tiles, whatever they show; not while it is looked at before the work begins.
    said = score(image)
    if len(image) > 8:
        said[(image.mean((1, 2, 3)) * 1e6).astype(int) % 5 < silent] = np.nan
    return said

def silent(image):
    return moody(image, 4)

def sure_or_none(image):
    return np.where(np.isnan(moody(image)), np.nan, sure(image))

def pixels(image):
    return np.full((len(image), 2, *image.shape[2:]), 0.5)
"""
FOREIGN = (
    *("--trust-code", "-s", "target.kind=callable", "-s", "target.bands=[B04, B08]"),
    *("-s", "target.classes=[meadow, woods]", "-s", "target.output=probabilities"),
)


def run(folder: Path, *words: str) -> Ran:
    """Run the command on the small models of a project."""
    return run_program("estimate", "rare", "-c", folder / "config.yaml", *SMALL, *words)


def report_of(folder: Path, name: str = "run") -> Any:
    """Return the report as JSON."""
    return json.loads((folder / name / "estimate" / "rare" / "report.json").read_text())


def files_of(folder: Path, name: str = "run") -> dict[str, int]:
    """Return when each file of an estimate was written."""
    where = folder / name / "estimate" / "rare"
    return {
        str(path.relative_to(where)): path.stat().st_mtime_ns
        for path in where.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def foreign(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project in whose folder black boxes lie, and work there."""
    (project / "bright.py").write_text(BRIGHT)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bright", raising=False)
    return project


def test_a_report_is_written_once_and_anew_for_other_settings(project: Path) -> None:
    """A second run computes nothing; other thresholds ask again, another seed asks all again."""
    ran = run(project)
    assert ran.code == 0, ran.err
    assert "rslow catalog build" in ran.out  # no real tiles are scored
    where = project / "run" / "estimate" / "rare"
    report, text = report_of(project), (where / "report.md").read_text()
    assert report["format"] == 1
    assert set(report["generated"]["by_condition"]) == {"fields", "meadow", "woods"}
    assert [one["threshold"] for one in report["generated"]["overall"]["confidence_below"]] == [
        *(0.99, 0.9, 0.7, 0.5, 0.4)
    ]
    for words in ("not the error rate", "latent law", "3e8 labels", "conditions weigh the same"):
        assert words.lower() in text.lower()
    with Image.open(where / "ladder.png") as picture:
        assert picture.width > 1_000
    before = files_of(project)
    assert len([name for name in before if name.startswith("pieces")]) == 6
    again = run(project)
    assert "Nothing to do" in again.out
    after = files_of(project)
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"settings.yaml", "versions.json"}
    woods = ("-s", "estimate.rare.conditions=[woods]")
    other = run(project, *woods, "-s", "estimate.rare.thresholds=[0.8, 0.6]")
    assert "Nothing to do" not in other.out
    # Disagreement has no threshold.
    assert len([name for name in files_of(project) if name.startswith("pieces")]) == 7
    assert run(project, *woods, "-s", "run.seed=1").code == 0
    assert len([name for name in files_of(project) if name.startswith("pieces")]) == 9
    seeded = report_of(project)["generated"]["by_condition"]["woods"]
    assert seeded != report["generated"]["by_condition"]["woods"]


@pytest.mark.slow
def test_it_agrees_with_plain_random_latents() -> None:
    """Embedded models, at a probability of a few percent: the 99 % intervals of both overlap."""
    law = load_law(load(None, ["run.device=cpu", "search.micro_batch=50"]), trust_code=False)
    dice = np.random.default_rng(5)
    odds = (float(np.log(0.9 / 0.1)), float(np.log(0.75 / 0.25)))
    score = law.confidence("Residential")
    plain = score(dice.standard_normal((400, law.dimensions)))
    rules = SubsetRules(particles=30, survivors=10)
    found = rare_event(score, law.dimensions, odds, 3, rules)
    for place, threshold in enumerate(odds):
        count = int((plain < threshold).sum())
        assert count >= 8
        exact, ours = clopper_pearson(count, 400, 0.99), found.interval(place, 0.99)
        assert ours.low < exact.high
        assert ours.high > exact.low


def test_scores_are_the_targets_confidence_and_choice() -> None:
    """Signs and log-odds are those of the target's probabilities, whatever the batch."""
    law = load_law(load(None, ["run.device=cpu"]), trust_code=False)
    z = np.random.default_rng(1).standard_normal((40, law.dimensions))
    probability = law.answers(z, "Highway").double().exp().numpy()
    top = probability.max(1)
    odds = law.confidence("Highway")(z)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), top, atol=1e-6)
    margin = law.disagreement("Highway")
    assert margin is not None
    other = probability.argmax(1) != law.target.classes.index("Highway")
    assert 0 < other.sum() < 40
    assert np.array_equal(margin(z) < 0, other)
    assert np.array_equal(law.confidence("Highway")(z[7:9]), odds[7:9])


def test_an_interrupted_run_goes_on(foreign: Path) -> None:
    """Ctrl-C ends with 130; finished events are not asked again; the end is that of one go."""
    words = (*FOREIGN, "-s", "target.python=bright:score")
    assert run(foreign, *words, "-s", "estimate.rare.conditions=[meadow]").code == 0
    first = {name: at for name, at in files_of(foreign).items() if name.startswith("pieces")}
    assert len(first) == 2
    (foreign / "stop").touch()
    stopped = run(foreign, *words)
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    ended = run(foreign, *words)
    assert ended.code == 0, ended.err
    pieces = files_of(foreign)
    assert all(pieces[name] == at for name, at in first.items())
    (foreign / "other").mkdir()
    (foreign / "other" / "gan").symlink_to(foreign / "run" / "gan")
    assert run(foreign, *words, "-s", f"run.dir={foreign}/other").code == 0
    assert report_of(foreign, "other") == report_of(foreign)


def test_a_black_box_without_the_condition_has_no_disagreement(foreign: Path) -> None:
    """Fields are none of its classes: said so, and left out of all conditions' disagreement."""
    ran = run(foreign, *FOREIGN, "-s", "target.python=bright:score")
    assert ran.code == 0, ran.err
    assert "fields, disagreement: not told, the target has no such class" in ran.out
    told_of = report_of(foreign)["generated"]
    assert told_of["by_condition"]["fields"]["disagreement"] is None
    each = [told_of["by_condition"][name]["disagreement"] for name in ("meadow", "woods")]
    mean = np.mean([one["value"] or 0.0 for one in each])
    assert (told_of["overall"]["disagreement"]["value"] or 0.0) == pytest.approx(mean)
    # Two classes: none of the default thresholds at or below one half is asked for.
    assert [one["threshold"] for one in told_of["overall"]["confidence_below"]] == [0.99, 0.9, 0.7]


def test_a_black_box_that_is_always_sure_is_counted(foreign: Path) -> None:
    """The same answer for all: 200 plain latents bound low confidence; dissent is certain."""
    ran = run(
        foreign,
        *FOREIGN,
        "-s",
        "target.python=bright:sure",
        "-s",
        "estimate.rare.conditions=[woods]",
    )
    assert ran.code == 0, ran.err
    own = report_of(foreign)["generated"]["by_condition"]["woods"]
    bound = clopper_pearson(0, 200).high
    assert {(one["value"], *one["interval_95"]) for one in own["confidence_below"]} == {
        (None, 0.0, bound)
    }
    assert own["disagreement"]["value"] == 1.0
    assert own["disagreement"]["interval_95"] == [pytest.approx(1 - bound), 1.0]
    assert f"none (< {bound:.2g})" in ran.out
    assert "woods, confidence: the target's answers are too coarse" in ran.out


def test_tiles_without_an_answer_are_counted(foreign: Path) -> None:
    """They are of no event; the report says how many, and the terminal why."""
    words = (*FOREIGN, "-s", "estimate.rare.conditions=[woods]")
    ran = run(foreign, *words, "-s", "target.python=bright:moody")
    assert ran.code == 0, ran.err
    report = report_of(foreign)
    ((reason, count),) = report["without_answer"].items()
    assert "NaN or infinity" in reason
    assert 0.1 < count / report["evaluations"] < 0.3
    assert f"count as neither of low confidence nor of another class: {reason} ({count:,})" in (
        " ".join(ran.out.split())
    )
    assert "Nothing to do" in run(foreign, *words, "-s", "target.python=bright:moody").out
    assert report_of(foreign) == report
    # Counted latents take the place of a climb that could not begin, and its tiles.
    coarse = run(foreign, *words, "-s", "target.python=bright:sure_or_none")
    assert coarse.code == 0, coarse.err
    report = report_of(foreign)
    assert "woods, confidence" in report["plain_random_latents"]
    assert 0.1 < sum(report["without_answer"].values()) / report["evaluations"] < 0.3
    none = run(foreign, *words, "-s", "target.python=bright:silent")
    assert none.code == 5
    assert "has no answer to" in none.err
    assert "Traceback" not in none.err


def test_tables_of_generated_tiles_leave_out_those_without_an_answer(
    foreign: Path, tmp_path: Path
) -> None:
    """Each of the others has its row, as without the silent ones."""
    config = ("-c", foreign / "config.yaml", *FOREIGN, *SMALL, "--count", 60)
    rows = {}
    for name in ("moody", "score"):
        out = tmp_path / f"{name}.parquet"
        ran = run_program(
            *("estimate", "random-latents", *config, "--out", out),
            *("-s", f"target.python=bright:{name}"),
        )
        assert ran.code == 0, ran.err
        rows[name] = {row["id"]: row for row in pq.read_table(out).to_pylist()}
        lacking = 60 - len(rows[name])
        assert ("has no answer" in ran.out) == (lacking > 0) == (name == "moody")
        assert not lacking or f"the target returns NaN or infinity ({lacking})" in ran.out
    assert 0 < len(rows["moody"]) < 60
    for name, row in rows["moody"].items():
        whole = rows["score"][name]
        assert (row["predicted"], row["label"]) == (whole["predicted"], whole["label"])
        assert row["confidence"] == pytest.approx(whole["confidence"], abs=1e-6)
        assert row["features"] == pytest.approx(whole["features"], abs=1e-5)


@pytest.mark.slow
def test_the_real_ladder_is_a_count(project: Path, rslow: Run) -> None:
    """Shares and exact intervals of scored tiles, in all and by label, as counted by hand."""
    config = project / "config.yaml"
    assert rslow("catalog", "build", "-c", config).code == 0
    scored = rslow("batch", "score", "-c", config, "-s", "batch.executor=serial")
    assert scored.code == 0, scored.err
    ran = run(project)
    assert ran.code == 0, ran.err
    table = geopandas.read_parquet(project / "run" / "batch" / "score" / "scores.parquet")
    real = report_of(project)["real"]
    assert real["tiles"] == len(table) == 48
    pools = {"": (real["overall"], table)}
    pools |= {name: (real["by_label"][name], own) for name, own in table.groupby("label")}
    assert set(pools) == {"", "fields", "meadow", "woods"}
    for told_of, own in pools.values():
        counts = {one["threshold"]: one for one in told_of["confidence_below"]}
        counts[None] = told_of["disagreement"]
        for threshold, one in counts.items():
            hits = own["predicted"] != own["label"]
            if threshold is not None:
                hits = own["confidence"] < threshold
            exact = clopper_pearson(int(hits.sum()), len(own))
            assert (one["found"], one["of"]) == (int(hits.sum()), len(own))
            assert one["value"] == (float(hits.mean()) or None)
            assert one["interval_95"] == [exact.low, exact.high]
    assert "are of the split train" in ran.out
    # Of the held-out tiles alone there is nothing to warn of.
    held_out = run(project, "-s", "batch.splits=[val, test]")
    assert "of the split train" not in held_out.out
    assert report_of(project)["real"]["tiles"] == int((table["rslow:split"] != "train").sum())
    # Another target's scores are not put beside.
    other = run(project, "-s", "target.batch_size=31")
    assert other.code == 0, other.err
    assert "are of another target" in other.out
    assert report_of(project)["real"] is None


def test_common_names_say_what_disagrees(foreign: Path) -> None:
    """A target that calls fields open and woods green disagrees as one that has the names does."""
    named = ("-s", "target.python=bright:score", "-s", "estimate.rare.conditions=[fields, woods]")
    plain = run(foreign, *FOREIGN, *named, "-s", "target.classes=[fields, woods]")
    assert plain.code == 0, plain.err
    own = report_of(foreign)["generated"]
    means = {"fields": "open", "woods": "green", "meadow": "open"}
    other = (*named, "-s", "target.classes=[open, green]", "-s", f"target.class_map={means}")
    mapped = run(foreign, *FOREIGN, *other)
    assert mapped.code == 0, mapped.err
    assert report_of(foreign)["generated"] == own
    swapped = {"fields": "green", "woods": "open", "meadow": "open"}
    other = (*other[:-1], f"target.class_map={swapped}")
    assert run(foreign, *FOREIGN, *other).code == 0
    assert (
        report_of(foreign)["generated"]["overall"]["disagreement"]
        != (own["overall"]["disagreement"])
    )
    # Without the map the target has no such classes, and no disagreement is told.
    unmapped = run(foreign, *FOREIGN, *other[:-2])
    assert unmapped.code == 0, unmapped.err
    told_of = report_of(foreign)["generated"]["by_condition"]
    assert {one["disagreement"] for one in told_of.values()} == {None}


def test_real_tiles_are_compared_by_common_names(project: Path, rslow: Run) -> None:
    """Labels that the generator has not are those conditions which mean the same."""
    config = project / "config.yaml"
    assert rslow("catalog", "build", "-c", config).code == 0
    path = project / "run" / "catalog.parquet"
    table = pq.read_table(path)
    labels = ["copse" if one == "woods" else one for one in table["rslow:label"].to_pylist()]
    place = table.column_names.index("rslow:label")
    pq.write_table(table.set_column(place, "rslow:label", pa.array(labels)), path)
    scored = rslow("batch", "score", "-c", config, "-s", "batch.executor=serial")
    assert scored.code == 0, scored.err
    ran = run(
        project,
        *("-s", "target.class_map={copse: woods}", "-s", "estimate.rare.conditions=[woods]"),
    )
    assert ran.code == 0, ran.err
    scores = geopandas.read_parquet(project / "run" / "batch" / "score" / "scores.parquet")
    woods = scores[scores["label"] == "copse"]
    real = report_of(project)["real"]
    assert real["tiles"] == len(woods) > 0
    wrong = real["by_label"]["copse"]["disagreement"]
    assert (wrong["found"], wrong["of"]) == (int((woods["predicted"] != "woods").sum()), len(woods))


class TestRefusals:
    """What cannot be told gets one line and an exit code."""

    @staticmethod
    def fails(ran: Ran, code: int, *words: str) -> None:
        assert ran.code == code, ran
        lines = [line for line in ran.err.splitlines() if line.startswith("rslow: ")]
        assert len(lines) == 1
        assert "Traceback" not in ran.err
        for word in words:
            assert word in lines[0]

    def test_settings(self, project: Path) -> None:
        """Thresholds that nothing falls below, classes that are none, sizes that do not fit."""
        rare = "estimate.rare"
        for setting, *words in (
            (f"{rare}.thresholds=[0.9, 0.333]", "holds 0.333", "never below 0.333"),
            (f"{rare}.thresholds=[1.0]", f"{rare}.thresholds.0", "less than 1"),
            (f"{rare}.thresholds=[]", f"{rare}.thresholds"),
            (f"{rare}.conditions=[Volcano]", "Volcano", "woods"),
            (f"{rare}.replicates=9", "9 replicates", "10 at least"),
            (f"{rare}.survivors=15", "20 particles of which 15 survive"),
            (f"{rare}.depth=3", f"{rare}.depth is unknown"),
        ):
            self.fails(run(project, "-s", setting), 3, *words)

    def test_a_target_that_answers_for_pixels(self, foreign: Path) -> None:
        """It gives a tile no class."""
        ran = run(foreign, *FOREIGN, "-s", "target.python=bright:pixels")
        self.fails(ran, 5, "answers for every pixel")

    def test_a_generator_of_given_masks(self, project: Path) -> None:
        """Told by what the checkpoint says it is."""
        path = project / "run" / "gan" / "gan.safetensors"
        write_checkpoint(path, MaskGanTraining.kind, {"x": torch.zeros(1)}, {})
        self.fails(run(project), 5, "tiles of given masks")

    def test_a_missing_generator(self, project: Path) -> None:
        """Told before anything is computed, and nothing is left behind."""
        (project / "run" / "gan" / "gan.safetensors").unlink()
        self.fails(run(project), 5, "gan.safetensors")
        assert not (project / "run" / "estimate").exists()


class TestLadders:
    """Numbers become words: on latents whose probabilities are known."""

    @staticmethod
    def events(shift: float) -> Events:
        """Ask for a first latent below 0, -2 and -9, of a normal that is shifted."""
        found = rare_event(lambda z: z[:, 0] + shift, 2, [0.0, -2.0, -9.0], 5, RULES)
        return Events(confidence=found, disagreement=None)

    def test_counts_populations_and_what_none_reached(self) -> None:
        """One half is counted exactly, 2.3 % comes from levels, 1e-19 is bounded."""
        own = generated_ladders({"a": self.events(0.0)})[1]["a"]
        methods = [rung.interval.method for rung in own.rungs]
        assert methods == ["clopper-pearson", "replicates", "clopper-pearson"]
        for rung, truth in zip(own.rungs[:2], (0.5, 0.0228), strict=True):
            assert rung.interval.low < truth < rung.interval.high
        last = own.rungs[2]
        assert (last.value, last.found, last.of) == (None, 0, 10)
        assert last.interval.high == clopper_pearson(0, 1_000).high
        assert last.deepest is not None
        # Three levels of a fifth each, less where copies of one latent stand at a border.
        assert 0.005 < last.deepest <= 0.2**3 + 1e-12
        assert told(last) == "none (< 0.0037)"

    def test_what_is_certain_is_still_uncertain(self) -> None:
        """All of 1,000 latents below: the interval is that of a count, not a point."""
        own = generated_ladders({"a": self.events(-9.0)})[1]["a"].rungs[0]
        assert own.value == 1.0
        assert own.interval.low == clopper_pearson(1_000, 1_000).low < 1.0

    def test_all_conditions_weigh_the_same(self) -> None:
        """Each replicate of all is the mean of the conditions' own, and notes say who is absent."""
        each = {"a": self.events(0.0), "b": self.events(7.5)}
        overall, by_name = generated_ladders(each)
        for place in range(3):
            values = [ladder.rungs[place].value or 0.0 for ladder in by_name.values()]
            assert (overall.rungs[place].value or 0.0) == pytest.approx(np.mean(values))
        text = markdown(
            Ladders(
                thresholds=(0.9, 0.5, 0.3),
                overall=overall,
                by_condition=by_name,
                real=None,
                missing="No real tiles.",
                plain=(),
                unanswered={},
                evaluations=1,
            )
        )
        assert "b, below 0.3: no population got there" in text
        assert "all conditions, below 0.9: these count as 0, unreached: b." in text

    def test_plain_latents_are_those_that_populations_start_with(self) -> None:
        """Where an event is frequent, counting and climbing say the same; both survive a file."""

        def score(z: np.ndarray) -> np.ndarray:
            first: np.ndarray = z[:, 0]
            return first

        climbed = rare_event(score, 3, [0.5], 9, RULES)
        plain = counted_event(score, 3, [0.5], 9, RULES)
        assert np.array_equal(climbed.by_replicate, plain.by_replicate)
        again = RareEvent.from_json(json.loads(json.dumps(climbed.to_json())))
        assert again.to_json() == climbed.to_json()
        assert again.interval() == climbed.interval()

    def test_unlabelled_and_foreign_labels_are_no_disagreement(self) -> None:
        """They count for confidence alone."""
        overall, by_class = real_ladders(
            np.array([0.95, 0.6, 0.6, 0.6]),
            ["a", "b", "a", "a"],
            ["a", "a", None, "volcano"],
            thresholds=(0.9,),
            classes=("a", "b"),
        )
        assert (overall.rungs[0].found, overall.rungs[0].of) == (3, 4)
        assert overall.disagreement is not None
        assert (overall.disagreement.found, overall.disagreement.of) == (1, 2)
        assert set(by_class) == {"a", "volcano"}
        volcano: Ladder = by_class["volcano"]
        assert volcano.disagreement is None
