"""The loop of a batch job."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rs_lowconf.batch.ledger import open_ledger
from rs_lowconf.batch.pieces import Pieces
from rs_lowconf.batch.plan import is_text
from rs_lowconf.batch.work import ERROR, ID, Executor, Rows, Work
from rs_lowconf.errors import JobError


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Tiles, the work on them, and the folder of the results."""

    folder: Path
    """A new folder, or a job folder of the same kind, which is resumed."""

    kind: str
    """What the job does, in one word."""

    rows: pa.Table | Rows
    """One row per tile with a column `id` (string, unique) and the columns that the work reads. If
    a value in any column changes, the tile is processed again, so columns that the work does not
    read are better left out."""

    work: Work

    chunk_rows: int = 512
    """Rows that are processed and stored together, on average; they should take seconds. Only used
    in a new folder; a resumed job keeps its number."""

    def __post_init__(self) -> None:
        """Check the schema; rows are checked when they are read.

        Raises:
            JobError: results without ids.
        """
        if self.chunk_rows < 1:
            raise JobError(f"chunks of {self.chunk_rows} rows", expected="at least 1")
        schema = self.work.schema
        if ID not in schema.names or not is_text(schema.field(ID).type):
            raise JobError("the results of the job lack ids", expected=f"text in column {ID}")
        if ERROR in self.work.schema.names:
            raise JobError(f"the results have a column {ERROR}", expected="another name for it")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a job after a chunk."""

    rows: int
    """Tiles of the chunk that were processed."""

    planned: int
    """All tiles of the job."""

    done: int
    """Tiles with a result so far, earlier runs included."""

    failed: int
    """Bad tiles so far, earlier runs included."""

    tried: int
    """Tiles processed by this run."""

    seconds: float
    """Seconds since this run began."""

    @property
    def rate(self) -> float:
        """Tiles per second of this run."""
        return self.tried / self.seconds


def run_job(
    job: Job, executor: Executor, *, stopped: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, None]:
    """Process the remaining tiles and yield a record for each finished chunk.

    Closing the generator, or an exception in its consumer, kills its workers at once; chunks in
    progress are repeated by the next run. After a request to stop, a run finishes the chunks in
    progress. `status` shows whether everything is done.

    Args:
        job: what to do.
        executor: where.
        stopped: whether this process was asked to stop; other processes use `request_stop`.

    Raises:
        JobError: no rows, ids of rows that are missing or not unique; another driver is running in
            the folder, it contains something else, the work does not open, or a cluster is lost.
        OutputError: the disk is full or the folder cannot be written.
    """
    with open_ledger(
        job.folder, kind=job.kind, rows=job.rows, work=job.work, chunk_rows=job.chunk_rows
    ) as ledger:
        pieces = Pieces(
            ledger.unfinished(), job.work.schema, lambda: stopped() or ledger.stop_requested()
        )
        started, tried = time.monotonic(), 0
        outcomes = executor.outcomes(job.work, pieces.take)
        try:
            for outcome in outcomes:
                ended = pieces.tell(outcome)
                if ended is None:
                    continue
                ledger.write(ended.chunk, ended.results, ended.errors)
                rows = len(ended.results) + len(ended.errors)
                tried += rows
                seconds = time.monotonic() - started
                ledger.note(tried=tried, seconds=seconds, ended=False)
                yield Progress(
                    rows=rows,
                    planned=len(job.rows),
                    done=ledger.done,
                    failed=ledger.failed,
                    tried=tried,
                    seconds=seconds,
                )
        finally:
            # At once, not when it is garbage-collected.
            outcomes.close()
        if tried:
            ledger.note(tried=tried, seconds=time.monotonic() - started, ended=True)
