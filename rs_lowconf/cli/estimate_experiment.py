"""`rslow estimate experiment`: every design and the paper's own, on a pool that is all labelled."""

import json
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, load_settings
from rs_lowconf.cli.estimate_pool import estimate_app, load_scores, write_report
from rs_lowconf.cli.progress import print_left_out, progress
from rs_lowconf.errors import DataError
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_name

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from rs_lowconf.estimate.experiment import Case, Grounds
    from rs_lowconf.estimate.scores import Scores

FORMAT = 1
_VERDICTS: Mapping[str | None, str] = {
    None: "disagree on",
    "reject": "rejected",
    "mixed": "found mixed",
    "unsure": "are unsure of",
    "mask wrong": "found a wrong mask in",
}
_MADE, _FOUND = "tiles from random latents", "tiles that the search found"

NameOption = Annotated[
    str, typer.Option("--name", help="Folder of this experiment below run.dir/estimate.")
]


@estimate_app.command()
def experiment(
    config: ConfigOption = None, set_: SetOption = None, name: NameOption = "experiment"
) -> None:
    """Replay all designs on a labelled pool: is labelling unsure units worth it?

    Units without a label are left out. Tells RMSE, saving, bias, coverage and width of each
    design, what plan foresaw, how they stand errors where none is expected, and the paper's own
    way: labels of generated tiles, as they are and as hints where to look. Can be interrupted
    and run again. Writes report.json, report.md and report.html into run.dir/estimate/NAME.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.estimate.describe_experiment import answer, describe_experiment
    from rs_lowconf.estimate.experiment import budgets_of, cases_of

    own, folder = settings.estimate, settings.run.dir / "estimate" / name
    sources = _sources(settings)
    grounds = _grounds(settings, sources)
    prepared = grounds.prepared
    budgets = budgets_of(own.experiment.budgets, len(prepared.pool), len(prepared.classes))
    cases = cases_of(prepared, budgets, own.experiment.blind, ppi=find_spec("ppi_py") is not None)
    told = {
        "format": FORMAT,
        **_about(settings, grounds, budgets),
        **_measured(folder / "cells", grounds, budgets, cases),
        "generated": _generated(sources, grounds, budgets),
    }
    told["answer"] = answer(told)
    write_report(folder, describe_experiment(told), told)
    for line in told["answer"]:
        print(line)
    print(f"Report: {folder / 'report.html'}, report.md and report.json")


def _grounds(settings: Settings, sources: "Mapping[str, Scores]") -> "Grounds":
    """Return the labelled pool with its error predictors."""
    from rs_lowconf.estimate.experiment import Grounds, split_validation
    from rs_lowconf.estimate.paper import neighbour_errors
    from rs_lowconf.estimate.prepare import prepare
    from rs_lowconf.estimate.scores import read_scores

    own, seed = settings.estimate, settings.run.seed
    scores = load_scores(settings, features=True)
    known = scores.labelled
    if not known.all():
        print(f"{int((~known).sum()):,} of {len(scores):,} units have no label and are left out.")
        scores = scores.take(known)
    if own.validation is None:
        scores, validation = split_validation(scores, own.experiment.validation, seed)
    else:
        validation = read_scores(own.validation, own.measure, features=True)
    if not scores.error.any():
        raise DataError(f"the labels of {scores.path} hold no error", expected="one at least")
    hints = {}
    made = sources.get(_MADE)
    if made is not None and made.features is not None:
        both = [_features(settings, one) for one in (validation, scores)]
        if all(one is not None for one in both):
            ours, theirs = (
                neighbour_errors(one, made.features, made.error, seed)
                for one in both
                if one is not None
            )
            hints["retrieved"] = (ours, theirs)
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


def _features(settings: Settings, scores: "Scores") -> "Float[np.ndarray, 'n f'] | None":
    """Return the features of units: those in the table, or of a catalog's tiles the extractor's.

    None where a table has none.
    """
    if scores.features is not None or settings.estimate.scores is not None:
        return scores.features
    from rs_lowconf.cli.catalog import tiles_of
    from rs_lowconf.cli.estimate_generated import features_of_tiles

    return features_of_tiles(settings, tiles_of(settings), scores.ids.tolist())


def _about(settings: Settings, grounds: "Grounds", budgets: tuple[int, ...]) -> dict[str, Any]:
    """Return what was replayed."""
    prepared = grounds.prepared
    choice = prepared.choice
    assert choice is not None  # noqa: S101 -- an experiment has validation labels
    return {
        "scores": str(prepared.scores.path),
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
    folder: Path, grounds: "Grounds", budgets: tuple[int, ...], cases: "list[Case]"
) -> dict[str, Any]:
    """Return all cells, each from its file where an earlier run wrote it."""
    from rs_lowconf.estimate.experiment import foreseen, key_of, replay_case, taken_literally
    from rs_lowconf.runs import finite, write_json

    cells = []
    with progress("replaying", len(cases)) as bar:
        for number, case in enumerate(cases, 1):
            path = folder / f"{key_of(grounds, case)}.json"
            if not path.exists():
                write_json(path, finite(replay_case(grounds, case)))
            cells.append(json.loads(path.read_text(encoding="utf-8")))
            bar.update(number, case.name)
    plans = [finite(one) for one in foreseen(grounds, budgets)]
    return {
        "cells": cells,
        "foreseen": plans,
        "ceiling": plans[-1]["ceiling"],
        "ceiling_range": plans[-1]["ceiling_range"],
        "naive": [taken_literally(grounds, labels) for labels in budgets],
    }


def _generated(
    sources: "Mapping[str, Scores]", grounds: "Grounds", budgets: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return what labels of generated tiles are worth."""
    from rs_lowconf.estimate.paper import replay_generated

    return [
        replay_generated(
            one.error,
            source=name,
            rate=float(grounds.error.mean()),
            population=len(grounds.error),
            labels=labels,
            repetitions=grounds.repetitions,
            seed=grounds.seed,
        ).as_dict()
        for name, one in sources.items()
        for labels in budgets
    ]


def _sources(settings: Settings) -> "dict[str, Scores]":
    """Read the generated tiles that the settings name, labelled ones alone."""
    from rs_lowconf.estimate.scores import read_scores

    found: dict[str, Scores] = {}
    path = settings.estimate.experiment.random_latents
    if path is not None:
        made = read_scores(path, settings.estimate.measure, features=True)
        unlabelled = int((~made.labelled).sum())
        left_out = {"without a label": unlabelled} if unlabelled else {}
        print_left_out(left_out, len(made), f"rows of {path}")
        found[_MADE] = made.take(made.labelled)
    if settings.estimate.generated is not None:
        found[_FOUND] = found_tiles(settings)
    return found


def found_tiles(settings: Settings) -> "Scores":
    """Return the generated tiles of estimate.generated, with the classes that reviewers gave them.

    Those that reviewers rejected, disagreed on or found mixed are left out; what nobody has seen
    keeps its condition.
    """
    from dataclasses import replace

    import numpy as np

    from rs_lowconf.cli.review import store_of
    from rs_lowconf.estimate.scores import read_scores
    from rs_lowconf.review.verdicts import verdicts

    path = settings.estimate.generated
    assert path is not None  # noqa: S101 -- the caller has looked
    made = read_scores(path, settings.estimate.measure)
    said = verdicts(store_of(settings).opinions())
    condition = made.label if made.label is not None else np.full(len(made), None)
    label = np.array(
        [
            class_name(said[name].true_class) if name in said else own
            for name, own in zip(made.ids, condition, strict=True)
        ],
        dtype=object,
    )
    reviewed = replace(made, label=label)
    left_out = Counter(
        f"that reviewers {_VERDICTS[said[name].decision]}" if name in said else "without a label"
        for name in made.ids[~reviewed.labelled]
    )
    print_left_out(left_out, len(made), f"tiles of {path}")
    return reviewed.take(reviewed.labelled)
