"""What a reviewer's machine must have: reading packages needs neither torch nor GDAL."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.review_samples import package, sample

WITHOUT = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
LIBRARIES = "import pydantic, typer, yaml"
USUAL = 0.2
"""Seconds that these take on a machine of the usual speed."""
STATUS = "from rs_lowconf.cli import main; main()"
REVIEW = """
import rs_lowconf.review
for module in pkgutil.iter_modules(rs_lowconf.review.__path__, "rs_lowconf.review."):
    if module.name != "rs_lowconf.review.qgis_plugin":
        importlib.import_module(module.name)
"""


def run_without(blocked: tuple[str, ...], code: str, *words: str) -> str:
    """Run Python code where these packages are not installed; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps what it compiled
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked) + code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def used_seconds() -> float:
    """Return how long processors have worked for the ended children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_status_needs_neither_torch_nor_gdal_and_answers_at_once(tmp_path: Path) -> None:
    """`rslow review status` works with SQLite alone, in less than a second of processor time.

    On a slower machine it may take as much longer as its libraries alone take there.
    """
    folder = package(tmp_path / "review", [sample(number) for number in range(3)])
    blocked = ("torch", "numpy", "rasterio", "geopandas", "pandas", "pyarrow", "scipy", "sklearn")
    run_without(blocked, LIBRARIES)
    before = used_seconds()
    run_without(blocked, LIBRARIES)
    most = max(1.0, (used_seconds() - before) / USUAL)
    seconds: list[float] = []
    while len(seconds) < 5 and min(seconds, default=most) >= most:  # at first modules compile
        before = used_seconds()
        said = run_without(blocked, STATUS, "review", "status", str(folder))
        seconds.append(used_seconds() - before)
        assert said.startswith(f"{folder}: 0 of 3 decided (0 accept, 0 reject")
    assert min(seconds) < most, (seconds, most)


def test_the_review_stage_needs_no_torch() -> None:
    """Writing, reading, comparing and summarising reviews: no module of the stage loads torch."""
    run_without(("torch",), REVIEW)


def test_blocking_works() -> None:
    """What is blocked cannot be imported: otherwise the tests above would show nothing."""
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run_without(("torch",), "import rs_lowconf.types")
