"""The report of an experiment in words, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rs_lowconf.estimate.experiment import SAMPLED
from rs_lowconf.estimate.page import Block, Page, Part, Picture, Table, Text
from rs_lowconf.estimate.result import percent

_COLOURS = ("#1f5a94", "#0b6e4f", "#b23a48", "#8d6a9f", "#d98f2b", "#2a9d9d", "#6b4f2a", "#444444")
_GENERATED = "#b23a48"
_MARKS = [digit * 10.0**power for power in range(-6, 3) for digit in (1, 2, 5)]

_SOUND = {
    "generated": "an error predictor learned from generated tiles",
    "retrieved": "drawing real neighbours of generated failures with higher chances",
}


def describe_experiment(told: Mapping[str, Any]) -> Page:
    """Return the report of what `rslow estimate experiment` found."""
    plain = [one for one in told["cells"] if not one["blind"]]
    chosen = told["predictor"]["name"]
    return Page(
        title="Does it pay to label what the target is unsure of?",
        parts=[
            Part(title="Answer", blocks=[Text(text=line) for line in told["answer"]]),
            Part(title="Pool", blocks=[_pool(told)]),
            Part(
                title=f"Designs, by the error predictor {chosen}",
                blocks=[
                    Text(
                        text="Saving: labels of a uniform draw of the same root mean squared "
                        "error, over these labels, ± its Monte-Carlo standard error; in brackets "
                        "what plan foresaw. Bias in its own Monte-Carlo standard errors. Coverage "
                        "and width of 95 % intervals."
                    ),
                    _cells([one for one in plain if one["predictor"] == chosen], told),
                    Picture(name="rmse", caption="Error against labels.", figure=_rmse_plot(told)),
                ],
            ),
            Part(
                title="Other error predictors",
                blocks=[_cells([one for one in plain if one["predictor"] != chosen], told)],
            ),
            Part(
                title="Stress: errors where none is expected",
                blocks=[_stress([one for one in told["cells"] if one["blind"]])],
            ),
            Part(title="Taken literally: biased", blocks=_literal(told)),
            Part(title="Labels of generated tiles", blocks=_generated(told)),
        ],
    )


def _pool(told: Mapping[str, Any]) -> Text:
    low, high = told["ceiling_range"]
    return Text(
        text=f"{told['units']:,} labelled units of {told['scores']}, "
        f"{percent(told['error_rate'])} wrong, in {told['classes']} classes. "
        f"{told['validation']['labels']:,} other labels with {told['validation']['errors']} errors "
        f"chose the error predictor {told['predictor']['name']} and told plan that no sampling by "
        f"it saves more than {told['ceiling']:.1f} times ({low:.1f} .. {high:.1f}). "
        f"{told['repetitions']} draws of each design, defensive share {told['defensive']:g}."
    )


def _cells(cells: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> Table:
    plans = {(one["method"], one["labels"]): one["saving"] for one in told["foreseen"]}
    chosen = told["predictor"]["name"]
    rows: list[tuple[str, ...]] = [
        ("design", "labels", "saving", "RMSE", "bias", "tcz", "ff", "betting", "kg", "width")
    ]
    for one in cells:
        own = one["predictor"] == chosen
        said = plans.get((one["method"], one["labels"])) if own else None
        by_method = {each["method"]: each for each in one["coverage"]}
        name = one["method"] if own else f"{one['method']}, {one['predictor']}"
        rows.append(
            (
                name,
                f"{one['labels']:,}",
                f"{one['saving']:.2f} ± {one['saving_error']:.2f}"
                + ("" if said is None else f" ({said:.2f})"),
                percent(one["rmse"]),
                f"{one['bias'] / one['bias_error']:+.1f}" if one["bias_error"] else "0",
                *(_covered(by_method.get(each)) for each in ("tcz", "ff", "betting", "kg")),
                percent(by_method["tcz"]["width"]),
            )
        )
    return Table(rows=rows)


def _covered(one: Mapping[str, Any] | None) -> str:
    return "-" if one is None else f"{one['covered'] / one['repetitions']:.1%}"


def _stress(cells: Sequence[Mapping[str, Any]]) -> Table:
    rows = [("design", "errors hidden", "labels", "saving", "tcz", "ff", "betting")]
    for one in cells:
        by_method = {each["method"]: each for each in one["coverage"]}
        rows.append(
            (
                one["method"],
                f"{one['blind']:.0%}",
                f"{one['labels']:,}",
                f"{one['saving']:.2f} ± {one['saving_error']:.2f}",
                *(_covered(by_method.get(each)) for each in ("tcz", "ff", "betting")),
            )
        )
    return Table(rows=rows)


def _literal(told: Mapping[str, Any]) -> list[Block]:
    return [
        Text(text=f"{one['labels']:,} labels would have said: {one['said']}.")
        for one in told["naive"]
    ]


def _generated(told: Mapping[str, Any]) -> list[Block]:
    if not told["generated"]:
        return [
            Text(
                text="None were given: see rslow estimate random-latents and "
                "estimate.experiment.random_latents, rslow generate and estimate.generated."
            )
        ]
    rows = [("labels of", "labels", "their error rate", "over the true one", "saving", "covered")]
    for one in told["generated"]:
        rows.append(
            (
                one["source"],
                f"{one['labels']:,}",
                percent(one["generated_rate"]),
                "-" if one["times"] is None else f"{one['times']:.2f}",
                f"{one['saving']:.3f}",
                f"{one['covered'] / one['repetitions']:.0%}",
            )
        )
    return [
        Text(
            text="Errors by the condition that a tile was generated for, or by reviews where there "
            "are some. What their labels converge to is the error rate of the generator's law "
            "(random latents) or of the search (found tiles), not the pool's."
        ),
        Table(rows=rows),
    ]


def _rmse_plot(told: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    chosen = told["predictor"]["name"]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for one in told["cells"]:
        if one["predictor"] == chosen and not one["blind"]:
            lines.setdefault(one["method"], []).append(one)
    for (name, own), colour in zip(lines.items(), _COLOURS, strict=False):
        labels, error = [one["labels"] for one in own], [100 * one["rmse"] for one in own]
        axes.loglog(labels, error, "o-", color=colour, lw=1.5, ms=4, label=name)
    others: dict[str, list[Mapping[str, Any]]] = {}
    for one in told["generated"]:
        others.setdefault(one["source"], []).append(one)
    for style, (name, own) in zip(("--", ":", "-."), others.items(), strict=False):
        labels, error = [one["labels"] for one in own], [100 * one["rmse"] for one in own]
        axes.loglog(labels, error, style, color=_GENERATED, marker="s", ms=4, label=name)
    ticks = told["budgets"]
    axes.set_xticks(ticks, [f"{one:,}" for one in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    marks = [one for one in _MARKS if low <= one <= high]
    axes.set_yticks(marks, [f"{one:g}" for one in marks])
    axes.set_xlabel("labels")
    axes.set_ylabel("root mean squared error, percentage points")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def answer(report: Mapping[str, Any]) -> list[str]:
    """Return the paper's question, answered in words by what was measured."""
    rate, largest = report["error_rate"], max(report["budgets"])
    chosen = report["predictor"]["name"]
    said = [
        "The question: do labels spent where the target is unsure tell its error rate "
        f"({percent(rate)} of this pool) sooner than labels of random units?"
    ]
    naive = next(one for one in report["naive"] if one["labels"] == largest)
    said.append(
        f"Taken literally, no. The {largest:,} least confident units err "
        f"{naive['times_too_high']:.1f} times as often as the pool, at any number of labels, and "
        f"errors found over the pool miss {naive['missed']:.0%} of them."
    )
    by_name = {
        one["method"]: one
        for one in report["cells"]
        if one["predictor"] == chosen and one["labels"] == largest and not one["blind"]
    }
    best = max((by_name[name] for name in SAMPLED), key=lambda one: one["saving"])
    said.append(
        f"Weighed by known chances, {'yes' if best['saving'] > 1 else 'not here'}: with "
        f"{largest:,} labels {best['method']} has the error of {_with_error(best)} times as many "
        f"uniform ones, and stratified of {_with_error(by_name['stratified'])} times. No "
        f"sampling by this score could save more than {report['ceiling']:.1f} times."
    )
    for one in report["generated"]:
        if one["labels"] == largest and one["times"] is not None:
            said.append(
                f"Labels of {one['source']}: they err {one['times']:.2f} times as often as real "
                f"units. As an estimate, {largest:,} of them are worth "
                f"{one['saving'] * one['labels']:,.0f} uniform labels of real units, and no number "
                f"of them is worth more than {_worth(one, report['units']):,.0f}."
            )
    plain = _strat(report, "confidence", largest)
    for name, what in _SOUND.items():
        own = _strat(report, name, largest)
        if own is not None and plain is not None:
            said.append(
                f"Used soundly, {what} saves {_with_error(own)} times, confidence alone "
                f"{_with_error(plain)} times: generated data {_verdict(own, plain)}."
            )
    said.append(f"Validation labels chose the error predictor {chosen}.")
    stress = [one for one in report["cells"] if one["blind"] == 1.0]
    if stress:
        worst = min(stress, key=lambda one: one["saving"])
        said.append(
            "If all errors hid where none is expected, "
            f"{worst['method']} would still have the error of {worst['saving']:.2f} times its "
            "labels drawn uniformly: the price of looking in the wrong place."
        )
    return said


def _strat(report: Mapping[str, Any], predictor: str, labels: int) -> Mapping[str, Any] | None:
    """Return the cell of `stratified` by an error predictor; None where that was not replayed."""
    for one in report["cells"]:
        known = (one["predictor"], one["method"], one["labels"], one["blind"])
        if known == (predictor, "stratified", labels, 0.0):
            own: Mapping[str, Any] = one
            return own
    return None


def _verdict(own: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Return in words whether a saving differs from another by more than two standard errors."""
    gain = own["saving"] - plain["saving"]
    noise = 2 * float(np.hypot(own["saving_error"], plain["saving_error"]))
    if abs(gain) <= noise:
        return "make no difference that so many draws can tell"
    return "help to sample this pool" if gain > 0 else "make sampling this pool worse"


def _with_error(cell: Mapping[str, Any]) -> str:
    return f"{cell['saving']:.2f} ± {cell['saving_error']:.2f}"


def _worth(cell: Mapping[str, Any], units: int) -> float:
    """Return how many uniform labels have the error that the generated rate's bias alone is."""
    rate, bias = cell["rate"], cell["generated_rate"] - cell["rate"]
    return float(units) if bias == 0 else min(float(units), rate * (1 - rate) / bias**2)
