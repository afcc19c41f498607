"""Work that yields how far it is and returns a result: done in silence, or told in other words."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

Given = TypeVar("Given")
Told = TypeVar("Told")
Result = TypeVar("Result")


def finish(work: Generator[Any, None, Result]) -> Result:
    """Do the work without showing anything, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def told(
    work: Generator[Given, None, Result], tell: Callable[[Given], Told]
) -> Generator[Told, None, Result]:
    """Do the work and return its result; yield what `tell` makes of everything that it yields.

    Example:
        >>> def work():
        ...     yield 1
        ...     return "done"
        >>> list(told(work(), str))
        ['1']
    """
    while True:
        try:
            given = next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield tell(given)
