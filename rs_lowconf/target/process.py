"""A model in a separate process, which can use another environment and can be killed.

The protocol is described in `serve.py`, which is also the program for models in Python.
"""

import json
import math
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rs_lowconf.errors import ModelError
from rs_lowconf.target.serve import PROTOCOL

_LONGEST_LINE = 1_000
_TAIL = 600
"""Bytes of standard error that an error shows."""
_GRACE_SECONDS = 1.0
"""Time for a process to exit after its output ended, and for its last messages to arrive."""

T = TypeVar("T")


class ProcessModel:
    """A function of tiles that a process answers within a time limit.

    The process and its children are killed when it fails, with this object, and when Python exits.
    """

    def __init__(
        self, command: Sequence[str], *, startup_seconds: float, batch_seconds: float
    ) -> None:
        """Start `command`, without a shell, and wait until it is ready.

        Raises:
            ModelError: it cannot be started, exits, sends something else, or takes too long.
        """
        self._batch_seconds = batch_seconds
        try:
            # A separate group, so that Ctrl-C reaches only this process and its children are killed
            # with it. It stays in our session, by which a parent that kills us finds it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            raise ModelError(
                f"cannot start the target's program {command[0]} ({error.strerror})",
                remedy="correct target.command",
            ) from error
        assert self._process.stderr is not None  # noqa: S101 - for mypy: it is a pipe
        self._words = bytearray()
        listener = threading.Thread(
            target=_listen, args=(self._process.stderr, self._words), daemon=True
        )
        listener.start()
        self._end = weakref.finalize(self, _end, self._process, listener)
        self._within(startup_seconds, "target.startup_seconds", self._greet)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of the process for tiles b c h w.

        Raises:
            ModelError: it has ended, breaks the protocol or takes longer than its limit.
        """
        if not self._end.alive:
            raise ModelError("the target's process has exited", remedy="run the same command again")
        return self._within(
            self._batch_seconds, "target.batch_seconds", lambda: self._exchange(image)
        )

    def _greet(self) -> None:
        version = self._header("protocol")
        if version != PROTOCOL:
            raise ModelError(
                f"the target's process speaks protocol {version}", expected=str(PROTOCOL)
            )

    def _exchange(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        tiles, answers = self._process.stdin, self._process.stdout
        assert tiles is not None and answers is not None  # noqa: S101, PT018 - for mypy: pipes
        tiles.write(json.dumps({"shape": image.shape}).encode() + b"\n")
        tiles.write(np.ascontiguousarray(image, "<f4").tobytes())
        tiles.flush()
        shape = self._header("shape")
        if not isinstance(shape, list) or not all(
            isinstance(length, int) and length >= 0 for length in shape
        ):
            raise ModelError(
                f"the target's process answers with shape {shape}", expected="a list of lengths"
            )
        size = 4 * math.prod(shape)
        numbers = answers.read(size)
        if len(numbers) < size:
            raise EOFError
        return np.frombuffer(numbers, "<f4").reshape(shape)

    def _header(self, key: str) -> Any:
        """Return the one value of the next line."""
        assert self._process.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        line = self._process.stdout.readline(_LONGEST_LINE)
        if not line:
            raise EOFError
        try:
            return json.loads(line)[key]
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"the target's process wrote {line[:80]!r}",
                expected=f'a line {{"{key}": ...}}',
                remedy="have it print to standard error, see rs_lowconf/target/serve.py",
            ) from error

    def _within(self, seconds: float, setting: str, work: Callable[[], T]) -> T:
        """Return what `work` returns; kill the process when it fails or takes too long."""
        late, process = threading.Event(), self._process

        def expire() -> None:
            # No reference to `self`, which a pending timer would keep alive.
            late.set()
            _kill(process)

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        done = False
        try:
            result = work()
            done = True
        except (OSError, EOFError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
            self._end()
            raise self._failure(f"{setting}={seconds:g}" if late.is_set() else None) from error
        finally:
            timer.cancel()
            if not done:
                self._end()
        return result

    def _failure(self, limit: str | None) -> ModelError:
        words = " ".join(self._words.decode(errors="replace").split())
        message = f"its standard error ends with: {words}" if words else "it wrote no error"
        if limit is not None:
            return ModelError(
                f"the target's process was killed after {limit}, {message}",
                expected="an answer within that time",
                remedy="raise the limit, or find out what takes so long",
            )
        return ModelError(
            f"the target's process ended with exit code {self._process.returncode}, {message}",
            expected="an answer to every batch",
            remedy="fix it, or correct target.command",
        )


def _listen(stderr: IO[bytes], words: bytearray) -> None:
    """Keep the end of the process's messages, and read them so that it never blocks."""
    with suppress(ValueError, OSError):  # closed, because a grandchild kept it open
        while chunk := os.read(stderr.fileno(), 4096):
            words += chunk
            del words[:-_TAIL]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Windows has no process groups: its children are left to exit by themselves
            process.kill()


def _end(process: "subprocess.Popen[bytes]", listener: threading.Thread) -> None:
    _kill(process)
    process.wait()
    listener.join(_GRACE_SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        # Nothing reads the rest of the buffer of stdin any more.
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
