"""What workflows yield on their way, for whoever shows it."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rs_lowconf.generators import told


class Progress(Protocol):
    """How far a piece of work is."""

    @property
    def title(self) -> str:
        """What is being done; the same for all records of one piece of work."""

    @property
    def done(self) -> int:
        """How much is done."""

    @property
    def total(self) -> int:
        """How much there is to do."""

    @property
    def text(self) -> str:
        """A word on how it goes; may be empty."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of work of which nothing else is to be told."""

    title: str
    done: int
    total: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Tiles that cannot be used."""

    what: str
    """Which tiles."""
    reasons: Mapping[str, int]
    """How many are left out, by reason."""
    total: int
    """How many there were, with these."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """How long work will take, said before it begins."""

    what: str
    seconds: float


Record = Progress | LeftOut | Expected

Result = TypeVar("Result")

Work = Generator[Record, None, Result]
"""Yields records on its way and returns a result."""


def counted(work: Generator[int, None, Result], title: str, total: int) -> Work[Result]:
    """Do work that yields how much it has just done, and yield how far it is.

    Args:
        work: yields numbers that add up to `total`.
        title: what is being done.
        total: how much there is to do.
    """
    done = 0

    def step(more: int) -> Step:
        nonlocal done
        done += more
        return Step(title=title, done=done, total=total)

    yield step(0)
    return (yield from told(work, step))
