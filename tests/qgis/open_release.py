"""Open a test-set release in the real QGIS and report what is there, as JSON on the last line.

Usage: python3 open_release.py RELEASE PICTURE SCALE

Run by tests/test_testset_qgis.py under the Python that QGIS was built for, which is not the
one this project runs under: nothing but QGIS and the standard library is imported here.
SCALE is screen pixels a pixel of the sheet.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsProject
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def render(project: QgsProject, path: Path, scale: int) -> None:
    """Draw the view that the project opens with."""
    extent = project.viewSettings().defaultViewExtent()
    settings = QgsMapSettings()
    settings.setLayers(project.layerTreeRoot().checkedLayers())
    settings.setBackgroundColor(QColor(project.backgroundColor()))
    settings.setDestinationCrs(project.crs())
    settings.setOutputSize(QSize(round(extent.width() * scale), round(extent.height() * scale)))
    settings.setExtent(extent)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(path))


def main() -> dict[str, Any]:
    """Open, look, try to edit, close."""
    release, picture, scale = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    project = QgsProject.instance()
    complaints: list[str] = []
    QgsApplication.messageLog().messageReceived.connect(
        lambda text, tag, level: complaints.append(f"{tag}: {text}") if level else None
    )
    report: dict[str, Any] = {"read": project.read(str(release / "release.qgz"))}
    layers = {layer.name(): layer for layer in project.mapLayers().values()}
    labels = layers["labels"]
    report["title"] = project.title()
    report["valid"] = {name: layer.isValid() for name, layer in layers.items()}
    report["crs"] = [project.crs().isValid(), *(la.crs().isValid() for la in layers.values())]
    report["drawn"] = [layer.name() for layer in project.layerTreeRoot().checkedLayers()]
    names = labels.fields().names()
    own = "class_name" if "class_name" in names else "condition"
    report["classes"] = [feature[own] for feature in labels.getFeatures()]
    report["legend"] = [category.label() for category in labels.renderer().categories()]
    render(project, picture, scale)
    report["editing"] = labels.startEditing()
    report["complaints"] = complaints
    project.clear()
    return report


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    sys.stdout.write(json.dumps(main()) + "\n")
    sys.stdout.flush()
    # Qt's teardown from Python can crash after all is done.
    os._exit(0)
