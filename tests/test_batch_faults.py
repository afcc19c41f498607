"""What happens in a night: each fault ends with the checksum of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from rs_lowconf.batch import (
    Executor,
    FailureKind,
    Processes,
    Serial,
    forget_errors,
    read_errors,
    run_job,
    status,
)
from rs_lowconf.errors import JobError, OutputError
from tests.batch_works import Multiply, content, job, run

TWO = Processes(workers=2, seconds=60.0)
HASTY = Processes(workers=2, seconds=8.0)
"""With an eighth for a tile alone."""


@pytest.fixture
def work(tmp_path: Path) -> Multiply:
    return Multiply(folder=tmp_path / "marks")


@pytest.fixture
def expected(tmp_path: Path, work: Multiply) -> str:
    """Return the checksum of an undisturbed run in this process."""
    run(job(tmp_path / "undisturbed", work), Serial())
    return content(tmp_path / "undisturbed")


@contextmanager
def driver(
    folder: Path, work: Multiply, **more: Any
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a driver; it is killed in the end."""
    spec = {
        "folder": str(folder),
        "work": {"folder": str(work.folder), "always": work.always, "hold": work.hold},
        "executor": "Processes",
        "options": {"workers": 2},
        "full_after": 0,
        "kill_at": None,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.batch_driver", json.dumps(spec | more)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def alive(work: Multiply) -> list[int]:
    """Return the other processes that opened a work and have not ended."""
    numbers = [int(path.name.split("-")[1]) for path in work.folder.glob("opened-*")]
    return [n for n in numbers if n != os.getpid() and Path(f"/proc/{n}").exists()]


def ended(work: Multiply) -> bool:
    """Return whether all processes that opened a work end, before they are thought to hang."""
    last = time.monotonic() + 300
    while alive(work) and time.monotonic() < last:
        time.sleep(0.05)
    return not alive(work)


@pytest.mark.parametrize("what", ["kill", "kill in answer", "exit", "raise"])
def test_bad_luck_leaves_no_mark(tmp_path: Path, work: Multiply, expected: str, what: str) -> None:
    """A worker that is killed, also with half of its answer sent, ends or raises costs no tile."""
    unlucky = replace(work, once=(("tile-000100", what), ("tile-000599", what)))
    assert run(job(tmp_path / "job", unlucky), TWO) == 600
    assert content(tmp_path / "job") == expected
    assert not alive(work)


@pytest.mark.slow
def test_poison_is_found_and_the_rest_done(tmp_path: Path, work: Multiply, expected: str) -> None:
    """Tiles that kill, crash or hang are errors of their kind, and no others are."""
    poison = {
        "tile-000004": "kill",
        "tile-000005": "crash",
        "tile-000300": "hang",
        "tile-000599": "hang hard",
    }
    bad = replace(work, always=tuple(poison.items()))
    assert run(job(tmp_path / "job", bad), HASTY) == 600
    errors = {error.id: error for error in read_errors(tmp_path / "job")}
    assert {name: errors[name].kind.value for name in errors} == {
        "tile-000004": "died",
        "tile-000005": "died",
        "tile-000300": "hung",
        "tile-000599": "hung",
    }
    assert "ended by signal SIGKILL" in errors["tile-000004"].message
    assert "SIGSEGV, it was in string_at" in errors["tile-000005"].message
    for name in ("tile-000300", "tile-000599"):
        assert "no answer within" in errors[name].message
        assert "it was in _happen (batch_works.py" in errors[name].message
    assert all(2 <= error.attempts <= 4 for error in errors.values())
    # Mended, they are like the others.
    assert forget_errors(tmp_path / "job") == 4
    assert run(job(tmp_path / "job", work), Serial()) == 4
    assert content(tmp_path / "job") == expected


@pytest.mark.slow
def test_a_hung_tile_does_not_stop_one_process(tmp_path: Path, work: Multiply) -> None:
    """With a time limit, the serial executor too gets past a tile that hangs."""
    bad = replace(work, always=(("tile-000001", "hang"),))
    assert run(job(tmp_path / "job", bad, count=20), Serial(seconds=8.0)) == 20
    assert [(error.id, error.kind) for error in read_errors(tmp_path / "job")] == [
        ("tile-000001", FailureKind.HUNG)
    ]


def test_one_in_a_hundred_that_raises(tmp_path: Path, work: Multiply, expected: str) -> None:
    """With 1 % corrupt tiles, two processes end with the checksum of one; mended, as ever."""
    bad = replace(work, raising=100)
    for name, executor in (("one", Serial()), ("two", TWO)):
        assert run(job(tmp_path / name, bad), executor) == 600
    assert content(tmp_path / "two") == content(tmp_path / "one")
    errors = list(read_errors(tmp_path / "two"))
    assert sorted(error.id for error in errors) == [f"tile-{i:06d}" for i in range(7, 600, 100)]
    assert {error.message for error in errors if error.id == "tile-000007"} == {
        "tile tile-000007 is corrupt."
    }
    assert forget_errors(tmp_path / "two") == 6
    assert run(job(tmp_path / "two", work), TWO) == 6
    assert content(tmp_path / "two") == expected


def test_two_processes_open_the_work_once_each(tmp_path: Path, work: Multiply) -> None:
    """The model is loaded by as many processes as there are workers."""
    run(job(tmp_path / "job", replace(work, together=2)), TWO)
    assert len(list(work.folder.glob("opened-*"))) == 2
    assert not alive(work)


def test_a_killed_driver_goes_on(tmp_path: Path, work: Multiply, expected: str) -> None:
    """After kill -9 at four events its children are gone and the rest is done, nothing twice."""
    folder = tmp_path / "job"
    before = 0
    # A part is opened twice. So: before the second is begun, when it is written, before it is
    # renamed, and before the third is.
    for moment in (("open", 3), ("os.chmod", 2), ("os.rename", 2), ("os.rename", 3)):
        with driver(folder, work, kill_at=moment) as (process, _):
            assert process.wait() == -signal.SIGKILL
        assert ended(work)
        now = status(folder)
        assert now.running is None
        assert now.done > before
        before = now.done
    assert before < 600
    assert run(job(folder, work), TWO) == 600 - before
    assert content(folder) == expected
    assert list(folder.rglob(".*.tmp")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_driver_and_children(
    tmp_path: Path, work: Multiply, expected: str, number: int
) -> None:
    """Ctrl-C and SIGTERM end all processes at once, also those that hang, and the job goes on."""
    hanging = replace(work, always=(("tile-000001", "hang"),))
    with driver(tmp_path / "job", hanging) as (process, lines):
        assert lines.readline().startswith("chunk")
        process.send_signal(number)
        assert process.wait() != 0
        assert ended(work)
    run(job(tmp_path / "job", work), TWO)
    assert content(tmp_path / "job") == expected


def test_two_drivers_by_mistake(tmp_path: Path, work: Multiply, expected: str) -> None:
    """The second is refused in a line that names the first; killed, the first is in no way."""
    folder = tmp_path / "job"
    with driver(folder, replace(work, hold=True)) as (process, lines):
        assert lines.readline().startswith("chunk")
        assert f"process {process.pid} on" in (status(folder).running or "")
        with pytest.raises(JobError, match=rf"locked by process {process.pid} on \S+; wait"):
            run(job(folder, work), Serial())
        process.kill()
        process.wait()
    run(job(folder, work), Serial())
    assert content(folder) == expected


def test_a_full_disk_ends_the_job_until_it_is_freed(
    tmp_path: Path, work: Multiply, expected: str
) -> None:
    """A part that does not fit ends the job in a line; freed, the same command does the rest."""
    folder = tmp_path / "job"
    with driver(folder, work, full_after=3) as (process, lines):
        said = lines.read().splitlines()
        assert process.wait() == OutputError.exit_code
    assert Counter(line.split()[0] for line in said) == {"chunk": 3, "OutputError": 1}
    assert "the disk is full while writing" in said[-1]
    assert "free some space and run the same command again, it resumes." in said[-1]
    assert list(folder.rglob(".*.tmp")) == []
    assert ended(work)
    done = status(folder).done
    assert 0 < done < 600
    assert run(job(folder, work), Serial()) == 600 - done
    assert content(folder) == expected


@pytest.mark.parametrize("executor", [Serial(), TWO])
def test_a_disk_that_is_full_for_the_work_blames_no_tile(
    tmp_path: Path, work: Multiply, expected: str, executor: Executor
) -> None:
    """A work that finds no space for files of its own ends the job, too."""
    folder = tmp_path / "job"
    with pytest.raises(OutputError, match="the disk is full"):
        run(job(folder, replace(work, always=(("tile-000400", "full"),))), executor)
    assert list(read_errors(folder)) == []
    run(job(folder, work), executor)
    assert content(folder) == expected


def test_the_engine_loads_no_torch(tmp_path: Path, work: Multiply) -> None:
    """A driver whose work needs no torch has not loaded it in the end."""
    with driver(tmp_path / "job", work) as (_, lines):
        assert lines.read().splitlines()[-1] == "end False"


def test_a_consumer_that_fails_leaves_no_process(tmp_path: Path, work: Multiply) -> None:
    """When whoever reads the records raises, the children are killed before that is known."""

    def consume() -> None:
        for _ in run_job(job(tmp_path / "job", replace(work, hold=True)), TWO):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert ended(work)
    assert status(tmp_path / "job").running is None


def test_what_a_work_prints_is_no_answer(tmp_path: Path, work: Multiply, expected: str) -> None:
    """A work that fills its standard output neither stops nor spoils anything."""
    loud = replace(work, always=tuple((f"tile-{i:06d}", "print") for i in range(0, 600, 10)))
    run(job(tmp_path / "job", loud), TWO)
    assert content(tmp_path / "job") == expected
