"""Reads SQLite files that another program may have open, without creating files beside them."""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

SECONDS = 10.0
"""How long to wait for a file that another program has locked."""

_PAUSE = 0.1
_LOGS = ("-wal", "-journal")
"""Files of SQLite beside a database: pending commits, or how to roll back a broken one."""


@contextmanager
def copied(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a private copy of a database with all that was committed to it.

    SQLite creates files beside a database even to read it: the index of a write-ahead log, or the
    rollback of a transaction that a killed program left. So files are copied, and SQLite opens the
    copy.

    Waits for a program that is writing, `SECONDS` at most; Ctrl-C ends the wait at once.

    Raises:
        OSError: there is no such file, it cannot be read, or it stays locked.
        sqlite3.Error: it is not a database.
    """
    with tempfile.TemporaryDirectory(prefix="rslow-") as folder:
        copy = Path(folder) / "copy.sqlite"
        _copy(path, copy)
        with closing(sqlite3.connect(copy)) as database:
            yield database


def _copy(path: Path, copy: Path) -> None:
    """Copy a database and its logs between two writes of other programs."""
    if not path.is_file():  # reading a pipe would block
        raise FileNotFoundError(f"there is no file {path.name}")
    end = time.monotonic() + SECONDS
    while not _copied_at_rest(path, copy):
        if time.monotonic() >= end:
            raise TimeoutError(f"another program has kept it locked for {SECONDS:g} seconds")
        time.sleep(_PAUSE)


def _copied_at_rest(path: Path, copy: Path) -> bool:
    """Copy a database and its logs; return whether no program wrote meanwhile."""
    if _has_log(path):
        # A lock would create an index beside the file; a log contains whole commits with checksums,
        # so it is enough that no file changed while it was copied.
        return _copied_unchanged(path, copy)
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as original:
        try:
            # Holds a shared lock to the end: other programs may read the file, but not write it.
            original.execute("BEGIN")
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                # A killed program's transaction has to be rolled back first, which works in the
                # copy.
                return _copied_unchanged(path, copy)
            raise
        return _copied_unchanged(path, copy)


def _has_log(path: Path) -> bool:
    """Return whether commits may be in a write-ahead log: it exists, or the header says so."""
    with path.open("rb") as file:
        header = file.read(20)
    return header[18:20] == b"\2\2" or path.with_name(f"{path.name}-wal").exists()


def _copied_unchanged(path: Path, copy: Path) -> bool:
    before = _states(path)
    shutil.copyfile(path, copy)
    for end in _LOGS:
        log, target = (own.with_name(own.name + end) for own in (path, copy))
        target.unlink(missing_ok=True)
        if log.exists():
            shutil.copyfile(log, target)
    return _states(path) == before


def _states(path: Path) -> list[tuple[int, int, int] | None]:
    """Return size, modification time and inode of a file and its logs."""
    found: list[tuple[int, int, int] | None] = []
    for own in (path, *(path.with_name(path.name + end) for end in _LOGS)):
        try:
            state = own.stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((state.st_size, state.st_mtime_ns, state.st_ino))
    return found
