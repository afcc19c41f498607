"""A plan of labels: in sentences, as a table and as a page."""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from rs_lowconf.estimate.intervals import LEVEL
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.page import Block, Page, Part, Table, Text
from rs_lowconf.estimate.plan import ANY_POOL, SHARES, Plan, Prospect, Range, plan
from rs_lowconf.estimate.prepare import Prepared

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

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return asdict(self.forecast)

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
            row = (prospect.method, f"{prospect.defensive:g}", saving, width)
            rows.append((*row, _needed(prospect)) if wanted else row)
        return rows

    def page(self, remark: str) -> Page:
        """Return sentences, a remark (it may be empty) and the table as a page."""
        texts: list[Block] = [Text(text=line) for line in (*self.sentences(), remark) if line]
        blocks = [*texts, Text(text=f"{SAVING}:"), Table(rows=self.rows())]
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
