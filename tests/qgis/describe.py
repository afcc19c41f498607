"""Runs under QGIS's Python: says what QGIS reads from projects, layers and rasters by themselves.

Usage: describe.py REQUEST.json REPORT.json

REQUEST.json: lists of files, "projects", "layers" (of a GeoPackage, FILE|layername=NAME) and
"rasters". The report says what each one means to QGIS, not how it is written: expressions are
evaluated, colours and sizes are those that are drawn. So it is the same for files that differ in
bytes only, and in every version of QGIS.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsAttributeEditorContainer,
    QgsExpression,
    QgsExpressionContext,
    QgsExpressionContextScope,
    QgsExpressionContextUtils,
    QgsFeature,
    QgsFieldConstraints,
    QgsLayerTree,
    QgsPalLayerSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRuleBasedLabeling,
    QgsSymbolLayerUtils,
    QgsVectorLayer,
)

STATES: tuple[dict[str, str], ...] = (
    {},
    {"decision": "accept"},
    {"decision": "accept", "true_class": "Water"},
    {"decision": "reject", "true_class": "Water"},
    {"true_class": "Water", "reviewer": "Bob"},
)
"""Answers in which default values and constraints are evaluated."""

KINDS = (
    QgsFieldConstraints.ConstraintNotNull,
    QgsFieldConstraints.ConstraintUnique,
    QgsFieldConstraints.ConstraintExpression,
)

DRAWN = (
    "color",
    "draw_inside_polygon",
    "joinstyle",
    "line_color",
    "line_width",
    "name",
    "outline_color",
    "outline_style",
    "outline_width",
    "outline_width_unit",
    "size",
    "size_unit",
    "style",
)


def plain(value: Any) -> Any:
    """Return a value that JSON and all versions of QGIS write alike; QGIS's NULL is None."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value if isinstance(value, (bool, int, str)) else None


def number(value: Any) -> int:
    """Return the number of an enum, which some versions of QGIS give as one."""
    return int(getattr(value, "value", value))


def box(extent: Any) -> list[float]:
    corners = extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()
    return [float(f"{corner:.9g}") for corner in corners]


def evaluated(text: str, layer: QgsVectorLayer, feature: QgsFeature) -> Any:
    """Return the value of an expression for a feature, reviewed by Ada."""
    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
    scope = QgsExpressionContextScope()
    scope.setVariable("user_full_name", "Ada")
    context.appendScope(scope)
    context.setFeature(feature)
    expression = QgsExpression(text)
    value = expression.evaluate(context)
    assert not expression.hasEvalError(), (text, expression.evalErrorString())
    return value


def symbol(drawn: Any) -> str:
    """Return what a symbol draws, as text."""
    layers = []
    for layer in drawn.symbolLayers():
        properties = {
            name: layer.properties()[name] for name in DRAWN if name in layer.properties()
        }
        for name in {"color", "line_color", "outline_color"} & set(properties):
            colour = QgsSymbolLayerUtils.decodeColor(properties[name])
            properties[name] = f"{colour.name()} {colour.alpha()}"
        if properties.get("style") == "no":
            del properties["color"]
        words = [f"{name} {value}" for name, value in sorted(properties.items())]
        if layer.subSymbol() is not None:
            words = [symbol(layer.subSymbol())]
        layers.append(f"{layer.layerType()}: {', '.join(words)}")
    return f"{plain(drawn.opacity())} of {'; '.join(layers)}"


def renderer(layer: QgsVectorLayer) -> dict[str, Any]:
    """Return how features are drawn."""
    how = layer.renderer()
    report: dict[str, Any] = {"type": how.type()}
    if how.type() == "categorizedSymbol":
        report["by"] = how.classAttribute()
        report["classes"] = [
            [plain(one.value()) or None, one.label(), one.renderState(), symbol(one.symbol())]
            for one in how.categories()
        ]
    elif how.type() == "RuleRenderer":
        report["classes"] = [
            [
                one.label(),
                one.minimumScale(),
                one.maximumScale(),
                symbol(one.symbol()) if one.symbol() else None,
                *filter(None, [one.filterExpression()]),
            ]
            for one in how.rootRule().descendants()
        ]
    report["order"] = [
        [clause.expression().expression(), clause.ascending()]
        for clause in how.orderBy().list()
        if how.orderByEnabled()
    ]
    return report


def labels(layer: QgsVectorLayer) -> list[list[str]]:
    """Return what is written where, rule by rule."""
    if not layer.labelsEnabled() or layer.labeling() is None:
        return []
    if isinstance(layer.labeling(), QgsRuleBasedLabeling):
        each = [rule.settings() for rule in layer.labeling().rootRule().children()]
    else:
        each = [layer.labeling().settings()]
    return sorted(label(layer, settings) for settings in each)


def label(layer: QgsVectorLayer, settings: QgsPalLayerSettings) -> list[str]:
    """Return how a label is drawn, and its texts with size and place."""
    how = settings.format()
    buffer, limited = how.buffer(), settings.fontLimitPixelSize
    scales = settings.minimumScale, settings.maximumScale
    words = [
        f"{how.color().name()} {'bold' if how.font().bold() else 'plain'}",
        f"unit {number(how.sizeUnit())}, wrapped at {settings.autoWrapLength}",
        f"buffer {plain(buffer.size())} {buffer.color().name()}"
        if buffer.enabled()
        else "no buffer",
        f"{settings.fontMinPixelSize} to {settings.fontMaxPixelSize} pixels"
        if limited
        else "any size",
        f"1:{scales[0]:.0f} to 1:{scales[1]:.0f}" if settings.scaleVisibility else "at any scale",
        "all of them" if settings.displayAll else "where there is room",
    ]
    drawn = [", ".join(words)]
    size = settings.dataDefinedProperties().property(QgsPalLayerSettings.Size)
    for feature in layer.getFeatures():
        for decided in STATES[0], STATES[2]:
            state = answered(layer, feature, decided)
            text = settings.fieldName
            written = evaluated(text, layer, state) if settings.isExpression else state[text]
            if not plain(written):
                continue
            place = evaluated(settings.geometryGenerator, layer, state).asPoint()
            active = size.isActive()
            height = evaluated(size.asExpression(), layer, state) if active else how.size()
            entry = f"{written} | {height:.7g} at {place.x():.7g} {place.y():.7g}"
            if entry not in drawn:
                drawn.append(entry)
    return drawn


def answered(layer: QgsVectorLayer, feature: QgsFeature, answer: dict[str, Any]) -> QgsFeature:
    """Return a copy with what the layer can hold of an answer."""
    copy = QgsFeature(feature)
    for name, value in answer.items():
        if layer.fields().indexOf(name) >= 0:
            copy.setAttribute(name, value)
    return copy


def form(layer: QgsVectorLayer) -> dict[str, Any]:
    """Return tabs and widgets, and what they do in each of the states."""
    config, fields = layer.editFormConfig(), layer.fields()
    table = {one.name: one.hidden for one in layer.attributeTableConfig().columns()}
    first = next(layer.getFeatures())
    report: dict[str, Any] = {"layout": number(config.layout())}
    report["tabs"] = [editor(one) for one in config.tabs()] if report["layout"] == 1 else []
    report["title"] = evaluated(layer.displayExpression(), layer, first)
    report["fields"] = {}
    for index, field in enumerate(fields):
        setup, default = layer.editorWidgetSetup(index), layer.defaultValueDefinition(index)
        constraints, text = field.constraints(), default.expression()
        rule = constraints.constraintExpression()
        allowed = [
            not rule or bool(evaluated(rule, layer, updated(layer, answered(layer, first, one))))
            for one in STATES
        ]
        seen = {
            "type": field.typeName(),
            "alias": field.displayName(),
            "widget": [setup.type(), json.dumps(plain(setup.config()))],
            "editable": not config.readOnly(index),
            "hidden": bool(table.get(field.name())),
        }
        if text:
            seen["on update"] = default.applyOnUpdate()
            seen["updates"] = text
            if "now()" not in text:
                states = [answered(layer, first, one) for one in STATES]
                seen["updates"] = [plain(evaluated(text, layer, state)) for state in states]
        if not all(allowed):  # what everything obeys is no rule
            seen["allowed"] = allowed
            seen["complaint"] = constraints.constraintDescription()
            seen["strength"] = [number(constraints.constraintStrength(kind)) for kind in KINDS]
        report["fields"][field.name()] = seen
    return report


def updated(layer: QgsVectorLayer, feature: QgsFeature) -> QgsFeature:
    """Return a copy with the class that the form enters by itself."""
    copy, index = QgsFeature(feature), layer.fields().indexOf("true_class")
    copy.setAttribute(
        index, evaluated(layer.defaultValueDefinition(index).expression(), layer, feature)
    )
    return copy


def editor(element: Any) -> Any:
    """Return the names in a tab, in order; those without label in brackets."""
    if isinstance(element, QgsAttributeEditorContainer):
        return {element.name(): [editor(child) for child in element.children()]}
    return element.name() if element.showLabel() else f"({element.name()})"


def vector(layer: QgsVectorLayer) -> dict[str, Any]:
    """Return all that is read of a layer of features."""
    return {
        "valid": layer.isValid(),
        "crs": layer.crs().authid() if layer.crs().isValid() else None,
        "geometry": number(layer.wkbType()),
        "features": layer.featureCount(),
        "extent": box(layer.extent()),
        "read only": layer.readOnly(),
        "renderer": renderer(layer),
        "labels": labels(layer),
        "form": form(layer),
    }


def raster(layer: QgsRasterLayer) -> dict[str, Any]:
    """Return all that is read of a layer of pixels."""
    how = layer.renderer()
    report: dict[str, Any] = {
        "valid": layer.isValid(),
        "crs": layer.crs().authid() if layer.crs().isValid() else None,
        "extent": box(layer.extent()),
        "renderer": how.type(),
        "bands": how.usesBands(),
        "opacity": how.opacity(),
        "oversampling": layer.resampleFilter().maxOversampling(),
    }
    if how.type() == "paletted":
        report["classes"] = [[one.value, one.label, one.color.name()] for one in how.classes()]
    if how.type() == "singlebandgray":
        report["stretch"] = stretch(how.contrastEnhancement())
        report["gradient"] = number(how.gradient())
    if how.type() == "multibandcolor":
        each = how.redContrastEnhancement(), how.greenContrastEnhancement()
        report["stretch"] = [stretch(one) for one in (*each, how.blueContrastEnhancement())]
    return report


def stretch(enhancement: Any) -> list[float] | None:
    if enhancement is None or not number(enhancement.contrastEnhancementAlgorithm()):
        return None
    return [
        enhancement.minimumValue(),
        enhancement.maximumValue(),
        number(enhancement.contrastEnhancementAlgorithm()),
    ]


def any_layer(layer: Any) -> dict[str, Any]:
    report = vector(layer) if isinstance(layer, QgsVectorLayer) else raster(layer)
    if layer.hasScaleBasedVisibility():
        report["scales"] = [layer.minimumScale(), layer.maximumScale()]
    return report


def tree(node: Any) -> dict[str, Any]:
    """Return the list of layers, group by group."""
    report = {
        "name": node.name(),
        "checked": node.itemVisibilityChecked(),
        "open": node.isExpanded(),
    }
    if QgsLayerTree.isGroup(node):
        return {**report, "group": [tree(child) for child in node.children()]}
    layer = node.layer()
    source = layer.source().replace(QgsProject.instance().absolutePath(), ".")
    return {**report, "source": source, "provider": layer.providerType(), **any_layer(layer)}


def described(path: str) -> dict[str, Any]:
    """Return all that is read of a project."""
    project = QgsProject.instance()
    complaints: list[str] = []

    def complain(text: str, tag: str, level: int) -> None:
        if level:
            complaints.append(f"{tag}: {text}")

    QgsApplication.messageLog().messageReceived.connect(complain)
    report: dict[str, Any] = {"read": project.read(path), "complaints": complaints}
    QgsApplication.messageLog().messageReceived.disconnect(complain)
    settings = project.viewSettings()
    report |= {
        "title": project.title(),
        "crs": project.crs().authid() if project.crs().isValid() else None,
        "background": project.backgroundColor().name(),
        "relative": number(project.filePathStorage()),
        "view": box(settings.defaultViewExtent()),
        "view crs": settings.defaultViewExtent().crs().authid() or None,
        "themes": project.mapThemeCollection().mapThemes(),
        "drawn": [layer.name() for layer in project.layerTreeRoot().checkedLayers()],
        "order": [layer.name() for layer in project.layerTreeRoot().layerOrder()],
        "layers": [tree(node) for node in project.layerTreeRoot().children()],
    }
    project.clear()
    return report


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    report: dict[str, Any] = {"projects": [described(path) for path in request["projects"]]}
    layers = [QgsVectorLayer(source, "layer", "ogr") for source in request["layers"]]
    report["layers"] = [vector(layer) for layer in layers]
    report["rasters"] = [raster(QgsRasterLayer(path, "raster")) for path in request["rasters"]]
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    main()
    # Qt's own end sometimes crashes.
    os._exit(0)
