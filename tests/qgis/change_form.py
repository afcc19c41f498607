"""Runs under QGIS's Python: changes the form of a template as a user would, and saves it.

Usage: change_form.py TEMPLATE.qgs

The comment is called `Why?`, the widgets of the first tab are in reversed order, pending cells are
called `open`.
"""

import os
import sys

from qgis.core import QgsApplication, QgsAttributeEditorField, QgsProject


def main(path: str) -> None:
    project = QgsProject.instance()
    assert project.read(path)
    (layer,) = project.mapLayersByName("review")
    assert layer.isValid()
    layer.setFieldAlias(layer.fields().indexOf("comment"), "Why?")
    config = layer.editFormConfig()
    tab = config.tabs()[0]
    shown = [(child.name(), child.showLabel()) for child in tab.children()]
    tab.clear()
    for name, labelled in reversed(shown):
        widget = QgsAttributeEditorField(name, layer.fields().indexOf(name), tab)
        widget.setShowLabel(labelled)
        tab.addChildElement(widget)
    layer.setEditFormConfig(config)
    categories = layer.renderer().categories()
    layer.renderer().updateCategoryLabel(len(categories) - 1, "open")
    assert project.write()


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    application = QgsApplication([], True)
    application.initQgis()
    main(sys.argv[1])
    # Qt's own end sometimes crashes.
    os._exit(0)
