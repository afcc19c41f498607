"""The page of an error estimate: the answer first, then what it is of, then everything else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rs_lowconf.estimate.page import Answer, Page, Picture, Table, Text
from rs_lowconf.pages.pictures import plot
from rs_lowconf.pages.rendering import template
from rs_lowconf.percents import percent
from rs_lowconf.runs import save_figures, write_json, write_text

_WIDTH = 640
"""Of the drawing of an interval, in pixels."""
_MARGIN = 30
"""Left and right of it, for numbers that are centred there."""
_TICKS = 5
"""Numbers below it, at most."""


def write_report(folder: Path, page: Page, values: Mapping[str, Any]) -> None:
    """Write a page as report.md with plots/ and as report.html, and values as report.json.

    Raises:
        OutputError: they cannot be written.
    """
    save_figures(folder / "plots", page.figures())
    write_text(folder / "report.md", page.markdown("plots"))
    write_text(folder / "report.html", as_html(page))
    write_json(folder / "report.json", values)


def as_html(page: Page) -> str:
    """Return a page as one HTML file, plots included, that needs nothing beside it."""
    return template("report.html").render(
        told=page,
        number=0,
        answer=None if page.answer is None else _drawn(page.answer),
        kind=_kind,
        plot=plot,
    )


def _kind(block: Text | Table | Picture) -> str:
    return type(block).__name__.lower()


def _drawn(answer: Answer) -> dict[str, Any]:
    """Return where the interval and its scale lie in a drawing, in pixels."""
    low, high = answer.interval.low, answer.interval.high
    step = _step(max(high, answer.value) / _TICKS)
    last = int(max(high, answer.value) / step) + 1
    most = min(1.0, last * step)

    def place(share: float) -> float:
        return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * share / most, 1)

    return {
        "text": answer.text,
        "width": _WIDTH,
        "margin": _MARGIN,
        "low": place(low),
        "high": place(high),
        "value": place(min(max(answer.value, 0.0), 1.0)),
        "label": f"Interval from {percent(low)} to {percent(high)}",
        "ticks": [
            (place(i * step), percent(i * step))
            for i in range(last + 1)
            if i * step <= most + 1e-12
        ],
    }


def _step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is no less."""
    step = 1e-9
    while True:
        for digit in (1, 2, 5):
            if digit * step >= least:
                return digit * step
        step *= 10
