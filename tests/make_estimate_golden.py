"""What every sampling design draws, expects, estimates and says of a fixed small pool.

`python -m tests.make_estimate_golden` writes `estimate_golden.json`, which
`test_estimate_golden.py` compares with what the package does. Write it anew only where a number or
a word is to change.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd

from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.replay import replay
from rs_lowconf.settings import DesignName
from tests.conftest import run_program

GOLDEN = Path(__file__).parent / "estimate_golden.json"
CLASSES = np.array(["crop", "forest", "water"])
LABELS = 24
UNCLEAR = 7
"""Of every so many units nobody can tell the class."""


def scores(n: int, seed: int) -> pd.DataFrame:
    """Return what a model says of units of ten tiles, with their true classes."""
    rng = np.random.default_rng(seed)
    g = rng.beta(0.5, 2.0, n)
    predicted = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    truth = np.where(rng.random(n) < g, (predicted + 1) % 3, predicted)
    return pd.DataFrame(
        {
            "id": [f"u{number}" for number in range(n)],
            "predicted": CLASSES[predicted],
            "confidence": 1 - g,
            "label": CLASSES[truth],
            "group": [f"t{number % 10}" for number in range(n)],
        }
    )


def observed(folder: Path, designs: Sequence[DesignName]) -> dict[str, Any]:
    """Return the plan, replays, and each of some designs from its first wave to its report."""
    scores(150, 3).to_csv(folder / "pool.csv", index=False)
    return {
        "plan": _plan(folder, designs),
        "replayed": _replayed(designs),
        "designs": {name: _design(folder, name) for name in designs},
    }


def leaves(values: Any, key: str = "") -> list[tuple[str, Any]]:
    """Return all that JSON values hold, each with its path, in order."""
    if isinstance(values, dict):
        found = [(f"{key}.{name}", part) for name, part in values.items()]
    elif isinstance(values, list):
        found = [(f"{key}.{number}", part) for number, part in enumerate(values)]
    else:
        return [(key, values)]
    return [leaf for name, part in found for leaf in leaves(part, name)]


def assert_alike(found: Any, wanted: Any, tolerance: float) -> None:
    """Keys in order, words and whole numbers are the same, others to a tolerance."""
    before, after = leaves(wanted), leaves(found)
    assert [key for key, _ in after] == [key for key, _ in before]
    for (key, old), (_, new) in zip(before, after, strict=True):
        if isinstance(old, float):
            assert math.isclose(new, old, rel_tol=tolerance, abs_tol=tolerance), (key, new, old)
        else:
            assert new == old, key


def _settings(folder: Path, *more: str) -> list[str]:
    words = (
        f"run.dir={folder}",
        "run.seed=5",
        f"estimate.scores={folder / 'pool.csv'}",
        f"estimate.budget={LABELS}",
        "estimate.level=0.9",
        "estimate.unclear=wrong",
        *more,
    )
    return [part for word in words for part in ("--set", word)]


def _ran(folder: Path, *words: str) -> list[str]:
    """Return the lines that a command printed, without folders and settings of the next one."""
    ran = run_program("estimate", *words)
    assert ran.code == 0, ran.err
    printed = ran.out.replace(str(folder), "FOLDER")
    return [line.split(" --set ")[0] for line in printed.splitlines()]


def _plan(folder: Path, designs: Sequence[DesignName]) -> dict[str, Any]:
    printed = _ran(folder, "plan", *_settings(folder, "estimate.width=0.3"))
    stored = json.loads((folder / "estimate" / "plan.json").read_text())
    rows = [list(row.values()) for row in stored.pop("prospects")]
    return {
        "printed": printed[: printed.index("")],
        **stored,
        "prospects": [row for row in rows if row[0] in (*designs, "ppi")],
    }


def _design(folder: Path, design: str) -> dict[str, Any]:
    own = [*_settings(folder, f"estimate.design={design}"), "--name", design]
    truth = dict(zip(scores(150, 3)["id"], scores(150, 3)["label"], strict=True))
    path, draws, printed = folder / "estimate" / design, list[dict[str, Any]](), list[str]()
    while not draws or draws[-1]["wave"] < draws[-1]["waves"]:
        printed += _ran(folder, "draw", *own)
        wave = len(draws) + 1
        stored = json.loads((path / f"draw-{wave}.json").read_text())
        units = stored.pop("units")
        # Checksums hold every digit, and the libraries that draw them may differ in the last one.
        for name in ("sha256", "before", "pool_sha256"):
            del stored[name]
        keys = [*stored, *units[0]]
        columns = {key: [unit[key] for unit in units] for key in units[0] if key != "id"}
        draws.append({"keys": keys, **stored, **columns})
        table = pd.read_csv(path / f"labels-{wave}.csv", dtype=str, keep_default_na=False)
        labels = [
            "?" if int(name[1:]) % UNCLEAR == 0 else truth[name] for name in table["id"].tolist()
        ]
        table.assign(label=labels).to_csv(path / f"labels-{wave}.csv", index=False)
    printed += _ran(folder, "report", *own)
    report = json.loads((path / "report.json").read_text())
    # Dates and versions among the facts are never the same again.
    del report["draw"]["sha256"], report["facts"]
    paragraphs = [
        line
        for line in (path / "report.md").read_text().splitlines()
        if any(sign.isdigit() for sign in line) and not line.startswith("|")
    ]
    return {"draws": draws, "printed": printed, "report": report, "page": paragraphs}


def _replayed(designs: Sequence[DesignName]) -> list[dict[str, Any]]:
    frame = scores(150, 3)
    pool = Pool(
        g=1 - frame["confidence"].to_numpy(),
        predicted=pd.Categorical(frame["predicted"]).codes.astype(np.int64),
    )
    error = (frame["label"] != frame["predicted"]).to_numpy()
    cells = replay(
        pool,
        error,
        methods=(*designs, "ppi"),
        budgets=(30,),
        repetitions=3,
        seed=2,
        defensive=0.3,
        betting_repetitions=2,
    )
    return json.loads(json.dumps([asdict(cell) for cell in cells]))  # type: ignore[no-any-return]  # a list


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        GOLDEN.write_text(
            json.dumps(observed(Path(folder), get_args(DesignName)), separators=(",", ":")) + "\n"
        )
