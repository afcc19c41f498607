"""The report of an estimate in words, tables and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.intervals import FEW_ERRORS
from rs_lowconf.estimate.page import Answer, Block, Page, Part, Picture, Table, Text
from rs_lowconf.estimate.result import (
    CalibrationCell,
    PredictionPowered,
    Report,
    Share,
    TileScatter,
    UnclearUnits,
)
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import BLUE, GENERATED, OTHER, panels

_MANY_CLASSES = 30
"""More make a matrix that nobody reads."""


@dataclass(frozen=True, kw_only=True)
class DrawnFrom:
    """What a report says of the draw beside its design."""

    seed: int
    defensive: float
    """Share of the labels that were drawn uniformly."""
    validated: bool
    """Whether the error probabilities were validated with labels."""
    sha256: Mapping[str, str]
    """Checksum of each file of the draw, by its name."""


def describe(report: Report, draw: DrawnFrom, facts: Mapping[str, str]) -> Page:
    """Return the report as a page: one answer, then the details.

    Args:
        report: the figures.
        draw: what else is known of the draw.
        facts: what was tested, when and with what, by name.
    """
    parts = [
        Part(title="What this says", blocks=_meaning(report)),
        Part(title="Where errors may hide", blocks=[_hidden(report)]),
        Part(title="Accuracies and areas", blocks=_matrix(report)),
        Part(title="Was the error probability right?", blocks=_calibration(report)),
        Part(title="For statisticians: other intervals", blocks=_intervals(report), folded=True),
        Part(
            title="For statisticians: how it was drawn",
            blocks=_drawing(report, draw),
            folded=True,
        ),
    ]
    return Page(
        title="Error rate of the target",
        answer=Answer(
            text=f"{report.headline}.", value=report.error_rate, interval=report.interval
        ),
        facts=facts,
        parts=parts,
    )


def drawn_by(report: Report, draw: DrawnFrom) -> str:
    """Return the settings that decided what was labelled, in a line."""
    design = DESIGNS[report.design]
    defensive = "" if design.simple_random else f", {_share(draw.defensive)} of them uniformly"
    return (
        f"design {report.design}, {report.labels:,} labels{defensive}, seed {draw.seed}, "
        f"confidence level {_share(report.level)}"
    )


def _meaning(report: Report) -> list[Block]:
    texts = (
        report.best_guess,
        report.coverage,
        "Every unit of the pool had a known chance to be drawn, and labels are weighted by its "
        "inverse, so the estimate is right on average even if the error probabilities are wrong. "
        "It holds for the pool that was drawn from, and for no other data.",
        _unclear(report.unclear),
        report.never_predicted_sentence,
        _tiles(report.tiles),
    )
    return [Text(text=text) for text in texts if text]


def _intervals(report: Report) -> list[Block]:
    rows: list[tuple[str, ...]] = [("interval", "low", "high", "width", "what for")]
    for interval in report.intervals:
        ends = (percent(value) for value in (interval.low, interval.high, interval.width))
        remarks = "; ".join(filter(None, (interval.purpose, interval.caution)))
        rows.append((interval.method, *ends, remarks))
    blocks: list[Block] = [
        Text(
            text=f"The answer above is the interval {report.interval.method}. Which one it is "
            "follows from the design, before anyone labels: to choose among intervals after a look "
            "at the labels would make all of them cover less often than they say."
        ),
        Text(
            text=f"{report.labels:,} labels of {report.distinct_units:,} units, "
            f"{report.errors_found:,} errors found. Standard error "
            f"{percent(report.standard_error)}. They are worth "
            f"{report.effective_labels:,.0f} labels of equal weight, and the errors "
            f"{report.effective_errors:.1f} errors of equal weight; the largest weight is "
            f"{report.largest_weight.over_uniform:.2f} times that of a uniform draw."
        ),
        Table(rows=rows),
        Picture(
            name="intervals",
            caption="Estimate (red) and intervals.",
            figure=_interval_plot(report),
        ),
    ]
    texts = (_prediction_powered(report.ppi), report.naive_sentence)
    return [*blocks, *(Text(text=text) for text in texts if text)]


def _unclear(unclear: UnclearUnits) -> str:
    if unclear.if_wrong is None or unclear.if_right is None:
        return ""
    return (
        f"Of {unclear.units} units the class could not be told. They count as "
        f"{unclear.counted_as} above; the rate is {percent(unclear.if_wrong.error_rate)} if all of "
        f"them are wrong and {percent(unclear.if_right.error_rate)} if all are right."
    )


def _prediction_powered(ppi: PredictionPowered | None) -> str:
    if ppi is None:
        return ""
    ends = f"{percent(ppi.interval.low)} .. {percent(ppi.interval.high)}"
    flag = "" if ppi.interval.reliable else f" Below {FEW_ERRORS} errors it is biased downwards."
    return (
        "With the error probabilities of the unlabelled units (PPI++): "
        f"{percent(ppi.error_rate)} ({ends}).{flag}"
    )


def _tiles(tiles: TileScatter | None) -> str:
    if tiles is None or tiles.standard_error_for_other_tiles is None:
        return ""
    return (
        f"The labels lie in {tiles.labelled:,} of {tiles.in_pool:,} tiles. The intervals are for "
        "this pool, where it does not matter that pixels of a tile are alike; for other tiles of "
        f"the same kind the standard error is {percent(tiles.standard_error_for_other_tiles)}."
    )


def _drawing(report: Report, draw: DrawnFrom) -> list[Block]:
    waves = "" if report.waves is None else f" in {report.waves} waves"
    validated = (
        "The error probabilities were validated with labels."
        if draw.validated
        else "The error probabilities were not validated with labels: that costs efficiency, never "
        "validity."
    )
    return [
        Text(
            text=f"Design {report.design}{waves}: {DESIGNS[report.design].words}. Defensive share "
            f"{_share(draw.defensive)}, seed {draw.seed}. {validated}"
        ),
        Table(rows=[("file", "SHA-256"), *draw.sha256.items()]),
    ]


def _hidden(report: Report) -> Text:
    zone = report.blind_spot
    return Text(
        text=f"In the {percent(zone.share_of_pool, 0)} of the pool where errors are least expected "
        f"(error probability up to {percent(zone.largest_g)}), {zone.labels:,} labels hold "
        f"{zone.errors} errors: with {percent(report.level, 0)} certainty at most "
        f"{percent(zone.at_most)} of the pool's units are errors there. Only more labels in that "
        "zone can lower this bound: to about 3 / labels times its share where none is an error."
    )


def _calibration(report: Report) -> list[Block]:
    cells = report.by_error_probability
    rows = [(report.unit, "labels", "expected", "found", "interval")]
    rows += [
        (
            f"{cell.units:,}",
            f"{cell.labels:,}",
            percent(cell.expected),
            percent(cell.found),
            _between(cell.low, cell.high),
        )
        for cell in cells
    ]
    return [
        Text(
            text="Each row holds a tenth of the expected errors, those where they are least "
            "expected first; found rates are weighted by the chances of the draw. Where few labels "
            f"stand, the {_share(report.level)} intervals are wide."
        ),
        Table(rows=rows),
        Picture(
            name="calibration",
            caption="Expected and found error rate with intervals; larger dots have more labels.",
            figure=_calibration_plot(cells),
        ),
    ]


def _matrix(report: Report) -> list[Block]:
    accuracy = report.accuracy
    heads = ("class", "predicted", "truly", "user's accuracy", "producer's accuracy")
    rows: list[tuple[str, ...]] = [heads]
    for mapped, known in zip(accuracy.predicted_share.tolist(), accuracy.by_class, strict=True):
        shares = map(_with_interval, (known.area, known.user, known.producer))
        rows.append((known.name, percent(mapped), *shares))
    blocks: list[Block] = [
        Text(
            text=f"Shares of the pool by class, and accuracies, with {_share(report.level)} "
            "intervals (by Korn and Graubard). User's accuracy: of what is predicted as a class, "
            "the share that is of it. Producer's accuracy: of what is of a class, the share that "
            "is predicted as it."
        ),
        Table(rows=rows),
    ]
    if len(accuracy.classes) <= _MANY_CLASSES:
        blocks.append(
            Picture(
                name="matrix",
                caption="Share of the pool by predicted and true class, in per cent, as estimated.",
                figure=_matrix_plot(accuracy.classes, accuracy.share_of_pool),
            )
        )
    return blocks


def _with_interval(share: Share) -> str:
    if share.value is None:
        return "not determined"
    return f"{percent(share.value)} ({_between(share.low, share.high)})"


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no label"
    return f"{percent(low)} .. {percent(high)}"


def _share(share: float) -> str:
    return f"{100 * share:g} %"


def _interval_plot(report: Report) -> Figure:
    intervals = report.intervals
    figure, (axes,) = panels(7.0, 0.6 + 0.42 * len(intervals))
    for place, interval in enumerate(intervals):
        colour = BLUE if interval.reliable else OTHER
        axes.plot([100 * interval.low, 100 * interval.high], [place] * 2, color=colour, lw=3)
    axes.axvline(100 * report.error_rate, color=GENERATED, lw=1.5)
    axes.set_yticks(range(len(intervals)), [interval.method for interval in intervals])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("error rate, %")
    return figure


def _calibration_plot(cells: Sequence[CalibrationCell]) -> Figure:
    figure, (axes,) = panels(5.0, 4.2)
    known = [
        (cell, (cell.found, cell.low, cell.high))
        for cell in cells
        if cell.found is not None and cell.low is not None and cell.high is not None
    ]
    expected = np.array([cell.expected for cell, _ in known])
    found, low, high = np.array([rates for _, rates in known]).reshape(-1, 3).T
    most = max(1e-6, 1.05 * max([*expected.tolist(), *found.tolist()], default=1.0))
    beside = [100 * (found - low).clip(0), 100 * (high - found).clip(0)]
    axes.errorbar(100 * expected, 100 * found, yerr=beside, fmt="none", ecolor=BLUE, lw=1)
    axes.plot([0, 100 * most], [0, 100 * most], color=OTHER, lw=1)
    most_labels = max([cell.labels for cell, _ in known], default=1)
    size = [20 + 180 * cell.labels / most_labels for cell, _ in known]
    axes.scatter(100 * expected, 100 * found, s=size, color=BLUE, alpha=0.7)
    axes.set_xlabel("expected error rate, %")
    axes.set_ylabel("found error rate, %")
    return figure


def _matrix_plot(classes: Sequence[str], matrix: Float64[np.ndarray, "k k"]) -> Figure:
    side = 2.4 + 0.55 * len(classes)
    figure, (axes,) = panels(side, side - 0.6, box=True)
    axes.imshow(np.sqrt(matrix), cmap="Blues", vmin=0)
    darkest = np.sqrt(matrix).max()
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if value:
                colour = "white" if np.sqrt(value) > 0.6 * darkest else "black"
                text = f"{100 * value:.2g}"
                axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("true class")
    axes.set_ylabel("predicted class")
    return figure
