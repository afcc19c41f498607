"""From scores to a pool: what is known of each unit becomes a probability of error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.draws import DEFENSIVE, Pool
from rs_lowconf.estimate.plan import Validation
from rs_lowconf.estimate.predictors import Choice, chosen, fit_predictor, log_odds
from rs_lowconf.estimate.scores import Scores, joined, surrogate_doubts
from rs_lowconf.seeds import seed_of

_ENOUGH = 50
"""Validation labels: below, halves of them fit and check nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A pool to draw from, and what was found on the way."""

    scores: Scores
    classes: tuple[str, ...]
    """Those that the target says or that labels name, sorted; `pool.predicted` counts them."""
    remark: str
    """Which classes only the labels or only the predictions name; empty where they agree."""
    pool: Pool
    validation: Validation | None
    """Labelled units that the error predictor did not learn from; None without any."""
    choice: Choice | None
    """Which error predictor it is, and what it gains; None where nothing is validated."""
    predictors: Mapping[str, Float64[np.ndarray, " n"]]
    """The pool's g by each candidate."""
    raw: Float64[np.ndarray, " n"]
    """The mean doubt of all models, each counting once, which no label has seen."""


Hint = tuple[Float64[np.ndarray, " v"], Float64[np.ndarray, " n"]]
"""A further probability of error of each validation unit and of each unit of the pool."""


def prepare(
    scores: Scores,
    *,
    validation: Scores | None = None,
    surrogates: Sequence[Path] = (),
    generated: Scores | None = None,
    hints: Mapping[str, Hint] | None = None,
    seed: int = 0,
    defensive: float = DEFENSIVE,
) -> Prepared:
    """Return the pool with the best error predictor that labels vouch for.

    With validation labels, half of them (of whole groups, where there are some) fit the
    candidates and half choose among them: `confidence`, a curve over the target's own doubt;
    `surrogates`, with the doubt of other models beside it; `generated`, the curve of generated
    tiles. The first is left only for one that is better by a standard error. Without, g is what
    the models say as it is, and only waves of labels can mend it.

    Args:
        scores: of the pool.
        validation: of labelled units, drawn uniformly from units like the pool's.
        surrogates: tables of other models' scores of pool and validation.
        generated: of generated tiles, labelled by their condition or by reviews.
        hints: what else may tell where the target errs: a candidate each.
        seed: of the halves.
        defensive: share of the labels that will be drawn uniformly.

    Raises:
        DataError: see `surrogate_doubts` and `joined`; fewer than 50 validation labels, or one
            unlabelled; no generated label.
        SettingsError: generated tiles without validation labels to judge them by.
    """
    doubts = surrogate_doubts(scores, surrogates) if surrogates else None
    features, raw = _features(scores.doubt, doubts), _mean(scores.doubt, doubts, len(surrogates))
    meeting = joined([table for table in (scores, validation, generated) if table is not None])
    classes = _classes(scores, validation)
    predicted = pd.Categorical(scores.predicted, classes).codes.astype(np.int64)
    if validation is None:
        if generated is not None:
            raise SettingsError(
                "an error predictor from generated tiles that nothing validates",
                expected="estimate.validation, because it can be worse than none",
            )
        return Prepared(
            scores=scores,
            classes=classes,
            remark=meeting.remark,
            pool=Pool(g=raw, predicted=predicted, features=features),
            validation=None,
            choice=None,
            predictors={"unvalidated": raw},
            raw=raw,
        )
    _check(validation)
    error, fitting = validation.error, _half(validation, seed)
    known = dict(hints or {})
    if doubts is not None:
        known["surrogates"] = (surrogate_doubts(validation, surrogates), doubts)
    candidates = _candidates(scores, validation, fitting, known, generated)
    held_out = {name: both[0][~fitting] for name, both in candidates.items()}
    choice = Choice(name="confidence", gain=1.0)
    if error[~fitting].any():
        choice = chosen(held_out, error[~fitting], defensive)
    groups = validation.groups
    return Prepared(
        scores=scores,
        classes=classes,
        remark=meeting.remark,
        pool=Pool(g=candidates[choice.name][1], predicted=predicted, features=features),
        validation=Validation(
            g=held_out[choice.name],
            error=error[~fitting],
            group=None if groups is None else groups[~fitting],
        ),
        choice=choice,
        predictors={name: both[1] for name, both in candidates.items()},
        raw=raw,
    )


def _candidates(
    scores: Scores,
    validation: Scores,
    fitting: Bool[np.ndarray, " v"],
    hints: Mapping[str, Hint],
    generated: Scores | None,
) -> dict[str, Hint]:
    """Return g of the validation units and of the pool by each candidate."""
    error = validation.error[fitting]
    known, wanted = (log_odds(table.doubt)[:, None] for table in (validation, scores))
    fit = fit_predictor(known[fitting], error, validation.doubt[fitting])
    prior = fit(known)
    found = {"confidence": (prior, fit(wanted))}
    for name, (of_validation, of_pool) in hints.items():
        both = np.hstack([known, log_odds(of_validation)[:, None]])
        fit = fit_predictor(both[fitting], error, prior[fitting])
        found[name] = (fit(both), fit(np.hstack([wanted, log_odds(of_pool)[:, None]])))
    if generated is not None:
        if not generated.labelled.any():
            raise DataError(f"{generated.source} has no labels", expected="a column label")
        made = generated.take(generated.labelled)
        fit = fit_predictor(log_odds(made.doubt)[:, None], made.error, made.doubt)
        found["generated"] = (fit(known), fit(wanted))
    return found


def _features(
    doubt: Float64[np.ndarray, " n"], surrogates: Float64[np.ndarray, " n"] | None
) -> Float64[np.ndarray, "n f"]:
    columns = [doubt] if surrogates is None else [doubt, surrogates]
    return np.stack([log_odds(column) for column in columns], axis=1)


def _mean(
    doubt: Float64[np.ndarray, " n"], surrogates: Float64[np.ndarray, " n"] | None, many: int
) -> Float64[np.ndarray, " n"]:
    """Return the mean doubt of the target and of `many` others, whose own mean is given."""
    if surrogates is None:
        return doubt
    mean: Float64[np.ndarray, " n"] = (doubt + many * surrogates) / (many + 1)
    return mean


def _classes(*tables: Scores | None) -> tuple[str, ...]:
    given = [table for table in tables if table is not None]
    return tuple(
        sorted({name for table in given for name in (*table.says.names, *table.knows.names)})
    )


def _check(validation: Scores) -> None:
    lacking = int((~validation.labelled).sum())
    if lacking:
        raise DataError(
            f"{validation.source}: {lacking} of {len(validation)} rows have no label, or ? for one",
            expected="one in each: leaving out what is hard to label biases what it says",
            remedy="have them labelled",
        )
    if len(validation) < _ENOUGH:
        raise DataError(
            f"{validation.source} has {len(validation)} labels",
            expected=f"{_ENOUGH} at least: half of them fit, half check",
            remedy="plan without estimate.validation, assuming calibration",
        )


def _half(validation: Scores, seed: int) -> Bool[np.ndarray, " v"]:
    """Return the half that fits: random units, or random whole groups."""
    groups = validation.groups
    unit: Int[np.ndarray, " v"] = np.arange(len(validation)) if groups is None else groups
    rng = np.random.default_rng(seed_of(seed, "estimate", "halves"))
    many = int(unit.max()) + 1
    first = np.zeros(many, dtype=bool)
    first[rng.permutation(many)[: -(-many // 2)]] = True
    half: Bool[np.ndarray, " v"] = first[unit]
    return half
