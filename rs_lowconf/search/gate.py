"""The gate: tiles that the critic takes for fake are dropped, at a known cost in real tiles."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.types import Critic, TileSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """A critic with the realism below which a tile is taken for fake."""

    critic: Critic
    threshold: float
    tiles: int
    """Held-out real tiles that the threshold was set on."""
    rank: int
    """The threshold is the realism of the tile of this rank, 1 being the least real."""

    def realism(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the critic's realism logits."""
        return self.critic.realism(image, label)

    def describe(self) -> dict[str, Any]:
        """Say what the calibration guarantees, and what so few tiles cannot."""
        return {
            "threshold": self.threshold,
            "held_out_real_tiles": self.tiles,
            "expected_false_rejection": self.rank / (self.tiles + 1),
            "chance_that_more_than_10_percent_are_rejected": float(
                beta.sf(0.10, self.rank, self.tiles - self.rank + 1)
            ),
        }


@torch.no_grad()
def calibrate_gate(
    critic: Critic, source: TileSource, false_rejection: float, device: torch.device
) -> Gate:
    """Set the threshold so that at most `false_rejection` of real tiles fall below it.

    Classes are matched by name; tiles of classes that the critic does not know are left out.

    Split conformal: of n held-out tiles and a new one, exchangeable, the new one falls below
    the k-th lowest with probability k / (n + 1), whatever the distribution (Vovk et al.,
    "Algorithmic Learning in a Random World", 2005). The guarantee is on average over draws
    of the held-out tiles; `Gate.describe` tells how far one draw may be off.

    Raises:
        DataError: too few tiles for a share so small.
    """
    known = [
        index
        for index, label in enumerate(source.labels.tolist())
        if source.classes[label] in critic.classes
    ]
    rank = int(false_rejection * (len(known) + 1))
    if rank < 1:
        raise DataError(
            f"{len(known)} held-out tiles of the generator's classes cannot bound a false "
            f"rejection of {false_rejection:.1%}",
            expected=f"at least {math.ceil(1 / false_rejection) - 1}",
            remedy="raise search.false_rejection, or hold out more tiles for validation",
        )
    channels = list(source.bands.index_of(critic.bands.names))
    realism = []
    for index in known:
        image = source.batch([index]).image[:, channels].to(device)
        name = source.classes[int(source.labels[index])]
        label = torch.tensor([critic.classes.index(name)], device=device)
        realism.append(float(critic.realism(image, label)[0]))
    return Gate(critic=critic, threshold=sorted(realism)[rank - 1], tiles=len(known), rank=rank)
