"""Critics on frozen features, and a small one that sees spectra and texture of a few pixels.

After Sauer et al., "Projected GANs converge faster" (NeurIPS 2021): features of four scales are
mixed by fixed random convolutions, across channels and from coarse to fine, so that no head can
rely on the few easiest channels; each scale has its small head. Their hinge loss collapses here;
heads are trained by the relativistic pairing loss with R1 and R2 on the mixed features.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.frozen import FrozenNetwork
from rs_lowconf.gan.mask_networks import mask_layers
from rs_lowconf.gan.networks import PlainBlock, compress, double
from rs_lowconf.gan.rendering import BYTE, clip_bytes
from rs_lowconf.gan.spectral import SpectralBasis, Whiten

MIXED = 64
"""Channels of the mixed features of each scale."""

Scales = tuple[Float[Tensor, "b m _ _"], ...]


class FeatureMixer(nn.Module):
    """Frozen features of a composite, mixed at random and scaled to unit deviation."""

    def __init__(
        self,
        network: FrozenNetwork,
        *,
        source: int,
        channels: tuple[int, ...],
        white: float,
        side: int,
    ) -> None:
        """Draw the mixing convolutions from torch's global random state.

        Args:
            network: gives the features; its weights are not part of this module's state.
            source: index of the source whose tiles it sees.
            channels: the three channels of its tiles that are shown as red, green and blue.
            white: reflectance that is shown as 255.
            side: pictures are enlarged to this side in pixels for the network.
        """
        super().__init__()
        self.source = source
        self._channels = list(channels)
        self._white = white
        self._side = side
        self._network = [network]  # in a list, so that torch does not count it among the weights
        self.across = nn.ModuleList(nn.Conv2d(c, MIXED, 1, bias=False) for c in network.channels)
        # 3 x 3 pixels, except at the finest scale, where that would cost most.
        sizes = [1] + [3] * (len(network.channels) - 1)
        self.down = nn.ModuleList(
            nn.Conv2d(MIXED, MIXED, size, padding=size // 2, bias=False) for size in sizes
        )
        for conv in (*self.across, *self.down):
            nn.init.kaiming_normal_(conv.weight)
        for number in range(len(network.channels)):
            self.register_buffer(f"mean{number}", torch.zeros(MIXED))
            self.register_buffer(f"deviation{number}", torch.ones(MIXED))
        self.requires_grad_(requires_grad=False)
        self.to(memory_format=torch.channels_last)

    def measure(self, image: Float[Tensor, "n c h w"]) -> None:
        """Scale each mixed channel to the mean and deviation that it has on real tiles."""
        with torch.no_grad():
            mixed = [self._mix(part) for part in torch.split(image, 32)]
        for number, scale in enumerate(zip(*mixed, strict=True)):
            values = torch.cat([part.transpose(0, 1).flatten(1) for part in scale], dim=1)
            getattr(self, f"mean{number}").copy_(values.mean(1))
            getattr(self, f"deviation{number}").copy_(values.std(1).clamp_min(1e-6))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Scales:
        """Return mixed features of the four scales, the finest first."""
        return tuple(
            (features - getattr(self, f"mean{number}")[:, None, None])
            / getattr(self, f"deviation{number}")[:, None, None]
            for number, features in enumerate(self._mix(image))
        )

    def _mix(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        picture = image[:, self._channels] * (BYTE / self._white)
        scales = self._network[0](clip_bytes(picture), self._side)
        mixed: list[Tensor] = []
        for features, across, down in reversed(
            list(zip(scales, self.across, self.down, strict=True))
        ):
            level = across(features)
            if mixed:
                above = double(mixed[0])
                level = (level + above[..., : level.shape[-2], : level.shape[-1]]) * math.sqrt(0.5)
            mixed.insert(0, down(level))
        return mixed


class FeatureHeads(nn.Module):
    """One realism logit per scale of mixed features, given the class of the tile or of each pixel.

    A condition enters by projection (Miyato and Koyama, "cGANs with projection discriminator",
    ICLR 2018): of a mask, position by position.
    """

    spread: Tensor

    def __init__(self, classes: int, scales: int, *, group: int = 1, width: int = MIXED) -> None:
        """Build a head for each scale.

        Args:
            classes: of the tiles, or of pixels and one more for those of unknown class.
            scales: number of scales.
            group: in training, so many tiles in succession are of the same class; from 2 on, a head
                also sees the deviation of features within a group (Karras et al., "Progressive
                growing of GANs", ICLR 2018, over the whole batch).
            width: channels.
        """
        super().__init__()
        self.group = group
        self.first = nn.ModuleList(
            nn.Conv2d(MIXED, width, 3, stride=2 if scale == 0 else 1, padding=1)
            for scale in range(scales)
        )
        self.second = nn.ModuleList(
            nn.Conv2d(width + (group > 1), width, 3, stride=2, padding=1) for _ in range(scales)
        )
        self.logit = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(scales))
        tables = [nn.Embedding(classes, width) for _ in range(scales)]
        for table in tables:
            nn.init.normal_(table.weight, std=width**-0.5)
        self.classes = nn.ModuleList(tables)
        if group > 1:
            self.register_buffer("spread", torch.zeros(scales))
        self.to(memory_format=torch.channels_last)

    def forward(self, scales: Scales, label: Int[Tensor, "b *pixels"]) -> Float[Tensor, "b s"]:
        """Return the logits, one per scale; each has an arbitrary constant per class.

        Args:
            scales: mixed features.
            label: class of each tile, or its mask.
        """
        logits = []
        for number, features in enumerate(scales):
            hidden = F.leaky_relu(self.first[number](features), 0.2)
            if self.group > 1:
                hidden = torch.cat([hidden, self._spread(hidden, number)], dim=1)
            hidden = F.leaky_relu(self.second[number](hidden), 0.2)
            known = (hidden * self._wanted(label, number, hidden.shape[2:])).sum(1)
            logits.append((self.logit[number](hidden)[:, 0] + known).mean((1, 2)))
        return torch.stack(logits, dim=1)

    def _wanted(
        self, label: Int[Tensor, "b *pixels"], number: int, size: torch.Size
    ) -> Float[Tensor, "b c _ _"]:
        """Return the direction that stands for the condition, at each position of a mask."""
        table = self.classes[number]
        if label.ndim == 1:
            vectors: Tensor = table(label)
            return vectors[:, :, None, None]
        weight = table.get_parameter("weight")
        shares = F.adaptive_avg_pool2d(mask_layers(label, len(weight) - 1), (size[0], size[1]))
        return torch.einsum("bmhw,mc->bchw", shares, weight)

    def _spread(self, hidden: Float[Tensor, "b c h w"], number: int) -> Float[Tensor, "b 1 h w"]:
        """Return how much tiles differ within their group; after training its mean in training.

        So a tile's logits do not depend on the tiles beside it.
        """
        shape = (len(hidden), 1, *hidden.shape[2:])
        if not self.training:
            return self.spread[number].expand(shape)
        groups = hidden.reshape(-1, self.group, *hidden.shape[1:])
        # Written out: torch's own variance of two is a tenth of a whole training step.
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))
        with torch.no_grad():
            self.spread[number].lerp_(deviation.mean(), 0.01)
        told: Tensor = deviation.repeat_interleave(self.group)[:, None, None, None].expand(shape)
        return told


class TextureCritic(nn.Module):
    """Realism of spectra and of texture within 14 pixels, in all bands of a source.

    It sees too little of a tile to memorise a few hundred tiles.
    """

    def __init__(
        self, width: int, *, bands: BandSpec, classes: tuple[str, ...], basis: SpectralBasis
    ) -> None:
        """Build for a number of channels at half resolution."""
        super().__init__()
        self.bands = bands
        self.whiten = Whiten(basis)
        self.read = nn.Conv2d(4 * len(bands), width, 3, padding=1)
        self.block = PlainBlock(width)
        self.logit = nn.Conv2d(width, 1, 1)
        self.table = nn.Embedding(len(classes), width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.to(memory_format=torch.channels_last)

    def components(
        self, image: Float[Tensor, "b c h w"], dither: Float[Tensor, "#b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the network's input for reflectance; see `Discriminator.components`."""
        return compress(self.whiten(image + dither / self.bands.scale))

    def forward(
        self, components: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return one logit per tile, the mean over its positions."""
        hidden = self.block(self.read(F.pixel_unshuffle(components, 2)))
        hidden = F.leaky_relu(hidden, 0.2)
        known = (hidden * self.table(label)[:, :, None, None]).sum(1)
        logit: Tensor = (self.logit(hidden)[:, 0] + known).mean((1, 2))
        return logit
