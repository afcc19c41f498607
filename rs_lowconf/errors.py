"""Errors that a user can fix. Each gives what was found, what was expected and the remedy.

Any other exception is a bug of this package and keeps its traceback (exit code 1).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

_TOLD = 3
"""Problems that an error spells out; the others are counted."""


def listed(faults: list[str]) -> str:
    """Return the first problems as text and how many more there are."""
    more = len(faults) - _TOLD
    return ", ".join(faults[:_TOLD]) + (f" and {more} more" if more > 0 else "")


def in_words(names: Sequence[str], conjunction: str = "or") -> str:
    """Return names as text, such as `a, b or c`."""
    *others, last = names
    return f"{', '.join(others)} {conjunction} {last}" if others else last


class RsLowconfError(Exception):
    """Base of all errors shown to the user as one line, without a traceback."""

    exit_code = 1

    def __init__(
        self, found: str, *, expected: str = "", remedy: str = "", command: str = ""
    ) -> None:
        """Compose the message.

        Args:
            found: what was found, and where.
            expected: what was expected instead; empty if `found` implies it.
            remedy: what to change or do next.
            command: the command to type next, such as `train gate`. The command line adds the
                options that the user gave, so that it can be run as printed.
        """
        parts = [found.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if remedy:
            parts.append(remedy.rstrip("."))
        # File names need not be UTF-8, and could not be printed.
        self.said = "; ".join(parts).encode(errors="backslashreplace").decode()
        """The message without the command and without a full stop."""
        self.command = command
        super().__init__(self.said)

    def __str__(self) -> str:
        """Return the message; nothing follows a command, so that it can be copied."""
        return f"{self.said}; run rslow {self.command}" if self.command else f"{self.said}."


class SettingsError(RsLowconfError):
    """An unknown key, a wrong value or contradictory settings."""

    exit_code = 3


class DataError(RsLowconfError):
    """Tiles that cannot be read or do not fit the request."""

    exit_code = 4


class ModelError(RsLowconfError):
    """A checkpoint or target model that cannot be loaded or does not fit the data."""

    exit_code = 5


class AnswerError(ModelError):
    """Some tiles of a batch have no valid answer of the target; the others have one."""

    def __init__(
        self,
        found: str,
        *,
        tiles: Sequence[int] = (),
        expected: str = "",
        remedy: str = "",
        reason: str = "",
    ) -> None:
        """Compose the message.

        Args:
            found: what was found.
            tiles: positions of these tiles in the batch.
            expected: what was expected instead.
            remedy: what to type or change next.
            reason: what was found, without the numbers of this batch; `found` when empty.
        """
        super().__init__(found, expected=expected, remedy=remedy)
        self.tiles = tuple(tiles)
        self.reason = reason or found
        """The same text for all tiles with this problem, so that they can be counted by it."""


class ReviewError(RsLowconfError):
    """A review package that exists already, is damaged or is of another version."""

    exit_code = 6


class JobError(RsLowconfError):
    """Work that ended without a result, such as an exhausted search budget or a lost cluster."""

    exit_code = 7


class OutputError(RsLowconfError):
    """A folder that cannot be written, or a full disk."""

    exit_code = 8


class MissingPackageError(RsLowconfError):
    """A package that this installation lacks, because it came without an extra."""

    exit_code = 9


def by_reason(reasons: Mapping[str, int]) -> str:
    """Return reasons as text, the most frequent first."""
    return ", ".join(f"{reason} ({n:,})" for reason, n in Counter(reasons).most_common())


def left_out_words(left_out: Mapping[str, int], begin: str = "left out: ") -> str:
    """Return what is left out with counts, the largest first; empty if nothing is."""
    parts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return begin + ", ".join(f"{n:,} {reason}" for reason, n in parts) if parts else ""
