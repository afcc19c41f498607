"""Builds of a release that are killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rs_lowconf.folders import UNFINISHED
from rs_lowconf.testset import read_release
from tests.testset_samples import release, reviewed_tiles

COUNT = 20
KILLS = 50
PATIENCE = 60.0

Build = Callable[[Path, float], str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Return a function that builds a release in another process and kills it after seconds."""
    store = tmp_path_factory.mktemp("builder") / "store"
    root = Path(__file__).parents[1]
    # Where it is another day, and where sets have another order.
    elsewhere = os.environ | {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "17"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.testset_builder", str(store), str(COUNT)],
        cwd=root,
        env=elsewhere,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def run(folder: Path, seconds: float) -> str:
            asked.write(f"{folder} {seconds}\n")
            asked.flush()
            return answers.readline().strip()

        assert answers.readline() == "ready\n"
        yield run
        asked.close()


def test_killed_builds_leave_no_half_release(tmp_path: Path, build: Build) -> None:
    """After kill -9 at 50 random moments a release is whole or absent, and the next is whole."""
    releases = tmp_path / "releases"
    started = time.monotonic()
    assert build(releases / "whole", PATIENCE) == "done"
    seconds = time.monotonic() - started
    dice = np.random.default_rng(0)
    # One in each 50th of the duration, so that no phase is left out.
    moments = (dice.permutation(KILLS) + dice.random(KILLS)) / KILLS * seconds
    ends, leftovers = [], 0
    for number, moment in enumerate(moments):
        folder = releases / f"v{number}"
        ends.append(build(folder, moment))
        assert ends[-1] in ("killed", "done")
        assert folder.exists() or ends[-1] == "killed"
        if folder.exists():
            assert len(read_release(folder).tiles) == COUNT
        unfinished = [path.name for path in releases.glob(".*")]
        # An older one too would mean that nothing tidies up.
        assert len(unfinished) <= 1
        leftovers += f".v{number}{UNFINISHED}" in unfinished
        if number % 10 == 9:
            assert build(releases / f"after-{number}", PATIENCE) == "done"
            assert len(read_release(releases / f"after-{number}").tiles) == COUNT
            assert list(releases.glob(".*")) == []
    # Otherwise the kills missed the build, and this test shows nothing.
    assert ends.count("killed") > KILLS // 2
    assert leftovers > KILLS // 3


def test_another_process_builds_the_same(tmp_path: Path, build: Build) -> None:
    """Another process, in another time zone and with another order of sets, writes equal files."""
    assert build(tmp_path / "elsewhere" / "v1", PATIENCE) == "done"
    here = release(tmp_path / "v1", reviewed_tiles(tmp_path / "store", COUNT))
    there = tmp_path / "elsewhere" / "v1"
    assert (here / "SHA256SUMS").read_bytes() == (there / "SHA256SUMS").read_bytes()
