"""Generator and discriminator: small residual networks without normalisation, after R3GAN.

R3GAN is Huang et al., "The GAN is dead; long live the GAN!", NeurIPS 2024. On top of it: a
latent *map* that enters at one eighth of the tile's side, so that layout comes from the
latent and not from a learned constant; principal components instead of bands inside the
networks; a per-patch head in addition to the whole-tile head, which uses few images better.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.spectral import SpectralBasis, Unwhiten, Whiten
from rs_lowconf.settings import GanSettings, GeneratorSettings

EMBEDDING = 64
FINE = 16
"""Channels of the generator at full resolution, where a channel costs most."""


DARKEST = 1e-4
"""Reflectance below which a trained generator draws nothing: one digital number, as 0 is nodata."""


class FilmBlock(nn.Module):
    """Residual block whose features are scaled and shifted by a style vector.

    The last convolution starts at zero, so the block starts as the identity.
    """

    def __init__(self, channels: int, style: int) -> None:
        """Build for a number of channels and the length of the style vector."""
        super().__init__()
        # Zeros beyond the edge would draw a frame around every tile.
        self.first = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.film = nn.Linear(style, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate")
        nn.init.zeros_(self.second.weight)

    def forward(
        self, features: Float[Tensor, "b c h w"], style: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b c h w"]:
        """Add the modulated residual."""
        scale, shift = self.film(style)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(F.leaky_relu(features, 0.2))
        modulated = F.leaky_relu(hidden * (1 + scale) + shift, 0.2)
        residual: Tensor = self.second(modulated)
        return features + residual


class PlainBlock(nn.Module):
    """Residual block without conditioning; it starts as the identity."""

    def __init__(self, channels: int) -> None:
        """Build for a number of channels."""
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the residual."""
        hidden = self.first(F.leaky_relu(features, 0.2))
        residual: Tensor = self.second(F.leaky_relu(hidden, 0.2))
        return features + residual


class ClassTable(nn.Module):
    """One vector per class, blended with the mean of all by a share that training raises to 1.

    A generator that is conditioned on classes with few tiles from the start collapses to a few
    tiles per class; one that learns land first and classes later does not (Shahbazi et al.,
    "Collapse by conditioning", ICLR 2022).
    """

    share: Tensor

    def __init__(self, classes: int, length: int) -> None:
        """Start with the classes fully apart."""
        super().__init__()
        self.table = nn.Embedding(classes, length)
        self.register_buffer("share", torch.ones(()))

    def forward(self, label: Int[Tensor, " b"]) -> Float[Tensor, "b f"]:
        """Return one vector per label."""
        common = self.table.weight.mean(0)
        vectors: Tensor = torch.lerp(common.expand(len(label), -1), self.table(label), self.share)
        return vectors


class TileNetwork(nn.Module):
    """Latents and conditions to reflectance: deterministic, no hidden noise.

    The latent is flat, so that a search need not know its structure: first the global part, which
    sets a tile's appearance, then a map of one eighth of the tile's side, which sets its layout.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        tile_size: int,
    ) -> None:
        """Build for bands, classes and a tile side that is a multiple of 16."""
        super().__init__()
        self.bands = bands
        self.classes = classes
        self.tile_size = tile_size
        self._global = settings.latent_global
        self._map = (settings.latent_map, tile_size // 8, tile_size // 8)
        self.latent_parts: tuple[int, ...] = (self._global, math.prod(self._map))

    @property
    def latent_dim(self) -> int:
        """Return the length of the whole latent."""
        return sum(self.latent_parts)

    def parts_of(
        self, z: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b m _ _"]]:
        """Return the global part of latents, and their map."""
        return z[:, : self._global], z[:, self._global :].reshape(-1, *self._map)

    def drawn(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return what is drawn: critics have to see what is too dark, or it is never learned."""
        return image if self.training else image.clamp_min(DARKEST)


class Generator(TileNetwork):
    """Latents and classes to reflectance; a `TileGenerator`."""

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
        half = settings.width
        quarter, eighth = eights(1.6 * half), eights(2.4 * half)
        style = 2 * EMBEDDING
        self.embed_class = ClassTable(len(classes), EMBEDDING)
        self.embed_latent = nn.Linear(self._global, EMBEDDING)
        self.style = nn.Linear(2 * EMBEDDING, style)
        self.start = nn.Linear(style, eighth)
        self._layout = (settings.latent_layout, *self._map[1:])
        self.layout = nn.Linear(style, math.prod(self._layout)) if settings.latent_layout else None
        maps = self._map[0] + settings.latent_layout
        self.spread = nn.Conv2d(maps, eighth, 3, padding=1, padding_mode="replicate")
        self.block8 = nn.ModuleList(FilmBlock(eighth, style) for _ in range(settings.depth))
        self.to4 = nn.Conv2d(eighth, quarter, 1)
        self.block4 = nn.ModuleList(
            FilmBlock(quarter, style) for _ in range(max(1, settings.depth - 1))
        )
        self.to2 = nn.Conv2d(quarter, half, 1)
        self.block2 = FilmBlock(half, style)
        self.to1 = nn.Conv2d(half, FINE, 1)
        self.block1 = FilmBlock(FINE, style)
        self.draw = nn.Conv2d(FINE, len(bands), 3, padding=1, padding_mode="replicate")
        self.unwhiten = Unwhiten(basis)
        # Channels last: convolutions of these widths take half the time on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance."""
        overall, layout = self.parts_of(z)
        latent = self.embed_latent(overall)
        style = torch.cat([self.embed_class(label), latent], dim=1)
        style = F.leaky_relu(self.style(style), 0.2)
        if self.layout is not None:
            # Each position has a separate latent; only this can draw one line through all of them.
            layout = torch.cat([layout, self.layout(style).reshape(-1, *self._layout)], dim=1)
        features = self.spread(layout) + self.start(style)[:, :, None, None]  # b 2.4w s/8 s/8
        for block in self.block8:
            features = block(features, style)
        features = double(self.to4(features))  # b 1.6w s/4 s/4
        for block in self.block4:
            features = block(features, style)
        features = double(self.to2(features))  # b w s/2 s/2
        features = self.block2(features, style)
        # Narrow at full resolution. A pixel shuffle would be cheaper but leaves a checkerboard
        # pattern.
        features = self.block1(double(self.to1(features)), style)  # b 16 s s
        # Reflectance is computed in full precision, also in mixed-precision training.
        with torch.autocast(features.device.type, enabled=False):
            components = self.draw(F.leaky_relu(features.float(), 0.2))  # b c s s
            return self.drawn(self.unwhiten(components))


class PatchReader(nn.Module):
    """Reads components down to features of one eighth of the tile's side."""

    def __init__(self, width: int, bands: BandSpec) -> None:
        """Build for channels at half resolution."""
        super().__init__()
        quarter, eighth = eights(1.5 * width), eights(3.0 * width)
        self.read = nn.Conv2d(4 * len(bands), width, 3, padding=1)
        self.block2 = PlainBlock(width)
        self.to4 = nn.Conv2d(width, quarter, 1)
        self.block4 = PlainBlock(quarter)
        self.to8 = nn.Conv2d(quarter, eighth, 1)
        self.block8 = PlainBlock(eighth)

    def scales(
        self, components: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"]]:
        """Return features of a half, a quarter and an eighth of the side."""
        half = self.block2(self.read(F.pixel_unshuffle(components, 2)))  # b w s/2 s/2
        quarter = self.block4(self.to4(F.avg_pool2d(half, 2)))  # b 1.5w s/4 s/4
        eighth = self.block8(self.to8(F.avg_pool2d(quarter, 2)))  # b 3w s/8 s/8
        return half, quarter, eighth

    def patches(self, components: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p v u"]:
        """Return patch features."""
        return F.leaky_relu(self.scales(components)[2], 0.2)


class TileReader(PatchReader):
    """Reads tiles of reflectance; base of the discriminators."""

    def __init__(
        self,
        width: int,
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        tile_size: int,
        basis: SpectralBasis,
    ) -> None:
        """Build for channels at half resolution and a tile side that is a multiple of 16."""
        super().__init__(width, bands)
        self.width = width
        self.bands = bands
        self.classes = classes
        self.tile_size = tile_size
        self.whiten = Whiten(basis)
        self._build()
        self.to(memory_format=torch.channels_last)

    def _build(self) -> None:
        """Add the layers after those that read."""
        raise NotImplementedError

    def components(
        self, image: Float[Tensor, "b c h w"], dither: Float[Tensor, "#b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the network's input for reflectance.

        Rounding to digital numbers is noise that only real tiles have and that a
        discriminator finds, so noise is added to both real and generated tiles.

        Args:
            image: reflectance.
            dither: uniform noise in -0.5 .. 0.5 digital numbers.
        """
        # Roofs and glints lie 70 standard deviations out; without normalisation layers they
        # would drown every other pixel in features and gradients.
        return compress(self.whiten(image + dither / self.bands.scale))


class Discriminator(TileReader):
    """Realism logit of components, as the sum of a whole-tile head and a per-patch head.

    Each head has an unconditional part and a projection on the class (Miyato and Koyama,
    "cGANs with projection discriminator", ICLR 2018).
    """

    def _build(self) -> None:
        eighth, sixteenth = self.to8.out_channels, eights(4.0 * self.width)
        self.patch = nn.Conv2d(eighth, 1, 1)
        self.patch_class = ClassTable(len(self.classes), eighth)
        self.to16 = nn.Conv2d(eighth, sixteenth, 1)
        self.block16 = PlainBlock(sixteenth)
        self.pool = nn.Conv2d(sixteenth, sixteenth, self.tile_size // 16, groups=sixteenth)
        self.whole = nn.Linear(sixteenth, 1)
        self.whole_class = ClassTable(len(self.classes), sixteenth)
        for table in (self.patch_class.table, self.whole_class.table):
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)

    def trunk(
        self, components: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b p v u"], Float[Tensor, "b f"]]:
        """Return patch features and whole-tile features."""
        patches = self.patches(components)
        coarse = self.block16(self.to16(F.avg_pool2d(patches, 2)))  # b 4w s/16 s/16
        whole = F.leaky_relu(self.pool(F.leaky_relu(coarse, 0.2)).flatten(1), 0.2)
        return patches, whole

    def forward(
        self, components: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return one logit per tile; it has an arbitrary constant per class (relativistic loss)."""
        patches, whole = self.trunk(components)
        return self.heads(patches, whole, label)

    def heads(
        self,
        patches: Float[Tensor, "b p v u"],
        whole: Float[Tensor, "b f"],
        label: Int[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return the logit of the trunk's features."""
        conditioned = (patches * self.patch_class(label)[:, :, None, None]).sum(1)
        patch_logit = (self.patch(patches)[:, 0] + conditioned).mean((1, 2))
        whole_logit = self.whole(whole)[:, 0] + (whole * self.whole_class(label)).sum(1)
        logit: Tensor = patch_logit + whole_logit
        return logit


def compress(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the inverse hyperbolic sine, in a quarter of the time of torch.asinh on a CPU."""
    result: Tensor = _Asinh.apply(x)
    return result


class _Asinh(torch.autograd.Function):
    """Its derivative is given explicitly, because that of the formula is undefined at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        size = x.abs()
        return (size + (size * size + 1).sqrt()).log().copysign(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = (x * x + 1).rsqrt()
        return gradient * slope


class Encoder(PatchReader):
    """Real tiles to latents from which the generator can draw them again."""

    def __init__(self, settings: GeneratorSettings, *, bands: BandSpec) -> None:
        """Build for the latent of a generator with the same settings."""
        super().__init__(settings.critic_width, bands)
        self.bands = bands
        eighth = self.to8.out_channels
        self.layout = nn.Conv2d(eighth, 2 * settings.latent_map, 1)
        self.overall = nn.Linear(eighth, 2 * settings.latent_global)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, components: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return mean and logarithm of the variance of each latent."""
        features = self.patches(components)
        overall = self.overall(features.mean((2, 3))).chunk(2, dim=1)
        layout = self.layout(features).chunk(2, dim=1)
        mean, log_variance = (
            torch.cat([a, b.flatten(1)], dim=1).float()
            for a, b in zip(overall, layout, strict=True)
        )
        # Within what single precision can take the exponential of.
        return mean, log_variance.clamp(-12, 4)


class Redrawer(nn.Module):
    """Patch features of the discriminator to the components they were read from, at half size."""

    def __init__(self, width: int, *, bands: BandSpec) -> None:
        """Build for the features of a discriminator of the same width."""
        super().__init__()
        quarter, eighth = eights(1.5 * width), eights(3.0 * width)
        self.to4 = nn.Conv2d(eighth, quarter, 3, padding=1)
        self.to2 = nn.Conv2d(quarter, width, 3, padding=1)
        self.draw = nn.Conv2d(width, len(bands), 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, patches: Float[Tensor, "b p v u"]) -> Float[Tensor, "b c h w"]:
        """Return components of half the tile's side."""
        features = double(F.leaky_relu(self.to4(patches), 0.2))
        features = double(F.leaky_relu(self.to2(features), 0.2))
        drawn: Tensor = self.draw(features)
        return drawn


def double(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c v u"]:
    """Return features of twice the side, bilinearly."""
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)


def eights(channels: float) -> int:
    """Round up to a multiple of 8: CPU convolutions pad to that anyway."""
    return 8 * math.ceil(channels / 8)
