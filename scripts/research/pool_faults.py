"""Shows which faults of a night a process pool of `pebble` does not survive.

`pebble` is the maintained library for pools whose tasks have time limits. One task meets a fault,
beside twelve that meet none:

    pip install pebble
    python scripts/research/pool_faults.py

Prints how that task and the others ended within 25 seconds (`never`: no result, no error), and how
many programs are left. The batch engine survives every one of these: tests/test_batch_faults.py,
test_batch_hang.py, test_batch_job.py and test_batch_dask.py.
"""

import multiprocessing
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from multiprocessing.connection import Connection
from pathlib import Path

from pebble import ProcessPool

LIMIT = 4.0
"""Seconds for a task."""
PATIENCE = 25.0
HELPER = "sleep 60"
CONTEXT = multiprocessing.get_context("spawn")


def killed_while_it_answers() -> None:
    """End as by the system when it is out of memory, with half of the answer sent."""

    def send_half(connection: Connection, message: bytes) -> None:
        os.write(connection.fileno(), message[: len(message) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Connection, "_send", send_half)  # noqa: B010 (it is private)


def hangs_with_a_helper() -> None:
    """Hang after starting a program in a group of its own, as a target of kind `process` does."""
    subprocess.Popen(HELPER.split(), process_group=0)
    time.sleep(1000)


def hangs() -> None:
    """Hang, as a work that loads a model from a file system that is gone."""
    time.sleep(1000)


def square(number: int) -> int:
    time.sleep(0.2)
    return number**2


def ends(tasks: list["Future[int]"]) -> str:
    """Return how tasks ended."""
    done, never = wait(tasks, PATIENCE)
    kinds = Counter(
        "done" if (error := task.exception()) is None else type(error).__name__ for task in done
    )
    return ", ".join(
        f"{count} {kind}" for kind, count in (kinds + Counter(never=len(never))).items()
    )


def meet(name: str, fault: Callable[[], None] | None, **options: object) -> None:
    """Print how tasks end in a pool of two workers."""
    pool = ProcessPool(max_workers=2, context=CONTEXT, **options)
    bad = [] if fault is None else [pool.schedule(fault, timeout=LIMIT)]
    others = [pool.schedule(square, (number,), timeout=LIMIT) for number in range(12)]
    print(
        f"{name}: {ends(bad) or 'no task'}; the others: {ends(others)}; {helpers()} programs left"
    )


def helpers() -> int:
    """Return how many programs run that tasks have started."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return lines.count(HELPER.replace(" ", "\0").encode() + b"\0")


def in_a_daemon() -> None:
    """Start a pool where a worker of Dask would: these are daemons."""
    try:
        meet("in a worker of Dask", None)
    except AssertionError as error:
        print(f"in a worker of Dask: {error}")


def main() -> None:
    meet("no fault", None)
    meet("killed while it answers", killed_while_it_answers)
    meet("hangs while it opens", None, initializer=hangs)
    meet("hangs with a helper program", hangs_with_a_helper)
    daemon = CONTEXT.Process(target=in_a_daemon, daemon=True)
    daemon.start()
    daemon.join(2 * PATIENCE)
    # A pool that is stuck does not stop by itself.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os.setpgid(0, 0)
    main()
