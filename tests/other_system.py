"""Runs the program as if the system were not POSIX: python -m tests.other_system WORDS.

Every module of the package is imported first.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from pkgutil import walk_packages

# It locks files in the way of the system that it runs on, for which it needs fcntl on this one.
import filelock  # noqa: F401

import rs_lowconf

POSIX_ONLY = ("fcntl", "resource")


class Refuse(MetaPathFinder):
    """Finds no module of another system."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname in POSIX_ONLY:
            raise ModuleNotFoundError(f"no {fullname} on this system", name=fullname)


if __name__ == "__main__":
    for name in POSIX_ONLY:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Refuse())
    for module in walk_packages(rs_lowconf.__path__, "rs_lowconf."):
        # The plugin is imported by QGIS alone.
        if not module.name.startswith("rs_lowconf.review.qgis_plugin"):
            import_module(module.name)
    assert not set(POSIX_ONLY) & sys.modules.keys()
    import_module("rs_lowconf.cli").main()
