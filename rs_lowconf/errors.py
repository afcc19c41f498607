"""Errors that a user can mend. Each says what was found, what was expected, what to do.

Everything else that is raised is a bug of ours and keeps its traceback (exit code 1).
"""

_TOLD = 3
"""Faults that an error spells out; the others are counted."""


def listed(faults: list[str]) -> str:
    """Return the first faults in words and how many more there are."""
    more = len(faults) - _TOLD
    return ", ".join(faults[:_TOLD]) + (f" and {more} more" if more > 0 else "")


class RsLowconfError(Exception):
    """Base of all errors shown to the user as one line, without a traceback."""

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", remedy: str = "") -> None:
        """Compose the line.

        Args:
            found: what was found, and where.
            expected: what was expected instead; empty when `found` says it.
            remedy: what to type or change next.
        """
        parts = [found.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if remedy:
            parts.append(remedy.rstrip("."))
        super().__init__("; ".join(parts) + ".")


class SettingsError(RsLowconfError):
    """An unknown key, a wrong value or contradictory settings."""

    exit_code = 3


class DataError(RsLowconfError):
    """Tiles that cannot be read or do not fit what is asked of them."""

    exit_code = 4


class ModelError(RsLowconfError):
    """A checkpoint or target model that cannot be loaded or does not fit the data."""

    exit_code = 5


class ReviewError(RsLowconfError):
    """A review package that exists already, is damaged or is of another version."""

    exit_code = 6


class JobError(RsLowconfError):
    """Work without its result: an exhausted search budget, a batch job that cannot go on."""

    exit_code = 7


class OutputError(RsLowconfError):
    """A folder that cannot be written, or a full disk."""

    exit_code = 8


class MissingPackageError(RsLowconfError):
    """A package that this installation lacks, because it came without an extra."""

    exit_code = 9
