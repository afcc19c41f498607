"""The columns of the layer `review`: one list that defines the table, the form and the enums.

Decisions: `accept` means that the tile could be an observation and `true_class` is its class;
`reject` that it could not; `mixed` that none of the classes describes it; `unsure` that the
reviewer cannot decide; NULL is pending. So `true_class` belongs to `accept` only, and the rules
below enforce that in the form and in every other edit in QGIS:

* In a `confirm` package accepting with no class chosen confirms the suggested one: it is
  copied into `true_class`, where the reviewer sees it and may still change it. It is not filled in
  beforehand, because a class that nobody has checked must not look like a label.
* In a `blind` package there is no suggestion, so accepting requires a class.
* Any other decision empties `true_class`.

For an observed tile, which is shown as a real one, only the class is asked for, not realism:
`reject` means that it cannot be used, and if its data set has no class there is nothing to confirm,
so that accepting requires one.

With masks there is no class to choose: `accept` means that the tile could be an observation and
that its mask is right; `mask wrong` that it could be one, but its mask is wrong.

The suggestion is the class that the tile was generated for. The prediction of the model under test
is on a separate tab, to be opened after deciding, so that it does not bias reviewers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Label = Literal["confirm", "blind"]
Decision = Literal["accept", "reject", "unsure", "mixed", "mask wrong"]

FORMAT: Final = 1
"""Format of packages."""
FORMAT_OF_MASKS: Final = 2
"""Format of packages with masks, which older readers and plugins would misread."""
FORMAT_OF_OBSERVED: Final = 3
"""Format of packages of observed tiles, which older versions would label SYNTHETIC."""

LAYER: Final = "review"
GEOMETRY: Final = "geom"
DECISIONS: Final[tuple[Decision, ...]] = ("accept", "reject", "unsure", "mixed")
MASK_DECISIONS: Final[tuple[Decision, ...]] = ("accept", "mask wrong", "reject", "unsure")
"""Decisions on tiles with masks; realistic ones first."""

JUDGE: Final = "Judge"
AFTER: Final = "Look after deciding"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One column and its position in the form."""

    name: str
    sql: Literal["TEXT", "INTEGER", "REAL"]
    alias: str
    """Its label in the form."""

    tab: str | None = None
    """The tab that shows it; None keeps it out of the form and of the table view."""

    widget: Literal["text", "choice", "range", "picture"] = "text"
    choices: tuple[str, ...] = ()
    """For `choice`: the values; NULL is always possible and means pending."""

    limits: tuple[int, int] = (0, 0)
    """For `range`: the smallest and the largest value, both allowed."""

    editable: bool = False
    on_update: str = ""
    """QGIS expression evaluated at every edit of the row; empty when there is none."""

    constraint: str = ""
    """QGIS expression without which the form does not save; empty when there is none."""

    complaint: str = ""
    """Message of the form when `constraint` does not hold."""


def fields_of(
    label: Label, classes: Sequence[str], *, masks: bool = False, observed: bool = False
) -> tuple[Field, ...]:
    """Return the columns of a package; a blind one has no column on the model.

    Args:
        label: of the package.
        classes: for `true_class`.
        masks: whether the tiles have masks: then no column is about classes.
        observed: whether the tiles are shown as real ones.
    """
    confirm = label == "confirm"
    accepted = 'coalesce("true_class", "cond_class")' if confirm else '"true_class"'
    demanded = f'"decision" IS NULL OR "decision" <> \'accept\' OR {accepted} IS NOT NULL'
    suggestion = Field(name="cond_class", sql="TEXT", alias="Suggested class", tab=JUDGE)
    if masks:
        suggestion = Field(name="mask_name", sql="TEXT", alias="Mask of", tab=JUDGE)
    predictions = (
        Field(name="pred_class", sql="TEXT", alias="Model's prediction", tab=AFTER),
        Field(name="second_class", sql="TEXT", alias="Model's second choice", tab=AFTER),
    )
    score = Field(name="d_score", sql="REAL", alias="Critic's realism score", tab=AFTER)
    model = (
        *(() if masks else predictions),
        Field(name="confidence", sql="REAL", alias="Model's confidence", tab=AFTER),
        *(() if observed else (score,)),
    )
    true_class = Field(
        name="true_class",
        sql="TEXT",
        alias="True class",
        tab=JUDGE,
        widget="choice",
        choices=tuple(classes),
        editable=True,
        on_update=f"CASE WHEN \"decision\" = 'accept' THEN {accepted} "
        'WHEN "decision" IS NULL THEN "true_class" END',
        constraint="" if confirm and not observed else demanded,
        complaint="An accepted sample needs its true class",
    )
    return (
        Field(name="sample_id", sql="TEXT", alias="Sample", tab=JUDGE),
        Field(name="preview", sql="TEXT", alias="Preview", tab=JUDGE, widget="picture"),
        *((suggestion,) if confirm else ()),
        Field(
            name="decision",
            sql="TEXT",
            alias="Decision (reject: cannot be used)" if observed else "Decision",
            tab=JUDGE,
            widget="choice",
            choices=MASK_DECISIONS if masks else DECISIONS,
            editable=True,
        ),
        *(() if masks else (true_class,)),
        Field(
            name="realism",
            sql="INTEGER",
            alias="Realism, 1 to 5",
            tab=None if observed else JUDGE,
            widget="range",
            limits=(1, 5),
            editable=True,
        ),
        Field(
            name="comment",
            sql="TEXT",
            alias="Comment",
            tab=JUDGE,
            editable=True,
        ),
        Field(
            name="reviewer",
            sql="TEXT",
            alias="Reviewer",
            tab=JUDGE,
            editable=True,
            on_update='CASE WHEN length("reviewer") > 0 THEN "reviewer" '
            "WHEN length(@user_full_name) > 0 THEN @user_full_name "
            "ELSE @user_account_name END",
        ),
        # Milliseconds since 1970: now() alone is local time without a zone.
        Field(name="reviewed_ms", sql="INTEGER", alias="Time", on_update="epoch(now())"),
        *(model if confirm else ()),
    )
