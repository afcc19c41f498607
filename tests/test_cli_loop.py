"""The loop of search, review and update as operators and reviewers meet it."""

import html
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rs_lowconf.gan.condition import TileClasses
from rs_lowconf.gan.model import load_critic
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.store import ReviewStore
from rs_lowconf.runs import read_checkpoint, sha256_of
from rs_lowconf.search.calibration import load_calibration
from rs_lowconf.testset import read_release
from tests.conftest import Run, run_program

SETTINGS = (
    *("-s", "review.mode=blind", "-s", "search.count=40", "-s", "search.per_condition=20"),
    # So that the gate of these small models rejects some.
    *("-s", "search.false_rejection=0.3"),
)
#: For rounds of which only some samples are looked at.
FEW = (*SETTINGS, "-s", "search.count=8")
NOW = 1_790_000_000_000


def review(folder: Path, store: ReviewStore, *, reviewer: str = "Ada") -> None:
    """Decide on every sample by a written rule, as QGIS writes it.

    Real tiles are accepted; generated ones are rejected when they are darker than most.
    """
    reviewed = read_package(folder)
    origin = {one.sample_id: one for one in store.samples(reviewed.package_id)}
    bright = {
        one.sample_id: float(read_tile(folder / "tiles" / f"{one.sample_id}.tif").pixels.mean())
        for one in reviewed.answers
    }
    level = np.median([bright[n] for n, one in origin.items() if one.origin != "real"])
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        for number, (name, one) in enumerate(origin.items()):
            accept = one.origin == "real" or bright[name] > level
            database.execute(
                "UPDATE review SET decision = ?, true_class = ?, reviewer = ?, reviewed_ms = ?"
                " WHERE sample_id = ?",
                (
                    "accept" if accept else "reject",
                    one.condition if accept else None,
                    reviewer,
                    NOW + 7_000 * number,
                    name,
                ),
            )


@pytest.fixture(scope="module")
def generated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with one blind round, reviewed and imported."""
    folder = tmp_path_factory.mktemp("loop") / "project"
    shutil.copytree(trained, folder)
    config = folder / "config.yaml"
    text = config.read_text().replace(str(trained), str(folder))
    config.write_text(f"{text}testset: {{licence: CC-BY-4.0}}\n")
    run(folder, "generate", *SETTINGS)
    review(folder / "run" / "generate" / "review", store_of(folder))
    run(folder, "review", "import", folder / "run" / "generate" / "review")
    return folder


@pytest.fixture
def reviewed(generated: Path, tmp_path: Path) -> Path:
    """Return a copy of that project which a test may change."""
    folder = tmp_path / "reviewed"
    shutil.copytree(generated, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(generated), str(folder)))
    return folder


def run(project: Path, *words: object) -> str:
    """Run the program and return what it prints."""
    ran = run_program(*words, "-c", project / "config.yaml")
    assert ran.code == 0, ran.err
    return ran.out


def store_of(project: Path) -> ReviewStore:
    return ReviewStore(project / "run" / "reviews.sqlite")


def test_a_blind_package_mixes_origins_and_tells_none(generated: Path) -> None:
    """Shares of real and audit tiles are as set; files and order do not betray the origin."""
    folder = generated / "run" / "generate" / "review"
    (package,) = store_of(generated).packages()
    sent = store_of(generated).samples(package.package_id)
    counts = {o: sum(one.origin == o for one in sent) for o in ("found", "audit", "real")}
    assert counts["found"] == 40
    assert counts["real"] == round(40 * 0.3 / 0.6)
    assert 0 < counts["audit"] <= round(40 * 0.1 / 0.6)
    tags = [read_tile(folder / "tiles" / f"{one.sample_id}.tif").tags for one in sent]
    assert all(tag == tags[0] for tag in tags)
    told = b"".join(p.read_bytes() for p in folder.rglob("*") if p.suffix in (".json", ".gpkg"))
    assert not any(word in told for word in (b"audit", b"cond_class", b"observed"))
    order = [one.origin for one in sent]
    assert len(set(order[:20])) > 1
    assert len(set(order[20:])) > 1


def test_what_the_store_keeps_leads_to_every_tile(generated: Path) -> None:
    """Each sample's own GeoTIFF is there with its checksum and the pixels of the package."""
    (package,) = store_of(generated).packages()
    for one in store_of(generated).samples(package.package_id):
        path = generated / "run" / one.tile
        assert sha256_of(path) == one.sha256
        shown = generated / "run" / package.folder / "tiles" / f"{one.sample_id}.tif"
        np.testing.assert_array_equal(read_tile(path).pixels, read_tile(shown).pixels)
        synthetic = read_tile(path).tags["RSLOW_SYNTHETIC"]
        assert synthetic == ("false" if one.origin == "real" else "true")


def test_audited_tiles_were_rejected_by_the_gate(generated: Path) -> None:
    """Their gate score lies below that of nearly all found ones, and none is in the table."""
    (package,) = store_of(generated).packages()
    sent = store_of(generated).samples(package.package_id)
    scores: dict[str, list[float]] = {"found": [], "audit": []}
    for one in sent:
        if one.gate_score is not None and one.origin in scores:
            scores[one.origin].append(one.gate_score)
    assert max(scores["audit"]) <= np.quantile(scores["found"], 0.1)
    table = pq.read_table(generated / "run" / "generate" / "samples.parquet").to_pylist()
    audited = {one.sample_id for one in sent if one.origin == "audit"}
    assert not audited & {row["sample_id"] for row in table}


LABEL = torch.zeros(1, dtype=torch.long)


def reflectance(path: Path) -> torch.Tensor:
    """Return a tile, 1 c h w."""
    return torch.from_numpy(read_tile(path).pixels.astype(np.float32) / 10_000)[None]


def test_an_update_changes_the_gate_of_the_next_round(reviewed: Path) -> None:
    """The next round finds other tiles through a gate with the head, calibrated as before."""
    said = run(reviewed, "status")
    assert "Next: rslow update" in said
    run(reviewed, "update")
    made = reviewed / "run" / "update-1"
    report = json.loads((made / "report.json").read_text())
    assert report["head"]["auc"] > 0.8  # brightness is easy to learn
    assert not report["critic_refined"]
    page = html.unescape((made / "report.html").read_text())
    assert report["gate"]["before"]["parts"] == report["gate"]["after"]["parts"][:-1]
    assert page.count("<article>") == len(report["reviewed"])
    assert f"AUC of {report['head']['auc']:.2f}" in page
    assert f"learned from {report['head']['accepted']} accepted" in page
    said = run(reviewed, "status")
    assert "Updates of the gate: 1" in said
    assert "Next: rslow generate --name round-2" in said
    run(reviewed, "generate", "--name", "round-2", *FEW)
    again = json.loads((reviewed / "run" / "round-2" / "report.json").read_text())
    assert "reviews" in again["gate"]["parts"]
    assert again["gate"]["joint_false_rejection_at_most"] <= 0.3
    packages = store_of(reviewed).packages()
    assert [one.round for one in packages] == [1, 2]
    first, second = (
        {one.sample_id for one in store_of(reviewed).samples(p.package_id) if one.origin != "real"}
        for p in packages
    )
    assert not first & second
    path = made / "critic.safetensors"
    _, header = read_checkpoint(path, "critic")
    conditions = TileClasses(names=tuple(header["classes"]))
    critic = load_critic(path, conditions, torch.device("cpu"))
    head = load_calibration(made / "calibration.safetensors", {}).head
    assert head is not None
    folder = reviewed / "run" / "round-2"
    for row in pq.read_table(folder / "samples.parquet").to_pylist():
        told = head.part(critic.features)(reflectance(folder / row["tile"]), LABEL)
        assert row["gate_reviews"] == pytest.approx(float(told), abs=1e-4)
    run(reviewed, "generate", "--name", "without", "-s", "search.update=0", *FEW)
    old = json.loads((reviewed / "run" / "without" / "report.json").read_text())
    assert "reviews" not in old["gate"]["parts"]


@pytest.mark.slow
def test_many_rejects_refine_the_critic_and_on_request_the_generator(reviewed: Path) -> None:
    """Critic and generator of the update are other ones, fit each other, and are used."""
    run(
        reviewed,
        "update",
        *("-s", "update.refine_from=10", "-s", "update.images=64"),
        *("-s", "update.generator_images=64"),
    )
    made = reviewed / "run" / "update-1"
    report = json.loads((made / "report.json").read_text())
    assert report["critic_refined"]
    for name, stage in (("critic", "gate"), ("gan", "gan")):
        before = reviewed / "run" / stage / f"{name}.safetensors"
        assert sha256_of(made / f"{name}.safetensors") != sha256_of(before)
    said = run(reviewed, "generate", "--name", "round-2", *FEW)
    assert "8 hard samples" in said
    models = json.loads((reviewed / "run" / "round-2" / "report.json").read_text())["models"]
    assert models["GAN file"] == sha256_of(made / "gan.safetensors")
    assert models["critic file"] == sha256_of(made / "critic.safetensors")


def test_the_loop_report_counts_what_was_said(rslow: Run, generated: Path) -> None:
    """Acceptance, label kept, false rejection and seconds follow from the written rule."""
    ran = rslow("status", "-c", generated / "config.yaml")
    assert ran.code == 0, ran.err
    report = json.loads((generated / "run" / "loop.json").read_text())["rounds"]["1"]
    assert report["real_rejected"]["count"] == 0
    assert report["label_kept"]["value"] == 1
    assert report["seconds_a_sample"] == 7
    assert report["accepted"]["count"] + report["rejected"]["count"] == 40
    assert report["gate_auc"]["of_them_audit"] > 0


@pytest.mark.slow
def test_updates_need_new_reviews(rslow: Run, reviewed: Path, project: Path) -> None:
    """Without any, or without new ones, the message says what to do and nothing is written."""
    ran = rslow("update", "-c", project / "config.yaml")
    assert ran.code == 6
    assert "run rslow status" in ran.err
    run(reviewed, "update")
    ran = rslow("update", "-c", reviewed / "config.yaml")
    assert ran.code == 6
    assert "since update 1" in ran.err
    assert not (reviewed / "run" / "update-2").exists()


def test_an_edited_tile_teaches_nothing(rslow: Run, reviewed: Path) -> None:
    """A reviewed tile that was changed since is refused by name."""
    (package,) = store_of(reviewed).packages()
    sent = store_of(reviewed).samples(package.package_id)
    path = reviewed / "run" / next(one.tile for one in sent if one.origin == "found")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    ran = rslow("update", "-c", reviewed / "config.yaml")
    assert ran.code == 6
    assert f"{path.name} was edited" in ran.err


def test_packages_are_checked_before_anything_is_imported(rslow: Run, reviewed: Path) -> None:
    """A damaged second package keeps the first one out too, and the store as it is."""
    good = reviewed / "run" / "generate" / "review"
    bad = reviewed / "bad"
    shutil.copytree(good, bad)
    os.truncate(bad / "review.gpkg", 4_000)
    before = sha256_of(store_of(reviewed).path)
    ran = rslow("review", "import", good, bad, "-c", reviewed / "config.yaml")
    assert ran.code == 6
    assert "review.gpkg cannot be read" in ran.err
    assert sha256_of(store_of(reviewed).path) == before


def test_status_and_agreement_tell_reviewers_apart(
    rslow: Run, reviewed: Path, tmp_path: Path
) -> None:
    """Two copies by reviewers of one name are two reviewers; what they dispute is exported."""
    first = reviewed / "run" / "generate" / "review"
    second = tmp_path / "second"
    shutil.copytree(first, second)
    with closing(sqlite3.connect(second / "review.gpkg")) as database, database:
        database.execute("UPDATE review SET decision = 'reject', true_class = NULL WHERE fid <= 5")
    ran = rslow("review", "status", first, second)
    assert ran.out.count(" by Ada; package") == 2
    ran = rslow(
        *("review", "agreement", first, second, "-c", reviewed / "config.yaml"),
        *("--export", tmp_path / "settle"),
    )
    assert ran.code == 0, ran.err
    layer = geopandas.read_file(tmp_path / "settle" / "review.gpkg", layer="review")
    both = [geopandas.read_file(f / "review.gpkg", layer="review") for f in (first, second)]
    differ = both[0].sample_id[both[0].decision != both[1].decision]
    assert set(layer.sample_id) == set(differ)
    assert layer.decision.isna().all()


def test_a_release_needs_a_licence(rslow: Run, reviewed: Path) -> None:
    """Without testset.licence no release is written; with it, the release carries its text."""
    config = ("-c", reviewed / "config.yaml")
    for nothing in ("null", "' '"):
        ran = rslow("testset", "build", *config, "-s", f"testset.licence={nothing}")
        assert ran.code == 3
        assert "testset.licence" in ran.err
        assert len(ran.err.splitlines()) == 1
    assert not (reviewed / "run" / "testset").exists()
    ran = rslow("testset", "build", *config)
    assert ran.code == 0, ran.err
    assert read_release(reviewed / "run" / "testset" / "v1").licence == "CC-BY-4.0"


def test_a_release_is_built_again_from_the_store(rslow: Run, reviewed: Path) -> None:
    """All accepted generated samples and no real one; the same answers, the same checksums."""
    config = ("-c", reviewed / "config.yaml")
    assert rslow("testset", "build", *config).code == 0
    first = reviewed / "run" / "testset" / "v1"
    judged = store_of(reviewed).opinions()
    (package,) = store_of(reviewed).packages()
    sent = {one.sample_id: one for one in store_of(reviewed).samples(package.package_id)}
    wanted = {
        one.sample_id
        for one in judged
        if one.decision == "accept" and sent[one.sample_id].origin != "real"
    }
    assert {path.stem for path in (first / "tiles").glob("*.tif")} == wanted
    answers = store_of(reviewed).answers()
    # A changed answer leads to another release, and not into the first one.
    layer = reviewed / "run" / "generate" / "review" / "review.gpkg"
    lost = sorted(wanted)[0]
    with closing(sqlite3.connect(layer)) as database, database:
        database.execute(
            "UPDATE review SET decision = 'reject', true_class = NULL, reviewed_ms = ?"
            " WHERE sample_id = ?",
            (NOW * 2, lost),
        )
    assert rslow("review", "import", layer.parent, *config).code == 0
    assert rslow("testset", "build", *config).code == 0
    second = reviewed / "run" / "testset" / "v2"
    assert not (second / "tiles" / f"{lost}.tif").exists()
    assert json.loads((second / "release.json").read_text())["parent"]["removed"] == [lost]
    again = reviewed / "elsewhere" / "v1"
    ran = rslow("testset", "build", "--out", again, "--answers", answers, *config)
    assert ran.code == 0, ran.err
    assert (again / "SHA256SUMS").read_bytes() == (first / "SHA256SUMS").read_bytes()
    ran = rslow("testset", "build", "--out", first, *config)
    assert ran.code == 8
    assert "never changes" in ran.err


def test_a_target_is_measured_on_a_release(rslow: Run, reviewed: Path) -> None:
    """The report has a line a class and round; a release that was edited is refused."""
    config = ("-c", reviewed / "config.yaml")
    ran = rslow("testset", "evaluate", *config)
    assert ran.code == 6
    assert "rslow testset build" in ran.err
    assert rslow("testset", "build", *config).code == 0
    ran = rslow("testset", "evaluate", *config)
    assert ran.code == 0, ran.err
    assert "never be averaged" in ran.out
    report = json.loads((reviewed / "run" / "testset-v1.json").read_text())
    assert report["round_accuracy"].keys() == {"1"}
    other = reviewed / "run" / "extractor" / "extractor.safetensors"
    ran = rslow("testset", "evaluate", other, *config)
    assert ran.code == 0, ran.err
    assert json.loads((reviewed / "run" / "testset-v1.json").read_text()) != report
    tile = next((reviewed / "run" / "testset" / "v1" / "tiles").glob("*.tif"))
    tile.write_bytes(tile.read_bytes()[:-9])
    ran = rslow("testset", "evaluate", *config)
    assert ran.code == 4
    assert tile.name in ran.err


KILL_UPDATES = """
import shutil, sys
from pathlib import Path
import kornia.augmentation, sklearn.model_selection, timm, torch, torchgeo.datasets
import rs_lowconf.workflows.update
from rs_lowconf.cli import main
from rs_lowconf.runs import read_checkpoint, sha256_of
from tests.kills import run_and_kill

torch.set_num_threads(1)
run, states = Path(sys.argv[2]), Path(sys.argv[3])
made = run / "update-1"
sys.argv = ["rslow", "update", "-c", sys.argv[1]]

def keep(number):
    (states / f"{number:04d}").mkdir(parents=True)
    for folder in run.glob("*update-1*"):
        shutil.copytree(folder, states / f"{number:04d}" / folder.name)

def content(folder):
    return {path.name: sha256_of(path) for path in folder.iterdir()}

ended, events = run_and_kill(main, run, before=keep)
assert ended == "done"
rename = events.index("os.rename /update-1")
unfinished = []
for number in range(len(events)):
    state = states / f"{number:04d}"
    if number > rename:
        assert content(state / made.name) == content(made)
    else:
        assert not (state / made.name).exists()
    unfinished += [number for path in state.iterdir() if path.name != made.name]
assert max(unfinished) == rename
assert len({str(content(path)) for path in states.glob("*/.*")}) > 5

names = set(content(made))
shutil.rmtree(made)
assert run_and_kill(main, run, unfinished[len(unfinished) // 2])[0] == "killed"
assert [path.name for path in run.glob("*update-1*")] != [made.name]
assert run_and_kill(main, run)[0] == "done"
assert [path.name for path in run.glob("*update-1*")] == [made.name]
assert set(content(made)) == names
for name, kind in (("critic", "critic"), ("calibration", "gate calibration")):
    read_checkpoint(made / f"{name}.safetensors", kind)
"""


@pytest.mark.slow
def test_a_killed_update_leaves_a_whole_one_or_none(reviewed: Path, tmp_path: Path) -> None:
    """Kill -9 at any change of files: an update is there whole, or not at all.

    A kill leaves on disk what is there. So one run shows what each kill would leave, and one that
    is killed shows that the next is not in the way of what it left. The store is unharmed.
    """
    before = sha256_of(store_of(reviewed).path)
    words = [str(reviewed / "config.yaml"), str(reviewed / "run"), str(tmp_path / "states")]
    result = subprocess.run(
        [sys.executable, "-c", KILL_UPDATES, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr
    assert sha256_of(store_of(reviewed).path) == before
