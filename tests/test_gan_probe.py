"""The probe tells apart what differs, and is a coin where nothing does."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from rs_lowconf.gan.probe import probe, result_of, through_jpeg


def features(count: int, shift: float, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 20, generator=rng)
    values[:, 0] += shift
    return values


def test_the_same_distribution_is_a_coin() -> None:
    """Two samples of one distribution: no area above 0.5, and 95 % are kept."""
    result, scores = probe(features(2_000, 0, 1), features(2_000, 0, 2), seed=0)
    assert result.auc == pytest.approx(0.5, abs=0.04)
    assert result.kept == pytest.approx(0.95, abs=0.04)
    assert len(scores) == 4_000


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_shift_gives_the_area_that_theory_says(shift: float) -> None:
    """Normal scores a shift apart: the area is the normal distribution at shift / sqrt(2)."""
    result, _ = probe(features(1_500, shift, 1), features(1_500, 0, 2), seed=0)
    assert result.auc == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.03)


def test_intervals_cover() -> None:
    """In 95 % of draws the interval holds the area of the population, within chance."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) < 100
    held = 0
    for number in range(60):
        scores = rng.normal(size=200) + truth
        result = result_of(scores, truth, seed=number)
        held += result.auc_low <= norm.cdf(1 / 2**0.5) <= result.auc_high
        assert result.auc == pytest.approx(roc_auc_score(truth, scores))
    assert held >= 52


def test_pictures_go_through_jpeg_once() -> None:
    """Flat tiles keep their bytes; what is brighter than the range is cut off."""
    image = torch.stack([torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.9)])
    dark, bright = through_jpeg(image, scale=1000.0, dn_offset=-1.0)
    assert np.abs(dark.astype(int) - 101).max() <= 1
    assert (bright == 255).all()
