"""Keeps found tiles diverse and new: no copies, no duplicates, no class dominates.

Everything is decided in the order of seeds, so it does not depend on slots or interruptions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor

from rs_lowconf.search.loop import Found, Outcome, Trajectory
from rs_lowconf.seeds import seed_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """Distribution of real tiles in feature space: distance scales and clusters."""

    copy_distance: float
    """A tile nearer than this to a training tile, in any orientation, is a copy: the 1 %
    quantile of the distances of held-out real tiles."""
    novelty_radius: float
    """Two tiles nearer than this count as duplicates: a quantile of the distances of real tiles to
    their nearest other one; 0 keeps duplicates."""
    centres: Float[Tensor, "m f"]
    """Centres of the clusters of real tiles."""

    def cluster(self, features: Float[Tensor, " f"]) -> int:
        """Return the cluster of a tile."""
        return int(torch.cdist(features[None], self.centres)[0].argmin())


def learn_looks(
    train: Float[Tensor, "n f"],
    held_out_distances: Float[Tensor, " m"],
    *,
    novelty_quantile: float | None,
    clusters: int,
    seed: int,
) -> Looks:
    """Measure distances and find clusters.

    Args:
        train: features of the training tiles.
        held_out_distances: of held-out real tiles to their nearest training tile.
        novelty_quantile: of the distances that sets the novelty radius; None for no radius.
        clusters: number of clusters, at most that of different tiles.
        seed: of the clustering (k-means with k-means++ starts).
    """
    radius = 0.0
    if novelty_quantile is not None:
        between = torch.cdist(train, train)
        between.fill_diagonal_(torch.inf)
        radius = float(between.amin(1).quantile(novelty_quantile))
    centres, _ = kmeans2(
        train.double().numpy(),
        min(clusters, len(np.unique(train.numpy(), axis=0))),
        minit="++",
        rng=np.random.default_rng(seed_of(seed, "search", "clusters")),
        missing="warn",
    )
    return Looks(
        copy_distance=float(held_out_distances.quantile(0.01)),
        novelty_radius=radius,
        centres=torch.from_numpy(centres).float(),
    )


class Archive:
    """Decides on found tiles in the order of seeds, and knows which conditions have enough."""

    def __init__(
        self,
        looks: Looks,
        *,
        likeness: str,
        labels: Sequence[int],
        per_condition: int | None,
        per_cell: int | None,
    ) -> None:
        """Start empty.

        Args:
            looks: of real tiles.
            likeness: the gate's part that is minus the log distance to the training tiles.
            labels: the conditions searched.
            per_condition: most tiles of a condition; no limit when missing.
            per_cell: most tiles of a condition, second class and cluster; no limit when missing.
        """
        self._looks = looks
        self._likeness = likeness
        self._labels = set(labels)
        self._per_condition = math.inf if per_condition is None else per_condition
        self._per_cell = math.inf if per_cell is None else per_cell
        self._conditions: Counter[int] = Counter()
        self._cells: Counter[tuple[int, int, int]] = Counter()
        self._kept = torch.empty(0, looks.centres.shape[1])
        self._accepted = 0
        self.closed: set[int] = set()
        """Conditions that have enough: `search` starts no more of their seeds."""
        self.discarded = 0
        """Evaluations of trajectories that were in progress when their condition closed."""

    @property
    def full(self) -> bool:
        """Return whether every condition has enough."""
        return self.closed == self._labels

    def judge(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory, without its tile if that is not accepted."""
        if trajectory.label in self.closed:
            gone = replace(trajectory, outcome=Outcome.SKIPPED, found=None, audit=None)
            if trajectory.population_probability is not None:
                # Its population had to descend as a whole, also for surplus tiles.
                return gone
            self.discarded += trajectory.evaluations
            return replace(gone, evaluations=0, unanswered={})
        if trajectory.found is None:
            return trajectory
        outcome = self._place(trajectory.label, trajectory.found)
        if outcome is Outcome.FOUND:
            return trajectory
        return replace(trajectory, outcome=outcome, found=None)

    def _place(self, label: int, found: Found) -> Outcome:
        if math.exp(-found.parts[self._likeness]) < self._looks.copy_distance:
            return Outcome.COPY
        if self._accepted and self._looks.novelty_radius:
            kept = self._kept[: self._accepted]
            if float(torch.cdist(found.features[None], kept).min()) < self._looks.novelty_radius:
                return Outcome.DUPLICATE
        second = int(found.log_probability.topk(2).indices[1])
        cell = (label, second, self._looks.cluster(found.features))
        if self._cells[cell] >= self._per_cell:
            return Outcome.FULL
        self._cells[cell] += 1
        self._conditions[label] += 1
        self._keep(found.features)
        if self._conditions[label] >= self._per_condition:
            self.closed.add(label)
        return Outcome.FOUND

    def _keep(self, features: Float[Tensor, " f"]) -> None:
        """Store an accepted tile's features in an array that doubles in size when full."""
        if self._accepted == len(self._kept):
            self._kept = torch.cat(
                [self._kept, torch.empty(max(64, len(self._kept)), len(features))]
            )
        self._kept[self._accepted] = features
        self._accepted += 1


def most_diverse(features: Float[Tensor, "n f"], count: int) -> list[int]:
    """Return up to `count` rows of which any first few cover all rows well.

    Each next row is the one farthest from those chosen: greedy k-centre (Gonzalez, "Clustering
    to minimize the maximum intercluster distance", 1985: within twice the best radius).
    """
    chosen = [0]
    distance = torch.cdist(features, features[:1])[:, 0]
    distance[0] = -1
    while len(chosen) < min(count, len(features)):
        farthest = int(distance.argmax())
        chosen.append(farthest)
        distance = torch.minimum(distance, torch.cdist(features, features[farthest][None])[:, 0])
        # Equal rows are at distance 0, but none is chosen twice.
        distance[chosen] = -1
    return chosen
