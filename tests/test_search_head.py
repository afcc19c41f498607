"""The head that reviews teach: what it finds in features and in texture, and what it refuses."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from rs_lowconf.errors import ReviewError
from rs_lowconf.search.head import MIN_REVIEWS, fit_head, texture_of


def tiles(count: int, seed: int, *, rough: bool) -> Tensor:
    """Return tiles of one colour with as much variance each, fine or coarse."""
    dice = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 16, 16, generator=dice)
    if not rough:
        noise = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return 0.2 + 0.02 * noise / noise.std((2, 3), keepdim=True)


def means(image: Tensor) -> Tensor:
    """Return features that tell colour, with many that tell nothing."""
    dice = torch.Generator().manual_seed(int(image.sum() * 1e6) % 2**31)
    colour = image.mean((2, 3))
    return torch.cat([colour, torch.randn(len(image), 40, generator=dice)], dim=1)


def test_rejected_texture_is_found_though_features_do_not_tell() -> None:
    """Tiles that differ in roughness alone are told apart when they come again, new."""
    image = torch.cat([tiles(25, 0, rough=False), tiles(25, 1, rough=True)])
    accepted = torch.arange(50) < 25
    fitted = fit_head(image, means, accepted, seed=0)
    assert (fitted.accepted, fitted.rejected) == (25, 25)
    assert fitted.auc > 0.9
    score = fitted.head.part(means)
    fresh = torch.cat([tiles(40, 2, rough=False), tiles(40, 3, rough=True)])
    told = score(fresh, torch.zeros(80, dtype=torch.long))
    assert roc_auc_score(torch.arange(80) < 40, told) > 0.95


def test_rejected_colour_is_found_in_the_features() -> None:
    """Tiles of one texture and two colours are told apart, though texture says nothing."""

    def coloured(seed: int) -> tuple[Tensor, Tensor]:
        bright = torch.arange(60) % 3 == 0
        return tiles(60, seed, rough=True) + 0.05 * bright[:, None, None, None], ~bright

    image, accepted = coloured(0)
    fitted = fit_head(image, means, accepted, seed=1)
    fresh, right = coloured(1)
    told = fitted.head.part(means)(fresh, torch.zeros(60, dtype=torch.long))
    assert min(fitted.auc, roc_auc_score(right, told)) > 0.9


def test_answers_of_chance_teach_nothing() -> None:
    """Where decisions do not depend on tiles, the cross-validated area is about a half."""
    dice = torch.Generator().manual_seed(5)
    accepted = torch.rand(120, generator=dice) < 0.5
    fitted = fit_head(tiles(120, 7, rough=True), means, accepted, seed=2)
    assert abs(fitted.auc - 0.5) < 0.15


def test_texture_is_power_by_octave() -> None:
    """A wave shows in its octave and band alone, at its power, whatever the tile's colour."""
    column = torch.arange(32)
    for cycles, octave in ((1, 0), (3, 1), (6, 2), (12, 3), (16, 4)):
        wave = torch.cos(2 * torch.pi * cycles * column / 32).expand(1, 32, 32)
        image = torch.cat([torch.zeros_like(wave), 0.3 + 0.1 * wave])[None]
        told = texture_of(image)[0].reshape(2, 5)
        assert int(told[1].argmax()) == octave
        assert float(told[0].max()) < -27  # ln 1e-12
        torch.testing.assert_close(texture_of(image + 0.2), told.reshape(1, -1), atol=1e-3, rtol=0)


def test_too_few_reviews_are_refused() -> None:
    """Both answers are needed often enough to be cross-validated."""
    accepted = torch.arange(30) < 30 - MIN_REVIEWS + 1
    with pytest.raises(ReviewError, match="at least 10 of each"):
        fit_head(tiles(30, 0, rough=True), means, accepted, seed=0)


@pytest.mark.slow
def test_what_was_taught_leads_a_search() -> None:
    """A step along the score's gradient makes rejected tiles better, by texture or by colour."""
    rough = torch.cat([tiles(25, 0, rough=False), tiles(25, 1, rough=True)])
    dark = tiles(50, 2, rough=True) + 0.05 * (torch.arange(50) < 25)[:, None, None, None]
    for image in (rough, dark):
        score = fit_head(image, colour, torch.arange(50) < 25, seed=0).head.part(colour)
        leaf = image[25:].clone().requires_grad_()
        label = torch.zeros(25, dtype=torch.long)
        before = score(leaf, label)
        (slope,) = torch.autograd.grad(before.sum(), leaf)
        step = 1e-3 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
        rise = (score(leaf + step, label) - before).detach()
        assert float(rise.min()) > 0
        expected = (slope * step).sum((1, 2, 3))
        torch.testing.assert_close(rise, expected, rtol=0.2, atol=1e-3)


def colour(image: Tensor) -> Tensor:
    """Return features that tell colour."""
    return image.mean((2, 3))
