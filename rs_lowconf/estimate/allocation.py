"""How labels are shared out: by what is expected of the errors, and a defensive part by size.

Cells are groups of units that are alike, letter z; a pool is the case of cells of one unit.
"""

import numpy as np
from jaxtyping import Float64, Int

LEAST = 2
"""Labels a stratum: two are needed for a variance."""


def equal_spread(
    g: Float64[np.ndarray, " z"], size: Float64[np.ndarray, " z"], strata: int
) -> Int[np.ndarray, " z"]:
    """Return the stratum of each cell of like units: equal sums of sqrt(g (1 - g)), along g.

    Args:
        g: of the cells, rising.
        size: units of each cell.
        strata: how many there are at most; those that no cell falls in have no units.
    """
    spread = size * spread_of(g)
    if not spread.sum():
        spread = size
    middle = (np.cumsum(spread) - spread / 2) / spread.sum()
    stratum: Int[np.ndarray, " z"] = (middle * strata).astype(np.int64).clip(max=strata - 1)
    return stratum


def uncertain(
    g: Float64[np.ndarray, " z"], size: Float64[np.ndarray, " z"], labels: int, defensive: float
) -> Float64[np.ndarray, " z"]:
    """Return inclusions of a unit of each cell by its spread; all units' sum to the labels."""
    spread, n = spread_of(g), size.sum()
    mean = (size * spread).sum() / n
    share = spread / mean if mean > 0 else np.ones(len(g))
    inclusion: Float64[np.ndarray, " z"] = labels / n * ((1 - defensive) * share + defensive)
    # Who would be in more than once is in for certain, and the others share what is left.
    while (inclusion > 1).any():
        others = inclusion < 1
        inclusion[~others] = 1
        if others.any():
            left = labels - size[~others].sum()
            inclusion[others] *= left / (size * inclusion)[others].sum()
    return inclusion


def mixed(size: Float64[np.ndarray, " n"], defensive: float) -> Float64[np.ndarray, " n"]:
    """Return chances in proportion to `size`, a defensive share of them uniform; they sum to 1."""
    n, total = len(size), size.sum()
    share = size / total if total > 0 else np.full(n, 1 / n)
    chance: Float64[np.ndarray, " n"] = (1 - defensive) * share + defensive / n
    return chance


def expected_ratio(g: Float64[np.ndarray, " n"], chance: Float64[np.ndarray, " n"]) -> float:
    """Return the mean of 1 / (N chance) over units, weighed by g; see `Draw.expected_ratio`."""
    total = g.sum()
    return float((g / chance).sum() / len(g) / total) if total > 0 else 1.0


def ratio_of_cells(
    share: Float64[np.ndarray, " z"], g: Float64[np.ndarray, " z"], defensive: float
) -> Float64[np.ndarray, " z"]:
    """Return 1 / (N chance) in each cell of a share of the pool, chances `mixed` from sqrt(g)."""
    root = np.sqrt(g)
    ratio: Float64[np.ndarray, " z"] = 1 / (
        (1 - defensive) * root / max(float(share @ root), 1e-300) + defensive
    )
    return ratio


def spread_of(g: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the standard deviation sqrt(g (1 - g)) of errors of these probabilities."""
    spread: Float64[np.ndarray, " n"] = np.sqrt(g * (1 - g))
    return spread


def allocate(
    sizes: Int[np.ndarray, " h"],
    spread: Float64[np.ndarray, " h"],
    labels: int,
    defensive: float,
) -> Int[np.ndarray, " h"]:
    """Return how many labels each stratum gets: Neyman's, and a defensive share by size.

    Neyman, "On the two different aspects of the representative method", 1934, section II. At
    least two labels a stratum and never more than it has units.

    Args:
        sizes: units of each stratum, none empty.
        spread: expected standard deviation of the error within each.
        labels: of all strata.
        defensive: share allocated in proportion to the sizes.
    """
    share = mixed(sizes * spread, 0.0) * (1 - defensive) + defensive * sizes / sizes.sum()
    least = np.minimum(sizes, LEAST)
    wanted = np.clip(labels * share, least, sizes)
    # What the bounds took or gave is shared by the strata that are not at a bound.
    for _ in range(len(sizes)):
        rest = labels - wanted.sum()
        free = (wanted < sizes) if rest > 0 else (wanted > least)
        if abs(rest) < 1e-9 or not free.any():
            break
        wanted[free] = wanted[free] + rest * share[free] / share[free].sum()
        wanted = np.clip(wanted, least, sizes)
    counts: Int[np.ndarray, " h"] = np.floor(wanted + 1e-9).astype(np.int64)
    while counts.sum() < labels:
        # Largest remainders; a stratum that is full is passed over.
        remainder = np.where(counts < sizes, wanted - counts, -np.inf)
        counts[np.argmax(remainder)] += 1
    return counts
