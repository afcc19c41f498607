"""Error rates by the library: the numbers of the command line, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rs_lowconf as rl
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import DesignName
from tests.conftest import Run
from tests.make_estimate_golden import assert_alike

ROOT = Path(__file__).parents[1]
CLASSES = np.array(["crop", "forest", "water"])


def scores(n: int = 400, seed: int = 5) -> pd.DataFrame:
    """Return what a model says of units, with their true classes."""
    rng = np.random.default_rng(seed)
    g = rng.beta(0.4, 2.5, n)
    predicted = rng.integers(3, size=n)
    truth = np.where(rng.random(n) < g, (predicted + 1) % 3, predicted)
    return pd.DataFrame(
        {
            "id": [f"u{number:03d}" for number in range(n)],
            "predicted": CLASSES[predicted],
            "confidence": 1 - g,
            "label": CLASSES[truth],
            "group": [f"tile {number // 20}" for number in range(n)],
        }
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a table of a pool, and one of validation units."""
    folder = tmp_path_factory.mktemp("tables")
    scores().to_csv(folder / "pool.csv", index=False)
    scores(200, 6).to_csv(folder / "validation.csv", index=False)
    return folder / "pool.csv", folder / "validation.csv"


def pool_of(frame: pd.DataFrame, validation: rl.Pool | None = None) -> rl.Pool:
    """Return the pool of a table that is held in memory."""
    return rl.Pool(
        frame["confidence"],
        frame["predicted"].tolist(),
        frame["id"].tolist(),
        group=frame["group"].tolist(),
        labels=frame["label"].tolist(),
        validation=validation,
    )


@pytest.mark.parametrize(("design", "from_arrays"), [("stratified", False), ("adaptive", True)])
def test_the_numbers_are_those_of_the_command_line(
    tables: tuple[Path, Path], tmp_path: Path, rslow: Run, design: DesignName, from_arrays: bool
) -> None:
    """Plan, units, chances and report are the same for the same table, settings and seed."""
    settings = (
        *(f"run.dir={tmp_path}", "run.seed=3", f"estimate.scores={tables[0]}"),
        *(f"estimate.validation={tables[1]}", "estimate.budget=60", "estimate.width=0.2"),
        *("estimate.defensive=0.4", f"estimate.design={design}", "estimate.level=0.9"),
    )
    words = [part for one in settings for part in ("-s", one)]
    pool = rl.Pool.read(tables[0], validation=tables[1])
    if from_arrays:
        pool = pool_of(scores(), pool_of(scores(200, 6)))
    truth = dict(zip(scores()["id"], scores()["label"], strict=True))

    ran = rslow("estimate", "plan", *words)
    assert ran.code == 0, ran.err
    plan = pool.plan(60, width=0.2, defensive=0.4, level=0.9, seed=3)
    stored = json.loads((tmp_path / "estimate" / "plan.json").read_text())
    assert str(plan) in ran.out
    assert plan.forecast.ceiling == pytest.approx(stored["ceiling"], rel=1e-12)
    rows = plan.to_pandas()
    assert rows["labels"].isna().tolist() == [one["labels"] is None for one in stored["prospects"]]
    savings = [one["saving"] for one in stored["prospects"]]
    assert rows["saving"].tolist() == pytest.approx(savings, rel=1e-12)

    draw, labels = pool.draw(60, design=design, defensive=0.4, seed=3), dict[str, str]()
    for wave in range(1, 6 if design == "adaptive" else 2):
        ran = rslow("estimate", "draw", *words)
        assert ran.code == 0, ran.err
        path = tmp_path / "estimate" / "draw" / f"labels-{wave}.csv"
        frame = pd.read_csv(path, dtype=str)
        assert frame["id"].tolist() == draw.ids
        frame.assign(label=[truth[name] for name in frame["id"]]).to_csv(path, index=False)
        labels |= {name: truth[name] for name in draw.ids}
        units = json.loads(path.with_name(f"draw-{wave}.json").read_text())["units"]
        table = draw.to_pandas()
        newest = table[table["wave"] == wave]
        assert newest["id"].tolist() == [one["id"] for one in units]
        chances = [one["chance"] for one in units]
        assert newest["chance"].tolist() == pytest.approx(chances, rel=1e-12)
        if not draw.complete:
            with pytest.raises(DataError, match=f"{wave} of 5 waves are drawn"):
                draw.estimate(labels)
            draw = draw.next_wave(labels)

    ran = rslow("estimate", "report", *words)
    assert ran.code == 0, ran.err
    report = draw.estimate(labels, level=0.9)
    stored = json.loads((tmp_path / "estimate" / "draw" / "report.json").read_text())
    assert str(report) in ran.out
    told = json.loads(json.dumps(report.to_json()))
    assert_alike({key: stored[key] for key in told}, told, 1e-12)
    assert report.interval.high == pytest.approx(stored["intervals"][0]["high"], rel=1e-12)
    with pytest.raises(DataError, match="waves are drawn"):
        draw.next_wave(labels)


def test_all_probabilities_tell_more_than_confidence() -> None:
    """The most probable class is the prediction; margin and entropy need all of them."""
    rng = np.random.default_rng(1)
    probability = rng.dirichlet([1, 1, 1], 300)
    names = CLASSES[probability.argmax(1)].tolist()
    by_classes = rl.Pool(probability, classes=CLASSES.tolist())
    assert by_classes.draw(40).ids == rl.Pool(probability.max(1), names).draw(40).ids
    table = by_classes.draw(40).to_pandas()
    assert table["predicted"].tolist() == [names[int(name)] for name in table["id"]]
    margin = rl.Pool(probability, names, measure="margin").draw(40).to_pandas()
    two = np.sort(probability, axis=1)[margin["id"].astype(int), -2:]
    np.testing.assert_allclose(margin["error_probability"], two[:, 0] / two.sum(1))
    with pytest.raises(DataError, match="which entropy needs"):
        rl.Pool(probability.max(1), names, measure="entropy")


def test_labels_that_do_not_fit_are_refused() -> None:
    """Missing, foreign, unknown and unclear ones; ids may be numbers, labels a Series."""
    frame = scores()
    pool = rl.Pool(frame["confidence"], frame["predicted"].tolist())
    draw = pool.draw(50)
    labels: dict[object, object] = {int(name): frame["label"][int(name)] for name in draw.ids}
    rate = draw.estimate(labels).error_rate
    assert rate == draw.estimate(pd.Series(labels)).error_rate
    first, *others = labels
    with pytest.raises(DataError, match="1 of 50 drawn units have no label"):
        draw.estimate({name: labels[name] for name in others})
    with pytest.raises(DataError, match="1 of 50 drawn units have no label"):
        draw.estimate({**labels, first: " "})
    with pytest.raises(DataError, match="x was not drawn"):
        draw.estimate({**labels, "x": "crop"})
    with pytest.raises(DataError, match="unknown class 'snow'"):
        draw.estimate({**labels, first: "snow"})
    assert draw.estimate({**labels, first: "snow"}, classes=["snow"]).never_predicted == {"snow": 1}
    with pytest.raises(DataError, match="nobody could tell"):
        draw.estimate({**labels, first: None})
    assert draw.estimate({**labels, first: "?"}, unclear="wrong").unclear.units == 1


def test_values_that_do_not_fit_are_refused() -> None:
    """A pool, a plan or a draw says in one line which of its values is wrong."""
    with pytest.raises(DataError, match="id 3, predicted 2, confidence 3"):
        rl.Pool([0.5, 0.6, 0.7], ["a", "b"])
    with pytest.raises(DataError, match="shape"):
        rl.Pool(np.full((1, 1, 1), 0.5), ["a"])
    with pytest.raises(DataError, match=r"the pool: 1 confidences outside 0\.\.1"):
        rl.Pool([0.5, 60.0], ["a", "b"])
    with pytest.raises(SettingsError, match="without predictions"):
        rl.Pool([0.5, 0.6])
    with pytest.raises(SettingsError, match="probabilities of 2 classes"):
        rl.Pool([[0.5, 0.5]], classes=["a"])
    few = rl.Pool([0.5, 0.6, 0.7], ["a", "b", "a"], labels=["a", "b", "b"])
    pool = rl.Pool([0.5, 0.6], ["a", "b"], validation=few)
    with pytest.raises(DataError, match="validation units has 3 labels"):
        pool.draw(2)
    pool = rl.Pool([0.5, 0.6], ["a", "b"])
    for wrong in ({"defensive": 0.0}, {"labels": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            pool.draw(**wrong)
    with pytest.raises(SettingsError, match="20 to 2"):
        pool.plan(20)


def test_the_core_packages_are_enough() -> None:
    """From arrays to a report without torch, scikit-learn or any extra."""
    code = (
        "from tests.without import brought_by, leave\n"
        "leave(brought_by(''))\n"
        "import sys\n"
        "import numpy as np, rs_lowconf as rl\n"
        "confidence = np.random.default_rng(0).beta(8, 1, 1000)\n"
        "pool = rl.Pool(confidence, ['crop'] * 1000)\n"
        "draw = pool.draw(labels=60)\n"
        "print(draw.estimate(dict.fromkeys(draw.ids, 'crop')))\n"
        "assert not {'torch', 'sklearn', 'torchgeo'} & set(sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Between 0 and 94 of 1,000 tiles are wrong (95 %)" in ran.stdout
