"""Builds of a release that are killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rs_lowconf.folders import UNFINISHED
from rs_lowconf.testset import read_release
from tests.kills import Ending, spread
from tests.testset_samples import release, reviewed_tiles

COUNT = 20
KILLS = 12

Build = Callable[..., tuple[Ending, list[str]]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Return a function that builds a release in another process and kills it at an event."""
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

        def run(folder: Path, moment: int = -1) -> tuple[Ending, list[str]]:
            asked.write(f"{folder} {moment}\n")
            asked.flush()
            ended, events = json.loads(answers.readline())
            return ended, events

        assert answers.readline() == "ready\n"
        yield run
        asked.close()


def test_killed_builds_leave_no_half_release(tmp_path: Path, build: Build) -> None:
    """After kill -9 at any event of its files a release is whole or absent, and the next whole."""
    releases = tmp_path / "releases"
    ended, events = build(releases / "v0")
    assert ended == "done"
    renamed = events.index("os.rename /v0")
    moments = spread(events, KILLS, "os.rename /v0", f"os.mkdir /.v0{UNFINISHED}")
    for number, moment in enumerate(moments):
        # In a folder of its own: what a killed build has left there makes other events.
        folder = releases.with_name(f"killed-{number:03d}") / "v0"
        assert build(folder, moment)[0] == "killed"
        # Until the last event the folder has another name, and from then on it is whole.
        assert folder.exists() == (moment > renamed)
        if folder.exists():
            assert len(read_release(folder).tiles) == COUNT
            continue
        unfinished = [path.name for path in folder.parent.glob(".*")]
        assert len(unfinished) <= 1
        if number % 3 == 1:
            assert build(folder)[0] == "done"
            assert len(read_release(folder).tiles) == COUNT
            assert list(folder.parent.glob(".*")) == []


def test_another_process_builds_the_same(tmp_path: Path, build: Build) -> None:
    """Another process, in another time zone and with another order of sets, writes equal files."""
    assert build(tmp_path / "elsewhere" / "v1")[0] == "done"
    here = release(tmp_path / "v1", reviewed_tiles(tmp_path / "store", COUNT))
    there = tmp_path / "elsewhere" / "v1"
    assert (here / "SHA256SUMS").read_bytes() == (there / "SHA256SUMS").read_bytes()
