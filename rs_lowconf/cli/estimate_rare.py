"""`rslow estimate rare`: how rare low confidence is under the generator, beside real tiles."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate import estimate_app, pool_is_there
from rs_lowconf.cli.progress import (
    Interrupt,
    Reporter,
    interrupt_between_steps,
    print_left_out,
    progress,
)
from rs_lowconf.cli.tables import open_console, show_table
from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.places import job_folder
from rs_lowconf.settings import RareSettings, Settings
from rs_lowconf.vocabulary import class_list, join, require, vocabulary

if TYPE_CHECKING:
    from rs_lowconf.estimate.ladder import Ladder
    from rs_lowconf.estimate.ladder_report import Ladders, RealPool
    from rs_lowconf.estimate.rare import Score, SubsetRules
    from rs_lowconf.workflows.latents import Law

FORMAT = 1
_LADDER = (0.99, 0.9, 0.7, 0.5, 0.4)
_SHOWN = 12


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
    from rs_lowconf.runs import RunFolder
    from rs_lowconf.workflows.latents import load_law

    own, folder = settings.estimate.rare, settings.run.dir / "estimate" / "rare"
    rules = _rules(own)
    law = load_law(settings, trust_code=trust_code)
    thresholds = thresholds_of(own, len(law.target.classes))
    names = _conditions(own, law.generator.classes)
    real, missing = _real_pool(settings, law, thresholds)
    RunFolder(folder, settings)
    asked = list(_questions(law, names, thresholds, rules, settings.run.seed))
    pieces = [folder / "pieces" / f"{one.number}.json" for one in asked]
    fresh = _answer(asked, pieces, law.unanswered)
    ladders = _ladders(asked, pieces, thresholds, real, missing)
    report = {
        "format": FORMAT,
        "seed": settings.run.seed,
        "populations": asdict(rules),
        "models": law.key,
        **_to_json(ladders),
    }
    if not _write(folder, report, ladders) and not fresh:
        print("Nothing to do: no model, setting or score has changed.")
    _say(folder, ladders)
    if real is None:
        pool_is_there(settings)


def thresholds_of(own: RareSettings, classes: int) -> tuple[float, ...]:
    """Return the ladder from the highest to the lowest.

    Raises:
        SettingsError: the largest of so many probabilities never falls below one of them.
    """
    if own.thresholds is None:
        return tuple(one for one in _LADDER if one * classes > 1)
    wrong = [f"{one:g}" for one in own.thresholds if one * classes <= 1]
    if wrong:
        raise SettingsError(
            f"estimate.rare.thresholds holds {', '.join(wrong)}: the largest of {classes} "
            f"probabilities is never below {1 / classes:.3g}",
            remedy=f"leave out what is not above {1 / classes:.3g}",
        )
    return tuple(sorted(set(own.thresholds), reverse=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Question:
    """An event of one condition, which takes populations of its own."""

    condition: str
    event: str
    """`confidence` or `disagreement`."""
    score: "Score"
    levels: tuple[float, ...]
    """Thresholds of the score."""
    dimensions: int
    rules: "SubsetRules"
    seed: int
    key: Mapping[str, Any]
    """All that the answer depends on."""

    @property
    def number(self) -> str:
        """Return the name of its file."""
        from rs_lowconf.seeds import seed_of

        return f"{seed_of(0, json.dumps(self.key, sort_keys=True)):016x}"

    def answer(self, score: "Score", unanswered: Counter[str]) -> dict[str, Any]:
        """Ask the target by way of `score` and return what a file holds.

        Args:
            score: of the question.
            unanswered: counts the tiles without an answer by reason while `score` is asked.
        """
        from rs_lowconf.estimate.rare import counted_event, rare_event

        given = (score, self.dimensions, self.levels, self.seed, self.rules)
        before = unanswered.copy()
        plain = False
        try:
            found = rare_event(*given)
        except JobError:
            # The answers of a coarse target, such as a few trees, are the same for most latents.
            before = unanswered.copy()  # the tiles of the first attempt are not reported
            found, plain = counted_event(*given), True
        reasons = dict(unanswered - before)
        return {"key": self.key, "plain": plain, "unanswered": reasons, "event": found.to_json()}


def _questions(
    law: "Law",
    names: tuple[str, ...],
    thresholds: tuple[float, ...],
    rules: "SubsetRules",
    run_seed: int,
) -> Iterator[_Question]:
    """Yield two events of each condition, one where the target has no such class."""
    from math import log, log1p

    from rs_lowconf.seeds import seed_of

    odds = tuple(log(one) - log1p(-one) for one in thresholds)
    for name in names:
        for event, score, levels in (
            ("confidence", law.confidence(name), odds),
            ("disagreement", law.disagreement(name), (0.0,)),
        ):
            if score is not None:
                yield _Question(
                    condition=name,
                    event=event,
                    score=score,
                    levels=levels,
                    dimensions=law.dimensions,
                    rules=rules,
                    seed=seed_of(run_seed, "estimate", "rare", name, event),
                    key={
                        "format": FORMAT,
                        "condition": name,
                        "event": event,
                        "levels": levels,
                        "populations": asdict(rules),
                        "seed": run_seed,
                        "models": law.key,
                    },
                )


def _answer(asked: list[_Question], pieces: list[Path], unanswered: Counter[str]) -> int:
    """Write the answers that no earlier run has written and return their number.

    Args:
        asked: the questions.
        pieces: the file of each.
        unanswered: see `_Question.answer`.

    Raises:
        KeyboardInterrupt: somebody asked to stop; finished answers are kept.
    """
    from rs_lowconf.runs import write_json

    left = [pair for pair in zip(asked, pieces, strict=True) if not pair[1].exists()]
    if not left:
        return 0
    done = len(asked) - len(left)
    with progress("rare events", len(asked), done) as bar, interrupt_between_steps() as interrupt:
        for number, (question, path) in enumerate(left, done):
            watched = _watched(question, bar, number, interrupt)
            write_json(path, question.answer(watched, unanswered))
            bar.update(number + 1)
    return len(left)


def _watched(question: _Question, bar: Reporter, done: int, interrupt: Interrupt) -> "Score":
    """Return the score of a question, which shows how far it is and stops when asked to."""
    asked = 0

    def score(z: Any) -> Any:
        nonlocal asked
        if interrupt.requested:
            raise KeyboardInterrupt
        found = question.score(z)
        asked += len(z)
        bar.update(done, f"{question.condition}, {question.event}: {asked:,} tiles")
        return found

    return score


def _ladders(
    asked: list[_Question],
    pieces: list[Path],
    thresholds: tuple[float, ...],
    real: "RealPool | None",
    missing: str,
) -> "Ladders":
    """Read the answers and put them beside the real pool."""
    from rs_lowconf.estimate.ladder import Events, generated_ladders
    from rs_lowconf.estimate.ladder_report import Ladders
    from rs_lowconf.estimate.rare import RareEvent

    found: dict[str, dict[str, RareEvent]] = {}
    plain, unanswered = [], Counter[str]()
    for question, path in zip(asked, pieces, strict=True):
        values = json.loads(path.read_text(encoding="utf-8"))
        event = RareEvent.from_json(values["event"])
        found.setdefault(question.condition, {})[question.event] = event
        if values["plain"]:
            plain.append(f"{question.condition}, {question.event}")
        unanswered.update(values.get("unanswered", {}))  # which files of before have not
    events: dict[str, Events] = {
        name: Events(confidence=own["confidence"], disagreement=own.get("disagreement"))
        for name, own in found.items()
    }
    overall, by_condition = generated_ladders(events)
    return Ladders(
        thresholds=thresholds,
        overall=overall,
        by_condition=by_condition,
        real=real,
        missing=missing,
        plain=tuple(plain),
        unanswered=unanswered,
        evaluations=sum(event.evaluations for own in found.values() for event in own.values()),
    )


def _real_pool(
    settings: Settings, law: "Law", thresholds: tuple[float, ...]
) -> "tuple[RealPool | None, str]":
    """Return what `rslow batch score` found, or why there is nothing to stand beside."""
    from rs_lowconf.batch.choose import narrow
    from rs_lowconf.batch.review import scores_of
    from rs_lowconf.estimate.ladder import real_ladders
    from rs_lowconf.estimate.ladder_report import RealPool
    from rs_lowconf.workflows.catalog import catalog_of

    job = job_folder(settings, "score")
    if not (job / "scores.parquet").exists():
        return None, "No real tiles stand beside: none are scored."
    try:
        scores = scores_of(catalog_of(settings), job, law.target_of)
        narrowed = narrow(lambda name: scores[name].tolist(), len(scores), settings.batch)
    except JobError as error:
        return None, f"No real tiles stand beside: {error.said}."
    left_out, total = dict(narrowed.left_out), len(scores)
    scores = scores[narrowed.rows]
    join(
        vocabulary("the catalog's labels", scores["label"].unique()),
        class_list("the target", law.target.classes),
    )
    if settings.estimate.rare.conditions is not None:
        wanted = scores["label"].isin(settings.estimate.rare.conditions)
        if not wanted.all():
            left_out["of classes that estimate.rare.conditions omits"] = int((~wanted).sum())
        scores = scores[wanted]
    print_left_out(left_out, total)
    if not len(scores):
        return None, (
            "No real tiles stand beside: none of the scored ones is of estimate.rare.conditions."
        )
    overall, by_class = real_ladders(
        scores["confidence"].to_numpy(),
        scores["predicted"].tolist(),
        scores["label"].where(scores["label"].notna(), None).tolist(),
        thresholds=thresholds,
        classes=law.target.classes,
    )
    splits = scores["rslow:split"].value_counts()
    return RealPool(
        overall=overall,
        by_class=by_class,
        tiles=len(scores),
        splits={str(name): int(count) for name, count in sorted(splits.items())},
    ), ""


def _rules(own: RareSettings) -> "SubsetRules":
    from rs_lowconf.estimate.rare import SubsetRules

    return SubsetRules(
        replicates=own.replicates,
        particles=own.particles,
        survivors=own.survivors,
        max_levels=own.max_levels,
    )


def _conditions(own: RareSettings, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the conditions in the generator's order.

    Raises:
        SettingsError: the generator has no such class.
    """
    if own.conditions is None:
        return classes
    places = require(
        class_list("estimate.rare.conditions", own.conditions, error=SettingsError),
        class_list("the generator", classes, error=SettingsError),
        remedy="correct it",
        error=SettingsError,
    )
    return tuple(classes[place] for place in sorted(places))


def _to_json(ladders: "Ladders") -> dict[str, Any]:
    """Return what the report holds besides what it was made from."""
    from rs_lowconf.estimate.ladder_report import CAVEATS, notes

    thresholds, real = ladders.thresholds, ladders.real

    def told(named: "Mapping[str, Ladder]") -> dict[str, Any]:
        return {name: ladder.to_json(thresholds) for name, ladder in named.items()}

    return {
        "evaluations": ladders.evaluations,
        "generated": {
            "weights": "conditions weigh the same",
            "overall": ladders.overall.to_json(thresholds),
            "by_condition": told(ladders.by_condition),
        },
        "real": None
        if real is None
        else {
            "tiles": real.tiles,
            "splits": dict(real.splits),
            "warning": real.warning,
            "overall": real.overall.to_json(thresholds),
            "by_label": told(real.by_class),
        },
        "no_real_because": ladders.missing,
        "plain_random_latents": list(ladders.plain),
        "without_answer": dict(ladders.unanswered),
        "notes": list(notes(ladders)),
        "caveats": [text.replace("**", "") for text in CAVEATS],
    }


def _write(folder: Path, report: dict[str, Any], ladders: "Ladders") -> bool:
    """Write the report unless it is there as it would be; return whether it was written."""
    from rs_lowconf.estimate.ladder_report import ladder_figure, markdown
    from rs_lowconf.runs import save_figures, write_json, write_text

    path = folder / "report.json"
    # Written last, so that it stands for all three.
    names = ("report.json", "report.md", "ladder.png")
    if all((folder / name).exists() for name in names):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before == json.loads(json.dumps(report)):
            return False
    path.unlink(missing_ok=True)
    save_figures(folder, {"ladder": ladder_figure(ladders)})
    write_text(folder / "report.md", markdown(ladders))
    write_json(path, report)
    return True


def _say(folder: Path, ladders: "Ladders") -> None:
    """Print the ladder of all conditions, and the ends of that of each."""
    from rs_lowconf.estimate import ladder_report as words

    console, real = open_console(), ladders.real
    events, ours = words.events_of(ladders.thresholds), words.rungs_of(ladders.overall)
    beside = words.rungs_of(real.overall) if real else [None] * len(events)
    rows = [("event", "generated", "standard error", "real")]
    for event, own, theirs in zip(events, ours, beside, strict=True):
        if own is not None:
            rows.append((event, words.told(own), words.precision(own), words.told(theirs)))
    show_table(console, "All conditions, weighing the same", "lrrr", rows)
    table: list[tuple[str, ...]] = [("condition", events[-2], events[-1], f"real {events[-1]}")]
    by_class = real.by_class if real else {}
    for name, ladder in ladders.by_condition.items():
        theirs = by_class[name].disagreement if name in by_class else None
        told = (words.told(one) for one in (ladder.rungs[-1], ladder.disagreement, theirs))
        table.append((name, *told))
    show_table(console, "By condition", "lrrr", table)
    for line in (*words.notes(ladders), words.about_real(ladders)):
        print(line)
    print(
        "These are probabilities under the generator's latent law, not error rates on real tiles; "
        "the report says what that means."
    )
    print(f"Report: {folder / 'report.md'}")
    print(f"Ladder: {folder / 'ladder.png'}")
