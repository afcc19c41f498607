"""How rare low confidence is under the generator: events are asked for one by one, then reported.

The answer to each event is a file of its own, so that an interrupted run goes on where it stopped.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import log, log1p
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from rs_lowconf.batch.choose import narrow
from rs_lowconf.batch.review import scores_of
from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.estimate.ladder import Events, Ladder, generated_ladders, real_ladders
from rs_lowconf.estimate.ladder_report import (
    CAVEATS,
    Ladders,
    RealPool,
    ladder_figure,
    markdown,
    notes,
)
from rs_lowconf.estimate.rare import RareEvent, Score, SubsetRules, counted_event, rare_event
from rs_lowconf.places import scores_path
from rs_lowconf.runs import RunFolder, save_figures, write_json, write_text
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import RareSettings, Settings
from rs_lowconf.vocabulary import class_list, require, vocabulary
from rs_lowconf.workflows.catalog import catalog_of
from rs_lowconf.workflows.latents import Law, load_law
from rs_lowconf.workflows.records import LeftOut, Work

FORMAT = 1
_LADDER = (0.99, 0.9, 0.7, 0.5, 0.4)


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """An event of one condition, which takes populations of its own."""

    name: str
    condition: str
    event: str
    """`confidence` or `disagreement`."""
    score: Score
    levels: tuple[float, ...]
    """Thresholds of the score."""
    key: Mapping[str, Any]
    """All that the answer depends on."""
    path: Path
    """The file of its answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RareEstimate:
    """All that is asked, and the real tiles to compare with."""

    folder: Path
    seed: int
    law: Law
    rules: SubsetRules
    thresholds: tuple[float, ...]
    """Of the confidence, from the highest to the lowest."""
    conditions: tuple[str, ...]
    """In the generator's order."""
    real: RealPool | None
    missing: str
    """Why there are no real tiles; empty where there are."""

    @property
    def key(self) -> dict[str, Any]:
        """All that every answer depends on."""
        return {"populations": asdict(self.rules), "seed": self.seed, "models": self.law.key}

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Two events of each condition, one where the target has no such class."""
        odds = tuple(log(threshold) - log1p(-threshold) for threshold in self.thresholds)
        return tuple(
            self._question(name, event, score, levels)
            for name in self.conditions
            for event, score, levels in (
                ("confidence", self.law.confidence(name), odds),
                ("disagreement", self.law.disagreement(name), (0.0,)),
            )
            if score is not None
        )

    @property
    def left(self) -> list[Question]:
        """Return the questions that no earlier run has answered."""
        return [question for question in self.questions if not question.path.exists()]

    def answer(self, question: Question, watch: Callable[[int], None]) -> None:
        """Ask the target and write the answer.

        Args:
            question: one of those left.
            watch: is called with the number of tiles asked about so far; what it raises ends the
                work, and the answer is not written.
        """
        asked = 0

        def score(z: Float64[np.ndarray, "b d"]) -> Float64[np.ndarray, " b"]:
            nonlocal asked
            watch(asked)
            found = question.score(z)
            asked += len(z)
            return found

        seed = seed_of(self.seed, "estimate", "rare", question.condition, question.event)
        given = (score, self.law.dimensions, question.levels, seed, self.rules)
        before = self.law.unanswered.copy()
        plain = False
        try:
            event = rare_event(*given)
        except JobError:
            # The answers of a coarse target, such as a few trees, are the same for most latents.
            before = self.law.unanswered.copy()  # the tiles of the first attempt are not reported
            event, plain = counted_event(*given), True
        reasons = dict(self.law.unanswered - before)
        answer = {"key": question.key, "plain": plain, "unanswered": reasons}
        write_json(question.path, {**answer, "event": event.to_json()})

    def report(self) -> tuple[Ladders, bool]:
        """Write the report of all answers into report.md, report.json and ladder.png.

        Returns:
            What it tells, and whether it was written: not if it is there as it would be.
        """
        ladders = self._ladders()
        report = {"format": FORMAT, **self.key, **_to_json(ladders)}
        path = self.folder / "report.json"
        if all((self.folder / name).exists() for name in ("report.md", "ladder.png")):
            with suppress(FileNotFoundError, ValueError):
                if json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(report)):
                    return ladders, False
        # Written last, so that it stands for all three.
        path.unlink(missing_ok=True)
        save_figures(self.folder, {"ladder": ladder_figure(ladders)})
        write_text(self.folder / "report.md", markdown(ladders))
        write_json(path, report)
        return ladders, True

    def _question(self, name: str, event: str, score: Score, levels: tuple[float, ...]) -> Question:
        key = {"format": FORMAT, "condition": name, "event": event, "levels": levels, **self.key}
        number = seed_of(0, json.dumps(key, sort_keys=True))
        return Question(
            name=f"{name}, {event}",
            condition=name,
            event=event,
            score=score,
            levels=levels,
            key=key,
            path=self.folder / "pieces" / f"{number:016x}.json",
        )

    def _ladders(self) -> Ladders:
        found: dict[str, dict[str, RareEvent]] = {}
        plain, unanswered = [], Counter[str]()
        for question in self.questions:
            values = json.loads(question.path.read_text(encoding="utf-8"))
            event = RareEvent.from_json(values["event"])
            found.setdefault(question.condition, {})[question.event] = event
            if values["plain"]:
                plain.append(question.name)
            unanswered.update(values.get("unanswered", {}))  # which files of before have not
        overall, by_condition = generated_ladders(
            {
                name: Events(confidence=both["confidence"], disagreement=both.get("disagreement"))
                for name, both in found.items()
            }
        )
        return Ladders(
            thresholds=self.thresholds,
            overall=overall,
            by_condition=by_condition,
            real=self.real,
            missing=self.missing,
            plain=tuple(plain),
            unanswered=unanswered,
            evaluations=sum(e.evaluations for both in found.values() for e in both.values()),
        )


def open_rare(settings: Settings, *, trust_code: bool) -> Work[RareEstimate]:
    """Load the models and the scores of real tiles, and make the folder of the estimate.

    Args:
        settings: of the run.
        trust_code: whether a target that can run code may be loaded.

    Raises:
        ModelError: see `load_law`.
        SettingsError: thresholds that no probability falls below, or unknown conditions.
    """
    section = settings.estimate.rare
    rules = SubsetRules(**section.model_dump(exclude={"thresholds", "conditions"}))
    law = load_law(settings, trust_code=trust_code)
    thresholds = _thresholds(section, len(law.target.classes))
    conditions = _conditions(section, law.generator.classes)
    real, missing = yield from _real_pool(settings, law, thresholds)
    folder = settings.run.dir / "estimate" / "rare"
    RunFolder(folder, settings)
    return RareEstimate(
        folder=folder,
        seed=settings.run.seed,
        law=law,
        rules=rules,
        thresholds=thresholds,
        conditions=conditions,
        real=real,
        missing=missing,
    )


def _thresholds(section: RareSettings, classes: int) -> tuple[float, ...]:
    """Return the ladder from the highest to the lowest.

    Raises:
        SettingsError: the largest of so many probabilities never falls below one of them.
    """
    if section.thresholds is None:
        return tuple(threshold for threshold in _LADDER if threshold * classes > 1)
    wrong = [f"{threshold:g}" for threshold in section.thresholds if threshold * classes <= 1]
    if wrong:
        raise SettingsError(
            f"estimate.rare.thresholds holds {', '.join(wrong)}: the largest of {classes} "
            f"probabilities is never below {1 / classes:.3g}",
            remedy=f"leave out what is not above {1 / classes:.3g}",
        )
    return tuple(sorted(set(section.thresholds), reverse=True))


def _conditions(section: RareSettings, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the conditions in the generator's order.

    Raises:
        SettingsError: the generator has no such class.
    """
    if section.conditions is None:
        return classes
    places = require(
        class_list("estimate.rare.conditions", section.conditions, error=SettingsError),
        class_list("the generator", classes, error=SettingsError),
        remedy="correct it",
        error=SettingsError,
    )
    return tuple(classes[place] for place in sorted(places))


def _real_pool(
    settings: Settings, law: Law, thresholds: tuple[float, ...]
) -> Work[tuple[RealPool | None, str]]:
    """Return what `rslow batch score` found, or why there is nothing to compare with."""
    path = scores_path(settings)
    if not path.exists():
        return None, "No real tiles stand beside: none are scored."
    try:
        scores = scores_of(catalog_of(settings), path.parent, law.target_of)
        narrowed = narrow(lambda name: scores[name].tolist(), len(scores), settings.batch)
    except JobError as error:
        return None, f"No real tiles stand beside: {error.said}."
    left_out, total = dict(narrowed.left_out), len(scores)
    scores = scores[narrowed.rows]
    law.class_map.meet(
        vocabulary("the catalog's labels", scores["label"].unique()),
        class_list("the target", law.target.classes),
    )
    if settings.estimate.rare.conditions is not None:
        wanted = scores["label"].map(partial(_is_of, law, settings.estimate.rare.conditions))
        if not wanted.all():
            left_out["of classes that estimate.rare.conditions omits"] = int((~wanted).sum())
        scores = scores[wanted]
    yield LeftOut(what="tiles", reasons=left_out, total=total)
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
        class_map=law.class_map,
    )
    splits = scores["rslow:split"].value_counts()
    return RealPool(
        overall=overall,
        by_class=by_class,
        tiles=len(scores),
        splits={str(name): int(count) for name, count in sorted(splits.items())},
    ), ""


def _is_of(law: Law, conditions: Sequence[str], label: str | None) -> bool:
    """Return whether a real tile shows one of these conditions.

    A label that the generator does not know is compared by its common name.
    """
    if label is None or label in law.generator.classes:
        return label in conditions
    return law.class_map.common(label) in law.class_map.commons(conditions)


def _to_json(ladders: Ladders) -> dict[str, Any]:
    """Return what the report holds besides what it was made from."""
    thresholds, real = ladders.thresholds, ladders.real

    def by_name(named: Mapping[str, Ladder]) -> dict[str, Any]:
        return {name: ladder.to_json(thresholds) for name, ladder in named.items()}

    return {
        "evaluations": ladders.evaluations,
        "generated": {
            "weights": "conditions weigh the same",
            "overall": ladders.overall.to_json(thresholds),
            "by_condition": by_name(ladders.by_condition),
        },
        "real": None
        if real is None
        else {
            "tiles": real.tiles,
            "splits": dict(real.splits),
            "warning": real.warning,
            "overall": real.overall.to_json(thresholds),
            "by_label": by_name(real.by_class),
        },
        "no_real_because": ladders.missing,
        "plain_random_latents": list(ladders.plain),
        "without_answer": dict(ladders.unanswered),
        "notes": list(notes(ladders)),
        "caveats": [text.replace("**", "") for text in CAVEATS],
    }
