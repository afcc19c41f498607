"""The paper's own arm and the experiment as a whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from scipy.stats import binom

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.experiment import RAW, Case, Grounds, key_of, split_validation
from rs_lowconf.estimate.intervals import clopper_pearson
from rs_lowconf.estimate.paper import NEIGHBOURS, neighbour_errors, replay_generated
from rs_lowconf.estimate.prepare import prepare
from rs_lowconf.estimate.scores import read_scores
from rs_lowconf.generators import finish
from rs_lowconf.review.fields import Decision
from rs_lowconf.review.reading import Answer, ReviewedPackage
from rs_lowconf.review.store import STORE, ReviewStore, SentPackage, SentSample
from rs_lowconf.settings import load
from rs_lowconf.workflows.experiment import found_tiles
from tests.conftest import Run


def test_labels_of_generated_tiles_converge_to_their_own_rate() -> None:
    """The root mean squared error is bias and binomial scatter; coverage is the binomial's."""
    error = np.arange(1_000) < 100
    cell = replay_generated(
        error,
        source="made",
        rate=0.05,
        population=100_000,
        labels=400,
        repetitions=4_000,
        seed=1,
    )
    assert cell.generated_rate == 0.1
    assert cell.times == pytest.approx(2.0)
    assert cell.rmse == pytest.approx(np.sqrt(0.05**2 + 0.1 * 0.9 / 400), rel=0.02)
    count = np.arange(401)
    held = [(i := clopper_pearson(int(k), 400)).low <= 0.05 <= i.high for k in count[:100]]
    expected = binom.pmf(count[:100], 400, 0.1) @ np.array(held)
    assert cell.covered / 4_000 == pytest.approx(expected, abs=0.02)
    widths = np.array([clopper_pearson(int(k), 400).width for k in count])
    assert cell.width == pytest.approx(binom.pmf(count, 400, 0.1) @ widths, rel=0.01)
    # As many uniform labels as give that error, over 400.
    assert cell.saving == pytest.approx(0.05 * 0.95 / cell.rmse**2 / 400, rel=0.05)
    with pytest.raises(DataError, match="no labelled units in made"):
        replay_generated(
            error[:0], source="made", rate=0.1, population=9, labels=5, repetitions=2, seed=0
        )


def test_weights_let_generated_tiles_stand_for_a_pool() -> None:
    """One half of the tiles shows a class that is nine times as frequent in the pool."""
    dice = np.random.default_rng(0)
    error = np.concatenate([dice.random(2_000) < 0.02, dice.random(2_000) < 0.2])
    weight = np.repeat([1.8, 0.2], 2_000)
    rate = 0.9 * error[:2_000].mean() + 0.1 * error[2_000:].mean()
    cell = replay_generated(
        error,
        source="made",
        rate=rate,
        population=100_000,
        labels=1_000,
        repetitions=2_000,
        seed=1,
        weight=weight,
    )
    assert cell.generated_rate == pytest.approx(rate)
    deviation = (weight * error).std()
    assert cell.rmse == pytest.approx(deviation / np.sqrt(1_000), rel=0.06)
    assert cell.bias_error == pytest.approx(deviation / np.sqrt(4_000))
    assert 0.92 < cell.covered / 2_000 < 0.97
    assert cell.width == pytest.approx(2 * 1.96 * deviation / np.sqrt(1_000), rel=0.05)


def test_neighbours_are_scipys() -> None:
    """The share of errors among the ten nearest in units of the features' spread."""
    dice = np.random.default_rng(0)
    real, made = dice.standard_normal((50, 3)), dice.standard_normal((200, 3)) * [1, 10, 0.1]
    error = dice.random(200) < 0.3
    tree = cKDTree(made / made.std(0))
    _, index = tree.query(real / made.std(0), NEIGHBOURS)
    expected = (error[index].sum(1) + error.mean()) / (NEIGHBOURS + 1)
    np.testing.assert_allclose(neighbour_errors(real, made, error, 0), expected)
    with pytest.raises(DataError, match="generated units of 3 features for real ones of 2"):
        neighbour_errors(real[:, :2], made, error, 0)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a real pool, generated tiles, and features that tell where errors are.

    The generator's tiles err half as often, and in the same places.
    """
    folder = tmp_path_factory.mktemp("pools")
    for name, n, factor, seed in (("real", 1_500, 1.0, 0), ("made", 800, 0.5, 1)):
        dice = np.random.default_rng(seed)
        place = dice.standard_normal((n, 2))
        g = factor * np.where(place[:, 0] > 1, 0.5, 0.03)
        wrong = dice.random(n) < g
        doubt = np.clip(0.1 + 0.1 * dice.standard_normal(n) + 0.1 * g, 0.01, 0.9)
        pd.DataFrame(
            {
                "id": [f"{name}{i}" for i in range(n)],
                "predicted": "a",
                "confidence": 1 - doubt,
                "label": np.where(wrong, "b", "a"),
                "features": place.tolist(),
            }
        ).to_parquet(folder / f"{name}.parquet")
    # As `rslow generate` writes it: what the target is least sure of, named otherwise.
    made = pd.read_parquet(folder / "made.parquet").drop(columns="features")
    found = made.nsmallest(150, "confidence")
    found.rename(columns={"id": "sample_id", "label": "condition"}).to_parquet(
        folder / "found.parquet"
    )
    # Errors of these stand for the pool's, which are twice as frequent.
    made.assign(weight=2.0).to_parquet(folder / "weighed.parquet")
    made.head(60).to_parquet(folder / "few.parquet")
    return folder


def experiment(rslow: Run, pools: Path, folder: Path, *more: str) -> tuple[str, dict[str, Any]]:
    """Run the command and return what it printed and its report."""
    own = (
        f"run.dir={folder}",
        f"estimate.scores={pools / 'real.parquet'}",
        f"estimate.experiment.random_latents={pools / 'made.parquet'}",
        f"estimate.generated_samples={pools / 'found.parquet'}",
        "estimate.experiment.repetitions=20",
        "estimate.experiment.budgets=[0.1]",
        "estimate.experiment.blind=[1.0]",
        f"estimate.experiment.generated={{weighed: {pools / 'weighed.parquet'}, "
        f"few: {pools / 'few.parquet'}}}",
        *more,
    )
    ran = rslow("estimate", "experiment", *(part for word in own for part in ("--set", word)))
    assert ran.code == 0, ran.err
    told: dict[str, Any] = json.loads(
        (folder / "estimate" / "experiment" / "report.json").read_text()
    )
    return ran.out, told


@pytest.mark.slow
def test_the_experiment_answers_the_papers_question(
    pools: Path, tmp_path: Path, rslow: Run
) -> None:
    """Retrieval is chosen; generated labels are biased; a second run replays nothing."""
    out, told = experiment(rslow, pools, tmp_path)
    rate = pd.read_parquet(pools / "real.parquet")
    assert told["units"] == 1_200
    assert told["validation"]["labels"] == 300
    assert abs(told["error_rate"] - (rate["label"] == "b").mean()) < 0.03
    assert told["predictor"]["name"] == "retrieved"
    assert told["budgets"] == [120]
    methods = {one["method"] for one in told["cells"] if one["predictor"] == "retrieved"}
    assert methods >= {
        "uniform",
        "by_class",
        "stratified",
        "importance",
        "lure",
        "active",
        "adaptive",
    }
    assert set(told["predictor"]["candidates"]) == {"confidence", "retrieved", "generated"}
    # 120 labels are more than the 60 rows of `few`.
    generated, found, weighed = told["generated"]
    assert found["source"] == "tiles that the search found"
    assert weighed["source"] == "weighed"
    assert weighed["generated_rate"] == pytest.approx(2 * generated["generated_rate"])
    assert abs(weighed["generated_rate"] - told["error_rate"]) < 4 * weighed["bias_error"]
    assert 0.3 < generated["times"] < 0.7
    assert generated["saving"] < 1
    text = " ".join(told["answer"])
    assert "Taken literally, no." in text
    assert f"they err {generated['times']:.2f} times as often as real units" in text
    assert "real neighbours of generated failures" in text
    assert "no number of them is worth more than" in text
    assert all(line in out for line in told["answer"])
    folder = tmp_path / "estimate" / "experiment"
    page = (folder / "report.html").read_text()
    # Errors of this pool are of one kind, so that no rank says anything.
    compared = told["confusions"]
    assert list(compared) == [
        found["source"],
        generated["source"],
        "the least sure validation units",
    ]
    assert all(one["correlation"] is None for one in compared.values())
    assert compared[found["source"]]["real_errors"] == round(told["error_rate"] * 1_200)
    assert "Is what the search finds what the target gets wrong?" in page
    assert "data:image/webp;base64," in page
    assert {path.stem for path in (folder / "plots").glob("*.png")} == {"rmse", "bias", "width"}
    cells = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert len(cells) == len(told["cells"])
    _, again = experiment(rslow, pools, tmp_path)
    assert again == told
    assert cells == {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}


def test_a_cell_is_known_by_all_that_it_depends_on(pools: Path) -> None:
    """Another seed, number of draws, defensive share, case, g or truth is another cell."""
    scores = read_scores(pools / "real.parquet")
    pool, validation = split_validation(scores, 300, 0)
    prepared = prepare(pool, validation=validation)
    grounds = Grounds(
        prepared=prepared,
        validation=validation,
        error=pool.error,
        defensive=0.3,
        seed=0,
        repetitions=20,
    )
    case = Case(predictor="confidence", method="importance", labels=50, blind=0.0)
    others = [
        (replace(grounds, seed=1), case),
        (replace(grounds, repetitions=21), case),
        (replace(grounds, defensive=0.5), case),
        (replace(grounds, error=~pool.error), case),
        (replace(grounds, prepared=prepare(pool, validation=validation, seed=9)), case),
        (grounds, replace(case, labels=51)),
        (grounds, replace(case, predictor=RAW)),
    ]
    keys = [key_of(*one) for one in (*others, (grounds, case), (grounds, case))]
    assert len(set(keys)) == len(keys) - 1


def test_reviews_take_the_place_of_conditions(pools: Path, tmp_path: Path) -> None:
    """A reviewer's class counts; what was rejected is left out; what nobody saw keeps its own."""
    made = pd.read_parquet(pools / "found.parquet")
    names = made["sample_id"].tolist()
    store = ReviewStore(tmp_path / STORE)
    package = SentPackage(
        package_id="p", label="confirm", round=1, folder="p", classes=("a", "b"), exported=""
    )
    sent = [
        SentSample(
            sample_id=name,
            origin="found",
            condition="a",
            prediction=None,
            realism=None,
            gate_score=None,
            tile="",
            sha256="",
        )
        for name in names[:2]
    ]
    store.register(package, sent)
    opposite = "a" if made["condition"][made.index[0]] == "b" else "b"
    given: tuple[tuple[str, Decision, str | None], ...] = (
        (names[0], "accept", opposite),
        (names[1], "reject", None),
    )
    answers = tuple(
        Answer(
            sample_id=name,
            decision=decision,
            true_class=said,
            realism=None,
            comment="",
            reviewer="Ada",
            reviewed_ms=1,
        )
        for name, decision, said in given
    )
    store.add(
        ReviewedPackage(
            folder=tmp_path,
            package_id="p",
            label="confirm",
            classes=("a", "b"),
            pixel_classes=(),
            answers=answers,
            manifest={},
            shown={},
        )
    )
    settings = load(None, (f"run.dir={tmp_path}",))
    found = finish(found_tiles(settings, pools / "found.parquet"))
    assert found.label is not None
    told = dict(zip(found.ids, found.label, strict=True))
    assert told[names[0]] == opposite
    assert names[1] not in told
    assert [told[name] for name in names[2:]] == made["condition"].tolist()[2:]


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [
        ("made", -1.0, "800 weights that are no number of 0 or more"),
        ("made", "much", "800 weights that are no number of 0 or more, the first much of made0"),
        ("tiles that the search found", 1.0, "names a table 'tiles that the search found'"),
    ],
)
def test_tables_of_generated_tiles_that_cannot_be_used(  # noqa: PLR0917 - fixtures
    pools: Path, tmp_path: Path, rslow: Run, name: str, weight: object, said: str
) -> None:
    """Bad weights, and names that the report has for other tiles, are refused in one line."""
    path = tmp_path / "made.parquet"
    pd.read_parquet(pools / "made.parquet").assign(weight=weight).to_parquet(path)
    own = (
        f"run.dir={tmp_path}",
        f"estimate.scores={pools / 'real.parquet'}",
        f"estimate.experiment.generated={{{name}: {path}}}",
        "estimate.experiment.repetitions=20",
        "estimate.experiment.budgets=[0.1]",
    )
    ran = rslow("estimate", "experiment", *(part for word in own for part in ("--set", word)))
    assert ran.code in (3, 4)
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_pools_that_cannot_be_replayed(pools: Path, tmp_path: Path, rslow: Run) -> None:
    """Without labels or without errors there is nothing to compare with."""
    frame = pd.read_parquet(pools / "real.parquet")
    for name, changed, said in (
        ("none", frame.assign(label=None), "0 labelled units"),
        ("right", frame.assign(label="a"), "hold no error"),
    ):
        path = tmp_path / f"{name}.parquet"
        changed.to_parquet(path)
        own = (f"run.dir={tmp_path}", f"estimate.scores={path}")
        ran = rslow("estimate", "experiment", *(part for word in own for part in ("--set", word)))
        assert ran.code == 4
        assert said in ran.err
        assert len(ran.err.strip().splitlines()) == 1
