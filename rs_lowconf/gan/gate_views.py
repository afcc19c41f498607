"""The gate's view of tiles: frozen features of composites, stored as their source stores them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rs_lowconf.bands import COMPOSITES, BandSpec
from rs_lowconf.gan.frozen import FrozenName, FrozenNetwork, frozen_network, pooled
from rs_lowconf.gan.pictures import CompositeView, StoredView
from rs_lowconf.gan.rendering import Rendering


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """What a view shows; it is saved with the gate."""

    composite: str
    """Name of one of `COMPOSITES`."""
    picture: Rendering | None
    """How the source's pictures show reflectance; None if the source is not pictures."""
    network: FrozenName
    side: int
    """Pixels to which tiles are enlarged."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        picture = self.picture
        return {
            "composite": self.composite,
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
            composite=values["composite"],
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
    if colour differences have half the resolution: both real and generated tiles lose what the file
    format loses, so that this does not reveal a generated tile.
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
        self._side = spec.side
        self._bands = bands
        composite = COMPOSITES[spec.composite]
        if spec.picture is None:
            self._view: StoredView | CompositeView = CompositeView(composite=composite)
            self._order = [0, 1, 2]
        else:
            self._view = StoredView(rendering=spec.picture)
            self._order = list(spec.picture.bands.index_of(composite.bands))
        self._network: FrozenNetwork = frozen_network(spec.network).to(device)
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the features of tiles in the bands of the view, on the CPU."""
        # Two parts of one gate may look through the same view.
        if self._last is None or self._last[0] is not image:
            self._last = image, self._features(self._view.generated(image, self._bands))
        return self._last[1]

    @torch.no_grad()
    def of_real(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return the features of tiles of the source, which are stored that way already."""
        return self._features(self._view.real(image, self._bands))

    def _features(self, pictures: UInt8[np.ndarray, "b h w k"]) -> Float[Tensor, "b f"]:
        device = self._network.mean.device
        shown = torch.from_numpy(pictures[..., self._order]).permute(0, 3, 1, 2).float()
        return pooled(self._network, shown.to(device), self._side).cpu()
