"""What all pages are made with: escaped templates, and the facts that none may lack."""

import time
from collections.abc import Iterable

import jinja2

from rs_lowconf.percents import percent
from rs_lowconf.runs import versions
from rs_lowconf.target.origin import Origin


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


def target_facts(origin: Origin, classes: Iterable[str]) -> dict[str, str]:
    """Return which target was tested: its origin, and the classes that it predicts."""
    return {
        "Target": origin.kind + ("" if origin.file is None else f", {origin.file}"),
        "Its file's SHA-256": origin.sha256 or "no file is known",
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
