"""The report of an estimate in words, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rs_lowconf.estimate.intervals import FEW_ERRORS
from rs_lowconf.estimate.page import Block, Page, Part, Picture, Table, Text

_BLUE, _RED, _GREY = "#1f5a94", "#b23a48", "#8a8d91"
_MANY_CLASSES = 30
"""More make a matrix that nobody reads."""

DESIGNS: Mapping[str, str] = {
    "uniform": "simple random sampling without replacement",
    "olofsson": "strata of predicted classes (Olofsson 2014)",
    "strat": "strata of error probability, Neyman allocation with a defensive share",
    "is": "importance sampling with replacement, a defensive share uniform",
    "lure": "one after another without replacement, by error probability (LURE)",
    "asi": "fixed size, inclusion by uncertainty (active statistical inference)",
    "adaptive": "waves that learn from the labels before them",
}


def share(value: float | None) -> str:
    """Return a share as a percentage of three digits, a dash where nothing tells."""
    if value is None or np.isnan(value):
        return "-"
    return f"{100 * value:.3g} %"


def describe(told: Mapping[str, Any], draw: Mapping[str, Any]) -> Page:
    """Return the report.

    Args:
        told: by `report.report`.
        draw: seed, defensive share, checksums and whether labels vouch for the error
            probabilities: `seed`, `defensive`, `sha256`, `validated`.
    """
    parts = [
        Part(title="Error rate", blocks=_headline(told)),
        Part(title="How it was drawn", blocks=_drawing(told, draw)),
        Part(title="Where errors may hide", blocks=[_hidden(told)]),
        Part(title="Was the error probability right?", blocks=_calibration(told)),
        Part(title="Error matrix and areas", blocks=_matrix(told)),
    ]
    return Page(title="Error rate of the target", parts=parts)


def headline(told: Mapping[str, Any]) -> str:
    """Return the estimate and its usual interval in a line."""
    first = told["intervals"][0]
    return (
        f"{share(told['error_rate'])} of {told['units']:,} units are wrong "
        f"({told['level']:.0%} interval {share(first['low'])} .. {share(first['high'])})"
    )


def naive_line(told: Mapping[str, Any]) -> str:
    """Return what the labels would say as they are, with what is wrong with it."""
    return f"Not an estimate, for comparison: {told['naive']['said']}."


def never_line(told: Mapping[str, Any]) -> str:
    """Return the classes of labels that the target never says, whose labels are all errors."""
    names = [f"{name} ({count:,} labels)" for name, count in told["never_predicted"].items()]
    return (
        f"The target never predicts {', '.join(names)}: each of these labels is an error. If a "
        "class only has another name there, rename it and report again."
    )


def _headline(told: Mapping[str, Any]) -> list[Block]:
    rows = [("interval", "low", "high", "width", "what for")]
    for one in told["intervals"]:
        flag = "" if one["reliable"] else "; covers too seldom: few errors, or heavy ones missing"
        rows.append(
            (
                one["method"],
                share(one["low"]),
                share(one["high"]),
                share(one["high"] - one["low"]),
                one["purpose"] + flag,
            )
        )
    texts: list[Block] = [
        Text(text=headline(told), key=True),
        Text(
            text=f"{told['labels']:,} labels of {told['distinct_units']:,} units, "
            f"{told['errors_found']:,} errors found. Standard error "
            f"{share(told['standard_error'])}. They say as much as "
            f"{told['effective_labels']:,.0f} labels of equal weight, and the errors as much as "
            f"{told['effective_errors']:.1f}; the largest weight is "
            f"{told['largest_weight']['over_uniform']:.2f} times that of a uniform draw."
        ),
        Table(rows=rows),
        Picture(
            name="intervals",
            caption="Estimate and intervals.",
            figure=_interval_plot(told),
        ),
    ]
    unclear = told["unclear"]
    if unclear["units"]:
        ends = [f"{share(unclear[name]['error_rate'])} {text}" for name, text in _ENDS]
        texts.append(
            Text(
                text=f"Of {unclear['units']} units the class could not be told. They count as "
                f"{unclear['counted_as']} above; the rate is {' and '.join(ends)}."
            )
        )
    if told["never_predicted"]:
        texts.append(Text(text=never_line(told)))
    if told["ppi"] is not None:
        one = told["ppi"]
        flag = "" if one["reliable"] else f" Below {FEW_ERRORS} errors it is biased downwards."
        texts.append(
            Text(
                text=f"With the error probabilities of the unlabelled units (PPI++): "
                f"{share(one['error_rate'])} ({share(one['low'])} .. {share(one['high'])}).{flag}"
            )
        )
    tiles = told["tiles"]
    if tiles is not None and tiles["standard_error_for_other_tiles"] is not None:
        texts.append(
            Text(
                text=f"The labels lie in {tiles['labelled']:,} of {tiles['in_pool']:,} tiles. The "
                "intervals speak of this pool, where it does not matter that pixels of a tile "
                "are alike; for other tiles of the same kind the standard error is "
                f"{share(tiles['standard_error_for_other_tiles'])}."
            )
        )
    texts.append(Text(text=naive_line(told)))
    return texts


_ENDS = (("if_wrong", "if all of them are wrong"), ("if_right", "if all are right"))


def _drawing(told: Mapping[str, Any], draw: Mapping[str, Any]) -> list[Block]:
    waves = "" if told["waves"] is None else f" in {told['waves']} waves"
    vouched = (
        "Validation labels vouch for the error probabilities."
        if draw["validated"]
        else "No labels vouched for the error probabilities when it was drawn: the estimate is "
        "right all the same, and may have needed more labels."
    )
    return [
        Text(
            text=f"Design {told['design']}{waves}: {DESIGNS[told['design']]}. Defensive share "
            f"{draw['defensive']:g}, seed {draw['seed']}. {vouched}"
        ),
        Text(
            text="Every unit of the pool had a known chance; labels are weighed by it, so the "
            "estimate is right on average whatever the error probabilities are worth. It speaks "
            "of the pool that was drawn from, and of no other data."
        ),
        Table(
            rows=[
                ("file", "SHA-256"),
                *((name, value) for name, value in draw["sha256"].items()),
            ]
        ),
    ]


def _hidden(told: Mapping[str, Any]) -> Text:
    zone = told["blind_spot"]
    return Text(
        text=f"Of the {zone['share_of_pool']:.0%} of the pool where errors are least expected "
        f"(error probability up to {zone['largest_g']:.2g}), {zone['labels']:,} labels hold "
        f"{zone['errors']} errors: with {told['level']:.0%} certainty at most "
        f"{share(zone['at_most'])} of the pool's units are errors there. Nothing but labels in "
        "that zone makes this smaller: about 3 / labels times its share where none is found."
    )


def _calibration(told: Mapping[str, Any]) -> list[Block]:
    rows = [("units", "labels", "expected", "found")]
    rows += [
        (f"{one['units']:,}", f"{one['labels']:,}", share(one["expected"]), share(one["found"]))
        for one in told["by_error_probability"]
    ]
    return [
        Text(
            text="Tenths of the expected errors, from where they are least expected; found "
            "rates are weighed by the chances of the draw."
        ),
        Table(rows=rows),
        Picture(
            name="calibration",
            caption="Expected and found error rate; larger dots have more labels.",
            figure=_calibration_plot(told["by_error_probability"]),
        ),
    ]


def _matrix(told: Mapping[str, Any]) -> list[Block]:
    own = told["accuracy"]
    rows = [("class", "predicted", "truly", "user's accuracy", "producer's accuracy")]
    for predicted, one in zip(own["predicted_share"], own["by_class"], strict=True):
        rows.append(
            (
                one["class"],
                share(predicted),
                _with_error(one["area"]),
                _with_error(one["user"]),
                _with_error(one["producer"]),
            )
        )
    blocks: list[Block] = [
        Text(text="Shares of the pool by class, and accuracies, ± one standard error."),
        Table(rows=rows),
    ]
    if len(own["classes"]) <= _MANY_CLASSES:
        blocks.append(
            Picture(
                name="matrix",
                caption="Share of the pool by predicted and true class, in per cent.",
                figure=_matrix_plot(own["classes"], np.array(own["share_of_pool"])),
            )
        )
    return blocks


def _with_error(pair: Mapping[str, float | None]) -> str:
    error = pair["standard_error"]
    return share(pair["value"]) + ("" if not error else f" ± {share(error)}")


def _interval_plot(told: Mapping[str, Any]) -> Figure:
    intervals = told["intervals"]
    figure = Figure(figsize=(7, 0.6 + 0.42 * len(intervals)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(intervals):
        colour = _BLUE if one["reliable"] else _GREY
        axes.plot([100 * one["low"], 100 * one["high"]], [place] * 2, color=colour, lw=3)
    axes.axvline(100 * told["error_rate"], color=_RED, lw=1.5)
    axes.set_yticks(range(len(intervals)), [one["method"] for one in intervals])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("error rate, %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _calibration_plot(cells: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    known = [one for one in cells if one["found"] is not None]
    expected = np.array([one["expected"] for one in known])
    found = np.array([one["found"] for one in known])
    most = max(1e-6, 1.05 * max([*expected.tolist(), *found.tolist()], default=1.0))
    axes.plot([0, 100 * most], [0, 100 * most], color=_GREY, lw=1)
    most_labels = max([one["labels"] for one in known], default=1)
    size = [20 + 180 * one["labels"] / most_labels for one in known]
    axes.scatter(100 * expected, 100 * found, s=size, color=_BLUE, alpha=0.7)
    axes.set_xlabel("expected error rate, %")
    axes.set_ylabel("found error rate, %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _matrix_plot(classes: Sequence[str], matrix: "np.ndarray[Any, np.dtype[np.float64]]") -> Figure:
    side = 2.4 + 0.55 * len(classes)
    figure = Figure(figsize=(side, side - 0.6), layout="constrained")
    axes = figure.subplots()
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
