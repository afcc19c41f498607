"""The one boundary between files that people hand over and the libraries that read them.

What a library raises at a damaged file depends on the library, its version and the damaged byte:
there is no list of it. So each place that reads such a file says in which lines that happens, and
whatever is raised there is an error of the file. These lines hold calls of libraries and checks of
what they returned, and nothing else, so that faults of ours keep their traceback.
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
    """Turn whatever is raised while a file is read into one line; Ctrl-C passes.

    Args:
        path: the file.
        expected: what it should be.
        remedy: what to do.
        problem: what is wrong with it.
        error: the class of errors to raise.

    Raises:
        RsLowconfError: of class `error`; one that is raised inside passes as it is.
    """
    try:
        yield
    except RsLowconfError:
        raise
    except Exception as fault:
        # Libraries name the file with its folders, which the error does anyway.
        reason = in_a_line(fault).replace(str(path), path.name)
        raise error(f"{path} {problem} ({reason})", expected=expected, remedy=remedy) from fault


def in_a_line(error: BaseException) -> str:
    """Return what a library's error is and says, short enough for one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
