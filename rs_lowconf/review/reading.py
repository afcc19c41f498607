"""Reads a reviewed package: everything is checked, and nothing is written into it.

QGIS may have the package open, or may have been killed while it had: then decisions are in a
write-ahead log beside the GeoPackage, which `copied` copies too.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from rs_lowconf.boundary import reading
from rs_lowconf.databases import copied
from rs_lowconf.errors import ReviewError, listed
from rs_lowconf.review.fields import (
    DECISIONS,
    FORMAT_OF_OBSERVED,
    LAYER,
    MASK_DECISIONS,
    OPINIONS,
    OPINIONS_FILE,
    Decision,
    Label,
)
from rs_lowconf.runs import sha256_of

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "sample_id",
    "decision",
    "true_class",
    "realism",
    "comment",
    "reviewer",
    "reviewed_ms",
)

_SHOWN = {
    "cond_class": "condition",
    "mask_name": "condition",
    "pred_class": "predicted",
    "second_class": "second",
    "confidence": "confidence",
}
"""Columns that tell of the model, of which a blind package has none, as `samples.parquet` names
them."""

_FILES = {"tile": "tile", "preview": "preview", "mask": "mask", "predicted": "predicted_mask"}
"""Files of a sample in the manifest, as `to_pandas` names them."""

_LATEST_MS = 253_402_300_800_000
"""The year 10000: later times are invalid."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A reviewer's answer for a sample."""

    sample_id: str

    decision: Decision | None
    """None if pending, or withdrawn if there was a decision before."""

    true_class: str | None
    """The class of an accepted sample, else None; always None if masks are reviewed."""

    realism: int | None
    """1 to 5; None without a score."""

    comment: str

    reviewer: str
    """Empty if the row has no name."""

    reviewed_ms: int
    """Milliseconds since 1970, UTC; 0 if the row has no time."""


@dataclass(frozen=True, kw_only=True)
class ReviewedPackage:
    """A package as its reviewer left it, fully validated."""

    folder: Path
    package_id: str
    label: Label
    classes: tuple[str, ...]
    pixel_classes: tuple[str, ...]
    """Classes of masks; empty without masks."""
    answers: tuple[Answer, ...]
    """One per sample, pending ones included, in the order of the layer."""

    manifest: Mapping[str, Any]
    """As written at export."""

    shown: Mapping[str, Mapping[str, Any]]
    """What the package tells of the model, by sample: `condition`, `predicted`, `second` and
    `confidence`, as far as there are such; nothing in a blind one."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions that the form offers."""
        return MASK_DECISIONS if self.pixel_classes else DECISIONS

    @property
    def decided(self) -> int:
        """Return how many samples have a decision."""
        return sum(answer.decision is not None for answer in self.answers)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per sample, in the order of the package.

        The columns are `package_id` and `sample_id`; the answer: `decision` (None if pending),
        `true_class`, `realism`, `comment`, `reviewer` and `reviewed`, its time in UTC; what the
        package tells of the model, unless it is blind: `condition`, `predicted`, `second` and
        `confidence`; and paths of files: `tile` (all bands), `preview` (what the reviewer saw)
        and, with masks, `mask` and `predicted_mask`.

        Written as CSV and changed by other tools, it is read by `rslow review import`.
        """
        import numpy as np
        import pandas as pd

        files = {
            entry["sample_id"]: {
                column: str(self.folder / entry[kind])
                for kind, column in _FILES.items()
                if kind in entry
            }
            for entry in self.manifest["samples"]
        }
        rows = [
            {
                "package_id": self.package_id,
                **asdict(answer),
                **self.shown[answer.sample_id],
                **files[answer.sample_id],
            }
            for answer in self.answers
        ]
        # Missing text stays None in every version of pandas.
        table = pd.DataFrame(rows, dtype=object)
        times = np.array([one.reviewed_ms or "NaT" for one in self.answers], "datetime64[ms]")
        table["reviewed_ms"] = pd.Series(times).dt.tz_localize("UTC")
        table = table.rename(columns={"reviewed_ms": "reviewed"})
        numbers = {"realism": "Int64", "confidence": "float64"}
        return table.astype({name: kind for name, kind in numbers.items() if name in table})


def read_package(folder: Path) -> ReviewedPackage:
    """Read and check a package.

    Raises:
        ReviewError: it is not a package, has a newer format, or is damaged: a file is missing or
            edited, a sample is missing or foreign, or the form does not allow an answer.
    """
    manifest = read_manifest(folder)
    expected = {entry["sample_id"]: entry for entry in manifest["samples"]}
    _check_tiles(folder, expected)
    masks = "pixel_classes" in manifest
    rows = _rows(folder / "review.gpkg", masks=masks)
    ids = [str(row["sample_id"]) for row in rows]
    faults = [f"sample {name} is missing" for name in expected if name not in ids]
    faults += [f"sample {name} is foreign" for name in dict.fromkeys(ids) if name not in expected]
    faults += [
        f"sample {name} occurs {ids.count(name)} times"
        for name in dict.fromkeys(ids)
        if ids.count(name) > 1
    ]
    _refuse(folder, faults, "the samples that were exported")
    classes = tuple(manifest["classes"])
    faults = [fault for row in rows for fault in faults_of(row, classes, masks=masks)]
    _refuse(folder, faults, "what the form allows", "correct it in QGIS and save")
    opinions = _opinions(folder / OPINIONS_FILE)
    return ReviewedPackage(
        folder=folder,
        package_id=manifest["package_id"],
        label=manifest["label"],
        classes=classes,
        pixel_classes=tuple(manifest.get("pixel_classes", ())),
        answers=tuple(answer_of(row) for row in rows),
        manifest=manifest,
        shown={
            row["sample_id"]: _shown_of(row) | opinions.get(row["sample_id"], {}) for row in rows
        },
    )


class _Sample(BaseModel, strict=True):
    """Required fields of a sample."""

    sample_id: str


class _Manifest(BaseModel, strict=True):
    """Required fields of a manifest."""

    package_id: str
    label: Label
    classes: list[str]
    samples: list[_Sample]
    pixel_classes: list[str] = []


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the export wrote of a package.

    Raises:
        ReviewError: it is not a package, has a newer format, or its manifest is damaged.
    """
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ReviewError(
            f"{folder} is not a review package (manifest.json: {error.strerror})",
            remedy="give the folder that contains review.qgz",
        ) from error
    with reading(
        path,
        problem="is damaged",
        remedy="copy the package again from where it was exported",
        error=ReviewError,
    ):
        manifest: dict[str, Any] = json.loads(text)
        form = manifest["format"]
        if not isinstance(form, int) or form > FORMAT_OF_OBSERVED:
            raise ReviewError(
                f"{folder} has package format {form}",
                expected=f"at most {FORMAT_OF_OBSERVED}",
                remedy="upgrade rs_lowconf",
            )
        # Missing fields are reported now, not in the middle of the work.
        _Manifest.model_validate(manifest)
    return manifest


def _check_tiles(folder: Path, entries: Mapping[str, Mapping[str, str]]) -> None:
    """Compare tiles and masks with their checksums, to reject edited ones."""
    faults = []
    for entry in entries.values():
        for kind in entry:
            if f"{kind}_sha256" in entry:
                path = folder / str(entry[kind])
                if not path.is_file():
                    faults.append(f"{entry[kind]} is missing")
                    continue
                with reading(path, error=ReviewError):
                    if sha256_of(path) != entry[f"{kind}_sha256"]:
                        faults.append(f"{entry[kind]} was edited")
    _refuse(folder, faults, "the tiles that were exported", "restore them from the exported folder")


def _refuse(folder: Path, faults: list[str], expected: str, remedy: str = "") -> None:
    if faults:
        raise ReviewError(f"package {folder}: {listed(faults)}", expected=expected, remedy=remedy)


def _rows(path: Path, *, masks: bool) -> list[dict[str, Any]]:
    # Reviews of masks have no class.
    columns = ", ".join(
        # No quotes: SQLite takes a quoted name of a missing column for text.
        "NULL AS true_class" if masks and name == "true_class" else name
        for name in _COLUMNS
    )
    remedy = "close it in other programs, such as QGIS, and try again"
    with _opened(path, f"layer {LAYER}", remedy) as database:
        fault = database.execute("PRAGMA quick_check").fetchone()[0]
        if fault != "ok":
            raise sqlite3.DatabaseError(fault.splitlines()[0])
        there = {row["name"] for row in database.execute(f'PRAGMA table_info("{LAYER}")')}
        shown = "".join(f", {name}" for name in _SHOWN if name in there)
        query = f'SELECT {columns}{shown} FROM "{LAYER}" ORDER BY fid'  # noqa: S608 (ours)
        return [dict(row) for row in database.execute(query)]


def _opinions(path: Path) -> dict[str, dict[str, Any]]:
    """Return what the model says, by sample; packages of earlier versions have it in the layer."""
    if not path.exists():
        return {}
    remedy = "copy it from the package as exported; without it, decisions are read alone"
    with _opened(path, f"table {OPINIONS}", remedy) as database:
        rows = database.execute(f'SELECT * FROM "{OPINIONS}"')  # noqa: S608 (ours)
        return {row["sample_id"]: _shown_of(dict(row)) for row in rows}


@contextmanager
def _opened(path: Path, what: str, remedy: str) -> Iterator[sqlite3.Connection]:
    """Open a copy of a GeoPackage of the package; its rows have names.

    Raises:
        ReviewError: it cannot be read, or SQLite raises within.
    """
    expected = f"a GeoPackage with the {what} as exported"
    with (
        reading(path, expected=expected, remedy=remedy, error=ReviewError),
        copied(path) as database,
    ):
        database.row_factory = sqlite3.Row
        yield database


def _shown_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row tells of the model, by the names of `samples.parquet`."""
    return {told: row[name] for name, told in _SHOWN.items() if name in row}


def faults_of(row: Mapping[str, Any], classes: tuple[str, ...], *, masks: bool) -> list[str]:
    """Return the problems of a row as text."""
    name, decision, true_class = row["sample_id"], row["decision"], row["true_class"]
    faults = []
    if decision not in (None, *(MASK_DECISIONS if masks else DECISIONS)):
        faults.append(f"sample {name} has the unknown decision {decision!r}")
    if true_class is not None and true_class not in classes:
        faults.append(f"sample {name} has the unknown class {true_class!r}")
    if decision == "accept" and true_class is None and not masks:
        faults.append(f"sample {name} is accepted without a class")
    if decision in ("reject", "unsure", "mixed") and true_class is not None:
        faults.append(f"sample {name} is {decision} and has the class {true_class!r}")
    if row["realism"] not in (None, 1, 2, 3, 4, 5):
        faults.append(f"sample {name} has the realism {row['realism']!r}")
    time = row["reviewed_ms"]
    if time is not None and not (isinstance(time, int) and 0 <= time < _LATEST_MS):
        faults.append(f"sample {name} has the time {time!r}")
    faults += [
        f"sample {name} has the {column} {row[column]!r}"
        for column in ("comment", "reviewer")
        if not isinstance(row[column], str | None)
    ]
    return faults


def answer_of(row: Mapping[str, Any]) -> Answer:
    """Return the answer of a row in which `faults_of` finds none."""
    return Answer(
        sample_id=row["sample_id"],
        decision=row["decision"],
        # A class without a decision is not an answer yet.
        true_class=row["true_class"] if row["decision"] == "accept" else None,
        realism=None if row["realism"] is None else int(row["realism"]),
        comment=row["comment"] or "",
        reviewer=(row["reviewer"] or "").strip(),
        reviewed_ms=row["reviewed_ms"] or 0,
    )
