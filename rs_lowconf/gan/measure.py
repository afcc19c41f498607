"""Figures with their uncertainty: how many tiles, a 95 % interval, and the real-vs-real floor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.seeds import seed_of

_DRAWS = 20
_RESAMPLES = 1_000

Distance = Callable[[Float[Tensor, "r n"], Float[Tensor, "r m"]], Float[Tensor, " r"]]
"""From weights over two sets of tiles, row by row, to one number per row."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Tiles it is measured on."""

    def to_json(self) -> dict[str, Any]:
        """Return values for the JSON report."""
        return {"value": self.value, "interval_95": [self.low, self.high], "tiles": self.n}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the report."""

    name: str
    measured: Estimate | None = None
    """Of generated tiles; None if the figure is not computed, for the reason in `note`."""
    floor: Estimate | None = None
    """The same figure of real tiles instead of generated ones; None if that makes no sense."""
    better: Literal["lower", "higher", "like the floor"] = "lower"
    note: str = ""
    control: bool = False
    """Whether it is of tiles made for comparison, not of generated ones."""

    def to_json(self) -> dict[str, Any]:
        """Return values for the JSON report."""
        return {
            "name": self.name,
            "measured": self.measured and self.measured.to_json(),
            "floor": self.floor and self.floor.to_json(),
            "better": self.better,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """Weights for the tiles of one set; in each row all classes weigh the same, 1 in total."""

    draws: Float[Tensor, "r n"]
    """Subsets with the requested number of tiles per class."""
    resamples: Float[Tensor, "s n"]
    """Bootstrap resamples of such subsets, class by class."""
    label: Int[Tensor, " n"]
    """Class of every tile."""
    n: int
    """Tiles in each subset."""

    def count(self, some: Bool[Tensor, " n"]) -> int:
        """Return how many of `some` tiles each subset holds, when they are whole classes."""
        return int((self.draws[0, some] > 0).sum())


def matched_counts(*labels: Int[Tensor, " _"], classes: int) -> Int[Tensor, " k"]:
    """Return, per class, the number of tiles in the smallest of several sets."""
    return torch.stack([torch.bincount(label, minlength=classes) for label in labels]).amin(0)


def weigh(label: Int[Tensor, " n"], counts: Int[Tensor, " k"], seed: int) -> Weights:
    """Return subsets with `counts` tiles per class, and bootstrap resamples of them.

    Classes weigh the same whatever their number of tiles; otherwise sets would differ by their
    class shares.

    Args:
        label: class of every tile of the set.
        counts: tiles wanted of each class, at most what there are.
        seed: of subsets and resamples.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "weights"))
    held = int((counts > 0).sum())
    members = [torch.nonzero(label == k)[:, 0] for k in range(len(counts))]
    whole = all(len(a) == int(n) for a, n in zip(members, counts, strict=True))
    draws = torch.zeros(1 if whole else _DRAWS, len(label), dtype=torch.float64)
    resamples = torch.zeros(_RESAMPLES, len(label), dtype=torch.float64)
    for tiles, wanted in zip(members, counts.tolist(), strict=True):
        if wanted == 0:
            continue
        subsets = torch.stack(
            [tiles[torch.randperm(len(tiles), generator=rng)[:wanted]] for _ in draws]
        )
        share = 1 / (held * wanted)
        draws.scatter_(1, subsets, share)
        again = torch.randint(wanted, (_RESAMPLES, wanted), generator=rng)
        chosen = subsets[torch.arange(_RESAMPLES) % len(draws)].gather(1, again)
        each = torch.full(chosen.shape, share, dtype=torch.float64)
        resamples.scatter_add_(1, chosen, each)
    return Weights(draws=draws, resamples=resamples, label=label, n=int(counts.sum()))


def estimate(
    distance: Distance, measured: Weights, reference: Weights, *, least: float = 0.0
) -> Estimate:
    """Return the mean distance of the subsets, with a bootstrap interval over tiles of both sets.

    A resample is further from the truth than the sample is, so distances of resamples are
    too large on average; the interval is corrected for that shift (Efron and Tibshirani, "An
    introduction to the bootstrap", 1993, section 10.2).

    Args:
        distance: the figure as a function of weights.
        measured: weights of the set that is measured.
        reference: of the set it is compared with.
        least: the smallest value that the figure can have.
    """
    whole = reference.draws[:1].expand(len(measured.draws), -1)
    value = distance(measured.draws, whole).mean()
    again = distance(measured.resamples, reference.resamples)
    low, high = torch.quantile(again, torch.tensor([0.025, 0.975], dtype=again.dtype)) - (
        again.mean() - value
    )
    return Estimate(value=float(value), low=max(float(low), least), high=float(high), n=measured.n)


def mean_of(values: Float[Tensor, " n"], weights: Weights) -> Estimate:
    """Return the mean of one number per tile, with its bootstrap interval over tiles."""
    values = values.double()
    return estimate(lambda a, _: a @ values, weights, weights, least=-torch.inf)


def share_of(flags: Bool[Tensor, " n"]) -> Estimate:
    """Return the share of tiles with its Wilson interval."""
    return _wilson(float(flags.double().mean()), len(flags))


def weighted_share_of(shares: Float[Tensor, " n"], weights: Weights) -> Estimate:
    """Return the mean of one share per tile with the Wilson interval of as many yes or no.

    A bootstrap would give no interval at all where every tile has the same share. Shares
    between 0 and 1 vary less than yes or no, so the interval is rather too wide.
    """
    share = float((weights.draws @ shares.double()).mean())
    return _wilson(min(share, 1.0), weights.n)  # weights sum to 1 only up to rounding


def _wilson(share: float, n: int) -> Estimate:
    """Return a share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Estimate(value=share, low=max(middle - reach, 0.0), high=min(middle + reach, 1.0), n=n)


def ratio_of(above: Bool[Tensor, " n"], below: Bool[Tensor, " n"], seed: int) -> Estimate | None:
    """Return the ratio of two shares over the same tiles, with a paired bootstrap interval.

    None if the denominator is 0, in the sample or a resample.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "ratio"))
    n = len(above)
    again = torch.randint(n, (_RESAMPLES, n), generator=rng)
    bottom = below[again].double().mean(1)
    if bottom.min() == 0:
        return None
    ratios = above[again].double().mean(1) / bottom
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return Estimate(
        value=float(above.double().mean() / below.double().mean()), low=low, high=high, n=n
    )


def repeated_share(right: Bool[Tensor, "s n"], seed: int) -> Estimate:
    """Return the mean accuracy of several trainings, with an interval over tiles and trainings."""
    values = _resampled(right, seed_of(seed, "trainings"), _tiles_again(right.shape[1], seed))
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Estimate(value=float(right.double().mean()), low=low, high=high, n=right.shape[1])


def repeated_ratio(
    above: Bool[Tensor, "s n"], below: Bool[Tensor, "r n"], seed: int
) -> Estimate | None:
    """Return the ratio of two mean accuracies over the same tiles, with a bootstrap interval.

    Tiles are resampled jointly, trainings separately: another run of either would start from other
    weights. None if the denominator is 0, in the sample or a resample.
    """
    again = _tiles_again(above.shape[1], seed)
    top = _resampled(above, seed_of(seed, "above"), again)
    bottom = _resampled(below, seed_of(seed, "below"), again)
    if bottom.min() == 0:
        return None
    ratios = top / bottom
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    value = float(above.double().mean() / below.double().mean())
    return Estimate(value=value, low=low, high=high, n=above.shape[1])


def _tiles_again(n: int, seed: int) -> Int[Tensor, "r n"]:
    rng = torch.Generator().manual_seed(seed_of(seed, "tiles"))
    return torch.randint(n, (_RESAMPLES, n), generator=rng)


def _resampled(
    right: Bool[Tensor, "s n"], seed: int, again: Int[Tensor, "r n"]
) -> Float[Tensor, " r"]:
    """Return the accuracy in resamples of trainings and tiles."""
    rng = torch.Generator().manual_seed(seed)
    trainings = torch.randint(len(right), (len(again), len(right)), generator=rng)
    by_training = torch.stack([row[again].double().mean(1) for row in right], 1)  # r s
    return by_training.gather(1, trainings).mean(1)


def spread_of(values: Sequence[float], n: int) -> Estimate:
    """Return the mean of a figure over half-samples, with 1.96 standard deviations each way.

    The variance over random halves without repetition is that of the whole sample's figure
    (Shao and Wu, "A general theory for jackknife variance estimation", 1989): for figures
    that a bootstrap's repeated tiles would distort.

    Args:
        values: the figure of each half.
        n: tiles in each half.
    """
    each = torch.tensor(list(values), dtype=torch.float64)
    value, reach = float(each.mean()), 1.96 * float(each.std())
    return Estimate(value=value, low=value - reach, high=value + reach, n=n)
