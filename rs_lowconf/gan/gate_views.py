"""How the gate looks at tiles: composites, as their source would show them, to frozen features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.frozen import FrozenName, FrozenNetwork, frozen_network, pooled
from rs_lowconf.gan.probe import through_jpeg
from rs_lowconf.gan.rendering import BYTE, Rendering


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """What a view shows; it travels with the gate."""

    composite: tuple[str, ...]
    """Names of the bands shown as red, green and blue."""
    white: float
    """Reflectance shown as white, where the source has no bytes of its own."""
    picture: Rendering | None
    """How the source's pictures show reflectance; None for a source that is no pictures."""
    network: FrozenName
    side: int
    """Pixels to which tiles are enlarged."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        picture = self.picture
        return {
            "composite": list(self.composite),
            "white": self.white,
            "network": self.network,
            "side": self.side,
            "picture": None
            if picture is None
            else {"bands": picture.bands.to_json(), "chroma": picture.chroma},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ViewSpec":
        """Return what `to_json` described."""
        picture = values["picture"]
        return cls(
            composite=tuple(values["composite"]),
            white=values["white"],
            network=values["network"],
            side=values["side"],
            picture=None
            if picture is None
            else Rendering(
                bands=BandSpec.from_json(picture["bands"]),
                eight_bits=True,
                chroma=picture["chroma"],
            ),
        )


class FrozenView:
    """Features of a composite of tiles, by a pretrained network that nothing was trained against.

    Where the source is a folder of pictures, tiles become bytes as the pictures did, through JPEG
    where colour differences have half the resolution: what writing a file takes away is taken from
    both sides, so that it is no sign of a generated tile.
    """

    def __init__(self, spec: ViewSpec, bands: BandSpec, device: torch.device) -> None:
        """Read the network's weights.

        Args:
            spec: what to show.
            bands: of the tiles, those of the composite among them.
            device: where to compute.

        Raises:
            ModelError: the network's weights are not installed.
        """
        self._spec = spec
        self._bands = bands
        self._channels = list(bands.index_of(spec.composite))
        self._network: FrozenNetwork = frozen_network(spec.network).to(device)
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the features of tiles in the bands of the view, on the CPU."""
        # Two parts of one gate may look through the same view.
        if self._last is None or self._last[0] is not image:
            self._last = image, self._features(self.shown(image))
        return self._last[1]

    def shown(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return tiles as the source would show them, 0 .. 255."""
        picture = self._spec.picture
        picked = image[:, self._channels]
        if picture is None:
            return (picked * (BYTE / self._spec.white)).clamp(0, BYTE)
        scale, offset = picture.bands.scale, picture.bands.dn_offset
        if picture.chroma == "half":
            stored = np.stack(through_jpeg(picked.cpu(), scale=scale, dn_offset=offset))
            return torch.from_numpy(stored).permute(0, 3, 1, 2).float()
        return (picked * scale - offset).round().clamp(0, BYTE)

    @torch.no_grad()
    def of_pictures(self, image: Float[Tensor, "b k h w"]) -> Float[Tensor, "b f"]:
        """Return the features of pictures of the source, which are bytes already.

        Args:
            image: reflectance in the source's bands, as it was read.
        """
        picture = self._spec.picture
        assert picture is not None  # noqa: S101  # only such sources have pictures
        channels = list(picture.bands.index_of(self._spec.composite))
        numbers = image[:, channels] * picture.bands.scale - picture.bands.dn_offset
        return self._features(numbers.round())

    def _features(self, picture: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        device = self._network.mean.device
        return pooled(self._network, picture.to(device), self._spec.side).cpu()
