"""Runs under QGIS's Python: opens a map, says what is in it, and draws it.

Usage: open_map.py PROJECT.qgz PICTURE.png REPORT.json [X Y HALF_WIDTH [GROUP]]

GROUP is the beginning of the name of the group to switch on.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRectangle,
    QgsRenderContext,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()
project = QgsProject.instance()
opened = project.read(sys.argv[1])
root = project.layerTreeRoot()


def group_of(layer: Any) -> dict[str, Any]:
    node = root.findLayer(layer.id()).parent()
    return {"name": node.name(), "alone": node.parent() and node.parent().isMutuallyExclusive()}


def legend(layer: Any) -> list[Any]:
    """Return what each colour of a legend stands for, below the title that it is under."""
    items = layer.renderer().legendSymbolItems() if hasattr(layer, "featureCount") else []
    titles = {item.ruleKey(): item.label() for item in items}
    return [
        [titles.get(item.parentRuleKey(), ""), item.label(), item.symbol().color().getRgb()]
        for item in items
        if item.symbol()
    ]


def opaque(layer: Any) -> bool:
    symbols = layer.renderer().symbols(QgsRenderContext()) if legend(layer) else []
    return layer.opacity() == 1 and all(symbol.opacity() == 1 for symbol in symbols)


for node in root.findGroups(True) if len(sys.argv) > 7 else []:
    if node.name().startswith(sys.argv[7]):
        node.setItemVisibilityChecked(True)
view = project.viewSettings().defaultViewExtent()
report = {
    "view": [view.xMinimum(), view.yMinimum(), view.xMaximum(), view.yMaximum()],
    "opened": opened,
    "title": project.title(),
    "crs": project.crs().authid(),
    "layers": [
        {
            "name": layer.name(),
            "valid": layer.isValid(),
            "crs": layer.crs().authid(),
            "features": layer.featureCount() if hasattr(layer, "featureCount") else None,
            "group": group_of(layer),
            "legend": legend(layer),
            "opaque": opaque(layer),
            "shown": root.findLayer(layer.id()).isVisible(),
            "extent": [
                layer.extent().xMinimum(),
                layer.extent().yMinimum(),
                layer.extent().xMaximum(),
                layer.extent().yMaximum(),
            ],
        }
        for layer in root.layerOrder()
    ],
}
settings = QgsMapSettings()
settings.setLayers([layer for layer in root.layerOrder() if root.findLayer(layer.id()).isVisible()])
settings.setDestinationCrs(project.crs())
settings.setOutputSize(QSize(600, 600))
settings.setBackgroundColor(QColor(235, 235, 235))
extent = QgsRectangle(project.viewSettings().defaultViewExtent())
if len(sys.argv) > 4:
    x, y, half = (float(word) for word in sys.argv[4:7])
    extent = QgsRectangle(x - half, y - half, x + half, y + half)
settings.setExtent(extent)
job = QgsMapRendererSequentialJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(sys.argv[2])
Path(sys.argv[3]).write_text(json.dumps(report))
# Qt's own end sometimes crashes.
os._exit(0)
