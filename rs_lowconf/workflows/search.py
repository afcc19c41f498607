"""A search, or its baseline of random latents, from its first seed to why it ended."""

from collections.abc import Callable, Container, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rs_lowconf.asking import Unanswered
from rs_lowconf.generators import finish
from rs_lowconf.models import Models, audits, splits
from rs_lowconf.search.archive import Archive
from rs_lowconf.search.calibration import LIKENESS
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import (
    Budget,
    Outcome,
    SearchEnd,
    SearchRules,
    TimeIsUpError,
    Trajectory,
    search,
    without_tile,
)
from rs_lowconf.search.splitting import SplittingRules, split
from rs_lowconf.search.student import Lessons, Student, TeachingRules, load_student, teach
from rs_lowconf.settings import Settings

Stream = Literal["search", "baseline"]
"""The search itself, or random latents under the same gate, which it has to beat."""

Search = Callable[[Mapping[int, Trajectory], Container[int]], Iterator[Trajectory]]
"""Yields trajectories in the order of their seeds, given those that are known already and the
conditions of which there are enough."""


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How far the teaching of a student is."""

    done: int
    """Evaluations of the target so far."""
    total: int
    """Evaluations that all rounds take."""
    title: str = "teaching a student"
    text: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Searching:
    """A trajectory that has ended, and the counts of the search after it."""

    trajectory: Trajectory | None
    """Judged, without its tile, which the journal holds; None before the first one."""
    accepted: int
    evaluations: int
    done: int
    """Samples accepted, or latents of a baseline evaluated."""
    total: int
    """Samples to accept, or latents of a baseline to evaluate."""
    title: str
    """Which of the two."""

    @property
    def text(self) -> str:
        """Return what it found and cost."""
        return f"{self.accepted} found, {self.evaluations:,} evaluations"


@dataclass(frozen=True, kw_only=True)
class SearchLog:
    """What a search left in its journal."""

    trajectories: tuple[Trajectory, ...]
    """Without their tiles, which the journal holds."""
    journal: Journal
    seconds: float
    end: str
    """Why it stopped and what to do about it."""
    late: bool
    """Whether it stopped because the minutes were spent."""
    discarded: int
    """Evaluations of trajectories in progress when their condition had enough samples."""
    unfinished: int
    """Evaluations of trajectories in progress when the search stopped."""
    lessons: Lessons | None = None
    """What a student was taught."""


class SearchRun:
    """A search or a baseline that goes on from its journal: iterate over it, then take `log`."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        folder: Path,
        stream: Stream,
        *,
        spent: float = 0.0,
        before_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the journal.

        Args:
            settings: of the run.
            models: that search.
            folder: of the run, in which the journal is.
            stream: the search or the baseline.
            spent: seconds of search.max_minutes that are spent, by the search before the baseline.
            before_batch: called before each batch that the target is asked about; what it raises
                ends the run, and the journal holds what was done.

        Raises:
            SettingsError: the folder holds a search with other settings or models.
        """
        own = settings.search
        self._settings, self._models = settings, models
        self._stream: Stream = stream
        self._baseline = stream == "baseline"
        self._spent, self._before_batch = spent, before_batch
        self._student_path = folder / stream / "student.safetensors"
        self.journal = Journal(folder / stream, models.fingerprint)
        self._past = self.journal.read()
        # The baseline measures a rate: it stops at its number of latents, whatever it finds.
        self._budget = Budget(
            count=own.baseline_evaluations + 1 if self._baseline else own.count,
            evaluations=own.baseline_evaluations if self._baseline else own.max_evaluations,
            minutes=own.max_minutes,
            seconds=spent + self._past.seconds,
            at_least=0 if self._baseline else _least_seeds(settings, models),
        )
        self._archive = archive_of(settings, models)
        self._trajectories: list[Trajectory] = []
        self._end: SearchEnd | None = None
        self._lessons: Lessons | None = None
        self._unanswered = Unanswered()
        self._worked = False
        self._seconds, self._unfinished = self._past.seconds, 0

    def __iter__(self) -> Generator[Teaching | Searching, None, None]:
        """Yield how far the search is, until it ends.

        Raises:
            ModelError: the target has no answer to most tiles.
        """
        evaluator = self._models.evaluator.watched(self._look)
        target = evaluator.target
        before, counted = target.evaluations, 0
        try:
            student = None
            if self._models.method == "student" and not self._baseline:
                student = yield from taught(
                    self._settings, self._models, self._student_path, evaluator
                )
                self._lessons = student[1]
                self._budget.evaluations += student[1].evaluations
                before = target.evaluations
            yield self._state(None)
            run = search_of(
                self._settings, self._models, self._stream, evaluator, student and student[0]
            )
            for raw in run(self._past.trajectories, self._archive.closed):
                if raw.seed_id not in self._past.trajectories:
                    counted += raw.evaluations
                    self.journal.write(raw, self._budget.seconds - self._spent)
                yield self._count(raw)
                if self._end is not None:
                    break
        except TimeIsUpError:
            self._end = SearchEnd.MINUTES
        self._unfinished = target.evaluations - before - counted
        if self._worked:
            self._seconds = self._budget.seconds - self._spent

    def run(self) -> SearchLog:
        """Search to the end and return what was found.

        Raises:
            ModelError: the target has no answer to most tiles.
        """
        finish(iter(self))
        return self.log

    @property
    def log(self) -> SearchLog:
        """Return what was found, once the iteration has ended."""
        return SearchLog(
            trajectories=tuple(self._trajectories),
            journal=self.journal,
            seconds=self._seconds,
            end="" if self._end is None else self._end.value,
            late=self._end is SearchEnd.MINUTES,
            discarded=self._archive.discarded,
            unfinished=self._unfinished,
            lessons=self._lessons,
        )

    def _look(self) -> None:
        """Ask, before each batch, whether somebody wants to stop and what the clock says."""
        self._before_batch()
        if self._budget.late:
            raise TimeIsUpError
        self._worked = True

    def _count(self, raw: Trajectory) -> Searching:
        """Judge a trajectory and find out whether it is the last one."""
        ended = raw.outcome is Outcome.UNANSWERED
        self._unanswered.add(raw.evaluations, raw.unanswered, ended=ended)
        trajectory = self._archive.judge(without_tile(raw))
        self._end = self._budget.spend(trajectory, full=self._archive.full)
        self._trajectories.append(trajectory)
        return self._state(trajectory)

    def _state(self, trajectory: Trajectory | None) -> Searching:
        own = self._settings.search
        done = self._budget.evaluations if self._baseline else self._budget.accepted
        total = own.baseline_evaluations if self._baseline else own.count
        return Searching(
            trajectory=trajectory,
            accepted=self._budget.accepted,
            evaluations=self._budget.evaluations,
            done=min(done, total),
            total=total,
            title="random latents" if self._baseline else "hard samples",
        )


def rules_of(settings: Settings, models: Models, stream: Stream) -> SearchRules:
    """Return the rules of a stream: the search, or the random-latent baseline."""
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


def archive_of(settings: Settings, models: Models) -> Archive:
    """Return an empty archive."""
    return Archive(
        models.looks,
        likeness=LIKENESS,
        labels=models.labels,
        per_condition=models.per_condition,
        per_cell=settings.search.per_cell,
    )


def search_of(
    settings: Settings,
    models: Models,
    stream: Stream,
    evaluator: Evaluator,
    student: Student | None = None,
) -> Search:
    """Return the search that the settings or the target ask for, or the random latents."""
    rules = rules_of(settings, models, stream)
    if not splits(settings.search, models.method) or rules.mode == "random":
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


def taught(
    settings: Settings, models: Models, path: Path, evaluator: Evaluator
) -> Generator[Teaching, None, tuple[Student, Lessons]]:
    """Yield how far the teaching is; return the student, also of a run that was interrupted.

    Args:
        settings: of the run.
        models: that search.
        path: of the student's file.
        evaluator: asks the target.

    Raises:
        ModelError: the target has no answer to any tile of a round.
    """
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
    total = own.evaluations
    yield Teaching(done=0, total=total)
    for made in teach(evaluator, models.shell, teaching, models.device):
        yield Teaching(done=made[1].evaluations, total=total)
    made[0].save(path, made[1])
    return made


def _least_seeds(settings: Settings, models: Models) -> int:
    """Return how many seeds have to be searched whatever was found."""
    own = settings.search.splitting
    if not splits(settings.search, models.method):
        return 0
    return own.replicates * own.particles * len(models.labels)
