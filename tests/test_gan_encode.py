"""The encoder of a finished generator: what it learns, and its file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.gan.beside import BesideRecord
from rs_lowconf.gan.encode import Comparison, encoding, train_encoder
from rs_lowconf.gan.model import load_encoder, save_encoder
from rs_lowconf.gan.networks import Discriminator, Encoder, Generator
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import EncoderSettings, GanSettings

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08"), level="L1C")
RECIPE = GanSettings(width=8, critic_width=8, latent_global=6, latent_map=2)


def networks() -> tuple[Generator, Discriminator]:
    """Return untrained networks whose tiles nevertheless depend on the latent."""
    dice = torch.Generator().manual_seed(4)
    image = 0.2 + 0.05 * torch.randn(8, 4, 16, 16, generator=dice)
    basis = spectral_basis(image, BANDS, 0.01)
    with forked_rng(1):
        generator = Generator(RECIPE, bands=BANDS, classes=("a", "b"), tile_size=16, basis=basis)
        critic = Discriminator(8, bands=BANDS, classes=("a", "b"), tile_size=16, basis=basis)
    generator.eval().requires_grad_(requires_grad=False)
    critic.eval().requires_grad_(requires_grad=False)
    return generator, critic


def trained(images: int) -> tuple[list[BesideRecord[Encoder]], Generator, Comparison]:
    generator, critic = networks()

    def tiles(count: int, number: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(2, (count,), generator=dice)
        assert number >= 0
        return generator(torch.randn(count, 14, generator=dice), label), label

    settings = EncoderSettings(images=images, batch_size=8, ema_images=100)
    records = list(
        train_encoder(generator, Comparison(critic), tiles, lambda z: z, RECIPE, settings, 3, CPU)
    )
    return records, generator, Comparison(critic)


def test_an_encoder_learns_to_redraw() -> None:
    """Tiles of new latents are redrawn nearer than by the mean latent, which knows no tile."""
    records, generator, unlike = trained(600)
    assert [one.images for one in records[:2]] == [4, 8]
    dice = torch.Generator().manual_seed(9)
    label = torch.randint(2, (40,), generator=dice)
    image = generator(torch.randn(40, 14, generator=dice), label)
    found = encoding(records[-1].average, unlike, lambda z: z)(image)
    apart = unlike(generator(found, label), image)
    blank = unlike(generator(torch.zeros(40, 14), label), image)
    assert float(apart.mean()) < 0.8 * float(blank.mean())


def test_the_same_seed_trains_the_same_encoder() -> None:
    """Every random choice comes from seeds."""
    first, second = (trained(80)[0][-1].average.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_tile_is_not_unlike_itself() -> None:
    """The comparison is 0 for equal tiles, positive else, and leads back to equality."""
    generator, critic = networks()
    unlike = Comparison(critic)
    dice = torch.Generator().manual_seed(2)
    image = generator(torch.randn(3, 14, generator=dice), torch.zeros(3, dtype=torch.long))
    assert torch.equal(unlike(image, image), torch.zeros(3))
    leaf = (image + 0.01).requires_grad_()
    apart = unlike(leaf, image)
    assert (apart > 0).all()
    (slope,) = torch.autograd.grad(apart.sum(), leaf)
    assert (unlike((leaf - 1e-4 * slope.sign()).detach(), image) < apart).all()


def test_an_encoder_is_read_back_for_its_own_generator_only(tmp_path: Path) -> None:
    """A round trip; another generator is refused with what to do."""
    records, _, unlike = trained(8)
    own, path = records[-1].average, tmp_path / "encoder.safetensors"
    save_encoder(path, own, RECIPE, models={"gan": "1"})
    again = load_encoder(path, {"gan": "1"}, CPU)
    image = torch.rand(2, 4, 16, 16, generator=torch.Generator().manual_seed(5)) / 3
    seen = unlike.components(image)
    assert torch.equal(again(seen)[0], own(seen)[0])
    with pytest.raises(ModelError, match="train encoder"):
        load_encoder(path, {"gan": "2"}, CPU)
