"""The dock, and when it opens."""

from __future__ import annotations

from functools import partial
from typing import Any

from qgis.core import QgsProject
from qgis.gui import QgsDockWidget
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QFrame, QLabel, QScrollArea, QWidget

from .package import UnusableError, find_package
from .review import Review

MENU = "rs_lowconf"
NO_PACKAGE = "The open project is not a review package. Open a package's review.qgz."


class ReviewPlugin:
    """The plugin: a dock that opens automatically with a review package."""

    def __init__(self, iface: Any) -> None:
        """Remember QGIS's interface; `initGui` does the rest."""
        self._iface = iface
        self._dock = QgsDockWidget("Review", iface.mainWindow())
        self._dock.setObjectName("rs_lowconf_review")
        self._review: Review | None = None

    def initGui(self) -> None:
        """Add the dock and its menu entry; QGIS calls this when the plugin is switched on."""
        self._iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self._dock)
        self._dock.hide()
        self._iface.addPluginToMenu(MENU, self._dock.toggleViewAction())
        self._iface.projectRead.connect(self._open)
        self._iface.newProjectCreated.connect(self._close)
        self._open()

    def unload(self) -> None:
        """Remove everything; QGIS calls this when the plugin is switched off."""
        self._iface.projectRead.disconnect(self._open)
        self._iface.newProjectCreated.disconnect(self._close)
        self._close()
        self._iface.removePluginMenu(MENU, self._dock.toggleViewAction())
        self._iface.removeDockWidget(self._dock)
        self._dock.deleteLater()

    def _open(self) -> None:
        """Begin the review of the open project, if it is a package."""
        self._close()
        try:
            package = find_package(QgsProject.instance())
        except UnusableError as reason:
            self._fill(_notice(str(reason)))
            self._dock.setUserVisible(True)
            return
        if package is not None:
            show = partial(self._dock.setUserVisible, True)
            self._review = Review(package, self._iface.mapCanvas(), show)
            for layer in self._review.layers:
                layer.willBeDeleted.connect(self._close)
            self._fill(self._review.panel)
            self._dock.setUserVisible(True)

    def _close(self) -> None:
        """End the review, if there is one."""
        if self._review is not None:
            for layer in self._review.layers:
                layer.willBeDeleted.disconnect(self._close)
            self._review.close()
            self._review = None
        self._fill(_notice(NO_PACKAGE))

    def _fill(self, content: QWidget) -> None:
        old = self._dock.widget()
        # Contents that need more height than a small screen has must not enlarge QGIS's window.
        area = QScrollArea()
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(content)
        bar = area.verticalScrollBar().sizeHint().width()
        area.setMinimumWidth(content.minimumSizeHint().width() + bar)
        self._dock.setWidget(area)
        if old is not None:
            old.deleteLater()


def _notice(text: str) -> QLabel:
    notice = QLabel(text)
    notice.setWordWrap(True)
    notice.setAlignment(Qt.AlignmentFlag.AlignTop)
    notice.setMargin(12)
    return notice
