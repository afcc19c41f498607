"""The gate: tiles that look unlike real ones are dropped, at a known joint cost in real tiles.

Several parts look at a tile, each in its own way. Five parts that each reject 5 % of real
tiles would together reject up to 23 %, so there is one score over all of them: the worst of
the standardised parts, with one threshold.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import beta
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.types import TileSource

log = logging.getLogger(__name__)

_MAD_TO_DEVIATION = 1.4826


GatePart = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]]
"""One way of looking at tiles: a score, higher for more real, given the index of the
conditioned class. The channels are in the order of the gate's bands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GateScores:
    """What the gate says of tiles."""

    parts: dict[str, Float[Tensor, " b"]]
    """Raw score of every part."""
    p_value: Float[Tensor, " b"]
    """Share of real tiles, this one included, that look at most as real."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """Parts with their scores on held-out real tiles.

    Full conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005):
    the parts are standardised by median and absolute deviation of the held-out tiles *and*
    the judged one, so a real tile is exchangeable with them and its p-value is at most alpha
    with probability at most alpha, whatever the distribution and however the parts depend
    on each other.
    """

    parts: Mapping[str, GatePart]
    reference: Float[Tensor, "n p"]
    """Scores of the held-out real tiles, a column a part."""
    false_rejection: float
    """Share of real tiles that may be rejected, over all parts together."""

    def __post_init__(self) -> None:
        """Check that there are enough held-out tiles.

        Raises:
            DataError: they are too few for a share so small.
        """
        needed = math.ceil(1 / self.false_rejection - 1e-9) - 1
        if len(self.reference) < needed:
            raise DataError(
                f"{len(self.reference)} held-out tiles of the generator's classes cannot bound a "
                f"false rejection of {self.false_rejection:.1%}",
                expected=f"at least {needed}",
                remedy="raise search.false_rejection, or hold out more tiles for validation",
            )

    def score(self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]) -> GateScores:
        """Return what every part says, and the joint p-value."""
        parts = {name: part(image, label).cpu() for name, part in self.parts.items()}
        return GateScores(parts=parts, p_value=self.p_value(torch.stack([*parts.values()], 1)))

    def p_value(self, scores: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
        """Return the joint p-value of raw scores."""
        n = len(self.reference)
        together = torch.cat(
            [self.reference.double().expand(len(scores), n, -1), scores.double()[:, None]], dim=1
        )  # b n+1 p
        centre, spread = centre_and_spread(together, 1)
        joint = ((together - centre) / spread).amin(2)  # b n+1
        return (joint <= joint[:, -1:]).double().mean(1).float()

    def joint(self, scores: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
        """Return the worst standardised part, which ranks tiles more finely than the p-value."""
        centre, spread = centre_and_spread(self.reference, 0)
        return ((scores - centre) / spread).amin(1)

    def passes(self, p_value: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Return which tiles the gate lets through."""
        # In whole ranks, because a share such as 3/60 is not exact in binary.
        n = len(self.reference)
        return (p_value * (n + 1)).round() > self.rank

    @property
    def rank(self) -> int:
        """Return how many of the tiles, the judged one included, the gate rejects."""
        return math.floor(self.false_rejection * (len(self.reference) + 1) + 1e-9)

    def describe(self) -> dict[str, Any]:
        """Say what the calibration guarantees, and what so few tiles cannot."""
        n, rank = len(self.reference), self.rank
        return {
            "parts": list(self.parts),
            "held_out_real_tiles": n,
            "joint_false_rejection_at_most": rank / (n + 1),
            "chance_that_more_than_10_percent_are_rejected": float(
                beta.sf(0.10, rank, n - rank + 1)
            ),
            "note": (
                f"On average over draws of the {n} held-out tiles at most {rank / (n + 1):.1%} of "
                "real tiles are rejected; one draw may be worse, as the chance above says. "
                "Mirrored and turned copies would add no information. Nothing is guaranteed for "
                "a single class, nor for tiles from elsewhere."
            ),
        }


def centre_and_spread(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return median and scaled absolute deviation along a dimension, which is kept."""
    centre = scores.quantile(0.5, dim=dim, keepdim=True)
    spread = (scores - centre).abs().quantile(0.5, dim=dim, keepdim=True) * _MAD_TO_DEVIATION
    return centre, spread.clamp_min(1e-9)


@torch.no_grad()
def scores_one_by_one(
    parts: Mapping[str, GatePart],
    source: TileSource,
    *,
    channels: tuple[int, ...],
    classes: tuple[str, ...],
    device: torch.device,
) -> Float[Tensor, "n p"]:
    """Return every part's score of real tiles, each alone, as a stored tile is scored.

    Args:
        parts: by name.
        source: real tiles; those of classes not in `classes` are left out, and counted in the log.
        channels: the source's channels in the order that the parts read.
        classes: the class list that the parts' labels index; classes match by name.
        device: where the parts compute.
    """
    rows = [torch.empty(0, len(parts))]
    left_out: Counter[str] = Counter()
    for index, own in enumerate(source.labels.tolist()):
        name = source.classes[own]
        if name in classes:
            image = source.batch([index]).image[:, list(channels)].to(device)
            label = torch.tensor([classes.index(name)], device=device)
            rows.append(torch.stack([part(image, label).cpu() for part in parts.values()], 1))
        else:
            left_out[name] += 1
    for name, count in left_out.items():
        log.warning("left out: %d held-out tiles of %s, which the generator lacks", count, name)
    return torch.cat(rows)
