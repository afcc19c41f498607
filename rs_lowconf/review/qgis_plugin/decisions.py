"""Reads and writes the rows of the layer `review`, one commit per change.

Decisions are explained in rs_lowconf/review/fields.py. Values bypass the form's rules for updates,
because they are complete here and an undo must restore the old ones.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from qgis.core import (
    NULL,
    QgsFeatureRequest,
    QgsPointXY,
    QgsProviderRegistry,
    QgsRectangle,
    QgsVectorLayer,
)

_PATIENCE_S = 0.5


class RefusedError(Exception):
    """Why something was not done, as one line for the reviewer."""


@dataclass(frozen=True)
class Row:
    """One sample of the layer; None is NULL."""

    fid: int
    sample_id: str
    suggestion: str | None
    """The class that a tile was generated for or that a real tile has, or the name of its mask;
    None without a suggestion."""

    decision: str | None
    true_class: str | None
    """Always None if masks are reviewed."""

    realism: int | None
    """1 to 5; None without a score."""

    comment: str
    reviewer: str | None
    reviewed_ms: int | None
    """Time of the last change, UTC, since 1970."""

    opinion: str
    """What the model says; empty before a decision, and where no model was asked."""

    cell: QgsRectangle
    """The sample's position on the sheet."""


class Decisions:
    """The rows, and the decisions of this session."""

    def __init__(self, layer: QgsVectorLayer) -> None:
        """Begin with nothing to undo."""
        self._layer = layer
        source = QgsProviderRegistry.instance().decodeUri("ogr", layer.source())
        self._file = source["path"]
        self._made: list[tuple[Row, Row]] = []
        self.fids: list[int] = sorted(layer.allFeatureIds())
        """In the order of review."""

    def row(self, fid: int) -> Row:
        """Return the current state of a sample, edits in the form included."""
        feature = self._layer.getFeature(fid)
        names = self._layer.fields().names()
        # An absent value is None in newer versions of QGIS, and a null QVariant in older ones.
        value: dict[str, Any] = {
            name: None if value == NULL else value
            for name, value in zip(names, feature.attributes())
        }
        return Row(
            fid=fid,
            sample_id=value["sample_id"],
            suggestion=value.get("cond_class", value.get("mask_name")),
            decision=value["decision"],
            true_class=value.get("true_class"),
            realism=value["realism"],
            comment=value["comment"] or "",
            reviewer=value["reviewer"],
            reviewed_ms=value["reviewed_ms"],
            opinion=_opinion(value),
            cell=feature.geometry().boundingBox(),
        )

    def at(self, x: float, y: float) -> int | None:
        """Return the sample whose cell has this position of the sheet."""
        place, request = QgsPointXY(x, y), QgsFeatureRequest().setNoAttributes()
        for row in self._layer.getFeatures(request):
            if row.geometry().boundingBox().contains(place):
                return int(row.id())
        return None

    def pending(self) -> list[int]:
        """Return the samples without a decision, in the order of review."""
        request = QgsFeatureRequest().setFlags(QgsFeatureRequest.Flag.NoGeometry)
        request.setSubsetOfAttributes(["decision"], self._layer.fields())
        rows = self._layer.getFeatures(request)
        return sorted(row.id() for row in rows if row["decision"] == NULL)

    def decide(self, fid: int, decision: str, true_class: str | None, reviewer: str) -> None:
        """Store a decision; `undo` reverts it."""
        before = self.row(fid)
        values = {"decision": decision, "true_class": true_class, "reviewer": reviewer}
        self._write(fid, {**values, "reviewed_ms": _now()})
        self._made.append((before, self.row(fid)))

    def comment(self, fid: int, text: str, reviewer: str) -> None:
        """Store a comment."""
        self._write(fid, {"comment": text or None, "reviewer": reviewer, "reviewed_ms": _now()})

    def rate(self, fid: int, realism: int, reviewer: str) -> None:
        """Store a realism score."""
        self._write(fid, {"realism": realism, "reviewer": reviewer, "reviewed_ms": _now()})

    def undo(self) -> Row:
        """Revert the last decision of this session; return the row as it was before.

        The row gets a new time, and one that was pending before keeps its reviewer, so that a later
        import recognises that the decision was reverted.
        """
        if not self._made:
            raise RefusedError("There is nothing to undo.")
        before, after = self._made[-1]
        now = self.row(before.fid)
        if (now.decision, now.true_class) != (after.decision, after.true_class):
            self._made.pop()
            raise RefusedError(f"{before.sample_id} has changed since, so it was not undone.")
        values = {"decision": before.decision, "true_class": before.true_class}
        if before.decision is not None:
            values["reviewer"] = before.reviewer
        self._write(before.fid, {**values, "reviewed_ms": _now()})
        self._made.pop()
        return before

    def checkpoint(self) -> bool:
        """Move commits from the journal into the file; return whether all were moved.

        While QGIS reads the file to draw the map, some commits stay in the journal, which loses
        nothing unless the file is copied without it.
        """
        try:
            with closing(sqlite3.connect(self._file, timeout=_PATIENCE_S)) as database:
                row = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        busy, logged, moved = row
        return not busy or bool(logged == moved)

    def _write(self, fid: int, values: dict[str, Any]) -> None:
        """Commit values of one row, without changing the layer's edit mode."""
        layer = self._layer
        editing = layer.isEditable()
        # Asking this also makes an open form pass on what was typed into it.
        if editing and layer.isModified():
            raise RefusedError("The form has unsaved edits: save or discard them first.")
        if not editing and not layer.startEditing():
            raise RefusedError("QGIS cannot edit this package now.")
        # There is no class where masks are reviewed.
        known = layer.fields()
        columns = {known.indexOf(name): values[name] for name in values if name in known.names()}
        layer.changeAttributeValues(fid, columns, {}, True)
        if not layer.commitChanges(not editing):
            reason = " ".join(layer.commitErrors())
            layer.rollBack(not editing)
            raise RefusedError(f"Not saved. {reason}")


def _opinion(value: dict[str, Any]) -> str:
    """Return what the model says of a decided sample, from the fields that are joined to it."""
    # Packages of earlier versions have them before a decision, too.
    if value["decision"] is None or value.get("confidence") is None:
        return ""
    confidence, score = f"confidence {100 * value['confidence']:.0f} %", value.get("d_score")
    said = [confidence]
    if value.get("pred_class"):
        said = [f"{value['pred_class']}, {confidence}", f"then {value['second_class']}"]
    if score is not None:
        said.append(f"critic's score {score:.2f}")
    return "; ".join(said)


def _now() -> int:
    return time.time_ns() // 1_000_000
