"""The map tool of a review: a click on a cell goes to its sample; dragging moves the map."""

from __future__ import annotations

from typing import Callable

from qgis.gui import QgsMapCanvas, QgsMapMouseEvent, QgsMapToolPan
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QPoint, Qt
from qgis.PyQt.QtWidgets import QApplication


class PickTool(QgsMapToolPan):
    """QGIS's tool to move the map, which would only centre what is clicked."""

    def __init__(self, canvas: QgsMapCanvas, picked: Callable[[float, float], None]) -> None:
        """Take the mouse until `close`, or until the reviewer chooses another tool."""
        super().__init__(canvas)
        self._picked = picked
        self._pressed = QPoint()
        self._before = canvas.mapTool()
        canvas.setMapTool(self)

    def canvasPressEvent(self, event: QgsMapMouseEvent) -> None:
        """Remember the place; called by the canvas."""
        self._pressed = event.pixelPoint()
        super().canvasPressEvent(event)

    def canvasReleaseEvent(self, event: QgsMapMouseEvent) -> None:
        """Tell where the click was, unless it ended a drag; called by the canvas."""
        place = event.mapPoint()
        super().canvasReleaseEvent(event)
        moved = (event.pixelPoint() - self._pressed).manhattanLength()
        left = event.button() == Qt.MouseButton.LeftButton
        if left and moved < QApplication.startDragDistance():
            self._picked(place.x(), place.y())

    def close(self) -> None:
        """Give the mouse back to the tool before."""
        canvas = self.canvas()
        if canvas.mapTool() is self:
            canvas.unsetMapTool(self)
            if self._before is not None and not sip.isdeleted(self._before):
                canvas.setMapTool(self._before)
