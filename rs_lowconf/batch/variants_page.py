"""The page of the job `generate`: what became of the tiles, and the variants beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rs_lowconf.batch.generate import Ending
from rs_lowconf.batch.score_page import failures
from rs_lowconf.batch.status import problems
from rs_lowconf.models import Models
from rs_lowconf.pages.pictures import picture_of
from rs_lowconf.pages.rendering import made
from rs_lowconf.pages.result import Part, Result
from rs_lowconf.pages.samples import Card
from rs_lowconf.pages.write import tested_by, write_page
from rs_lowconf.percents import percent
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.report import gate_lines
from rs_lowconf.settings import Settings


def write_variants_page(
    folder: Path,
    report: Mapping[str, Any],
    settings: Settings,
    models: Models,
    *,
    cards: Sequence[Card],
    catalog: Path,
) -> Path:
    """Write report.html into the folder of a job and return it.

    Args:
        folder: of the job, with sheet.png where there are variants.
        report: content of report.json.
        settings: of the run.
        models: that searched.
        cards: the variants of the review package.
        catalog: the file of the tiles.

    Raises:
        OutputError: it cannot be written.
    """
    tested = {
        **tested_by(models),
        "Catalog": catalog.name,
        "Its SHA-256": sha256_of(catalog),
        **made(report["created"]),
    }
    sheet = folder / "sheet.png"
    parts = [*_tables(report), *failures(problems(folder))]
    if cards:
        caption = "Some tiles: real, redrawn by the generator, and their variants (synthetic)."
        shown = picture_of(sheet, caption, lossless=False)
        parts.append(Part(title="Real, redrawn, variants", plots=[shown], wide=True))
    result = Result(
        title="Hard variants of real tiles",
        answer=_answer(report, models.tau),
        tested=tested,
        notes=[
            *_notes(report, len(cards), settings),
            *gate_lines(models.evaluator.gate.describe()),
        ],
        parts=parts,
    )
    return write_page(folder, result, cards, settings.run.seed)


def _answer(report: Mapping[str, Any], tau: float) -> str:
    around = report["endings"].get(Ending.VARIED.name.lower(), 0)
    return (
        f"{report['variants']:,} variants on which the target's confidence is below {percent(tau)} "
        f"were found, around {around:,} of {report['tiles']:,} real tiles."
    )


def _notes(report: Mapping[str, Any], shown: int, settings: Settings) -> list[str]:
    """Return what is not shown, and what the number of variants does not say."""
    notes = [
        f"{percent(report['share_within_bound'], 0)} of the tiles were redrawn within the bound, "
        f"the {percent(settings.variants.inversion.quantile)} quantile of distances between real "
        "tiles of the class; nothing was searched around the others.",
        "Variants are synthetic and were searched for low confidence: their number says nothing of "
        "how often the target is wrong, which only labelled real tiles tell.",
    ]
    if shown < report["variants"]:
        notes.insert(
            0,
            f"Shown are {shown:,} of {report['variants']:,} variants, those of the review package, "
            "from as many tiles as possible; variants/ has all.",
        )
    return notes


def _tables(report: Mapping[str, Any]) -> list[Part]:
    """Return what became of the tiles, and the variants by class."""
    endings = [
        (Ending[name.upper()].value, f"{count:,}")
        for name, count in sorted(report["endings"].items(), key=lambda item: -item[1])
    ]
    classes = [
        (
            name,
            f"{own['tiles']:,}",
            percent(own["share_within_bound"], 0),
            f"{own['variants']:,}",
        )
        for name, own in report["by_class"].items()
    ]
    return [
        Part(title="What became of the tiles", table=[("outcome", "tiles"), *endings]),
        Part(
            title="By class", table=[("class", "tiles", "within the bound", "variants"), *classes]
        ),
    ]
