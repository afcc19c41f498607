"""Measures that several stages share."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from rs_lowconf.measures import SYMMETRIES, turn, vendi_score


def test_eight_symmetries_differ_keep_the_pixels_and_form_a_group() -> None:
    """Every orientation once, the tile itself first; turning one again stays among them."""
    tile = torch.arange(32.0).view(1, 2, 4, 4)
    turned = [turn(tile, symmetry) for symmetry in range(SYMMETRIES)]
    assert torch.equal(turned[0], tile)
    assert len({tuple(one.flatten().tolist()) for one in turned}) == SYMMETRIES
    assert all(torch.equal(one.flatten().sort().values, tile.flatten()) for one in turned)
    for first in range(SYMMETRIES):
        again = turn(turn(tile, first), 5)
        assert any(torch.equal(again, one) for one in turned)


def test_the_vendi_score_counts_different_tiles() -> None:
    """Orthogonal features count each, copies count once."""
    assert vendi_score(torch.ones(10, 6)) == pytest.approx(1.0)
    assert vendi_score(torch.eye(6).repeat(3, 1)) == pytest.approx(6.0)
    assert vendi_score(torch.eye(3, 40)) == pytest.approx(3.0)


@pytest.mark.parametrize("tiles", [5, 60])
def test_the_vendi_score_is_the_entropy_of_the_kernel(tiles: int) -> None:
    """Few or many tiles: the exponential of scipy's entropy of the cosine kernel's eigenvalues."""
    features = np.random.default_rng(0).normal(size=(tiles, 12))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / tiles).clip(min=0)
    told = vendi_score(torch.from_numpy(features).float())
    assert told == pytest.approx(np.exp(entropy(values)), rel=1e-5)
