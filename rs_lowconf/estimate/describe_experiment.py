"""The report of an experiment in words, tables and plots."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from rs_lowconf.estimate.confusions import Confusions
from rs_lowconf.estimate.experiment import SAMPLED
from rs_lowconf.estimate.page import Block, Page, Part, Picture, Table, Text
from rs_lowconf.estimate.paper import worth_at_most
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import BLUE, GENERATED, REAL, panels

_COLOURS = (BLUE, REAL, GENERATED, "#8d6a9f", "#d98f2b", "#2a9d9d", "#6b4f2a", "#444444")
_MARKS = [digit * 10.0**power for power in range(-6, 3) for digit in (1, 2, 5)]

_SOUND = {
    "generated": "an error predictor learned from generated tiles",
    "retrieved": "drawing real neighbours of generated failures with higher chances",
}


def describe_experiment(report: Mapping[str, Any]) -> Page:
    """Return the report of what `rslow estimate experiment` found."""
    plain = [cell for cell in report["cells"] if not cell["blind"]]
    chosen = report["predictor"]["name"]
    return Page(
        title="Does it pay to label what the target is unsure of?",
        parts=[
            Part(title="Answer", blocks=[Text(text=line) for line in report["answer"]]),
            Part(title="Pool", blocks=[_pool(report)]),
            Part(
                title=f"Designs, by the error predictor {chosen}",
                blocks=[
                    Text(
                        text="Saving: labels of a uniform draw of the same root mean squared "
                        "error, over these labels, ± its Monte-Carlo standard error; in brackets "
                        "what plan foresaw. Errors: found among the labels, on average. Bias in "
                        "its own Monte-Carlo standard errors. Coverage and width of 95 % "
                        "intervals."
                    ),
                    _cells([cell for cell in plain if cell["predictor"] == chosen], report),
                    *_curve_plots(report),
                ],
            ),
            Part(
                title="Other error predictors",
                blocks=[_cells([cell for cell in plain if cell["predictor"] != chosen], report)],
            ),
            Part(
                title="Stress: errors where none is expected",
                blocks=[_stress([cell for cell in report["cells"] if cell["blind"]])],
            ),
            Part(title="Taken literally: biased", blocks=_literal(report)),
            Part(title="Labels of generated tiles", blocks=_generated(report)),
            *_confusions(report),
        ],
    )


def _pool(report: Mapping[str, Any]) -> Text:
    low, high = report["ceiling_range"]
    validation, chosen = report["validation"], report["predictor"]["name"]
    return Text(
        text=f"{report['units']:,} labelled units of {report['scores']}, "
        f"{percent(report['error_rate'])} wrong, in {report['classes']} classes. "
        f"{validation['labels']:,} other labels with {validation['errors']} errors chose the error "
        f"predictor {chosen} and told plan that no sampling by it saves more than "
        f"{report['ceiling']:.1f} times ({low:.1f} .. {high:.1f}). "
        f"{report['repetitions']} draws of each design, defensive share {report['defensive']:g}."
    )


def _cells(cells: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> Table:
    plans = {(plan["method"], plan["labels"]): plan["saving"] for plan in report["foreseen"]}
    rows: list[tuple[str, ...]] = [
        (
            *("design", "labels", "errors", "saving", "RMSE", "bias"),
            *("tcz", "ff", "betting", "kg", "width"),
        )
    ]
    for cell in cells:
        name, foreseen = f"{cell['method']}, {cell['predictor']}", None
        if cell["predictor"] == report["predictor"]["name"]:
            name, foreseen = cell["method"], plans.get((cell["method"], cell["labels"]))
        known = "" if foreseen is None else f" ({foreseen:.2f})"
        bias = f"{cell['bias'] / cell['bias_error']:+.1f}" if cell["bias_error"] else "0"
        width = next(each["width"] for each in cell["coverage"] if each["method"] == "tcz")
        figures = (f"{_with_error(cell)}{known}", percent(cell["rmse"]), bias)
        covered = _covered(cell, "tcz", "ff", "betting", "kg")
        many = (f"{cell['labels']:,}", f"{cell['errors']:.1f}")
        rows.append((name, *many, *figures, *covered, percent(width)))
    return Table(rows=rows)


def _covered(cell: Mapping[str, Any], *methods: str) -> Iterator[str]:
    """Yield how often each interval covered the truth."""
    known = {each["method"]: each["covered"] / each["repetitions"] for each in cell["coverage"]}
    yield from (percent(known[method], 1) if method in known else "-" for method in methods)


def _stress(cells: Sequence[Mapping[str, Any]]) -> Table:
    rows = [("design", "errors hidden", "labels", "saving", "tcz", "ff", "betting")]
    for cell in cells:
        what = (
            cell["method"],
            percent(cell["blind"], 0),
            f"{cell['labels']:,}",
            _with_error(cell),
        )
        rows.append((*what, *_covered(cell, "tcz", "ff", "betting")))
    return Table(rows=rows)


def _literal(report: Mapping[str, Any]) -> list[Block]:
    return [
        Text(text=f"{naive['labels']:,} labels would have said: {naive['said']}.")
        for naive in report["naive"]
    ]


def _generated(report: Mapping[str, Any]) -> list[Block]:
    if not report["generated"]:
        return [
            Text(
                text="None were given: see rslow estimate random-latents and "
                "estimate.experiment.random_latents, rslow generate and estimate.generated_samples."
            )
        ]
    rows = [("labels of", "labels", "their error rate", "over the true one", "saving", "covered")]
    for cell in report["generated"]:
        times = "-" if cell["times"] is None else f"{cell['times']:.2f}"
        rates = (percent(cell["generated_rate"]), times)
        covered = percent(cell["covered"] / cell["repetitions"], 0)
        saving = f"{cell['saving']:.3f}"
        rows.append((cell["source"], f"{cell['labels']:,}", *rates, saving, covered))
    return [
        Text(
            text="Errors by the condition that a tile was generated for, or by reviews where there "
            "are some. What their labels converge to is the error rate of the generator's law "
            "(random latents) or of the search (found tiles), not the pool's, unless they are "
            "weighed. Draws are made with replacement from as many tiles as there are."
        ),
        Table(rows=rows),
    ]


def _confusions(report: Mapping[str, Any]) -> list[Part]:
    """Return whether what the search found is what the target gets wrong, if there is a search."""
    arms = {name: Confusions.from_json(values) for name, values in report["confusions"].items()}
    if not arms:
        return []
    rows = [("tiles", *Confusions.HEADS), *((name, *one.figures()) for name, one in arms.items())]
    found = next(iter(arms.values()))
    return [
        Part(
            title="Is what the search finds what the target gets wrong?",
            blocks=[
                *(Text(text=line) for line in found.sentences()),
                Table(rows=rows),
                Table(rows=found.table()),
            ],
        )
    ]


def _curve_plots(report: Mapping[str, Any]) -> Iterator[Picture]:
    """Yield error, bias and width of the interval against the number of labels, by design."""
    chosen = report["predictor"]["name"]
    plain = [cell for cell in report["cells"] if cell["predictor"] == chosen and not cell["blind"]]
    drawn = [{**cell, "width": _width(cell)} for cell in plain]
    made = [{**cell, "bias": cell["generated_rate"] - cell["rate"]} for cell in report["generated"]]
    for key, caption, axis in (
        ("rmse", "Error against labels.", "root mean squared error"),
        ("bias", "Bias against labels.", "bias"),
        ("width", "Width of the answering 95 % interval against labels.", "mean width"),
    ):
        figure, (axes,) = panels(7.0, 4.6)
        for (name, points), colour in zip(_curves(drawn, "method", key), _COLOURS, strict=False):
            axes.plot(*points, "o-", color=colour, lw=1.5, ms=4, label=name)
        for (name, points), (marker, style) in zip(
            _curves(made, "source", key), product("s^v*", ("--", ":", "-.")), strict=False
        ):
            axes.plot(*points, style, color=GENERATED, marker=marker, ms=4, label=name)
        axes.set_xscale("log")
        axes.set_xticks(report["budgets"], [f"{labels:,}" for labels in report["budgets"]])
        axes.minorticks_off()
        if key == "bias":
            axes.axhline(0, color="black", lw=0.8)
        else:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            low, high = axes.get_ylim()
            marks = [mark for mark in _MARKS if low <= mark <= high]
            axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
        axes.set_xlabel("labels")
        axes.set_ylabel(f"{axis}, percentage points")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        yield Picture(name=key, caption=caption, figure=figure)


def _width(cell: Mapping[str, Any]) -> float:
    """Return the mean width of the interval by which an estimate of this design answers."""
    widths = {each["method"]: each["width"] for each in cell["coverage"]}
    width: float = widths.get("clopper-pearson", widths["ff"])
    return width


def _curves(
    cells: Sequence[Mapping[str, Any]], by: str, key: str
) -> list[tuple[str, tuple[list[int], list[float]]]]:
    """Return labels and a figure in percentage points of the cells of each name."""
    names = dict.fromkeys(cell[by] for cell in cells)
    groups = {name: [cell for cell in cells if cell[by] == name] for name in names}
    return [
        (name, ([cell["labels"] for cell in group], [100 * cell[key] for cell in group]))
        for name, group in groups.items()
    ]


def answer(report: Mapping[str, Any]) -> list[str]:
    """Return the paper's question, answered in words by what was measured."""
    rate, largest = report["error_rate"], max(report["budgets"])
    chosen = report["predictor"]["name"]
    lines = [
        "The question: do labels spent where the target is unsure tell its error rate "
        f"({percent(rate)} of this pool) sooner than labels of random units?"
    ]
    naive = next(cell for cell in report["naive"] if cell["labels"] == largest)
    lines.append(
        f"Taken literally, no. The {largest:,} least confident units err "
        f"{naive['times_too_high']:.1f} times as often as the pool, at any number of labels, and "
        f"errors found over the pool miss {percent(naive['missed'], 0)} of them."
    )
    by_name = {
        cell["method"]: cell
        for cell in report["cells"]
        if cell["predictor"] == chosen and cell["labels"] == largest and not cell["blind"]
    }
    best = max((by_name[name] for name in SAMPLED), key=lambda cell: cell["saving"])
    simple = by_name["stratified"]
    second = "" if best is simple else f", and stratified of {_with_error(simple)} times"
    lines.append(
        f"Weighed by known chances, {'yes' if best['saving'] > 1 else 'not here'}: with "
        f"{largest:,} labels {best['method']} has the error of {_with_error(best)} times as many "
        f"uniform ones{second}. No sampling by this score could save more than "
        f"{report['ceiling']:.1f} times."
    )
    # Rows of a source rise in labels: its last one is that of most.
    for cell in {cell["source"]: cell for cell in report["generated"]}.values():
        if cell["times"] is not None:
            most = worth_at_most(rate, cell["generated_rate"], report["units"])
            lines.append(
                f"Labels of {cell['source']}: they err {cell['times']:.2f} times as often as real "
                f"units. As an estimate, {cell['labels']:,} of them are worth "
                f"{cell['saving'] * cell['labels']:,.0f} uniform labels of real units, and no "
                f"number of them is worth more than {most:,.0f}."
            )
    plain = _strat(report, "confidence", largest)
    for name, what in _SOUND.items():
        learned = _strat(report, name, largest)
        if learned is not None and plain is not None:
            lines.append(
                f"Used soundly, {what} saves {_with_error(learned)} times, confidence alone "
                f"{_with_error(plain)} times: generated data {_verdict(learned, plain)}."
            )
    lines.append(f"Validation labels chose the error predictor {chosen}.")
    stress = [cell for cell in report["cells"] if cell["blind"] == 1.0]
    if stress:
        worst = min(stress, key=lambda cell: cell["saving"])
        lines.append(
            "If all errors hid where none is expected, "
            f"{worst['method']} would still have the error of {worst['saving']:.2f} times its "
            "labels drawn uniformly: the price of looking in the wrong place."
        )
    return lines


def _strat(report: Mapping[str, Any], predictor: str, labels: int) -> Mapping[str, Any] | None:
    """Return the cell of `stratified` by an error predictor; None where that was not replayed."""
    wanted = {"predictor": predictor, "method": "stratified", "labels": labels, "blind": 0.0}
    return next((cell for cell in report["cells"] if cell.items() >= wanted.items()), None)


def _verdict(learned: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Return in words whether a saving differs from another by more than two standard errors."""
    gain = learned["saving"] - plain["saving"]
    noise = 2 * float(np.hypot(learned["saving_error"], plain["saving_error"]))
    if abs(gain) <= noise:
        return "make no difference that so many draws can tell"
    return "help to sample this pool" if gain > 0 else "make sampling this pool worse"


def _with_error(cell: Mapping[str, Any]) -> str:
    return f"{cell['saving']:.2f} ± {cell['saving_error']:.2f}"
