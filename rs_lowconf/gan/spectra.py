"""Spectra, band statistics, indices and texture of generated tiles, against real ones.

Everything is measured once per tile; a figure is a function of the weighted mean over tiles,
so that subsets and bootstrap resamples cost a matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.measure import Estimate, Weights, estimate
from rs_lowconf.measures import radial_power
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

#: (a - b) / (a + b): Rouse et al. 1974, McFeeters 1996, Zha et al. 2003.
INDICES = {"NDVI": ("B08", "B04"), "NDWI": ("B03", "B08"), "NDBI": ("B11", "B08")}
GRID = torch.linspace(-1, 1, 801, dtype=torch.float64)
"""Where the distribution functions of indices are sampled."""
PIXELS = 20
"""Pixels of a tile that are compared with the spectra of others."""
_BANK = 4_000
_BATCH = 64
#: One digital number: darker pixels have no spectral shape.
_DARKEST = 1e-4
#: The range of the real training pixels is widened by this share on both sides.
_WIDENED = 0.05

Statistic = Callable[[Float[Tensor, "r s"], Float[Tensor, "r s"]], Float[Tensor, " r"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """Range of reflectance of real training tiles, per band."""

    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TileSpectra:
    """Measurements of every tile of a source, in float64."""

    mean: Float[Tensor, "n c"]
    """Mean reflectance."""
    second: Float[Tensor, "n c c"]
    """Mean product of the reflectance of two bands."""
    power: Float[Tensor, "n c r"]
    """Mean power in rings of whole cycles per tile, from 1 to half the side."""
    indices: dict[str, Float[Tensor, "n g"]]
    """Share of pixels with an index of at most the values of `GRID`."""
    impossible: Float[Tensor, " n"]
    """Share of pixels outside the limits in any band."""
    negative: Float[Tensor, " n"]
    """Share of pixels with negative reflectance in any band."""
    pixels: Float[Tensor, "n p c"]
    """Random pixels."""
    labels: Int[Tensor, " n"]


def limits_of(source: TileSource) -> Limits:
    """Return the range of every band, widened a little."""
    low, high = [], []
    for first in range(0, len(source), _BATCH):
        image = source.batch(range(first, min(first + _BATCH, len(source)))).image
        low.append(image.amin((0, 2, 3)))
        high.append(image.amax((0, 2, 3)))
    least, most = torch.stack(low).amin(0), torch.stack(high).amax(0)
    beyond = _WIDENED * (most - least)
    return Limits(low=least - beyond, high=most + beyond)


def band_deviations(source: TileSource) -> Float[Tensor, " c"]:
    """Return the deviation of every band over all pixels."""
    total, square = torch.zeros(2, len(source.bands), dtype=torch.float64)
    count = 0
    for first in range(0, len(source), _BATCH):
        image = source.batch(range(first, min(first + _BATCH, len(source)))).image.double()
        total += image.sum((0, 2, 3))
        square += image.square().sum((0, 2, 3))
        count += image[:, 0].numel()
    mean = total / count
    deviation: Tensor = (square / count - mean.square()).clamp_min(1e-12).sqrt()
    return deviation.float()


def tile_spectra(source: TileSource, limits: Limits, seed: int) -> TileSpectra:
    """Measure every tile of a source; `seed` chooses the pixels."""
    rng = torch.Generator().manual_seed(seed_of(seed, "pixels"))
    parts: dict[str, list[Tensor]] = {}
    index_parts: dict[str, list[Tensor]] = {name: [] for name in known_indices(source.bands)}
    low, high = limits.low[:, None, None], limits.high[:, None, None]
    for first in range(0, len(source), _BATCH):
        image = source.batch(range(first, min(first + _BATCH, len(source)))).image
        flat = image.double().flatten(2)  # b c hw
        place = torch.randint(flat.shape[2], (len(flat), 1, PIXELS), generator=rng)
        outside = ((image < low) | (image > high)).any(1)
        measured = {
            "mean": flat.mean(2),
            "second": flat @ flat.mT / flat.shape[2],
            "power": radial_power(image),
            "impossible": outside.double().mean((1, 2)),
            "negative": (image < 0).any(1).double().mean((1, 2)),
            "pixels": flat.gather(2, place.expand(-1, flat.shape[1], -1)).mT,
        }
        for name, value in measured.items():
            parts.setdefault(name, []).append(value)
        for name, distributions in index_parts.items():
            distributions.append(_distribution(index_of(flat, source.bands, name)))
    return TileSpectra(
        **{name: torch.cat(values) for name, values in parts.items()},
        indices={name: torch.cat(values) for name, values in index_parts.items()},
        labels=source.labels,
    )


def known_indices(bands: BandSpec) -> tuple[str, ...]:
    """Return the indices whose bands are there."""
    return tuple(name for name, pair in INDICES.items() if set(pair) <= set(bands.names))


def index_of(pixels: Float[Tensor, "n c p"], bands: BandSpec, name: str) -> Float[Tensor, "n p"]:
    """Return a normalised difference, -1 .. 1; black pixels count as 0."""
    a, b = (pixels[:, i] for i in bands.index_of(INDICES[name]))
    total = a + b
    return torch.where(total > _DARKEST, (a - b) / total.clamp_min(_DARKEST), 0.0).clamp(-1, 1)


def _distribution(values: Float[Tensor, "n p"]) -> Float[Tensor, "n g"]:
    ordered = values.sort(1).values.contiguous()
    grid = GRID.expand(len(values), -1).contiguous()
    return torch.searchsorted(ordered, grid, right=True).double() / values.shape[1]


def spectral_angle(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> Float[Tensor, "n m"]:
    """Return the angle between spectra in degrees (Kruse et al. 1993); brightness is ignored."""
    unit_a = torch.nn.functional.normalize(a.double(), dim=1)
    unit_b = torch.nn.functional.normalize(b.double(), dim=1)
    return (unit_a @ unit_b.T).clamp(-1, 1).arccos().rad2deg()


def spectral_divergence(a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> Float[Tensor, "n m"]:
    """Return the spectral information divergence in nats (Chang 2000, eq. 12).

    Spectra divided by their sums are taken as distributions over bands, p and q; the
    divergence is sum (p - q) (log p - log q). Reflectance below one digital number counts
    as one.
    """
    p, q = _as_distribution(a), _as_distribution(b)
    log_p, log_q = p.log(), q.log()
    entropies = (p * log_p).sum(1)[:, None] + (q * log_q).sum(1)
    return (entropies - p @ log_q.T - log_p @ q.T).clamp_min(0)


def _as_distribution(spectra: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    positive = spectra.double().clamp_min(_DARKEST)
    return positive / positive.sum(1, keepdim=True)


def nearest_spectra(
    tiles: TileSpectra, bank: TileSpectra, seed: int
) -> dict[str, Float[Tensor, " n"]]:
    """Return each tile's mean angle and divergence to the nearest spectra of its class.

    Args:
        tiles: whose pixels are looked up.
        bank: the tiles whose pixels are looked among, a few thousand per class.
        seed: chooses them.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "bank"))
    angle, divergence = torch.zeros(2, len(tiles.labels), dtype=torch.float64)
    for k in sorted(set(tiles.labels.tolist())):
        known = bank.pixels[bank.labels == k].flatten(0, 1)
        known = known[torch.randperm(len(known), generator=rng)[:_BANK]]
        for part in torch.split(torch.nonzero(tiles.labels == k)[:, 0], _BATCH):
            pixels = tiles.pixels[part].flatten(0, 1)
            shape = (len(part), PIXELS)
            angle[part] = spectral_angle(pixels, known).amin(1).view(shape).mean(1)
            divergence[part] = spectral_divergence(pixels, known).amin(1).view(shape).mean(1)
    return {"angle": angle, "divergence": divergence}


def compare(
    statistic: Statistic,
    measured: Float[Tensor, "n s"],
    reference: Float[Tensor, "m s"],
    weights: tuple[Weights, Weights],
) -> Estimate:
    """Return a function of the mean statistic of both sets, with its bootstrap interval."""
    return estimate(lambda a, b: statistic(a @ measured, b @ reference), *weights)


def mean_error(bands: int) -> Statistic:
    """Mean over bands of the absolute difference of means, in deviations of the reference."""

    def error(a: Float[Tensor, "r s"], b: Float[Tensor, "r s"]) -> Float[Tensor, " r"]:
        (mean, _), (wanted, covariance) = (
            mean_and_covariance(a, bands),
            mean_and_covariance(b, bands),
        )
        return ((mean - wanted).abs() / deviation_of(covariance)).mean(1)

    return error


def deviation_error(bands: int) -> Statistic:
    """Mean over bands of the absolute log ratio of the pixels' deviations."""

    def error(a: Float[Tensor, "r s"], b: Float[Tensor, "r s"]) -> Float[Tensor, " r"]:
        measured, wanted = (deviation_of(mean_and_covariance(each, bands)[1]) for each in (a, b))
        return (measured / wanted).log().abs().mean(1)

    return error


def correlation_error(bands: int) -> Statistic:
    """Root mean square difference of the band correlations of all pixels."""

    def error(a: Float[Tensor, "r s"], b: Float[Tensor, "r s"]) -> Float[Tensor, " r"]:
        measured, wanted = (_correlation(mean_and_covariance(each, bands)[1]) for each in (a, b))
        return (measured - wanted).square().mean((1, 2)).sqrt()

    return error


def wasserstein(a: Float[Tensor, "r g"], b: Float[Tensor, "r g"]) -> Float[Tensor, " r"]:
    """Return the Wasserstein-1 distance of distribution functions sampled on `GRID`."""
    gap = (a - b).abs()
    return (gap[:, 1:] + gap[:, :-1]).sum(1) / 2 * (GRID[1] - GRID[0])


def log_ratio(a: Float[Tensor, "r s"], b: Float[Tensor, "r s"]) -> Float[Tensor, "r s"]:
    """Return the logarithm of the ratio of powers."""
    return (a.clamp_min(1e-14) / b.clamp_min(1e-14)).log()


def power_error(a: Float[Tensor, "r s"], b: Float[Tensor, "r s"]) -> Float[Tensor, " r"]:
    """Return the mean |log ratio| of powers over bands and rings."""
    return log_ratio(a, b).abs().mean(1)


def moments(spectra: TileSpectra) -> Float[Tensor, "n s"]:
    """Return the moments that determine errors of means, deviations and correlations."""
    return torch.cat([spectra.mean, spectra.second.flatten(1)], dim=1)


def class_divergences(
    measured: TileSpectra,
    reference: TileSpectra,
    labels: Sequence[int],
    own_weight: Float[Tensor, "r n"],
    reference_weight: Float[Tensor, "r m"],
) -> Float[Tensor, "r k"]:
    """Return the divergence of the mean spectra of some classes, for rows of weights."""
    columns = []
    for k in labels:
        p = _as_distribution(_class_mean(own_weight, measured.mean, measured.labels == k))
        q = _as_distribution(_class_mean(reference_weight, reference.mean, reference.labels == k))
        columns.append(((p - q) * (p.log() - q.log())).sum(1))
    return torch.stack(columns, dim=1)


def class_mean(
    values: Float[Tensor, " n"], members: Bool[Tensor, " n"], weights: Weights
) -> Estimate:
    """Return the mean of one number per tile over one class, with its bootstrap interval."""
    column = values.double()[:, None]
    found = estimate(lambda a, _: _class_mean(a, column, members)[:, 0], weights, weights)
    return replace(found, n=weights.count(members))


def _class_mean(
    weight: Float[Tensor, "r n"], values: Float[Tensor, "n s"], members: Bool[Tensor, " n"]
) -> Float[Tensor, "r s"]:
    return weight[:, members] @ values[members] / weight[:, members].sum(1, keepdim=True)


def mean_and_covariance(
    values: Float[Tensor, "r s"], bands: int
) -> tuple[Float[Tensor, "r c"], Float[Tensor, "r c c"]]:
    """Split what `moments` joined, after averaging."""
    mean, second = values[:, :bands], values[:, bands:].reshape(-1, bands, bands)
    return mean, second - mean[:, :, None] * mean[:, None, :]


def deviation_of(covariance: Float[Tensor, "r c c"]) -> Float[Tensor, "r c"]:
    """Return the bands' deviations; a constant band has a hundredth of a digital number."""
    return covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()


def _correlation(covariance: Float[Tensor, "r c c"]) -> Float[Tensor, "r c c"]:
    deviation = deviation_of(covariance)
    return covariance / (deviation[:, :, None] * deviation[:, None, :])
