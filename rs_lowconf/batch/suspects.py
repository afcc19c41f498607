"""Labelled tiles whose label is suspicious: the target finds another class far likelier.

A score of confident learning (Northcutt et al., "Confident learning: estimating uncertainty in
dataset labels", JAIR 2021): the margin between the label's probability and the largest other one.
The target must not have learned from these labels, or it has learned their errors as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas
import numpy as np
from jaxtyping import Float, Int

from rs_lowconf.batch.choose import narrow
from rs_lowconf.batch.review import Chosen, first_within_quotas, labels_of, pending
from rs_lowconf.errors import JobError
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_list, vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects(Chosen):
    """Tiles whose label is to be judged, the most suspicious first."""

    labelled: int
    """Scored tiles with a label that the target knows."""
    disagree: int
    """Of those, the ones whose label is not the target's prediction."""


def suspicion(
    probability: Float[np.ndarray, "n k"], label: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return how suspicious each label is, -1 .. 1: the largest other probability less its own."""
    own = np.take_along_axis(probability, label[:, None], axis=1)[:, 0]
    others = probability.copy()
    np.put_along_axis(others, label[:, None], -np.inf, axis=1)
    found: Float[np.ndarray, " n"] = others.max(1) - own
    return found


def choose_suspects(
    scores: geopandas.GeoDataFrame, settings: Settings, classes: Sequence[str]
) -> Suspects:
    """Return the most suspicious of the labelled tiles within the quotas that nobody judged yet.

    Args:
        scores: of `batch score`, see `review.scores_of`.
        settings: of the run; `review.max_samples` is the most that is taken, and
            `target.class_map` says which labels mean a class of the target.
        classes: of the target, in the order of its probabilities.

    Raises:
        JobError: no tile has a label that the target knows, or all were judged.
        DataError: the file of regions cannot be used, or the catalog writes a class nearly as the
            target does.
        SettingsError: the map lacks a label.
    """
    narrowed = narrow(lambda name: scores[name].tolist(), len(scores), settings.batch)
    scores = scores[narrowed.rows]
    told, class_map = class_list("the target", classes), settings.target.common_names
    class_map.meet(vocabulary("the catalog's labels", scores["label"].unique()), told)
    known = class_map.commons(told.names)
    meant = scores["label"].map(class_map.common, na_action="ignore")
    labelled, meant = scores[meant.isin(known)], meant[meant.isin(known)]
    if not len(labelled):
        raise JobError(
            f"none of {len(scores):,} scored tiles has a label that the target knows",
            remedy="build the catalog of labelled tiles, or see batch.splits, "
            "batch.collections and target.class_map",
        )
    label = np.array([known.index(name) for name in meant])
    said = np.stack(labelled["probabilities"].to_numpy()).astype(np.float64)
    columns = [list(class_map.places(name, told.names)) for name in known]
    probability = np.stack([said[:, places].sum(1) for places in columns], axis=1)
    ordered = labelled.assign(suspicion=suspicion(probability, label))
    left = pending(ordered.sort_values(["suspicion", "id"], ascending=[False, True]), settings)
    if not len(left):
        raise JobError(f"all {len(ordered):,} labelled tiles were judged already")
    return Suspects(
        scores=first_within_quotas(left, settings),
        labels=labels_of(scores),
        left_out=narrowed.left_out,
        answered=len(ordered) - len(left),
        labelled=len(labelled),
        disagree=int((meant != labelled["predicted"].map(class_map.common)).sum()),
    )
