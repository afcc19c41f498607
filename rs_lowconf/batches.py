"""Runs networks on batches of one fixed size."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor


def fixed_batches(
    size: int, *rows: Shaped[Tensor, "n ..."]
) -> Iterator[tuple[int, tuple[Shaped[Tensor, "b ..."], ...]]]:
    """Yield batches of exactly `size` rows, each with the number of rows that count.

    Kernels depend on the batch's shape, so a row computed in a batch of 3 differs in its last bits
    from the same row in a batch of 16. The last batch is therefore filled with copies of its first
    row: the result of a row does not depend on others.

    Args:
        size: of every batch.
        rows: one or more tensors with equally many rows.
    """
    for start in range(0, len(rows[0]), size):
        parts = [part[start : start + size] for part in rows]
        count = len(parts[0])
        yield (
            count,
            tuple(
                torch.cat([part, part[:1].expand(size - count, *part.shape[1:])]) for part in parts
            ),
        )


def in_fixed_batches(
    function: Callable[..., Tensor], size: int, *rows: Shaped[Tensor, "n ..."]
) -> Tensor:
    """Return the results of a function for rows, computed in batches of `size` rows.

    Args:
        function: of one batch of each of `rows`; returns one row for each.
        size: of every batch.
        rows: at least one row of each.
    """
    batches = fixed_batches(size, *rows)
    return torch.cat([function(*parts)[:count] for count, parts in batches])
