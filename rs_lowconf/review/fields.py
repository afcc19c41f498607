"""The columns of the layer `review` and their values; the form is in `templates/review.qgs`.

Decisions: `accept` means that the tile could be an observation and `true_class` is its class;
`reject` that it could not; `mixed` that none of the classes describes it; `unsure` that the
reviewer cannot decide; NULL is pending. So `true_class` belongs to `accept` only, and the rules
of the form enforce that in every edit in QGIS:

* In a `confirm` package accepting with no class chosen confirms the suggested one: it is
  copied into `true_class`, where the reviewer sees it and may still change it. It is not filled in
  beforehand, because a class that nobody has checked must not look like a label.
* In a `blind` package there is no suggestion, so accepting requires a class.
* Any other decision empties `true_class`.

For an observed tile, which is shown as a real one, only the class is asked for, not realism:
`reject` means that it cannot be used, and if its data set has no class there is nothing to confirm,
so that accepting requires one.

With masks there is no class to choose: `accept` means that the tile could be an observation and
that its mask is right; `mask wrong` that it could be one, but its mask is wrong. Of an observed
tile the mask is its data set's, or if it has none the model's.

The suggestion is the class that the tile was generated for. What the model under test says is in a
table of its own, `opinions`, so that it does not bias reviewers: the project joins it to decided
samples, as fields that are NULL before, also where QGIS lists all fields of a sample. With masks
`opinion` is a picture with those that the model predicts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Label = Literal["confirm", "blind"]
SqlType = Literal["TEXT", "INTEGER", "REAL"]
Decision = Literal["accept", "reject", "unsure", "mixed", "mask wrong"]

FORMAT: Final = 1
"""Format of packages."""
FORMAT_OF_MASKS: Final = 2
"""Format of packages with masks, which older readers and plugins would misread."""
FORMAT_OF_OBSERVED: Final = 3
"""Format of packages of observed tiles, which older versions would label SYNTHETIC."""

LAYER: Final = "review"
OPINIONS: Final = "opinions"
OPINIONS_FILE: Final = "opinions.gpkg"
DECISIONS: Final[tuple[Decision, ...]] = ("accept", "reject", "unsure", "mixed")
MASK_DECISIONS: Final[tuple[Decision, ...]] = ("accept", "mask wrong", "reject", "unsure")
"""Decisions on tiles with masks; realistic ones first."""

_COLUMNS: Final[Mapping[str, SqlType]] = {
    "sample_id": "TEXT",
    "preview": "TEXT",
    "cond_class": "TEXT",
    "mask_name": "TEXT",
    "decision": "TEXT",
    "true_class": "TEXT",
    "realism": "INTEGER",
    "comment": "TEXT",
    "reviewer": "TEXT",
    # Milliseconds since 1970: a time of QGIS is local and has no zone.
    "reviewed_ms": "INTEGER",
}
_OPINIONS: Final[Mapping[str, SqlType]] = {
    "sample_id": "TEXT",
    "pred_class": "TEXT",
    "second_class": "TEXT",
    "confidence": "REAL",
    "d_score": "REAL",
    "opinion": "TEXT",
}
_OF_CLASSES = {"cond_class", "true_class", "pred_class", "second_class"}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column."""

    name: str
    sql: SqlType
    choices: tuple[str, ...] = ()
    """Its values if not every text is one; NULL is always possible and means pending."""

    limits: tuple[int, int] | None = None
    """The smallest and the largest value, both allowed, if there are any."""


def fields_of(label: Label, classes: Sequence[str], *, masks: bool = False) -> tuple[Field, ...]:
    """Return the columns of the layer `review`; a blind one has no suggestion.

    Args:
        label: of the package.
        classes: for `true_class`.
        masks: whether the tiles have masks: then no column is about classes.
    """
    absent = _OF_CLASSES if masks else {"mask_name"}
    if label == "blind":
        absent = absent | {"cond_class", "mask_name"}
    choices = {"decision": MASK_DECISIONS if masks else DECISIONS, "true_class": tuple(classes)}
    return tuple(
        Field(
            name=name,
            sql=sql,
            choices=choices.get(name, ()),
            limits=(1, 5) if name == "realism" else None,
        )
        for name, sql in _COLUMNS.items()
        if name not in absent
    )


def opinions_of(label: Label, *, masks: bool, observed: bool) -> tuple[Field, ...]:
    """Return the columns of the table `opinions`; a blind package has none.

    Args:
        label: of the package.
        masks: whether the tiles have masks: then no column is about classes.
        observed: whether the tiles are shown as real ones, which no critic judged.
    """
    absent = (_OF_CLASSES if masks else {"opinion"}) | ({"d_score"} if observed else set())
    return tuple(
        Field(name=name, sql=sql)
        for name, sql in _OPINIONS.items()
        if label != "blind" and name not in absent
    )
