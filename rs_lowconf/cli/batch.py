"""`rslow batch score | review | suspects | status | retry | stop`: jobs over a catalog."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import (
    duration,
    interrupt_between_steps,
    print_left_out,
    progress,
)
from rs_lowconf.cli.tables import with_counts
from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.places import job_folder
from rs_lowconf.settings import BatchSettings, Settings

if TYPE_CHECKING:
    import geopandas

    from rs_lowconf.batch import Executor, Job, Status
    from rs_lowconf.batch.jobs import TargetOf
    from rs_lowconf.batch.review import Chosen
    from rs_lowconf.data.catalog.table import Catalog
    from rs_lowconf.vocabulary import Vocabulary

_CHUNK = 256
"""Tiles of a chunk, so that a chunk takes seconds."""

_ERRORS_SHOWN = 10

batch_app = typer.Typer(help="Jobs over a catalog of tiles.", no_args_is_help=True)
app.add_typer(batch_app, name="batch")

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Address of a Dask scheduler to use, such as tcp://10.0.0.1:8786.",
        show_default="none",
    ),
]
FolderArgument = Annotated[
    Path | None,
    typer.Argument(help="The job's folder; default is run.dir/batch/score."),
]


@batch_app.command()
def score(
    config: ConfigOption = None,
    set_: SetOption = None,
    scheduler: SchedulerOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Score every tile of a catalog with the target, and draw a map of its confidence.

    Can be interrupted, killed and run again: results are kept, and only tiles affected by changed
    settings or data are scored again. Tiles that cannot be scored are listed and do not stop the
    job. Results are in run.dir/batch/score: parts/ while it runs, at the end also report.html,
    scores.parquet and scores.qgz.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.batch import Job
    from rs_lowconf.batch.choose import chosen_rows, selection
    from rs_lowconf.batch.score import ScoreWork
    from rs_lowconf.batch.stamp import fingerprint, is_stamped
    from rs_lowconf.runs import sha256_of
    from rs_lowconf.workflows.catalog import target_of, tiles_of

    catalog, folder = tiles_of(settings), job_folder(settings, "score")
    # Quotas are for steps that take people, or minutes per tile; low confidence is only found by
    # scoring all.
    batch = settings.batch.model_copy(update={"per_class": None, "per_region": None})
    rows = chosen_rows(catalog, batch, settings.run.seed)
    target = target_of(settings, trust_code=trust_code)
    work = ScoreWork(
        target=target,
        target_key=target.key,
        pixel_share=settings.search.pixel_share,
        micro_batch=settings.search.micro_batch,
        kinds=rows.kinds(),
    )
    inputs = (
        str(catalog.path.resolve()),
        sha256_of(catalog.path),
        work.key,
        selection(batch, settings.run.seed),
        f"{settings.search.tau} {settings.search.tau_quantile}",
    )
    print_classes(labels_of(catalog), "the target", target.classes, settings.target.common_names)
    if is_stamped(folder, fingerprint(folder, inputs)):
        _show_state(folder)
        print("Nothing to do: tiles, target and settings have not changed.")
    else:
        print_left_out(rows.left_out, len(catalog))
        job = Job(
            folder=folder,
            kind="score",
            rows=rows,
            work=work,
            chunk_rows=settings.batch.chunk or _CHUNK,
        )
        if not work_on(job, executor_of(settings.batch, scheduler)):
            return
        from rs_lowconf.batch.collect import write_scores

        write_scores(folder, catalog, inputs, settings, target)
    print(f"Report: {folder / 'report.html'}")
    print(f"Scores: {folder / 'scores.parquet'}")
    print(f"Open in QGIS: {folder / 'scores.qgz'}")


@batch_app.command()
def review(
    config: ConfigOption = None, set_: SetOption = None, trust_code: TrustOption = False
) -> None:
    """Write the real tiles with the lowest confidence as a package to label in QGIS.

    Uses the scores of `rslow batch score`: tiles below search.tau, the lowest first, at most
    batch.per_class per class, batch.per_region per region and review.max_samples. The reviewer
    chooses the class of each tile; its class in the catalog, if any, is suggested. Of a target that
    predicts a class per pixel, the reviewer judges masks instead: the catalog's, or the target's
    where the catalog has none. Tiles that were reviewed before are not shown again. Packages are
    run.dir/batch/review, review-2 and so on.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.batch import status
    from rs_lowconf.batch.review import choose, classes_of

    scored = _scored(settings, trust_code=trust_code)
    left = status(job_folder(settings, "score")).left
    if left:
        print(f"{left:,} tiles are not scored yet and are skipped.")
    chosen, total = choose(scored.scores, settings), len(scored.scores)
    classes = classes_of(chosen.scores, settings.target.common_names)
    print_left_out(chosen.left_out, total)
    answered = f", {chosen.answered:,} of them answered before" if chosen.answered else ""
    print(
        f"{chosen.below:,} of {total:,} scored tiles are below {chosen.tau:.3f}{answered}; "
        f"{len(chosen.scores):,} are chosen: {with_counts(Counter(classes))}"
    )
    _show_real(settings, scored, chosen, {"tau": f"{chosen.tau:.6f}"})


@batch_app.command()
def suspects(
    config: ConfigOption = None, set_: SetOption = None, trust_code: TrustOption = False
) -> None:
    """Write the labelled tiles whose label is most suspicious as a package to check in QGIS.

    Uses the scores of `rslow batch score`: the label's probability is far below that of another
    class. At most batch.per_class per class, batch.per_region per region and review.max_samples.
    The label is suggested; the reviewer confirms or corrects it. Use a target that did not learn
    from these labels. Packages are run.dir/batch/review, review-2 and so on.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.batch.suspects import choose_suspects

    scored = _scored(settings, trust_code=trust_code)
    chosen = choose_suspects(scored.scores, settings, scored.target.classes)
    print_left_out(chosen.left_out, len(scored.scores))
    answered = f"; {chosen.answered:,} tiles were answered before" if chosen.answered else ""
    print(
        f"{chosen.disagree:,} of {chosen.labelled:,} labels differ from the prediction{answered}; "
        f"the {len(chosen.scores):,} most suspicious are chosen: "
        f"{with_counts(Counter(chosen.scores['label']))}"
    )
    _show_real(settings, scored, chosen, {"chosen_by": "suspicion of the label"})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """A catalog with its scores."""

    catalog: "Catalog"
    target: "TargetOf"
    scores: "geopandas.GeoDataFrame"


def _scored(settings: Settings, *, trust_code: bool) -> _Scored:
    """Return what `rslow batch score` found with the target of the settings."""
    from rs_lowconf.batch.review import scores_of
    from rs_lowconf.workflows.catalog import target_of, tiles_of

    catalog, job = tiles_of(settings), job_folder(settings, "score")
    if not job.exists():
        raise JobError("the tiles have no scores", command="batch score")
    target = target_of(settings, trust_code=trust_code)
    return _Scored(catalog=catalog, target=target, scores=scores_of(catalog, job, target))


def _show_real(
    settings: Settings, scored: _Scored, chosen: "Chosen", provenance: dict[str, str]
) -> None:
    """Write the chosen tiles as a package, and print where it is."""
    from rs_lowconf.batch.review import write_real

    folder = write_real(
        settings,
        scored.catalog,
        chosen.scores,
        scored.target,
        into=settings.run.dir / "batch",
        labels=chosen.labels,
        provenance=provenance,
    )
    print(f"Open in QGIS: {folder / 'review.qgz'}")
    print(f"At their location, also in QGIS: {folder / 'context.qgz'}")
    hint("Then", "review import", folder)


@batch_app.command("status")
def show_status(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Show a job's progress and failed tiles: reads its folder, also while it runs elsewhere."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import status

    where = folder or job_folder(settings, "score")
    state = status(where)
    print(
        f"{state.kind}: {state.done:,} of {state.planned:,} tiles done, {state.failed:,} failed, "
        f"{state.left:,} left"
    )
    if state.running is None:
        print("Not running.")
        if state.left:
            _run_again(settings, where, state.kind)
    else:
        print(f"Running in {state.running}{', asked to stop' if state.stopping else ''}.")
    if state.rate is not None and state.seconds_left:
        print(f"{state.rate:,.1f} tiles per second, {duration(state.seconds_left)} left.")
    _show_errors(where)


@batch_app.command()
def retry(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Make the next run of a job retry its failed tiles."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import forget_errors, status

    where = folder or job_folder(settings, "score")
    count = forget_errors(where)
    print(f"{count:,} tiles will be tried again when the job is resumed.")
    _run_again(settings, where, status(where).kind)


@batch_app.command()
def stop(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Request that a running job stops after the chunks in progress."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import request_stop

    request_stop(folder or job_folder(settings, "score"))
    print("It will stop after the chunks in progress.")


def print_classes(
    labels: "Vocabulary", origin: str, classes: Sequence[str], class_map: ClassMap = PLAIN
) -> None:
    """Print which classes only a catalog or only a model has; nothing if one has none.

    Raises:
        DataError: a class is spelled in two ways, reported before hours of work.
        SettingsError: the map does not fit them.
    """
    from rs_lowconf.vocabulary import class_list

    known = class_list(f"the classes of {origin}", classes)
    if classes:
        class_map.check(known)
    remark = class_map.meet(labels, known).remark
    if labels.names and classes and remark:
        print(remark)


def labels_of(catalog: "Catalog") -> "Vocabulary":
    """Return the classes of a catalog's labels."""
    from rs_lowconf.vocabulary import vocabulary

    column = "rslow:label"
    names = [
        name for table in catalog.tables((column,)) for name in table[column].unique().to_pylist()
    ]
    return vocabulary(f"the labels of {catalog.path}", names)


def _run_again(settings: Settings, folder: Path, kind: str) -> None:
    """Print how to resume a job, with the settings that it began with."""
    if folder.resolve() != job_folder(settings, kind).resolve():
        print("Run the original command again to resume.")
    elif kind == "score":
        hint("To resume", "batch score")
    elif kind == "generate":
        hint("To resume", "batch generate")


def executor_of(settings: BatchSettings, scheduler: str | None) -> "Executor":
    """Return where the work of a job runs.

    Raises:
        SettingsError: in processes, and this system has none that can be killed with their helpers.
    """
    from rs_lowconf.batch import Dask, Processes, Serial

    workers = settings.workers or os.cpu_count() or 1
    alone = scheduler is None and settings.executor == "serial" and settings.seconds is None
    if not alone and not hasattr(os, "killpg"):
        raise SettingsError(
            f"batch.executor={settings.executor} with batch.seconds={settings.seconds} starts "
            "processes that can be killed, which rs_lowconf cannot do on this system",
            remedy="set batch.executor=serial and batch.seconds=null",
        )
    if scheduler is not None or settings.executor == "dask":
        return Dask(address=scheduler, workers=workers, seconds=settings.seconds)
    if settings.executor == "process":
        return Processes(workers=workers, seconds=settings.seconds)
    return Serial(seconds=settings.seconds)


def work_on(job: "Job", executor: "Executor") -> bool:
    """Run a job with progress; return whether all tiles are done or have failed."""
    from rs_lowconf.batch import run_job

    with interrupt_between_steps() as interrupt:
        with progress(job.kind, len(job.rows)) as bar:
            for step in run_job(job, executor, stopped=lambda: interrupt.requested):
                failed = f"{step.failed:,} failed. " if step.failed else ""
                bar.update(step.done + step.failed, f"{failed}{step.rate:,.1f} tiles per second")
        state = _show_state(job.folder)
    if state.left:
        print(f"{state.left:,} tiles are left: run the same command again to resume.")
    if state.done == 0 and state.left == 0:
        raise JobError(
            "no tile could be processed, see above",
            remedy="correct that and retry the tiles",
            command=f"batch retry {shlex.quote(str(job.folder))}",
        )
    return state.left == 0


def _show_state(folder: Path) -> "Status":
    """Print progress and problems of a job."""
    from rs_lowconf.batch import status

    state = status(folder)
    print(f"{state.done:,} of {state.planned:,} tiles done, {state.failed:,} failed.")
    _show_errors(folder)
    return state


def _show_errors(folder: Path) -> None:
    """Print the problems, each with its number of tiles and an example."""
    from rs_lowconf.batch import problems

    found = problems(folder)
    for one in found[:_ERRORS_SHOWN]:
        print(f"  {one.count:,} {one.text} (such as {one.example})")
    if len(found) > _ERRORS_SHOWN:
        print(f"  and {len(found) - _ERRORS_SHOWN:,} other problems, all in {folder / 'errors'}")
