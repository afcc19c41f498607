"""What ladders of rare events say to people: tables with the words they need, and a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rs_lowconf.errors import by_reason
from rs_lowconf.estimate.ladder import Ladder, Rung
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import GENERATED, OTHER, REAL, panels

_PALE = "#c9a5a9"
_COARSE = 0.5
"""Relative standard error above which a number tells little more than its order of magnitude."""

CAVEATS = (
    "**Exact, up to sampling, for the generator's latent law.** Latents are drawn from N(0, I), "
    "every tile counts as it is drawn: no gate drops any, and nothing is rounded.",
    "**Not the error rate on real tiles.** Where both were known, with a mediocre generator, "
    "errors under the generator were 1.2, 0.41 and 0.10 times as frequent as real ones at 9 %, "
    "0.7 % and 0.09 %: the rarer the errors, the more of them a generator misses. Where the real "
    "ladder stands beside it, their distance says how far to trust the generator.",
    "**Conditions weigh the same here;** real classes do not, so compare class by class.",
    "**Disagreement is an error only if the tile shows its condition,** which people have "
    "to say: search for such tiles and have them reviewed.",
    "**Nothing free of models beats about 3 / P labels** among the tiles of high confidence: an "
    "error rate of 1e-8 on real data stays at 3e8 labels, however cheap 1e-8 is here.",
)
"""What every report has to say."""


@dataclass(frozen=True, kw_only=True)
class RealPool:
    """Real tiles that the target has scored."""

    overall: Ladder
    by_class: Mapping[str, Ladder]
    """Of the tiles of each label, by name."""
    tiles: int
    splits: Mapping[str, int]
    """Tiles of each split, by name; those without one are not in it."""

    @property
    def warning(self) -> str:
        """Return what is wrong with these tiles as a pool; empty if nothing is known to be."""
        learned = self.splits.get("train", 0)
        if not learned:
            return ""
        return (
            f"{learned:,} of the {self.tiles:,} real tiles are of the split train: a target is "
            "surer of what it learned from; set batch.splits to leave them out."
        )


@dataclass(frozen=True, kw_only=True)
class Ladders:
    """All that a report tells."""

    thresholds: tuple[float, ...]
    """From the highest to the lowest."""
    overall: Ladder
    by_condition: Mapping[str, Ladder]
    real: RealPool | None
    missing: str
    """Why there is no real pool; empty where there is one."""
    plain: tuple[str, ...]
    """Events told by plain random latents alone, as the target's answers are too coarse."""
    unanswered: Mapping[str, int]
    """How many of the generated tiles the target has no answer to, by reason."""
    evaluations: int
    """Generated tiles that the target was asked about."""


def told(rung: Rung | None) -> str:
    """Return a probability with its interval; what it is below, where nothing was found."""
    if rung is None:
        return ""
    if rung.value is None:
        return f"none (< {rung.interval.high:.2g})"
    return f"{rung.value:.2g} ({rung.interval.low:.2g} .. {rung.interval.high:.2g})"


def precision(rung: Rung) -> str:
    """Return the relative standard error."""
    return "" if rung.relative_error is None else percent(rung.relative_error, 0)


def events_of(thresholds: Sequence[float]) -> list[str]:
    """Return the names of a ladder's events."""
    return [*(f"below {threshold:g}" for threshold in thresholds), "disagreement"]


def rungs_of(ladder: Ladder) -> list[Rung | None]:
    """Return a ladder's probabilities in the order of `events_of`."""
    return [*ladder.rungs, ladder.disagreement]


def notes(ladders: Ladders) -> Iterator[str]:
    """Yield what has to be said of single numbers."""
    events = events_of(ladders.thresholds)
    for name, ladder in (("all conditions", ladders.overall), *ladders.by_condition.items()):
        for event, rung in zip(events, rungs_of(ladder), strict=True):
            if rung is None:
                yield f"{name}, {event}: not told, the target has no such class."
            elif rung.deepest is not None:
                yield (
                    f"{name}, {event}: no population got there. The random latents they started "
                    f"with put it below {rung.interval.high:.2g} for sure (95 %); they gave up at "
                    f"a level of about {rung.deepest:.0e}, and it is probably rarer than that."
                )
            elif rung.found < rung.of:
                yield f"{name}, {event}: only {rung.found} of {rung.of} populations got there."
            elif rung.relative_error is not None and rung.relative_error > _COARSE:
                yield (
                    f"{name}, {event}: populations are far apart; more estimate.rare.particles "
                    "would tell it better."
                )
    for place, event in enumerate(events):
        absent = [
            name
            for name, ladder in ladders.by_condition.items()
            if (rung := rungs_of(ladder)[place]) is not None and rung.value is None
        ]
        if 0 < len(absent) < len(ladders.by_condition):
            yield f"all conditions, {event}: these count as 0, unreached: {', '.join(absent)}."
    if ladders.unanswered:
        yield (
            "tiles that the target has no answer to, which count as neither of low confidence nor "
            f"of another class: {by_reason(ladders.unanswered)}, of {ladders.evaluations:,}."
        )
    for name in ladders.plain:
        yield f"{name}: the target's answers are too coarse to go down by; plain random latents."


def markdown(ladders: Ladders) -> str:
    """Return the report as Markdown."""
    events, real = events_of(ladders.thresholds), ladders.real
    lines = [
        "# How rare low confidence and disagreement are under the generator",
        "",
        f"Conditions: {len(ladders.by_condition)}. Generated tiles: {ladders.evaluations:,}. "
        "*Below t*: the target's largest probability is below t. *Disagreement*: its most "
        "probable class is not the condition. Intervals are 95 %: from the scatter between "
        "independent populations, or exact (Clopper-Pearson) where tiles are counted. The "
        "relative standard error tells the precision that the populations reached.",
        "",
        *(f"* {text}" for text in CAVEATS),
        "",
        "## All conditions, weighing the same",
        "",
        "| event | generated | relative standard error | real tiles |",
        "|---|---|---|---|",
    ]
    beside = rungs_of(real.overall) if real else [None] * len(events)
    for event, ours, theirs in zip(events, rungs_of(ladders.overall), beside, strict=True):
        if ours is not None:
            lines.append(f"| {event} | {told(ours)} | {precision(ours)} | {told(theirs)} |")
    lines += ["", about_real(ladders), "", "![Ladder](ladder.png)", ""]
    lines += ["## Generated, by condition", "", *_by_name(events, ladders.by_condition)]
    if real is not None and real.by_class:
        lines += ["", "## Real, by label", "", *_by_name(events, real.by_class)]
    remarks = list(notes(ladders))
    if remarks:
        lines += ["", "## Notes", "", *(f"* {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"


def ladder_figure(ladders: Ladders) -> Figure:
    """Return the picture: log probability against t, and disagreement by condition."""
    height = max(5.0, 1.6 + 0.34 * (len(ladders.by_condition) + 1))
    figure, (left, right) = panels(12.5, height, 1, 2, width_ratios=(1.25, 1))
    _draw_ladder(left, ladders)
    _draw_disagreement(right, ladders)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for axes in (left, right):
        axes.grid(axis="both", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
    return figure


def about_real(ladders: Ladders) -> str:
    """Return in a line what the real pool is, or why there is none."""
    if ladders.real is None:
        return ladders.missing
    splits = ", ".join(f"{count:,} {name}" for name, count in ladders.real.splits.items())
    about = f"Real: {ladders.real.tiles:,} scored tiles{f' ({splits})' if splits else ''}."
    return f"{about} {ladders.real.warning}".rstrip()


def _by_name(events: Sequence[str], ladders: Mapping[str, Ladder]) -> Iterator[str]:
    yield f"| | {' | '.join(events)} |"
    yield "|---" * (len(events) + 1) + "|"
    for name, ladder in ladders.items():
        yield f"| {name} | {' | '.join(told(rung) for rung in rungs_of(ladder))} |"


def _draw_ladder(axes: Axes, ladders: Ladders) -> None:
    places = list(range(len(ladders.thresholds)))
    for number, ladder in enumerate(ladders.by_condition.values()):
        known = [(i, r.value) for i, r in zip(places, ladder.rungs, strict=True) if r.value]
        axes.plot(
            [i for i, _ in known],
            [value for _, value in known],
            color=_PALE,
            lw=1,
            label="generated, each condition" if number == 0 else None,
        )
    pools = [("generated, all conditions", ladders.overall, GENERATED, 0.0)]
    if ladders.real is not None:
        pools.append((f"real, {ladders.real.tiles:,} tiles", ladders.real.overall, REAL, 0.09))
    for name, ladder, colour, shift in pools:
        shifted = [i + shift for i in places]
        _draw_rungs(axes, shifted, ladder.rungs, colour, label=name, upright=True)
        line = [(i, r.value) for i, r in zip(shifted, ladder.rungs, strict=True) if r.value]
        axes.plot([i for i, _ in line], [value for _, value in line], color=colour, lw=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{threshold:g}" for threshold in ladders.thresholds])
    axes.set_xlabel("t")
    axes.set_ylabel("P(confidence < t)")
    axes.set_title("Low confidence")


def _draw_disagreement(axes: Axes, ladders: Ladders) -> None:
    real = ladders.real
    beside = {} if real is None else {"all": real.overall, **real.by_class}
    rows = {"all": ladders.overall, **ladders.by_condition}
    for row, (name, ladder) in enumerate(rows.items()):
        theirs = beside[name].disagreement if name in beside else None
        if ladder.disagreement is not None:
            _draw_rungs(axes, [row - 0.12], [ladder.disagreement], GENERATED)
        if theirs is not None:
            _draw_rungs(axes, [row + 0.18], [theirs], REAL)
    axes.axhline(0.5, color=OTHER, lw=0.8)
    axes.set_xscale("log")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlabel("P(most probable class is not the condition, or the label)")
    axes.set_title("Disagreement, by condition or label")


def _draw_rungs(
    axes: Axes,
    places: Sequence[float],
    rungs: Sequence[Rung],
    colour: str,
    *,
    label: str | None = None,
    upright: bool = False,
) -> None:
    """Draw values with their intervals; where nothing was found, an arrow from the bound."""
    for place, rung in zip(places, rungs, strict=True):
        bound = rung.value is None
        value = rung.interval.high if rung.value is None else rung.value
        reach = [
            [0.6 * value if bound else value - rung.interval.low],
            [rung.interval.high - value],
        ]
        axes.errorbar(
            place if upright else value,
            value if upright else place,
            yerr=reach if upright else None,
            xerr=None if upright else reach,
            fmt="_" if bound and upright else "|" if bound else "o",
            color=colour,
            markersize=6,
            elinewidth=1.6,
            capsize=3,
            uplims=bound and upright,
            xuplims=bound and not upright,
            label=label,
        )
        label = None
