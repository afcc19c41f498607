"""A plan of labels: in sentences, as a table and as a page."""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.intervals import LEVEL
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.page import Block, Page, Part, Table, Text
from rs_lowconf.estimate.plan import ANY_POOL, FEWEST, SHARES, Plan, Prospect, Range, plan
from rs_lowconf.estimate.prepare import Prepared

_ASIDE: tuple[MethodName, ...] = ("ppi", "adaptive")
"""Never recommended: no draw, and one in five rounds of labelling."""
_SIMPLE: tuple[MethodName, ...] = ("uniform", "stratified")
_SAME = 1.05
SAVING = "Labels of a uniform draw over those of a design, for the same variance"


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """What each design is expected to do with a number of labels, before anyone labels.

    `print` it for the sentences of `rslow estimate plan`.

    Example:
        >>> import rs_lowconf as rl
        >>> pool = rl.Pool([0.5 + i / 2_000 for i in range(1_000)], ["crop"] * 1_000)
        >>> print(pool.plan(labels=100))
        Expected error rate: 25 %
        Ceiling: no sampling by this score saves more than 1.2 times
        Planned: 100 labels
        All figures assuming calibration: no labels tell whether g is right. Give more by
        estimate.validation.
    """

    forecast: Plan
    """All figures: error rate, ceiling, and a prospect per design and defensive share."""
    labels: int
    """How many are planned."""
    width: float | None
    """Wanted width of the interval, 0..1; None where none is."""

    @property
    def recommended(self) -> Prospect:
        """Return the prospect to take, of one round of labelling.

        That is the one that needs fewest labels for the wanted width, or whose interval is
        narrowest. A uniform draw, whose interval is exact, wins where it costs less than a
        twentieth more, and then the default design.
        """

        def cost(prospect: Prospect) -> float:
            if self.width is None:
                return prospect.width
            return float("inf") if prospect.labels is None else float(prospect.labels)

        fitting = [each for each in self.forecast.prospects if each.method not in _ASIDE]
        fitting.sort(key=cost)
        near = [each for each in fitting if cost(each) <= _SAME * cost(fitting[0])]
        simple = [each for name in _SIMPLE for each in near if each.method == name]
        return (simple or near)[0]

    @property
    def recommended_labels(self) -> int:
        """Return how many labels to draw: those planned, or what the wanted width needs."""
        prospect = self.recommended
        needed: tuple[int | None, ...] = (prospect.labels, *(prospect.labels_range or ()))
        known = [count for count in needed if count is not None]
        if self.width is None or len(known) < len(needed):
            return self.labels
        return max([FEWEST, *known])

    @property
    def recommendation(self) -> str:
        """Return in one sentence what to draw, and what it will tell."""
        prospect, labels = self.recommended, self.recommended_labels
        shared = ""
        if not METHODS[prospect.method].simple_random:
            shared = f", {100 * prospect.defensive:g} % of them uniformly"
        said = f"Recommendation: draw {labels:,} labels with design {prospect.method}{shared}"
        uniform = next(each for each in self.forecast.prospects if each.method == "uniform")
        if self.width is None:
            said += f"; expect an interval {100 * prospect.width:.3g} % wide"
            if prospect is not uniform:
                said += f", where a uniform draw has one of {100 * uniform.width:.3g} %"
        elif labels == self.labels and prospect.labels != labels:
            said += (
                f"; expect an interval {100 * prospect.width:.3g} % wide: one of "
                f"{100 * self.width:.3g} % needs more labels than the pool has"
            )
        else:
            said += f", for an interval {100 * self.width:.3g} % wide"
        return f"{said}."

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        prospect = self.recommended
        recommended = {
            "design": prospect.method,
            "labels": self.recommended_labels,
            "defensive": prospect.defensive,
        }
        return {**asdict(self.forecast), "recommended": recommended}

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per design and defensive share.

        `saving` is labels of a uniform draw over those of the design, `width` the expected width
        of the interval with the planned labels, `labels` those needed for the wanted width. The
        ends of their ranges follow, which only validation labels tell; what is unknown is
        missing.
        """
        rows = []
        for prospect in self.forecast.prospects:
            row = {"design": prospect.method, **asdict(prospect)}
            del row["method"]
            for name in ("saving", "labels"):
                row[f"{name}_low"], row[f"{name}_high"] = row.pop(f"{name}_range") or (None, None)
            rows.append(row)
        whole = dict.fromkeys(("labels", "labels_low", "labels_high"), "Int64")
        ends = dict.fromkeys(("saving_low", "saving_high"), "float64")
        return pd.DataFrame(rows).astype(whole | ends)

    def sentences(self) -> list[str]:
        """Return rate, ceiling, what is planned and what is assumed."""
        forecast, wanted = self.forecast, ""
        if self.width is not None:
            wanted = f", wanted: an interval {100 * self.width:.3g} % wide"
        lines = [
            f"Expected error rate: {100 * forecast.rate:.3g} %{_percent(forecast.rate_range)}",
            f"Ceiling: no sampling by this score saves more than {forecast.ceiling:.1f} times"
            f"{_times(forecast.ceiling_range)}",
            f"Planned: {self.labels:,} labels{wanted}",
        ]
        if forecast.assumption:
            lines.append(f"All figures {forecast.assumption}. Give more by estimate.validation.")
        return lines

    def __str__(self) -> str:
        """Return the sentences, one per line."""
        return "\n".join(self.sentences())

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table as text; with a column of the labels where a width is wanted."""
        heads = ("design", "defensive", "saving", "width")
        wanted = self.width is not None
        rows: list[tuple[str, ...]] = [(*heads, "labels") if wanted else heads]
        for prospect in self.forecast.prospects:
            saving = f"{prospect.saving:.2f}{_times(prospect.saving_range)}"
            width = f"{100 * prospect.width:.3g} %"
            row = (prospect.method, f"{100 * prospect.defensive:g} %", saving, width)
            rows.append((*row, _needed(prospect)) if wanted else row)
        return rows

    def page(self, remark: str) -> Page:
        """Return sentences, a remark (it may be empty) and the table as a page."""
        texts: list[Block] = [Text(text=line) for line in (*self.sentences(), remark) if line]
        ends: list[Block] = [Text(text=f"{SAVING}:"), Table(rows=self.rows())]
        blocks = [*texts, *ends, Text(text=self.recommendation, key=True)]
        return Page(title="Plan of an error estimate", parts=[Part(title="Outlook", blocks=blocks)])


def plan_labels(
    prepared: Prepared,
    labels: int,
    *,
    width: float | None,
    defensive: float,
    seed: int,
    level: float = LEVEL,
) -> LabelPlan:
    """Return the plan of all designs for a pool.

    Args:
        prepared: the pool.
        labels: how many are planned.
        width: wanted width of the interval, 0..1; None where none is.
        defensive: share of the labels drawn uniformly, which is compared with the usual ones.
        seed: of the resamples.
        level: how often the interval shall cover the error rate.

    Raises:
        SettingsError: see `plan`.
    """
    forecast = plan(
        prepared.pool,
        labels,
        seed=seed,
        validation=prepared.validation,
        width=width,
        methods=sorted(METHODS, key=ANY_POOL.__contains__),
        shares=tuple(sorted({*SHARES, defensive})),
        level=level,
    )
    return LabelPlan(forecast=forecast, labels=labels, width=width)


def _needed(prospect: Prospect) -> str:
    needed = _labels(prospect.labels)
    if prospect.labels_range is None:
        return needed
    low, high = prospect.labels_range
    return f"{needed} ({_labels(low)} .. {_labels(high)})"


def _labels(count: int | None) -> str:
    return "more than the pool" if count is None else f"{count:,}"


def _percent(ends: Range | None) -> str:
    return "" if ends is None else f" ({100 * ends[0]:.3g} .. {100 * ends[1]:.3g} %)"


def _times(ends: Range | None) -> str:
    return "" if ends is None else f" ({ends[0]:.2f} .. {ends[1]:.2f})"
