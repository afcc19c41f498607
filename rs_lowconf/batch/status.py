"""Status of a job from its folder only, and requests to it through its folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from rs_lowconf.batch.ledger import (
    ERRORS,
    PARTS,
    PROGRESS,
    STOP,
    TileError,
    holder,
    locked,
    read_description,
    read_errors_file,
)
from rs_lowconf.errors import JobError
from rs_lowconf.runs import output_errors

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True, kw_only=True)
class Status:
    """Progress of a job."""

    kind: str
    """What the job does."""

    planned: int
    """All tiles of the job."""

    done: int
    """Tiles with a result."""

    failed: int
    """Bad tiles."""

    running: str | None
    """The process that runs it, as "process 12 on host"; None if it is not running."""

    stopping: bool
    """Whether it was asked to stop."""

    rate: float | None
    """Tiles per second of this run or the last one; None before its first chunk."""

    @property
    def left(self) -> int:
        """Tiles that are neither done nor bad."""
        return self.planned - self.done - self.failed

    @property
    def seconds_left(self) -> float | None:
        """Time for the remaining tiles at that rate; None without a rate."""
        return None if self.rate is None else self.left / self.rate


def status(folder: Path) -> Status:
    """Return the progress of the job in a folder, running or not.

    Raises:
        JobError: it is not a job folder.
    """
    description = read_description(folder)
    running = holder(folder)
    return Status(
        kind=description["kind"],
        planned=description["tiles"],
        done=sum(pq.read_metadata(path).num_rows for path in (folder / PARTS).glob("part-*")),
        failed=sum(1 for _ in read_errors(folder)),
        running=running,
        stopping=running is not None and (folder / STOP).exists(),
        rate=_rate(folder),
    )


def read_errors(folder: Path) -> Iterator[TileError]:
    """Yield the bad tiles of a job in no particular order."""
    for path in (folder / ERRORS).glob("part-*"):
        yield from read_errors_file(path)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why tiles are bad."""

    text: str
    """What happened to them, in one line."""
    count: int
    """Number of tiles."""
    example: str
    """The first of their ids."""


def problems(folder: Path) -> list[Problem]:
    """Return what happened to the bad tiles of a job, the most frequent first."""
    found: dict[str, Problem] = {}
    for error in read_errors(folder):
        text = f"{error.kind.value}: {error.message}"
        known = found.get(text, Problem(text=text, count=0, example=error.id))
        example = min(known.example, error.id)
        found[text] = Problem(text=text, count=known.count + 1, example=example)
    return sorted(found.values(), key=lambda one: (-one.count, one.example))


def open_results(folder: Path) -> "pyarrow.dataset.Dataset":
    """Return the results so far, one row per good tile, in no particular order.

    Raises:
        JobError: it is not a job folder, or no chunk is finished yet.
    """
    read_description(folder)
    # Absolute, because pyarrow takes a folder named ~ for the home folder.
    paths = sorted(map(str, (folder.absolute() / PARTS).glob("part-*")))
    if not paths:
        raise JobError(f"job folder {folder} has no results yet", remedy="wait for the first")
    # It imports pandas, which takes half of the start-up time of a worker process.
    from pyarrow.dataset import dataset  # noqa: PLC0415

    return dataset(paths, format="parquet")


def request_stop(folder: Path) -> None:
    """Request that a running job finishes the chunks in progress and stops.

    Raises:
        JobError: it is not a job folder, or no job is running in it.
    """
    read_description(folder)
    if holder(folder) is None:
        raise JobError(f"no job is running in {folder}")
    with output_errors(folder):
        (folder / STOP).touch()


def forget_errors(folder: Path) -> int:
    """Make the next run retry the bad tiles, and only those; return their number.

    Raises:
        JobError: it is not a job folder, or a job is running in it.
    """
    read_description(folder)
    with locked(folder), output_errors(folder):
        count = sum(1 for _ in read_errors(folder))
        for path in (folder / ERRORS).glob("part-*"):
            path.unlink()
    return count


def _rate(folder: Path) -> float | None:
    path = folder / PROGRESS
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return float(values["tried"] / values["seconds"])
