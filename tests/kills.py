"""Processes that are killed at named moments: at events of files and databases, not by the clock.

A kill leaves on disk what the process has done up to then. So a run is described by its events,
in order, and a test kills it before one of them, whichever it is interested in.

As a program, `python -m tests.kills SIGNAL FILE COUNT WORDS...`, this runs `rslow WORDS`, which
sends itself a signal when it opens a file of this name to write, for the COUNTth time.
"""

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, Literal

from rs_lowconf.cli import main

Ending = Literal["killed", "done", "failed"]

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")


def run_and_kill(
    work: Callable[[], object],
    folder: Path,
    moment: int | None = None,
    *,
    before: Callable[[int], object] = int,
) -> tuple[Ending, list[str]]:
    """Run `work` in a forked process that is killed by SIGKILL before an event.

    Events are the opening, making, renaming and removing of files whose path begins with
    `folder`, and the SQL statements on databases there.

    Args:
        work: what to do; an exception of it is printed and is a failure.
        folder: whose events count; may be the beginning of a name.
        moment: the event's number, from 0; None: the process is not killed.
        before: called before each event with its number. What it finds on disk is what a kill at
            this event would leave.

    Returns:
        How the process ended, and the names of its events: all of them unless it was killed.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _work(work, str(folder), moment, before, theirs)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as said:
        events = said.read().splitlines()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed", events
    return "done" if os.WEXITSTATUS(status) == 0 else "failed", events


def spread(events: Sequence[str], count: int, *names: str) -> list[int]:
    """Return about `count` moments from the first event to the last.

    Those of the events with these names, which have to be among the events, and those right
    after them are always among the moments.
    """
    named = [number for number, event in enumerate(events) if event in names]
    assert {events[number] for number in named} == set(names)
    last = len(events) - 1
    even = {round(last * step / (count - 1)) for step in range(count)}
    return sorted({*even, *named, *(number + 1 for number in named if number < last)})


def signal_at(name: str, chosen: Callable[[str, Path], bool], count: int) -> None:
    """Let this process send itself a signal before an event.

    Args:
        name: of the signal.
        chosen: whether an event of this name, of a file with this path, counts. Files opened to
            be read have no events.
        count: which of the chosen events it is, from 1.
    """
    left = count

    def hear(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _EVENTS or (event == "open" and not _writes(values[2])):
            return
        if chosen(event, Path(str(values[1 if event == "os.rename" else 0]))):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.Signals[name])

    sys.addaudithook(hear)


def _writes(flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def _work(
    work: Callable[[], object],
    folder: str,
    moment: int | None,
    before: Callable[[int], object],
    report: int,
) -> None:
    """Work and end this process, writing each event before it happens."""
    seen = 0
    busy = False
    alone = RLock()

    def happen(event: str) -> None:
        nonlocal seen, busy
        with alone:
            if busy:  # what `before` does is no event
                return
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            busy = True
            before(seen)
            busy = False
            seen += 1
            os.write(report, f"{event}\n".encode())

    def hear(event: str, values: tuple[Any, ...]) -> None:
        if event in _EVENTS and str(values[0]).startswith(folder):
            changes = event != "open" or _writes(values[2])
            path = values[1] if event == "os.rename" else values[0]
            happen(f"{event if changes else 'read'} {str(path).removeprefix(folder)}")

    connect: Any = sqlite3.connect

    def listen(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(database, *arguments, **options)
        if folder in str(database):
            connection.set_trace_callback(lambda sql: happen(sql.split(maxsplit=1)[0].upper()))
        return connection

    sys.addaudithook(hear)
    sqlite3.connect = listen  # type: ignore[assignment]  # an overload of its own has no use here
    try:
        work()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, signal_name, file_name, opening, *words = sys.argv
    signal_at(
        signal_name, lambda event, path: event == "open" and path.name == file_name, int(opening)
    )
    sys.argv = ["rslow", *words]
    main()
