"""The boundary between user-supplied files and the libraries that read them.

The exceptions of a library at a damaged file depend on the library, its version and the damaged
byte, and cannot be listed. So code that reads such a file marks the lines that do so, and any
exception there is an error of the file. These lines only call libraries and check their results, so
that bugs of this package keep their traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rs_lowconf.errors import DataError, RsLowconfError


@contextmanager
def reading(
    path: Path,
    *,
    expected: str = "",
    remedy: str = "",
    problem: str = "cannot be read",
    error: type[RsLowconfError] = DataError,
) -> Iterator[None]:
    """Turn any exception while a file is read into a one-line error; Ctrl-C passes.

    Args:
        path: the file.
        expected: what it should be.
        remedy: what to do.
        problem: with the file.
        error: class of the error to raise.

    Raises:
        RsLowconfError: of class `error`; one that is raised inside passes unchanged.
    """
    try:
        yield
    except RsLowconfError:
        raise
    except Exception as fault:
        # Libraries repeat the path, which the error names anyway.
        reason = in_a_line(fault).replace(str(path), path.name)
        raise error(f"{path} {problem} ({reason})", expected=expected, remedy=remedy) from fault


def in_a_line(error: BaseException) -> str:
    """Return class and message of a library's error, short enough for one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
