"""Confusions of found tiles beside those of real ones."""

import json
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from rs_lowconf.class_map import ClassMap
from rs_lowconf.estimate.confusions import Confusions, compare_confusions
from tests.conftest import Run

CLASSES = ("Forest", "River", "Highway", "Pasture")


def drawn(number: int, seed: int) -> list[tuple[str, str]]:
    """Return labels with predictions; some confusions are frequent, some never occur."""
    dice = np.random.default_rng(seed)
    chances = np.diag([20.0, 20, 20, 20]) + np.array(
        [[0, 1, 0, 3], [0, 0, 8, 1], [2, 6, 0, 0], [4, 0, 0, 0]]
    )
    cells = dice.choice(16, number, p=chances.ravel() / chances.sum())
    return [(CLASSES[cell // 4], CLASSES[cell % 4]) for cell in cells]


def test_counts_and_correlation_are_those_of_other_ways() -> None:
    """Counts by hand; the correlation is SciPy's, and its interval holds it."""
    found, real = drawn(300, 0), drawn(2_000, 1)
    result = compare_confusions(found, real, says=CLASSES)
    ours, theirs = Counter(found), Counter(real)
    possible = list(permutations(CLASSES, 2))
    assert (result.found, result.real, result.possible) == (300, 2_000, len(possible))
    oracle = spearmanr([theirs[pair] for pair in possible], [ours[pair] for pair in possible])
    assert result.correlation == pytest.approx(float(oracle.statistic))
    assert result.correlation is not None
    assert result.interval_95 is not None
    assert result.interval_95[0] < result.correlation < result.interval_95[1]
    assert {(one.label, one.predicted) for one in result.pairs} == {
        pair for pair in possible if ours[pair] or theirs[pair]
    }
    for one in result.pairs:
        pair = (one.label, one.predicted)
        assert (one.real, one.found) == (theirs[pair], ours[pair])
        assert one.real_of == sum(label == one.label for label, _ in real)
        assert one.first == (found.index(pair) + 1 if pair in found else None)
    assert result.real_errors == sum(label != said for label, said in real)
    assert result.found_errors == sum(label != said for label, said in found)
    assert [one.real for one in result.pairs] == sorted(
        (one.real for one in result.pairs), reverse=True
    )
    assert Confusions.from_json(result.to_json()) == result


def test_the_same_tiles_agree_and_unlike_ones_do_not() -> None:
    """1 and all errors met for the same tiles; below 0 where the rare confusions are found most."""
    real = drawn(2_000, 1)
    same = compare_confusions(real, real, says=CLASSES)
    assert same.correlation == pytest.approx(1.0)
    assert (same.met, same.missed, same.invented) == (same.real_errors, (), ())
    rare = [pair for pair in permutations(CLASSES, 2) if pair not in Counter(real)]
    unlike = compare_confusions([*rare * 9, *real[:4]], real, says=CLASSES)
    assert unlike.correlation is not None
    assert unlike.correlation < 0
    assert {(one.label, one.predicted) for one in unlike.invented} == set(rare)
    assert all(one.real_of for one in unlike.invented)


def test_sentences_name_what_is_missed_and_what_no_real_tile_shows() -> None:
    """With numbers, and with how many real tiles of the class there are."""
    real = [("River", "Highway")] * 3 + [("River", "River")] * 7 + [("Forest", "Forest")] * 5
    found = [("Forest", "Pasture"), ("River", "River"), ("Forest", "Pasture")]
    result = compare_confusions(found, real, says=CLASSES)
    text = " ".join(result.sentences())
    assert "3 of 15 labelled real tiles wrong; 0 of these errors (0 %)" in text
    assert "not found: River taken for Highway (3)." in text
    assert "Forest taken for Pasture (2; none of 5 real tiles)" in text
    assert "split train" not in text
    learned = compare_confusions(found, real, says=CLASSES, learned=9)
    assert any("9 of the real tiles are of the split train" in one for one in learned.sentences())
    assert result.table()[1:] == [
        ("River", "Highway", "3", "10", "0", ""),
        ("Forest", "Pasture", "0", "5", "2", "1"),
    ]


def test_classes_of_one_side_are_left_out() -> None:
    """What has no real tile, or was no condition, cannot be compared."""
    result = compare_confusions(
        [("River", "Highway"), ("Snow", "River")],
        [("River", "River"), ("Pasture", "Forest")],
        says=CLASSES,
    )
    assert result.left_out == ("Pasture", "Snow")
    assert (result.found, result.real, result.possible) == (1, 1, 3)
    assert "none of 1 labelled real tiles wrong" in result.sentences()[0]
    assert result.correlation is None


def test_classes_that_mean_the_same_are_no_confusion() -> None:
    """Both sides go by the common names."""
    water = ClassMap.of({"River": "water", "SeaLake": "water"})
    result = compare_confusions(
        [("River", "water"), ("SeaLake", "land")],
        [("SeaLake", "water"), ("River", "land")],
        says=("water", "land"),
        class_map=water,
    )
    assert [(one.label, one.predicted, one.real, one.found) for one in result.pairs] == [
        ("water", "land", 1, 1)
    ]


def test_nothing_found_or_nothing_real() -> None:
    """No error of its own; everything is left out."""
    for found, real in (([], [("River", "Forest")]), ([("River", "Forest")], [])):
        result = compare_confusions(found, real, says=CLASSES)
        assert (result.pairs, result.left_out, result.correlation) == ((), ("River",), None)
        assert result.sentences()


@pytest.mark.slow
def test_a_search_is_compared_with_scored_tiles(project: Path, rslow: Run) -> None:
    """Counts are those of both tables; scores of another target are not put beside."""
    config = project / "config.yaml"
    assert rslow("catalog", "build", "-c", config).code == 0
    scored = rslow("batch", "score", "-c", config, "-s", "batch.executor=serial")
    assert scored.code == 0, scored.err
    found = rslow("generate", "-c", config, "-s", "search.tau=0.95", "-s", "search.count=6")
    assert found.code == 0, found.err
    known = pq.read_table(project / "run" / "batch" / "score" / "scores.parquet").to_pylist()
    ours = pq.read_table(project / "run" / "generate" / "samples.parquet").to_pylist()
    conditions = {one["condition"] for one in ours}
    real = [one for one in known if one["label"] in conditions]
    told = json.loads((project / "run" / "generate" / "report.json").read_text())["confusions"]
    assert (told["found"], told["real"]) == (len(ours), len(real))
    assert told["learned"] == sum(one["rslow:split"] == "train" for one in known)
    assert told["real_errors"] == sum(one["label"] != one["predicted"] for one in real)
    assert told["found_errors"] == sum(one["condition"] != one["predicted"] for one in ours)
    page = (project / "run" / "generate" / "report.html").read_text()
    assert "Beside the target&#39;s errors on real tiles" in page
    words = ("-s", "target.batch_size=31", "-s", "search.tau=0.95", "-s", "search.count=1")
    other = rslow("generate", "-c", config, "--name", "other", *words)
    assert other.code == 0, other.err
    assert "confusions" not in json.loads((project / "run" / "other" / "report.json").read_text())
