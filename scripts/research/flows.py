"""Counts the files of the package through which a piece of work goes.

Usage: python scripts/research/flows.py FUNCTION ... -- COMMAND OF RSLOW

Runs the command and prints, for each function, in how many different files of the package code ran
between its calls and their returns, and which. A value that passes through many files is hard to
follow; so this is compared between versions (PYTHONPATH chooses one). Everything is imported
first, so that what only imports is not counted.
"""

import argparse
import sys
from collections import Counter, defaultdict
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import walk_packages
from types import FrameType
from typing import Any

import rs_lowconf

PACKAGE = Path(rs_lowconf.__file__).parent


@cache
def file_of(path: str) -> str | None:
    """Return a file by its path in the package, None for one that is not of it."""
    file = Path(path)
    return file.relative_to(PACKAGE).as_posix() if file.is_relative_to(PACKAGE) else None


class Flows:
    """Collects files while functions of these names run; a generator runs while it is asked."""

    def __init__(self, names: set[str]) -> None:
        """Count nothing yet."""
        self.files: dict[str, set[str]] = defaultdict(set)
        self._names = names
        self._running: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG002
        """Note a call or a return, as `sys.setprofile` asks."""
        file = file_of(frame.f_code.co_filename) if event in ("call", "return") else None
        if file is None:
            return
        name = frame.f_code.co_name
        if event == "call":
            self._running[name] += name in self._names
            for function in self._names:
                if self._running[function]:
                    self.files[function].add(file)
        elif name in self._names:
            self._running[name] -= 1


def import_all() -> None:
    """Import the whole package but what runs in QGIS."""
    for module in walk_packages(rs_lowconf.__path__, "rs_lowconf."):
        if not module.name.startswith(("rs_lowconf.__main__", "rs_lowconf.review.qgis_plugin")):
            import_module(module.name)


def main() -> None:
    """Run a command and print the flows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("functions", nargs="+")
    here = sys.argv.index("--")
    functions = parser.parse_args(sys.argv[1:here]).functions
    flows = Flows(set(functions))
    (program,) = entry_points(group="console_scripts", name="rslow")
    rslow = program.load()
    import_all()
    sys.argv = ["rslow", *sys.argv[here + 1 :]]
    sys.setprofile(flows)
    try:
        rslow()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    for name in functions:
        files = sorted(flows.files[name])
        print(f"{name}: {len(files)} files: {', '.join(files)}")


if __name__ == "__main__":
    main()
