"""Runs the program as if one extra were installed, or none: python -m tests.without EXTRA WORDS."""

import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import (
    DistributionFinder,
    PackageNotFoundError,
    PathDistribution,
    distribution,
    packages_distributions,
)
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def needs(name: str, extra: str) -> list[str]:
    """Return what a distribution declares to need, for one of its extras or for none."""
    if name == PROJECT["name"]:
        declared = PROJECT["optional-dependencies"]
        return list(declared[extra] if extra else PROJECT["dependencies"])
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:  # of another system or Python
        return []


def brought_by(extra: str) -> set[str]:
    """Return the distributions that pip would install for `rs-lowconf[extra]`."""
    found: set[tuple[str, str]] = set()
    todo = [(PROJECT["name"], extra), (PROJECT["name"], "")]
    while todo:
        name, part = todo.pop()
        if (name, part) not in found:
            found.add((name, part))
            for need in map(Requirement, needs(name, part)):
                if need.marker is None or need.marker.evaluate({"extra": part}):
                    todo += [(canonicalize_name(need.name), one) for one in (*need.extras, "")]
    return {name for name, _ in found}


def leave(distributions: Iterable[str]) -> None:
    """Have no others be found, neither their modules nor that they are installed."""
    left = set(distributions)
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if not left & set(map(canonicalize_name, owners))
    }

    class Rest(PathFinder):
        @classmethod
        def find_spec(
            cls,
            fullname: str,
            path: Sequence[str] | None = None,
            target: ModuleType | None = None,
        ) -> ModuleSpec | None:
            if fullname.partition(".")[0] in hidden:
                return None
            return PathFinder.find_spec(fullname, path, target)

        @classmethod
        def find_distributions(
            cls, context: DistributionFinder.Context = DistributionFinder.Context()
        ) -> Iterator[PathDistribution]:
            for one in PathFinder.find_distributions(context):
                if canonicalize_name(one.metadata["Name"]) in left:
                    yield one

    sys.meta_path[:] = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]


if __name__ == "__main__":
    leave(brought_by(sys.argv.pop(1)))
    from rs_lowconf.cli import main

    main()
