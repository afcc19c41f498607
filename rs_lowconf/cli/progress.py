"""Progress with time left, and interruptions that wait for the end of a step."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rs_lowconf.errors import left_out_words
from rs_lowconf.workflows.records import Expected, LeftOut, Result, Work

_SECONDS_BETWEEN_LINES = 30.0
_FEW = 3
"""Steps before the time left is told: the first ones load and compile, and would frighten."""


class _TimeLeft(TimeRemainingColumn):
    """The time left, once a few steps have ended."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        if task.fields["steps"] < _FEW and not task.finished:
            return Text("-:--:--", style="progress.remaining")
        return super().render(task)


class Reporter:
    """Shows the progress of a piece of work: a bar on a terminal, else occasional lines."""

    def __init__(self, label: str, total: int, done: int) -> None:
        """Start at `done` of `total`."""
        self._label, self._total, self._first = label, total, done
        self._steps = 0
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                _TimeLeft(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, text="", steps=0)
            self._bar.start()

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total is done; `text` is a short status."""
        self._steps += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text, steps=self._steps)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or done >= self._total:
            self._last_line = now
            rate = (done - self._first) / max(now - self._start, 1e-9)
            rest = self._total - done
            left = rest / rate if rate > 0 else float("inf") if rest > 0 else 0.0
            told = f", {duration(left)} left" if self._steps >= _FEW or not rest else ""
            print(
                f"{self._label}: {done:,} of {self._total:,}{told}. {text}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Finish the display."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Reporter]:
    """Show progress inside the block."""
    reporter = Reporter(label, total, done)
    try:
        yield reporter
    finally:
        reporter.close()


class Interrupt:
    """Whether a stop was requested."""

    requested = False

    def check(self) -> None:
        """Stop here if requested.

        Raises:
            KeyboardInterrupt: a stop was requested.
        """
        if self.requested:
            raise KeyboardInterrupt


@contextmanager
def interrupt_between_steps() -> Iterator[Interrupt]:
    """Turn the first Ctrl-C or SIGTERM into a request; a second one stops at once.

    A request always ends the command: if it came in the last step of the block, after the last
    check, it is raised at the end of the block.

    Raises:
        KeyboardInterrupt: a stop was requested.
    """
    interrupt = Interrupt()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        print("rslow: stopping after this step …", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    interrupt.check()


def show(work: Work[Result], check: Callable[[], None] = lambda: None) -> Result:
    """Do the work with its progress shown, and return its result.

    Args:
        work: yields records; those of one title share a bar. It is closed, whatever ends it.
        check: is called between steps; what it raises ends the work.
    """
    with closing(work), ExitStack() as shown:
        bar: Reporter | None = None
        title = None
        while True:
            try:
                record = next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
            check()
            if isinstance(record, Expected):
                print(f"{record.what} takes about {duration(record.seconds)} on this machine.")
                continue
            if isinstance(record, LeftOut):
                shown.close()
                title = None
                print_left_out(record.reasons, record.total, record.what)
                continue
            if bar is None or record.title != title:
                shown.close()
                title = record.title
                bar = shown.enter_context(progress(title, record.total, record.done))
            bar.update(record.done, record.text)
            check()


def show_until_interrupted(work: Work[Result]) -> Result:
    """Do the work as `show` does, until somebody asks to stop between two of its steps.

    Args:
        work: keeps what it has done when it is closed.

    Raises:
        KeyboardInterrupt: somebody asked to stop.
    """
    with interrupt_between_steps() as interrupt:
        return show(work, interrupt.check)


def print_left_out(left_out: Mapping[str, int], total: int, what: str = "tiles") -> None:
    """Print how many of all tiles are left out and why, if any are."""
    if left_out:
        print(f"Of {total:,} {what} {left_out_words(left_out)}.")


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds as text; "unknown time" for infinity."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
