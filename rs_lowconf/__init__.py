"""Find the Sentinel-2 tiles that a model is unsure of, and have people review them.

The names below are the library; each is imported on first use, so that `import rs_lowconf` is fast.
The command line `rslow` does the same from settings files.

The data flows in a line (tiles, generator, target, search, review); the imports form a star: stages
share the values and protocols of `rs_lowconf.types` and never import each other. Workflows join
them, and the command line shows their records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rs_lowconf.determinism import make_deterministic
from rs_lowconf.version import __version__

if TYPE_CHECKING:
    from rs_lowconf.api import (
        Generator,
        RealismGate,
        Search,
        SearchResult,
        load_gate,
        load_generator,
        load_target,
        write_review,
    )
    from rs_lowconf.ask_tell import AskTell
    from rs_lowconf.bands import BandSpec
    from rs_lowconf.errors import RsLowconfError
    from rs_lowconf.estimate.describe_plan import LabelPlan
    from rs_lowconf.estimate.result import Report
    from rs_lowconf.estimation import LabelDraw, Pool
    from rs_lowconf.review.pictures import write_pictures
    from rs_lowconf.review.reading import ReviewedPackage
    from rs_lowconf.review.reading import read_package as read_review
    from rs_lowconf.settings import SearchSettings, Settings
    from rs_lowconf.settings import load as load_settings
    from rs_lowconf.types import TileBatch

#: Module of each public name, with its name there if that differs.
_PLACES = {
    "AskTell": "ask_tell",
    "BandSpec": "bands",
    "Generator": "api",
    "LabelDraw": "estimation",
    "LabelPlan": "estimate.describe_plan",
    "Pool": "estimation",
    "RealismGate": "api",
    "Report": "estimate.result",
    "ReviewedPackage": "review.reading",
    "RsLowconfError": "errors",
    "Search": "api",
    "SearchResult": "api",
    "SearchSettings": "settings",
    "Settings": "settings",
    "TileBatch": "types",
    "load_gate": "api",
    "load_generator": "api",
    "load_settings": "settings:load",
    "load_target": "api",
    "read_review": "review.reading:read_package",
    "write_pictures": "review.pictures",
    "write_review": "api",
}

__all__ = [
    "AskTell",
    "BandSpec",
    "Generator",
    "LabelDraw",
    "LabelPlan",
    "Pool",
    "RealismGate",
    "Report",
    "ReviewedPackage",
    "RsLowconfError",
    "Search",
    "SearchResult",
    "SearchSettings",
    "Settings",
    "TileBatch",
    "__version__",
    "load_gate",
    "load_generator",
    "load_settings",
    "load_target",
    "read_review",
    "write_pictures",
    "write_review",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other = _PLACES[name].partition(":")
    if module in ("api", "ask_tell", "estimation"):
        make_deterministic()
    value = getattr(import_module(f"{__name__}.{module}"), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
