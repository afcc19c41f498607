"""Adds a part learned from rejected tiles to a fitted gate, without the data it was fitted on.

The gate contains features of real tiles that none of its scores was fitted on. These and ten
rejected tiles are enough for one more linear score, even if nothing was accepted, and the same real
tiles calibrate it.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.errors import ReviewError
from rs_lowconf.search.fitted import (
    FOLDS,
    FittedGate,
    FittedPart,
    Kind,
    LinearScore,
    Seen,
    StoredFeatures,
    fit_linear,
    folds_of,
    judged,
    out_of_fold,
)
from rs_lowconf.search.head import MIN_REVIEWS
from rs_lowconf.seeds import seed_of
from rs_lowconf.shares import share_of

REVIEWS = "reviews"


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """A gate with a part learned from rejected tiles."""

    gate: FittedGate
    rejected: int
    accepted: int
    dropped: dict[str, Any]
    """Share of the rejected tiles dropped by a gate that was not fitted on them."""


def teach_gate(
    gate: FittedGate,
    rejected: Kind,
    accepted: Seen,
    *,
    false_rejection: float,
    seed: int,
) -> Taught:
    """Fit a score that separates rejected from real tiles, as a part of the gate's first stage.

    Args:
        gate: fitted; its part from earlier reviews is replaced.
        rejected: generated tiles that reviewers rejected, by the views of the first stage.
        accepted: generated tiles that they accepted, if any, which count as real.
        false_rejection: of the whole gate.
        seed: of the folds.

    Raises:
        ReviewError: too few were rejected.
    """
    view = gate.stored.view
    count, also_real = len(rejected), accepted[view]
    if count < MIN_REVIEWS:
        raise ReviewError(
            f"{count} rejected samples",
            expected=f"at least {MIN_REVIEWS} to learn from",
            remedy="review more samples and import the reviews",
        )
    parts, hits = torch.arange(count) % FOLDS, 0
    for part in range(FOLDS):
        refitted = _taught(gate, rejected.seen[view][parts != part], also_real, seed)
        left = Kind(
            seen={name: features[parts == part] for name, features in rejected.seen.items()},
            labels=rejected.labels[parts == part],
        )
        hits += int((~judged(refitted.stages[:1], left, false_rejection).passes).sum())
    return Taught(
        gate=_taught(gate, rejected.seen[view], also_real, seed),
        rejected=count,
        accepted=len(also_real),
        dropped=share_of(hits, count),
    )


def _taught(
    gate: FittedGate, rejected: Float[Tensor, "n f"], accepted: Float[Tensor, "m f"], seed: int
) -> FittedGate:
    """Return the gate with a part for reviews in its first stage."""
    stored, first = gate.stored, gate.stages[0]
    folds = first.folds
    if folds is None:
        folds = folds_of(
            torch.zeros(len(stored.real), dtype=torch.long), seed_of(seed, "search", "reviews")
        )
    score = fit_linear(
        stored.real, {REVIEWS: stored.of(rejected)}, folds, also_real=stored.of(accepted)
    )
    kept = [k for k, part in enumerate(first.parts) if part.name != REVIEWS]
    stage = replace(
        first,
        parts=(
            *(first.parts[k] for k in kept),
            FittedPart(name=REVIEWS, view=stored.view, score=_unfolded(score, stored)),
        ),
        reference=torch.cat(
            [first.reference[:, kept], out_of_fold(score, stored.real, folds)[:, None]], 1
        ),
        folds=folds,
    )
    # The figures are of the original gate; reviews move its threshold a little.
    power = {**gate.power, "before_reviews": True}
    return replace(gate, stages=(stage, *gate.stages[1:]), power=power)


def _unfolded(score: LinearScore, stored: StoredFeatures) -> LinearScore:
    """Return the same function for the uncompressed features of the view."""
    weight = score.weight @ stored.projection.T
    return LinearScore(weight=weight, bias=score.bias - weight @ stored.centre)
