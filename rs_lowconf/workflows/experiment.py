"""Every design and the paper's own, replayed on a pool that is all labelled."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.confusions import compare_confusions
from rs_lowconf.estimate.describe_experiment import answer, describe_experiment
from rs_lowconf.estimate.experiment import (
    Case,
    Grounds,
    budgets_of,
    cases_of,
    foreseen,
    key_of,
    replay_case,
    split_validation,
    taken_literally,
)
from rs_lowconf.estimate.paper import neighbour_errors, replay_generated
from rs_lowconf.estimate.prepare import prepare
from rs_lowconf.estimate.scores import Scores, read_scores
from rs_lowconf.pages.report import write_report
from rs_lowconf.runs import finite, write_json
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_name
from rs_lowconf.workflows.pool import load_scores
from rs_lowconf.workflows.records import LeftOut, Step, Work

FORMAT = 1
_VERDICTS: Mapping[str | None, str] = {
    None: "disagree on",
    "reject": "rejected",
    "mixed": "found mixed",
    "unsure": "are unsure of",
    "mask wrong": "found a wrong mask in",
}
_UNSURE = "the least sure validation units"
_MADE, _FOUND = "tiles from random latents", "tiles that the search found"


def run_experiment(settings: Settings, folder: Path) -> Work[tuple[str, ...]]:
    """Replay all designs, write the report into a folder, and return its answer in sentences.

    Cells that an earlier run of the same experiment wrote there are not replayed again.

    Raises:
        DataError: the labels hold no error, or are too few.
        SettingsError: see `prepare`; two tables of generated tiles go by one name.
        OutputError: the folder cannot be written.
    """
    section = settings.estimate
    sources = yield from _sources(settings)
    # Before hours of replays, so that a bad one is told soon.
    weights = {name: _weight(made) for name, made in sources.items()}
    grounds = yield from _grounds(settings, sources)
    prepared = grounds.prepared
    budgets = budgets_of(section.experiment.budgets, len(prepared.pool), len(prepared.classes))
    ppi = find_spec("ppi_py") is not None
    cases = cases_of(prepared, budgets, section.experiment.blind, ppi=ppi)
    measured = yield from _measured(folder / "cells", grounds, budgets, cases)
    values = {
        "format": FORMAT,
        **_about(settings, grounds, budgets),
        **measured,
        "generated": _generated(sources, weights, grounds, budgets),
        "confusions": _confusions(sources, grounds, settings.run.seed),
    }
    values["answer"] = answer(values)
    write_report(folder, describe_experiment(values), values)
    return tuple(values["answer"])


def _grounds(settings: Settings, sources: Mapping[str, Scores]) -> Work[Grounds]:
    """Return the labelled pool with its error predictors."""
    own, seed = settings.estimate, settings.run.seed
    scores = yield from load_scores(settings, features=True)
    known = scores.labelled
    if not known.all():
        reasons = {"without a label": int((~known).sum())}
        yield LeftOut(what="units", reasons=reasons, total=len(scores))
        scores = scores.take(known)
    if own.validation is None:
        scores, validation = split_validation(scores, own.experiment.validation, seed)
    else:
        validation = read_scores(
            own.validation, own.measure, features=True, class_map=scores.class_map
        )
    if not scores.error.any():
        raise DataError(f"the labels of {scores.source} hold no error", expected="one at least")
    hints = {}
    made = sources.get(_MADE)
    if made is not None and made.features is not None:
        ours = yield from _features(settings, validation)
        theirs = yield from _features(settings, scores)
        if ours is not None and theirs is not None:
            hints["retrieved"] = (
                neighbour_errors(ours, made.features, made.error, seed),
                neighbour_errors(theirs, made.features, made.error, seed),
            )
    prepared = prepare(
        scores,
        validation=validation,
        surrogates=own.surrogates,
        generated=sources.get(_FOUND, made),
        hints=hints,
        seed=seed,
        defensive=own.defensive,
    )
    return Grounds(
        prepared=prepared,
        validation=validation,
        error=scores.error,
        defensive=own.defensive,
        seed=seed,
        repetitions=own.experiment.repetitions,
    )


def _features(settings: Settings, scores: Scores) -> Work[Float[np.ndarray, "n f"] | None]:
    """Return the features of units: those in the table, or of a catalog's tiles the extractor's.

    None where a table has none.
    """
    if scores.features is not None or settings.estimate.scores is not None:
        return scores.features
    from rs_lowconf.workflows.catalog import tiles_of
    from rs_lowconf.workflows.generated import features_of_tiles

    return (yield from features_of_tiles(settings, tiles_of(settings), scores.ids.tolist()))


def _about(settings: Settings, grounds: Grounds, budgets: tuple[int, ...]) -> dict[str, Any]:
    """Return what was replayed."""
    prepared = grounds.prepared
    choice = prepared.choice
    assert choice is not None  # noqa: S101 -- an experiment has validation labels
    return {
        "scores": prepared.scores.source,
        "units": len(prepared.pool),
        "classes": len(prepared.classes),
        "error_rate": float(grounds.error.mean()),
        "validation": {
            "labels": len(grounds.validation),
            "errors": int(grounds.validation.error.sum()),
        },
        "predictor": {
            "name": choice.name,
            "gain": choice.gain,
            "candidates": list(prepared.predictors),
        },
        "budgets": list(budgets),
        "repetitions": grounds.repetitions,
        "defensive": grounds.defensive,
        "seed": settings.run.seed,
    }


def _measured(
    folder: Path, grounds: Grounds, budgets: tuple[int, ...], cases: list[Case]
) -> Work[dict[str, Any]]:
    """Return all cells, each from its file where an earlier run wrote it."""
    cells, title = [], "replaying"
    yield Step(title=title, done=0, total=len(cases))
    for number, case in enumerate(cases, 1):
        path = folder / f"{key_of(grounds, case)}.json"
        if not path.exists():
            write_json(path, finite(replay_case(grounds, case)))
        cells.append(json.loads(path.read_text(encoding="utf-8")))
        yield Step(title=title, done=number, total=len(cases), text=case.name)
    plans = [finite(one) for one in foreseen(grounds, budgets)]
    return {
        "cells": cells,
        "foreseen": plans,
        "ceiling": plans[-1]["ceiling"],
        "ceiling_range": plans[-1]["ceiling_range"],
        "naive": [taken_literally(grounds, labels) for labels in budgets],
    }


def _generated(
    sources: Mapping[str, Scores],
    weights: Mapping[str, Float64[np.ndarray, " _"] | None],
    grounds: Grounds,
    budgets: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Return what labels of generated tiles are worth; an arm ends at its number of tiles."""
    return [
        asdict(
            replay_generated(
                made.error,
                source=name,
                rate=float(grounds.error.mean()),
                population=len(grounds.error),
                labels=labels,
                repetitions=grounds.repetitions,
                seed=grounds.seed,
                weight=weights[name],
            )
        )
        for name, made in sources.items()
        for labels in budgets
        if labels <= len(made)
    ]


def _weight(made: Scores) -> Float64[np.ndarray, " m"] | None:
    """Return the weights of generated tiles; None where their table has none.

    Raises:
        DataError: one is no number of 0 or more.
    """
    if "weight" not in made.shown:
        return None
    weight: Float64[np.ndarray, " m"] = pd.to_numeric(
        made.shown["weight"], errors="coerce"
    ).to_numpy(dtype=float)
    wrong = np.nonzero(~(np.isfinite(weight) & (weight >= 0)))[0]
    if len(wrong):
        raise DataError(
            f"{made.source}: {len(wrong)} weights that are no number of 0 or more, the first "
            f"{made.shown['weight'].iloc[wrong[0]]} of {made.ids[wrong[0]]}",
            expected="a number in each row, or no column weight",
        )
    return weight


def _confusions(
    sources: Mapping[str, Scores], grounds: Grounds, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the confusions of what was found, and of two baselines, beside those of the pool.

    Real tiles of low confidence come from the validation units, which are none of the pool's.
    """
    if _FOUND not in sources:
        return {}
    pool, validation = grounds.prepared.scores, grounds.validation
    least = np.argsort(-validation.doubt, kind="stable")[: len(sources[_FOUND])]
    unsure = np.zeros(len(validation), dtype=bool)
    unsure[least[: len(validation) // 2]] = True
    arms = {**sources, _UNSURE: validation.take(unsure)}
    return {
        name: compare_confusions(
            arms[name].pairs,
            pool.pairs,
            says=pool.says.names,
            class_map=pool.class_map,
            seed=seed,
        ).to_json()
        for name in (_FOUND, _MADE, _UNSURE)
        if name in arms
    }


def _sources(settings: Settings) -> Work[dict[str, Scores]]:
    """Return the generated tiles that the settings name, labelled ones alone."""
    found: dict[str, Scores] = {}
    own = settings.estimate.experiment
    taken = [name for name in own.generated if name in (_MADE, _FOUND)]
    if taken:
        raise SettingsError(
            f"estimate.experiment.generated names a table {taken[0]!r}",
            expected="another name: the report calls other tiles so",
        )
    if own.random_latents is not None:
        found[_MADE] = yield from _labelled(settings, own.random_latents, features=True)
    if settings.estimate.generated_samples is not None:
        found[_FOUND] = yield from found_tiles(settings, settings.estimate.generated_samples)
    for name, path in own.generated.items():
        found[name] = yield from _labelled(settings, path)
    return found


def _labelled(settings: Settings, path: Path, *, features: bool = False) -> Work[Scores]:
    """Return the labelled rows of a table of generated tiles."""
    made = read_scores(
        path,
        settings.estimate.measure,
        features=features,
        class_map=settings.target.common_names,
    )
    unlabelled = int((~made.labelled).sum())
    reasons = {"without a label": unlabelled} if unlabelled else {}
    yield LeftOut(what=f"rows of {path}", reasons=reasons, total=len(made))
    return made.take(made.labelled)


def found_tiles(settings: Settings, path: Path) -> Work[Scores]:
    """Return the generated tiles of a table, with the classes that reviewers gave them.

    Those that reviewers rejected, disagreed on or found mixed are left out; what nobody has seen
    keeps its condition.
    """
    from rs_lowconf.review.store import STORE, ReviewStore
    from rs_lowconf.review.verdicts import verdicts

    class_map = settings.target.common_names
    made = read_scores(path, settings.estimate.measure, class_map=class_map)
    said = verdicts(ReviewStore(settings.run.dir / STORE).opinions())
    condition = made.label if made.label is not None else np.full(len(made), None)
    label = np.array(
        [
            class_name(said[name].true_class, class_map.names) if name in said else own
            for name, own in zip(made.ids, condition, strict=True)
        ],
        dtype=object,
    )
    reviewed = replace(made, label=label)
    reasons = Counter(
        f"that reviewers {_VERDICTS[said[name].decision]}" if name in said else "without a label"
        for name in made.ids[~reviewed.labelled]
    )
    yield LeftOut(what=f"tiles of {path}", reasons=reasons, total=len(made))
    return reviewed.take(reviewed.labelled)
