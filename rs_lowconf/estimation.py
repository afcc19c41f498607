"""How wrong is a model? A pool of units, a draw of those to label, and a report, as objects.

`import rs_lowconf as rl` offers it as `rl.Pool`. It needs no torch, prints nothing, and gives the
numbers of `rslow estimate plan | draw | report` for the same pool, settings and seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import ArrayLike

from rs_lowconf.class_map import ClassMap
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.describe_plan import LabelPlan, plan_labels
from rs_lowconf.estimate.draws import DEFENSIVE
from rs_lowconf.estimate.intervals import LEVEL
from rs_lowconf.estimate.prepare import Prepared, prepare
from rs_lowconf.estimate.report import Unclear, report
from rs_lowconf.estimate.result import Report
from rs_lowconf.estimate.scores import Measure, Scores, by_common_names, read_scores, scores_of
from rs_lowconf.estimate.waves import (
    DrawnPool,
    Labels,
    Request,
    Waves,
    check_clear,
    check_complete,
    check_known,
)
from rs_lowconf.settings import DesignName, EstimateSettings, checked
from rs_lowconf.vocabulary import class_name, text_of


class Pool:
    """Units, tiles or pixels, whose error rate is wanted, with what a model says of each.

    Example:
        >>> import rs_lowconf as rl
        >>> rng = np.random.default_rng(0)
        >>> confidence = rng.beta(8, 1, 2_000)
        >>> predicted = rng.choice(["crop", "forest"], 2_000)
        >>> pool = rl.Pool(confidence, predicted)
        >>> draw = pool.draw(labels=100, seed=0)
        >>> labels = dict.fromkeys(draw.ids, "forest")  # what people see there
        >>> result = draw.estimate(labels)
        >>> result.interval.low < result.error_rate < result.interval.high
        True
    """

    def __init__(
        self,
        confidence: ArrayLike,
        predicted: Iterable[str] | None = None,
        ids: Iterable[object] | None = None,
        *,
        classes: Iterable[str] | None = None,
        group: Iterable[object] | None = None,
        labels: Iterable[str | None] | None = None,
        measure: Measure = "confidence",
        class_map: Mapping[str, str] | None = None,
        validation: "Pool | None" = None,
    ) -> None:
        """Check what a model says; `Pool.read` reads it from a table instead.

        Args:
            confidence: the probability of the predicted class of each unit (n), or of all classes
                (n k), in 0..1.
            predicted: the class that the model predicts of each unit; the most probable one when
                missing, for which `classes` are needed.
            ids: a name for each unit, each once; numbers from 0 on when missing.
            classes: of the columns of `confidence`.
            group: the tile of each pixel; leave it out where units are tiles.
            labels: the true class of each unit, None where it is unknown. A pool that is to be
                labelled needs none; one for `validation` needs all.
            measure: how to read from all probabilities how sure the model is.
            class_map: common names of classes, where the model names others than the labels, such
                as `{"River": "water", "SeaLake": "water"}`; see `target.class_map`.
            validation: labelled units that were drawn uniformly from units like these: they tell
                what the confidence is worth, and need scikit-learn.

        Raises:
            DataError: lengths differ, an id occurs twice, a value is no probability, or a class is
                written in two ways.
            SettingsError: neither `predicted` nor `classes` are given, or the map lacks a label.
        """
        values = np.asarray(confidence, dtype=np.float64)
        if values.ndim not in (1, 2):
            raise DataError(
                f"confidence of shape {values.shape}", expected="one value per unit, or per class"
            )
        columns: dict[str, Iterable[object] | None] = {
            "id": range(len(values)) if ids is None else ids,
            "predicted": _most_probable(values, classes) if predicted is None else predicted,
            "confidence": values if values.ndim == 1 else values.max(1),
            "probabilities": None if values.ndim == 1 else values,
            "label": labels,
            "group": group,
        }
        given = {name: list(column) for name, column in columns.items() if column is not None}
        if len({len(column) for column in given.values()}) > 1:
            lengths = (f"{name} {len(column)}" for name, column in given.items())
            raise DataError(
                f"columns of unequal length: {', '.join(lengths)}", expected="one value per unit"
            )
        measure = checked(EstimateSettings, {"measure": measure}).measure
        names = ClassMap.of(class_map or {})
        self._scores = scores_of(pd.DataFrame(given), "the pool", measure, names)
        self._validation: Scores | None = None
        if validation is not None:
            own = replace(validation._scores, source="the validation units")
            self._validation = by_common_names(own, names)
        self._surrogates: tuple[Path, ...] = ()
        self._generated: Scores | None = None

    @classmethod
    def read(
        cls,
        path: Path | str,
        *,
        measure: Measure = "confidence",
        class_map: Mapping[str, str] | None = None,
        validation: Path | str | None = None,
        surrogates: Sequence[Path | str] = (),
        generated: Path | str | None = None,
    ) -> "Pool":
        """Return the pool of a table, Parquet or CSV, such as `rslow batch score` writes.

        Args:
            path: with the columns `id`, `predicted`, `confidence` and, where known, `label` and
                `group`; in Parquet also `probabilities`, a list for each unit.
            measure: see `Pool`.
            class_map: see `Pool`.
            validation: a table of labelled units, see `Pool`.
            surrogates: tables of what other models say of the same units.
            generated: a table of generated tiles with labels; needs `validation`.

        Raises:
            DataError: a table is missing, damaged, or lacks a column.

        Example:
            >>> import rs_lowconf as rl
            >>> table = pd.DataFrame({"id": ["a"], "predicted": ["crop"], "confidence": [0.9]})
            >>> table.to_csv("scores.csv", index=False)
            >>> len(rl.Pool.read("scores.csv"))
            1
        """
        measure = checked(EstimateSettings, {"measure": measure}).measure
        pool = cls.__new__(cls)
        names = ClassMap.of(class_map or {})

        def table(path: Path | str) -> Scores:
            return read_scores(Path(path), measure, class_map=names)

        pool._scores = table(path)
        pool._validation = None if validation is None else table(validation)
        pool._surrogates = tuple(map(Path, surrogates))
        pool._generated = None if generated is None else table(generated)
        return pool

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self._scores)

    def plan(
        self,
        labels: int = 300,
        *,
        width: float | None = None,
        defensive: float = DEFENSIVE,
        level: float = LEVEL,
        seed: int = 0,
    ) -> LabelPlan:
        """Return what each design would do with some labels, before anyone labels.

        Needs scikit-learn, of the extra `estimate`.

        Args:
            labels: how many are planned.
            width: wanted width of the interval, 0..1, for which the labels needed are told.
            defensive: share of the labels drawn uniformly, compared with the usual ones.
            level: how often the interval shall cover the error rate, 0.5..1.
            seed: of the resamples of `validation`.

        Raises:
            SettingsError: a value does not fit, or there are fewer units than labels.

        Example:
            >>> import rs_lowconf as rl
            >>> pool = rl.Pool(np.linspace(0.5, 1, 1_000), ["crop"] * 1_000)
            >>> plan = pool.plan(labels=100, width=0.1)
            >>> print(plan.recommendation)
            Recommendation: draw 306 labels with design uniform, for an interval 10 % wide.
        """
        _check_number(labels)
        values = {"budget": labels, "width": width, "defensive": defensive, "level": level}
        section = checked(EstimateSettings, values)
        return plan_labels(
            self._prepared(section.defensive, seed),
            section.budget,
            width=section.width,
            defensive=section.defensive,
            level=section.level,
            seed=seed,
        )

    def draw(
        self,
        labels: int = 300,
        *,
        design: DesignName = "stratified",
        defensive: float = DEFENSIVE,
        seed: int = 0,
    ) -> "LabelDraw":
        """Return which units to label: a probability sample, a function of the seed.

        Args:
            labels: how many; a design that draws with replacement may name fewer units.
            design: `uniform`; `by_class`, strata of predicted classes; `stratified`, strata of
                error probability; `importance`, with replacement; `lure`, one after another;
                `active`, of fixed size; `adaptive`, in waves that learn from the labels before
                them, which needs scikit-learn.
            defensive: share of the labels drawn uniformly, against errors where none are expected;
                0.5 to certify.
            seed: of the draw.

        Raises:
            SettingsError: a value does not fit, or there are too few or too many labels.

        Example:
            >>> import rs_lowconf as rl
            >>> pool = rl.Pool(np.linspace(0.5, 1, 1_000), ["crop"] * 1_000)
            >>> table = pool.draw(labels=100).to_pandas()
            >>> likely = table["error_probability"] > 0.4
            >>> bool(table["chance"][likely].min() > table["chance"][~likely].min())
            True
        """
        _check_number(labels)
        values = {"budget": labels, "design": design, "defensive": defensive}
        section = checked(EstimateSettings, values)
        request, prepared = Request.of(section, seed), self._prepared(section.defensive, seed)
        first = request.draw(prepared.pool)
        waves = Waves(pool=DrawnPool.of(prepared), request=request, draws=(first,))
        return LabelDraw(waves=waves)

    def _prepared(self, defensive: float, seed: int) -> Prepared:
        return prepare(
            self._scores,
            validation=self._validation,
            surrogates=self._surrogates,
            generated=self._generated,
            seed=seed,
            defensive=defensive,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelDraw:
    """Units to label, and what they were drawn by; `Pool.draw` makes it.

    Example:
        >>> import rs_lowconf as rl
        >>> pool = rl.Pool(np.linspace(0.5, 1, 1_000), ["crop"] * 1_000)
        >>> draw, labels = pool.draw(labels=100, design="adaptive"), {}
        >>> labels |= dict.fromkeys(draw.ids, "crop")
        >>> while not draw.complete:
        ...     draw = draw.next_wave(labels)
        ...     labels |= dict.fromkeys(draw.ids, "crop")
        >>> draw.estimate(labels).errors_found
        0
    """

    waves: Waves
    """All that was drawn so far; one wave unless the design is `adaptive`."""

    @property
    def ids(self) -> list[str]:
        """Return the units to label now, each once, in random order.

        Of an adaptive draw those that the newest wave is the first to hold.
        """
        return self.waves.new_ids(len(self.waves.draws))

    @property
    def complete(self) -> bool:
        """Return whether all waves are drawn."""
        return self.waves.complete

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per label, in the order of drawing.

        `chance` is the probability that the unit is in the draw; of `importance` and `adaptive`
        that of each single drawing, of `lure` that to come next among the units that were left.
        `error_probability` is what the draw went by. Do not show it, nor `predicted`, to people
        who label: they would be led by it.
        """
        draws, pool = self.waves.draws, self.waves.pool
        index = np.concatenate([wave.index for wave in draws])
        return pd.DataFrame(
            {
                "id": pool.ids[index],
                "wave": np.repeat(np.arange(len(draws)) + 1, [len(wave) for wave in draws]),
                "chance": np.concatenate([wave.chance for wave in draws]),
                "error_probability": pool.pool.g[index],
                "predicted": pool.predicted[index],
            }
        )

    def next_wave(
        self,
        labels: Mapping[Any, object] | pd.Series,
        *,
        unclear: Unclear = "refuse",
        classes: Sequence[str] = (),
    ) -> "LabelDraw":
        """Return the draw with its next wave, which learns from the labels so far.

        Args:
            labels: of all units drawn so far, see `estimate`.
            unclear: see `estimate`.
            classes: see `estimate`.

        Raises:
            DataError: all waves are drawn; see `estimate`.
        """
        if self.complete:
            raise DataError(
                f"all {len(self.waves.draws)} waves are drawn", remedy="estimate from their labels"
            )
        section = checked(EstimateSettings, {"unclear": unclear, "classes": tuple(classes)})
        known = self._known(labels, section)
        return replace(self, waves=self.waves.next(known, section.unclear))

    def estimate(
        self,
        labels: Mapping[Any, object] | pd.Series,
        *,
        level: float = LEVEL,
        unclear: Unclear = "refuse",
        classes: Sequence[str] = (),
    ) -> Report:
        """Return how wrong the model is on the pool, and how sure that is.

        Args:
            labels: the true class of every drawn unit by its id; None or `?` where nobody can
                tell.
            level: how often intervals shall cover the error rate, 0.5..1.
            unclear: what units count as whose class nobody can tell.
            classes: true classes that neither the model nor labels of the pool name.

        Raises:
            DataError: a label is missing, of a unit that was not drawn, of an unknown class, or
                unclear where that is refused; not all waves are drawn.
            SettingsError: a value does not fit.
        """
        values = {"level": level, "unclear": unclear, "classes": tuple(classes)}
        section = checked(EstimateSettings, values)
        known = self._known(labels, section)
        if not self.complete:
            raise DataError(
                f"{len(self.waves.draws)} of {len(self.waves.request.sizes)} waves are drawn",
                expected="all of them: stopping when the result looks good biases the estimate",
                remedy="draw the next by next_wave",
            )
        return report(self.waves.labelled(known, section.unclear), section.level)

    def _known(self, labels: Mapping[Any, object] | pd.Series, section: EstimateSettings) -> Labels:
        """Return labels with ids and classes as the pool writes them, checked."""
        class_map = self.waves.pool.class_map
        known = {
            text_of(key) or "": class_name(label, class_map.names)
            for key, label in labels.items()
            # An empty cell is a missing label, as it is in a table.
            if not (isinstance(label, str) and not label.strip())
        }
        waves = range(1, len(self.waves.draws) + 1)
        ids = [name for wave in waves for name in self.waves.new_ids(wave)]
        classes = (*self.waves.pool.classes, *section.classes, *class_map.names)
        check_known(known, ids, class_map.commons(classes), "the labels")
        check_complete([name for name in ids if name not in known], len(ids), "the labels")
        check_clear(known, section.unclear)
        return known


def _most_probable(
    probability: Float64[np.ndarray, "..."], classes: Iterable[str] | None
) -> list[str]:
    """Return the class with the largest probability of each unit."""
    if probability.ndim == 1:
        raise SettingsError("confidence without predictions", expected="predicted")
    names = () if classes is None else tuple(classes)
    if len(names) != probability.shape[1]:
        raise SettingsError(
            f"probabilities of {probability.shape[1]} classes without predictions",
            expected="predicted, or classes with a name for each column",
        )
    return [names[column] for column in probability.argmax(1).tolist()]


def _check_number(labels: int) -> None:
    """Raise a SettingsError for a number of labels that nobody can draw."""
    if labels < 1:
        raise SettingsError(f"{labels} labels are to be drawn", expected="at least one")
