"""Processes that work on pieces, each with a time limit, and die with their parent.

They are separate programs instead of `multiprocessing` or a pool: those cannot start children in
Dask workers, run a script again in each child, and share a queue that a killed child may leave
locked: `scripts/research/pool_faults.py` shows what a pool of `pebble` does not survive.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Final

from rs_lowconf.batch.sessions import kill_session
from rs_lowconf.batch.work import (
    Done,
    Failed,
    FailureKind,
    Outcome,
    Piece,
    Work,
    from_bytes,
    packed,
    shortened,
    to_bytes,
)
from rs_lowconf.errors import JobError, RsLowconfError
from rs_lowconf.settings import WORKER

OPENING_SECONDS: Final = 900.0
"""Default time for a work to open: to import libraries and load models."""

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rs_lowconf.batch.child import main; main(int(sys.argv[2]))"
)
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TAIL = 40_000
"""Bytes of a child's output that are kept. The place where it hangs comes first, then the frames
that led there and the names of all extension modules, which alone are thousands of bytes."""
_LAST_WORDS = 400
_GRACE_SECONDS = 2.0
"""Time for a child to report where it hangs, and for its last output to arrive."""
_PLACE = re.compile(r'^Current thread.*\n  File "([^"]+)", line (\d+) in (.+)$', re.MULTILINE)

Answer = tuple[str, Any]
"""`done` and an Arrow stream, the name of a `FailureKind` and a message, or `fatal` and an error
that ends the job."""


class Child:
    """A process with an open work that processes one piece at a time."""

    def __init__(self, work: bytes, opening_seconds: float, number: int) -> None:
        """Start it. A piece may be sent at once, and is processed when the work is open.

        Args:
            work: as `packed` returns it.
            opening_seconds: time for the work to open.
            number: among the workers of this machine, from 0 on.
        """
        self.number = number
        self.connection, theirs = Pipe()
        with theirs:
            # A separate session, so that Ctrl-C reaches only the parent and its children are killed
            # with it.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=os.environ | _ENVIRONMENT | {WORKER: str(number)},
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        self._words = bytearray()
        self._listener = threading.Thread(
            target=_listen, args=(self._process.stdout, self._words), daemon=True
        )
        self._listener.start()
        self._opening = self._fresh = True
        self._limit: float | None = opening_seconds
        self._started = time.monotonic()
        self._piece_limit: float | None = None
        self._send(work)

    def send(self, rows: bytes, limit: float | None, whole: float | None) -> None:
        """Give it rows to work on.

        Args:
            rows: an Arrow stream.
            limit: seconds in which it must answer; None: no limit.
            whole: the limit of a whole chunk, which applies to the first piece whatever its size:
                the first piece of a process is slow, and after a hung tile a process is always new.
        """
        seconds, self._fresh = whole if self._fresh else limit, False
        self._piece_limit = seconds
        if not self._opening:
            self._limit, self._started = seconds, time.monotonic()
        self._send((rows, seconds))

    def remaining(self) -> float | None:
        """Return the seconds until it is late; None if it has no limit."""
        if self._limit is None:
            return None
        return max(0.0, self._started + self._limit - time.monotonic())

    def receive(self) -> Answer | None:
        """Return its answer, None if there is none yet; close it if it died or is late."""
        try:
            if self.connection.poll():
                kind, value = self.connection.recv()
                if kind != "ready":
                    return kind, value
                self._opening = False
                self._limit, self._started = self._piece_limit, time.monotonic()
            elif self.remaining() == 0:
                return self._hung()
        except (EOFError, OSError):
            return self._died()
        return None

    def exchange(self) -> Answer:
        """Wait for its answer and return it."""
        while True:
            wait([self.connection], self.remaining())
            answer = self.receive()
            if answer is not None:
                return answer

    @property
    def alive(self) -> bool:
        """Whether it can be sent another piece."""
        return not self.connection.closed and self._process.poll() is None

    def close(self) -> None:
        """Kill it and its children."""
        if self.connection.closed:
            return
        kill_session(self._process.pid)
        self._process.wait()
        self._listener.join(_GRACE_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self.connection.close()

    def _send(self, message: Any) -> None:
        # If it is dead, `receive` shows it.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def _hung(self) -> Answer:
        # It writes where it hangs, and exits.
        self._process.send_signal(signal.SIGABRT)
        self._end()
        return self._failed(FailureKind.HUNG, f"no answer within {self._limit:g} s")

    def _died(self) -> Answer:
        self._end()
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._failed(FailureKind.DIED, f"the process ended by {how}")

    def _end(self) -> None:
        """Close it; killed at once, its exit code and last words would be lost."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self.close()

    def _failed(self, kind: FailureKind, message: str) -> Answer:
        message += self._last_words()
        return ("fatal", _cannot_start(message)) if self._opening else (kind.value, message)

    def _last_words(self) -> str:
        """Return where it was, if it reported that, or else its last output."""
        words = self._words.decode(errors="replace")
        place = _PLACE.search(words)
        if place is not None:
            return f", it was in {place[3]} ({Path(place[1]).name}:{place[2]})"
        end = shortened(words[-_LAST_WORDS:])
        return f", its output ends with: {end}" if end else ""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Works in processes on this machine, with one thread each."""

    workers: int
    """Number of processes."""

    seconds: float | None = None
    """Time limit of a chunk, many times its usual time; a part of a chunk gets its share, but at
    least an eighth. None: no limit."""

    opening_seconds: float = OPENING_SECONDS
    """Time limit for a process to open the work."""

    def outcomes(
        self, work: Work, take: Callable[[], Piece | None]
    ) -> Generator[Outcome, None, None]:
        """Work on pieces and yield an outcome for each; see `Executor`."""
        content = packed(work)
        idle: list[Child] = []
        busy: dict[Connection, tuple[Child, Piece]] = {}
        ended: list[tuple[int, Answer]] = []
        try:
            while True:
                while len(busy) < self.workers and (piece := take()) is not None:
                    taken = {child.number for child, _ in busy.values()}
                    number = next(n for n in range(self.workers) if n not in taken)
                    child = idle.pop() if idle else Child(content, self.opening_seconds, number)
                    busy[child.connection] = child, piece
                    child.send(to_bytes(piece.rows), piece.limit(self.seconds), self.seconds)
                # Only now, when all are busy: the consumer stores results, which takes time.
                for number, answer in ended:
                    yield outcome(number, answer)
                if not busy and not ended:
                    return
                ended = _answers(busy, idle) if busy else []
        finally:
            for child in (*idle, *(child for child, _ in busy.values())):
                child.close()


def outcome(number: int, answer: Answer) -> Outcome:
    """Return the outcome of a piece from its answer.

    Raises:
        RsLowconfError: it affects all tiles.
    """
    kind, value = answer
    if kind == "done":
        return Done(number=number, table=from_bytes(value))
    if kind == "fatal":
        assert isinstance(value, RsLowconfError)  # noqa: S101 - for mypy: the child sends these
        raise value
    return Failed(number=number, kind=FailureKind(kind), message=value)


def _answers(
    busy: dict[Connection, tuple[Child, Piece]], idle: list[Child]
) -> list[tuple[int, Answer]]:
    """Wait until one answers, dies or is late; return the answers by piece."""
    limits = [left for child, _ in busy.values() if (left := child.remaining()) is not None]
    wait(list(busy), min(limits, default=None))
    answers = []
    for connection, (child, piece) in list(busy.items()):
        answer = child.receive()
        if answer is not None:
            answers.append((piece.number, answer))
            del busy[connection]
            if child.alive:
                idle.append(child)
            else:
                child.close()
    return answers


def _listen(output: IO[bytes], words: bytearray) -> None:
    """Keep the end of a child's output, and read it so that the child never blocks."""
    with contextlib.suppress(ValueError, OSError):  # closed, as something else kept it open
        while chunk := os.read(output.fileno(), 4096):
            words += chunk
            del words[:-_TAIL]


def _cannot_start(why: str) -> JobError:
    return JobError(
        f"the work cannot start ({why})",
        remedy="fix it and run the same command again, it resumes",
    )
