"""Open a review package in the real QGIS and report what is there, as JSON on the last line.

Usage: python3 open_package.py PACKAGE PICTURES DECISION

DECISION is what the form says of the first sample.

Run by tests/test_review_qgis.py under the Python that QGIS was built for, which is not the
one this project runs under: nothing but QGIS and the standard library is imported here.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    NULL,
    QgsApplication,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.gui import (
    QgsAttributeEditorContext,
    QgsAttributeForm,
    QgsDualView,
    QgsGui,
    QgsMapCanvas,
    QgsMapToolIdentify,
)
from qgis.PyQt.QtCore import QEventLoop, QSize, QTimer
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QLabel, QLineEdit, QListView, QTabWidget

SCALE = 2  # screen pixels a pixel of the sheet, so that labels are drawn


def render(project: QgsProject, path: Path) -> None:
    """Draw the view that the project opens with."""
    extent = project.viewSettings().defaultViewExtent()
    settings = QgsMapSettings()
    settings.setLayers(project.layerTreeRoot().checkedLayers())
    settings.setBackgroundColor(QColor(project.backgroundColor()))
    settings.setDestinationCrs(project.crs())
    size = QSize(round(extent.width() * SCALE), round(extent.height() * SCALE))
    settings.setOutputSize(size)
    settings.setExtent(extent)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(path))


def describe(layer: QgsVectorLayer) -> dict[str, Any]:
    """Return what the layer's style says about fields and form."""
    form = layer.editFormConfig()
    fields = layer.fields()
    return {
        "layout": int(form.layout()),
        "tabs": {tab.name(): [child.name() for child in tab.children()] for tab in form.tabs()},
        "widgets": {field.name(): field.editorWidgetSetup().type() for field in fields},
        "decisions": [
            next(iter(entry))
            for entry in layer.editorWidgetSetup(fields.indexOf("decision")).config()["map"]
        ],
        "editable": [field.name() for i, field in enumerate(fields) if not form.readOnly(i)],
        "categories": [c.label() for c in layer.renderer().categories()],
    }


def identified(project: QgsProject, layer: QgsVectorLayer) -> list[dict[str, str]]:
    """Click in the middle of the first three cells with Identify; return what it lists of each."""
    canvas = QgsMapCanvas()
    canvas.resize(600, 600)
    canvas.setLayers(project.layerTreeRoot().checkedLayers())
    canvas.setExtent(project.viewSettings().defaultViewExtent())
    tool = QgsMapToolIdentify(canvas)
    found = []
    for feature in list(layer.getFeatures())[:3]:
        middle = canvas.getCoordinateTransform().transform(feature.geometry().centroid().asPoint())
        place = [round(middle.x()), round(middle.y())]
        results = tool.identify(*place, QgsMapToolIdentify.IdentifyMode.TopDownAll)
        (one,) = [one for one in results if one.mLayer == layer]
        names = one.mFeature.fields().names()
        values = {name: text_of(one.mFeature[name]) for name in names}
        shown = {**one.mAttributes, **one.mDerivedAttributes}
        found.append({**shown, **values})
    return found


def text_of(value: Any) -> str:
    return "" if value == NULL else str(value)


def listed(layer: QgsVectorLayer) -> list[str]:
    """Return the list of samples beside the form, from top to bottom."""
    canvas, view = QgsMapCanvas(), QgsDualView()
    view.init(layer, canvas)
    view.setView(QgsDualView.ViewMode.AttributeEditor)
    view.resize(900, 700)
    view.show()
    settle()
    model = view.findChild(QListView, "mFeatureListView").model()
    return [model.data(model.index(row, 0)) for row in range(model.rowCount())]


def legend(layer: QgsRasterLayer) -> list[list[Any]]:
    """Return value, name and colour of the classes that a layer shows; empty for other kinds."""
    renderer = layer.renderer()
    if renderer.type() != "paletted":
        return []
    return [[one.value, one.label, one.color.name()] for one in renderer.classes()]


def show_form(layer: QgsVectorLayer, path: Path, decision: str) -> dict[str, Any]:
    """Fill in the first sample's form as a reviewer does; return what it shows and stores."""
    layer.startEditing()
    feature = next(layer.getFeatures())
    context = QgsAttributeEditorContext()
    form = QgsAttributeForm(layer, feature, context)
    form.setMode(QgsAttributeEditorContext.SingleEditMode)
    form.resize(700, 900)
    form.show()
    settle()
    tabs = form.findChild(QTabWidget)
    pictures = [label.pixmap() for label in form.findChildren(QLabel) if label.pixmap()]
    told = said(form)
    form.changeAttribute("decision", decision)
    form.changeAttribute("comment", "typed in the form")
    settle()
    told += said(form)
    form.grab().save(str(path))
    shown = [tabs.tabText(i) for i in range(tabs.count())]
    widest = max((picture.width() for picture in pictures), default=0)
    form.save()
    committed = layer.commitChanges()
    form.deleteLater()
    return {"tabs": shown, "picture": widest, "committed": committed, "confidence": told}


def said(form: QgsAttributeForm) -> list[str]:
    """Return what the form says of the model's confidence; nothing without such a field."""
    return [field.text() for field in form.findChildren(QLineEdit, "confidence")]


def settle() -> None:
    """Let Qt lay out and load pictures."""
    loop = QEventLoop()
    QTimer.singleShot(300, loop.quit)
    loop.exec()


def decide(layer: QgsVectorLayer, position: int, values: dict[str, Any]) -> bool:
    """Edit what a row has through the layer, without the form; return whether it was committed."""
    layer.startEditing()
    feature = list(layer.getFeatures())[position]
    for name in set(values) & set(layer.fields().names()):
        layer.changeAttributeValue(feature.id(), layer.fields().indexOf(name), values[name])
    return bool(layer.commitChanges())


def main() -> dict[str, Any]:
    """Open, look, edit."""
    package, pictures, decision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    project = QgsProject.instance()
    complaints: list[str] = []
    QgsApplication.messageLog().messageReceived.connect(
        lambda text, tag, level: complaints.append(f"{tag}: {text}") if level else None
    )
    report = {"read": project.read(str(package / "review.qgz"))}
    layers = {layer.name(): layer for layer in project.mapLayers().values()}
    report["title"] = project.title()
    report["valid"] = {name: layer.isValid() for name, layer in layers.items()}
    report["crs"] = [project.crs().isValid(), *(la.crs().isValid() for la in layers.values())]
    report["drawn"] = [layer.name() for layer in project.layerTreeRoot().checkedLayers()]
    review = layers["review"]
    report["project"] = describe(review)
    # The same layer without the project takes its style from the GeoPackage.
    alone = QgsVectorLayer(f"{package / 'review.gpkg'}|layername=review", "alone", "ogr")
    report["geopackage"] = describe(alone)
    render(project, pictures / "map.png")
    rasters = {name: one for name, one in layers.items() if isinstance(one, QgsRasterLayer)}
    report["told by Identify"] = [
        name for name, one in rasters.items() if one.flags() & QgsMapLayer.LayerFlag.Identifiable
    ]
    report["legends"] = {name: legend(one) for name, one in rasters.items()}
    # Files by themselves, as when one is dragged into another project.
    report["files"] = {
        folder.name: legend(QgsRasterLayer(str(min(folder.glob("*.tif"))), folder.name))
        for folder in sorted(package.iterdir())
        if folder.is_dir() and folder.name not in ("previews", "opinions", "context")
    }
    report["identified"] = {"before": identified(project, review)}
    report["list"] = listed(review)
    report["form"] = show_form(review, pictures / "form.png", decision)
    report["edits"] = [
        decide(review, 1, {"true_class": "Water", "decision": "accept", "realism": 4}),
        decide(review, 2, {"decision": "reject", "true_class": "Water"}),
    ]
    report["identified"]["after"] = identified(project, review)
    render(project, pictures / "decided.png")
    report["complaints"] = complaints
    return report


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    QgsGui.editorWidgetRegistry().initEditors()
    sys.stdout.write(json.dumps(main()) + "\n")
    sys.stdout.flush()
    # Qt's teardown from Python can crash after all is done.
    os._exit(0)
