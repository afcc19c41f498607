"""The report of an experiment in words, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from rs_lowconf.estimate.describe import share
from rs_lowconf.estimate.page import Block, Page, Part, Picture, Table, Text

_COLOURS = ("#1f5a94", "#0b6e4f", "#b23a48", "#8d6a9f", "#d98f2b", "#2a9d9d", "#6b4f2a", "#444444")
_GENERATED = "#b23a48"
_MARKS = [digit * 10.0**power for power in range(-6, 3) for digit in (1, 2, 5)]


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
        f"{share(told['error_rate'])} wrong, in {told['classes']} classes. "
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
                share(one["rmse"]),
                f"{one['bias'] / one['bias_error']:+.1f}" if one["bias_error"] else "0",
                *(_covered(by_method.get(each)) for each in ("tcz", "ff", "betting", "kg")),
                share(by_method["tcz"]["width"]),
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
                text="None were given: see rslow estimate generated and "
                "estimate.experiment.random_latents, rslow generate and estimate.generated."
            )
        ]
    rows = [("labels of", "labels", "their error rate", "over the true one", "saving", "covered")]
    for one in told["generated"]:
        rows.append(
            (
                one["source"],
                f"{one['labels']:,}",
                share(one["generated_rate"]),
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
