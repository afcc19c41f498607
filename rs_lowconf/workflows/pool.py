"""The pool that the settings mean, with its error probabilities, and the plan for it."""

from pathlib import Path

from rs_lowconf.batch.choose import Narrowed, narrow
from rs_lowconf.errors import DataError, JobError
from rs_lowconf.estimate.describe_plan import LabelPlan, plan_labels
from rs_lowconf.estimate.prepare import Prepared, prepare
from rs_lowconf.estimate.scores import Scores, read_scores
from rs_lowconf.places import catalog_path, scores_path
from rs_lowconf.runs import finite, write_json, write_text
from rs_lowconf.settings import Settings
from rs_lowconf.workflows.records import LeftOut, Work

PLAN_FORMAT = 1


def load_pool(settings: Settings) -> Work[Prepared]:
    """Return the pool with its error probabilities.

    Raises:
        RsLowconfError: see `load_scores` and `prepare`.
    """
    section = settings.estimate
    scores = yield from load_scores(settings)
    return prepare(
        scores,
        validation=_table(section.validation, settings),
        surrogates=section.surrogates,
        generated=_table(section.generated_samples, settings),
        seed=settings.run.seed,
        defensive=section.defensive,
    )


def load_scores(settings: Settings, *, features: bool = False) -> Work[Scores]:
    """Return the scores of the pool: of a table, or what `rslow batch score` found.

    Args:
        settings: of the run.
        features: whether to read those of a table too.

    Raises:
        DataError: see `read_scores`; no tile is in the splits and collections of the settings.
        JobError: nothing was scored yet.
    """
    section = settings.estimate
    if section.scores is not None:
        return read_scores(
            section.scores,
            section.measure,
            features=features,
            class_map=settings.target.common_names,
        )
    scores, narrowed = scored_tiles(settings)
    yield LeftOut(what="tiles", reasons=narrowed.left_out, total=len(scores))
    return scores.take(narrowed.rows)


def scored_tiles(settings: Settings) -> tuple[Scores, Narrowed]:
    """Return what `rslow batch score` found, and which of it is in the splits and collections.

    Raises:
        DataError: see `load_scores`.
        JobError: nothing was scored yet.
    """
    path = scores_path(settings)
    if not path.exists():
        raise _no_scores(settings, path)
    measure = settings.estimate.measure
    scores = read_scores(path, measure, class_map=settings.target.common_names)
    return scores, narrow(
        lambda name: scores.shown[name].tolist(), len(scores), settings.batch, error=DataError
    )


def write_plan(settings: Settings, prepared: Prepared) -> LabelPlan:
    """Return the plan for a pool, which plan.json and plan.md in run.dir/estimate then hold.

    Raises:
        SettingsError: see `plan_labels`.
        OutputError: the files cannot be written.
    """
    section, folder = settings.estimate, settings.run.dir / "estimate"
    plan = plan_labels(
        prepared,
        section.budget,
        width=section.width,
        defensive=section.defensive,
        level=section.level,
        seed=settings.run.seed,
    )
    about = {"format": PLAN_FORMAT, "remark": prepared.remark}
    write_json(folder / "plan.json", {**about, **finite(plan.to_json())})
    write_text(folder / "plan.md", plan.page(prepared.remark).markdown("plots"))
    return plan


def _table(path: Path | None, settings: Settings) -> Scores | None:
    if path is None:
        return None
    return read_scores(path, settings.estimate.measure, class_map=settings.target.common_names)


def _no_scores(settings: Settings, path: Path) -> JobError:
    """Return the error of a pool that is missing, with the first step towards it."""
    found = f"there are no scores {path}"
    if catalog_path(settings).is_file():
        return JobError(found, remedy="name a table by estimate.scores", command="batch score")
    if settings.data.kind != "none":
        return JobError(found, remedy="name a table by estimate.scores", command="catalog build")
    return JobError(
        found,
        remedy="name a table by estimate.scores, or tiles to catalog by data.kind and data.root",
    )
