"""What the page of a search tells beside its samples."""

from collections.abc import Sequence
from pathlib import Path

from rs_lowconf.pages.rendering import made
from rs_lowconf.pages.result import Part, Result
from rs_lowconf.pages.samples import Card
from rs_lowconf.pages.write import tested_by, write_page
from rs_lowconf.percents import percent
from rs_lowconf.search.report import gate_lines
from rs_lowconf.workflows.export import Export
from rs_lowconf.workflows.search_report import SearchReport


def write_search_page(export: Export, report: SearchReport, cards: Sequence[Card]) -> Path:
    """Write `report.html` of a search and return it; see `pages.write.write_page`."""
    return write_page(export.folder, told_of(export, report), cards, export.settings.run.seed)


def told_of(export: Export, report: SearchReport) -> Result:
    """Return what was tested, the answer in one sentence, and what it cost."""
    ours, theirs = report.search, report.random_latents
    times = report.times_less_than_random
    fewer = None if times is None else times.evaluations_per_accepted
    answer = (
        f"{ours.accepted:,} generated tiles that passed the gate and on which the target's "
        f"confidence is below {percent(report.tau, 0)} were found in "
        f"{ours.evaluations:,} evaluations"
    )
    if fewer is not None:
        saved = f"{fewer:.1f} times fewer" if fewer > 1.05 else "no fewer"
        answer += f", {saved} per tile than with random latents"
    tested = {
        **tested_by(export.models),
        "Real tiles beside samples": "none" if export.beside is None else f"{len(export.beside):,}",
        "Method": report.method,
        **made(report.created),
    }
    heads = ("", "tiles", "evaluations", "evaluations per tile", "seconds per tile")
    costs = [heads]
    for name, one in (("search", ours), ("random latents", theirs and theirs.summary)):
        if one:
            costs.append(
                (
                    name,
                    f"{one.accepted:,}",
                    f"{one.evaluations:,}",
                    _number(one.evaluations / one.accepted if one.accepted else None),
                    _number(one.seconds_per_accepted),
                )
            )
    parts = [Part(title="What it cost", table=costs, wide=True)]
    if report.confusions is not None:
        parts.append(
            Part(
                title="Beside the target's errors on real tiles",
                text=report.confusions.sentences(),
                table=report.confusions.table(),
                wide=True,
            )
        )
    looked = ours.rejected_by_gate + ours.passed_gate
    dropped = f"The gate dropped {ours.rejected_by_gate:,} of {looked:,} tiles of low confidence."
    return Result(
        title="Hard samples of the target",
        answer=f"{answer}.",
        tested=tested,
        parts=parts,
        notes=[
            dropped,
            *gate_lines(report.gate),
            "The tiles are synthetic and were searched for low confidence: their number says "
            "nothing of how often the target is wrong, which only labelled real tiles tell.",
        ],
    )


def _number(value: float | None) -> str:
    return "none found" if value is None else f"{value:,.2g}" if value < 10 else f"{value:,.0f}"
