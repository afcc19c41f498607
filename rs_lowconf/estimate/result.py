"""What a report of an estimate holds: typed values, the same as JSON, and as sentences."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from rs_lowconf.estimate.estimators import BiasedEstimate
from rs_lowconf.estimate.intervals import LEVEL, SIMULATED, Interval
from rs_lowconf.percents import percent
from rs_lowconf.settings import DesignName


@dataclass(frozen=True, kw_only=True)
class LargestWeight:
    """How much a single label decides."""

    of_a_label: float
    """The largest weight among the labels; the weights of errors sum to the error rate."""
    possible: float
    """The largest that a label of any unit of the pool could have had."""
    over_uniform: float
    """The largest among the labels over the weight of a label of a uniform draw."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The error rate, 0..1, that unclear units would give."""

    error_rate: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class PredictionPowered:
    """The error rate by PPI++, which also uses the error probabilities of unlabelled units."""

    error_rate: float
    standard_error: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class UnclearUnits:
    """Units whose class could not be told."""

    units: int
    counted_as: str | None
    """`wrong` or `right`; None where there are no such units."""
    if_wrong: Rate | None
    """The error rate if all of them were wrong; None where there are none."""
    if_right: Rate | None
    """The error rate if all of them were right; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class BlindSpot:
    """The part of the pool where errors are least expected, and what may hide there."""

    share_of_pool: float
    largest_g: float
    """The largest error probability in it."""
    labels: int
    errors: int
    at_most: float
    """Upper limit, at the report's level, of the errors in it as a share of the whole pool."""


@dataclass(frozen=True, kw_only=True)
class TileScatter:
    """What changes for other tiles than those of the pool, where units are pixels."""

    in_pool: int
    """Number of tiles in the pool."""
    labelled: int
    """Number of tiles with a label."""
    standard_error_for_other_tiles: float | None
    """Of the error rate, if the tiles were drawn from many more; None with one labelled tile."""


@dataclass(frozen=True, kw_only=True)
class CalibrationCell:
    """Units of similar error probability, with a tenth of all expected errors."""

    units: int
    labels: int
    expected: float
    """Mean error probability of the units."""
    found: float | None
    """Error rate by the labels, weighted by their chances; None without a label."""
    low: float | None
    """Lower end of its interval at the report's level; None without a label."""
    high: float | None
    """Upper end of the same."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share, 0..1, with its precision; None where the labels do not determine it."""

    value: float | None
    standard_error: float | None
    """0 where all labels or none are of the kind, which does not mean that the share is sure."""
    low: float | None
    """Lower end of its interval at the report's level, by Korn and Graubard."""
    high: float | None
    """Upper end of the same."""


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Accuracies and area of one class."""

    name: str
    user: Share
    """User's accuracy: of what is predicted as this class, the share that is of it."""
    producer: Share
    """Producer's accuracy: of what is of this class, the share that is predicted as it."""
    area: Share
    """Share of the pool that is of this class."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy:
    """Error matrix, accuracies and areas. Units of unclear class are left out."""

    classes: tuple[str, ...]
    labels: Int[np.ndarray, "k k"]
    """Labels by predicted (row) and true class."""
    share_of_pool: Float64[np.ndarray, "k k"]
    """Estimated share of the pool by predicted (row) and true class."""
    predicted_share: Float64[np.ndarray, " k"]
    """Share of the pool that is predicted as each class."""
    by_class: tuple[ClassAccuracy, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """The error rate of a pool by the labels of a draw, and how far to trust it.

    `print` it for the sentences of `rslow estimate report`.

    Example:
        >>> import rs_lowconf as rl
        >>> draw = rl.Pool([0.9] * 500, ["crop"] * 500).draw(labels=100, design="uniform")
        >>> labels = {id: "forest" if int(id) % 10 == 0 else "crop" for id in draw.ids}
        >>> result = draw.estimate(labels, classes=["forest"])
        >>> print(result.headline)
        Between 71 and 213 of 1,000 tiles are wrong (95 %)
        >>> result.interval.method
        'clopper-pearson'
    """

    units: int
    """Number of units in the pool."""
    design: DesignName
    labels: int
    distinct_units: int
    """Fewer than `labels` where a unit was drawn more than once."""
    waves: int | None
    """None for designs that draw all labels at once."""
    level: float
    """How often the intervals are to cover the pool's error rate, 0..1."""
    errors_found: int
    distinct_errors_found: int
    error_rate: float
    """Estimated share of the pool's units on which the target errs."""
    standard_error: float
    intervals: tuple[Interval, ...]
    """By several methods; the first is the one to answer with."""
    effective_labels: float
    """Labels of equal weight that would say as much."""
    effective_errors: float
    """Errors of equal weight that would say as much as those found."""
    largest_weight: LargestWeight
    unclear: UnclearUnits
    never_predicted: Mapping[str, int]
    """Number of labels of each class that the target predicts for no unit of the pool."""
    naive: BiasedEstimate
    """What the labels would say without their chances, for comparison only."""
    naive_labels: int
    """Number of labels that the first of its figures is of."""
    ppi: PredictionPowered | None
    """For uniform draws, where ppi-python is installed."""
    blind_spot: BlindSpot
    tiles: TileScatter | None
    """None where units are not pixels."""
    by_error_probability: tuple[CalibrationCell, ...]
    """From where errors are least expected; cells without a unit are left out."""
    accuracy: Accuracy

    @property
    def interval(self) -> Interval:
        """Return the interval to answer with; see `intervals.answering` for the rule."""
        return self.intervals[0]

    @property
    def unit(self) -> str:
        """Return what the pool consists of."""
        return "tiles" if self.tiles is None else "pixels"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values: dict[str, Any] = _json(self)
        for interval, known in zip(values["intervals"], self.intervals, strict=True):
            interval["purpose"] = known.purpose
        values["unclear"] = {
            name: part
            for name, part in values["unclear"].items()
            if part is not None or name == "counted_as"
        }
        labels = values.pop("naive_labels")
        values["naive"] = {"said": str(self.naive), "bias": self.naive.bias, "labels": labels}
        values["accuracy"]["by_class"] = [
            {"class": shares.pop("name"), **shares} for shares in values["accuracy"]["by_class"]
        ]
        return values

    @property
    def headline(self) -> str:
        """Return the answer: one interval, in words."""
        low, high, many = self.interval.of_many(self.units)
        return (
            f"Between {low:,} and {high:,} of {many:,} {self.unit} are wrong "
            f"({100 * self.level:g} %)"
        )

    @property
    def best_guess(self) -> str:
        """Return the estimate in the pool, and its interval in per cent."""
        interval = self.interval
        return (
            f"Best estimate for the {self.units:,} {self.unit} of the pool: "
            f"{percent(self.error_rate)}, interval {percent(interval.low)} to "
            f"{percent(interval.high)} (by {interval.name}; the design decides which, never the "
            "labels)."
        )

    @property
    def coverage(self) -> str:
        """Return how often such intervals covered in simulations; empty at other levels."""
        if self.level != LEVEL:
            return ""
        known = SIMULATED[self.design]
        return (
            f"In simulations with design {self.design}, {known.fewest:,} to {known.most:,} labels "
            "and error rates of 0.1 % to 10 %, such intervals held the true rate in "
            f"{100 * known.least:.1f} % of the draws or more, also where errors hide."
        )

    @property
    def naive_sentence(self) -> str:
        """Return what the labels would say without their chances, with what is wrong with it."""
        return f"Not an estimate, for comparison: {self.naive}."

    @property
    def never_predicted_sentence(self) -> str:
        """Return the classes that are never predicted, or nothing where there are none."""
        if not self.never_predicted:
            return ""
        names = [f"{name} ({count:,} labels)" for name, count in self.never_predicted.items()]
        return (
            f"The target never predicts {', '.join(names)}: each of these labels is an error. If "
            "a class only has another name there, rename it and report again."
        )

    def sentences(self) -> list[str]:
        """Return the report in short, as `rslow estimate report` prints it."""
        zone = self.blind_spot
        lines = [
            self.headline,
            self.best_guess,
            f"{self.errors_found} errors among {self.labels:,} labels, which are worth "
            f"{self.effective_labels:,.0f} labels of equal weight. In the "
            f"{percent(zone.share_of_pool, 0)} of the pool where errors are least expected, "
            f"{zone.errors} of {zone.labels:,} labels are errors: at most "
            f"{percent(zone.at_most)} of the pool are errors there.",
            self.never_predicted_sentence,
            "For statisticians, other intervals:",
            *(
                f"  {interval.method:16} {percent(interval.low)} .. {percent(interval.high)}  "
                f"{interval.purpose}{f'  ({interval.caution})' if interval.caution else ''}"
                for interval in self.intervals[1:]
            ),
            self.naive_sentence,
        ]
        return [line for line in lines if line]

    def __str__(self) -> str:
        """Return the sentences, one per line."""
        return "\n".join(self.sentences())


def _json(value: Any) -> Any:
    """Return JSON values; an interval, without its level, stands beside what it is of."""
    if isinstance(value, Interval):
        return {name: getattr(value, name) for name in ("method", "low", "high", "reliable")}
    if is_dataclass(value):
        parts = {name: _json(part) for name, part in vars(value).items()}
        return parts | parts.pop("interval", {})
    if isinstance(value, tuple):
        return [_json(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return dict(value) if isinstance(value, Mapping) else value
