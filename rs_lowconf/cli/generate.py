"""`rslow generate`: from trained models to a review package."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.progress import interrupt_between_steps, progress
from rs_lowconf.errors import JobError, ModelError, ReviewError, SettingsError
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    import torch

    from rs_lowconf.data.source import MemorySource
    from rs_lowconf.gan.model import GanModel
    from rs_lowconf.search.evaluate import Evaluator
    from rs_lowconf.search.loop import SearchRules, Trajectory
    from rs_lowconf.search.prior import PriorShell
    from rs_lowconf.target.classifier import Classifier
    from rs_lowconf.types import TargetModel

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

    Needs the GAN and the extractor in run.dir, and the target. Goes on where an interrupted
    run stopped. Writes report.json, plots/, samples.parquet, tiles/ and review/ into
    run.dir/NAME; open review/review.qgz in QGIS.
    """
    settings = load_settings(config, set_)
    folder = settings.run.dir / name
    if (folder / "review").exists():
        raise ReviewError(
            f"{folder / 'review'} exists already, and reviews may live in it",
            remedy="choose another --name, or move that folder away",
        )
    models = load_models(settings, trust_code=trust_code)
    search = run_search(settings, models, folder, "search")
    baseline = run_search(settings, models, folder, "baseline")
    _export(settings, models, folder, search, baseline)


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """Everything that the search reads."""

    gan: "GanModel"
    target: "TargetModel"
    extractor: "Classifier"
    train: "MemorySource"
    evaluator: "Evaluator"
    shell: "PriorShell"
    labels: tuple[int, ...]
    """Class indices of the conditions to search."""
    fingerprint: dict[str, Any]
    """What the results depend on, so that an interrupted search is not mixed with another."""
    device: "torch.device"


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search left in its journal."""

    trajectories: "tuple[Trajectory, ...]"
    seconds: float
    end: str
    """Why it stopped and what to do about it."""


def load_models(settings: Settings, *, trust_code: bool) -> Models:
    """Load models and tiles and check that they fit each other."""
    from rs_lowconf.cli.device import choose_device
    from rs_lowconf.data.source import open_split
    from rs_lowconf.gan.model import load_model
    from rs_lowconf.runs import sha256_of
    from rs_lowconf.search.evaluate import Evaluator
    from rs_lowconf.search.gate import calibrate_gate
    from rs_lowconf.search.prior import PriorShell
    from rs_lowconf.target.classifier import load_classifier
    from rs_lowconf.target.load import check_fit, load_target

    device = choose_device(settings.run)
    paths = {
        part: settings.run.dir / part / f"{part}.safetensors"
        for part in ("gan", "extractor", "target")
    }
    gan = load_model(paths["gan"], device)
    labels = _labels(settings.search.classes, gan.generator.classes)
    extractor = load_classifier(paths["extractor"], device)
    target = load_target(
        settings.target,
        paths["target"],
        trust_code=trust_code,
        tile_size=gan.generator.tile_size,
        device=device,
    )
    channels = check_fit(target.bands, gan.generator.bands)
    check_fit(extractor.bands, gan.generator.bands, model="extractor")
    if not target.differentiable:
        raise SettingsError(
            "the target gives no gradients, which this search needs",
            remedy="export it with gradients, or test a differentiable version of it",
        )
    train, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    check_fit(gan.generator.bands, train.bands, model="generator")
    if settings.data.tile_size != gan.generator.tile_size:
        raise ModelError(
            f"the generator draws tiles of {gan.generator.tile_size} pixels, the data have "
            f"{settings.data.tile_size}",
            remedy="set data.tile_size, or train the GAN on these data",
        )
    gate = calibrate_gate(gan.critic, val, settings.search.false_rejection, device)
    evaluator = Evaluator(
        gan.generator,
        target,
        gate,
        target_channels=channels,
        realism_weight=settings.search.realism_weight,
        micro_batch=settings.search.micro_batch,
        device=device,
    )
    foreign = settings.target.path
    target_file = paths["target"] if settings.target.kind == "trained" else foreign
    fingerprint = {
        "run.seed": settings.run.seed,
        "search settings": settings.search.model_dump(
            mode="json",
            exclude={"count", "max_evaluations", "max_minutes", "slots", "baseline_evaluations"},
        ),
        "target settings": settings.target.model_dump(mode="json"),
        "target file": None if target_file is None else sha256_of(target_file),
        "GAN file": sha256_of(paths["gan"]),
        "gate": gate.describe(),
    }
    return Models(
        gan=gan,
        target=target,
        extractor=extractor,
        train=train,
        evaluator=evaluator,
        shell=PriorShell(gan.generator.latent_parts, settings.search.prior_tail),
        labels=labels,
        fingerprint=fingerprint,
        device=device,
    )


def _labels(wanted: tuple[str, ...] | None, classes: tuple[str, ...]) -> tuple[int, ...]:
    unknown = [name for name in wanted or () if name not in classes]
    if unknown or wanted == ():
        raise SettingsError(
            f"search.classes names {', '.join(unknown) or 'none'}",
            expected=f"some of the generator's {', '.join(classes)}",
        )
    return tuple(classes.index(name) for name in wanted or classes)


def _rules(settings: Settings, models: Models, stream: str) -> "SearchRules":
    from rs_lowconf.search.loop import SearchRules

    return SearchRules(
        tau=settings.search.tau,
        max_age=settings.search.max_age if stream == "search" else 1,
        slots=settings.search.slots,
        learning_rate=settings.search.learning_rate,
        labels=models.labels,
        run_seed=settings.run.seed,
        stream=stream,
    )


def run_search(settings: Settings, models: Models, folder: Path, stream: str) -> Searched:
    """Run the search, or the random-latent baseline, going on from its journal."""
    from rs_lowconf.search.journal import Journal
    from rs_lowconf.search.loop import Budget, SearchEnd, search

    own = settings.search
    baseline = stream == "baseline"
    if baseline and not own.baseline_evaluations:
        return Searched(trajectories=(), seconds=0.0, end="left out")
    journal = Journal(folder / stream, models.fingerprint)
    past = journal.read()
    # The baseline measures a rate: it stops at its number of latents, whatever it finds.
    budget = Budget(
        count=own.baseline_evaluations + 1 if baseline else own.count,
        evaluations=own.baseline_evaluations if baseline else own.max_evaluations,
        minutes=float("inf") if baseline else own.max_minutes,
        seconds=past.seconds,
    )
    trajectories: list[Trajectory] = []
    end: SearchEnd | None = None
    rules = _rules(settings, models, stream)
    total = own.baseline_evaluations if baseline else own.count
    title = "random latents" if baseline else "hard samples"
    with progress(title, total) as bar, interrupt_between_steps() as interrupt:
        for trajectory in search(models.evaluator, models.shell, rules, past.trajectories):
            end = budget.spend(trajectory)
            trajectories.append(trajectory)
            if trajectory.seed_id not in past.trajectories:
                journal.write(trajectory, budget.seconds)
            bar.update(
                budget.evaluations if baseline else budget.accepted,
                f"{budget.accepted} found, {budget.evaluations:,} evaluations",
            )
            if end is not None:
                break
            if interrupt.requested:
                raise KeyboardInterrupt
    seconds = past.seconds if len(trajectories) <= len(past.trajectories) else budget.seconds
    return Searched(
        trajectories=tuple(trajectories), seconds=seconds, end="" if end is None else end.value
    )


def _export(
    settings: Settings, models: Models, folder: Path, search: Searched, baseline: Searched
) -> None:
    """Write report, plots, table, tiles and, last, the review package."""
    from rs_lowconf.cli.export import write_results
    from rs_lowconf.runs import RunFolder, write_json
    from rs_lowconf.search.report import compare, low_confidence_share, summarise, write_plots

    gate = models.evaluator.gate
    classes = models.gan.generator.classes
    report: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "end": search.end,
        "tau": settings.search.tau,
        "gate": gate.describe(),
        "search": summarise(search.trajectories, search.seconds, classes),
        "models": models.fingerprint,
    }
    if baseline.trajectories:
        report["random_latents"] = {
            **summarise(baseline.trajectories, baseline.seconds, classes),
            **low_confidence_share(baseline.trajectories, settings.search.tau, gate.threshold),
        }
        report["times_less_than_random"] = compare(report["search"], report["random_latents"])
    RunFolder(folder, settings)
    write_json(folder / "report.json", report)
    write_plots(
        folder / "plots",
        search.trajectories,
        baseline.trajectories,
        tau=settings.search.tau,
        classes=classes,
        target_classes=models.target.classes,
    )
    found = [one for one in search.trajectories if one.found is not None]
    if not found:
        raise JobError(
            f"no hard sample found: {search.end}",
            remedy=f"see {folder / 'report.json'}; a larger search.tau is easier to reach",
        )
    write_results(settings, models, folder, found)
    _say(report, folder, search.end, settings.review.max_samples)


def _say(report: dict[str, Any], folder: Path, end: str, most: int) -> None:
    ours = report["search"]
    print(
        f"{ours['accepted']} hard samples in {ours['evaluations']:,} evaluations and "
        f"{ours['seconds']:.0f} s ({end})."
    )
    if "times_less_than_random" in report:
        theirs = report["random_latents"]
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
        print(f"The review package holds the first {most}; samples.parquet and tiles/ hold all.")
    print(f"Report: {folder / 'report.json'}")
    print(f"Open in QGIS: {folder / 'review' / 'review.qgz'}")
