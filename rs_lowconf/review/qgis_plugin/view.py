"""Shows the current sample on the map: its whole cell, or one composite large.

On the sheet the composites of one tile are side by side. For a comparison, the same composite of
the real tile and of the one to review is needed, and the mask: those are painted over the cell.
"""

from __future__ import annotations

from typing import Any

from qgis.core import (
    Qgis,
    QgsContrastEnhancement,
    QgsGeometry,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsPointXY,
    QgsRasterLayer,
    QgsRectangle,
    QgsWkbTypes,
)
from qgis.gui import QgsMapCanvas, QgsMapCanvasItem, QgsRubberBand
from qgis.PyQt.QtCore import QPointF, QRectF, QSize
from qgis.PyQt.QtGui import QColor, QFont, QImage, QPainter

from .layout import Layout, layout_of
from .package import Package

_FRAME = QColor(20, 110, 230)
_INK = QColor(20, 20, 20)
_NOTHING = QColor(0, 0, 0, 0)
_BLACK, _WHITE = 1, 255  # bytes of the sheet; 0 is a gap
_LETTERS = 18  # width of a picture by height of its caption's letters, so that captions fit


class CellView:
    """The frame around the current cell, and the view of it."""

    def __init__(self, canvas: QgsMapCanvas, package: Package) -> None:
        """Begin with whole cells."""
        self._canvas = canvas
        self._package = package
        self._place = -1  # the composite shown; -1 is the whole cell
        self._cell = QgsRectangle()
        self._frame = QgsRubberBand(canvas, QgsWkbTypes.GeometryType.PolygonGeometry)
        self._frame.setStrokeColor(_FRAME)
        self._frame.setFillColor(_NOTHING)
        self._frame.setWidth(5)
        self._pictures = _Pictures(canvas)

    def show(self, cell: QgsRectangle) -> None:
        """Go to a cell, without changing the view."""
        self._cell = cell
        # Around the cell's frame, whose colour shows the decision.
        around = cell.buffered(cell.height() / 40)
        self._frame.setToGeometry(QgsGeometry.fromRect(around), None)
        self._draw()

    def cycle(self) -> None:
        """Show the next composite; after the last one the whole cell."""
        self._place += 1
        if self._place == len(self._package.captions):
            self._place = -1
        self._draw()

    def brighten(self, brightness: float) -> None:
        """Show all composites brighter, or darker below 1; the package and the project stay."""
        sheet = self._package.sheets[0]
        how = QgsContrastEnhancement.ContrastEnhancementAlgorithm
        for set_one in (
            sheet.renderer().setRedContrastEnhancement,
            sheet.renderer().setGreenContrastEnhancement,
            sheet.renderer().setBlueContrastEnhancement,
        ):
            # Bytes would limit the maximum to 255, so that nothing could be darker.
            stretch = QgsContrastEnhancement(Qgis.DataType.UInt16)
            stretch.setMinimumValue(_BLACK)
            stretch.setMaximumValue(_BLACK + (_WHITE - _BLACK) / brightness)
            stretch.setContrastEnhancementAlgorithm(how.StretchToMinimumMaximum)
            set_one(stretch)
        sheet.triggerRepaint()
        self._draw()

    def close(self) -> None:
        """Remove everything from the map."""
        for item in (self._frame, self._pictures):
            self._canvas.scene().removeItem(item)

    def _draw(self) -> None:
        cell = self._cell
        if self._place < 0:
            self._pictures.hide()
            shown = cell
        else:
            titles, caption = self._package.titles, self._package.captions[self._place]
            layout = layout_of(
                round(cell.width()),
                round(cell.height()),
                len(titles),
                len(self._package.captions),
                len(self._package.panels),
            )
            places = [(block, self._place) for block in range(layout.blocks)]
            captions = [f"{title}   {caption}" for title in titles]
            if self._package.masks:
                places.append((layout.blocks - 1, layout.composites))
                captions.append(f"{titles[-1]}   {self._package.panels[0]}")
            images = [_render(self._package.sheets, cell, layout, *place) for place in places]
            shown = self._pictures.arrange(cell, layout, images, captions)
            self._pictures.show()
        self._canvas.setExtent(shown.buffered(0.03 * shown.width()))
        self._canvas.refresh()


def _render(
    sheets: list[QgsRasterLayer], cell: QgsRectangle, layout: Layout, block: int, place: int
) -> QImage:
    """Return one picture of the sheets, as rendered by their layers."""
    x, y = layout.offset(block, place)
    left, top = cell.xMinimum() + x, cell.yMaximum() - y
    settings = QgsMapSettings()
    settings.setLayers(sheets)
    settings.setBackgroundColor(_NOTHING)  # where no class is known
    settings.setExtent(QgsRectangle(left, top - layout.height, left + layout.width, top))
    settings.setOutputSize(QSize(layout.width, layout.height))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


class _Pictures(QgsMapCanvasItem):
    """Pictures side by side in the middle of a cell, above the sheet."""

    def __init__(self, canvas: QgsMapCanvas) -> None:
        super().__init__(canvas)
        self._canvas = canvas
        self._placed: list[tuple[QgsRectangle, QImage, str]] = []

    def arrange(
        self, cell: QgsRectangle, layout: Layout, images: list[QImage], captions: list[str]
    ) -> QgsRectangle:
        """Set new pictures; return the extent to zoom to."""
        step = layout.width + layout.line
        left = cell.center().x() - (len(images) * step - layout.line) / 2
        top = cell.yMaximum() - layout.offset(0, 0)[1]
        self._placed = []
        for number, (image, caption) in enumerate(zip(images, captions)):
            x = left + number * step
            place = QgsRectangle(x, top - layout.height, x + layout.width, top)
            self._placed.append((place, image, caption))
        right = left + len(images) * step - layout.line
        shown = QgsRectangle(left, top - layout.height, right, top + layout.line)
        covered = QgsRectangle(cell)
        covered.combineExtentWith(shown)
        self.setRect(covered)
        self.update()
        return shown

    def updatePosition(self) -> None:
        """Follow the map when it is moved."""
        self.setRect(self.rect())

    def paint(self, painter: QPainter, *_: Any) -> None:
        """Draw; called by the canvas."""
        painter.fillRect(self._on_screen(self.rect()), self._canvas.canvasColor())
        painter.setPen(_INK)
        font = QFont(painter.font())
        font.setBold(True)
        for place, image, caption in self._placed:
            target = self._on_screen(place)
            painter.drawImage(target, image)
            font.setPixelSize(max(1, round(target.width() / _LETTERS)))
            painter.setFont(font)
            painter.drawText(target.topLeft() - QPointF(0, 0.6 * font.pixelSize()), caption)

    def _on_screen(self, place: QgsRectangle) -> QRectF:
        corners = (
            self.toCanvasCoordinates(QgsPointXY(place.xMinimum(), place.yMaximum())) - self.pos(),
            self.toCanvasCoordinates(QgsPointXY(place.xMaximum(), place.yMinimum())) - self.pos(),
        )
        return QRectF(*corners)
