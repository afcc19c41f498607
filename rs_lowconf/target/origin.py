"""Where foreign models come from: files, installed packages, importable names; and trust."""

import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rs_lowconf.boundary import in_a_line
from rs_lowconf.errors import ModelError
from rs_lowconf.runs import sha256_of
from rs_lowconf.settings import FileTarget, ForeignModel, OwnTarget

_PACKAGE = "package:"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a target comes from."""

    kind: str
    """`target.kind` of the settings, or in words what it is without settings."""
    file: str | None = None
    """Name of its file; None if it has none, or none is known."""
    sha256: str | None = None
    """Checksum of that file."""


GIVEN = Origin(kind="given in Python")
"""Origin of a model that the caller of the library made or loaded."""


def origin_of(settings: OwnTarget | ForeignModel, trained: Path) -> Origin:
    """Return where the target of the settings comes from.

    Args:
        settings: which target.
        trained: the checkpoint of a target of kind `embedded` or `trained`.

    Raises:
        ModelError: see `target_file`.
    """
    file = model_file(settings, trained)
    if file is None:
        return Origin(kind=settings.kind)
    return Origin(kind=settings.kind, file=file.name, sha256=sha256_of(file))


def target_file(settings: FileTarget) -> Path:
    """Return the file that a foreign target is read from.

    Raises:
        ModelError: there is no such file, or the package that should hold it is not installed.
    """
    path = Path(inside_package(str(settings.path)))
    if not path.is_file():
        raise ModelError(f"there is no target {path}", remedy="correct target.path")
    return path


def model_file(settings: OwnTarget | ForeignModel, trained: Path) -> Path | None:
    """Return the file that a target is read from; None if it has none.

    Args:
        settings: which target.
        trained: the checkpoint of a target of kind `embedded` or `trained`.

    Raises:
        ModelError: see `target_file`.
    """
    if isinstance(settings, OwnTarget):
        return trained
    return target_file(settings) if isinstance(settings, FileTarget) else None


def inside_package(text: str) -> str:
    """Return the path of `package:NAME/FILE`, and any other text unchanged.

    The package is looked up without being imported: its own dependencies may be missing.

    Raises:
        ModelError: the package is not installed, or the text names no file in it.
    """
    if not text.startswith(_PACKAGE):
        return text
    package, _, file = text.removeprefix(_PACKAGE).partition("/")
    if not package.isidentifier() or not file:
        raise ModelError(
            f"{text!r} names no file of a package", expected="package:NAME/FILE, NAME as imported"
        )
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"{text} is in the package {package}, which is not installed",
            remedy=f"pip install {package.replace('_', '-')}",
        )
    return str(Path(found.submodule_search_locations[0]) / file)


def library(name: str, kind: str) -> ModuleType:
    """Return a library that only targets of one kind need.

    Raises:
        ModelError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"a target of kind {kind} needs {name} ({in_a_line(error)})",
            remedy=f"pip install {name}",
        ) from error


def require_trust(what: str, *, trust_code: bool) -> None:
    """Reject code from elsewhere unless the user trusts it.

    Raises:
        ModelError: the user does not; `what` describes it.
    """
    if not trust_code:
        raise ModelError(what, remedy="if you trust its origin, add --trust-code")


def import_named(name: str, *, trust_code: bool) -> Any:
    """Return the object `module:name`; the current directory is searched, too.

    Raises:
        ModelError: the module needs trust, cannot be imported, or has nothing of that name.
    """
    require_trust(f"target.python {name} runs foreign code", trust_code=trust_code)
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ModelError(f"target.python={name!r} is not of the form module:function")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
        # Last, so that a file here cannot replace an installed package; it stays, because the model
        # may import more of its files later.
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # a foreign module may raise anything
        raise ModelError(
            f"cannot import target.python {name} ({in_a_line(error)})",
            remedy="run in the folder of the module, or install it",
        ) from error


def damaged(path: Path, error: BaseException) -> ModelError:
    """Return the error for a file that a library could not read."""
    return ModelError(f"{path} cannot be read ({in_a_line(error)})")
