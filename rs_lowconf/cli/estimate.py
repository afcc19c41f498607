"""`rslow estimate plan | draw | report | experiment`: an honest error rate from few labels."""

from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import show
from rs_lowconf.percents import percent
from rs_lowconf.places import catalog_path, scores_path
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.estimate.prepare import Prepared
    from rs_lowconf.estimate.waves import Waves

estimate_app = typer.Typer(
    help="Honest error estimates of a model from few labels.", no_args_is_help=True
)
app.add_typer(estimate_app, name="estimate")

NameOption = Annotated[
    str, typer.Option("--name", help="Folder of this draw below run.dir/estimate.")
]
ExperimentOption = Annotated[
    str, typer.Option("--name", help="Folder of this experiment below run.dir/estimate.")
]


@estimate_app.command()
def plan(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show before anyone labels what sampling can save and how many labels are needed.

    For each design and defensive share: how many labels it saves over a uniform draw, the expected
    width of the interval with estimate.budget, and the labels needed for estimate.width. With
    estimate.validation, ranges come from a bootstrap of these labels; without it, the target's
    confidence is assumed to be calibrated. It ends with a recommendation. Writes
    run.dir/estimate/plan.json and plan.md.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.cli.tables import open_console, show_table
    from rs_lowconf.estimate.describe_plan import SAVING
    from rs_lowconf.workflows.pool import load_pool, write_plan

    prepared = show(load_pool(settings))
    _say_pool(prepared)
    planned = write_plan(settings, prepared)
    rows, folder = planned.rows(), settings.run.dir / "estimate"
    print(f"{planned}\n")
    show_table(open_console(), SAVING, "l" + "r" * (len(rows[0]) - 1), rows)
    print(f"The whole plan: {folder / 'plan.json'}, {folder / 'plan.md'}")
    print(planned.recommendation)
    wanted = {
        "design": planned.recommended.method,
        "budget": planned.recommended_labels,
        "defensive": planned.recommended.defensive,
    }
    hint("Then", "estimate draw", set_=[f"estimate.{key}={wanted[key]}" for key in wanted])


@estimate_app.command()
def draw(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "draw",
    trust_code: TrustOption = False,
) -> None:
    """Draw a probability sample of units to label, and write what people label them in.

    Tiles of a catalog become review packages for QGIS; units of a table become a CSV to fill in.
    The draw depends on the pool and run.seed only. It is stored with checksums, and changed files
    are refused later. The adaptive design is drawn in waves: run this again once a wave is labelled
    (and imported).
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.estimate import draw_first, draw_folder, draw_next, write_to_label
    from rs_lowconf.workflows.pool import load_pool

    folder, naming = draw_folder(settings, name), () if name == "draw" else ("--name", name)
    if not folder.existing:
        prepared = show(load_pool(settings))
        _say_pool(prepared)
        draw_first(settings, folder, prepared)
    waves, finished = draw_next(settings, folder)
    if finished:
        hint("Drawn and labelled; next", "estimate report", *naming)
        return
    _say_wave(waves)
    to_label = write_to_label(settings, folder, waves, trust_code=trust_code)
    if to_label.table is not None:
        print(f"Fill in the column label (? where it cannot be told): {to_label.table}")
    for package in to_label.packages:
        print(f"Open in QGIS: {package / 'review.qgz'}")
        hint("Then", "review import", package)
    if waves.complete:
        hint("Then", "estimate report", *naming)
    else:
        hint("Then", "estimate draw", *naming)


@estimate_app.command()
def report(config: ConfigOption = None, set_: SetOption = None, name: NameOption = "draw") -> None:
    """Report the target's error rate on the pool, with confidence intervals.

    Needs a label for every drawn unit. Writes report.json, report.md with plots/, and the
    self-contained report.html into run.dir/estimate/NAME.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.estimate import draw_folder, report_draw

    folder = draw_folder(settings, name)
    print(report_draw(settings, folder))
    print(f"Report: {folder.path / 'report.html'}, report.md and report.json")


@estimate_app.command()
def experiment(
    config: ConfigOption = None, set_: SetOption = None, name: ExperimentOption = "experiment"
) -> None:
    """Replay all designs on a labelled pool: is labelling unsure units worth it?

    Units without a label are left out. Reports RMSE, saving, bias, coverage and interval width of
    each design, what the plan predicted, how each design copes with errors at high confidence, and
    the paper's own proposal: labels of generated tiles, taken as they are and as hints where to
    look. If interrupted, run it again to resume. Writes report.json, report.md and report.html into
    run.dir/estimate/NAME.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.experiment import run_experiment

    folder = settings.run.dir / "estimate" / name
    for line in show(run_experiment(settings, folder)):
        print(line)
    print(f"Report: {folder / 'report.html'}, report.md and report.json")


def pool_is_there(settings: Settings) -> bool:
    """Return whether real tiles are scored; print the first step towards that if not."""
    if settings.estimate.scores is not None:
        return settings.estimate.scores.exists()
    if scores_path(settings).exists():
        return True
    if catalog_path(settings).is_file():
        hint("To compare with real tiles", "batch score")
    elif settings.data.kind != "none":
        hint("To compare with real tiles", "catalog build")
    return False


def _say_pool(prepared: "Prepared") -> None:
    """Print what the pool is and what its error probabilities are worth."""
    print(
        f"{len(prepared.pool):,} units of {prepared.scores.source}, "
        f"{len(prepared.classes)} classes, {100 * prepared.pool.g.mean():.3g} % errors expected"
    )
    if prepared.remark:
        print(prepared.remark)
    choice = prepared.choice
    if choice is None:
        print("No validation labels: error probabilities are taken from the models as they are.")
    else:
        gain = f", {choice.gain:.2f} times better than confidence" if choice.gain > 1 else ""
        print(
            f"Error predictor: {choice.name}{gain}, of {', '.join(prepared.predictors)}; chosen "
            "by validation labels"
        )


def _say_wave(waves: "Waves") -> None:
    """Print what was drawn last."""
    from rs_lowconf.estimate.designs import DESIGNS

    request, wave = waves.request, len(waves.draws)
    number = f"Wave {wave} of {len(request.sizes)}: " if len(request.sizes) > 1 else ""
    defensive = ""
    if not DESIGNS[request.design].simple_random:
        defensive = f" {percent(request.defensive, 0)} of the labels uniformly at random,"
    print(
        f"{number}{len(waves.draws[-1]):,} labels, {len(waves.new_ids(wave)):,} units to label. "
        f"Design {request.design},{defensive} seed {request.seed}."
    )
