"""Review packages with the plugin, without a desktop; report what happened as JSON.

Usage: python3 drive_dock.py PLUGIN.zip FOLDER

FOLDER holds the packages `confirm`, `picked` (another one like it), `older` (of an earlier
version), `blind`, `many` (of more classes than digits), `observed`
(of real tiles, the first of which has a class in its data set), `masks` and
`blind masks`, `newer` (of a format that the plugin does not know), and `locked file` and `locked
folder` (which may not be written). Like open_package.py this runs under QGIS's own Python. Keys
go to the widget that has the focus.
"""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from qgis.core import QgsApplication, QgsProject, QgsSettings
from qgis.gui import (
    QgsAttributeEditorContext,
    QgsAttributeForm,
    QgsGui,
    QgsLayerTreeMapCanvasBridge,
    QgsMapCanvas,
)
from qgis.PyQt.QtCore import QEvent, QObject, QPoint, QPointF, Qt, pyqtSignal
from qgis.PyQt.QtGui import QKeyEvent, QMouseEvent
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import (
    QApplication,
    QDockWidget,
    QLabel,
    QLineEdit,
    QMainWindow,
    QMenu,
    QProgressBar,
    QPushButton,
    QWidget,
)

COLUMNS = ("sample_id", "decision", "true_class", "comment", "reviewer", "reviewed_ms", "realism")


class Interface(QObject):
    """As much of QGIS's window as the plugin uses."""

    projectRead = pyqtSignal()  # noqa: N815 (QGIS's name)
    newProjectCreated = pyqtSignal()  # noqa: N815

    def __init__(self) -> None:
        super().__init__()
        self.window, self.canvas, self.menu = QMainWindow(), QgsMapCanvas(), QMenu()
        self.window.setCentralWidget(self.canvas)
        self.mainWindow = lambda: self.window
        self.mapCanvas = lambda: self.canvas
        self.addDockWidget = self.window.addDockWidget
        self.removeDockWidget = self.window.removeDockWidget
        self.addPluginToMenu = lambda name, action: self.menu.addAction(action)
        self.removePluginMenu = lambda name, action: self.menu.removeAction(action)


class Reviewer:
    """Opens packages, presses keys, reads what is shown and what is in the file."""

    def __init__(self, interface: Interface, folder: Path) -> None:
        self.interface = interface
        self.folder = folder
        self.project = QgsProject.instance()

    def open(self, name: str) -> None:
        self.package = self.folder / name
        assert self.project.read(str(self.package / "review.qgz"))
        self.layer = self.project.mapLayersByName("review")[0]
        self.interface.projectRead.emit()

    def press(self, *keys: Any) -> None:
        """Press keys: letters as text, others by Qt's number."""
        for key in keys:
            QTest.keyClick(QApplication.focusWidget(), key)
            QApplication.processEvents()

    def type(self, text: str) -> None:
        QTest.keyClicks(QApplication.focusWidget(), text)
        QApplication.processEvents()

    def click(self, text: str) -> None:
        """Click on the button of this text."""
        buttons = self.dock.findChildren(QPushButton)
        (button,) = [button for button in buttons if button.text().endswith(text)]
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        QApplication.processEvents()

    def place(self, number: int) -> QPoint:
        """Return where the middle of the cell of this sample is on the canvas."""
        canvas = self.interface.canvas
        canvas.setExtent(self.project.viewSettings().defaultViewExtent())
        middle = self.layer.getFeature(number).geometry().centroid().asPoint()
        middle = canvas.getCoordinateTransform().transform(middle)
        return QPoint(round(middle.x()), round(middle.y()))

    def pick(self, number: int) -> None:
        """Click the cell of a sample on the map."""
        place = self.place(number)
        view = self.interface.canvas.viewport()
        QTest.mouseClick(view, Qt.MouseButton.LeftButton, pos=place)
        QApplication.processEvents()

    def drag(self, number: int) -> None:
        """Move the map by a cell."""
        view, place = self.interface.canvas.viewport(), self.place(number)
        left = Qt.MouseButton.LeftButton
        QTest.mousePress(view, left, pos=place)
        for step in (10, 30, 60):
            where = QPointF(place + QPoint(step, step))
            none = Qt.KeyboardModifier.NoModifier
            move = QMouseEvent(QEvent.Type.MouseMove, where, left, left, none)
            QApplication.sendEvent(view, move)
        QTest.mouseRelease(view, left, pos=place + QPoint(60, 60))
        QApplication.processEvents()

    def hold(self, key: int, text: str) -> None:
        """Press a key and let it repeat."""
        for repeated in (False, True, True):
            event = QKeyEvent(
                QEvent.Type.KeyPress, key, Qt.KeyboardModifier.NoModifier, text, repeated
            )
            QApplication.sendEvent(QApplication.focusWidget(), event)

    @property
    def dock(self) -> QDockWidget:
        return self.interface.window.findChild(QDockWidget, "rs_lowconf_review")

    @property
    def texts(self) -> list[str]:
        """Return what the dock says."""
        content = self.panel
        if isinstance(content, QLabel):
            return [content.text()]
        return [w.text() for kind in (QLabel, QProgressBar) for w in content.findChildren(kind)]

    @property
    def panel(self) -> QWidget:
        """Return what the dock's area for scrolling holds."""
        return self.dock.widget().widget()

    @property
    def focus(self) -> str:
        """Return what has the focus: the map, or a text field by its hint."""
        widget = QApplication.focusWidget()
        return widget.placeholderText() if isinstance(widget, QLineEdit) else type(widget).__name__

    @property
    def stored(self) -> list[list[Any]]:
        """Return the rows in a copy of the GeoPackage without its journal; None for no column."""
        copy = self.folder / "alone.gpkg"
        shutil.copyfile(self.package / "review.gpkg", copy)
        with closing(sqlite3.connect(copy)) as database:
            database.row_factory = sqlite3.Row
            rows = [dict(row) for row in database.execute("SELECT * FROM review ORDER BY fid")]
        return [[row.get(name) for name in COLUMNS] for row in rows]

    @property
    def extent(self) -> list[float]:
        extent = self.interface.canvas.extent()
        return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]

    def see(self) -> dict[str, Any]:
        return {
            "stored": self.stored,
            "texts": self.texts,
            "focus": self.focus,
            "extent": self.extent,
            "visible": self.dock.isVisible(),
        }


def confirm(reviewer: Reviewer) -> dict[str, Any]:
    """Use every key; six samples, four classes, a suggestion for each."""
    steps = {}
    reviewer.open("confirm")
    steps["opened"] = reviewer.see()
    reviewer.press("a", "3", "r", "u", "m")
    steps["decided"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Backspace, Qt.Key.Key_Backspace)
    steps["undone"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Up, Qt.Key.Key_Left)
    steps["went back"] = reviewer.see()
    reviewer.press("r")
    steps["changed"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Backspace)
    steps["restored"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Return)
    reviewer.type("arum 012 n")
    reviewer.press(Qt.Key.Key_Left, Qt.Key.Key_Up, Qt.Key.Key_Backspace)
    steps["typing"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Return)
    steps["commented"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Return)
    reviewer.type(" never mind")
    reviewer.press(Qt.Key.Key_Escape)
    steps["discarded"] = reviewer.see()
    reviewer.press("n", Qt.Key.Key_Return)
    reviewer.type("by mouse")
    reviewer.click("Unsure")
    steps["clicked"] = reviewer.see()
    reviewer.hold(Qt.Key.Key_R, "r")
    steps["held"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Backspace, Qt.Key.Key_Right, "m", Qt.Key.Key_Right, "n")
    steps["wrapped"] = reviewer.see()
    reviewer.press("a")
    steps["finished"] = reviewer.see()
    return steps


def picking(reviewer: Reviewer) -> dict[str, Any]:
    """Click cells of a package that nobody decided on, and say what is asked for afterwards."""
    reviewer.open("picked")
    steps: dict[str, Any] = {"opened": reviewer.see()}
    reviewer.dock.hide()
    reviewer.pick(4)
    steps["picked"] = reviewer.see()
    before = reviewer.interface.canvas.center()
    reviewer.drag(4)
    steps["dragged"] = [reviewer.texts, reviewer.interface.canvas.center() != before]
    reviewer.press("a")
    steps["decided"] = reviewer.see()
    reviewer.press("h", Qt.Key.Key_Return)
    steps["asked"] = reviewer.see()
    reviewer.type("a note")
    reviewer.press(Qt.Key.Key_Return)
    steps["noted"] = reviewer.see()
    reviewer.press("r", "j", Qt.Key.Key_Right, "d", Qt.Key.Key_Left, Qt.Key.Key_Left)
    steps["went back"] = reviewer.see()
    reviewer.pick(5)
    steps["seen"] = reviewer.see()
    return steps


def older(reviewer: Reviewer) -> dict[str, Any]:
    """Decide and score in a package of an earlier version."""
    reviewer.open("older")
    steps = {"opened": reviewer.see()}
    reviewer.press("a", "j", Qt.Key.Key_Left)
    steps["seen"] = reviewer.see()
    return steps


def brightness(reviewer: Reviewer) -> list[list[Any]]:
    """Make a view brighter and darker; return pixels of it, and what the dock says."""
    reviewer.open("picked")
    reviewer.press(Qt.Key.Key_Space)
    seen = []
    for keys in ([], ["+"], ["-", "-"], ["="], ["+"] * 12, ["-"] * 20):
        reviewer.press(*keys)
        image = reviewer.interface.canvas.grab().toImage()
        middle = [image.pixelColor(image.width() // 4, y) for y in range(300, 500, 7)]
        seen.append([[one.getRgb()[:3] for one in middle], reviewer.texts])
    seen.append([reviewer.project.isDirty()])
    return seen


def views(reviewer: Reviewer) -> list[dict[str, Any]]:
    """Cycle through what is shown of the first sample; save what the map shows."""
    reviewer.open("confirm")
    seen = []
    for number in range(5):
        reviewer.interface.canvas.grab().save(str(reviewer.folder / f"view{number}.png"))
        seen.append(reviewer.see())
        reviewer.press(Qt.Key.Key_Space)
    return seen


def beside_form(reviewer: Reviewer) -> dict[str, Any]:
    """Decide while QGIS's own form is open, with unsaved edits and without."""
    reviewer.open("confirm")
    layer = reviewer.layer
    steps: dict[str, Any] = {"before": reviewer.see()}
    layer.startEditing()
    form = QgsAttributeForm(layer, layer.getFeature(1), QgsAttributeEditorContext())
    form.changeAttribute("comment", "typed in the form")
    reviewer.press("r")
    steps["refused"] = reviewer.see()
    steps["still edited"] = layer.isModified()
    layer.commitChanges(False)
    steps["saved"] = reviewer.see()
    reviewer.press("u")
    steps["decided"] = reviewer.see()
    steps["still editing"] = layer.isEditable()
    layer.changeAttributeValue(1, layer.fields().indexOf("decision"), "mixed")
    layer.commitChanges()
    reviewer.press(Qt.Key.Key_Backspace)
    steps["not undone"] = reviewer.see()
    form.deleteLater()
    return steps


def staying(reviewer: Reviewer) -> dict[str, Any]:
    """Decide without going on; the next session remembers that and the name."""
    reviewer.open("blind")
    panel = reviewer.panel
    panel.advance.click()
    panel.reviewer.setFocus()
    panel.reviewer.selectAll()
    reviewer.type("Ada u r")
    reviewer.press(Qt.Key.Key_Return)
    reviewer.press(Qt.Key.Key_Backspace)
    steps: dict[str, Any] = {"nothing": reviewer.see()}
    reviewer.press("a")
    steps["asked"] = reviewer.see()
    reviewer.press("2")
    steps["decided"] = reviewer.see()
    reviewer.open("blind")
    again = reviewer.panel
    steps["remembered"] = [again.advance.isChecked(), again.reviewer.text()]
    again.advance.click()
    QgsSettings().remove("rs_lowconf_review/reviewer")
    return steps


def many(reviewer: Reviewer) -> dict[str, Any]:
    """Search among more classes than there are digits."""
    reviewer.open("many")
    reviewer.press("1")
    steps = {"digit": reviewer.see()}
    reviewer.press("a")
    steps["asked"] = reviewer.see()
    reviewer.type("nothing")
    reviewer.press(Qt.Key.Key_Return)
    steps["unknown"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Escape, "c")
    reviewer.type("class 1")
    reviewer.press(Qt.Key.Key_Return)
    steps["exact"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Slash)
    reviewer.type("SS 11")
    reviewer.press(Qt.Key.Key_Return)
    steps["part"] = reviewer.see()
    return steps


def masks(reviewer: Reviewer) -> dict[str, Any]:
    """Judge masks, of five samples and of two without suggestions."""
    reviewer.open("masks")
    buttons = reviewer.panel.findChildren(QPushButton)
    steps: dict[str, Any] = {"opened": reviewer.see(), "buttons": [b.text() for b in buttons]}
    reviewer.press(Qt.Key.Key_Space, Qt.Key.Key_Space)
    reviewer.interface.canvas.grab().save(str(reviewer.folder / "masks.png"))
    steps["view"] = reviewer.see()
    reviewer.press("0", "1", "c")
    steps["ignored"] = reviewer.see()
    reviewer.press("a", "m", "r", "u")
    steps["decided"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Left, Qt.Key.Key_Left, Qt.Key.Key_Left)
    steps["went back"] = reviewer.see()
    reviewer.press(Qt.Key.Key_Backspace, Qt.Key.Key_Backspace)
    steps["undone"] = reviewer.see()
    reviewer.open("blind masks")
    reviewer.press(Qt.Key.Key_Space, "m")
    steps["blind"] = reviewer.see()
    return steps


def observed(reviewer: Reviewer) -> dict[str, Any]:
    """Judge real tiles: the first has a class in its data set, the others have none."""
    reviewer.open("observed")
    buttons = reviewer.panel.findChildren(QPushButton)
    steps: dict[str, Any] = {"opened": reviewer.see(), "buttons": [b.text() for b in buttons]}
    reviewer.press("a", "a")
    steps["asked"] = reviewer.see()
    reviewer.press("2", "r")
    steps["decided"] = reviewer.see()
    return steps


def unusable(reviewer: Reviewer, name: str) -> dict[str, Any]:
    """Press keys that would decide."""
    reviewer.dock.hide()
    reviewer.open(name)
    reviewer.interface.canvas.setFocus()
    reviewer.press("a", "r", "1")
    return reviewer.see()


def elsewhere(reviewer: Reviewer) -> dict[str, Any]:
    """Hide the dock, then close the package in mid-comment: the arrows are QGIS's again."""
    reviewer.open("confirm")
    before = reviewer.extent
    reviewer.press(Qt.Key.Key_Right, Qt.Key.Key_Left)
    steps: dict[str, Any] = {"package": [before, reviewer.extent]}
    reviewer.dock.hide()
    before = reviewer.extent
    reviewer.press(Qt.Key.Key_Right)
    steps["hidden"] = [before, reviewer.extent]
    reviewer.dock.show()
    reviewer.panel.comment.setFocus()
    reviewer.type("interrupted")
    reviewer.project.clear()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    steps["stored"] = reviewer.stored
    reviewer.interface.canvas.setFocus()
    before = reviewer.extent
    reviewer.press(Qt.Key.Key_Right)
    steps["cleared"] = [before, reviewer.extent]
    return {**steps, "texts": reviewer.texts}


def unloaded(reviewer: Reviewer, plugin: Any) -> dict[str, Any]:
    """Switch the plugin off while a package is open."""
    interface = reviewer.interface
    steps: dict[str, Any] = {"menu": [action.text() for action in interface.menu.actions()]}
    empty = len(interface.canvas.scene().items())
    reviewer.open("confirm")
    steps["items"] = [len(interface.canvas.scene().items()) - empty]
    plugin.unload()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    steps["items"].append(len(interface.canvas.scene().items()) - empty)
    steps["menu left"] = [action.text() for action in interface.menu.actions()]
    steps["dock left"] = reviewer.dock is not None
    before = reviewer.extent
    reviewer.press(Qt.Key.Key_Right, "r")
    steps["arrow"] = [before, reviewer.extent]
    steps["stored"] = reviewer.stored
    reviewer.open("blind")  # nobody listens any more
    return steps


def main() -> dict[str, Any]:
    """Install the plugin and go through the packages."""
    zipped, folder = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, zipped)
    interface = Interface()
    bridge = QgsLayerTreeMapCanvasBridge(QgsProject.instance().layerTreeRoot(), interface.canvas)
    interface.window.resize(1200, 800)
    interface.window.show()
    QApplication.setActiveWindow(interface.window)
    plugin = import_module("rs_lowconf_review").classFactory(interface)
    plugin.initGui()
    reviewer = Reviewer(interface, folder)
    report: dict[str, Any] = {
        "none": {"texts": reviewer.texts, "visible": reviewer.dock.isVisible()}
    }
    report["confirm"] = confirm(reviewer)
    report["views"] = views(reviewer)
    report["picking"] = picking(reviewer)
    report["older"] = older(reviewer)
    report["brightness"] = brightness(reviewer)
    report["beside form"] = beside_form(reviewer)
    report["staying"] = staying(reviewer)
    report["many"] = many(reviewer)
    report["masks"] = masks(reviewer)
    report["observed"] = observed(reviewer)
    for name in ("newer", "locked file", "locked folder"):
        report[name] = unusable(reviewer, name)
    report["elsewhere"] = elsewhere(reviewer)
    report["unloaded"] = unloaded(reviewer, plugin)
    del bridge
    return report


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    QgsGui.editorWidgetRegistry().initEditors()
    sys.stdout.write(json.dumps(main()) + "\n")
    sys.stdout.flush()
    # Qt's teardown from Python can crash after all is done.
    os._exit(0)
