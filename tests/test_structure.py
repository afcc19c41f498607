"""How the files of the package depend on each other, beside the contracts in pyproject.toml."""

import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Imports between all files of the package, those inside functions and for types too."""
    return grimp.build_graph("rs_lowconf")


def test_no_files_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    """Each file can be understood, and imported, after those that it imports."""
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_a_circle_would_be_found() -> None:
    """What the test above rests on."""
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_only_the_program_imports_the_command_line(graph: grimp.ImportGraph) -> None:
    """The library works without it."""
    commands = {name for name in graph.modules if name.startswith("rs_lowconf.cli")}
    others = {
        importer
        for name in commands
        for importer in graph.find_modules_that_directly_import(name)
        if importer not in commands
    }
    assert others == {"rs_lowconf.__main__"}


def test_no_script_imports_the_command_line() -> None:
    """What scripts need is in the library; they may start `rslow` as a program."""
    found = [path for path in SCRIPTS.rglob("*") if path.is_file()]
    scripts = [path for path in found if path.suffix in ("", ".py")]
    assert len(scripts) > 20
    importing = re.compile(r"rs_lowconf(\.|\s+import\s+)cli\b")
    assert importing.search("from rs_lowconf.cli import main")
    assert [path for path in scripts if importing.search(path.read_text(encoding="utf-8"))] == []


IMPORT_ALL = """
import importlib, pkgutil
from jaxtyping import install_import_hook

with install_import_hook("rs_lowconf", "beartype.beartype"):
    import rs_lowconf

    for module in pkgutil.walk_packages(rs_lowconf.__path__, "rs_lowconf."):
        if not module.name.startswith("rs_lowconf.review.qgis_plugin"):  # needs QGIS's Python
            importlib.import_module(module.name)
            print(module.name)
"""


def test_types_can_be_checked_at_every_call() -> None:
    """Whoever runs the tests with --types, as CI does, gets as far as the first of them."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 200
