"""The networks that `rslow train target` trains: classifiers of tiles, and a U-Net for pixels.

All take reflectance; the normalisation they were trained with is part of their weights.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.errors import SettingsError

_DEPTH = 4
"""Stages of the U-Net; each halves the resolution."""


class Network(nn.Module):
    """Normalises reflectance; what is added returns logits of classes.

    Bands of one tile are nearly multiples of each other, and only small differences distinguish
    vegetation from soil; so the bands are not only scaled but decorrelated.
    """

    mean: Float[Tensor, " c"]
    """Mean reflectance of every band over the training tiles."""

    decorrelation: Float[Tensor, "c c"]
    """Applied to reflectance minus mean; see `rs_lowconf.target.normalise`."""

    def __init__(self, bands: int) -> None:
        """Read `bands` bands, unchanged until `mean` and `decorrelation` are set."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("decorrelation", torch.eye(bands))

    def normalised(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return decorrelated bands."""
        centred = image - self.mean[:, None, None]
        return F.conv2d(centred, self.decorrelation[:, :, None, None])


class ClassificationNetwork(Network):
    """Maps a tile to features with a body and to logits with a linear head."""

    def __init__(self, body: nn.Module, *, bands: int, features: int, classes: int) -> None:
        """Join a body that returns `features` numbers per tile with a head for `classes`."""
        super().__init__(bands)
        self.body = body
        self.head = nn.Linear(features, classes)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the penultimate features."""
        features: Tensor = self.body(self.normalised(image))
        return features

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        logits: Tensor = self.head(self.features(image))
        return logits


class SegmentationNetwork(Network):
    """A U-Net beside a small network that sees each pixel alone.

    Encoders halve the resolution in their first layer, so no part of a U-Net sees full resolution;
    information in a single pixel's spectrum, such as healthy or red crowns, would be blurred.
    """

    STEP = 2**_DEPTH
    """Sides of tiles are multiples of this."""

    def __init__(self, encoder: str, *, width: int, bands: int, classes: int) -> None:
        """Build with random weights drawn from torch's global state.

        Args:
            encoder: its name in segmentation_models_pytorch.
            width: channels of the decoder at full resolution.
            bands: channels of the tiles.
            classes: number of logits of each pixel.

        Raises:
            SettingsError: there is no such encoder.
        """
        super().__init__(bands)
        # Imported late, because it takes seconds.
        smp = importlib.import_module("segmentation_models_pytorch")
        try:
            self.unet = smp.Unet(
                encoder,
                encoder_depth=_DEPTH,
                encoder_weights=None,
                decoder_channels=[4 * width, 2 * width, width, width],
                in_channels=bands,
                classes=classes,
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise SettingsError(
                f"segmentation_models_pytorch cannot build encoder {encoder!r}",
                expected="such as resnet18, mobilenet_v2 or tu-resnet10t",
                remedy="correct segmenter.encoder",
            ) from error
        self.spectral = nn.Sequential(
            nn.Conv2d(bands, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1)
        )

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of every pixel."""
        normal = self.normalised(image)
        logits: Tensor = self.unet(normal) + self.spectral(normal)
        return logits


def classification_network(
    architecture: str, *, width: int, bands: int, classes: int, tile_size: int
) -> ClassificationNetwork:
    """Return an untrained classifier with random weights drawn from torch's global state.

    Args:
        architecture: `small_cnn`, `resnet`, `residual_cnn` or `timm:NAME`.
        width: channels of the first stage; timm backbones ignore it.
        bands: channels of the tiles.
        classes: number of logits.
        tile_size: side of the tiles in pixels; some timm backbones are built for one size.

    Raises:
        SettingsError: the architecture is unknown, or a timm backbone cannot read such tiles.
    """
    if architecture == "small_cnn":
        body: nn.Module = _SmallCnn(bands, width)
        features = 2 * (bands + 7 * width)
    elif architecture == "residual_cnn":
        body, features = _residual_cnn(bands, width), 4 * width
    elif architecture == "resnet":
        body, features = _resnet(bands, width), 4 * width
    elif architecture.startswith("timm:"):
        body, features = _timm_body(architecture.removeprefix("timm:"), bands, tile_size)
    else:
        raise SettingsError(
            f"architecture {architecture!r} is unknown",
            expected="small_cnn, resnet, residual_cnn or timm:NAME",
        )
    return ClassificationNetwork(body, bands=bands, features=features, classes=classes)


class _SmallCnn(nn.Module):
    """Plain 3x3 convolutions with max pooling; every scale is connected to the head.

    Land cover differs in texture as much as in colour, so each scale, the input included,
    is pooled to the mean and the standard deviation of every channel over the tile. Nothing
    is convolved at full resolution, which would take four fifths of the time without any benefit.
    """

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        channels = (bands, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.MaxPool2d(2) if i > 0 else nn.Identity(),
                nn.Conv2d(
                    channels[i],
                    channels[i + 1],
                    3,
                    stride=1 if i > 0 else 2,
                    padding=1,
                    bias=False,
                ),
                nn.BatchNorm2d(channels[i + 1]),
                nn.ReLU(inplace=True),
            )
            for i in range(3)
        )
        # Means and spreads of different scales differ in size by orders of magnitude.
        self.level = nn.Sequential(nn.BatchNorm1d(2 * sum(channels)), nn.Dropout(0.5))
        # Channels last: these convolutions take half the time on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        pooled = [_mean_and_spread(x)]
        for stage in self.stages:
            x = stage(x)  # b width h/2 w/2, b 2*width h/4 w/4, b 4*width h/8 w/8
            pooled.append(_mean_and_spread(x))
        features: Tensor = self.level(torch.cat(pooled, dim=1))
        return features


def _mean_and_spread(x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b g"]:
    mean = x.mean((2, 3))
    # Half the time of torch.var, and normalised inputs lose no precision.
    variance = (x.square().mean((2, 3)) - mean.square()).clamp_min(0)
    # The small constant keeps the gradient of the root finite on a constant tile.
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        stride = channels // before  # where channels double, the side halves
        self.branch = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(
                nn.AvgPool2d(stride),
                nn.Conv2d(before, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
        )

    def forward(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b g k l"]:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return torch.relu(total)


def _resnet(bands: int, width: int) -> nn.Sequential:
    """Three stages of two basic blocks; the stem halves the side, as small tiles ask for."""
    return nn.Sequential(
        nn.Conv2d(bands, width, 3, stride=2, padding=1, bias=False),  # b width h/2 w/2
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        _BasicBlock(width, width),
        _BasicBlock(width, width),
        _BasicBlock(width, 2 * width),  # b 2*width h/4 w/4
        _BasicBlock(2 * width, 2 * width),
        _BasicBlock(2 * width, 4 * width),  # b 4*width h/8 w/8
        _BasicBlock(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),  # b 4*width
    ).to(memory_format=torch.channels_last)


class _Residual(nn.Module):
    """A 5x5 depthwise, then two 1x1 convolutions beside a shortcut, as in ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, 3 * channels, 1),
            nn.GELU(),
            nn.Conv2d(3 * channels, channels, 1),
        )

    def forward(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
        branch: Tensor = self.branch(x)
        return x + branch


def _residual_cnn(bands: int, width: int) -> nn.Sequential:
    """Patches by strided convolutions, GroupNorm, GELU, mean pooling: unlike small_cnn."""
    return nn.Sequential(
        nn.Conv2d(bands, width, 2, stride=2),  # b width h/2 w/2
        nn.GroupNorm(1, width),
        _Residual(width),
        nn.Conv2d(width, 2 * width, 2, stride=2),  # b 2*width h/4 w/4
        _Residual(2 * width),
        _Residual(2 * width),
        nn.Conv2d(2 * width, 4 * width, 2, stride=2),  # b 4*width h/8 w/8
        _Residual(4 * width),
        _Residual(4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),  # b 4*width
        nn.LayerNorm(4 * width),
    )


def _timm_body(name: str, bands: int, tile_size: int) -> tuple[nn.Module, int]:
    # A headless timm model's forward is forward_features, then forward_head(pre_logits=True).
    require_timm_name(name)
    timm = importlib.import_module("timm")
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = (
        {"img_size": tile_size} if config is not None and config.fixed_input_size else {}
    )
    try:
        body = timm.create_model(name, pretrained=False, in_chans=bands, num_classes=0, **size)
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, bands, tile_size, tile_size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise SettingsError(
            f"timm model {name} cannot read {bands} bands of {tile_size} pixels ({error})",
            remedy="choose another architecture",
        ) from error
    return body, int(features.shape[1])


def require_timm_name(name: str) -> None:
    """Reject names that the installed timm does not have, including names of a model hub.

    Raises:
        SettingsError: the name is unknown.
    """
    # Imported late, because it takes seconds in every process of a batch job.
    models = importlib.import_module("timm.models")
    if not models.is_model(models.split_model_name_tag(name)[0]):
        raise SettingsError(
            f"timm has no model {name!r}",
            expected="a name of timm.list_models(), such as resnet18",
        )
