"""`rslow generate`: from trained models to a review package."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import interrupt_between_steps, progress
from rs_lowconf.errors import JobError, ReviewError, by_reason
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from rs_lowconf.models import Models
    from rs_lowconf.search.archive import Archive
    from rs_lowconf.search.evaluate import Evaluator
    from rs_lowconf.search.journal import Journal
    from rs_lowconf.search.loop import SearchRules, Trajectory
    from rs_lowconf.search.student import Lessons, Student

NameOption = Annotated[
    str, typer.Option("--name", help="Folder of this search below run.dir; one search a folder.")
]


@app.command()
def generate(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "generate",
    trust_code: TrustOption = False,
) -> None:
    """Search for realistic tiles the target is unsure of and write a QGIS review package.

    Without --config it searches the embedded models and needs neither data nor network. Goes
    on where an interrupted run stopped. Writes report.json, plots/, samples.parquet, tiles/ and
    review/ into run.dir/NAME; open review/review.qgz in QGIS.
    """
    settings = load_settings(config, set_)
    folder = settings.run.dir / name
    if (folder / "review").exists():
        raise ReviewError(
            f"{folder / 'review'} exists already, and reviews may live in it",
            remedy="choose another --name, or move that folder away",
        )
    from rs_lowconf.models import load_models

    models = load_models(settings, trust_code=trust_code)
    search = run_search(settings, models, folder, "search")
    baseline = None
    if settings.search.baseline_evaluations:
        baseline = run_search(settings, models, folder, "baseline", spent=search.seconds)
    _export(settings, models, folder, search, baseline)


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search left in its journal."""

    trajectories: "tuple[Trajectory, ...]"
    """Without their tiles, which the journal holds."""
    journal: "Journal"
    seconds: float
    end: str
    """Why it stopped and what to do about it."""
    late: bool
    """Whether it stopped because the minutes were spent."""
    discarded: int
    """Evaluations of trajectories that were on their way when their condition had enough."""
    unfinished: int
    """Evaluations of trajectories that were on their way when the search stopped."""
    lessons: "Lessons | None" = None
    """What a student was taught."""


def rules_of(settings: Settings, models: "Models", stream: str) -> "SearchRules":
    """Return the rules of a stream: the search, or the random-latent baseline."""
    from rs_lowconf.models import audits
    from rs_lowconf.search.loop import SearchRules

    own = settings.search
    return SearchRules(
        mode="yield" if stream == "search" else "random",
        tau=models.tau,
        max_age=own.max_age,
        slots=own.slots,
        learning_rate=own.learning_rate,
        labels=models.labels,
        run_seed=settings.run.seed,
        stream=stream if models.round == 1 else f"{stream} of round {models.round}",
        audit=stream == "search" and audits(settings),
    )


def archive_of(settings: Settings, models: "Models") -> "Archive":
    """Return an empty archive."""
    from rs_lowconf.search.archive import Archive
    from rs_lowconf.search.calibration import LIKENESS

    return Archive(
        models.looks,
        likeness=LIKENESS,
        labels=models.labels,
        per_condition=models.per_condition,
        per_cell=settings.search.per_cell,
    )


def run_search(
    settings: Settings, models: "Models", folder: Path, stream: str, *, spent: float = 0.0
) -> Searched:
    """Run the search, or the random-latent baseline, going on from its journal.

    Args:
        settings: of the run.
        models: that search.
        folder: of the run, in which the journal is.
        stream: `search` or `baseline`.
        spent: seconds of search.max_minutes that are spent, by the search before the baseline.

    Raises:
        KeyboardInterrupt: somebody asked to stop; the journal holds what is done.
        ModelError: the target has no answer to most tiles.
    """
    from rs_lowconf.asking import Unanswered
    from rs_lowconf.search.journal import Journal
    from rs_lowconf.search.loop import Budget, Outcome, SearchEnd, TimeIsUpError, without_tile

    own = settings.search
    baseline = stream == "baseline"
    journal = Journal(folder / stream, models.fingerprint)
    past = journal.read()
    # The baseline measures a rate: it stops at its number of latents, whatever it finds.
    budget = Budget(
        count=own.baseline_evaluations + 1 if baseline else own.count,
        evaluations=own.baseline_evaluations if baseline else own.max_evaluations,
        minutes=own.max_minutes,
        seconds=spent + past.seconds,
        at_least=0 if baseline else _least_seeds(settings, models),
    )
    archive = archive_of(settings, models)
    trajectories: list[Trajectory] = []
    unanswered = Unanswered()
    end: SearchEnd | None = None
    total = own.baseline_evaluations if baseline else own.count
    title = "random latents" if baseline else "hard samples"
    student = None
    before, counted, worked = models.target.evaluations, 0, False
    with interrupt_between_steps() as interrupt:

        def go_on() -> None:
            """Look, before each batch, whether somebody asked to stop and what the clock says."""
            nonlocal worked
            interrupt.check()
            if budget.late:
                raise TimeIsUpError
            worked = True

        evaluator = models.evaluator.watched(go_on)
        try:
            if models.method == "student" and not baseline:
                path = folder / stream / "student.safetensors"
                student = teach_student(settings, models, path, evaluator)
                budget.evaluations += student[1].evaluations
                before = models.target.evaluations
            stream_of = trajectories_of(settings, models, stream, evaluator, student and student[0])
            with progress(title, total) as bar:
                for raw in stream_of(past.trajectories, archive.closed):
                    if raw.seed_id not in past.trajectories:
                        counted += raw.evaluations
                        journal.write(raw, budget.seconds - spent)
                    ended = raw.outcome is Outcome.UNANSWERED
                    unanswered.add(raw.evaluations, raw.unanswered, ended=ended)
                    trajectory = archive.judge(without_tile(raw))
                    end = budget.spend(trajectory, full=archive.full)
                    trajectories.append(trajectory)
                    bar.update(
                        min(total, budget.evaluations if baseline else budget.accepted),
                        f"{budget.accepted} found, {budget.evaluations:,} evaluations",
                    )
                    if end is not None:
                        break
        except TimeIsUpError:
            end = SearchEnd.MINUTES
    return Searched(
        trajectories=tuple(trajectories),
        journal=journal,
        seconds=budget.seconds - spent if worked else past.seconds,
        end="" if end is None else end.value,
        late=end is SearchEnd.MINUTES,
        discarded=archive.discarded,
        unfinished=models.target.evaluations - before - counted,
        lessons=student and student[1],
    )


def splits(settings: Settings, models: "Models") -> bool:
    """Return whether populations are searched: without gradients, or for a fair draw."""
    return models.method == "splitting" or settings.search.mode == "sample"


def _least_seeds(settings: Settings, models: "Models") -> int:
    """Return how many seeds have to be searched whatever was found."""
    own = settings.search.splitting
    if not splits(settings, models):
        return 0
    return own.replicates * own.particles * len(models.labels)


def trajectories_of(
    settings: Settings,
    models: "Models",
    stream: str,
    evaluator: "Evaluator",
    student: "Student | None",
) -> "Callable[[Mapping[int, Trajectory], Container[int]], Iterator[Trajectory]]":
    """Return the search that the settings or the target ask for, or the random latents."""
    from rs_lowconf.search.loop import search
    from rs_lowconf.search.splitting import SplittingRules, split

    rules = rules_of(settings, models, stream)
    if not splits(settings, models) or rules.mode == "random":
        led = evaluator if student is None else evaluator.guided_by(student)
        return lambda done, closed: search(led, models.shell, rules, done, closed)
    own = settings.search.splitting
    splitting = SplittingRules(
        tau=rules.tau,
        labels=rules.labels,
        run_seed=rules.run_seed,
        stream=rules.stream,
        particles=own.particles,
        moves=own.moves,
        final_moves=settings.search.mixing_steps if settings.search.mode == "sample" else 0,
        max_levels=own.max_levels,
        replicates=own.replicates,
        drift=own.drift if models.method == "gradient" else 0.0,
        audit=rules.audit,
    )
    return lambda done, closed: split(evaluator, splitting, done, closed)


def teach_student(
    settings: Settings, models: "Models", path: Path, evaluator: "Evaluator"
) -> "tuple[Student, Lessons]":
    """Return the student of a search, taught now or by the run that was interrupted."""
    from rs_lowconf.search.student import TeachingRules, load_student, teach

    if path.exists():
        return load_student(path, models.device)
    own, rules = settings.search.student, rules_of(settings, models, "search")
    teaching = TeachingRules(
        tau=models.tau,
        labels=models.labels,
        run_seed=rules.run_seed,
        stream=rules.stream,
        first=own.first,
        rounds=own.rounds,
        each=own.each,
        steps=own.steps,
        learning_rate=rules.learning_rate,
        max_age=rules.max_age,
    )
    with progress("teaching a student", own.first + own.rounds * own.each) as bar:
        for taught in teach(evaluator, models.shell, teaching, models.device):
            bar.update(taught[1].evaluations)
    taught[0].save(path, taught[1])
    return taught


def _export(
    settings: Settings, models: "Models", folder: Path, search: Searched, baseline: Searched | None
) -> None:
    """Write report, plots, table, tiles and, last, the review package."""
    from rs_lowconf.cli.export import write_results
    from rs_lowconf.runs import RunFolder, write_json
    from rs_lowconf.search.report import compare, low_confidence_share, summarise, write_plots
    from rs_lowconf.search.splitting import probability

    gate = models.evaluator.gate
    classes = models.gan.generator.classes
    taught = search.lessons.evaluations if search.lessons else 0
    report: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "end": search.end,
        "mode": settings.search.mode,
        "method": models.method,
        "tau": models.tau,
        "gate": gate.describe(),
        "looks": {
            "copy_distance": models.looks.copy_distance,
            "novelty_radius": models.looks.novelty_radius,
            "clusters": len(models.looks.centres),
        },
        "search": {
            **summarise(search.trajectories, search.seconds, classes, taught),
            "evaluations_discarded": search.discarded,
            "evaluations_unfinished": search.unfinished,
        },
        "models": models.fingerprint,
    }
    if search.lessons is not None:
        report["student"] = asdict(search.lessons)
    if splits(settings, models):
        particles = settings.search.splitting.particles
        report["low_confidence"] = probability(search.trajectories, particles, classes)
    if baseline is not None:
        report["random_latents"] = {
            **summarise(baseline.trajectories, baseline.seconds, classes),
            **low_confidence_share(baseline.trajectories, models.tau),
            "stopped_by_minutes": baseline.late,
        }
    if baseline is not None and baseline.trajectories:
        report["times_less_than_random"] = compare(report["search"], report["random_latents"])
    RunFolder(folder, settings)
    write_json(folder / "report.json", report)
    write_plots(
        folder / "plots",
        search.trajectories,
        () if baseline is None else baseline.trajectories,
        tau=models.tau,
        classes=classes,
        target_classes=models.target.classes,
    )
    print_unanswered("of the search", report["search"]["unanswered"]["by_reason"])
    if search.lessons is not None:
        print_unanswered("that were to teach the student", search.lessons.unanswered)
    if baseline is not None:
        print_unanswered("of random latents", report["random_latents"]["unanswered"]["by_reason"])
    if all(one.found is None for one in search.trajectories):
        raise JobError(
            f"no hard sample found: {search.end}",
            remedy=f"see {folder / 'report.json'}; a larger search.tau is easier to reach",
        )
    write_results(settings, models, folder, search.trajectories, search.journal)
    _say(report, folder, search.end, settings.review.max_samples)


def print_unanswered(what: str, reasons: "Mapping[str, int]") -> None:
    """Print how many tiles a target has no answer to, if any, and why.

    Args:
        what: where these tiles come from.
        reasons: how many they are, by reason.
    """
    if reasons:
        print(
            f"The target has no answer to {sum(reasons.values()):,} tiles {what}, and none of "
            f"them is accepted: {by_reason(reasons)}."
        )


def _say(report: dict[str, Any], folder: Path, end: str, most: int) -> None:
    ours = report["search"]
    print(
        f"{ours['accepted']} hard samples in {ours['evaluations']:,} evaluations and "
        f"{ours['seconds']:.0f} s ({end}); {ours['evaluations_unfinished']:,} more evaluations "
        "went into latents that were still on their way."
    )
    if "student" in report:
        print(
            f"{report['student']['evaluations']:,} of the evaluations taught the student that led "
            "the search."
        )
    if "low_confidence" in report:
        share, interval = (report["low_confidence"][name] for name in ("value", "interval_95"))
        bounds = " .. ".join(f"{bound:.2g}" for bound in interval) if interval else "no interval"
        print(f"Probability of low confidence under the generator: {share:.2g} ({bounds}).")
    theirs = report.get("random_latents")
    if theirs and theirs["stopped_by_minutes"]:
        print(
            "The comparison with random latents was cut short: search.max_minutes bounds it "
            "together with the search."
        )
    if theirs and "times_less_than_random" in report:
        times = report["times_less_than_random"]["evaluations_per_accepted"]
        print(
            f"Random latents: {theirs['accepted']} in {theirs['evaluations']:,} evaluations"
            + (f", {times:.1f} times as many a sample." if times else ".")
        )
    kept = ours["still_valid_after_rounding"]
    print(
        f"{kept['share']:.1%} were still valid after rounding to stored numbers; only those count."
    )
    if ours["accepted"] > most:
        print(
            f"The review package holds the {most} that differ most; samples.parquet and tiles/ "
            "hold all."
        )
    print(f"Report: {folder / 'report.json'}")
    print(f"Open in QGIS: {folder / 'review' / 'review.qgz'}")
    hint("Then", "review import", folder / "review")
