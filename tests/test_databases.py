"""Reading SQLite files that other programs have open: everything committed, nothing written."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_lowconf import databases
from rs_lowconf.databases import copied


def rows(path: Path) -> list[int]:
    """Return what a copy of the database holds."""
    with copied(path) as database:
        return [number for (number,) in database.execute("SELECT a FROM t ORDER BY a")]


def write(path: Path, *numbers: int, mode: str = "delete") -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER)")
        database.executemany("INSERT INTO t VALUES (?)", [(number,) for number in numbers])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "data #1?.gpkg"
    write(own, 1, 2)
    return own


@pytest.fixture
def locked(path: Path) -> Iterator[Path]:
    """Return a database of which another connection keeps the exclusive lock."""
    program = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN EXCLUSIVE')\n"
        "database.execute('INSERT INTO t VALUES (3)')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    # In a process of its own: locks do not hold against the process that has them.
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    yield path
    other.communicate()


def test_a_locked_file_is_waited_for_and_given_up(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait has an end, which is an OSError that says why; the limit is ten seconds."""
    assert databases.SECONDS == 10
    monkeypatch.setattr(databases, "SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="another program has kept it locked"):
        rows(locked)


def test_a_wait_hears_an_interrupt(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a file is locked ends the wait at the next pause."""
    monkeypatch.setattr(
        "rs_lowconf.databases.time.sleep", lambda _: signal.raise_signal(signal.SIGINT)
    )
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            rows(locked)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lock_that_ends_is_no_error(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is unlocked in time is read as the other program left it."""
    waited: list[float] = []

    def undo(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            monkeypatch.setattr(databases, "_copied_at_rest", real)

    real = databases._copied_at_rest
    monkeypatch.setattr(databases, "_copied_at_rest", lambda path, copy: False)
    monkeypatch.setattr("rs_lowconf.databases.time.sleep", undo)
    # The other process keeps its lock, but an unlocked twin is read by the same way.
    twin = locked.with_name("twin.gpkg")
    write(twin, 5)
    assert rows(twin) == [5]
    assert len(waited) == 3


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
@pytest.mark.parametrize("protected", [False, True], ids=["writable", "read-only"])
def test_nothing_is_written_beside_a_file(tmp_path: Path, mode: str, *, protected: bool) -> None:
    """In each journal mode, in a writable and a read-only folder, only the copy is opened."""
    folder = tmp_path / "own"
    folder.mkdir()
    path = folder / "a.gpkg"
    write(path, 1, 2, mode=mode)
    if protected:
        path.chmod(0o444)
        folder.chmod(0o555)
    before = files(folder)
    assert rows(path) == [1, 2]
    assert files(folder) == before
    folder.chmod(0o755)


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"PRAGMA journal_mode = {sys.argv[2]}")
database.execute("PRAGMA wal_autocheckpoint = 0")
database.execute("INSERT INTO t VALUES (3)")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(10, 20_000)])
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_what_a_killed_program_left_is_read(path: Path, mode: str) -> None:
    """What was committed is there, a transaction cut short is not, and its logs stay as they are.

    The oracle is SQLite itself, which reads the folder afterwards and cleans up.
    """
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), mode], check=False)
    assert done.returncode == -signal.SIGKILL
    before = files(path.parent)
    assert any(name.endswith(("-wal", "-journal")) for name in before)
    assert rows(path) == [1, 2, 3]
    assert files(path.parent) == before
    with closing(sqlite3.connect(path)) as database:
        assert [a for (a,) in database.execute("SELECT a FROM t ORDER BY a")] == [1, 2, 3]


def test_an_open_write_ahead_log_is_read(path: Path) -> None:
    """Commits of a program that has the file open in WAL mode count, open transactions do not."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("INSERT INTO t VALUES (3)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO t VALUES (4)")
        assert rows(path) == [1, 2, 3]


def test_files_that_are_no_database(path: Path, tmp_path: Path) -> None:
    """A missing file, a folder, a pipe and other bytes end in an error, and none of them hangs."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for none in (tmp_path / "none.gpkg", tmp_path, pipe):
        with pytest.raises(FileNotFoundError):
            rows(none)
    (tmp_path / "text.gpkg").write_bytes(b"no database " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        rows(tmp_path / "text.gpkg")


@given(numbers=st.lists(st.integers(-(2**40), 2**40), max_size=50))
@settings(max_examples=20, deadline=None)
def test_a_copy_holds_what_the_file_holds(
    numbers: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A copy has the rows that sqlite3 reads from the file itself."""
    path = tmp_path_factory.mktemp("law") / "a.gpkg"
    write(path, *numbers)
    assert rows(path) == sorted(numbers)
