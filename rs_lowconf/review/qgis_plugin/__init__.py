"""A QGIS plugin that reviews packages with single keys.

It runs in QGIS's Python, 3.9 or newer, without the rest of rs_lowconf: only QGIS and the standard
library are imported here, and its modules only relatively.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin; QGIS calls this by name."""
    from .plugin import ReviewPlugin  # noqa: PLC0415 (layout and pace work without QGIS)

    return ReviewPlugin(iface)
