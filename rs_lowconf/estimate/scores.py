"""Tables of what a target says of each unit of a pool: Parquet or CSV, from us or from others.

A row a unit, tile or pixel. Columns:

```
id             text, unique; needed
predicted      text, the class that the target says; needed
confidence     its probability, 0..1; needed
probabilities  list, of all classes; Parquet only, for the scores margin and entropy
label          text, the true class where it is known: for validation and replays
group          text, which tile a pixel is of
features       list of numbers, in which distance means dissimilarity: for experiments
```

Names of classes are read as `vocabulary.class_name` does: surrounding blanks do not count, `1.0`
is `1`, and `?` is unknown. Other columns are kept for whoever labels. What `rslow batch score`
writes is such a table, and so is samples.parquet of `rslow generate`, whose sample_id and condition
are read as id and label.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray

from rs_lowconf.boundary import reading
from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.csvs import text_table
from rs_lowconf.errors import DataError
from rs_lowconf.estimate.predictors import entropy_share, one_minus_margin
from rs_lowconf.vocabulary import Joined, Vocabulary, class_name, join, text_of, vocabulary

Measure = Literal["confidence", "margin", "entropy"]
"""What tells how sure a target is of a unit."""

NEEDED = ("id", "predicted", "confidence")
_GENERATED = {"sample_id": "id", "condition": "label"}
_KNOWN = (*NEEDED, "probabilities", "label", "group", "second", "log_odds", "features", "geometry")
"""Columns that are not shown to whoever labels: some would lead them, others are no text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What a target says of units, checked."""

    source: str
    """Where they come from, such as the path of their table."""
    ids: NDArray[np.object_]
    predicted: NDArray[np.object_]
    doubt: Float64[np.ndarray, " n"]
    """How unsure the target is, 0..1: with the measure `confidence` 1 - it."""
    label: NDArray[np.object_] | None
    """True class, None where unknown; None as a whole where nothing is labelled."""
    group: NDArray[np.object_] | None
    """Which tile each pixel is of; None where units stand alone."""
    shown: pd.DataFrame
    """Columns that are not ours, for whoever labels."""
    features: Float[np.ndarray, "n f"] | None = None
    """In which distance means dissimilarity; None where the table has none."""
    class_map: ClassMap = PLAIN
    """By whose common names `predicted` and `label` go."""

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.ids)

    @property
    def labelled(self) -> Bool[np.ndarray, " n"]:
        """Return which units have a label."""
        if self.label is None:
            return np.zeros(len(self), dtype=bool)
        known: Bool[np.ndarray, " n"] = pd.notna(self.label)
        return known

    @property
    def error(self) -> Bool[np.ndarray, " n"]:
        """Return whether the target errs on each unit; False where there is no label."""
        if self.label is None:
            return np.zeros(len(self), dtype=bool)
        wrong: Bool[np.ndarray, " n"] = self.labelled & (self.label != self.predicted)
        return wrong

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return label and prediction of the labelled units, in their order."""
        if self.label is None:
            return []
        known = self.labelled
        return list(zip(self.label[known].tolist(), self.predicted[known].tolist(), strict=True))

    @property
    def says(self) -> Vocabulary:
        """Return the classes that the target says."""
        return vocabulary(f"the predictions of {self.source}", dict.fromkeys(self.predicted))

    @property
    def knows(self) -> Vocabulary:
        """Return the classes that labels name."""
        labels = () if self.label is None else dict.fromkeys(self.label)
        return vocabulary(f"the labels of {self.source}", labels)

    @property
    def groups(self) -> Int[np.ndarray, " n"] | None:
        """Return the number of each unit's group."""
        return None if self.group is None else pd.factorize(self.group)[0].astype(np.int64)

    def take(self, rows: Bool[np.ndarray, " n"]) -> "Scores":
        """Return those units alone."""
        return Scores(
            source=self.source,
            ids=self.ids[rows],
            predicted=self.predicted[rows],
            doubt=self.doubt[rows],
            label=None if self.label is None else self.label[rows],
            group=None if self.group is None else self.group[rows],
            shown=self.shown[rows],
            features=None if self.features is None else self.features[rows],
            class_map=self.class_map,
        )


def read_scores(
    path: Path,
    measure: Measure = "confidence",
    *,
    features: bool = False,
    class_map: ClassMap = PLAIN,
) -> Scores:
    """Read a table of scores.

    Args:
        path: Parquet or CSV.
        measure: what tells how sure the target is.
        features: whether to read features, which may be large.
        class_map: which classes of predictions and labels mean the same.

    Raises:
        SettingsError: the map lacks a label.
        DataError: it is missing or no table, a column is missing, an id is missing or occurs
            twice, a confidence is outside 0..1, the measure needs probabilities that are not
            there, or two classes are written nearly the same.
    """
    unread = {"geometry"} | (set() if features else {"features"})
    frame = _read(path, unread | ({"probabilities"} if measure == "confidence" else set()))
    if "sample_id" in frame and "id" not in frame:
        frame = frame.rename(columns=_GENERATED)
    return scores_of(frame, str(path), measure, class_map)


def scores_of(
    frame: pd.DataFrame,
    source: str,
    measure: Measure = "confidence",
    class_map: ClassMap = PLAIN,
) -> Scores:
    """Return the scores that a table holds, checked.

    Args:
        frame: with the columns that this file describes.
        source: where it comes from, for errors.
        measure: what tells how sure the target is.
        class_map: which classes of predictions and labels mean the same.

    Raises:
        DataError, SettingsError: see `read_scores`.
    """
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(missing)}",
            expected=f"{', '.join(NEEDED)}, and label where the truth is known",
        )
    if not len(frame):
        raise DataError(f"{source} has no rows", expected="a row a unit")
    text = {
        name: _texts(frame[name], class_name) for name in ("predicted", "label") if name in frame
    }
    text |= {name: _texts(frame[name], text_of) for name in ("id", "group") if name in frame}
    for name in NEEDED:
        empty = np.nonzero(pd.isna(text.get(name, frame[name])))[0]
        if len(empty):
            raise DataError(
                f"{source}: {len(empty)} rows without {name}, the first is {empty[0]}",
                expected="a value in each" + (", and ? is none" if name == "predicted" else ""),
            )
    ids = pd.Series(text["id"])
    twice = ids[ids.duplicated()]
    if len(twice):
        raise DataError(
            f"{source}: {len(twice)} ids occur more than once, such as {twice.iloc[0]}",
            expected="one row per unit",
        )
    confidence = pd.to_numeric(frame["confidence"], errors="coerce").to_numpy(dtype=float)
    wrong = np.nonzero(~((confidence >= 0) & (confidence <= 1)))[0]
    if len(wrong):
        raise DataError(
            f"{source}: {len(wrong)} confidences outside 0..1, the first "
            f"{frame['confidence'].iloc[wrong[0]]} of {ids.iloc[wrong[0]]}",
            remedy="give probabilities, not logits or percentages",
        )
    scores = Scores(
        source=source,
        ids=text["id"],
        predicted=text["predicted"],
        doubt=1 - confidence if measure == "confidence" else _doubt(frame, measure, source),
        label=_known(text.get("label")),
        group=_known(text.get("group")),
        shown=frame[[name for name in frame if name not in _KNOWN]],
        features=_lists(frame, "features", source) if "features" in frame else None,
    )
    return by_common_names(scores, class_map)


def by_common_names(scores: Scores, class_map: ClassMap) -> Scores:
    """Return scores whose predictions and labels go by the common names of a map.

    Raises:
        SettingsError: the map lacks a label.
        DataError: a class is written nearly as another one.
    """
    class_map.meet(scores.knows, scores.says)
    if not class_map.names:
        return scores
    common = partial(class_name, class_map=class_map.names)
    return replace(
        scores,
        predicted=_texts(pd.Series(scores.predicted), common),
        label=None if scores.label is None else _texts(pd.Series(scores.label), common),
        class_map=class_map,
    )


def joined(tables: Sequence[Scores]) -> Joined:
    """Return how the labels of tables meet the predictions of all of them.

    Raises:
        DataError: a class is written nearly as another one, or labels and predictions have none in
            common.
    """
    sources = ", ".join(dict.fromkeys(one.source for one in tables))
    knows, says = (
        vocabulary(f"the {what} of {sources}", [name for own in names for name in own.names])
        for what, names in (
            ("labels", [one.knows for one in tables]),
            ("predictions", [one.says for one in tables]),
        )
    )
    return join(knows, says).meeting()


def surrogate_doubts(scores: Scores, surrogates: Sequence[Path]) -> Float64[np.ndarray, " n"]:
    """Return how probable other models find that the target errs on each unit, on average.

    What another model gives the target's class: its confidence where both agree, and where
    they do not the rest of it, which is exact for two classes and too much for more. It is a
    hint, and labels tell what it is worth.

    Args:
        scores: of the target.
        surrogates: tables of other models' scores of the same units, in any order.

    Raises:
        DataError: see `read_scores`; a unit is missing in one of them, or it names classes
            otherwise than the target does.
    """
    total = np.zeros(len(scores))
    for path in surrogates:
        own = read_scores(path, class_map=scores.class_map)
        place = pd.Index(own.ids).get_indexer(scores.ids)
        lost = np.nonzero(place < 0)[0]
        if len(lost):
            raise DataError(
                f"{path} lacks {len(lost)} units of {scores.source}, such as {scores.ids[lost[0]]}",
                remedy="score the same units by all models",
            )
        join(own.says, scores.says).meeting()
        agrees = own.predicted[place] == scores.predicted
        total += np.where(agrees, own.doubt[place], 1 - own.doubt[place])
    mean: Float64[np.ndarray, " n"] = total / len(surrogates)
    return mean


def _read(path: Path, unread: Set[str]) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(
            f"there is no table of scores {path}", remedy="correct its path in the settings"
        )
    with reading(path, expected="a Parquet or CSV table"):
        if path.suffix.lower() == ".csv":
            return text_table(path, {*_KNOWN, *_GENERATED}).replace("", None)
        names = [name for name in pq.read_schema(path).names if name not in unread]
        # Without `integer_object_nulls` whole numbers beside an empty row would be fractions.
        return pq.read_table(path, columns=names).to_pandas(integer_object_nulls=True)


def _texts(column: pd.Series, form: Callable[[object], str | None]) -> NDArray[np.object_]:
    """Return a column as text in some form, None where it says nothing."""
    # Each value is formed once, because tables of pixels have millions of rows.
    codes, values = pd.factorize(column)
    formed: NDArray[np.object_] = np.array([*map(form, values), None], dtype=object)
    text: NDArray[np.object_] = formed[codes]
    return text


def _known(text: NDArray[np.object_] | None) -> NDArray[np.object_] | None:
    return None if text is None or pd.isna(text).all() else text


def _doubt(frame: pd.DataFrame, measure: Measure, source: str) -> Float64[np.ndarray, " n"]:
    if "probabilities" not in frame or isinstance(frame["probabilities"].iloc[0], str):
        raise DataError(
            f"{source} has no lists of probabilities, which {measure} needs",
            remedy="set estimate.measure=confidence, or give Parquet with probabilities",
        )
    probability = _lists(frame, "probabilities", source).astype(float)
    return (one_minus_margin if measure == "margin" else entropy_share)(probability)


def _lists(frame: pd.DataFrame, name: str, source: str) -> Float[np.ndarray, "n f"]:
    try:
        return np.stack(frame[name].to_list()).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{source}: {name} of unequal number, or no numbers") from error
