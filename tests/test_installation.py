"""What an installation can do: with each extra, and as a module; that it fits newer packages."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rs_lowconf.cli.batch import executor_of
from rs_lowconf.errors import SettingsError
from rs_lowconf.extras import EXTRAS
from rs_lowconf.settings import BatchSettings
from tests.make_tiles import make_tiles
from tests.without import PROJECT, brought_by

ROOT = Path(__file__).parents[1]
SMALL = ("-s", "search.count=2", "-s", "search.baseline_evaluations=0")


def run(module: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run a module of the tests as a program of its own."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def write_scores(folder: Path) -> None:
    """Write what a model says of 120 units, scores.csv, and the same with labels, all.csv."""
    rows = [f"t{n},{'ab'[n % 2]},{0.5 + n / 250:.3f}" for n in range(120)]
    (folder / "scores.csv").write_text("\n".join(("id,predicted,confidence", *rows)))
    labelled = (f"{row},{'ab'[n % 3 == 0]}" for n, row in enumerate(rows))
    (folder / "all.csv").write_text("\n".join(("id,predicted,confidence,label", *labelled)))


def given(folder: str) -> tuple[str, ...]:
    """Return the settings of an estimate from scores.csv in a folder."""
    settings = (f"run.dir={folder}", f"estimate.scores={folder}/scores.csv", "estimate.budget=30")
    return tuple(word for one in settings for word in ("-s", one))


@cache
def trees() -> dict[Path, list[ast.AST]]:
    """Return the syntax of each module but those that run in QGIS."""
    return {
        path: list(ast.walk(ast.parse(path.read_text())))
        for path in (ROOT / "rs_lowconf").rglob("*.py")
        if "qgis_plugin" not in path.parts
    }


def names_from(package: str, nodes: list[ast.AST]) -> set[str]:
    """Return what a module imports from a package."""
    return {
        name.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == package
        for name in node.names
    }


def test_it_runs_as_a_module() -> None:
    """`python -m rs_lowconf` is `rslow`: the same version, the same exit codes."""
    ran = run("rs_lowconf", "--version")
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "rslow")
    ran = run("rs_lowconf", "generate", "--set", "search.no_such=1")
    assert ran.returncode == 3
    assert ran.stderr.startswith("rslow: ")


def test_shapes_are_declared_of_classes_of_arrays() -> None:
    """The types of jaxtyping are given classes: Tensor and np.ndarray.

    From NumPy 2.5 on `NDArray[...]` is no class, and jaxtyping fails when it is imported.
    """
    found = {
        ast.unparse(node.slice.elts[0])
        for nodes in trees().values()
        for names in [names_from("jaxtyping", nodes)]
        for node in nodes
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in names
        and isinstance(node.slice, ast.Tuple)
    }
    assert found == {"Tensor", "np.ndarray"}


def test_every_import_is_declared() -> None:
    """What the package imports is a dependency or is brought by the extra that is named for it."""
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    owners = packages_distributions()
    imported = set()
    for nodes in trees().values():
        for node in nodes:
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    third = imported - sys.stdlib_module_names - {"rs_lowconf"}
    assert {"torch", "sklearn", "filelock"} <= third
    for name in third:
        distributions = {canonicalize_name(owner) for owner in owners[name]}
        if not distributions & core:
            extras = [extra for extra, packages in EXTRAS.items() if name in packages]
            assert extras, f"{name} is neither a dependency nor in EXTRAS"
            for extra in extras:
                assert distributions & brought_by(extra), (extra, name)
    assert PROJECT["optional-dependencies"].keys() >= EXTRAS.keys()


def test_the_lock_fits_what_is_declared() -> None:
    """`constraints.txt` has versions of every declared dependency, and they are in its bounds."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("#"):
            pin = Requirement(line)
            (version,) = pin.specifier
            locked.setdefault(canonicalize_name(pin.name), []).append(version.version)
    groups = (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for need in map(Requirement, chain.from_iterable(groups)):
        if need.name != PROJECT["name"]:
            versions = locked[canonicalize_name(need.name)]
            assert all(need.specifier.contains(version) for version in versions), need


@pytest.mark.parametrize(
    ("installed", "words", "extra"),
    [
        ("", ("quickstart", "--out", "{folder}"), "generate"),
        ("", ("train", "target"), "train"),
        ("", ("estimate", "plan", *given("{folder}")), "estimate"),
        ("estimate", ("generate", "-s", "run.dir={folder}"), "generate"),
        ("generate", ("generate", "-s", "data.kind=eurosat", "-s", "run.dir={folder}"), "train"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, installed: str, words: tuple[str, ...], extra: str
) -> None:
    """A command whose extra is not installed says so in one line, and which one to install."""
    write_scores(tmp_path)
    ran = run("tests.without", installed, *(word.format(folder=tmp_path) for word in words))
    assert ran.returncode == 9, ran.stderr
    assert re.fullmatch(
        rf"rslow: \w+ is not installed; type: pip install 'rs-lowconf\[{extra}\]'\.\n", ran.stderr
    )


def test_the_core_reads_jobs_and_reviews(tmp_path: Path) -> None:
    """Without any extra the help is there, and the state of jobs and packages is asked for."""
    assert "quickstart" in run("tests.without", "", "--help").stdout
    for words, code, found in (
        (("batch", "status", tmp_path), 7, "not a job folder"),
        (("review", "status", tmp_path), 6, "not a review package"),
    ):
        ran = run("tests.without", "", *words)
        assert (ran.returncode, found in ran.stderr) == (code, True), ran.stderr


def test_the_core_reports_error_rates(tmp_path: Path) -> None:
    """From a table of scores to the report of an error rate without any extra."""
    write_scores(tmp_path)
    ran = run("tests.without", "", "estimate", "draw", *given(str(tmp_path)))
    assert ran.returncode == 0, ran.stderr
    labels = tmp_path / "estimate" / "draw" / "labels-1.csv"
    labels.write_text(re.sub(r",$", ",a", labels.read_text(), flags=re.MULTILINE))
    ran = run("tests.without", "", "estimate", "report", *given(str(tmp_path)))
    assert ran.returncode == 0, ran.stderr
    assert (labels.parent / "report.html").exists()


@pytest.mark.slow
def test_the_extra_estimate_learns_from_labels(tmp_path: Path) -> None:
    """With validation labels the error probabilities are fitted, with this extra alone."""
    write_scores(tmp_path)
    words = (*given(str(tmp_path)), "-s", f"estimate.validation={tmp_path / 'all.csv'}")
    ran = run("tests.without", "estimate", "estimate", "plan", *words)
    assert ran.returncode == 0, ran.stderr
    assert "chosen by validation labels" in ran.stdout


@pytest.mark.slow
def test_the_extra_generate_searches(tmp_path: Path) -> None:
    """A search of the embedded models ends in a package with this extra alone."""
    ran = run("tests.without", "generate", "generate", *SMALL, "-s", f"run.dir={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "generate" / "review" / "review.qgz").exists()


@pytest.mark.slow
def test_the_extra_train_reads_labelled_tiles(tmp_path: Path) -> None:
    """Training a classifier needs this extra and no package beyond it."""
    make_tiles(tmp_path / "tiles", 8)
    words = (
        *("-s", "data.kind=folder", "-s", f"data.root={tmp_path / 'tiles'}"),
        *("-s", "data.tile_size=32", "-s", "data.val_share=0.25", "-s", "data.test_share=0.25"),
        *("-s", "classifier.epochs=1", "-s", "classifier.width=8"),
    )
    ran = run("tests.without", "train", "train", "target", *words, "-s", f"run.dir={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "target" / "target.safetensors").exists()


def test_no_processes_where_they_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without groups of processes, such as Windows, only the serial executor works."""
    monkeypatch.delattr("os.killpg")
    serial = BatchSettings(executor="serial", seconds=None)
    assert executor_of(serial, None) is not None
    for settings, scheduler in (
        (BatchSettings(), None),
        (BatchSettings(executor="serial"), None),
        (serial, "tcp://127.0.0.1:9"),
    ):
        with pytest.raises(
            SettingsError, match=r"set batch\.executor=serial and batch\.seconds=null"
        ):
            executor_of(settings, scheduler)
