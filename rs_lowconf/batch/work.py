"""The work of a job on a chunk of tiles, and the interface of executors."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from rs_lowconf.errors import JobError, OutputError, RsLowconfError
from rs_lowconf.runs import DISK_FULL

ID = "id"
"""The column that names a tile, in the input and output of a work."""

ERROR = "error"
"""The column by which a work may report a bad tile: text, null for good tiles."""

_LONGEST = 500
"""Characters of a message that are kept."""

_SMALLEST_SHARE = 1 / 8
"""Smallest share of the time limit for a part of a chunk."""

Call = Callable[[pa.Table], pa.Table]


@runtime_checkable
class Work(Protocol):
    """The work on every tile: a small frozen dataclass that can be pickled.

    It contains paths and settings, never a model. Its class must be in a module, not in a script,
    because other processes import it. The result is a pure function of a row, so that a tile may be
    tried again, in another process and with other tiles.
    """

    @property
    def key(self) -> str:
        """All that the results depend on besides the rows: settings, checksums of inputs."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns of the results: `id` (string) and others, but no `error`."""
        ...

    def open(self) -> Call:
        """Load models and libraries, once per process, and return the function that does the work.

        Anything that is slow the first time, such as an import or a first inference, belongs here,
        where it does not count as the time of a tile.

        The function gets rows and returns one row for each of their ids in any order, with the
        columns of `schema`; metadata of its own are stored too. A column `error` (string)
        may give the reason why a tile has no result; where it is not null, the other columns do not
        count. An exception is attributed to a tile of the chunk, which is then searched for; an
        `OutputError` or a full disk ends the job.

        Raises:
            RsLowconfError: no tile can be processed, for example if a model is missing.
        """
        ...


@runtime_checkable
class Rows(Protocol):
    """The rows of a job, which are read in parts and twice: a million would not fit in memory."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in order, the same each time."""
        ...


class FailureKind(StrEnum):
    """How a tile failed."""

    RAISED = "raised"
    """The work raised an error, or reported it in the column `error`."""

    HUNG = "hung"
    """It exceeded its time limit and was killed."""

    DIED = "died"
    """It ended its process: a crash, or out of memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Rows to process together: a chunk, or a part of one that failed."""

    number: int
    """Identifies its outcome; unique within a run."""

    rows: pa.Table
    """One row per tile."""

    share: float
    """Its rows over those of its chunk: 1 for a whole one."""

    def limit(self, seconds: float | None) -> float | None:
        """Return its time limit in seconds, given that of a whole chunk; None: no limit."""
        return None if seconds is None else seconds * max(self.share, _SMALLEST_SHARE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """A finished piece."""

    number: int
    table: pa.Table
    """Columns of the work's schema, then `error`; one row per row of the piece."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Failed:
    """A piece with at least one bad tile, or that failed transiently."""

    number: int
    kind: FailureKind
    message: str


Outcome = Done | Failed


@runtime_checkable
class Executor(Protocol):
    """Where work runs: in this process, in others on this machine, or on a cluster."""

    def outcomes(
        self, work: Work, take: Callable[[], Piece | None]
    ) -> Generator[Outcome, None, None]:
        """Process pieces and yield an outcome for each, in the order in which they end.

        Args:
            work: on the rows of the pieces.
            take: returns the next piece; None when there is none at the moment, though an outcome
                may lead to one. Called only between two outcomes, in the caller's thread. Ends when
                it returns None and no piece is in progress.

        Raises:
            RsLowconfError: nothing can be processed, for example if the work does not open, the
                disk is full or a cluster is lost.
        """
        ...


def answer(call: Call, schema: pa.Schema, rows: pa.Table) -> pa.Table | str:
    """Return the result of `call` for `rows`, or the error that it raised as text.

    Returns:
        The columns of `schema` and `error`, one row per row of `rows`; or a message.

    Raises:
        OutputError: the disk is full, or a folder cannot be written.
    """
    try:
        table = call(rows)
        if sorted(table[ID].to_pylist()) != sorted(rows[ID].to_pylist()):
            raise ValueError("the work did not return one row per tile")
        errors = (
            table[ERROR].cast(pa.string())
            if ERROR in table.column_names
            else pa.nulls(len(table), pa.string())
        )
        told = {**(schema.metadata or {}), **(table.schema.metadata or {})}
        found = schema.with_metadata(told or None)
        return table.select(schema.names).cast(found).append_column(ERROR, errors)
    except OutputError:
        raise
    # Whatever error a tile causes, the other tiles go on.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OutputError(
                f"the disk is full ({error})",
                remedy="free some space and run the same command again, it resumes",
            ) from error
        return one_line(error)


def one_line(error: Exception) -> str:
    """Return an error in one line: unchanged if it is meant for users, else with its location."""
    if isinstance(error, RsLowconfError):
        return shortened(str(error))
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return shortened(f"{type(error).__name__}: {error}") + place


def shortened(text: str) -> str:
    """Return a text in one line, truncated if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def packed(work: Work) -> bytes:
    """Return a work as bytes for other processes.

    Raises:
        JobError: its class is defined where they cannot import it.
    """
    kind = type(work)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise JobError(
            f"other processes cannot import {kind.__qualname__}",
            remedy="define it in a module, outside of functions",
        )
    return pickle.dumps(work)


def to_bytes(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream; of a slice only its rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(stream: bytes) -> pa.Table:
    """Return the table of an Arrow stream."""
    with pa.ipc.open_stream(stream) as reader:
        return reader.read_all()
