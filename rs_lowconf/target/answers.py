"""Checks the outputs of a target, whatever its kind; anything invalid is rejected here.

A target may return logits, probabilities or one sigmoid per class. Probabilities come in several
number formats: as float32 they sum to 1 within 1e-3, rounded to bfloat16 or to two decimals they do
not, and as percentages they sum to 100.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rs_lowconf.errors import AnswerError

WHOLES = (1.0, 100.0)
"""Permitted sums of the probabilities of a tile."""

_ROUNDING = 1e-6
_SUM = 1e-3
_MOST = 0.1
"""Largest deviation of a sum of probabilities."""
_GRIDS = (100, 255, 256, 1_000, 10_000)
"""Steps between 0 and 1 of rounded probabilities: decimals, or bytes of quantised models."""


def log_probabilities(
    logits: Float[Tensor, "b k *pixels"], temperature: float
) -> Float[Tensor, "b k *pixels"]:
    """Return the log-probabilities of logits.

    Raises:
        AnswerError: they are not finite for some tiles.
    """
    answer = torch.log_softmax(logits / temperature, dim=1)
    require_finite(answer)
    return answer


def require_finite(output: Float[Tensor, "b *rest"], *, remedy: str = "") -> None:
    """Reject tiles with NaN or infinity in the output of a network.

    Raises:
        AnswerError: there are such tiles.
    """
    output = output.detach()
    if not torch.isfinite(output.sum()):  # a single pass if all are finite
        require(torch.isfinite(output), "the target returns NaN or infinity", remedy=remedy)


def require(
    good: Bool[Tensor, "b *rest"],
    found: str,
    *,
    expected: str = "",
    remedy: str = "",
    reason: str = "",
) -> None:
    """Reject the tiles with any invalid value.

    Raises:
        AnswerError: there are such tiles.
    """
    bad = (~good).reshape(len(good), -1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise AnswerError(found, tiles=bad, expected=expected, remedy=remedy, reason=reason)


def are_distributions(
    output: Float[Tensor, "b k *pixels"], whole: float
) -> Bool[Tensor, "b *pixels"]:
    """Return where outputs are distributions, within the precision of their number format."""
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
    """Return how far from 1 the sum of such coarse probabilities may be."""
    slack = torch.full_like(value.sum(dim=1), _SUM)
    for dtype in (torch.float16, torch.bfloat16):
        coarse = (value == value.to(dtype)).all(dim=1)
        slack = slack.where(~coarse, 2 * torch.finfo(dtype).eps)
    for steps in _GRIDS:
        coarse = ((value * steps - (value * steps).round()).abs() < _SUM).all(dim=1)
        each_half_a_step = min(_MOST, value.shape[1] / 2 / steps) + _ROUNDING
        slack = torch.maximum(slack, each_half_a_step * coarse)
    return slack
