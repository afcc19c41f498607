"""Progress with time left, and interruptions that wait for the end of a step."""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rs_lowconf.errors import left_out_words
from rs_lowconf.settings import GeneratorSettings
from rs_lowconf.workflows.records import LeftOut, Result, Work

if TYPE_CHECKING:
    from rs_lowconf.gan.measure import Measurement

_SECONDS_BETWEEN_LINES = 30.0


class Reporter:
    """Shows the progress of a piece of work: a bar on a terminal, else occasional lines."""

    def __init__(self, label: str, total: int, done: int) -> None:
        """Start at `done` of `total`."""
        self._label, self._total, self._first = label, total, done
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
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, text="")
            self._bar.start()

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total is done; `text` is a short status."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or done >= self._total:
            self._last_line = now
            rate = (done - self._first) / max(now - self._start, 1e-9)
            left = (self._total - done) / rate if rate > 0 else float("inf")
            print(
                f"{self._label}: {done:,} of {self._total:,}, {duration(left)} left. {text}",
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


def show(work: Work[Result]) -> Result:
    """Do the work, show its progress, and return its result.

    Args:
        work: yields records; records with the same title share a bar.
    """
    with ExitStack() as shown:
        bar: Reporter | None = None
        title = None
        while True:
            try:
                record = next(work)
            except StopIteration as end:
                result: Result = end.value
                return result
            if isinstance(record, LeftOut):
                shown.close()
                title = None
                print_left_out(record.reasons, record.total, record.what)
                continue
            if bar is None or record.title != title:
                shown.close()
                title = record.title
                bar = shown.enter_context(progress(title, record.total))
            bar.update(record.done, record.text)


def print_left_out(left_out: Mapping[str, int], total: int, what: str = "tiles") -> None:
    """Print how many of all tiles are left out and why, if any are."""
    if left_out:
        print(f"Of {total:,} {what} {left_out_words(left_out)}.")


def print_calibrated(counts: Sequence[int], folder: Path) -> None:
    """Print on how many held-out tiles each stage of a gate is calibrated."""
    tiles = " and ".join(map(str, counts))
    print(f"gate, calibrated on {tiles} held-out tiles: {folder}")


def print_measurement(one: "Measurement") -> None:
    """Print a figure with its interval and its floor."""
    if one.measured is None:
        print(f"{one.name}: {one.note}")
        return
    interval = f"{one.measured.low:.3g} .. {one.measured.high:.3g}"
    floor = "" if one.floor is None else f"; real tiles {one.floor.value:.3g}"
    print(f"{one.name}: {one.measured.value:.3g} ({interval}){floor}")


class GanRecord(Protocol):
    """The common fields of GAN training records."""

    @property
    def images(self) -> int:
        """Real tiles shown so far."""

    @property
    def critic_loss(self) -> float:
        """Loss of the discriminator."""

    @property
    def generator_loss(self) -> float:
        """Loss of the generator."""


Record = TypeVar("Record", bound=GanRecord)


def checkpoints(
    records: Iterator[Record],
    settings: GeneratorSettings,
    images: int,
    logged: int,
    *,
    save: Callable[[], None],
) -> Iterator[list[Record]]:
    """Run a GAN's training; whenever a checkpoint is due, yield the records since the last one.

    The caller measures the checkpoint and saves the state. A training that was interrupted
    between a step and its checkpoint begins with that checkpoint, without records.

    Args:
        records: one per step, until the training ends.
        settings: of the training.
        images: real tiles that a resumed training has shown before.
        logged: real tiles at the last checkpoint that was measured, 0 before the first.
        save: saves the state of an interrupted training.

    Raises:
        KeyboardInterrupt: a stop was requested; the state is saved.
    """
    every = settings.checkpoint_images
    recent: list[Record] = []
    with (
        progress("training the GAN", settings.images, images) as bar,
        interrupt_between_steps() as interrupt,
    ):
        if images > logged and (images // every > logged // every or images >= settings.images):
            yield recent
            interrupt.check()
        due = images // every + 1
        for record in records:
            recent.append(record)
            bar.update(
                record.images, f"loss {record.critic_loss:.2f} / {record.generator_loss:.2f}"
            )
            if interrupt.requested:
                save()
            interrupt.check()
            if record.images >= due * every:
                yield recent
                interrupt.check()
                recent = []
                due += 1
        if recent:
            yield recent


def means(records: Sequence[object], names: Iterable[str]) -> dict[str, float]:
    """Return the mean of each named part of the records over the steps that have it."""
    found = {}
    for name in names:
        values = [v for v in (getattr(record, name) for record in records) if v is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds as text; "unknown time" for infinity."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
