"""One package under review: the current sample and the commands of keys and buttons."""

from __future__ import annotations

import time
from functools import partial
from typing import Callable

from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QEvent, QObject, Qt, QTimer
from qgis.PyQt.QtWidgets import QApplication, QLineEdit

from .decisions import Decisions, RefusedError, Row
from .pace import Pace
from .package import Package
from .panel import Command, Panel
from .pick import PickTool
from .view import CellView

MAX_KEYS = 10
"""Most classes with one digit key each; more are searched by name."""

REALISM = {
    Qt.Key.Key_D: "D",
    Qt.Key.Key_F: "F",
    Qt.Key.Key_G: "G",
    Qt.Key.Key_H: "H",
    Qt.Key.Key_J: "J",
}
"""Keys of the scores 1 to 5, neighbours on most keyboards, because digits choose classes."""

_STEP, _DARKEST, _BRIGHTEST = 1.25, 0.4, 5.0
_RETRY_MS = 1000


class Review(QObject):
    """Guides through the samples of a package until it is closed.

    Keys are intercepted on their way to the map and to the panel, before QGIS can treat them as its
    shortcuts, and only while the panel is visible.
    """

    def __init__(
        self, package: Package, canvas: QgsMapCanvas, show_dock: Callable[[], None]
    ) -> None:
        """Show the first pending sample."""
        super().__init__()
        self.layers = (package.layer, *package.sheets)
        """Layers that the review needs."""
        self._package = package
        self._canvas = canvas
        self._show_dock = show_dock
        self._brightness = 1.0
        self._decisions = Decisions(package.layer)
        self._pace = Pace()
        self._view = CellView(canvas, package)
        self._retry = QTimer(self)
        self._retry.setSingleShot(True)
        self._retry.timeout.connect(self._checkpoint)
        decide, choose, rate, move = self._commands()
        searched = [] if choose else package.classes
        suggested = "Mask of" if package.masks else "Suggested class"
        self.panel = Panel(
            decide,
            choose,
            rate,
            move,
            searched=searched,
            suggested=suggested,
            opinions=not package.blind,
        )
        self._keys = {command.key: command.run for command in (*decide, *choose, *rate, *move)}
        self._keys[Qt.Key.Key_Up] = self._keys[Qt.Key.Key_Left]
        self._keys[Qt.Key.Key_Down] = self._keys[Qt.Key.Key_Right]
        self._keys[Qt.Key.Key_Enter] = self._keys[Qt.Key.Key_Return]
        self._keys[Qt.Key.Key_Equal] = self._keys[Qt.Key.Key_Plus]  # on one key of many keyboards
        if searched:
            self._keys[Qt.Key.Key_C] = self._keys[Qt.Key.Key_Slash] = self.panel.search.setFocus
        self._texts = (self.panel.search, self.panel.comment, self.panel.reviewer)
        self._connect()
        self._tool = PickTool(canvas, self._pick)
        self._show((self._decisions.pending() or self._decisions.fids)[0])

    def close(self) -> None:
        """Save a comment being typed, then release map, keys and layer."""
        self._attempt(self._keep_comment)
        self._retry.stop()
        self._tool.close()
        self._package.layer.afterCommitChanges.disconnect(self._edited)
        self._package.layer.afterRollBack.disconnect(self._edited)
        for watched in (self._canvas, self.panel, *self._texts):
            watched.removeEventFilter(self)
        # A field that is removed while it has the focus would signal that it lost it.
        for field in self._texts:
            field.blockSignals(True)
        self._view.close()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Run the command of a key, and consume the key."""
        if event.type() not in (QEvent.Type.ShortcutOverride, QEvent.Type.KeyPress):
            return False
        pressed = event.type() == QEvent.Type.KeyPress
        if watched in self._texts:
            if pressed and event.key() == Qt.Key.Key_Escape:
                self._discard(watched)
                return True
            return False
        run = self._keys.get(event.key())
        # Keys that a text field ignores come to the panel, too.
        focused = watched == QApplication.focusWidget()
        plain = not event.modifiers() & (
            Qt.KeyboardModifier.ControlModifier
            | Qt.KeyboardModifier.AltModifier
            | Qt.KeyboardModifier.MetaModifier
        )
        if run is None or not (focused and plain and self.panel.isVisible()):
            return False
        # An accepted override comes back as a key press instead of starting a shortcut.
        event.accept()
        # A key held down must not decide sample after sample.
        arrows = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Up, Qt.Key.Key_Down)
        if pressed and (event.key() in arrows or not event.isAutoRepeat()):
            run()
        return True

    def _commands(self) -> tuple[list[Command], list[Command], list[Command], list[Command]]:
        """Return the commands to decide, to choose a class, to score realism and to navigate."""

        def command(key: int, hint: str, text: str, run: Callable[[], None]) -> Command:
            return Command(key, hint, text, partial(self._attempt, run))

        rejecting = "Reject / cannot be used" if self._package.observed else "Reject"
        decide = [
            command(Qt.Key.Key_A, "A", "Accept", self._accept),
            command(Qt.Key.Key_R, "R", rejecting, partial(self._decide, "reject")),
            command(Qt.Key.Key_U, "U", "Unsure", partial(self._decide, "unsure")),
            command(Qt.Key.Key_M, "M", "Mixed / none of these", partial(self._decide, "mixed")),
        ]
        if self._package.masks:
            wrong = partial(self._decide, "mask wrong")
            decide[-1] = command(Qt.Key.Key_M, "M", "Mask wrong", wrong)
        classes = self._package.classes
        choose = [
            command(Qt.Key.Key_0 + digit, str(digit), name, partial(self._decide, "accept", name))
            for digit, name in enumerate(classes if len(classes) <= MAX_KEYS else [])
        ]
        rate = [
            command(key, hint, str(score), partial(self._rate, score))
            for score, (key, hint) in enumerate(REALISM.items(), start=1)
            if not self._package.observed
        ]
        move = [
            command(Qt.Key.Key_Left, "\N{LEFTWARDS ARROW}", "Previous", partial(self._step, -1)),
            command(Qt.Key.Key_Right, "\N{RIGHTWARDS ARROW}", "Next", partial(self._step, 1)),
            command(Qt.Key.Key_N, "N", "Next pending", self._next_pending),
            command(Qt.Key.Key_Backspace, "Backspace", "Undo", self._undo),
            command(Qt.Key.Key_Space, "Space", "Next view", self._view.cycle),
            command(Qt.Key.Key_Return, "Enter", "Comment", self._write_comment),
            command(Qt.Key.Key_Plus, "+", "Brighter", partial(self._brighten, _STEP)),
            command(Qt.Key.Key_Minus, "-", "Darker", partial(self._brighten, 1 / _STEP)),
        ]
        return decide, choose, rate, move

    def _connect(self) -> None:
        panel = self.panel
        panel.comment.returnPressed.connect(self._to_map)
        panel.comment.editingFinished.connect(partial(self._attempt, self._keep_comment))
        panel.reviewer.returnPressed.connect(self._to_map)
        panel.search.returnPressed.connect(partial(self._attempt, self._choose))
        for watched in (self._canvas, panel, *self._texts):
            watched.installEventFilter(self)
        self._package.layer.afterCommitChanges.connect(self._edited)
        self._package.layer.afterRollBack.connect(self._edited)

    def _attempt(self, run: Callable[[], None]) -> None:
        """Run a command, or show why it failed."""
        self.panel.say("")
        try:
            run()
        except RefusedError as refused:
            self.panel.say(str(refused))

    def _accept(self) -> None:
        """Confirm the class that was chosen before or is suggested, or ask for one; or the mask."""
        if self._package.masks:
            self._decide("accept")
            return
        row = self._decisions.row(self._current)
        name = row.true_class or row.suggestion
        if name is not None:
            self._decide("accept", name)
        elif self.panel.search.isVisible():
            self.panel.search.setFocus()
            self.panel.say("Which class? Type its name, then Enter.")
        else:
            self.panel.say("Which class? Press its digit.")

    def _choose(self) -> None:
        """Accept as the class that was typed: of this name, or else the first match."""
        typed = self.panel.search.text().strip()
        names = [name for name in self._package.classes if typed.lower() in name.lower()]
        exact = [name for name in names if name.lower() == typed.lower()]
        if not typed or not names:
            raise RefusedError(f"There is no class {typed!r}.")
        self.panel.search.completer().popup().hide()
        self.panel.search.clear()
        self._decide("accept", (exact or names)[0])

    def _decide(self, decision: str, true_class: str | None = None) -> None:
        self._keep_comment()
        self._decisions.decide(self._current, decision, true_class, self.panel.name)
        self._pace.decided(time.monotonic())
        decided = self._current
        self._show(self._pending() if self.panel.advance.isChecked() else decided, noted=decided)

    def _undo(self) -> None:
        self._keep_comment()
        row = self._decisions.undo()
        self._show(row.fid)
        self.panel.say(f"Undone: {self._rank(row)} {row.sample_id} is as it was before.")

    def _pending(self) -> int:
        """Return the next pending sample, from the last one on to the first."""
        pending = self._decisions.pending()
        if not pending:
            self.panel.say("All samples are decided.")
            return self._current
        return min(pending, key=lambda fid: (fid <= self._current, fid))

    def _next_pending(self) -> None:
        self._keep_comment()
        self._show(self._pending())

    def _step(self, by: int) -> None:
        fids = self._decisions.fids
        self._go_to(fids[(fids.index(self._current) + by) % len(fids)])

    def _pick(self, x: float, y: float) -> None:
        """Go to the sample that was clicked on the map, if the click was on one."""
        fid = self._decisions.at(x, y)
        if fid is not None:
            self._show_dock()
            self._attempt(partial(self._go_to, fid))

    def _go_to(self, fid: int) -> None:
        self._keep_comment()
        self._show(fid)

    def _rate(self, score: int) -> None:
        self._keep_comment()
        self._decisions.rate(self._noted, score, self.panel.name)

    def _brighten(self, factor: float) -> None:
        self._brightness = min(max(self._brightness * factor, _DARKEST), _BRIGHTEST)
        self._view.brighten(self._brightness)
        self.panel.say(f"Brightness {100 * self._brightness:.0f} %")

    def _write_comment(self) -> None:
        self.panel.comment.setFocus()

    def _keep_comment(self) -> None:
        """Save the comment that was typed, however the field was left."""
        comment = self.panel.comment
        if comment.isModified():
            self._decisions.comment(self._noted, comment.text().strip(), self.panel.name)
            comment.setModified(False)

    def _discard(self, field: QLineEdit) -> None:
        """Discard what was typed in a field, and leave it."""
        if field == self.panel.comment:
            field.setModified(False)
        elif field == self.panel.search:
            field.clear()
        self._refresh()
        self._to_map()

    def _show(self, fid: int, noted: int | None = None) -> None:
        """Go to a sample.

        Args:
            fid: the sample.
            noted: which comments and scores are about, such as the one decided last; if missing,
                the same one.
        """
        self._current = fid
        self._noted = fid if noted is None else noted
        self._view.show(self._decisions.row(fid).cell)
        self._refresh()
        self._to_map()

    def _rank(self, row: Row) -> str:
        """Return a sample's place in the order of review, as the list beside QGIS's form has it."""
        fids = self._decisions.fids
        return f"{fids.index(row.fid) + 1:0{len(str(len(fids)))}}"

    def _refresh(self) -> None:
        """Show the current sample and the progress from the layer."""
        fids = self._decisions.fids
        row, noted = self._decisions.row(self._current), self._decisions.row(self._noted)
        pending = len(self._decisions.pending())
        self.panel.show_row(row, self._rank(row), len(fids))
        self.panel.show_notes(noted, "" if noted.fid == row.fid else self._rank(noted))
        self.panel.show_progress(len(fids) - pending, len(fids), self._pace.left(pending))

    def _edited(self) -> None:
        """Show changes saved or discarded here or in QGIS's form, and write them to the file."""
        self._checkpoint()
        self.panel.say("")
        self._refresh()

    def _to_map(self) -> None:
        """Give the map the focus, so that the next keys are commands."""
        self._canvas.activateWindow()
        self._canvas.setFocus()

    def _checkpoint(self) -> None:
        """Move saved changes from the journal into the file, now or soon."""
        if not self._decisions.checkpoint():
            self._retry.start(_RETRY_MS)
