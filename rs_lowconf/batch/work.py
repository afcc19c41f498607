"""What a job does to a chunk of tiles, and how whoever does it answers."""

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
"""The column that names a tile, in what a work is given and in what it returns."""

ERROR = "error"
"""The column by which a work may say that a tile is bad: text, null where all is well."""

_LONGEST = 500
"""Characters of a message that are kept."""

_SMALLEST_SHARE = 1 / 8
"""Of the time limit: what a part of a chunk gets at least."""

Call = Callable[[pa.Table], pa.Table]


@runtime_checkable
class Work(Protocol):
    """What is done to every tile: a small frozen dataclass that can be pickled.

    It holds paths and settings, never a model. Its class lives in a module, not in a script,
    because other processes import it. What it does is a pure function of a row, so that a tile
    may be tried again, elsewhere and among others.
    """

    @property
    def key(self) -> str:
        """All that the results depend on beside the rows: settings, checksums of inputs."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns of the results: `id` (string) and others, but no `error`."""
        ...

    def open(self) -> Call:
        """Load what is needed, once a process, and return the function that does the work.

        What is slow the first time, such as an import or a first inference, belongs here, where
        it does not count as the time of a tile.

        The function is given rows and returns a row for each of their ids in any order, with
        the columns of `schema`. A column `error` (string) may say why a tile has no result;
        where it is not null, the other columns do not count. What it raises blames a tile of
        the chunk, which is then looked for; an `OutputError` or a full disk ends the job.

        Raises:
            RsLowconfError: no tile can be worked on, such as when a model is missing.
        """
        ...


@runtime_checkable
class Rows(Protocol):
    """The rows of a job, which are read piece by piece and twice: a million fit in no worker."""

    def __len__(self) -> int:
        """Return their number."""
        ...

    def tables(self) -> Iterator[pa.Table]:
        """Yield them in order, the same ones each time."""
        ...


class FailureKind(StrEnum):
    """How a tile failed."""

    RAISED = "raised"
    """The work raised an error, or said so in the column `error`."""

    HUNG = "hung"
    """It did not answer within its time limit and was killed."""

    DIED = "died"
    """It ended its process: a crash, or a lack of memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Rows to be worked on at once: a chunk, or a part of one that failed."""

    number: int
    """By which its outcome is told; no two pieces of a run have the same."""

    rows: pa.Table
    """A row a tile."""

    share: float
    """Its rows over those of its chunk: 1 for a whole one."""

    def limit(self, seconds: float | None) -> float | None:
        """Return its time limit in seconds, given that of a whole chunk; None is none."""
        return None if seconds is None else seconds * max(self.share, _SMALLEST_SHARE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """A piece that was worked on."""

    number: int
    table: pa.Table
    """Columns of the work's schema, then `error`; a row for each row of the piece."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Failed:
    """A piece of which at least one tile is bad, or that had bad luck."""

    number: int
    kind: FailureKind
    message: str


Outcome = Done | Failed


@runtime_checkable
class Executor(Protocol):
    """Who works: this process, others of this machine, or a cluster."""

    def outcomes(
        self, work: Work, take: Callable[[], Piece | None]
    ) -> Generator[Outcome, None, None]:
        """Work on pieces and yield an outcome for each, in the order in which they end.

        Args:
            work: what is to be done.
            take: returns the next piece; None when there is none at the moment, though an
                outcome may bring one. Called between two outcomes only, in the caller's
                thread. It ends when that is None and nothing is being worked on.

        Raises:
            RsLowconfError: nothing can be worked on, such as when the work does not open, the
                disk is full or a cluster is lost.
        """
        ...


def answer(call: Call, schema: pa.Schema, rows: pa.Table) -> pa.Table | str:
    """Return what `call` makes of `rows`, or what it raised in words.

    Returns:
        The columns of `schema` and `error`, a row for each row of `rows`; or a message.

    Raises:
        OutputError: the disk is full, or a folder cannot be written.
    """
    try:
        table = call(rows)
        if sorted(table[ID].to_pylist()) != sorted(rows[ID].to_pylist()):
            raise ValueError("the work returned other tiles than it was given")
        errors = (
            table[ERROR].cast(pa.string())
            if ERROR in table.column_names
            else pa.nulls(len(table), pa.string())
        )
        return table.select(schema.names).cast(schema).append_column(ERROR, errors)
    except OutputError:
        raise
    # Whatever a tile makes its work raise, the other tiles go on.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OutputError(
                f"the disk is full ({error})",
                remedy="free some space and run the same command again, it resumes",
            ) from error
        return told(error)


def told(error: Exception) -> str:
    """Return an error in one line: as it is if it is meant for users, else with its place."""
    if isinstance(error, RsLowconfError):
        return shortened(str(error))
    places = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return shortened(f"{type(error).__name__}: {error}") + place


def shortened(text: str) -> str:
    """Return a text in one line, its beginning if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def packed(work: Work) -> bytes:
    """Return a work as other processes get it.

    Raises:
        JobError: its class is defined where they cannot import it from.
    """
    kind = type(work)
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise JobError(
            f"other processes cannot import {kind.__qualname__}",
            remedy="define it in a module, outside of functions",
        )
    return pickle.dumps(work)


def to_bytes(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream, of a slice no more than its own rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(stream: bytes) -> pa.Table:
    """Return the table of an Arrow stream."""
    with pa.ipc.open_stream(stream) as reader:
        return reader.read_all()
