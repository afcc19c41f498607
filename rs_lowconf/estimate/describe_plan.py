"""A plan in words and as a table."""

from collections.abc import Sequence

from rs_lowconf.estimate.page import Block, Page, Part, Table, Text
from rs_lowconf.estimate.plan import Plan, Prospect, Range

SAVING = "Labels of a uniform draw over those of a design, for the same variance"


def outlook(told: Plan, labels: int, width: float | None) -> list[str]:
    """Return the lines above the table: rate, ceiling, what is planned and assumed.

    Args:
        told: the plan.
        labels: planned.
        width: wanted of the interval; None where none is.
    """
    wanted = "" if width is None else f", wanted: an interval {100 * width:.3g} % wide"
    lines = [
        f"Expected error rate: {100 * told.rate:.3g} %{_percent(told.rate_range)}",
        f"Ceiling: no sampling by this score saves more than {told.ceiling:.1f} times"
        f"{_times(told.ceiling_range)}",
        f"Planned: {labels:,} labels{wanted}",
    ]
    if told.assumption:
        lines.append(f"All figures {told.assumption}. Give more by estimate.validation.")
    return lines


def rows_of(told: Plan, *, wanted: bool) -> list[tuple[str, ...]]:
    """Return the table, with a column of the labels needed where a width is wanted."""
    heads = ("design", "defensive", "saving", "width")
    rows: list[tuple[str, ...]] = [(*heads, "labels") if wanted else heads]
    for one in told.prospects:
        row = (
            one.method,
            f"{one.defensive:g}",
            f"{one.saving:.2f}{_times(one.saving_range)}",
            f"{100 * one.width:.3g} %",
        )
        rows.append((*row, _needed(one)) if wanted else row)
    return rows


def plan_page(lines: Sequence[str], rows: Sequence[Sequence[str]]) -> Page:
    """Return the same as a page."""
    texts: list[Block] = [Text(text=line) for line in lines]
    blocks = [*texts, Text(text=f"{SAVING}:"), Table(rows=rows)]
    return Page(title="Plan of an error estimate", parts=[Part(title="Outlook", blocks=blocks)])


def _needed(one: Prospect) -> str:
    if one.labels_range is None:
        return _labels(one.labels)
    low, high = one.labels_range
    return f"{_labels(one.labels)} ({_labels(low)} .. {_labels(high)})"


def _labels(count: int | None) -> str:
    return "more than the pool" if count is None else f"{count:,}"


def _percent(ends: Range | None) -> str:
    return "" if ends is None else f" ({100 * ends[0]:.3g} .. {100 * ends[1]:.3g} %)"


def _times(ends: Range | None) -> str:
    return "" if ends is None else f" ({ends[0]:.2f} .. {ends[1]:.2f})"
