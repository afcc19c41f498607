"""Runs in QGIS beside the reviewer and writes what is on the screen to RSLOW_WATCH, as JSON.

It changes nothing but the size of windows, and which panels and toolbars are open.
"""

import json
import os
from pathlib import Path
from typing import Any

from qgis.core import QgsProject
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import (
    QApplication,
    QComboBox,
    QDockWidget,
    QLabel,
    QProgressBar,
    QToolBar,
    QWidget,
)
from qgis.utils import iface

FILE = Path(os.environ["RSLOW_WATCH"])
NAMED = (
    *("sample_id", "cond_class", "decision", "true_class", "realism", "comment"),
    "mNextFeatureButton",
)


def look() -> dict[str, Any]:
    layers = QgsProject.instance().mapLayersByName("review")
    focus = QApplication.focusWidget()
    return {
        "window": int(iface.mainWindow().winId()),
        "opened": bool(QgsProject.instance().mapLayers()),
        # A key that comes before is lost.
        "ready": iface.actionOpenTable().isEnabled() and iface.mainWindow().isActiveWindow(),
        "drawing": iface.mapCanvas().isDrawing(),
        "focus": "" if focus is None else focus.metaObject().className(),
        "focus_at": None if focus is None else look_at(focus),
        "dock": look_at_dock(),
        "table": look_at_table(),
        "unsaved": bool(layers) and layers[0].isModified(),
    }


def look_at_dock() -> list[str] | None:
    """Return what the plugin's dock says; None when it is not there."""
    dock = iface.mainWindow().findChild(QDockWidget, "rs_lowconf_review")
    if dock is None or not dock.isVisible():
        return None
    return [part.text() for kind in (QLabel, QProgressBar) for part in dock.findChildren(kind)]


def look_at_table() -> dict[str, Any] | None:
    """Return text and place of the form's widgets; None when it is not open."""
    for table in QApplication.allWidgets():
        # A window or a panel by itself in QGIS 3.22, and within one in newer versions.
        if table.metaObject().className() == "QgsAttributeTableDialog" and table.isVisible():
            window = table.window()
            window.setGeometry(QApplication.primaryScreen().geometry())
            # There is a hidden form, too, which filters.
            visible = [w for n in NAMED for w in table.findChildren(QWidget, n) if w.isVisible()]
            widgets = {widget.objectName(): look_at(widget) for widget in visible}
            return {"window": int(window.winId()), **widgets}
    return None


def look_at(widget: QWidget) -> dict[str, Any]:
    place = widget.mapToGlobal(widget.rect().center())
    text = widget.currentText() if isinstance(widget, QComboBox) else ""
    for kind in ("text", "toPlainText"):
        text = getattr(widget, kind)() if hasattr(widget, kind) else text
    return {
        "x": place.x(),
        "y": place.y(),
        "text": text,
        "focus": widget.hasFocus(),
        "enabled": widget.isEnabled(),
        "whole": widget.visibleRegion().boundingRect() == widget.rect(),
    }


def write() -> None:
    temporary = FILE.with_suffix(".tmp")
    temporary.write_text(json.dumps(look()))
    temporary.replace(FILE)
    # Only now: looking may take longer than this, and QGIS has to do something, too.
    timer.start(50)


main_window = iface.mainWindow()
main_window.setGeometry(QApplication.primaryScreen().geometry())
for panel in main_window.findChildren(QDockWidget):
    if panel.objectName() != "rs_lowconf_review":
        panel.setVisible(panel.objectName() == "Layers")
for bar in main_window.findChildren(QToolBar):
    bar.setVisible(bar.objectName() in ("mMapNavToolBar", "mDigitizeToolBar"))
timer = QTimer(main_window)
timer.setSingleShot(True)
timer.timeout.connect(write)
timer.start(50)
