"""A generator that draws tiles of given masks, and the U-Net that judges them pixel by pixel.

After Schoenfeld et al., "You only need adversarial supervision for semantic image synthesis",
ICLR 2021 (OASIS): the discriminator is a segmenter with one additional class, "generated", and the
only loss of the generator. Unlike there, all randomness enters as an argument: a latent vector for
the whole tile and a latent map for its positions. The networks are as small as those of
`rs_lowconf.gan.networks`, and work on principal components, too.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.networks import (
    EMBEDDING,
    FINE,
    FilmBlock,
    PlainBlock,
    TileNetwork,
    TileReader,
    double,
    eights,
)
from rs_lowconf.gan.spectral import SpectralBasis, Unwhiten
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import MaskGanSettings

_MASK_FEATURES = 16
"""Channels in which a block reads the mask around a pixel."""


def layer_of(mask: Int[Tensor, "b h w"], classes: int) -> Int[Tensor, "b h w"]:
    """Return class indices with `classes`, one more than the last, for `UNKNOWN`."""
    return torch.where(mask == UNKNOWN, classes, mask.long())


def mask_layers(mask: Int[Tensor, "b h w"], classes: int) -> Float[Tensor, "b m h w"]:
    """Return one layer of 0 and 1 per class, and a last one for `UNKNOWN`."""
    return F.one_hot(layer_of(mask, classes), classes + 1).movedim(3, 1).float()


class MaskBlock(nn.Module):
    """Residual block whose features are scaled and shifted by a style and, pixel by pixel, a mask.

    As in Park et al., "Semantic image synthesis with spatially-adaptive normalization", CVPR
    2019, without the normalisation. It starts as the identity.
    """

    def __init__(self, channels: int, style: int, layers: int) -> None:
        """Build for a number of channels, the length of the style, and the mask's layers."""
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.film = nn.Linear(style, 2 * channels)
        self.look = nn.Conv2d(layers, _MASK_FEATURES, 3, padding=1, padding_mode="replicate")
        self.place = nn.Conv2d(_MASK_FEATURES, 2 * channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.second.weight)

    def forward(
        self,
        features: Float[Tensor, "b c h w"],
        style: Float[Tensor, "b s"],
        layers: Float[Tensor, "b m h w"],
    ) -> Float[Tensor, "b c h w"]:
        """Add the modulated residual."""
        hidden = self.first(F.leaky_relu(features, 0.2))
        place = self.place(F.leaky_relu(self.look(layers), 0.2))
        scale, shift = (place + self.film(style)[:, :, None, None]).chunk(2, dim=1)
        modulated = F.leaky_relu(hidden * (1 + scale) + shift, 0.2)
        residual: Tensor = self.second(modulated)
        return features + residual


class MaskGenerator(TileNetwork):
    """Latents and masks to reflectance; the latent map sets what the mask leaves open."""

    def __init__(
        self,
        settings: MaskGanSettings,
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        tile_size: int,
        basis: SpectralBasis,
    ) -> None:
        """Build for bands, classes of pixels and a tile side that is a multiple of 16."""
        super().__init__(settings, bands=bands, classes=classes, tile_size=tile_size)
        half = settings.width
        quarter, eighth = eights(1.6 * half), eights(2.4 * half)
        style, layers = EMBEDDING, len(classes) + 1
        self.style = nn.Linear(self._global, style)
        self.start = nn.Linear(style, eighth)
        self.spread = nn.Conv2d(self._map[0], eighth, 3, padding=1, padding_mode="replicate")
        self.place = nn.Conv2d(layers, eighth, 3, padding=1, padding_mode="replicate")
        self.block8 = nn.ModuleList(MaskBlock(eighth, style, layers) for _ in range(2))
        self.to4 = nn.Conv2d(eighth, quarter, 1)
        self.block4 = MaskBlock(quarter, style, layers)
        self.to2 = nn.Conv2d(quarter, half, 1)
        self.block2 = MaskBlock(half, style, layers)
        self.to1 = nn.Conv2d(half, FINE, 1)
        # At full resolution a mask would emboss its outline; real ground has no such edges.
        self.block1 = FilmBlock(FINE, style)
        self.draw = nn.Conv2d(FINE, len(bands), 3, padding=1, padding_mode="replicate")
        self.unwhiten = Unwhiten(basis)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, z: Float[Tensor, "b d"], mask: Int[Tensor, "b h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance for latents and masks of class indices, or `UNKNOWN`."""
        fine = mask_layers(mask, len(self.classes))
        half, quarter, eighth = (F.avg_pool2d(fine, size) for size in (2, 4, 8))
        overall, layout = self.parts_of(z)
        style = F.leaky_relu(self.style(overall), 0.2)
        features = self.spread(layout) + self.place(eighth) + self.start(style)[:, :, None, None]
        for block in self.block8:
            features = block(features, style, eighth)  # b 2.4w s/8 s/8
        features = self.block4(double(self.to4(features)), style, quarter)  # b 1.6w s/4 s/4
        features = self.block2(double(self.to2(features)), style, half)  # b w s/2 s/2
        features = self.block1(double(self.to1(features)), style)  # b 16 s s
        # Reflectance is computed in full precision, also in mixed-precision training.
        with torch.autocast(features.device.type, enabled=False):
            components = self.draw(F.leaky_relu(features.float(), 0.2))  # b c s s
            return self.drawn(self.unwhiten(components))


class MaskDiscriminator(TileReader):
    """A U-Net that classifies each pixel into the classes or "generated"."""

    def _build(self) -> None:
        quarter, eighth = self.to4.out_channels, self.to8.out_channels
        sixteenth = eights(4.0 * self.width)
        self.to16 = nn.Conv2d(eighth, sixteenth, 1)
        self.block16 = PlainBlock(sixteenth)
        self.from16 = nn.Conv2d(sixteenth, eighth, 1)
        self.join8 = PlainBlock(eighth)
        self.from8 = nn.Conv2d(eighth, quarter, 1)
        self.join4 = PlainBlock(quarter)
        self.from4 = nn.Conv2d(quarter, self.width, 1)
        self.join2 = PlainBlock(self.width)
        self.tell = nn.Conv2d(self.width, 4 * (len(self.classes) + 1), 3, padding=1)

    def encode(self, components: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Return features of a half, a quarter, an eighth and a sixteenth of the side."""
        half, quarter, eighth = self.scales(components)
        return half, quarter, eighth, self.block16(self.to16(F.avg_pool2d(eighth, 2)))

    def forward(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m h w"]:
        """Return logits of every pixel: the classes in order, and "generated" last."""
        half, quarter, eighth, sixteenth = self.encode(components)
        features = self.join8(eighth + double(self.from16(sixteenth)))  # b 3w s/8 s/8
        features = self.join4(quarter + double(self.from8(features)))  # b 1.5w s/4 s/4
        features = self.join2(half + double(self.from4(features)))  # b w s/2 s/2
        # The checkerboard pattern of a pixel shuffle does not matter in logits.
        logits: Tensor = F.pixel_shuffle(self.tell(F.leaky_relu(features, 0.2)), 2)
        return logits.float()


def realness(logits: Float[Tensor, "b m h w"]) -> Float[Tensor, "b h w"]:
    """Return the log-odds of every pixel of being of any real class."""
    return logits[:, :-1].logsumexp(1) - logits[:, -1]
