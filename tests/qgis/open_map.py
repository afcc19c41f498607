"""Runs under QGIS's Python: opens a map, says what is in it, and draws it.

Usage: open_map.py PROJECT.qgz PICTURE.png REPORT.json [X Y HALF_WIDTH]
"""

import json
import os
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()
project = QgsProject.instance()
opened = project.read(sys.argv[1])
root = project.layerTreeRoot()
report = {
    "opened": opened,
    "title": project.title(),
    "crs": project.crs().authid(),
    "layers": [
        {
            "name": layer.name(),
            "valid": layer.isValid(),
            "crs": layer.crs().authid(),
            "features": layer.featureCount() if hasattr(layer, "featureCount") else None,
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
