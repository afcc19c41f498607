"""A foreign model of three classes, from the search over reviews to a test set that measures it."""

import json
import sqlite3
import warnings
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from torch import Tensor, nn

from rs_lowconf.models import load_models
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.settings import load
from rs_lowconf.testset import read_release
from tests.conftest import Ran, run_program

BANDS = ("B04", "B08")
CLASSES = ("water", "built", "green")
MEANS = {
    **dict.fromkeys(("River", "SeaLake"), "water"),
    **dict.fromkeys(("Highway", "Industrial", "Residential"), "built"),
    **dict.fromkeys(
        ("AnnualCrop", "Forest", "HerbaceousVegetation", "Pasture", "PermanentCrop"), "green"
    ),
}
CONFIG = """
run: {{dir: {folder}/run, device: cpu}}
data: {{kind: none}}
target:
  kind: torchscript
  path: {folder}/three.pt
  bands: [B04, B08]
  classes: [water, built, green]
  class_map: {means}
search: {{count: 6, conditions: [River, Industrial], per_condition: 3, tau: 0.6,
         baseline_evaluations: 0}}
testset: {{licence: CC-BY-4.0}}
"""


class Three(nn.Module):
    """Tells water, built-up and green land by the means of the red and near-infrared bands."""

    def forward(self, image: Tensor) -> Tensor:
        red, infrared = image.mean((2, 3)).unbind(1)
        index = (infrared - red) / (infrared + red)
        return torch.stack([-12 * infrared + 1.2, 4 * red - 4 * index, 8 * index - 2], 1)


def said_of(path: Path) -> str:
    """Return what the model says of a tile, apart from rslow."""
    with rasterio.open(path) as tile:
        names = list(tile.descriptions)
        image = tile.read([names.index(name) + 1 for name in BANDS]) / 10_000
    scores = Three()(torch.from_numpy(image[None].astype(np.float32)))
    return CLASSES[int(scores.argmax())]


def run(folder: Path, *words: object) -> Ran:
    return run_program(*words, "-c", folder / "config.yaml")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose model was searched; the generator is the embedded one."""
    folder = tmp_path_factory.mktemp("three")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still in use
        torch.jit.trace(Three(), torch.rand(2, 2, 64, 64)).save(str(folder / "three.pt"))  # type: ignore[no-untyped-call]
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder, means=json.dumps(MEANS)))
    ran = run(folder, "generate", "--trust-code")
    assert ran.code == 0, ran.err
    return folder


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_from_search_to_test_set(project: Path) -> None:
    """Predictions keep the target's words, labels the generator's; right is what the map says."""
    generate, store = project / "run" / "generate", ReviewStore(project / "run" / STORE)
    rows = pq.read_table(generate / "samples.parquet").to_pylist()
    assert {row["condition"] for row in rows} == {"River", "Industrial"}
    page = (generate / "report.html").read_text()
    for row in rows:
        assert row["predicted"] == said_of(generate / row["tile"])
        known = MEANS[row["condition"]] == row["predicted"]
        name = "barely recognised" if known else f"taken for {row['predicted']}"
        assert f"{row['condition']} {name}" in page
    assert len({MEANS[row["condition"]] == row["predicted"] for row in rows}) == 2
    assert "water: River, SeaLake; built: Highway" in page
    # The form offers the generator's classes, and none of the target's.
    (package,) = store.packages()
    assert set(package.classes) == set(MEANS)

    # A reviewer finds another class that means the same in one tile, and one that does not.
    seen = {row["sample_id"]: row["condition"] for row in rows}
    river, industrial = (
        [name for name, one in seen.items() if one == own] for own in ("River", "Industrial")
    )
    seen |= {river[0]: "SeaLake", industrial[0]: "Forest"}
    with closing(sqlite3.connect(generate / "review" / "review.gpkg")) as database, database:
        database.executemany(
            "UPDATE review SET decision = 'accept', true_class = ?, reviewer = 'Ada',"
            " reviewed_ms = 1790000000000 WHERE sample_id = ?",
            [(one, name) for name, one in seen.items()],
        )
    for words in (("review", "import", generate / "review"), ("testset", "build")):
        ran = run(project, *words)
        assert ran.code == 0, ran.err
    tiles = read_release(project / "run" / "testset" / "v1").tiles
    assert {tile.sample_id: tile.class_name for tile in tiles} == seen
    right = {tile.sample_id: MEANS[str(tile.class_name)] == said_of(tile.path) for tile in tiles}
    assert 0 < sum(right.values()) < len(right)
    sheet = (project / "run" / "testset" / "v1" / "DATASHEET.md").read_text()
    assert f"was wrong on {len(right) - sum(right.values())} of {len(right)}" in sheet

    ran = run(project, "testset", "evaluate", "--trust-code")
    assert ran.code == 0, ran.err
    report = json.loads((project / "run" / "testset-v1.json").read_text())
    assert report["evaluated"] == len(tiles)
    assert report["left_out"] == {}
    assert report["accuracy"]["count"] == sum(right.values())
    counted = Counter((tile.class_name, said_of(tile.path)) for tile in tiles)
    for name in set(seen.values()):
        assert report["confusion"][name] == {word: counted[name, word] for word in CLASSES}
        assert report["class_accuracy"][name]["count"] == counted[name, MEANS[name]]
    # Without the map no class of the release is one of the target's.
    ran = run(project, "testset", "evaluate", "--trust-code", "-s", "target.class_map={}")
    assert ran.code == 5
    assert "the target knows none of the classes" in ran.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("target.class_map.River=watr", "maps River to watr, which the target does not name"),
        ("target.class_map.Rivr=water", "maps Rivr, which none of the target, the generator names"),
        ("target.class_map={River: water}", "lacks AnnualCrop, Forest, HerbaceousVegetation, High"),
        ("target.class_map.water=wet", "River is mapped to water, and water to wet; expected one"),
    ],
)
def test_maps_that_do_not_fit_end_in_one_line(project: Path, change: str, said: str) -> None:
    """Before any search: what was found, what was expected, and what to do."""
    ran = run(project, "generate", "--trust-code", "-s", change, "--name", "other")
    assert ran.code == 3, ran.err
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (project / "run" / "other" / "samples.parquet").exists()


def test_what_it_depends_on_holds_the_map_only_where_there_is_one(project: Path) -> None:
    """A search without a map goes on with its journal of before; one with another map does not."""
    config = project / "config.yaml"
    mapped = load_models(load(config, []), trust_code=True).fingerprint
    plain = load_models(load(config, ["target.class_map={}"]), trust_code=True).fingerprint
    assert mapped.pop("class map") == MEANS
    assert mapped == plain
    assert "class_map" not in plain["target settings"]
