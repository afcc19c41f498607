"""Counts by reason what is left out of a source, so that nothing goes missing silently."""

from collections.abc import Iterable, Iterator
from typing import Literal

from rs_lowconf.data.tiles import TileError

Kind = Literal["file", "item", "asset", "image", "page", "tile"]

_EXAMPLES = 3


class LeftOut:
    """Counts what is left out; a bad file is an error unless `data.skip_bad` is set."""

    def __init__(self, *, skip_bad: bool) -> None:
        """Start with nothing left out."""
        self._skip_bad = skip_bad
        self._faults: dict[Kind, list[TileError]] = {}
        self._counts: dict[tuple[Kind, str], int] = {}
        self._examples: dict[tuple[Kind, str], list[str]] = {}

    def count(self, kind: Kind, reason: str, name: str, number: int = 1) -> None:
        """Count things that are left out on purpose.

        Args:
            kind: what they are.
            reason: text that follows "1 file:".
            name: of the first one, as an example.
            number: how many.
        """
        key = (kind, reason)
        self._counts[key] = self._counts.get(key, 0) + number
        examples = self._examples.setdefault(key, [])
        if len(examples) < _EXAMPLES:
            examples.append(name)

    def fault(self, kind: Kind, error: TileError) -> None:
        """Keep the error of a bad file for the report.

        Raises:
            TileError: bad files are not to be skipped.
        """
        if not self._skip_bad:
            raise error
        self._faults.setdefault(kind, []).append(error)

    def add(self, other: "LeftOut") -> None:
        """Add the counts of another `LeftOut`."""
        for (kind, reason), number in other._counts.items():
            first, *more = other._examples[kind, reason]
            self.count(kind, reason, first, number)
            room = _EXAMPLES - len(self._examples[kind, reason])
            self._examples[kind, reason] += more[:room]
        for kind, errors in other._faults.items():
            self._faults.setdefault(kind, []).extend(errors)

    @property
    def faults(self) -> tuple[TileError, ...]:
        """Errors of what cannot be used."""
        return tuple(error for errors in self._faults.values() for error in errors)

    def number(self, kind: Kind) -> int:
        """Return how many things of a kind are left out, bad ones included."""
        counted = sum(
            number for (counted_kind, _), number in self._counts.items() if counted_kind == kind
        )
        return counted + len(self._faults.get(kind, ()))

    def lines(self) -> Iterator[str]:
        """Yield one line per reason and one per bad file."""
        yield from self.counted()
        yield from map(str, self.faults)

    def counted(self) -> Iterator[str]:
        """Yield one line per reason, without bad files."""
        for (kind, reason), number in self._counts.items():
            examples = self._examples[kind, reason]
            more = ", ..." if number > len(examples) else ""
            plural = "" if number == 1 else "s"
            yield f"{number:,} {kind}{plural}: {reason} ({', '.join(examples)}{more})"


def joined(parts: Iterable[LeftOut]) -> LeftOut:
    """Return the sum of several counts."""
    whole = LeftOut(skip_bad=True)
    for part in parts:
        whole.add(part)
    return whole
