"""Works that do arithmetic, and whatever a test of the batch engine wants to happen."""

import ctypes
import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rs_lowconf.batch import Executor, Job, Work, open_results, read_errors, run_job
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.settings import WORKER


def tiles(count: int) -> pa.Table:
    """Return rows with ids and whole numbers."""
    return pa.table({"id": [f"tile-{i:06d}" for i in range(count)], "number": range(count)})


def job(folder: Path, work: Work, count: int = 600, **more: Any) -> Job:
    """Return a job of about ten chunks."""
    return Job(folder=folder, kind="test", rows=tiles(count), work=work, chunk_rows=64, **more)


def run(a_job: Job, executor: Executor) -> int:
    """Run a job to its end and return the number of tiles that it worked on."""
    return sum(progress.rows for progress in run_job(a_job, executor))


def content(folder: Path) -> str:
    """Return a checksum of results and bad tiles, sorted by id; a tile twice is an error."""
    rows = open_results(folder).to_table().sort_by("id").to_pylist()
    bad = sorted((error.id, error.kind.value) for error in read_errors(folder))
    ids = [row["id"] for row in rows] + [name for name, _ in bad]
    assert len(set(ids)) == len(ids)
    return hashlib.sha256(repr((rows, bad)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Multiply:
    """Multiplies numbers, except where something happens to a tile."""

    factor: int = 3
    folder: Path
    """Where it leaves marks: `opened-PID`, and `happened-ID` for what happens once."""
    once: tuple[tuple[str, str], ...] = ()
    """What happens to a tile the first time: an id and what."""
    always: tuple[tuple[str, str], ...] = ()
    """What happens to a tile each time."""
    raising: int = 0
    """One in so many tiles raises; 0: none."""
    together: int = 0
    """Processes that have to have opened the work before any chunk is done."""
    hold: bool = False
    """Whether all chunks but the first wait until there is a file `go` in `folder`."""

    @property
    def key(self) -> str:
        return f"multiply by {self.factor}"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string(), "product": pa.int64()}, metadata={"a": "b"})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"opened-{os.getpid()}").touch()
        # Arrow imports pandas when it first meets a list, which is no part of a chunk's time.
        pa.table({"number": [1]})
        return self._multiply

    def _multiply(self, rows: pa.Table) -> pa.Table:
        _wait(lambda: len(list(self.folder.glob("opened-*"))) >= self.together)
        if self.hold and not _create(self.folder / "first"):
            _wait((self.folder / "go").exists)
        happens = dict(self.always)
        for name, event in self.once:
            if not (self.folder / f"happened-{name}").exists():
                happens[name] = event
        errors: list[str | None] = []
        for name, number in zip(rows["id"].to_pylist(), rows["number"].to_pylist(), strict=True):
            what = happens.get(name, "")
            if what:
                (self.folder / f"happened-{name}").touch()
            errors.append("it is black" if what == "say" else None)
            self._happen(what)
            if self.raising and number % self.raising == 7:
                raise DataError(f"tile {name} is corrupt")
        products = pc.multiply(rows["number"], self.factor)
        return pa.table({"product": products, "id": rows["id"], "error": errors})

    def _happen(self, what: str) -> None:
        if what == "raise":
            raise ValueError("something is wrong")
        if what == "print":
            os.write(1, b"x" * 10_000)
        if what == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        if what == "kill in answer":
            Connection._send = _send_half  # type: ignore[attr-defined]  # it is private
        if what == "crash":
            ctypes.string_at(0)
        if what == "hang":
            time.sleep(1000)
        if what == "hang hard":
            # Holds Python's lock, so that no other thread of it runs.
            ctypes.PyDLL(None).sleep(1000)


@dataclass(frozen=True, kw_only=True)
class Careless:
    """Loses a tile of each chunk."""

    @property
    def key(self) -> str:
        return "careless"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string()})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        return _all_but_one


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Cannot be opened."""

    bug: bool = False
    hang: bool = False

    @property
    def key(self) -> str:
        return "closed"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string()})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        if self.hang:
            time.sleep(1000)
        if self.bug:
            raise KeyError("weights")
        raise ModelError("there is no checkpoint x", remedy="train the target first")


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """Does nothing at all."""

    @property
    def key(self) -> str:
        return "nothing"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string()})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        return _ids


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """Says which worker did it, when both are at work; the first tile ends its process once."""

    mark: Path

    @property
    def key(self) -> str:
        return "numbered"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string(), "worker": pa.int64()})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        return self._say

    def _say(self, rows: pa.Table) -> pa.Table:
        if rows["number"][0].as_py() == 0 and not self.mark.exists():
            self.mark.touch()
            os._exit(3)
        (self.mark.parent / f"worker-{os.environ[WORKER]}").touch()
        _wait(lambda: len(list(self.mark.parent.glob("worker-*"))) >= 2)
        return pa.table({"id": rows["id"], "worker": [int(os.environ[WORKER])] * len(rows)})


def _wait(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    while not condition():
        time.sleep(0.01)


def _send_half(connection: Connection, message: bytes) -> None:
    """End as by the system when it is out of memory, in the middle of an answer."""
    os.write(connection.fileno(), message[: len(message) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def _create(file: Path) -> bool:
    """Return whether this process is the one that has made the file."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _all_but_one(rows: pa.Table) -> pa.Table:
    return rows.select(["id"]).slice(1)


def _ids(rows: pa.Table) -> pa.Table:
    return rows.select(["id"])
