"""What a search reports of itself: `report.json` and the plots beside it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rs_lowconf.batch.ledger import read_description
from rs_lowconf.errors import DataError, JobError
from rs_lowconf.estimate.confusions import Confusions, compare_confusions
from rs_lowconf.models import Models, splits
from rs_lowconf.places import scores_path
from rs_lowconf.runs import RunFolder, write_json
from rs_lowconf.search.report import (
    Comparison,
    Summary,
    compare,
    low_confidence_share,
    summarise,
    write_plots,
)
from rs_lowconf.search.splitting import probability
from rs_lowconf.search.student import Lessons
from rs_lowconf.settings import Settings
from rs_lowconf.workflows.catalog import target_of
from rs_lowconf.workflows.pool import scored_tiles
from rs_lowconf.workflows.search import SearchLog

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RandomLatents:
    """What random latents gave under the same gate."""

    summary: Summary
    low_confidence: Mapping[str, Any]
    """Share of random latents below tau, with its interval."""
    of_these_pass_gate: Mapping[str, Any]
    """Share of these that the gate lets through, with its interval."""
    stopped_by_minutes: bool
    """Whether the minutes were spent before all latents were evaluated."""


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """Everything that a search says of itself."""

    created: str
    """Date and time, UTC."""
    end: str
    """Why the search stopped, and what to do about it."""
    mode: str
    method: str
    tau: float
    """Confidence below which a tile counts as hard."""
    gate: Mapping[str, Any]
    """What `Gate.describe` says: its parts, what it costs in real tiles and what it drops."""
    looks: Mapping[str, float]
    """How near a copy and a duplicate are, and the number of clusters of looks."""
    search: Summary
    evaluations_discarded: int
    """Spent on trajectories in progress when their condition had enough samples."""
    evaluations_unfinished: int
    """Spent on trajectories in progress when the search stopped."""
    models: Mapping[str, Any]
    """Settings and checksums of models that the result depends on."""
    student: Lessons | None
    """What a student was taught, where one led the search."""
    low_confidence: Mapping[str, Any] | None
    """Probability of low confidence under the generator, where splitting measured it."""
    random_latents: RandomLatents | None
    """None where no baseline was asked for."""
    times_less_than_random: Comparison | None
    """None where there is no random latent to compare with."""
    confusions: Confusions | None
    """Beside those of real tiles; None where the target has scored no labelled ones."""

    def as_json(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        values = asdict(self)
        for name in ("evaluations_discarded", "evaluations_unfinished"):
            values["search"][name] = values.pop(name)
        if self.random_latents is not None:
            theirs = values["random_latents"]
            values["random_latents"] = {**theirs.pop("summary"), **theirs}
        if self.confusions is not None:
            values["confusions"] = self.confusions.to_json()
        return {name: value for name, value in values.items() if value is not None}


def report_of(
    settings: Settings,
    models: Models,
    search: SearchLog,
    baseline: SearchLog | None,
    confusions: Confusions | None = None,
) -> SearchReport:
    """Return the report of a search.

    Args:
        settings: of the run.
        models: that searched.
        search: what it found.
        baseline: what random latents found; None where there was none.
        confusions: of what was found, see `confusions_of`.
    """
    classes = models.generator.net.classes
    taught = search.lessons.evaluations if search.lessons else 0
    ours = summarise(search.trajectories, search.seconds, classes, taught)
    theirs = None if baseline is None else _random_latents(models, baseline)
    likelihood = None
    if splits(settings.search, models.method):
        particles = settings.search.splitting.particles
        likelihood = probability(search.trajectories, particles, classes)
    return SearchReport(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        end=search.end,
        mode=settings.search.mode,
        method=models.method,
        tau=models.tau,
        gate=models.evaluator.gate.describe(),
        looks={
            "copy_distance": models.looks.copy_distance,
            "novelty_radius": models.looks.novelty_radius,
            "clusters": len(models.looks.centres),
        },
        search=ours,
        evaluations_discarded=search.discarded,
        evaluations_unfinished=search.unfinished,
        models=models.fingerprint,
        student=search.lessons,
        low_confidence=likelihood,
        random_latents=theirs,
        times_less_than_random=compare(ours, theirs.summary)
        if theirs is not None and baseline is not None and baseline.trajectories
        else None,
        confusions=confusions,
    )


def write_report(
    report: SearchReport,
    settings: Settings,
    models: Models,
    folder: Path,
    *,
    search: SearchLog,
    baseline: SearchLog | None,
) -> None:
    """Write `report.json`, `plots/` and the settings into the folder of a search.

    Args:
        report: of the search.
        settings: of the run.
        models: that searched.
        folder: of the search.
        search: what it found.
        baseline: what random latents found; None where there was none.
    """
    RunFolder(folder, settings)
    write_json(folder / "report.json", report.as_json())
    write_plots(
        folder / "plots",
        search.trajectories,
        () if baseline is None else baseline.trajectories,
        tau=models.tau,
        classes=models.generator.net.classes,
        target_classes=models.target.classes,
        class_map=models.class_map,
    )


def confusions_of(settings: Settings, models: Models, search: SearchLog) -> Confusions | None:
    """Return the confusions of what was found, beside those of what `rslow batch score` scored.

    None where it scored no labelled tile with this target, or where classes are of pixels.

    Args:
        settings: of the run; they name the target, which a model in memory has no key for.
        models: that searched.
        search: what it found.
    """
    path = scores_path(settings)
    if models.generator.condition.pixelwise or not path.exists():
        return None
    try:
        # Scores of another target say nothing of this one.
        if target_of(settings, trust_code=False).key not in read_description(path.parent)["key"]:
            return None
        scores, narrowed = scored_tiles(settings)
    except (DataError, JobError) as error:  # which is no reason to lose a search that has ended
        log.warning("what was found is not compared with errors on real tiles: %s", error)
        return None
    scores = scores.take(narrowed.rows & scores.labelled)
    if not len(scores):
        return None
    classes, says = models.generator.net.classes, models.target.classes
    found = [
        (classes[one.label], says[int(one.found.log_probability.argmax())])
        for one in search.trajectories
        if one.found is not None
    ]
    return compare_confusions(
        found,
        scores.pairs,
        says=says,
        class_map=models.class_map,
        learned=int((scores.shown["rslow:split"] == "train").sum()),
        seed=settings.run.seed,
    )


def _random_latents(models: Models, baseline: SearchLog) -> RandomLatents:
    return RandomLatents(
        summary=summarise(baseline.trajectories, baseline.seconds, models.generator.net.classes),
        **low_confidence_share(baseline.trajectories, models.tau),
        stopped_by_minutes=baseline.late,
    )
