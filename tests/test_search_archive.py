"""What is kept of what is found: no copies, no duplicates, no condition that takes all."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from rs_lowconf.search.archive import Archive, Looks, learn_looks, most_diverse
from rs_lowconf.search.loop import Found, Outcome, Trajectory

LOOKS = Looks(copy_distance=0.1, novelty_radius=1.0, centres=torch.tensor([[0.0, 0.0], [9.0, 9.0]]))


def trajectory(
    seed_id: int, label: int, features: Tensor, *, distance: float = 2.0, second: int = 1
) -> Trajectory:
    log_probability = torch.full((3,), -9.0)
    log_probability[0], log_probability[second] = -0.7, -0.8
    return Trajectory(
        seed_id=seed_id,
        label=label,
        outcome=Outcome.FOUND,
        steps=3,
        evaluations=4,
        flips=0,
        gate_rejections=0,
        confidence=0.5,
        found=Found(
            log_probability=log_probability,
            confidence=0.5,
            parts={"likeness": -math.log(distance)},
            p_value=0.5,
            passes=True,
            features=features,
            confidence_before=0.5,
            tile=None,
        ),
    )


def archive(per_condition: int | None = None, per_cell: int | None = None) -> Archive:
    return Archive(
        LOOKS, likeness="likeness", labels=(0, 1), per_condition=per_condition, per_cell=per_cell
    )


def test_copies_and_duplicates_are_told_apart() -> None:
    """Near a training tile is a copy, near a kept tile a duplicate, far is new."""
    own = archive()
    near = torch.tensor([0.0, 0.5])
    assert own.judge(trajectory(0, 0, torch.zeros(2), distance=0.05)).outcome is Outcome.COPY
    assert own.judge(trajectory(1, 0, torch.zeros(2))).outcome is Outcome.FOUND
    judged = own.judge(trajectory(2, 1, near))
    assert judged.outcome is Outcome.DUPLICATE
    assert judged.found is None
    assert judged.evaluations == 4
    assert own.judge(trajectory(3, 1, near + 1)).outcome is Outcome.FOUND


def test_cells_are_capped() -> None:
    """A third tile of the same condition, second class and region is one too many."""
    own = archive(per_cell=2)
    places = [torch.tensor([0.0, 1.5 * i]) for i in range(4)]
    outcomes = [own.judge(trajectory(i, 0, places[i])).outcome for i in range(3)]
    assert outcomes == [Outcome.FOUND, Outcome.FOUND, Outcome.FULL]
    assert own.judge(trajectory(3, 0, places[3], second=2)).outcome is Outcome.FOUND
    assert own.judge(trajectory(4, 0, torch.tensor([9.0, 9.0]))).outcome is Outcome.FOUND


def test_a_condition_that_has_enough_is_closed() -> None:
    """What was on its way then counts as skipped, and its evaluations are told."""
    own = archive(per_condition=1)
    assert own.judge(trajectory(0, 0, torch.zeros(2))).found is not None
    assert own.closed == {0}
    late = own.judge(trajectory(1, 0, torch.tensor([5.0, 5.0])))
    assert (late.outcome, late.evaluations, late.found) == (Outcome.SKIPPED, 0, None)
    assert own.discarded == 4
    assert not own.full
    own.judge(trajectory(2, 1, torch.tensor([3.0, 3.0])))
    assert own.full


def test_looks_are_measured_as_scipy_would() -> None:
    """Quantiles of nearest distances; every tile is in the cluster of its nearest centre."""
    train = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    held_out = torch.rand(58, generator=torch.Generator().manual_seed(1))
    looks = learn_looks(train, held_out, novelty_quantile=0.05, clusters=5, seed=3)
    between = cdist(train, train)
    np.fill_diagonal(between, np.inf)
    assert looks.novelty_radius == pytest.approx(np.quantile(between.min(1), 0.05), rel=1e-4)
    assert looks.copy_distance == pytest.approx(np.quantile(held_out.numpy(), 0.01), rel=1e-5)
    assert looks.centres.shape == (5, 4)
    nearest = cdist(train, looks.centres.numpy()).argmin(1)
    assert [looks.cluster(row) for row in train] == nearest.tolist()
    again = learn_looks(train, held_out, novelty_quantile=None, clusters=5, seed=3)
    assert torch.equal(again.centres, looks.centres)
    assert again.novelty_radius == 0


def test_the_most_diverse_cover_better_than_the_first() -> None:
    """Greedy k-centre is within twice the best radius: one tile of each far cluster is taken."""
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    features = centres.repeat_interleave(10, 0) + noise
    chosen = most_diverse(features, 4)
    assert sorted(i // 10 for i in chosen) == [0, 1, 2, 3]
    assert most_diverse(features, 99)[:4] == chosen
    assert sorted(most_diverse(features, 99)) == list(range(40))
