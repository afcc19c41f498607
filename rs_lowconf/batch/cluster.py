"""The executor for a Dask cluster: an existing one, or one made on this machine.

A hung Dask task cannot be cancelled, and a tile that kills its worker kills one worker after
another. So the piece is processed in a child process of the worker (`children.py`), which keeps the
work open for the next task.
"""

import logging
import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from rs_lowconf.batch.children import OPENING_SECONDS, Answer, Child, outcome
from rs_lowconf.batch.work import Failed, FailureKind, Outcome, Piece, Work, packed, to_bytes
from rs_lowconf.errors import JobError, RsLowconfError

if TYPE_CHECKING:
    from distributed import Client, Future

_RETRIES = 2
"""How often Dask retries a task that it lost, for example with its worker's machine."""
_IDLE_SECONDS = 300.0
"""Time after which a worker closes an idle child, because its driver may be dead."""
_TICK_SECONDS = 1.0
"""Time between two checks of the cluster while no task ends."""
_CONNECT_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Dask:
    """Works on a Dask cluster whose workers can all import rs_lowconf and read the files."""

    address: str | None = None
    """Address of a scheduler, such as `tcp://10.0.0.1:8786`; None makes a cluster on this machine,
    which ends with the job."""

    workers: int = 2
    """Processes of a cluster on this machine; an existing cluster has a fixed number."""

    seconds: float | None = None
    """Time limit of a chunk, as of `Processes`."""

    patience_seconds: float = 3600.0
    """How long to wait for a cluster without workers, for example while they are queued."""

    def outcomes(
        self, work: Work, take: Callable[[], Piece | None]
    ) -> Generator[Outcome, None, None]:
        """Work on pieces and yield an outcome for each; see `Executor`.

        Raises:
            JobError: Dask is not installed, the scheduler cannot be reached or is lost, or there
                are no workers for too long.
        """
        content = packed(work)
        piece = take()
        if piece is None:
            return
        ended: SimpleQueue[Future] = SimpleQueue()
        busy: dict[str, int] = {}
        with self._client() as client:
            while True:
                while piece is not None:
                    future = client.submit(
                        _attempt,
                        content,
                        to_bytes(piece.rows),
                        piece.limit(self.seconds),
                        self.seconds,
                        pure=False,
                        retries=_RETRIES,
                    )
                    busy[future.key] = piece.number
                    future.add_done_callback(ended.put)
                    del future
                    # Two per thread, so that none waits for this process.
                    piece = take() if len(busy) < 2 * max(1, _threads(client)) else None
                if not busy:
                    return
                future = self._next(client, ended)
                yield _outcome(busy.pop(future.key), future, self._place)
                del future
                piece = take()

    @property
    def _place(self) -> str:
        return "on this machine" if self.address is None else f"at {self.address}"

    @contextmanager
    def _client(self) -> "Iterator[Client]":
        """Connect; at the end let the workers kill their children."""
        from distributed import Client, LocalCluster  # noqa: PLC0415 (an extra)

        if self.address is None:
            with (
                _quiet(),
                LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    # Dask would kill workers for memory of their children.
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                ) as cluster,
                Client(cluster) as client,
            ):
                yield client
            return
        with _quiet():
            try:
                client = Client(self.address, timeout=_CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                raise JobError(
                    f"cannot reach a Dask scheduler at {self.address} ({error})",
                    remedy="start one, or correct the address",
                ) from error
            with client:
                try:
                    yield client
                finally:
                    if client.status == "running":
                        client.run(_close_idle, on_error="ignore")

    def _next(self, client: "Client", ended: "SimpleQueue[Future]") -> "Future":
        """Return the next future that ended."""
        waited = 0.0
        while True:
            if client.status != "running":
                raise _lost(self._place)
            try:
                return ended.get(timeout=_TICK_SECONDS)
            except Empty:
                waited = 0.0 if _threads(client) else waited + _TICK_SECONDS
            if waited >= self.patience_seconds:
                raise JobError(
                    f"the Dask cluster {self._place} has no workers",
                    remedy="start some and run the same command again, it resumes",
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from logging tracebacks of errors that are reported in one line."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _threads(client: "Client") -> int:
    """Return the number of concurrent tasks of the cluster."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(worker["nthreads"] for worker in workers)


def _outcome(number: int, future: "Future", place: str) -> Outcome:
    """Return the outcome of a piece.

    Raises:
        RsLowconfError: an error that affects all tiles.
    """
    from distributed import KilledWorker  # noqa: PLC0415 (an extra)

    if future.status == "finished":
        return outcome(number, future.result())
    error = future.exception() if future.status == "error" else None
    if error is None:
        raise _lost(place)
    if isinstance(error, KilledWorker):
        return Failed(number=number, kind=FailureKind.DIED, message=str(error))
    raise JobError(
        f"the Dask cluster {place} cannot work ({type(error).__name__}: {error})",
        remedy="make sure that its workers have this version of rs_lowconf",
    ) from error


def _lost(place: str) -> RsLowconfError:
    return JobError(
        f"the Dask scheduler {place} is lost",
        remedy="start it and run the same command again, it resumes",
    )


# The rest of this file runs in the workers.

_idle: list[tuple[bytes, Child, threading.Timer]] = []
"""Idle children with the works that they have opened."""
_idle_lock = threading.Lock()


def _attempt(work: bytes, rows: bytes, limit: float | None, whole: float | None) -> Answer:
    """Let a child process rows; it is kept for the next task of the same work."""
    child = _lend(work) or Child(work, OPENING_SECONDS, _number())
    try:
        child.send(rows, limit, whole)
        answer = child.exchange()
    except BaseException:
        child.close()
        raise
    if child.alive:
        _give_back(work, child)
    else:
        child.close()
    return answer


def _number() -> int:
    """Return this worker's number on its machine, from the end of its name."""
    from distributed import get_worker  # noqa: PLC0415 (an extra)

    digits = re.search(r"\d+$", str(get_worker().name))
    return int(digits[0]) if digits else 0


def _lend(work: bytes) -> Child | None:
    """Return an idle child of a work; None if there is none that lives."""
    with _idle_lock:
        for entry in [entry for entry in _idle if entry[0] == work]:
            _idle.remove(entry)
            _, child, timer = entry
            timer.cancel()
            if child.alive:
                return child
            child.close()
    return None


def _give_back(work: bytes, child: Child) -> None:
    timer = threading.Timer(_IDLE_SECONDS, _close_idle, kwargs={"which": child})
    timer.daemon = True
    with _idle_lock:
        _idle.append((work, child, timer))
    timer.start()


def _close_idle(which: Child | None = None) -> None:
    """Close one idle child, or all."""
    with _idle_lock:
        for entry in [entry for entry in _idle if which in (None, entry[1])]:
            _idle.remove(entry)
            entry[2].cancel()
            entry[1].close()
