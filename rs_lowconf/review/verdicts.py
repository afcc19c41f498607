"""Combines the answers of several reviewers into one verdict per sample, and their agreement."""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score

from rs_lowconf.review.fields import Decision
from rs_lowconf.review.store import Opinion


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The joint verdict of a sample's reviewers."""

    sample_id: str
    decision: Decision | None
    """None if they disagree."""
    true_class: str | None
    """The class of an accepted sample, else None; always None where masks are reviewed."""
    reviewers: tuple[str, ...]
    """Names of the reviewers."""
    reviewed_ms: int
    """Time of the last answer; milliseconds since 1970, UTC."""
    realism: int | None
    """Median of their realism scores, rounded down; None without any."""


def verdicts(opinions: Iterable[Opinion]) -> dict[str, Verdict]:
    """Return a verdict for every sample with an answer.

    Reviewers agree if all decide the same, class included; an *unsure* vote abstains. If an answer
    settles a disagreement, only that counts.
    """
    by_sample: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in opinions:
        by_sample[opinion.sample_id].append(opinion)
    return {name: _verdict(name, answered) for name, answered in by_sample.items()}


def _verdict(sample_id: str, opinions: Sequence[Opinion]) -> Verdict:
    opinions = [one for one in opinions if one.settles] or opinions
    opinions = [one for one in opinions if one.decision != "unsure"] or opinions
    answers = {(one.decision, one.true_class) for one in opinions}
    agreed = answers.pop() if len(answers) == 1 else (None, None)
    marks = [one.realism for one in opinions if one.realism is not None]
    return Verdict(
        sample_id=sample_id,
        decision=agreed[0],
        true_class=agreed[1],
        reviewers=tuple(sorted({one.reviewer for one in opinions})),
        reviewed_ms=max(one.reviewed_ms for one in opinions),
        realism=int(np.median(marks)) if marks else None,
    )


def agreement(opinions: Iterable[Opinion]) -> dict[str, Any]:
    """Return the agreement of reviewers, on decisions only and including the class.

    Krippendorff's alpha for all of them (missing answers allowed), Cohen's kappa for every
    pair; 1 is complete agreement, 0 is chance. None if it is undefined: no
    sample answered twice, or all answers the same. Answers that settle disagreements are left
    out.
    """
    table: dict[str, dict[str, tuple[Decision, str | None]]] = defaultdict(dict)
    for one in opinions:
        if not one.settles:
            table[one.reviewer][one.sample_id] = (one.decision, one.true_class)
    reviewers = sorted(table)
    shared = [
        name
        for name in sorted({name for answered in table.values() for name in answered})
        if sum(name in answered for answered in table.values()) > 1
    ]
    disagreed = [
        name
        for name in shared
        if len({answered[name] for answered in table.values() if name in answered}) > 1
    ]

    def answers(reviewer: str, name: str, *, whole: bool) -> str | None:
        if name not in table[reviewer]:
            return None
        decision, true_class = table[reviewer][name]
        return f"{decision}: {true_class}" if whole and true_class else decision

    def alpha(*, whole: bool) -> float | None:
        rows = [[answers(r, name, whole=whole) for name in shared] for r in reviewers]
        return _alpha(rows)

    return {
        "reviewers": {name: len(table[name]) for name in reviewers},
        "samples_answered_more_than_once": len(shared),
        "samples_disagreed_on": disagreed,
        "alpha_decision": alpha(whole=False),
        "alpha_decision_and_class": alpha(whole=True),
        "kappa": [
            {
                "reviewers": [a, b],
                "samples": len(both),
                "decision": _kappa([[answers(r, n, whole=False) for n in both] for r in (a, b)]),
                "decision_and_class": _kappa(
                    [[answers(r, n, whole=True) for n in both] for r in (a, b)]
                ),
            }
            for a, b in combinations(reviewers, 2)
            if (both := [name for name in shared if name in table[a] and name in table[b]])
        ],
    }


def _alpha(rows: Sequence[Sequence[str | None]]) -> float | None:
    values = sorted({answer for row in rows for answer in row if answer is not None})
    if len(values) < 2:
        return None
    codes = [[np.nan if answer is None else values.index(answer) for answer in row] for row in rows]
    return float(krippendorff.alpha(np.array(codes), level_of_measurement="nominal"))


def _kappa(rows: Sequence[Sequence[str | None]]) -> float | None:
    first, second = rows
    if len({*first, *second}) < 2:
        return None
    with warnings.catch_warnings():
        # Chance agreement of 1 gives nan, which is reported as None.
        warnings.simplefilter("ignore", RuntimeWarning)
        kappa = float(cohen_kappa_score(first, second))
    return None if np.isnan(kappa) else kappa
