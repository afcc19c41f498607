"""A generator that starts from 4 x 4 pixels and doubles them: layout first, then detail.

Residual blocks whose batch normalisation is scaled and shifted by class and latent (Brock et al.,
"Large scale GAN training for high fidelity natural image synthesis", ICLR 2019). Statistics of
the batch keep the tiles of a batch apart in training; in a search they are fixed, so that a tile
does not depend on its batch.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.networks import EMBEDDING, Generator, TileNetwork, double
from rs_lowconf.gan.spectral import SpectralBasis, Unwhiten
from rs_lowconf.settings import GanSettings

_STYLE = 2 * EMBEDDING


class StyledNorm(nn.Module):
    """Batch normalisation whose scale and shift a style vector gives, then a leaky ReLU."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        """Start as plain normalisation."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.momentum = 0.05
        """Weight of a batch in the statistics that are fixed after training."""
        self.film = nn.Linear(_STYLE, 2 * channels)
        nn.init.normal_(self.film.weight, std=0.05)
        nn.init.zeros_(self.film.bias)

    def forward(
        self, features: Float[Tensor, "b c h w"], style: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b c h w"]:
        """Return normalised, modulated and rectified features."""
        plain = F.batch_norm(
            features,
            self.mean,
            self.variance,
            training=self.training,
            momentum=self.momentum,
            eps=1e-4,
        )
        scale, shift = self.film(style)[:, :, None, None].chunk(2, dim=1)
        return F.leaky_relu(plain * (1 + scale) + shift, 0.2)


class GrowingBlock(nn.Module):
    """Residual block that doubles the side if asked to."""

    def __init__(self, wide: int, narrow: int, *, grow: bool) -> None:
        """Build from `wide` channels to `narrow` ones."""
        super().__init__()
        self.grow = grow
        self.norm1 = StyledNorm(wide)
        # Zeros beyond the edge would draw a frame around every tile.
        self.first = nn.Conv2d(wide, narrow, 3, padding=1, padding_mode="replicate", bias=False)
        self.norm2 = StyledNorm(narrow)
        self.second = nn.Conv2d(narrow, narrow, 3, padding=1, padding_mode="replicate")
        self.skip = nn.Conv2d(wide, narrow, 1, bias=False) if wide != narrow else nn.Identity()

    def forward(
        self, features: Float[Tensor, "b c h w"], style: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b k v u"]:
        """Return features of the next scale."""
        # The first convolution works at the smaller side, where it costs a quarter.
        hidden = self.first(self.norm1(features, style))
        skipped = self.skip(features)
        if self.grow:
            hidden, skipped = double(hidden), double(skipped)
        hidden = self.second(self.norm2(hidden, style))
        result: Tensor = (hidden + skipped) * math.sqrt(0.5)
        return result


class PyramidGenerator(TileNetwork):
    """Latents and classes to reflectance; a `TileGenerator`.

    The global part of the latent sets the coarse layout, too, which the map varies across the tile.
    """

    def __init__(
        self,
        settings: GanSettings,
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        tile_size: int,
        basis: SpectralBasis,
    ) -> None:
        """Build for bands, classes and a tile side that is a multiple of 16."""
        super().__init__(settings, bands=bands, classes=classes, tile_size=tile_size)
        width = settings.width
        self._first = tile_size // 16
        self.embed_class = nn.Embedding(len(classes), EMBEDDING)
        self.embed_latent = nn.Linear(self._global, EMBEDDING)
        self.style = nn.Linear(2 * EMBEDDING, _STYLE)
        self.start = nn.Linear(self._global + EMBEDDING, 8 * width * self._first**2)
        self.block8 = GrowingBlock(8 * width, 6 * width, grow=True)
        self.spread = nn.Conv2d(settings.latent_map, 6 * width, 3, padding=1)
        self.more8 = GrowingBlock(6 * width, 6 * width, grow=False)
        self.block4 = GrowingBlock(6 * width, 4 * width, grow=True)
        self.block2 = GrowingBlock(4 * width, 2 * width, grow=True)
        self.block1 = GrowingBlock(2 * width, width, grow=True)
        self.norm = StyledNorm(width)
        self.draw = nn.Conv2d(width, len(bands), 3, padding=1, padding_mode="replicate")
        self.unwhiten = Unwhiten(basis)
        # Channels last: convolutions of these widths take half the time on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance."""
        (overall, layout), embedded = self.parts_of(z), self.embed_class(label)
        style = self.style(torch.cat([embedded, self.embed_latent(overall)], dim=1))
        style = F.leaky_relu(style, 0.2)
        started = self.start(torch.cat([overall, embedded], dim=1))
        features = started.reshape(len(z), -1, self._first, self._first)  # b 8w s/16 s/16
        features = features.contiguous(memory_format=torch.channels_last)
        features = self.block8(features, style)  # b 6w s/8 s/8
        features = features + self.spread(layout)
        features = self.more8(features, style)
        features = self.block4(features, style)  # b 4w s/4 s/4
        features = self.block2(features, style)  # b 2w s/2 s/2
        features = self.block1(features, style)  # b w s s
        components = self.draw(self.norm(features, style))  # b c s s
        return self.drawn(self.unwhiten(components))


ClassGenerator = Generator | PyramidGenerator
"""The generators whose condition is a class."""


@torch.no_grad()
def settle(generator: PyramidGenerator, *, batches: int, batch_size: int, seed: int) -> None:
    """Set the fixed statistics of a generator's normalisation from fresh random latents.

    A weight average has no statistics: they are measured anew, as the plain mean over batches
    (Brock et al., 2019, "standing statistics"). The same for the same weights and seed.
    """
    norms = [part for part in generator.modules() if isinstance(part, StyledNorm)]
    device = next(generator.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    mode, before = generator.training, [norm.momentum for norm in norms]
    generator.train()
    for number in range(batches):
        for norm in norms:
            norm.momentum = 1 / (1 + number)
        z = torch.randn(batch_size, generator.latent_dim, generator=rng)
        label = torch.randint(len(generator.classes), (batch_size,), generator=rng)
        generator(z.to(device), label.to(device))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    generator.train(mode)
