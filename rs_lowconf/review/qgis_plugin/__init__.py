"""A QGIS plugin that reviews packages with single keys.

It runs under QGIS's own Python, 3.9 or newer, with nothing of rs_lowconf beside it: only
QGIS and the standard library are imported here, and only relatively.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin; QGIS calls this by name."""
    from .plugin import ReviewPlugin  # noqa: PLC0415 (layout and pace work without QGIS)

    return ReviewPlugin(iface)
