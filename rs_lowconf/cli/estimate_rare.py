"""`rslow estimate rare`: how rare low confidence is under the generator, beside real tiles."""

from pathlib import Path
from typing import TYPE_CHECKING

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate import estimate_app, pool_is_there
from rs_lowconf.cli.progress import interrupt_between_steps, progress, show
from rs_lowconf.cli.tables import open_console, show_table

if TYPE_CHECKING:
    from rs_lowconf.estimate.ladder_report import Ladders
    from rs_lowconf.workflows.rare import Question, RareEstimate


@estimate_app.command()
def rare(
    config: ConfigOption = None, set_: SetOption = None, trust_code: TrustOption = False
) -> None:
    """Tell how rare low confidence and disagreement are under the generator, by condition.

    Populations of random latents climb down the target's confidence, which tells probabilities
    that no number of random tiles would. They are those of generated tiles, not of real ones,
    whose shares stand beside them where `rslow batch score` has scored some. Goes on where an
    interrupted run stopped. Writes report.md, report.json and ladder.png into
    run.dir/estimate/rare.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.rare import open_rare

    estimate = show(open_rare(settings, trust_code=trust_code))
    left = estimate.left
    if left:
        _answer(estimate, left)
    ladders, written = estimate.report()
    if not written and not left:
        print("Nothing to do: no model, setting or score has changed.")
    _say(estimate.folder, ladders)
    if ladders.real is None:
        pool_is_there(settings)


def _answer(estimate: "RareEstimate", left: "list[Question]") -> None:
    """Ask what is left, with progress.

    Raises:
        KeyboardInterrupt: somebody asked to stop; finished answers are kept.
    """
    total = len(estimate.questions)
    first = total - len(left)
    with progress("rare events", total, first) as bar, interrupt_between_steps() as interrupt:
        for done, question in enumerate(left, first):

            def watch(asked: int, done: int = done, name: str = question.name) -> None:
                bar.update(done, f"{name}: {asked:,} tiles")
                interrupt.check()

            estimate.answer(question, watch)
            bar.update(done + 1)


def _say(folder: Path, ladders: "Ladders") -> None:
    """Print the ladder of all conditions, and the ends of that of each."""
    from rs_lowconf.estimate import ladder_report as words

    console, real = open_console(), ladders.real
    events, ours = words.events_of(ladders.thresholds), words.rungs_of(ladders.overall)
    beside = words.rungs_of(real.overall) if real else [None] * len(events)
    rows = [("event", "generated", "standard error", "real")]
    for event, rung, theirs in zip(events, ours, beside, strict=True):
        if rung is not None:
            rows.append((event, words.told(rung), words.precision(rung), words.told(theirs)))
    show_table(console, "All conditions, weighing the same", "lrrr", rows)
    table: list[tuple[str, ...]] = [("condition", events[-2], events[-1], f"real {events[-1]}")]
    by_class = real.by_class if real else {}
    for name, ladder in ladders.by_condition.items():
        theirs = by_class[name].disagreement if name in by_class else None
        rungs = (ladder.rungs[-1], ladder.disagreement, theirs)
        table.append((name, *map(words.told, rungs)))
    show_table(console, "By condition", "lrrr", table)
    for line in (*words.notes(ladders), words.about_real(ladders)):
        print(line)
    print(
        "These are probabilities under the generator's latent law, not error rates on real tiles; "
        "the report says what that means."
    )
    print(f"Report: {folder / 'report.md'}")
    print(f"Ladder: {folder / 'ladder.png'}")
