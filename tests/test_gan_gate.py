"""What the gate is fitted on besides real tiles, and how it looks at all of them."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.gate_views import FrozenView, ViewSpec
from rs_lowconf.gan.negatives import phase_scrambled, shuffled_blocks
from rs_lowconf.gan.rendering import Chroma, Rendering

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08"), level="L1C")
PICTURES = BandSpec(names=("B04", "B03", "B02"), level="L1C", scale=850.0, dn_offset=-1.0)


def tiles(count: int, side: int = 32) -> torch.Tensor:
    return 0.2 + 0.1 * torch.rand(count, 4, side, side, generator=torch.Generator().manual_seed(0))


def test_scrambled_phases_keep_power_and_the_relation_of_bands() -> None:
    """Band means, power spectra and cross spectra stay; pixels are elsewhere."""
    image = tiles(3)
    changed = phase_scrambled(image, 1)
    before, after = torch.fft.fft2(image), torch.fft.fft2(changed)
    torch.testing.assert_close(after.abs(), before.abs(), rtol=1e-3, atol=1e-3)
    cross = [one[:, 0] * one[:, 2].conj() for one in (before, after)]
    torch.testing.assert_close(cross[0], cross[1], rtol=1e-3, atol=2e-2)
    pixels = torch.stack([image[0, 0].flatten(), changed[0, 0].flatten()])
    assert abs(float(torch.corrcoef(pixels)[0, 1])) < 0.2
    assert torch.equal(changed, phase_scrambled(image, 1))


def test_shuffled_blocks_are_those_of_the_tile_in_another_order() -> None:
    """Every block comes once, whole and with all its bands, in another order for every tile."""
    image = tiles(2)
    changed = shuffled_blocks(image, 0, side=8)
    for tile, other in zip(image, changed, strict=True):
        blocks = [
            {
                one.numpy().tobytes()
                for one in own.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(0, 1)
            }
            for own in (tile, other)
        ]
        assert len(blocks[0]) == 16
        assert blocks[0] == blocks[1]
        assert not torch.equal(tile, other)


@pytest.mark.parametrize("chroma", ["half", "full"])
def test_a_tile_looks_to_the_gate_as_the_picture_of_it_does(chroma: Chroma) -> None:
    """A tile with all bands and the file that was written of it have the same features."""
    view = FrozenView(
        ViewSpec(
            composite="true_colour",
            picture=Rendering(bands=PICTURES, eight_bits=True, chroma=chroma),
            network="efficientnet_lite1",
            side=32,
        ),
        BANDS,
        CPU,
    )
    image = tiles(2)
    rgb = (image[:, [2, 1, 0]] * 850 + 1).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    pictures = []
    for own in rgb:
        file = BytesIO()
        if chroma == "half":
            Image.fromarray(own).save(file, "JPEG", quality=100, subsampling="4:2:0")
        else:
            Image.fromarray(own).save(file, "PNG")
        pictures.append(np.asarray(Image.open(file)))
    numbers = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    stored = torch.zeros(2, 4, *numbers.shape[2:])
    stored[:, [2, 1, 0]] = (numbers - 1) / 850
    seen = view.of_real(stored)
    torch.testing.assert_close(view(image), seen, rtol=1e-4, atol=1e-4)
    # What was asked once is remembered for the same tiles, and for no others.
    assert view(image) is view(image)
    assert not torch.equal(view(image), view(image.flip(3)))


def test_a_view_is_the_same_when_it_is_read_again() -> None:
    """Plain values hold all of it, with a picture or without."""
    for picture in (None, Rendering(bands=PICTURES, eight_bits=True, chroma="half")):
        spec = ViewSpec(
            composite="near_infrared",
            picture=picture,
            network="efficientnet_lite1",
            side=128,
        )
        assert ViewSpec.from_json(spec.to_json()) == spec
