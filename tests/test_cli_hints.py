"""What to type next, typed as it is printed; see `tests.stories`."""

import ast
import re
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import yaml

from rs_lowconf.cli import hints
from rs_lowconf.cli.app import app
from rs_lowconf.errors import DataError, RsLowconfError
from rs_lowconf.review.reading import read_package
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from tests.conftest import Run
from tests.stories import ROOT, places, printed, tells, type_printed

NOW = 1_790_000_000_000
TESTS = Path(__file__).parent


def decide(package: Path, decisions: Sequence[str], reviewer: str = "Ada") -> None:
    """Decide on the first samples of a package, as QGIS writes it."""
    reviewed = read_package(package)
    name = reviewed.classes[0] if reviewed.classes else None
    with closing(sqlite3.connect(package / "review.gpkg")) as database, database:
        for number, (one, said) in enumerate(zip(reviewed.answers, decisions, strict=False)):
            database.execute(
                "UPDATE review SET decision = ?, true_class = ?, reviewer = ?, reviewed_ms = ?"
                " WHERE sample_id = ?",
                (said, name if said == "accept" else None, reviewer, NOW + number, one.sample_id),
            )


@pytest.fixture
def folder(project: Path) -> Path:
    """Return a trained project whose path has to be quoted in a shell."""
    moved = project.parent / "my project"
    project.rename(moved)
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(project), str(moved)))
    return moved


def options(folder: Path, *settings: str) -> list[object]:
    """Return --config and --set."""
    return [
        "--config",
        folder / "config.yaml",
        *(part for one in settings for part in ("--set", one)),
    ]


def given(*settings: str) -> list[str]:
    """Return --set for each."""
    return [part for one in settings for part in ("--set", one)]


SEARCH = (
    *("search.count=36", "search.per_condition=12", "search.false_rejection=0.2"),
    *("testset.licence=CC-BY-4.0", "search.baseline_evaluations=0"),
    *("gate.images=64", "gate.ema_images=16"),
)


@pytest.mark.slow
@tells(
    "cli/status.py:_say_next:*",
    "cli/status.py:_say_next:generate",
    "cli/status.py:_say_use:generate",
    "cli/status.py:_say_next:review agreement",
    "cli/status.py:_say_next:review import",
    "cli/status.py:_say_use:testset build",
    "cli/status.py:_say_use:update",
    "cli/generate.py:_say:review import",
    "cli/review.py:_export:review import",
    "cli/review.py:import_:status",
    "workflows/testset.py:build_release:status",
    "cli/testset.py:build:testset evaluate",
    "cli/testset.py:evaluate:testset build",
    "workflows/update.py:_reviews:status",
    "workflows/update.py:_reviews:status#2",
    "cli/update.py:update:status",
)
def test_the_loop_from_training_to_a_test_set_by_what_is_printed(rslow: Run, folder: Path) -> None:
    """Each step is the one that the step before printed; none asks to review what is pending."""
    words = options(folder, *SEARCH)
    shutil.rmtree(folder / "run" / "gate")
    ran = rslow("status", *words)
    assert "gate missing" in ran.out
    type_printed(ran, "train gate")
    for command in (("update",), ("testset", "build")):
        ran = type_printed(rslow(*command, *words), "status")
    ran = type_printed(ran, "generate --name generate")
    package = folder / "run" / "generate" / "review"
    ran = type_printed(ran, "review import")
    assert "0 new" in ran.out
    count = len(read_package(package).answers)
    ran = type_printed(ran, "status")
    assert f"{count} samples are pending" in ran.out
    # Reviewed to a third: the rest of it comes next, not a new round.
    decide(package, ["accept"] * (count // 3))
    ran = type_printed(type_printed(ran, "review import"), "status")
    assert f"{count - count // 3} samples are pending" in ran.out
    assert not any(line.startswith("rslow generate") for line in printed(ran))
    # Woods are rejected. Real woods are among the tiles that the gate has to pass, so the next
    # round still finds samples, as it may not after rejects without a pattern.
    samples = pd.read_parquet(folder / "run" / "generate" / "samples.parquet")
    condition = samples.set_index("sample_id")["condition"]
    said = [
        "reject" if condition.get(one.sample_id) == "woods" else "accept"
        for one in read_package(package).answers
    ]
    decide(package, said)
    shutil.copytree(package, folder / "copy")
    decide(folder / "copy", ["accept" if said[0] == "reject" else "reject"], reviewer="Bob")
    assert "changed" in rslow("review", "import", folder / "copy", *words).out
    ran = type_printed(type_printed(ran, "review import"), "status")
    ran = type_printed(ran, "review agreement --export")
    decide(folder / "run" / "settle", ["accept"])
    ran = type_printed(type_printed(ran, "review import"), "status")
    type_printed(rslow("testset", "evaluate", *words), "testset build")
    type_printed(type_printed(ran, "testset build"), "testset evaluate")
    ran = type_printed(ran, "update")
    type_printed(rslow("update", *words), "status")
    ran = type_printed(type_printed(ran, "status"), "generate --name round-2")
    second = folder / "run" / "round-2" / "review"
    decide(second, ["unsure"] * len(read_package(second).answers))
    ran = type_printed(type_printed(ran, "review import"), "status")
    type_printed(ran, "generate --name round-2-2")
    settings = yaml.safe_load((folder / "run" / "round-2-2" / "settings.yaml").read_text())
    assert settings["run"]["seed"] == 1
    ids = [
        set(pd.read_parquet(folder / "run" / one / "samples.parquet")["sample_id"])
        for one in ("round-2", "round-2-2")
    ]
    assert not ids[0] & ids[1]


@tells(
    "cli/quickstart.py:quickstart:review import",
    "cli/review.py:import_:status",
    "cli/status.py:_say_next:status#2",
    "cli/status.py:_say_next:review import",
)
def test_after_the_quickstart_the_loop_finds_its_folder(
    rslow: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Import finds the store from the package, and the loop of another folder names this one."""
    monkeypatch.chdir(tmp_path)
    few = (
        "search.count=2",
        "search.baseline_evaluations=0",
        "run.dir=runs/quickstart",
        "run.threads=1",
    )
    assert rslow("generate", *(part for one in few for part in ("-s", one))).code == 0
    ran = type_printed(rslow("quickstart"), "review import")
    assert "Store: runs/quickstart/reviews.sqlite" in ran.out
    type_printed(ran, "status")
    bare = rslow("review", "import", "runs/quickstart/generate/review")
    assert "Store: runs/quickstart/reviews.sqlite" in bare.out
    assert "2 samples are pending" in type_printed(bare, "status").out
    elsewhere = rslow("status")
    assert "Run: runs/default" in elsewhere.out
    type_printed(type_printed(elsewhere, "status"), "review import")


def test_an_import_goes_where_the_package_lies_or_the_settings_say(
    rslow: Run, project: Path, tmp_path: Path
) -> None:
    """Of two runs that know a package, the one around it counts, unless settings name the other."""
    config = ("-c", project / "config.yaml")
    few = ("-s", "search.count=3", "-s", "search.baseline_evaluations=0")
    assert rslow("generate", *config, *few).code == 0
    shutil.copytree(project / "run", tmp_path / "copied")
    decide(tmp_path / "copied" / "generate" / "review", ["accept"])
    package = tmp_path / "copied" / "generate" / "review"
    assert (
        f"Store: {tmp_path / 'copied' / 'reviews.sqlite'}" in rslow("review", "import", package).out
    )
    assert (
        f"Store: {project / 'run' / 'reviews.sqlite'}"
        in rslow("review", "import", package, *config).out
    )
    # A copy outside of any run, with settings of no run: refused in one line.
    shutil.copytree(package, tmp_path / "mailed")
    ran = rslow("review", "import", tmp_path / "mailed", "-s", f"run.dir={tmp_path / 'other'}")
    assert ran.code == 6
    assert "is from another run" in ran.err
    assert "1 known" in rslow("review", "import", tmp_path / "mailed", *config).out


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of scores of 200 units."""
    path, rng = tmp_path / "my scores.parquet", np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "id": [f"u{i:03d}" for i in range(200)],
            "predicted": rng.choice(["crop", "forest"], 200),
            "confidence": rng.uniform(0.5, 1, 200),
        }
    )
    frame.to_parquet(path)
    return path


@tells(
    "cli/estimate.py:draw:estimate draw",
    "cli/estimate.py:draw:estimate report",
    "cli/estimate.py:plan:estimate draw",
    "cli/estimate.py:draw:estimate report#2",
    "workflows/estimate.py:report_draw:*",
    "estimate/stored.py:read_draw:*",
    "estimate/stored.py:read_labels:*",
    "estimate/stored.py:read_pool:*",
)
def test_an_estimate_from_a_table_by_what_is_printed(
    rslow: Run, table: Path, tmp_path: Path
) -> None:
    """A draw of another name in waves, with a lost draw file and a lost table on the way."""
    settings = (f"run.dir={tmp_path / 'my run'}", f"estimate.scores={table}")
    more = ("estimate.budget=20", "estimate.design=adaptive", "batch.splits=[val, test]")
    words = [part for one in (*settings, *more) for part in ("--set", one)]
    folder = tmp_path / "my run" / "estimate" / "my draw"

    def fill(wave: int) -> None:
        path = folder / f"labels-{wave}.csv"
        pd.read_csv(path).assign(label="crop").to_csv(path, index=False)

    ran = type_printed(rslow("estimate", "report", "--name", "my draw", *words), "estimate draw")
    (folder / "draw-1.json").unlink()
    type_printed(rslow("estimate", "report", "--name", "my draw", *words), "estimate draw")
    (folder / "labels-1.csv").unlink()
    type_printed(rslow("estimate", "report", "--name", "my draw", *words), "estimate draw")
    for wave in range(1, 5):
        fill(wave)
        if wave == 1:
            early = rslow("estimate", "report", "--name", "my draw", *words)
            ran = type_printed(early, "estimate draw")
        else:
            ran = type_printed(ran, "estimate draw")
    fill(5)
    type_printed(ran, "estimate report")
    type_printed(rslow("estimate", "draw", "--name", "my draw", *words), "estimate report")
    type_printed(rslow("estimate", "plan", *words), "estimate draw")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Return a table of scores of 400 labelled units of the project's classes."""
    path, rng = tmp_path / "labelled.parquet", np.random.default_rng(4)
    names = np.array(["fields", "meadow", "woods"])
    predicted, confidence = rng.integers(3, size=400), rng.uniform(0.5, 1, 400)
    wrong = rng.random(400) > confidence
    pd.DataFrame(
        {
            "id": [f"u{i:03d}" for i in range(400)],
            "predicted": names[predicted],
            "confidence": confidence,
            "label": names[(predicted + wrong) % 3],
        }
    ).to_parquet(path)
    return path


SERIAL = ("batch.executor=serial", "batch.seconds=null")


@tells(
    "workflows/catalog.py:catalog_of:catalog build",
    "cli/catalog.py:build:catalog check",
    "cli/batch.py:_scored:batch score",
    "cli/batch.py:_show_real:review import",
    "cli/batch.py:_run_again:batch score",
    "cli/batch.py:work_on:*",
    "batch/choose.py:narrow:catalog show",
    "batch/review.py:scores_of:batch score",
)
def test_jobs_over_a_catalog_by_what_is_printed(rslow: Run, folder: Path) -> None:
    """From no catalog to a package of real tiles, with files that were away and came back."""
    words = options(folder, *SERIAL, "search.tau=0.999", "review.mode=blind")
    type_printed(type_printed(rslow("batch", "review", *words), "catalog build"), "catalog check")
    (folder / "tiles").rename(folder / "away")
    # With no score at all there is no package: first the scores, of which all fail.
    ran = type_printed(rslow("batch", "review", *words), "batch score", 7)
    ran = type_printed(ran, "batch retry")
    (folder / "away").rename(folder / "tiles")
    type_printed(ran, "batch score")
    job = folder / "run" / "batch" / "score"
    next((job / "parts").iterdir()).unlink()
    type_printed(rslow("batch", "status", *words), "batch score")
    other = rslow("batch", "review", *words, "-s", "target.batch_size=31")
    type_printed(other, "batch score")
    type_printed(rslow("batch", "review", *words), "batch score")
    ran = type_printed(rslow("batch", "review", *words), "review import")
    assert "pending" in ran.out
    none = options(folder, *SERIAL, "batch.collections=[none]")
    type_printed(rslow("batch", "score", *none), "catalog show")


@tells(
    "workflows/pool.py:_no_scores:catalog build",
    "workflows/pool.py:_no_scores:batch score",
    "cli/estimate.py:pool_is_there:catalog build",
    "cli/estimate.py:pool_is_there:batch score",
    "workflows/labelling.py:read_reviews:*",
    "cli/estimate_tables.py:random_latents:estimate experiment",
    "cli/estimate.py:draw:review import",
    "cli/estimate.py:draw:estimate report#2",
    "cli/review.py:_export:review import",
)
def test_an_estimate_on_a_catalog_by_what_is_printed(
    rslow: Run, folder: Path, labelled: Path
) -> None:
    """From no pool to a report of tiles that reviewers disagreed on, and the experiment."""
    words = options(
        folder, *SERIAL, "estimate.budget=12", "estimate.design=uniform", "review.mode=blind",
        "estimate.experiment.repetitions=20",
    )  # fmt: skip
    generated = ("estimate", "random-latents", *words, "--count", "6")
    type_printed(rslow(*generated), "catalog build")
    (folder / "run" / "catalog.parquet").unlink()
    type_printed(rslow("estimate", "plan", *words), "catalog build")
    type_printed(rslow(*generated), "batch score")
    (folder / "run" / "batch" / "score" / "scores.parquet").unlink()
    type_printed(rslow("estimate", "plan", *words), "batch score")
    type_printed(rslow(*generated, *given(f"estimate.scores={labelled}")), "estimate experiment")
    ran = rslow("estimate", "draw", *words)
    package = folder / "run" / "estimate" / "draw" / "wave-1" / "review"
    decide(package, ["accept"] * 12)
    shutil.copytree(package, folder / "copy")
    decide(folder / "copy", ["mixed"], reviewer="Bob")
    assert rslow("review", "import", folder / "copy", *words).code == 0
    type_printed(ran, "review import")
    disputed = rslow("estimate", "report", *words)
    exported = type_printed(disputed, "review agreement --export")
    decide(folder / "run" / "settle", ["accept"])
    type_printed(exported, "review import")
    type_printed(ran, "estimate report")


@tells("data/files.py:require_every_class:data check", "data/tiles.py:__init__:*")
def test_data_that_cannot_be_used_are_shown_by_what_is_printed(rslow: Run, project: Path) -> None:
    """The check lists what training refused; where there is no such check, none is printed."""
    words = options(project, "classifier.epochs=1")
    lost = [*(project / "tiles" / "woods").iterdir()]
    for path in lost:
        path.write_bytes(path.read_bytes()[:200])
    ran = rslow("train", "target", *words)
    assert lost[0].parent.name in ran.err
    assert "cannot be used" in type_printed(ran, "data check", 4).err
    skipping = rslow("train", "target", *words, "--set", "data.skip_bad=true")
    type_printed(skipping, "data check", 4)
    images = given(
        "data.kind=images", f"data.images={project / 'tiles' / 'woods'}", "data.tile_size=32",
        f"run.dir={project / 'images'}",
    )  # fmt: skip
    ran = rslow("catalog", "build", *images)
    assert ran.code == 4
    assert printed(ran) == []


@tells("models.py:_critic:train gate", "search/calibration.py:load_calibration:train gate")
def test_models_that_do_not_fit_are_trained_again_by_what_is_printed(
    rslow: Run, project: Path
) -> None:
    """A critic of other classes and a calibration of another generator."""
    words = options(project, "search.count=2", "search.baseline_evaluations=0", *SEARCH[-2:])
    gate = project / "run" / "gate"
    for name, kind, change in (
        ("calibration", "gate calibration", _other_models),
        ("critic", "critic", _other_classes),
    ):
        path = gate / f"{name}.safetensors"
        tensors, header = read_checkpoint(path, kind)
        write_checkpoint(path, kind, tensors, change(header))
        type_printed(rslow("generate", *words), "train gate")
    assert rslow("generate", *words).code == 0


def _other_models(header: dict[str, Any]) -> dict[str, Any]:
    return {**header, "models": dict.fromkeys(header["models"], "another")}


def _other_classes(header: dict[str, Any]) -> dict[str, Any]:
    return {**header, "classes": header["classes"][::-1]}


def test_every_hint_is_typed_by_a_story() -> None:
    """Each place that prints a command is declared by a test that types it, and no other is."""
    texts = [path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py")]
    declared = {
        argument.value
        for text in texts
        if "@tells(" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "tells"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    assert declared == set(places())


def test_no_command_is_printed_past_the_hints(rslow: Run) -> None:
    """Texts of the package name commands only where they say what wrote a file."""
    assert rslow("--version").code == 0  # which loads the commands
    names = "|".join(_names(typer.main.get_command(app)))
    command = re.compile(rf"\brslow ({names})\b")
    faults = []
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not command.search(text):
            continue
        tree = ast.parse(text)
        allowed = {id(one) for one in _mentions(tree)}
        faults += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and command.search(_MENTION.sub("", node.value))
            and id(node) not in allowed
        ]
    assert faults == []


#: What wrote a file.
_MENTION = re.compile(r"`rslow [^`]+` (writes|wrote)")


def _names(group: object) -> list[str]:
    commands: dict[str, object] = getattr(group, "commands", {})
    return list(commands)


def _mentions(tree: ast.Module) -> list[ast.AST]:
    """Return texts that tell nobody to type a command: docstrings, help, pages."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            found += ast.walk(node.value) if isinstance(node.value, ast.Constant) else []
        if isinstance(node, ast.keyword) and node.arg in ("help", "text"):
            found += ast.walk(node.value)
    return found


@pytest.mark.parametrize(
    "error", [DataError("a", expected="b", remedy="c."), DataError("a", command="train gate")]
)
def test_nothing_follows_the_command_of_an_error(error: RsLowconfError) -> None:
    """A line without a command ends with a full stop, one with it ends with what can be typed."""
    hints.forget()
    line = hints.error_line(error)
    assert line == str(error)
    assert line in ("a; expected b; c.", "a; run rslow train gate")


def test_options_of_a_hint_are_those_of_its_command(rslow: Run) -> None:
    """Settings go where they are taken, replaced ones once, and trust where code may run."""
    assert rslow("--version").code == 0  # which loads the commands
    hints.forget()
    hints.remember(Path("my settings.yaml"), ["run.seed=4", "batch.splits=[val, test]"])
    hints.remember_trust(True)
    own = "--config 'my settings.yaml'"
    splits = "--set 'batch.splits=[val, test]'"
    assert hints.command_line("status") == f"rslow status {own} --set run.seed=4 {splits}"
    assert (
        hints.command_line("generate", "--name", "x", set_=("run.seed=5",))
        == f"rslow generate --name x {own} {splits} --set run.seed=5 --trust-code"
    )
    assert hints.command_line("review status", "a b") == "rslow review status 'a b'"
    hints.forget()
    assert hints.command_line("status") == "rslow status"
