"""`rslow batch score | review | status | retry | stop`: jobs over a catalog."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import (
    duration,
    interrupt_between_steps,
    print_left_out,
    progress,
)
from rs_lowconf.cli.tables import counted
from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.places import job_folder
from rs_lowconf.settings import BatchSettings, Settings

if TYPE_CHECKING:
    from rs_lowconf.batch import Executor, Job, Status
    from rs_lowconf.data.catalog.table import Catalog
    from rs_lowconf.vocabulary import Vocabulary

_CHUNK = 256
"""Tiles of a chunk, which together take seconds."""

_ERRORS_SHOWN = 10

batch_app = typer.Typer(help="Jobs over a catalog of tiles.", no_args_is_help=True)
app.add_typer(batch_app, name="batch")

SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Address of a Dask scheduler to work on, such as tcp://10.0.0.1:8786.",
        show_default="none",
    ),
]
FolderArgument = Annotated[
    Path | None,
    typer.Argument(help="The job's folder; run.dir/batch/score when missing."),
]


@batch_app.command()
def score(
    config: ConfigOption = None,
    set_: SetOption = None,
    scheduler: SchedulerOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Ask the target about every tile of a catalog, and draw a map of its confidence.

    Can be interrupted, killed and run again: what is done is kept, and only what a changed
    setting or tile concerns is done anew. Tiles that cannot be scored are listed and stop
    nothing. Results are in run.dir/batch/score: parts/ while it runs, at the end also
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
    # Quotas are for what takes people or minutes a tile; where it is unsure, only all scores tell.
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
    )
    print_classes(labels_of(catalog), "the target", target.classes)
    if is_stamped(folder, fingerprint(folder, inputs)):
        _tell(folder)
        print("Nothing to do: no tile, target or setting has changed.")
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

        write_scores(folder, catalog, inputs)
    print(f"Scores: {folder / 'scores.parquet'}")
    print(f"Open in QGIS: {folder / 'scores.qgz'}")


@batch_app.command()
def review(
    config: ConfigOption = None, set_: SetOption = None, trust_code: TrustOption = False
) -> None:
    """Write the real tiles that the target is least sure of as a package to label in QGIS.

    Takes what `rslow batch score` found, the lowest below search.tau first, at most
    batch.per_class of a class, batch.per_region of a region and review.max_samples. The
    reviewer says of which class each is; its class in the catalog is suggested where there is
    one. Tiles that were answered before are not asked again. Packages are
    run.dir/batch/review, review-2 and so on.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.batch import status
    from rs_lowconf.batch.review import choose, classes_of, scores_of, write_real
    from rs_lowconf.workflows.catalog import target_of, tiles_of

    catalog, job = tiles_of(settings), job_folder(settings, "score")
    if not job.exists():
        raise JobError("the tiles have no scores", command="batch score")
    target = target_of(settings, trust_code=trust_code)
    scores = scores_of(catalog, job, target)
    left = status(job).left
    if left:
        print(f"{left:,} tiles are not scored yet and are left out.")
    chosen = choose(scores, settings)
    print_left_out(chosen.left_out, len(scores))
    answered = f", {chosen.answered:,} of them answered before" if chosen.answered else ""
    print(
        f"{chosen.below:,} of {len(scores):,} scored tiles are below {chosen.tau:.3f}{answered}; "
        f"{len(chosen.scores):,} are chosen: {counted(Counter(classes_of(chosen.scores)))}"
    )
    folder = write_real(
        settings,
        catalog,
        chosen.scores,
        target,
        into=settings.run.dir / "batch",
        labels=chosen.labels,
        provenance={"tau": f"{chosen.tau:.6f}"},
    )
    print(f"Open in QGIS: {folder / 'review.qgz'}")
    print(f"In their place, also in QGIS: {folder / 'context.qgz'}")
    hint("Then", "review import", folder)


@batch_app.command("status")
def show_status(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Tell how far a job is and which tiles failed; asks its folder, not who works on it."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import status

    where = folder or job_folder(settings, "score")
    told = status(where)
    print(
        f"{told.kind}: {told.done:,} of {told.planned:,} tiles done, {told.failed:,} failed, "
        f"{told.left:,} left"
    )
    if told.running is None:
        print("Not running.")
        if told.left:
            _run_again(settings, where, told.kind)
    else:
        print(f"Worked on by {told.running}{', asked to stop' if told.stopping else ''}.")
    if told.rate is not None and told.seconds_left:
        print(f"{told.rate:,.1f} tiles a second, {duration(told.seconds_left)} for the rest.")
    _show_errors(where)


@batch_app.command()
def retry(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Have the next run of a job try its failed tiles again."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import forget_errors, status

    where = folder or job_folder(settings, "score")
    count = forget_errors(where)
    print(f"{count:,} tiles will be tried again when the job goes on.")
    _run_again(settings, where, status(where).kind)


@batch_app.command()
def stop(
    folder: FolderArgument = None, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Ask who works on a job to finish the chunks that are begun and end."""
    settings = load_settings(config, set_)
    from rs_lowconf.batch import request_stop

    request_stop(folder or job_folder(settings, "score"))
    print("It will stop when the chunks that are begun are done.")


def print_classes(labels: "Vocabulary", origin: str, classes: Sequence[str]) -> None:
    """Print which classes only a catalog or only a model names; nothing where one names none.

    Raises:
        DataError: a class is written in two ways, which is told before hours of work.
    """
    from rs_lowconf.vocabulary import class_list, join

    remark = join(labels, class_list(f"the classes of {origin}", classes)).remark
    if labels.names and classes and remark:
        print(remark)


def labels_of(catalog: "Catalog") -> "Vocabulary":
    """Return the classes that the labels of a catalog name."""
    from rs_lowconf.vocabulary import vocabulary

    column = "rslow:label"
    names = [name for own in catalog.tables((column,)) for name in own[column].unique().to_pylist()]
    return vocabulary(f"the labels of {catalog.path}", names)


def _run_again(settings: Settings, folder: Path, kind: str) -> None:
    """Say how a job goes on, which is with the settings that it began with."""
    if folder.resolve() != job_folder(settings, kind).resolve():
        print("It goes on with the command that began it.")
    elif kind == "score":
        hint("To go on", "batch score")
    elif kind == "generate":
        hint("To go on", "batch generate")


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
    """Work on a job with progress; return whether all tiles are done or have failed."""
    from rs_lowconf.batch import run_job

    with interrupt_between_steps() as interrupt:
        with progress(job.kind, len(job.rows)) as bar:
            for step in run_job(job, executor, stopped=lambda: interrupt.requested):
                failed = f"{step.failed:,} failed. " if step.failed else ""
                bar.update(step.done + step.failed, f"{failed}{step.rate:,.1f} tiles a second")
        told = _tell(job.folder)
    if told.left:
        print(f"{told.left:,} tiles are left: the same command goes on.")
    if told.done == 0 and told.left == 0:
        raise JobError(
            "no tile could be worked on, see above",
            remedy="correct that and have the tiles tried again",
            command=f"batch retry {shlex.quote(str(job.folder))}",
        )
    return told.left == 0


def _tell(folder: Path) -> "Status":
    """Print how far a job is and what went wrong."""
    from rs_lowconf.batch import status

    told = status(folder)
    print(f"{told.done:,} of {told.planned:,} tiles done, {told.failed:,} failed.")
    _show_errors(folder)
    return told


def _show_errors(folder: Path) -> None:
    """Print what went wrong, with the number of tiles and one of them."""
    from rs_lowconf.batch import read_errors

    problems: dict[str, list[str]] = {}
    for error in read_errors(folder):
        problems.setdefault(f"{error.kind.value}: {error.message}", []).append(error.id)
    ordered = sorted(problems.items(), key=lambda item: (-len(item[1]), min(item[1])))
    for text, ids in ordered[:_ERRORS_SHOWN]:
        print(f"  {len(ids):,} {text} (such as {min(ids)})")
    if len(ordered) > _ERRORS_SHOWN:
        print(f"  and {len(ordered) - _ERRORS_SHOWN:,} other problems, all in {folder / 'errors'}")
