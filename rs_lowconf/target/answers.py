"""What counts as an answer to a tile. Nothing else gets any further, whatever the kind of target.

A target may return logits, probabilities or one sigmoid per class. Probabilities come in several
number formats: as float32 they sum to 1 within 1e-3, rounded to bfloat16 or to two decimals they
do not, and as per cent they sum to 100.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rs_lowconf.errors import AnswerError

WHOLES = (1.0, 100.0)
"""What the probabilities of a tile may sum to."""

_ROUNDING = 1e-6
_SUM = 1e-3
_MOST = 0.1
"""How far the sum of any probabilities may be off."""
_GRIDS = (100, 255, 256, 1_000, 10_000)
"""Steps from 0 to 1 of rounded probabilities: decimals, or the bytes of quantised models."""


def log_probabilities(
    logits: Float[Tensor, "b k *pixels"], temperature: float
) -> Float[Tensor, "b k *pixels"]:
    """Return the logarithms of the distributions that logits mean.

    Raises:
        AnswerError: of some tiles these are not finite.
    """
    answer = torch.log_softmax(logits / temperature, dim=1)
    require_finite(answer)
    return answer


def require_finite(output: Float[Tensor, "b *rest"], *, remedy: str = "") -> None:
    """Refuse tiles with NaN or infinity in what a network returned for them.

    Raises:
        AnswerError: there are such tiles.
    """
    output = output.detach()
    if not torch.isfinite(output.sum()):  # one pass where all is well
        require(torch.isfinite(output), "the target returns NaN or infinity", remedy=remedy)


def require(
    good: Bool[Tensor, "b *rest"],
    found: str,
    *,
    expected: str = "",
    remedy: str = "",
    reason: str = "",
) -> None:
    """Refuse the tiles of which anything is not good.

    Raises:
        AnswerError: there are such tiles.
    """
    bad = (~good).reshape(len(good), -1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise AnswerError(found, tiles=bad, expected=expected, remedy=remedy, reason=reason)


def are_distributions(
    output: Float[Tensor, "b k *pixels"], whole: float
) -> Bool[Tensor, "b *pixels"]:
    """Return where outputs are the parts of a whole, as exactly as their number format allows."""
    value = output.detach() / whole
    off = (value.sum(dim=1) - 1).abs()
    sums = off <= _SUM
    if not sums.all():
        sums = off <= _slack(value)
    return sums & (value >= -_ROUNDING).all(dim=1)


def are_shares(output: Float[Tensor, "b k *pixels"]) -> Bool[Tensor, "b *pixels"]:
    """Return where all outputs lie in 0 .. 1."""
    return ((output >= -_ROUNDING) & (output <= 1 + _ROUNDING)).all(dim=1)


def logarithm(probability: Float[Tensor, "b k *pixels"]) -> Float[Tensor, "b k *pixels"]:
    """Return logarithms that are finite: a probability of 0 counts as the smallest float."""
    return probability.clamp_min(torch.finfo(torch.float32).tiny).log()


def log_odds_of(share: Float[Tensor, "b k *pixels"]) -> Float[Tensor, "b k *pixels"]:
    """Return log-odds that are finite: 0 and 1 count as half a step of their type away.

    The softmax of such log-odds gives each class the probability that it is the one that is
    present, given that exactly one is.
    """
    least = torch.finfo(share.dtype).eps / 2
    return share.clamp(least, 1 - least).logit()


def _slack(value: Float[Tensor, "b k *pixels"]) -> Float[Tensor, "b *pixels"]:
    """Return how far from 1 probabilities may sum that are as coarse as these."""
    slack = torch.full_like(value.sum(dim=1), _SUM)
    for dtype in (torch.float16, torch.bfloat16):
        coarse = (value == value.to(dtype)).all(dim=1)
        slack = slack.where(~coarse, 2 * torch.finfo(dtype).eps)
    for steps in _GRIDS:
        coarse = ((value * steps - (value * steps).round()).abs() < _SUM).all(dim=1)
        each_half_a_step = min(_MOST, value.shape[1] / 2 / steps) + _ROUNDING
        slack = torch.maximum(slack, each_half_a_step * coarse)
    return slack
