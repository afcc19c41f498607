"""What the first version wrote is still read, and draws the same tiles.

`older/version-0.1.zip` is the folder of a run on drawn tiles (`make_tiles.py`, 16 of each class) by
the code of commit 3001176: trainings as in `conftest.py`, a blind search for six tiles, its package
reviewed by the rule of `test_cli_loop.py` and imported, a release, a catalog, its scores, a draw of
20 tiles, all with the settings in `config.yaml`, whose names are those of that version.

`older/masks.zip` holds a generator of tiles with given masks and a critic by the code of that
commit: of `FakeMasks`, after four steps and with noise on all weights, so that no block is the
identity; and in `drawn.npz` what they made of four latents.
"""

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import rs_lowconf as rl
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.estimate.stored import read_draw, read_pool
from rs_lowconf.gan.model import load_critic, load_model
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.testset import read_release
from tests.conftest import Ran, Run
from tests.fakes import FakeMasks

CPU = torch.device("cpu")

SETTINGS = """
run: {{dir: {folder}/run, models: trained, threads: 1}}
data: {{kind: folder, root: {folder}/tiles, tile_size: 32, val_share: 0.45, test_share: 0.1}}
target: {{kind: trained}}
search: {{count: 6, per_condition: 3, tau: 0.9, slots: 6, micro_batch: 3, max_evaluations: 4000,
         baseline_evaluations: 40, per_cell: null, novelty_quantile: null, false_rejection: 0.3}}
review: {{mode: blind}}
"""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return a copy of that run, with the same settings by their present names."""
    with zipfile.ZipFile(Path(__file__).parent / "older" / "version-0.1.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "config.yaml").write_text(SETTINGS.format(folder=tmp_path))
    return tmp_path


def ok(ran: Ran) -> str:
    """Return what a command printed that ended well."""
    assert ran.code == 0, ran.err
    return ran.out


def without(tags: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the tags but for some."""
    return {name: text for name, text in tags.items() if name not in names}


def test_packages_and_stores_are_read(older: Path, rslow: Run) -> None:
    """All answers, origins and predictions of the reviewed samples are there."""
    package = rl.read_review(older / "run" / "generate" / "review")
    decisions = [answer.decision for answer in package.answers]
    assert (decisions.count("accept"), decisions.count("reject")) == (6, 3)
    sent = ReviewStore(older / "run" / STORE).samples(package.package_id)
    assert {sample.origin for sample in sent} == {"found", "real"}
    assert {sample.sample_id for sample in sent} == {one.sample_id for one in package.answers}
    assert all(sample.prediction is not None for sample in sent)
    assert "Round 1: 9 of 9 samples reviewed" in ok(rslow("status", "-c", older / "config.yaml"))


def test_a_release_is_read_and_built_on(older: Path, rslow: Run) -> None:
    """Tiles and classes are there, and the next release has the first one as its parent."""
    first = read_release(older / "run" / "testset" / "v1")
    assert [tile.class_name for tile in first.tiles] == ["fields"] * 3
    words = ("-c", older / "config.yaml", "-s", "testset.licence=CC0-1.0")
    ok(rslow("testset", "build", *words))
    second = read_release(older / "run" / "testset" / "v2")
    assert second.parent is not None
    assert second.parent.checksum == first.checksum


def test_a_catalog_and_its_scores_are_read(older: Path, rslow: Run) -> None:
    """The tiles are counted, the finished job is told as finished, and its scores are a pool."""
    config = ("-c", older / "config.yaml")
    assert len(Catalog(older / "run" / "catalog.parquet")) == 48
    assert "48 of 48 tiles done, 0 failed, 0 left" in ok(rslow("batch", "status", *config))
    assert "48 units" in ok(rslow("estimate", "plan", *config, "-s", "estimate.budget=20"))


def test_a_draw_is_labelled_and_reported(older: Path, rslow: Run) -> None:
    """The design by its former name is the present one, and its labels give a report."""
    folder = older / "run" / "estimate" / "draw"
    stored = json.loads((folder / "draw-1.json").read_text())
    assert stored["design"] == "strat"
    drawn = read_draw(folder / "draw-1.json", read_pool(folder))
    assert drawn.request.design == drawn.draw.design == "stratified"
    with (folder / "labels-1.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "labels-1.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": row["id"].split("/")[1]} for row in rows)
    scores = f"estimate.scores={older / 'run' / 'batch' / 'score' / 'scores.parquet'}"
    words = ("-c", older / "config.yaml", "-s", scores, "-s", "estimate.budget=20")
    assert "20 labels" in ok(rslow("estimate", "report", *words))
    again = rslow("estimate", "draw", *words)
    assert "Drawn and labelled" in ok(again)


def test_the_same_seeds_find_the_same_tiles(older: Path, rslow: Run) -> None:
    """The models are loaded, and a search with the same settings finds the same tiles.

    Pixels may differ by a rounding where another version of torch adds in another order.
    """
    before = older / "run" / "generate" / "tiles"
    out = ok(rslow("generate", "-c", older / "config.yaml", "--name", "again"))
    assert "6" in out
    after = older / "run" / "again" / "tiles"
    names = sorted(path.name for path in before.iterdir())
    assert names == sorted(path.name for path in after.iterdir())
    for name in names:
        old, new = read_tile(before / name), read_tile(after / name)
        assert np.abs(old.pixels.astype(int) - new.pixels.astype(int)).max() <= 1, name
        measured = ("RSLOW_CONFIDENCE", "RSLOW_REALISM")
        assert without(old.tags, *measured) == without(new.tags, *measured)
        for tag in measured:
            assert float(old.tags[tag]) == pytest.approx(float(new.tags[tag]), abs=0.01)


def test_a_generator_of_masks_and_its_critics_are_as_they_were(tmp_path: Path) -> None:
    """Tiles, realism, agreement with the masks and features are those of the first code.

    They are equal but for what another version of torch adds in another order.
    """
    with zipfile.ZipFile(Path(__file__).parent / "older" / "masks.zip") as archive:
        archive.extractall(tmp_path)
    drawn = {name: torch.from_numpy(part) for name, part in np.load(tmp_path / "drawn.npz").items()}
    model = load_model(tmp_path / "gan.safetensors", CPU)
    generator, critic = model.masked
    assert model.condition.pixelwise
    assert model.condition.names == FakeMasks(generator.bands, 4).ids
    assert model.header["attribution"] == "nobody: drawn masks"
    gate = load_critic(tmp_path / "critic.safetensors", generator.bank, CPU)
    label = torch.arange(4)
    with torch.no_grad():
        image = generator(drawn["z"], label)
        found = {
            "image": image,
            "realism": critic.realism(image, label),
            "gate": gate.realism(image, label),
            "agreement": gate.agreement(image, label),
            "features": gate.features(image),
        }
    for name, values in found.items():
        torch.testing.assert_close(values, drawn[name], atol=1e-5, rtol=1e-4, msg=name)
