"""Ctrl-C ends a command after the step it is in, the command goes on, and a limit bounds it.

Moments are numbers of records and of files that are renamed, never times.
"""

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.dataset
import pytest
import torch

from rs_lowconf.batch import serial
from rs_lowconf.batch.work import answer
from rs_lowconf.cli.progress import Reporter, interrupt_between_steps, show_until_interrupted
from rs_lowconf.runs import read_checkpoint
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.settings import GanSettings
from rs_lowconf.workflows.latents import Law
from rs_lowconf.workflows.train_gan import in_checkpoints
from tests.conftest import Ran, run_program

Kind = Literal["record", "file"]
Moment = tuple[Kind, str, int]
"""What is counted, of which work or file, and the number at which Ctrl-C comes."""


@dataclass
class Watch:
    """Counts what a command does, and sends Ctrl-C at one moment of it."""

    kind: Kind | None = None
    """What is counted until Ctrl-C; None never sends it."""
    name: str = ""
    """Of the work whose records count, or part of the path of the files that do."""
    number: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Records of each work."""
    sent: bool = False
    begun: int = 0
    """Steps that were begun after Ctrl-C."""
    clock: float = 0.0
    """Seconds, of which a step takes one."""
    _seen: int = 0

    def tell(self, kind: Kind, name: str) -> None:
        """Take note of a record, or of a file that is in its place now."""
        if kind == "record":
            self.counts[name] += 1
            # Each of these is an optimiser step; trajectories that end in one step are many.
            self.begun += self.sent and name == "training the GAN"
        if kind == self.kind and self.name in name and not self.sent:
            self._seen += 1
            if self._seen == self.number:
                self.sent = True
                os.kill(os.getpid(), signal.SIGINT)

    def begin(self) -> None:
        """Take note of a step."""
        self.begun += self.sent
        self.clock += 1.0


_watches: list[Watch] = []


def _audit(event: str, values: tuple[Any, ...]) -> None:
    if event == "os.rename" and _watches:
        _watches[-1].tell("file", str(values[1]))


@pytest.fixture(scope="module", autouse=True)
def audited() -> None:
    """Hear of files that are renamed; a hook cannot be taken away, but it sleeps."""
    sys.addaudithook(_audit)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Have a watch told of records, files and steps."""

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **values: Any) -> Any:
            watch.begin()
            return function(*args, **values)

        return step

    update = Reporter.update

    def updated(self: Reporter, done: int, text: str = "") -> None:
        update(self, done, text)
        watch.tell("record", self._label)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    _watches.append(watch)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reporter, "update", updated)
            patch.setattr(Evaluator, "_micro", _after_look(Evaluator._micro, watch))
            patch.setattr(serial, "answer", before(answer))
            patch.setattr(Law, "answers", before(Law.answers))
            patch.setattr("rs_lowconf.search.loop.monotonic", lambda: watch.clock)
            yield
    finally:
        _watches.pop()
        signal.signal(signal.SIGINT, handler)


def _after_look(micro: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    """Return a micro-batch that counts as a step once it has seen that it may go on."""

    def step(self: Evaluator, *args: Any, **options: Any) -> Any:
        self._before_batch()
        watch.begin()
        return micro(self, *args, **options)

    return step


def run(words: tuple[object, ...], watch: Watch | None = None) -> Ran:
    """Run a command under a watch."""
    with watching(watch or Watch()):
        return run_program(*words)


def interrupted(words: tuple[object, ...], moments: list[Moment]) -> None:
    """Interrupt a command again and again, each time further on, and let it end."""
    for moment in moments:
        watch = Watch(*moment)
        ran = run(words, watch)
        assert watch.sent, (moment, ran)
        assert ran.code == 130, (moment, ran)
        assert "run the same command again to resume" in ran.err
        assert "Traceback" not in ran.err
        assert watch.begun == 0, moment
    ran = run(words)
    assert ran.code == 0, ran.err


#: One latent at a time, so that each trajectory is a record of a step of its own.
SMALL = (
    *("-s", "search.slots=1"),
    *("-s", "search.count=3", "-s", "search.max_evaluations=400"),
    *("-s", "search.baseline_evaluations=9", "-s", "search.per_condition=3"),
)


def test_generate_at_seven_moments(project: Path) -> None:
    """In both searches, in their last steps, and while results are written."""
    words = ("generate", "-c", project / "config.yaml", *SMALL)
    whole = Watch()
    assert run((*words, "--name", "whole"), whole).code == 0
    last: Moment = ("record", "hard samples", whole.counts["hard samples"])
    folder = project / "run" / "parts"
    in_parts = (*words, "--name", "parts")
    interrupted(in_parts, [("record", "hard samples", 1), ("file", "search", 1), last])
    # The last step of the search began no baseline.
    assert (folder / "search" / "journal.jsonl").exists()
    shutil.rmtree(folder / "review")
    for name in ("baseline", "tiles"):
        shutil.rmtree(folder / name)
    watch = Watch(*last)
    assert run(in_parts, watch).code == 130
    assert not (folder / "baseline").exists()
    end: Moment = ("record", "random latents", whole.counts["random latents"])
    interrupted(in_parts, [("record", "random latents", 1), end, ("file", "tiles", 2)])
    tiles = [
        {path.name: path.read_bytes() for path in (project / "run" / name / "tiles").iterdir()}
        for name in ("whole", "parts")
    ]
    assert tiles[0] == tiles[1]


@dataclass
class Step:
    """A record of a training that only counts."""

    images: int
    critic_loss: float = 0.0
    generator_loss: float = 0.0


def train_by_counting(
    disk: dict[str, Any], total: int, every: int, kind: str = "", moment: int = 0
) -> int:
    """Train as `rslow train gan` does, with Ctrl-C in a step or in a checkpoint; return the code.

    Args:
        disk: `images` of the saved state and `log` of the measured checkpoints.
        total: images to train on.
        every: images between two checkpoints.
        kind: `step` or `checkpoint`.
        moment: the images shown when Ctrl-C comes.
    """
    shown = disk["images"]

    def steps() -> Iterator[Step]:
        nonlocal shown
        while shown < total:
            shown += 8
            if (kind, moment) == ("step", shown):
                os.kill(os.getpid(), signal.SIGINT)
            yield Step(shown)

    def save() -> None:
        disk["images"] = shown

    def measure(records: Sequence[Step]) -> None:
        if (kind, moment) == ("checkpoint", shown):
            os.kill(os.getpid(), signal.SIGINT)
        save()
        disk["log"].append(shown)

    section = GanSettings(images=total, checkpoint_images=every, batch_size=8)
    measured = max(disk["log"], default=0)
    work = in_checkpoints(steps(), section, shown, measured, save=save, measure=measure)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        show_until_interrupted(work)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGINT, handler)
    return 0


@pytest.mark.parametrize(("total", "every"), [(64, 32), (72, 32), (16, 400)])
def test_training_at_every_step_and_checkpoint(total: int, every: int) -> None:
    """Ctrl-C ends it there with its state kept, and going on measures the same checkpoints."""
    whole: dict[str, Any] = {"images": 0, "log": []}
    assert train_by_counting(whole, total, every) == 0
    moments = [("step", images) for images in range(8, total + 1, 8)]
    for kind, moment in [*moments, *(("checkpoint", images) for images in whole["log"])]:
        disk: dict[str, Any] = {"images": 0, "log": []}
        assert train_by_counting(disk, total, every, kind, moment) == 130
        assert disk["images"] == moment
        assert train_by_counting(disk, total, every) == 0
        assert disk == whole


def test_a_request_in_the_last_step_ends_the_block() -> None:
    """Nobody looks after it, and the block still ends with it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupt_between_steps():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)


SECTIONS = {"target": "classifier", "extractor": "extractor"}
GAN = ("-s", "gan.images=64", "-s", "gan.checkpoint_images=32", "-s", "gan.batch_size=8")


def test_training_at_six_moments(project: Path) -> None:
    """Before, at and after a checkpoint, and at the last: the same network as undisturbed."""
    found = {}
    moments: list[Moment] = [
        ("record", "GAN", 1),
        ("record", "GAN", 3),
        ("file", "gan.safetensors", 1),
        ("record", "GAN", 2),
        ("record", "GAN", 2),
        ("file", "state.safetensors", 1),
    ]
    both: dict[str, list[Moment]] = {"whole": [], "parts": moments}
    for name, chosen in both.items():
        folder = project / name
        shutil.copytree(project / "run" / "extractor", folder / "extractor")
        words = ("train", "gan", "-c", project / "config.yaml", "-s", f"run.dir={folder}", *GAN)
        interrupted(words, chosen)
        found[name] = read_checkpoint(folder / "gan" / "gan.safetensors", "gan")
        lines = (folder / "gan" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["images"] for line in lines] == [32, 64]
    (ours, header), (theirs, other) = found["parts"], found["whole"]
    assert header == other
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", ["target", "extractor"])
def test_training_of_a_classifier_at_four_moments(project: Path, name: str) -> None:
    """After the first epoch, another and the last, and while it is tested: the same files."""
    training = f"training the {name}"
    moments: list[Moment] = [
        ("record", training, 1),
        ("record", training, 2),
        ("record", training, 1),
        ("file", "report.json", 1),
    ]
    files = {}
    both: dict[str, list[Moment]] = {"whole": [], "parts": moments}
    for folder, chosen in both.items():
        where = ("-s", f"run.dir={project / folder}", "-s", f"{SECTIONS[name]}.epochs=4")
        interrupted(("train", name, "-c", project / "config.yaml", *where), chosen)
        written = project / folder / name
        lines = (written / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
        assert not (written / "state.safetensors").exists()
        files[folder] = [
            (written / file).read_bytes() for file in (f"{name}.safetensors", "report.json")
        ]
    assert files["whole"] == files["parts"]


def test_an_unfinished_training_with_other_settings_is_not_continued(project: Path) -> None:
    """It is refused by their names; with those of before it goes on."""
    where = ("-s", f"run.dir={project / 'other-settings'}")
    words = ("train", "target", "-c", project / "config.yaml", *where)
    assert run(words, Watch("record", "training the target", 2)).code == 130
    ran = run((*words, "-s", "classifier.width=9", "-s", "augment.flip=false"))
    assert ran.code == 5
    assert "other settings of augment, classifier" in ran.err
    assert run(words).code == 0


def test_fewer_images_than_an_interrupted_training_has_seen(project: Path) -> None:
    """Interrupted before its first checkpoint and asked for fewer, it measures what it has."""
    folder = project / "other"
    shutil.copytree(project / "run" / "extractor", folder / "extractor")
    words = ("train", "gan", "-c", project / "config.yaml", "-s", f"run.dir={folder}", *GAN)
    assert run(words, Watch("record", "GAN", 3)).code == 130
    assert not (folder / "gan" / "gan.safetensors").exists()
    ran = run((*words, "-s", "gan.images=16"))
    assert ran.code == 0, ran.err
    assert "24 images" in ran.out
    assert (folder / "gan" / "gan.safetensors").exists()


def test_a_batch_job_at_six_moments(project: Path) -> None:
    """Before the first chunk, after chunks, while results are written, and in the last chunk."""
    words = (
        *("batch", "score", "-c", project / "config.yaml", "-s", "batch.chunk=6"),
        *("-s", "batch.executor=serial", "-s", "batch.seconds=null"),
    )
    assert run(("catalog", "build", "-c", project / "config.yaml")).code == 0
    job, whole = project / "run" / "batch" / "score", Watch()
    assert run(words, whole).code == 0
    table = pyarrow.dataset.dataset(job / "parts").to_table().sort_by("id")
    shutil.rmtree(job)
    moments: list[Moment] = [
        ("file", "job.json", 1),
        ("record", "score", 1),
        ("file", "part-", 1),
        ("file", "progress.json", 1),
        ("record", "score", 1),
    ]
    left = whole.counts["score"] - 4
    assert left > 1
    interrupted(words, [*moments, ("record", "score", left)])
    assert pyarrow.dataset.dataset(job / "parts").to_table().sort_by("id").equals(table)


RARE = (
    *("-s", "estimate.rare.particles=20", "-s", "estimate.rare.survivors=10"),
    *("-s", "estimate.rare.max_levels=1", "-s", "search.micro_batch=50"),
    *("-s", "estimate.rare.conditions=[woods]"),
)


def test_estimates_at_four_moments(project: Path) -> None:
    """In the first and in the last question: finished ones are kept, and the answer is the same."""
    words = ("estimate", "rare", "-c", project / "config.yaml", *RARE)
    where = project / "run" / "estimate" / "rare"
    whole = Watch()
    assert run(words, whole).code == 0
    report = json.loads((where / "report.json").read_text())
    shutil.rmtree(where)
    count = whole.counts["rare events"]
    # The first two are disturbed in the first of two questions.
    interrupted(words, [("record", "rare events", 1), ("file", "pieces", 1)])
    shutil.rmtree(where)
    interrupted(words, [("record", "rare events", count - 2), ("file", "pieces", 1)])
    assert json.loads((where / "report.json").read_text()) == report


class TestMinutes:
    """`search.max_minutes` by a clock on which each micro-batch takes a second."""

    @staticmethod
    def report(project: Path, name: str = "generate") -> dict[str, Any]:
        path = project / "run" / name / "report.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @pytest.mark.slow
    def test_search_and_baseline_together(self, project: Path) -> None:
        """A search that spends all leaves nothing; one that ends early leaves the rest."""
        config = ("generate", "-c", project / "config.yaml")
        many = ("-s", "search.baseline_evaluations=100000", "-s", "search.max_minutes=1")
        more = ("-s", "search.max_evaluations=100000", "-s", "search.per_condition=100000")
        watch = Watch()
        ran = run((*config, *many, *more, "-s", "search.count=100000"), watch)
        assert ran.code == 0, ran.err
        assert watch.clock == 60
        report = self.report(project)
        assert report["end"].startswith("the budget of minutes is spent")
        assert report["random_latents"]["trajectories"] == 0
        assert report["random_latents"]["stopped_by_minutes"]
        assert "times_less_than_random" not in report
        assert "cut short" in ran.out
        found = report["search"]["accepted"]
        watch = Watch()
        few = ("-s", "search.count=2", "--name", "few")
        assert run((*config, *many, *more, *few), watch).code == 0
        assert watch.clock == 60
        report = self.report(project, "few")
        assert report["search"]["accepted"] == 2 < found
        assert report["random_latents"]["trajectories"] > 0
        assert report["random_latents"]["stopped_by_minutes"]

    def test_what_was_found_before_an_interruption_is_kept(self, project: Path) -> None:
        """Going on with no time left takes all that the journal holds."""
        words = ("generate", "-c", project / "config.yaml", *SMALL)
        assert run(words, Watch("record", "random latents", 1)).code == 130
        ran = run((*words, "-s", "search.max_minutes=1.0e-9"))
        assert ran.code == 0, ran.err
        assert self.report(project)["search"]["accepted"] == 3
