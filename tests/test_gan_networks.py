"""Generator, discriminator and the spectral maps around them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct, dctn, idctn
from scipy.ndimage import gaussian_filter

from rs_lowconf.bands import EUROSAT_ORDER, RESOLUTION_M, BandSpec
from rs_lowconf.gan.networks import Discriminator, Generator, compress
from rs_lowconf.gan.spectral import (
    SpectralBasis,
    Unwhiten,
    Whiten,
    measured_blur,
    spectral_basis,
)
from rs_lowconf.settings import GanSettings
from rs_lowconf.types import TileGenerator

SMALL = GanSettings(width=8, critic_width=8, latent_global=4, latent_map=2)


def basis_of(names: tuple[str, ...], side: int = 32) -> SpectralBasis:
    dice = torch.Generator().manual_seed(0)
    mix = torch.randn(len(names), len(names), generator=dice)
    noise = (torch.randn(12, side, side, len(names), generator=dice) @ mix).permute(0, 3, 1, 2)
    for i, name in enumerate(names):
        width = (RESOLUTION_M[name] - 10) / 20
        blurred = gaussian_filter(noise[:, i].numpy(), (0, width, width))
        noise[:, i] = torch.from_numpy(blurred)
    return spectral_basis(0.2 + 0.02 * noise, BandSpec(names=names, level="L1C"), 0.01)


def make_generator(names: tuple[str, ...] = EUROSAT_ORDER, side: int = 32) -> Generator:
    torch.manual_seed(0)
    bands = BandSpec(names=names, level="L1C")
    return Generator(
        SMALL, bands=bands, classes=("a", "b", "c"), tile_size=side, basis=basis_of(names, side)
    )


def test_whitening_is_inverted_exactly() -> None:
    """Components mapped back are the reflectance they came from, where nothing is blurred."""
    basis = basis_of(("B02", "B03", "B04", "B08"), 16)
    image = 0.2 + 0.1 * torch.rand(2, 4, 16, 16)
    back = Unwhiten(basis)(Whiten(basis)(image))
    torch.testing.assert_close(back, image, atol=1e-5, rtol=1e-4)


def test_whitened_pixels_are_uncorrelated() -> None:
    """The components of the fitted pixels have a diagonal covariance of at most 1."""
    names = ("B02", "B03", "B04", "B08", "B11")
    image = (torch.randn(20, 16, 16, 5) @ torch.randn(5, 5) * 0.05 + 0.3).permute(0, 3, 1, 2)
    basis = spectral_basis(image, BandSpec(names=names, level="L1C"), 0.01)
    pixels = image.permute(0, 2, 3, 1).flatten(0, 2)
    components = (pixels - basis.centre) @ basis.forward.T
    covariance = np.cov(components.numpy().T)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert np.abs(off_diagonal).max() < 1e-3
    assert np.diag(covariance).max() < 1 + 1e-3


def test_a_single_band_can_be_whitened() -> None:
    """One band needs no covariance matrix."""
    bands = BandSpec(names=("B08",), level="L1C")
    basis = spectral_basis(torch.rand(2, 1, 16, 16), bands, 0.01)
    assert basis.forward.shape == (1, 1)


@pytest.mark.parametrize("side", [16, 48, 64])
def test_bands_are_blurred_as_much_as_their_tiles_are(side: int) -> None:
    """A known blur of a coarse band is found; the finest bands and the mean stay as they are."""
    sharp = 0.3 + 0.05 * torch.randn(600, side, side, generator=torch.Generator().manual_seed(0))
    gain = np.exp(-((np.arange(side) / side / 0.4) ** 2))
    both = gain[:, None] * gain
    blurred = idctn(
        dctn(sharp.numpy(), axes=(1, 2), norm="ortho") * both, axes=(1, 2), norm="ortho"
    )
    image = torch.stack([sharp, torch.from_numpy(blurred).float()], dim=1)
    fine, coarse = measured_blur(image, BandSpec(names=("B04", "B11"), level="L1C"))
    torch.testing.assert_close(fine, torch.eye(side), atol=1e-5, rtol=0)
    torch.testing.assert_close(coarse.sum(1), torch.ones(side), atol=1e-4, rtol=0)
    cosines = dct(np.eye(side), axis=0, norm="ortho")
    found = np.diag(cosines @ coarse.numpy() @ cosines.T)
    # What lies below the frequencies that count as one is not told from a weaker band.
    expected = gain / np.sqrt((gain[1 : max(2, side // 12)] ** 2).mean())
    np.testing.assert_allclose(found[1:], expected[1:].clip(max=1), atol=0.05)
    assert (np.diff(found) <= 1e-6).all()


def test_the_generator_obeys_the_protocol() -> None:
    """Search sees a TileGenerator: parts of the latent, bands, classes, size."""
    generator = make_generator()
    assert isinstance(generator, TileGenerator)
    z = torch.randn(2, sum(generator.latent_parts))
    assert generator(z, torch.tensor([0, 2])).shape == (2, 13, 32, 32)


@pytest.mark.parametrize("side", [16, 32, 48, 64])
def test_any_side_that_is_a_multiple_of_16(side: int) -> None:
    """Generator and discriminator build for every allowed tile size and band subset."""
    generator = make_generator(("B04", "B8A"), side)
    z = torch.randn(2, generator.latent_dim)
    image = generator(z, torch.tensor([0, 1]))
    critic = Discriminator(
        SMALL.critic_width,
        bands=generator.bands,
        classes=generator.classes,
        tile_size=side,
        basis=basis_of(generator.bands.names, side),
    )
    logit = critic(critic.components(image, torch.zeros(1, 2, side, side)), torch.tensor([0, 1]))
    assert image.shape == (2, 2, side, side)
    assert logit.shape == (2,)


def test_layout_comes_from_the_latent() -> None:
    """Two latent maps with one global latent and class draw different layouts."""
    generator = make_generator(("B02", "B03", "B04"))
    z = torch.randn(2, generator.latent_dim)
    z[1, : generator.latent_parts[0]] = z[0, : generator.latent_parts[0]]
    with torch.no_grad():
        first, second = generator(z, torch.tensor([1, 1]))
    first, second = (
        first - first.mean((1, 2), keepdim=True),
        second - second.mean((1, 2), keepdim=True),
    )
    correlation = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    assert correlation < 0.5


def test_the_generator_is_deterministic() -> None:
    """There is no hidden noise: the same latent gives the same tile, bit for bit."""
    generator = make_generator()
    z, label = torch.randn(3, generator.latent_dim), torch.tensor([0, 1, 2])
    assert torch.equal(generator(z, label), generator(z, label))


def test_a_latent_without_layout_gives_a_tile_without_pattern() -> None:
    """No frame from the edges and no lattice from the doubling: with a flat map, all is flat."""
    generator = make_generator(EUROSAT_ORDER, 64)
    with torch.no_grad():
        for part in generator.parameters():
            part.add_(0.1 * torch.randn_like(part))
        z = torch.randn(3, generator.latent_dim)
        z[:, SMALL.latent_global :] = 0
        image = generator(z, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(image, image[:, :, :1, :1].expand_as(image), atol=1e-4, rtol=1e-3)


def test_coarse_bands_are_drawn_coarsely() -> None:
    """A generated 60 m band has far less power at high frequency than a 10 m band."""
    generator = make_generator(EUROSAT_ORDER, 64)
    with torch.no_grad():
        image = generator(torch.randn(4, generator.latent_dim), torch.tensor([0, 1, 2, 0]))
    image = image - image.mean((2, 3), keepdim=True)
    window = torch.hann_window(64, periodic=False)
    power = torch.fft.fft2(image * window[:, None] * window).abs().square().mean(0)
    frequency = torch.fft.fftfreq(64).abs()
    high = (frequency[:, None] > 0.25) | (frequency[None, :] > 0.25)
    share = power[:, high].sum(1) / power.sum((1, 2))
    coarse = [i for i, name in enumerate(EUROSAT_ORDER) if RESOLUTION_M[name] == 60]
    assert share[coarse].max() < 0.02


@settings(max_examples=20)
@given(st.integers(0, 2), st.integers(0, 10_000))
def test_the_class_matters_from_the_start(label: int, seed: int) -> None:
    """Changing the class changes the tile."""
    generator = make_generator(("B02", "B03"), 16)
    dice = torch.Generator().manual_seed(seed)
    z = torch.randn(1, generator.latent_dim, generator=dice)
    with torch.no_grad():
        one, other = (generator(z, torch.tensor([k])) for k in (label, (label + 1) % 3))
    assert not torch.equal(one, other)


def test_the_compressed_components_are_those_of_asinh() -> None:
    """Values and gradients, also gradients of gradients, over all magnitudes and both signs."""
    size = torch.logspace(-6, 3, 200)
    x = torch.cat([-size, torch.zeros(1), size]).requires_grad_()
    ours, theirs = compress(x), torch.asinh(x)
    assert torch.allclose(ours, theirs, atol=2e-7, rtol=2e-6)
    slope, known = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (ours, theirs))
    assert torch.allclose(slope, known, rtol=1e-5)
    bend, known = (torch.autograd.grad(s.square().sum(), x)[0] for s in (slope, known))
    assert torch.allclose(bend, known, rtol=1e-4, atol=1e-7)
