"""Runs a network in batches of one fixed size."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor


def in_fixed_batches(
    function: Callable[..., Tensor], size: int, *rows: Shaped[Tensor, "n ..."]
) -> Tensor:
    """Return the results of a function for rows, computed in batches of `size` rows.

    Kernels depend on the batch's shape, so the last batch is filled with copies of its first row:
    the result of a row does not depend on others.

    Args:
        function: of one batch of each of `rows`; returns one row for each.
        size: of every batch.
        rows: at least one row of each.
    """
    answers = []
    for start in range(0, len(rows[0]), size):
        parts = [own[start : start + size] for own in rows]
        lacking = size - len(parts[0])
        filled = [torch.cat([own, own[:1].expand(lacking, *own.shape[1:])]) for own in parts]
        answers.append(function(*filled)[: len(parts[0])])
    return torch.cat(answers)
