"""Distances between sets of generated and real tiles, in a feature space or in pixel space.

Never called FID or KID alone: those names belong to the Inception features of photographs.
Features here are those of the reporter, a network used only for these reports.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.gan.measure import (
    Estimate,
    Weights,
    estimate,
    mean_of,
    spread_of,
    weighted_share_of,
)
from rs_lowconf.measures import SYMMETRIES, turn
from rs_lowconf.types import TileSource

NEIGHBOURS = 5
"""k of the k-th nearest neighbour that bounds a manifold (Naeem et al. 2020, section 4)."""
_HALVES = 20
_BATCH = 32


def poly_kernel(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> Float[Tensor, "n m"]:
    """Return KID's kernel, the cube of 1 + a b' / f (Binkowski et al. 2018).

    As in torchmetrics, whose import would cost every search process four seconds.
    """
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distance(
    measured: Float[Tensor, "n f"],
    reference: Float[Tensor, "m f"],
    own_weights: Weights,
    reference_weights: Weights,
) -> Estimate:
    """Return KID-S2: the unbiased squared MMD with KID's kernel (Binkowski et al. 2018).

    torchmetrics' metric averages it over random subsets of one size for both sets; this is
    the same estimator over all pairs, for sets of any size with a fixed number of tiles per class.
    Unbiased, so it can be negative.
    """
    measured, reference = measured.double(), reference.double()
    among_own = poly_kernel(measured, measured)
    among_reference = poly_kernel(reference, reference)
    between = poly_kernel(measured, reference)

    def distance(a: Float[Tensor, "r n"], b: Float[Tensor, "r m"]) -> Float[Tensor, " r"]:
        cross = ((a @ between) * b).sum(1)
        within_own = _pair_mean(among_own, a, own_weights.label)
        within_reference = _pair_mean(among_reference, b, reference_weights.label)
        return within_own + within_reference - 2 * cross

    return estimate(distance, own_weights, reference_weights, least=-torch.inf)


def _pair_mean(
    kernel: Float[Tensor, "n n"], weight: Float[Tensor, "r n"], label: Int[Tensor, " n"]
) -> Float[Tensor, " r"]:
    """Return the mean of the kernel over pairs of different tiles, weighted by class.

    Pairs of a tile with itself are missing within a class; the others are weighted up for them, or
    two samples with fixed classes would seem closer to each other than they are. A class with a
    single tile has only the pair with itself.
    """
    total = ((weight @ kernel) * weight).sum(1)
    for k in sorted(set(label.tolist())):
        in_class = weight[:, label == k]
        block = kernel[label == k][:, label == k]
        all_pairs = ((in_class @ block) * in_class).sum(1)
        share, selves = in_class.sum(1).square(), in_class.square().sum(1)
        distinct = (all_pairs - in_class.square() @ block.diagonal()) * share / (share - selves)
        total += torch.where(share - selves > 1e-9 * share, distinct, all_pairs) - all_pairs
    return total


def frechet_distance(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"]) -> float:
    """Return the Frechet distance of two Gaussians fitted to features (Dowson, Landau 1982).

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)), and the trace of the root is the sum of
    the singular values of A^(1/2) B^(1/2).
    """
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.svdvals(_root(first) @ _root(second)).sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    return float(gap + first.trace() + second.trace() - 2 * root)


def _root(covariance: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    variance, direction = torch.linalg.eigh(covariance)
    root: Tensor = (direction * variance.clamp_min(0).sqrt()) @ direction.T
    return root


def manifold_figures(
    measured: Float[Tensor, "n f"],
    reference: Float[Tensor, "m f"],
    own_weights: Weights,
    reference_weights: Weights,
) -> dict[str, Estimate]:
    """Return precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem 2020).

    A set's manifold is the union of balls around its tiles, each reaching to the tile's k-th
    neighbour within the set. Precision: share of generated tiles in the real manifold;
    recall: share of real tiles in the generated one; density: real balls around a generated
    tile, over k; coverage: share of real balls with a generated tile inside. Averaged over
    the subsets; the interval is over the tiles measured, with the other set fixed.
    """
    distance = torch.cdist(measured.double(), reference.double())
    real_reach = _reach(torch.cdist(reference.double(), reference.double()))
    inside = distance <= real_reach  # n m
    recalled = torch.zeros(len(reference), dtype=torch.float64)
    covered = torch.zeros(len(reference), dtype=torch.float64)
    for draw in own_weights.draws > 0:
        some = measured[draw].double()
        reach = _reach(torch.cdist(some, some))
        recalled += (distance[draw] <= reach[:, None]).any(0)
        covered += inside[draw].any(0)
    draws = len(own_weights.draws)
    return {
        "precision": weighted_share_of(inside.any(1).double(), own_weights),
        "recall": weighted_share_of(recalled / draws, reference_weights),
        "density": mean_of(inside.double().sum(1) / NEIGHBOURS, own_weights),
        "coverage": weighted_share_of(covered / draws, reference_weights),
    }


def _reach(distance: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Return the distance of each tile to its k-th neighbour, itself not counted."""
    return distance.kthvalue(NEIGHBOURS + 1, dim=1).values


def over_halves(
    figure: Callable[[Float[Tensor, "n f"]], float],
    measured: Float[Tensor, "n f"],
    weights: Weights,
    seed: int,
) -> Estimate:
    """Return a figure's mean and spread over random halves of the subsets."""
    rng = torch.Generator().manual_seed(seed)
    half = weights.n // 2
    values = []
    for i in range(_HALVES):
        tiles = torch.nonzero(weights.draws[i % len(weights.draws)])[:, 0]
        values.append(figure(measured[tiles[torch.randperm(len(tiles), generator=rng)[:half]]]))
    return spread_of(values, half)


def nearest_features(
    turned: list[Float[Tensor, "n f"]], bank: Float[Tensor, "m f"]
) -> Float[Tensor, " n"]:
    """Return the distance to the nearest row of `bank` over all versions of each tile."""
    return torch.stack([torch.cdist(version, bank).amin(1) for version in turned]).amin(0)


def nearest_pixels(
    source: TileSource, bank: TileSource, scale: Float[Tensor, " c"]
) -> Iterator[Float[Tensor, " b"]]:
    """Yield, batch by batch, the distance to the nearest tile of `bank` over the symmetries.

    Args:
        source: the tiles to look up.
        bank: the tiles to look among.
        scale: standard deviation of each band, the unit of differences.

    Yields:
        root mean square differences.
    """

    def flat(tiles: TileSource, first: int) -> Float[Tensor, "b c h w"]:
        indices = range(first, min(first + _BATCH, len(tiles)))
        return tiles.batch(indices).image / scale[:, None, None]

    for first in range(0, len(source), _BATCH):
        image = flat(source, first)
        turned = torch.cat([turn(image, s).flatten(1) for s in range(SYMMETRIES)])
        best = torch.full((len(turned),), torch.inf)
        for start in range(0, len(bank), _BATCH):
            distance = torch.cdist(turned, flat(bank, start).flatten(1))
            best = torch.minimum(best, distance.amin(1))
        yield best.view(SYMMETRIES, -1).amin(0) / image[0].numel() ** 0.5
