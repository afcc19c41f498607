"""The part of the quality table on spectra, bands and texture."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.gan.measure import Estimate, Measurement, Weights, estimate, mean_of, weigh
from rs_lowconf.gan.quality import Sets, TileSet
from rs_lowconf.gan.spectra import (
    INDICES,
    Statistic,
    TileSpectra,
    class_divergences,
    class_mean,
    compare,
    correlation_error,
    deviation_error,
    deviation_of,
    known_indices,
    log_ratio,
    mean_and_covariance,
    mean_error,
    moments,
    nearest_spectra,
    power_error,
    wasserstein,
)
from rs_lowconf.seeds import seed_of

_Part = Callable[[TileSpectra], Float[Tensor, "n s"]]


def spectral_figures(sets: Sets) -> tuple[list[Measurement], dict[str, Any]]:
    """Return the figures over all tiles, and those of single classes and bands as JSON values."""
    nearest = {
        name: nearest_spectra(tiles.spectra, sets.train.spectra, seed_of(sets.seed, name))
        for name, tiles in (("generated", sets.generated), ("test", sets.test))
    }
    details = {"by_class": _by_class(sets, nearest), "by_band": _by_band(sets)}
    return [
        *_nearest_figures(sets, nearest),
        _class_mean_figure(sets),
        *_band_figures(sets),
        *_index_figures(sets),
        *_range_figures(sets),
    ], details


def _all_generated(sets: Sets) -> Weights:
    label = sets.generated.labels
    counts = torch.bincount(label, minlength=len(sets.classes))
    return weigh(label, counts, seed_of(sets.seed, "all generated"))


def _nearest_figures(
    sets: Sets, nearest: dict[str, dict[str, Float[Tensor, " _"]]]
) -> list[Measurement]:
    return [
        Measurement(
            name=f"{title} to the nearest real spectrum",
            measured=mean_of(nearest["generated"][key], _all_generated(sets)),
            floor=mean_of(nearest["test"][key], sets.test.weights),
            better="like the floor",
            note=f"{unit}, among training pixels of the class; the floor is of test pixels",
        )
        for title, key, unit in (("SAM", "angle", "degrees"), ("SID", "divergence", "nats"))
    ]


def _class_mean_figure(sets: Sets) -> Measurement:
    every = range(len(sets.classes))
    return Measurement(
        name="SID of class means",
        measured=_class_means(sets.generated, sets.test, every),
        floor=_class_means(sets.train, sets.test, every),
        note="nats, mean over classes; 0.026 in the best classes of Dedring and Rienow 2024",
    )


def _band_figures(sets: Sets) -> list[Measurement]:
    c = len(sets.bands)
    return [
        _against(sets, name, part, statistic, note)
        for name, part, statistic, note in (
            (
                "band means",
                moments,
                mean_error(c),
                "mean absolute error in deviations of real pixels",
            ),
            ("band deviations", moments, deviation_error(c), "mean absolute log ratio"),
            ("band correlations", moments, correlation_error(c), "root mean square error"),
            ("radial power", _power, power_error, "mean absolute log ratio over bands and rings"),
        )
    ]


def _power(spectra: TileSpectra) -> Float[Tensor, "n s"]:
    return spectra.power.flatten(1)


def _index_figures(sets: Sets) -> list[Measurement]:
    known = known_indices(sets.bands)
    found = []
    for name, pair in INDICES.items():
        title = f"{name} distance"
        if name in known:
            note = "Wasserstein-1 of the pixels' values"
            found.append(_against(sets, title, partial(_index, name=name), wasserstein, note))
        else:
            found.append(
                Measurement(name=title, note=f"left out: needs the bands {' and '.join(pair)}")
            )
    return found


def _index(spectra: TileSpectra, name: str) -> Float[Tensor, "n g"]:
    return spectra.indices[name]


def _range_figures(sets: Sets) -> list[Measurement]:
    return [
        Measurement(
            name=f"{key} pixels",
            measured=mean_of(getattr(sets.generated.spectra, key), _all_generated(sets)),
            floor=mean_of(getattr(sets.test.spectra, key), sets.test.weights),
            note=note,
        )
        for key, note in (
            ("impossible", "share outside the training range, widened by 5 %, in any band"),
            ("negative", "share with negative reflectance in any band"),
        )
    ]


def _against(sets: Sets, name: str, part: _Part, statistic: Statistic, note: str) -> Measurement:
    """Compare a part of the spectra of generated and of training tiles with the test tiles'."""
    measured, floor = (
        compare(
            statistic, part(compared.spectra), part(sets.test.spectra), _pair(compared, sets.test)
        )
        for compared in (sets.generated, sets.train)
    )
    return Measurement(name=name, measured=measured, floor=floor, note=note)


def _pair(compared: TileSet, reference: TileSet) -> tuple[Weights, Weights]:
    return compared.weights, reference.weights


def _class_means(compared: TileSet, reference: TileSet, labels: Sequence[int]) -> Estimate:
    """Return the mean divergence of the mean spectra of some classes."""

    def distance(a: Float[Tensor, "r n"], b: Float[Tensor, "r m"]) -> Float[Tensor, " r"]:
        return class_divergences(compared.spectra, reference.spectra, labels, a, b).mean(1)

    held = torch.isin(compared.labels, torch.tensor(labels))
    return replace(estimate(distance, *_pair(compared, reference)), n=compared.weights.count(held))


def _by_class(sets: Sets, nearest: dict[str, dict[str, Float[Tensor, " _"]]]) -> dict[str, Any]:
    """Return angle and divergence of single classes, generated ones and their floor."""
    everything = _all_generated(sets)
    found: dict[str, Any] = {}
    for k, name in enumerate(sets.classes):
        ours, theirs = sets.generated.labels == k, sets.test.labels == k
        figures: dict[str, tuple[Estimate, Estimate]] = {
            title: (
                class_mean(nearest["generated"][key], ours, everything),
                class_mean(nearest["test"][key], theirs, sets.test.weights),
            )
            for title, key in (("SAM", "angle"), ("SID", "divergence"))
        }
        figures["SID of class means"] = (
            _class_means(sets.generated, sets.test, [k]),
            _class_means(sets.train, sets.test, [k]),
        )
        found[name] = {
            title: {"measured": a.to_json(), "floor": b.to_json()}
            for title, (a, b) in figures.items()
        }
    return found


def _by_band(sets: Sets) -> dict[str, Any]:
    """Return error of the mean, ratio of deviations and log ratio of power, band by band."""
    wanted, deviation = _mean_and_deviation(sets.test)
    found: dict[str, Any] = {name: {} for name in sets.bands.names}
    for title, tiles in (("measured", sets.generated), ("floor", sets.train)):
        mean, spread = _mean_and_deviation(tiles)
        ratio = log_ratio(mean_power(tiles), mean_power(sets.test))
        for i, name in enumerate(sets.bands.names):
            found[name][title] = {
                "mean_error": float((mean[i] - wanted[i]) / deviation[i]),
                "deviation_ratio": float(spread[i] / deviation[i]),
                "power_log_ratio": ratio[i].tolist(),
            }
    return found


def _mean_and_deviation(tiles: TileSet) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    average = (tiles.weights.draws @ moments(tiles.spectra)).mean(0, keepdim=True)
    mean, covariance = mean_and_covariance(average, tiles.spectra.mean.shape[1])
    return mean[0], deviation_of(covariance)[0]


def mean_power(tiles: TileSet) -> Float[Tensor, "c r"]:
    """Return the radial power spectrum of the average tile of a set."""
    return torch.einsum("rn,ncs->rcs", tiles.weights.draws, tiles.spectra.power).mean(0)
