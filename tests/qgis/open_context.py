"""Runs under QGIS's Python: opens the map of a review package, reads its pixels and draws it.

Usage: open_context.py PACKAGE REQUEST.json PICTURES REPORT.json

REQUEST.json: for each sample its "crs" and "box" (west, south, east, north), "size", the side of a
tile in pixels, and "decide", the sample that is decided while the map is open.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsExpression,
    QgsExpressionContext,
    QgsExpressionContextUtils,
    QgsLayerTree,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

SCALE = 4  # screen pixels a pixel of a tile


def extent(layer: Any) -> list[float]:
    box = layer.extent()
    return [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]


def raster(layer: QgsRasterLayer) -> dict[str, Any]:
    return {
        "name": layer.name(),
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "extent": extent(layer),
        "size": [layer.width(), layer.height()],
        "pixel": [layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()],
        "bands": [layer.bandName(number + 1) for number in range(layer.bandCount())],
    }


def block(layer: QgsRasterLayer, box: list[float], size: int) -> list[float]:
    """Return the pixels of the first band in a box, line after line."""
    read = layer.dataProvider().block(1, QgsRectangle(*box), size, size)
    return [read.value(row, column) for row in range(size) for column in range(size)]


def labels(layer: Any) -> list[str]:
    """Return the label of each feature."""
    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
    expression = QgsExpression(layer.labeling().settings().fieldName)
    found = []
    for feature in layer.getFeatures():
        context.setFeature(feature)
        found.append(expression.evaluate(context))
        assert not expression.hasEvalError(), expression.evalErrorString()
    return found


def told(layer: Any) -> dict[str, Any]:
    """Return what Identify lists of each feature, and the labels."""
    rows = [feature.attributeMap() for feature in layer.getFeatures()]
    return {"rows": rows, "labels": labels(layer)}


def decide(package: Path, name: str) -> None:
    """Reject a sample, as another program does."""
    with closing(sqlite3.connect(package / "review.gpkg")) as database, database:
        database.execute("UPDATE review SET decision = 'reject' WHERE sample_id = ?", (name,))


def draw(project: QgsProject, path: Path, box: QgsRectangle, crs: Any, width: int) -> None:
    settings = QgsMapSettings()
    settings.setLayers(project.layerTreeRoot().checkedLayers())
    settings.setDestinationCrs(crs)
    settings.setOutputSize(QSize(width, round(width * box.height() / box.width())))
    settings.setBackgroundColor(QColor(235, 235, 235))
    settings.setExtent(box)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(path))


def main() -> None:
    package, pictures = Path(sys.argv[1]), Path(sys.argv[3])
    request = json.loads(Path(sys.argv[2]).read_text())
    size = request["size"]
    project = QgsProject.instance()
    complaints: list[str] = []
    QgsApplication.messageLog().messageReceived.connect(
        lambda text, tag, level: complaints.append(f"{tag}: {text}") if level else None
    )
    report: dict[str, Any] = {"read": project.read(str(package / "context.qgz"))}
    report["title"], report["crs"] = project.title(), project.crs().authid()
    root = project.layerTreeRoot()
    groups = [node for node in root.children() if QgsLayerTree.isGroup(node)]
    report["groups"] = [
        {
            "name": group.name(),
            "shown": group.isVisible(),
            "rasters": [
                raster(node.layer())
                | {
                    "blocks": {
                        name: block(node.layer(), one["box"], size)
                        for name, one in request["samples"].items()
                        if one["crs"] == node.layer().crs().authid()
                    }
                }
                for node in group.children()
            ],
        }
        for group in groups
    ]
    vectors = [node.layer() for node in root.children() if QgsLayerTree.isLayer(node)]
    report["places"] = [
        {
            "name": layer.name(),
            "valid": layer.isValid(),
            "shown": root.findLayer(layer.id()).isVisible(),
            **told(layer),
        }
        for layer in vectors
    ]
    decide(package, request["decide"])
    report["decided"] = told(vectors[0])
    report["files"] = {
        f"{folder}/{path.stem}": raster(QgsRasterLayer(str(path), path.stem))
        for folder in ("anchors", "tiles")
        for path in sorted((package / folder).glob("*.tif"))
    }
    whole = QgsRectangle(project.viewSettings().defaultViewExtent())
    report["view"] = [whole.xMinimum(), whole.yMinimum(), whole.xMaximum(), whole.yMaximum()]
    draw(project, pictures / "whole.png", whole, project.crs(), 800)
    first = next(iter(request["samples"].values()))
    box, crs = QgsRectangle(*first["box"]), QgsCoordinateReferenceSystem(first["crs"])
    around = QgsRectangle(box)
    around.grow(box.width() / 2)
    draw(project, pictures / "off.png", box, crs, size * SCALE)
    draw(project, pictures / "around_off.png", around, crs, size * SCALE * 2)
    groups[0].setItemVisibilityChecked(True)
    draw(project, pictures / "on.png", box, crs, size * SCALE)
    draw(project, pictures / "around_on.png", around, crs, size * SCALE * 2)
    report["complaints"] = complaints
    Path(sys.argv[4]).write_text(json.dumps(report, default=str))


application = QgsApplication([], True)
application.initQgis()
main()
# Qt's own end sometimes crashes.
os._exit(0)
