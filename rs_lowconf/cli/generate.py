"""`rslow generate`: from trained models to a review package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import interrupt_between_steps, show
from rs_lowconf.errors import JobError, ReviewError, by_reason
from rs_lowconf.percents import percent
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rs_lowconf.models import Models
    from rs_lowconf.workflows.search import SearchLog, Stream
    from rs_lowconf.workflows.search_report import SearchReport

NameOption = Annotated[
    str, typer.Option("--name", help="Folder of this search below run.dir; one search per folder.")
]


@app.command()
def generate(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "generate",
    trust_code: TrustOption = False,
) -> None:
    """Search for realistic tiles that the target is unsure of and write a QGIS review package.

    Without --config it searches the embedded models and needs neither data nor network. Resumes an
    interrupted run. Writes report.html, report.json, plots/, samples.parquet, tiles/ and review/
    into run.dir/NAME; open report.html in a browser and review/review.qgz in QGIS.
    """
    settings = load_settings(config, set_)
    folder = settings.run.dir / name
    if (folder / "review").exists():
        raise ReviewError(
            f"{folder / 'review'} exists already and may contain reviews",
            remedy="choose another --name, or move that folder away",
        )
    from rs_lowconf.models import load_models

    models = load_models(settings, trust_code=trust_code)
    print_teaching(settings, models, folder / "search" / "student.safetensors")
    search = run_search(settings, models, folder, "search")
    baseline = None
    if settings.search.baseline_evaluations:
        baseline = run_search(settings, models, folder, "baseline", spent=search.seconds)
    _export(settings, models, folder, search, baseline)


def print_teaching(settings: Settings, models: "Models", student: Path) -> None:
    """Print what a student costs, if one has to be trained, and how to do without.

    Args:
        settings: of the run.
        models: that search.
        student: file of an earlier one.
    """
    if models.method != "student" or student.exists():
        return
    own = settings.search.student
    line = (
        f"The search needs a student, which first learns from {own.evaluations:,} evaluations of "
        "the target; search.student sets how many. How long that takes is told once a few are "
        "measured."
    )
    if not models.target.differentiable:
        line += (
            " The target gives no gradients. If it is a network of PyTorch, the same weights as "
            "TorchScript (target.kind=torchscript) do: then no student is needed."
        )
    print(line)


def run_search(
    settings: Settings,
    models: "Models",
    folder: Path,
    stream: "Stream",
    *,
    spent: float = 0.0,
) -> "SearchLog":
    """Run the search, or the random-latent baseline, with its progress; see `SearchRun`.

    Raises:
        KeyboardInterrupt: a stop was requested; the journal has the results so far.
        ModelError: the target has no answer to most tiles.
    """
    from rs_lowconf.workflows.search import SearchRun

    with interrupt_between_steps() as interrupt:
        run = SearchRun(settings, models, folder, stream, spent=spent, before_batch=interrupt.check)
        show(iter(run))
    return run.log


def _export(
    settings: Settings,
    models: "Models",
    folder: Path,
    search: "SearchLog",
    baseline: "SearchLog | None",
) -> None:
    """Write report, plots, table, tiles and, last, the review package."""
    from rs_lowconf.workflows.export import export_of, tiles_beside, write_tiles
    from rs_lowconf.workflows.search_page import write_search_page
    from rs_lowconf.workflows.search_report import confusions_of, report_of, write_report
    from rs_lowconf.workflows.search_review import choose_shown, publish_shown

    confusions = confusions_of(settings, models, search)
    report = report_of(settings, models, search, baseline, confusions)
    write_report(report, settings, models, folder, search=search, baseline=baseline)
    print_unanswered("of the search", report.search.unanswered.by_reason)
    if report.student is not None:
        print_unanswered("for training the student", report.student.unanswered)
    if report.random_latents is not None:
        print_unanswered("of random latents", report.random_latents.summary.unanswered.by_reason)
    if not report.search.accepted:
        gone = report.search.rejected_by_gate
        raise JobError(
            f"no hard sample found: {search.end}",
            remedy=f"see {folder / 'report.json'}; "
            + (
                f"the gate dropped {gone} tiles of low confidence: train the generator longer, or "
                "raise search.realism_weight"
                if gone
                else "a larger search.tau is easier to reach"
            ),
        )
    export = export_of(settings, models, folder, tiles_beside(settings, models))
    cards = show(write_tiles(export, search))
    write_search_page(export, report, cards)
    publish_shown(export, show(choose_shown(export, search)))
    _say(report, folder, settings)


def _say_gate(report: "SearchReport") -> None:
    """Print how many tiles the gate dropped, and its measured power and cost."""
    from rs_lowconf.search.report import gate_lines

    ours = report.search
    looked = ours.rejected_by_gate + ours.passed_gate
    parts = ", ".join(f"{count} by {name}" for name, count in ours.dropped_by_part.items())
    print(
        f"The gate dropped {ours.rejected_by_gate} of {looked} tiles of low confidence"
        + (f": {parts}." if parts else ".")
    )
    for line in gate_lines(report.gate):
        print(line)


def print_unanswered(what: str, reasons: "Mapping[str, int]") -> None:
    """Print how many tiles a target has no answer to, if any, and why.

    Args:
        what: origin of these tiles.
        reasons: number of tiles by reason.
    """
    if reasons:
        print(
            f"The target has no answer to {sum(reasons.values()):,} tiles {what}, and none of "
            f"them is accepted: {by_reason(reasons)}."
        )


def _say(report: "SearchReport", folder: Path, settings: Settings) -> None:
    ours, most = report.search, settings.review.max_samples
    print(
        f"{ours.accepted} hard samples in {ours.evaluations:,} evaluations and "
        f"{ours.seconds:.0f} s ({report.end}); {report.evaluations_unfinished:,} more "
        "evaluations were spent on latents still in progress."
    )
    if report.student is not None:
        print(
            f"{report.student.evaluations:,} of the evaluations trained the student that guided "
            "the search."
        )
    if report.low_confidence is not None:
        share, interval = (report.low_confidence[name] for name in ("value", "interval_95"))
        bounds = " .. ".join(f"{bound:.2g}" for bound in interval) if interval else "no interval"
        print(f"Probability of low confidence under the generator: {share:.2g} ({bounds}).")
    theirs = report.random_latents
    if theirs is not None and theirs.stopped_by_minutes:
        print(
            "The comparison with random latents was cut short: search.max_minutes limits it "
            "together with the search."
        )
    if theirs is not None and report.times_less_than_random is not None:
        times = report.times_less_than_random.evaluations_per_accepted
        print(
            f"Random latents: {theirs.summary.accepted} in {theirs.summary.evaluations:,} "
            "evaluations" + (f", {times:.1f} times as many per sample." if times else ".")
        )
    _say_gate(report)
    kept = ours.still_valid_after_rounding
    print(
        f"{percent(kept.share, 1)} were still valid after rounding to stored numbers; only those "
        "count."
    )
    if ours.accepted > most:
        print(
            f"The review package contains the {most} most different ones; samples.parquet and "
            "tiles/ contain all."
        )
    after = " (open it after the review, it tells what the model said)"
    blind = settings.review.mode == "blind"
    print(f"Report{after if blind else ''}: {folder / 'report.html'}")
    print(f"Open in QGIS: {folder / 'review' / 'review.qgz'}")
    hint("Then", "review import", folder / "review")
