"""`rslow batch suspects`: labels that the target finds unlikely."""

from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf.batch.suspects import suspicion
from rs_lowconf.runs import classes_of
from tests.conftest import Run
from tests.stories import tells, type_printed
from tests.test_batch_review import scores_of, shown


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_a_label_is_as_suspicious_as_another_class_is_likelier(k: int, seed: int) -> None:
    """By a plain loop: from -1 for a certain label to 1 for an impossible one."""
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(k, 0.5), 20)
    label = rng.integers(k, size=20)
    for row, name, found in zip(
        probability.tolist(), label.tolist(), suspicion(probability, label).tolist(), strict=True
    ):
        others = [value for number, value in enumerate(row) if number != name]
        assert found == pytest.approx(max(others) - row[name])
        assert -1 <= found <= 1
    sure = np.eye(k)[label[:3]]
    assert (suspicion(sure, label[:3]) == -1).all()
    assert (suspicion(sure, (label[:3] + 1) % k) == 1).all()


@tells("cli/batch.py:_scored:batch score", "cli/batch.py:_show_real:review import")
def test_wrong_labels_come_first(project: Path, rslow: Run) -> None:
    """In the order of suspicion, with the label as the suggestion."""
    config = ("-c", project / "config.yaml")
    assert rslow("catalog", "build", *config).code == 0
    path = project / "run" / "catalog.parquet"
    table = pq.read_table(path)
    labels = table["rslow:label"].to_pylist()
    names = sorted({name for name in labels if name})
    for place in (3, 11, 20, 29):
        labels[place] = names[(names.index(labels[place]) + 1) % len(names)]
    index = table.column_names.index("rslow:label")
    pq.write_table(table.set_column(index, "rslow:label", pa.array(labels, pa.string())), path)
    asked = ("-s", "batch.executor=serial", "-s", "review.max_samples=8")
    refused = rslow("batch", "suspects", *config, *asked)
    assert refused.code == 7
    type_printed(refused, "batch score")
    ran = rslow("batch", "suspects", *config, *asked)
    assert ran.code == 0, ran.err
    scores = scores_of(project)
    classes = classes_of(project / "run" / "target" / "target.safetensors")
    margins = {}
    for name, row in scores.iterrows():
        said = dict(zip(classes, row["probabilities"], strict=True))
        own = said.pop(row["label"])
        margins[str(name)] = max(said.values()) - own
    wrong = (scores["label"] != scores["predicted"]).sum()
    assert f"{wrong} of {len(scores)} labels differ" in ran.out
    assert shown(project) == sorted(margins, key=lambda name: (-margins[name], name))[:8]
    suggested = geopandas.read_file(
        project / "run" / "batch" / "review" / "review.gpkg", layer="review"
    )["cond_class"]
    assert suggested.tolist() == [scores["label"][name] for name in shown(project)]
    type_printed(ran, "review import", code=0)


def test_tiles_without_known_labels_are_refused(project: Path, rslow: Run) -> None:
    """Without labels there is nothing to suspect, which is said in one line."""
    config = ("-c", project / "config.yaml")
    assert rslow("catalog", "build", *config).code == 0
    path = project / "run" / "catalog.parquet"
    table = pq.read_table(path)
    index = table.column_names.index("rslow:label")
    none = pa.nulls(len(table), pa.string())
    pq.write_table(table.set_column(index, "rslow:label", none), path)
    words = ("-s", "batch.executor=serial", "-s", "batch.seconds=null")
    assert rslow("batch", "score", *config, *words).code == 0
    ran = rslow("batch", "suspects", *config, *words)
    assert ran.code == 7
    assert "has a label that the target knows" in ran.err
    assert len(ran.err.strip().splitlines()) == 1
