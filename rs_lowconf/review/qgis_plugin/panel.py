"""The widgets of the dock, without logic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from qgis.core import QgsApplication, QgsSettings
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import (
    QCheckBox,
    QCompleter,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from .decisions import Row

_REVIEWER = "rs_lowconf_review/reviewer"
_ADVANCE = "rs_lowconf_review/advance"
_COLOURS = {
    "accept": "#00803a",
    "reject": "#c62020",
    "unsure": "#a06a00",
    "mixed": "#8040b8",
    "mask wrong": "#8040b8",
}
_WORDS = {
    "accept": "Accepted",
    "reject": "Rejected",
    "unsure": "Unsure",
    "mixed": "Mixed",
    "mask wrong": "Mask wrong",
}
_LONG = 24  # letters on a button
_SCORE = "padding: 4px 6px"
_CHOSEN = f"{_SCORE}; font-weight: bold; color: white; background: #1450a0"


@dataclass(frozen=True)
class Command:
    """What a key and a button do."""

    key: int
    """Qt's number of the key."""

    hint: str
    """The key's name on the button."""

    text: str
    run: Callable[[], None]


class Panel(QWidget):
    """The dock's content while a package is open.

    Besides the panel itself only text fields take the focus, so that all other typing is a command.
    """

    def __init__(
        self,
        decide: Sequence[Command],
        choose: Sequence[Command],
        rate: Sequence[Command],
        move: Sequence[Command],
        *,
        searched: Sequence[str],
        suggested: str,
        opinions: bool,
    ) -> None:
        """Build the widgets.

        Args:
            decide: the decisions that need no class.
            choose: one command per class; empty when classes are searched, or there are none.
            rate: one command per realism score, from 1; empty when it is not asked for.
            move: what changes the sample or the view.
            searched: classes to be searched by name; empty when each has a key.
            suggested: label of the suggestion.
            opinions: whether the package tells what the model says.
        """
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._sample, self._position = QLabel(), QLabel()
        self._suggestion, self._decision = QLabel(), QLabel()
        self._opinion, self._message = QLabel(), QLabel()
        self._of_comment, self._of_score = QLabel(), QLabel()
        self._scores = [_button(command) for command in rate]
        for button in self._scores:
            button.setStyleSheet(_SCORE)
        self._progress = QProgressBar()
        self.search = QLineEdit(placeholderText="C   Accept as the class of this name")
        self.comment = QLineEdit(placeholderText="Enter saves, Esc discards")
        self.reviewer = QLineEdit()
        self.advance = QCheckBox("Go to the next pending sample after deciding")
        completer = QCompleter(list(searched), self.search)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        self.search.setCompleter(completer)
        self._arrange(decide, choose, move, bool(searched), suggested, opinions=opinions)
        self._remember()

    @property
    def name(self) -> str:
        """Name of the reviewer."""
        return self.reviewer.text().strip() or _user()

    def show_row(self, row: Row, rank: str, count: int) -> None:
        """Show a sample of this rank among so many."""
        self._sample.setText(f"{rank} {row.sample_id}")
        self._position.setText(f"of {count}")
        self._suggestion.setText(row.suggestion or "none")
        text = _WORDS.get(row.decision or "", "Pending")
        self._decision.setText(f"{text}: {row.true_class}" if row.true_class else text)
        hidden = "shown after the decision" if row.decision is None else "none"
        self._opinion.setText(row.opinion or hidden)
        colour = _COLOURS.get(row.decision or "", "#606060")
        self._decision.setStyleSheet(f"font-weight: bold; color: {colour}")

    def show_notes(self, row: Row, rank: str) -> None:
        """Show comment and score of a sample; a comment being typed stays.

        Args:
            row: the sample.
            rank: of it; empty when it is the one that is shown.
        """
        self._of_comment.setText(f"Comment on {rank}" if rank else "Comment")
        self._of_score.setText(f"Realism of {rank}" if rank else "Realism")
        if not self.comment.isModified():
            self.comment.setText(row.comment)
        for score, button in enumerate(self._scores, start=1):
            button.setStyleSheet(_CHOSEN if score == row.realism else _SCORE)

    def show_progress(self, done: int, count: int, left: str) -> None:
        """Show the progress and the remaining time."""
        self._progress.setRange(0, count)
        self._progress.setValue(done)
        self._progress.setFormat(", ".join(filter(None, (f"{done} of {count} decided", left))))

    def say(self, message: str) -> None:
        """Show one line below the sample; an empty one clears it."""
        self._message.setText(message)

    def _arrange(
        self,
        decide: Sequence[Command],
        choose: Sequence[Command],
        move: Sequence[Command],
        searching: bool,
        suggested: str,
        *,
        opinions: bool,
    ) -> None:
        self._sample.setStyleSheet("font-size: 13pt; font-weight: bold")
        self._message.setStyleSheet("font-weight: bold; color: #1450a0")
        for label in (self._suggestion, self._decision, self._opinion, self._message):
            label.setWordWrap(True)
        self._message.setMinimumHeight(self.fontMetrics().lineSpacing())
        head = QHBoxLayout()
        head.addWidget(self._sample, 1)
        head.addWidget(self._position)
        facts = QFormLayout()
        facts.setHorizontalSpacing(12)
        facts.addRow(suggested, self._suggestion)
        facts.addRow("Decision", self._decision)
        if opinions:
            facts.addRow("Model", self._opinion)
        # As wide as they become, so that the dock's width stays.
        for label in (self._of_comment, self._of_score):
            label.setMinimumWidth(self.fontMetrics().horizontalAdvance("Comment on 000"))
        notes = QFormLayout()
        notes.setHorizontalSpacing(12)
        notes.addRow(self._of_comment, self.comment)
        if self._scores:
            scores = QHBoxLayout()
            scores.setSpacing(4)
            for button in self._scores:
                scores.addWidget(button)
            notes.addRow(self._of_score, scores)
        notes.addRow("Reviewer", self.reviewer)
        # One grid for all that decides, so that the buttons are aligned.
        buttons = QGridLayout()
        buttons.setSpacing(4)
        _add_buttons(buttons, decide)
        if searching:
            _add_row(buttons, self.search)
        elif choose:
            _add_row(buttons, QLabel("Accept as"))
            _add_buttons(buttons, choose)
        moves = QGridLayout()
        moves.setSpacing(4)
        _add_buttons(moves, move, columns=3)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addLayout(head)
        column.addLayout(facts)
        column.addWidget(self._message)
        column.addLayout(buttons)
        column.addLayout(moves)
        column.addLayout(notes)
        column.addWidget(self.advance)
        column.addWidget(self._progress)
        column.addStretch(1)

    def _remember(self) -> None:
        """Restore name and options from the last session, and save changes for the next."""
        settings = QgsSettings()
        self.reviewer.setText(settings.value(_REVIEWER, "") or _user())
        self.reviewer.editingFinished.connect(lambda: settings.setValue(_REVIEWER, self.name))
        self.advance.setChecked(settings.value(_ADVANCE, True, type=bool))
        self.advance.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.advance.toggled.connect(lambda on: settings.setValue(_ADVANCE, on))


def _user() -> str:
    name: str = QgsApplication.userFullName() or QgsApplication.userLoginName()
    return name


def _button(command: Command) -> QPushButton:
    # A class may be named "A & B": a single & would underline the next letter.
    button = QPushButton(f"{command.hint}   {command.text}".replace("&", "&&"))
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.clicked.connect(lambda *_: command.run())
    return button


def _add_row(grid: QGridLayout, widget: QWidget) -> None:
    grid.addWidget(widget, grid.rowCount(), 0, 1, 2)


def _add_buttons(grid: QGridLayout, commands: Sequence[Command], columns: int = 2) -> None:
    """Add so many buttons per row, or one if any has a long text."""
    columns = 1 if max(len(command.text) for command in commands) > _LONG else columns
    first = grid.rowCount()
    for number, command in enumerate(commands):
        button = _button(command)
        button.setStyleSheet("text-align: left; padding: 4px 8px")
        row, column = divmod(number, columns)
        grid.addWidget(button, first + row, column, 1, 2 if columns == 1 else 1)
