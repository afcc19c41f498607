"""What all pages are made with: escaped templates, and the facts that none may lack."""

import time
from collections.abc import Iterable
from pathlib import Path

import jinja2

from rs_lowconf.percents import percent
from rs_lowconf.runs import sha256_of, versions
from rs_lowconf.settings import TargetSettings
from rs_lowconf.target.origin import model_file


def template(name: str) -> jinja2.Template:
    """Return a template of this package; whatever it is given is text, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rs_lowconf.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = percent
    return environment.get_template(name)


def target_facts(settings: TargetSettings, trained: Path, classes: Iterable[str]) -> dict[str, str]:
    """Return which target was tested.

    Args:
        settings: of the target.
        trained: its checkpoint, if it is of kind `embedded` or `trained`.
        classes: that it predicts.

    Raises:
        ModelError: its file is gone.
    """
    file = model_file(settings, trained)
    return {
        "Target": settings.kind + ("" if file is None else f", {file.name}"),
        "Its file's SHA-256": "it has no file" if file is None else sha256_of(file),
        "Its classes": ", ".join(classes),
    }


def made(created: str | None = None) -> dict[str, str]:
    """Return when, and with which versions of packages, a result was made.

    Args:
        created: date and time, UTC; None for now.
    """
    installed = ", ".join(f"{name} {text}" for name, text in versions().items() if text)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"Date": created or now, "Versions": installed}
