"""A job folder: its files are the only record of progress, so a job can stop and resume anywhere.

```
job.json      format, kind, key, number of tiles, rows per chunk
parts/        part-HASH.parquet: results of the good tiles of a chunk
errors/       part-HASH.json: the bad tiles of that chunk
superseded/   parts and errors of other settings or rows; not read, may be deleted
progress.json progress of the current or the last driver
stop          requests that the driver stops
lock          held by the driver; the system frees it when the driver dies
```

HASH names a chunk: it depends only on its rows and on the work's key and schema. A tile is done
when its id is in the part or among the errors of its chunk; there is no other record that could
disagree. Only the driver writes. Files of other settings move to `superseded/`, and back when the
settings return, so `parts/` never contains a tile twice.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import lock_descriptor

from rs_lowconf.batch.plan import FORMAT, Chunk, plan, rows_of
from rs_lowconf.batch.work import ID, FailureKind, Rows, Work
from rs_lowconf.errors import JobError
from rs_lowconf.runs import output_errors, replacing, write_json
from rs_lowconf.version import __version__

DESCRIPTION: Final = "job.json"
PARTS: Final = "parts"
ERRORS: Final = "errors"
SUPERSEDED: Final = "superseded"
PROGRESS: Final = "progress.json"
STOP: Final = "stop"
LOCK: Final = "lock"

_LOCK_SECONDS = 1.0
"""How long a driver tries to get the lock: `status` takes it briefly to find its holder."""

_LOOK_SECONDS = 0.1
"""How long `status` tries, for the same reason: another `status` may look at the same time."""

_POLL_SECONDS = 0.02

_UNREADABLE = 1
"""Bytes at the start of the lock that other processes cannot read on Windows while it is held."""

_PROGRESS_SECONDS = 1.0
"""Seconds between two versions of `progress.json`."""


@dataclass(frozen=True, kw_only=True)
class TileError:
    """A bad tile."""

    id: str
    kind: FailureKind
    message: str
    """One line."""

    attempts: int
    """How often it was tried, alone or in a chunk."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Unfinished:
    """A chunk with remaining tiles."""

    chunk: Chunk
    rows: pa.Table
    """The remaining tiles: all of the chunk unless a retry was requested."""


class Ledger:
    """Writes into a job folder that this driver has locked."""

    def __init__(
        self, folder: Path, chunks: Sequence[Chunk], ids: pa.Array, rows: pa.Table | Rows
    ) -> None:
        """Tidy a folder locked by `open_ledger`: leftovers of a crash, parts of other settings."""
        self._folder = folder
        self._ids, self._rows = ids, rows
        self._progress_at = 0.0
        with output_errors(folder):
            for name in (PARTS, ERRORS, SUPERSEDED):
                (folder / name).mkdir(exist_ok=True)
            for leftover in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
                leftover.unlink()
            (folder / STOP).unlink(missing_ok=True)
            self._sort_out({chunk.name for chunk in chunks})
        self.done = 0
        """Tiles with a result."""
        self.failed = 0
        """Bad tiles."""
        self._unfinished = [chunk for chunk in chunks if not self._count(chunk)]

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield chunks with remaining tiles, in the order of the rows."""
        for chunk, rows in rows_of(self._unfinished, _tables(self._rows)):
            part = _read_part(self._part(chunk))
            known = [error.id for error in read_errors_file(self._errors(chunk))]
            known += [] if part is None else part[ID].to_pylist()
            left = rows
            if known:
                left = rows.filter(pc.invert(pc.is_in(rows[ID], pa.array(known, rows[ID].type))))
            yield Unfinished(chunk=chunk, rows=left)

    def write(self, chunk: Chunk, results: pa.Table, errors: Sequence[TileError]) -> None:
        """Store results and errors of tiles of a chunk, in addition to those of its other tiles.

        Args:
            chunk: the chunk.
            results: one row per good tile.
            errors: the bad tiles.

        Raises:
            OutputError: the disk is full or the folder cannot be written; nothing is half written,
                and missing results are computed again.
        """
        before = _read_part(self._part(chunk))
        merged = results if before is None else pa.concat_tables([before, results])
        names = self._ids.slice(chunk.start, chunk.length).cast(merged[ID].type)
        order = pc.sort_indices(pc.index_in(merged[ID], names))
        sink = pa.BufferOutputStream()
        pq.write_table(merged.take(order), sink)
        with replacing(self._part(chunk)) as temporary:
            temporary.write_bytes(sink.getvalue())
        if errors:
            known = read_errors_file(self._errors(chunk))
            write_json(
                self._errors(chunk),
                {"format": FORMAT, "errors": [asdict(error) for error in (*known, *errors)]},
            )
        self.done += len(results)
        self.failed += len(errors)

    def note(self, *, tried: int, seconds: float, ended: bool) -> None:
        """Write the progress of this run for `status`; at most once per second, unless it ended.

        Args:
            tried: tiles that it finished, bad ones included.
            seconds: since it began.
            ended: whether this is its last note.
        """
        now = time.monotonic()
        if ended or now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            write_json(
                self._folder / PROGRESS, {"format": FORMAT, "tried": tried, "seconds": seconds}
            )

    def stop_requested(self) -> bool:
        """Return whether this run was asked to stop."""
        return (self._folder / STOP).exists()

    def _part(self, chunk: Chunk) -> Path:
        return self._folder / PARTS / f"part-{chunk.name}.parquet"

    def _errors(self, chunk: Chunk) -> Path:
        return self._folder / ERRORS / f"part-{chunk.name}.json"

    def _sort_out(self, names: set[str]) -> None:
        """Move files of chunks that are not planned to `superseded/`, and planned ones back."""
        superseded = self._folder / SUPERSEDED
        for folder, suffix in ((PARTS, ".parquet"), (ERRORS, ".json")):
            for path in (self._folder / folder).glob(f"part-*{suffix}"):
                if path.stem.removeprefix("part-") not in names:
                    path.replace(superseded / path.name)
            for path in superseded.glob(f"part-*{suffix}"):
                if path.stem.removeprefix("part-") in names:
                    path.replace(self._folder / folder / path.name)

    def _count(self, chunk: Chunk) -> bool:
        """Count the finished tiles of a chunk and return whether all are finished."""
        done = _count_rows(self._part(chunk))
        failed = len(read_errors_file(self._errors(chunk)))
        self.done += done
        self.failed += failed
        return done + failed == chunk.length


@contextmanager
def open_ledger(
    folder: Path, *, kind: str, rows: pa.Table | Rows, work: Work, chunk_rows: int
) -> Iterator[Ledger]:
    """Create or resume a job folder and hold its lock.

    Rows per chunk do not change results, so a folder whose last run had the same key keeps its
    number, and a different `chunk_rows` repeats nothing.

    Args:
        folder: the job folder.
        kind: what the job does; a folder keeps to one kind.
        rows: one row per tile, with a column `id`.
        work: on these rows.
        chunk_rows: rows per chunk, on average.

    Raises:
        JobError: another driver is running in it, it is not a job folder, or one of another kind or
            of a newer format; or see `plan`.
        OutputError: it cannot be written.
    """
    # Before a lock is created in a folder that is not a job folder.
    _description(folder, kind)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        before = _description(folder, kind)
        if before is not None and before["key"] == work.key:
            chunk_rows = before["chunk_rows"]
        chunks, ids = plan(_tables(rows), work, chunk_rows)
        write_json(
            folder / DESCRIPTION,
            {
                "format": FORMAT,
                "kind": kind,
                "rs_lowconf": __version__,
                "key": work.key,
                "tiles": len(ids),
                "chunks": len(chunks),
                "chunk_rows": chunk_rows,
            },
        )
        yield Ledger(folder, chunks, ids, rows)


def _tables(rows: pa.Table | Rows) -> Iterator[pa.Table]:
    return iter((rows,)) if isinstance(rows, pa.Table) else rows.tables()


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of `job.json`.

    Raises:
        JobError: there is none, it is damaged or of a newer format.
    """
    path = folder / DESCRIPTION
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form = values["format"]
    except OSError as error:
        raise JobError(
            f"{folder} is not a job folder ({DESCRIPTION}: {error.strerror})",
            remedy="give the folder of a batch job",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{path} is damaged", remedy="delete it and start the job again") from error
    if form != FORMAT:
        raise JobError(
            f"job folder {folder} has format {form}",
            expected=str(FORMAT),
            remedy="use the rs_lowconf that made it, or another folder",
        )
    return values


def read_errors_file(path: Path) -> list[TileError]:
    """Return the bad tiles of a chunk, none when there is no such file."""
    if not path.exists():
        return []
    values = json.loads(path.read_text(encoding="utf-8"))
    return [
        TileError(**{**error, "kind": FailureKind(error["kind"])}) for error in values["errors"]
    ]


def holder(folder: Path) -> str | None:
    """Return the process that runs a job folder, as "process 12 on host"; None without one."""
    path = folder / LOCK
    file: IO[bytes]
    try:
        file = path.open("r+b")  # on network file systems, locking needs write permission
    except FileNotFoundError:
        return None
    except PermissionError:
        file = path.open("rb")
    with file:
        if _lock(file, _LOOK_SECONDS):
            return None
        file.seek(_UNREADABLE)
        return file.read().decode() or "another process"


def _description(folder: Path, kind: str) -> dict[str, Any] | None:
    """Return the description of a job folder; None if it is new."""
    if not folder.exists() or all(
        path.name == LOCK or path.name.startswith(".") for path in folder.iterdir()
    ):
        return None
    values = read_description(folder)
    if values["kind"] != kind:
        raise JobError(
            f"job folder {folder} contains a job {values['kind']}",
            expected=kind,
            remedy="choose another folder",
        )
    return values


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a job folder.

    Raises:
        JobError: another process holds it, or the file system has no locks.
        OutputError: the folder cannot be written.
    """
    with output_errors(folder):
        file = (folder / LOCK).open("a+b")
    with file:
        if not _lock(file, _LOCK_SECONDS):
            who = holder(folder) or "another process"
            raise JobError(
                f"job folder {folder} is locked by {who}",
                remedy="wait until it ends, or ask it to stop",
            )
        file.truncate(0)
        file.write(b" " * _UNREADABLE + f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        yield


def _lock(file: IO[bytes], seconds: float) -> bool:
    """Return whether the lock was obtained in time. It is released with the file or the process."""
    last = time.monotonic() + seconds
    try:
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() > last:
                return False
            time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise JobError(
            f"cannot lock {file.name} ({error.strerror})",
            remedy="put the job folder on a file system that can lock files",
        ) from error
    return True


def _count_rows(path: Path) -> int:
    """Return the rows of a part, 0 if it is missing; a damaged one is removed."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        return 0
    except pa.ArrowInvalid:
        path.unlink()
        return 0


def _read_part(path: Path) -> pa.Table | None:
    """Return the rows of a part, None if it is missing."""
    return pq.ParquetFile(path).read() if path.exists() else None
