"""Answers in a file: what a package's page saved, or a table that other tools and people edit.

A table (.csv) has the columns of `ReviewedPackage.to_pandas`; others are left alone. Its rows are
held to the same rules as those of the form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from rs_lowconf.boundary import reading
from rs_lowconf.errors import ReviewError, listed
from rs_lowconf.review.reading import ReviewedPackage, answer_of, faults_of

FORMAT = 2
"""Of files that a page saves; those of format 1 have no realism."""
_COLUMNS = ("package_id", "sample_id", "decision")
"""What a table must have."""
_OPTIONAL = ("true_class", "realism", "comment", "reviewer", "reviewed")
_EXAMPLE = "2026-05-31T14:05Z"
_START = datetime(1970, 1, 1, tzinfo=UTC)


class SentAnswer(BaseModel):
    """A decision as a page sends or saves it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    sample_id: str
    decision: str | None
    true_class: str | None = None
    comment: str = ""
    reviewer: str = ""
    reviewed_ms: int
    realism: int | None = None


class _File(BaseModel):
    """What a page saves."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: int
    package_id: str
    answers: list[SentAnswer]


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """Answers to samples of one package, not compared with it yet."""

    package_id: str
    rows: Sequence[Mapping[str, Any]]
    """With the columns of the layer."""


def package_of_answers(path: Path) -> str:
    """Return the id of the package that a file of answers belongs to.

    Raises:
        ReviewError: it is no such file.
    """
    return _saved_in(path).package_id


def with_answers(package: ReviewedPackage, path: Path) -> ReviewedPackage:
    """Return a package with the answers of a file instead of its own.

    Raises:
        ReviewError: the file is of another package or damaged, or has an answer that the form does
            not allow.
    """
    saved = _saved_in(path)
    if saved.package_id != package.package_id:
        raise ReviewError(
            f"{path} has answers to package {saved.package_id}", expected=package.package_id
        )
    known = {one.sample_id for one in package.answers}
    rows = {row["sample_id"]: row for row in saved.rows}
    faults = [f"sample {name} is foreign" for name in rows if name not in known]
    for row in saved.rows:
        faults += faults_of(row, package.classes, masks=bool(package.pixel_classes))
    if len(rows) < len(saved.rows):
        faults.append("a sample is answered twice")
    if faults:
        raise ReviewError(
            f"{path}: {listed(faults)}",
            expected="one answer per sample, as the form allows it",
            remedy="correct the table" if _is_table(path) else "save the file again, unedited",
        )
    return replace(
        package,
        answers=tuple(
            answer_of(rows.get(one.sample_id, _pending(one.sample_id))) for one in package.answers
        ),
    )


def _pending(name: str) -> dict[str, Any]:
    return SentAnswer(sample_id=name, decision=None, reviewed_ms=0).model_dump()


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _saved_in(path: Path) -> _Saved:
    if _is_table(path):
        return _table_in(path)
    with reading(
        path,
        problem="is not a file of answers",
        expected="what the page of a review package saved, or a table (.csv)",
        error=ReviewError,
    ):
        saved = _File.model_validate_json(path.read_bytes())
    if not 1 <= saved.format <= FORMAT:
        raise ReviewError(
            f"{path} has format {saved.format}",
            expected=f"at most {FORMAT}",
            remedy="upgrade rs_lowconf",
        )
    rows = [one.model_dump() for one in saved.answers]
    return _Saved(package_id=saved.package_id, rows=rows)


def _table_in(path: Path) -> _Saved:
    """Return the decisions of a table; rows that nobody has filled in are left out."""
    from rs_lowconf.csvs import text_table

    with reading(
        path,
        problem="is not a table of answers",
        expected="a CSV file in UTF-8, separated by commas",
        error=ReviewError,
    ):
        table = text_table(path, (*_COLUMNS, *_OPTIONAL))
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ReviewError(
            f"{path} has no column {', '.join(missing)}",
            expected=f"{', '.join(_COLUMNS)}, separated by commas",
            remedy="keep the columns of ReviewedPackage.to_pandas",
        )
    packages = sorted(set(table["package_id"]))
    if len(packages) != 1:
        raise ReviewError(
            f"{path} has answers to {len(packages)} packages", expected="one table per package"
        )
    table = table.reindex(columns=[*_COLUMNS, *_OPTIONAL], fill_value="")
    rows = [row for row in table.to_dict("records") if row["decision"] or row["true_class"]]
    undecided = [str(row["sample_id"]) for row in rows if not row["decision"]]
    if undecided:
        raise ReviewError(
            f"{path}: a class and no decision on {listed(undecided)}",
            expected="accept in the column decision, or no class",
        )
    untimed = [str(row["sample_id"]) for row in rows if _milliseconds(row["reviewed"]) is None]
    if untimed:
        raise ReviewError(
            f"{path}: no time of the decision on {listed(untimed)}",
            expected=f"UTC in the column reviewed, such as {_EXAMPLE}",
        )
    return _Saved(package_id=packages[0], rows=[_row(row) for row in rows])


def _row(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table as one of the layer."""
    return {
        "sample_id": texts["sample_id"],
        "decision": texts["decision"],
        "true_class": texts["true_class"] or None,
        "realism": _number(texts["realism"]),
        "comment": texts["comment"],
        "reviewer": texts["reviewer"],
        "reviewed_ms": _milliseconds(texts["reviewed"]),
    }


def _number(text: str) -> float | str | None:
    """Return a number, which pandas may have written as `4.0`; other text is refused later."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _milliseconds(text: str) -> int | None:
    """Return the time since 1970 of a time in ISO 8601; None if it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - _START) // timedelta(milliseconds=1)
