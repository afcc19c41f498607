"""Figures of each round of reviews on the generator, the gate and the reviewers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score

from rs_lowconf.review.store import Opinion, ReviewStore, SentSample
from rs_lowconf.review.verdicts import Verdict, verdicts
from rs_lowconf.shares import share_of

_BREAK_S = 120
"""A longer time between two answers is a break."""
_RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A sample of a round with the reviewers' verdict."""

    sent: SentSample
    verdict: Verdict


def judged_samples(store: ReviewStore, opinions: Iterable[Opinion]) -> dict[int, list[Judged]]:
    """Return the samples with a verdict from these answers, by round, each once.

    Observed tiles and pixels are in no round.
    """
    found = verdicts(opinions)
    rounds: dict[int, dict[str, Judged]] = defaultdict(dict)
    for package in store.packages():
        if package.round == 0:
            continue
        for sent in store.samples(package.package_id):
            if sent.sample_id in found:
                rounds[package.round][sent.sample_id] = Judged(
                    sent=sent, verdict=found[sent.sample_id]
                )
    return {number: list(samples.values()) for number, samples in sorted(rounds.items())}


def round_report(
    judged: Sequence[Judged], opinions: Iterable[Opinion], sent: int
) -> dict[str, Any]:
    """Return the figures of a round; those without answers are None.

    Args:
        judged: the round's samples with a verdict.
        opinions: the answers to samples of the round.
        sent: number of the round's samples.
    """
    by_origin: dict[str, list[Judged]] = {"found": [], "audit": [], "real": []}
    for one in judged:
        by_origin[one.sent.origin].append(one)
    found = by_origin["found"]
    accepted = [one for one in found if one.verdict.decision == "accept"]
    # An accepted sample has a class unless it has a mask.
    classed = [one for one in accepted if one.verdict.true_class is not None]
    masked = [one for one in accepted if one.verdict.true_class is None]
    wrong = [one for one in found if one.verdict.decision == "mask wrong"]
    return {
        "samples": sent,
        "with_a_verdict": len(judged),
        "disputed": sum(one.verdict.decision is None for one in judged),
        "unsure": sum(one.verdict.decision == "unsure" for one in judged),
        "accepted": _share(found, "accept"),
        "rejected": _share(found, "reject"),
        "mixed": _share(found, "mixed"),
        "mask_wrong": _share(found, "mask wrong"),
        "label_kept": share_of(
            sum(one.verdict.true_class == one.sent.condition for one in classed), len(classed)
        ),
        "mask_kept": share_of(len(masked), len(masked) + len(wrong)),
        "audit_rejected": _share(by_origin["audit"], "reject"),
        "real_rejected": _share(by_origin["real"], "reject"),
        "gate_auc": _gate_auc([*found, *by_origin["audit"]]),
        "seconds_a_sample": _seconds(opinions),
    }


def round_reports(store: ReviewStore) -> dict[int, dict[str, Any]]:
    """Return one report per round with an exported package."""
    opinions = store.opinions()
    judged = judged_samples(store, opinions)
    sent: dict[int, set[str]] = defaultdict(set)
    for package in store.packages():
        if package.round == 0:
            continue
        sent[package.round] |= {one.sample_id for one in store.samples(package.package_id)}
    return {
        number: round_report(
            judged.get(number, []),
            [one for one in opinions if one.sample_id in names],
            len(names),
        )
        for number, names in sorted(sent.items())
    }


def _share(judged: Sequence[Judged], decision: str) -> dict[str, Any]:
    """Return the share among samples that reviewers agreed on and were not unsure of."""
    decided = [one for one in judged if one.verdict.decision not in (None, "unsure")]
    return share_of(sum(one.verdict.decision == decision for one in decided), len(decided))


def _gate_auc(judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Return how well the score of the gate in use separates accepted and rejected samples.

    It was not trained on these answers. Tiles that it rejected are only in the audit share, so
    without one this describes tiles that passed.
    """
    decided = [one for one in judged if one.verdict.decision in ("accept", "reject")]
    accepted = np.array([one.verdict.decision == "accept" for one in decided], dtype=bool)
    score = np.array([one.sent.gate_score for one in decided], dtype=float)
    if len({*accepted.tolist()}) < 2:
        return None
    return {
        "value": float(roc_auc_score(accepted, score)),
        "interval_95": _auc_interval(accepted, score),
        "accepted": int(accepted.sum()),
        "rejected": int((~accepted).sum()),
        "of_them_audit": sum(one.sent.origin == "audit" for one in decided),
    }


def _auc_interval(accepted: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> list[float]:
    """Return a 95 % interval by resampling accepted and rejected samples separately."""
    yes, no = score[accepted], score[~accepted]
    # The area is the share of pairs in the right order; a resample weighs rows and columns.
    order = (np.sign(yes[:, None] - no) + 1) / 2
    rng = np.random.default_rng(0)
    rows, columns = (
        rng.multinomial(len(group), np.full(len(group), 1 / len(group)), _RESAMPLES) / len(group)
        for group in (yes, no)
    )
    areas = ((rows @ order) * columns).sum(1)
    return [float(value) for value in np.quantile(areas, (0.025, 0.975))]


def _seconds(opinions: Iterable[Opinion]) -> float | None:
    """Return the median time between two answers of one reviewer, breaks left out."""
    times: Mapping[str, list[int]] = defaultdict(list)
    for one in opinions:
        if one.reviewed_ms:
            times[one.reviewer].append(one.reviewed_ms)
    gaps = [gap / 1_000 for answered in times.values() for gap in np.diff(sorted(answered))]
    worked = [gap for gap in gaps if 0 < gap <= _BREAK_S]
    return float(np.median(worked)) if worked else None
