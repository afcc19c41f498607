"""The augmentation pipeline: exact where it only moves pixels, spectra kept, repeatable."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_lowconf.data.augment import RandomSymmetryAndShift, augmentation
from rs_lowconf.settings import AugmentSettings

OFF = {"flip": False, "shift": 0, "zoom": 1, "cutout": 0, "brightness": 0, "band_gain": 0}
STEPS: list[dict[str, Any]] = [
    {"flip": True},
    {"shift": 0.25},
    {"zoom": 1.5},
    {"cutout": 0.5},
    {"brightness": 0.1},
]


def only(**settings: Any) -> AugmentSettings:
    """Return settings with nothing but these steps, which are always applied."""
    return AugmentSettings.model_validate({**OFF, "probability": 1, **settings})


def tiles(count: int = 8, bands: int = 3, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Return reflectance of which no two pixels are equal."""
    return 0.2 + torch.rand(count, bands, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", [*STEPS, None], ids=str)
def test_same_seed_same_result(step: dict[str, float] | None) -> None:
    """A seed decides everything, another seed decides otherwise, global chance is untouched."""
    augment = augmentation(only(**step) if step else AugmentSettings())
    image = tiles()
    before, kept = torch.get_rng_state(), image.clone()
    one = augment(image, 3)
    torch.manual_seed(99)
    other = augment(image, 3)
    torch.set_rng_state(before)
    assert torch.equal(one, other)
    assert not torch.equal(one, augment(image, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(image, kept)


def test_nothing_on_changes_nothing() -> None:
    """With every step off, or a probability of 0 and no flips, tiles stay as they are."""
    image = tiles()
    assert torch.equal(augmentation(only())(image, 1), image)
    idle = AugmentSettings(flip=False, probability=0)
    torch.testing.assert_close(augmentation(idle)(image, 1), image, rtol=1e-5, atol=1e-6)


def test_flips_are_the_eight_symmetries() -> None:
    """Each result equals exactly one symmetry of the square, and all eight come equally often."""
    image = tiles(400, bands=2, side=8)
    result = augmentation(only(flip=True))(image, 0).numpy()
    counts = np.zeros(8, dtype=int)
    for before, after in zip(image.numpy(), result, strict=True):
        turned = [
            np.rot90(np.flip(before, axis=2) if mirrored else before, quarter, axes=(1, 2))
            for mirrored, quarter in product((False, True), range(4))
        ]
        equal = [np.array_equal(own, after) for own in turned]
        assert sum(equal) == 1
        counts += equal
    # Chi squared with 7 degrees of freedom exceeds 24.3 once in a thousand.
    assert ((counts - 50) ** 2 / 50).sum() < 24.3


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([16, 32, 48]), st.floats(0.07, 0.49))
def test_shifts_are_reflected_crops(seed: int, side: int, share: float) -> None:
    """Each result equals a crop, at a whole-pixel offset within bounds, of numpy's reflection."""
    image = tiles(4, bands=2, side=side)
    most = int(share * side)
    result = augmentation(only(shift=share))(image, seed).numpy()
    for before, after in zip(image.numpy(), result, strict=True):
        padded = np.pad(before, ((0, 0), (most, most), (most, most)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        matches = (windows == after[:, None, None]).all(axis=(0, 3, 4))
        assert matches.sum() == 1


def test_all_shifts_occur() -> None:
    """Every shift within the bound is drawn, and both directions by its own dice."""
    step = RandomSymmetryAndShift(flip=False, share=0.125, probability=1.0)
    drawn = step.generate_parameters((3000, 1, 16, 16))["shift"]
    assert {tuple(pair) for pair in drawn.tolist()} == set(product(range(-2, 3), repeat=2))


def test_the_matrix_says_where_pixels_went() -> None:
    """The transformation that kornia is told of is the one that was applied."""
    step = RandomSymmetryAndShift(flip=True, share=0.25, probability=0.7)
    image = tiles(32, bands=1)
    torch.manual_seed(1)
    result = step(image)
    matrices = step.transform_matrix
    assert matrices is not None
    for before, after, matrix in zip(image[:, 0], result[:, 0], matrices, strict=True):
        found = 0
        for y, x in product(range(16), repeat=2):
            u, v, _ = (matrix @ torch.tensor([x, y, 1.0])).round().int().tolist()
            if 0 <= u < 16 and 0 <= v < 16:
                assert before[y, x] == after[v, u]
                found += 1
        assert found >= 12 * 12


def test_gains_keep_spectra_and_do_not_clamp() -> None:
    """One factor a tile and band: spectra change by at most twice the band gain, cloud stays."""
    image = 1.5 * tiles(64, bands=13)
    result = augmentation(only(brightness=0.1, band_gain=0.02))(image, 0)
    gain = result / image
    assert float(result.max()) > float(image.max())
    spread = gain.amax(dim=(2, 3)) - gain.amin(dim=(2, 3))
    assert float(spread.max()) < 1e-5
    factor = gain[:, :, 0, 0]
    assert 0.9 * 0.98 - 1e-5 <= float(factor.min()) < 0.92
    assert 1.08 < float(factor.max()) <= 1.1 * 1.02 + 1e-5
    ratio = factor / factor.mean(dim=1, keepdim=True)
    assert float((ratio - 1).abs().max()) <= 0.041


def test_brightness_alone_keeps_every_ratio() -> None:
    """Without band gains the ratio of two bands does not change at all."""
    image = tiles(16, bands=5)
    result = augmentation(only(brightness=0.3))(image, 0)
    torch.testing.assert_close(result[:, 1:] / result[:, :1], image[:, 1:] / image[:, :1])


def test_cutout_blanks_one_square() -> None:
    """A square of the given share is zero in all bands, the rest is untouched."""
    image = tiles(32, bands=4)
    result = augmentation(only(cutout=0.25))(image, 0)
    corners = set()
    for before, after in zip(image, result, strict=True):
        blank = (after == 0).all(dim=0)
        rows, columns = torch.nonzero(blank).unbind(1)
        assert int(blank.sum()) == 16
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 3
        assert torch.equal(after[:, ~blank], before[:, ~blank])
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) > 20


def test_zoom_magnifies_about_the_centre() -> None:
    """A linear ramp becomes less steep by the drawn factor, and keeps its central value."""
    ramp = torch.linspace(0, 1, 33).expand(64, 1, 33, 33)
    result = augmentation(only(zoom=1.5))(ramp, 0)
    torch.testing.assert_close(result[:, 0, 16, 16], torch.full((64,), 0.5))
    slope = (result[:, 0, 16, 20] - result[:, 0, 16, 12]) / 8 * 32
    assert 1 / 1.5 - 1e-4 <= float(slope.min()) < 0.72
    assert 0.93 < float(slope.max()) <= 1 + 1e-4


def test_the_probability_is_that_of_each_step() -> None:
    """With probability 0.3 about three tiles in ten are changed, by each step but the flips."""
    image = tiles(600, bands=1)
    for step in STEPS[1:]:
        result = augmentation(only(**step, probability=0.3))(image, 0)
        changed = ((result - image).abs() > 1e-4).flatten(1).any(dim=1).float().mean()
        assert abs(float(changed) - 0.3) < 0.08


def test_gradients_are_those_of_a_linear_map() -> None:
    """The gradient of the whole pipeline agrees with finite differences in double precision."""
    augment = augmentation(AugmentSettings(probability=1))
    image = tiles(2, bands=2).double().requires_grad_()
    weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(2)).double()
    (gradient,) = torch.autograd.grad((augment(image, 5) * weight).sum(), image)
    direction = torch.rand(image.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        change = (augment(image + direction, 5) - augment(image, 5)) * weight
    torch.testing.assert_close(change.sum(), (gradient * direction).sum(), rtol=1e-5, atol=1e-5)


def test_a_tile_does_not_see_the_others() -> None:
    """What a tile becomes depends on its place in the batch and the seed, not on its company."""
    augment = augmentation(AugmentSettings())
    image, others = tiles(), tiles(seed=1)
    others[2] = image[2]
    torch.testing.assert_close(augment(image, 7)[2], augment(others, 7)[2], rtol=0, atol=0)


@pytest.mark.parametrize("bands", [1, 4, 12, 13])
@pytest.mark.parametrize("side", [32, 64])
def test_any_number_of_bands(bands: int, side: int) -> None:
    """The default pipeline keeps shape and type, and all values finite."""
    image = tiles(3, bands=bands, side=side)
    result = augmentation(AugmentSettings())(image, 0)
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    assert bool(torch.isfinite(result).all())
