"""What a search reads from a target's answer: its confidence in a tile, and its prediction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from rs_lowconf.errors import SettingsError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.vocabulary import class_list, require


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """A target's answers to tiles, one row per tile."""

    log_probability: Float[Tensor, "b k"]
    """Log-probabilities of the classes; of their mean for a target that predicts a class per
    pixel."""
    confidence: Float[Tensor, " b"]
    """Mean of the largest probability over the pixels that are read; a class for the whole tile
    counts as one pixel."""
    log_odds: Float[Tensor, " b"]
    """Logarithm of confidence / (1 - confidence), finite where confidence rounds to 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """Over which pixels the confidence of a target is read."""

    share: float = 0.2
    """Share of a tile's pixels, those of lowest confidence, that is read, in 0 .. 1; at least one
    pixel. Small enough that a confident background does not hide an uncertain area, and large
    enough that a single edge pixel is not a find."""
    regions: Bool[Tensor, "n h w"] | None = None
    """Pixels that count, one map per label; None for all. An empty map counts as all."""

    def __call__(
        self, log_probability: Float[Tensor, "b k *pixels"], label: Int[Tensor, " b"]
    ) -> Answer:
        """Read answers.

        Args:
            log_probability: of the target, one distribution per tile or per pixel.
            label: the condition of each tile, which selects its region.
        """
        if log_probability.ndim == 2:
            return Answer(
                log_probability=log_probability,
                confidence=log_probability.max(dim=1).values.exp(),
                log_odds=log_odds(log_probability),
            )
        inside = self._inside(log_probability, label)  # b n
        pixels = log_probability.flatten(2)  # b k n
        mean = pixels.masked_fill(~inside[:, None], -math.inf).logsumexp(2)
        odds = log_odds(pixels)  # b n
        sure = pixels.max(dim=1).values
        order = odds.detach().masked_fill(~inside, math.inf).argsort(dim=1, stable=True)
        count = (self.share * inside.sum(1)).ceil().clamp_min(1).long()
        place = torch.arange(order.shape[1], device=order.device)
        chosen = torch.zeros_like(inside).scatter(1, order, place < count[:, None])
        size = count.log()
        yes = sure.masked_fill(~chosen, -math.inf).logsumexp(1) - size
        no = (sure - odds).masked_fill(~chosen, -math.inf).logsumexp(1) - size
        return Answer(
            log_probability=mean - inside.sum(1).log()[:, None],
            confidence=yes.exp(),
            log_odds=yes - no,
        )

    def _inside(
        self, log_probability: Float[Tensor, "b k h w"], label: Int[Tensor, " b"]
    ) -> Bool[Tensor, "b n"]:
        if self.regions is None:
            shape = (len(label), math.prod(log_probability.shape[2:]))
            return torch.ones(shape, dtype=torch.bool, device=log_probability.device)
        inside = self.regions.to(log_probability.device)[label].flatten(1)
        return inside | ~inside.any(1, keepdim=True)


def log_odds(log_probability: Float[Tensor, "b k *n"]) -> Float[Tensor, "b *n"]:
    """Return the logarithm of p / (1 - p) for the largest probability p.

    Down to p = 1/2 the margin between the two largest logits would serve as well; for less, more
    than two classes have to compete, and these odds have to fall.
    """
    ordered = log_probability.sort(dim=1, descending=True).values
    odds: Tensor = ordered[:, 0] - ordered[:, 1:].logsumexp(1)
    return odds


def regions_of(
    masks: Integer[Tensor, "n h w"], classes: Sequence[str], region: str | None
) -> Bool[Tensor, "n h w"]:
    """Return the pixels of each mask over which a target's confidence counts.

    Args:
        masks: class index of each pixel, or `UNKNOWN`.
        classes: of pixels.
        region: the class whose pixels count; all known ones when missing.

    Raises:
        SettingsError: there is no such class.
    """
    if region is None:
        return masks != UNKNOWN
    (place,) = require(
        class_list("search.region", [region], error=SettingsError),
        class_list("the masks", classes, error=SettingsError),
        remedy="correct it",
        error=SettingsError,
    )
    return masks == place
