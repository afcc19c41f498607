"""The quality table of a generator: figures, the tiles they are measured on, and their floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.distances import (
    NEIGHBOURS,
    frechet_distance,
    kernel_distance,
    manifold_figures,
    over_halves,
)
from rs_lowconf.gan.measure import (
    Estimate,
    Measurement,
    Weights,
    matched_counts,
    ratio_of,
    repeated_ratio,
    repeated_share,
    share_of,
    weigh,
)
from rs_lowconf.gan.spectra import TileSpectra
from rs_lowconf.measures import vendi_score
from rs_lowconf.percents import percent
from rs_lowconf.seeds import seed_of

#: Share of held-out real tiles that are nearer to a training tile than the threshold.
QUANTILE = 0.01

HEADS = (
    *("figure", "value", "95 % interval", "tiles", "floor", "95 % interval", "tiles"),
    *("better", "what"),
)
"""Of the table of all figures."""

Right = Mapping[tuple[str, str], Bool[Tensor, " n"]]
"""Which test tiles a classifier gets right, by its input and its training tiles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSet:
    """A network's features of one set of tiles."""

    features: Float[Tensor, "n f"]
    """Of a network that is not used for training, choice of checkpoints or gate."""
    labels: Int[Tensor, " n"]
    weights: Weights
    """Of subsets of the size at which the set is compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TileSet(FeatureSet):
    """The same with the spectra of the tiles; the features are the reporter's."""

    spectra: TileSpectra


@dataclass(frozen=True, kw_only=True, eq=False)
class Sets:
    """Generated tiles, real training tiles as their floor, and the test tiles for both.

    Generated and training tiles are compared with the test tiles at the same number per class, so
    that the figures of training tiles are the floor for generated ones.
    """

    generated: TileSet
    train: TileSet
    test: TileSet
    bands: BandSpec
    classes: tuple[str, ...]
    seed: int
    """Of subsets and resamples."""


def matched_sets(
    features: Mapping[str, Float[Tensor, "_ f"]],
    spectra: Mapping[str, TileSpectra],
    *,
    bands: BandSpec,
    classes: tuple[str, ...],
    seed: int,
) -> Sets:
    """Join the measurements of the tiles named `generated`, `train` and `test`."""
    labels = {name: measured.labels for name, measured in spectra.items()}
    k = len(classes)
    counts = matched_counts(labels["generated"], labels["train"], classes=k)
    wanted = {
        "generated": counts,
        "train": counts,
        "test": torch.bincount(labels["test"], minlength=k),
    }
    sets = {
        name: TileSet(
            features=features[name],
            spectra=spectra[name],
            labels=labels[name],
            weights=weigh(labels[name], count, seed_of(seed, name)),
        )
        for name, count in wanted.items()
    }
    return Sets(**sets, bands=bands, classes=classes, seed=seed)


def distribution_figures(sets: Sets) -> list[Measurement]:
    """Return `feature_figures` in the reporter's feature space."""
    compared = sets.generated, sets.train, sets.test
    return feature_figures(*compared, seed=sets.seed, suffix="-S2")


def feature_figures(
    generated: FeatureSet, train: FeatureSet, test: FeatureSet, *, seed: int, suffix: str
) -> list[Measurement]:
    """Return distance, manifold figures and diversity in a feature space.

    Args:
        generated: what is measured.
        train: real tiles in their place, for the floor, at the same number per class.
        test: real tiles that both are compared with.
        seed: of half-samples.
        suffix: of KID and FD, naming the features.
    """
    kernel, floor = (
        kernel_distance(measured.features, test.features, measured.weights, test.weights)
        for measured in (generated, train)
    )
    return [
        Measurement(
            name=f"KID{suffix}",
            measured=kernel,
            floor=floor,
            note="unbiased: its floor is around 0, on either side",
        ),
        _frechet(generated, train, test, seed, f"FD{suffix}"),
        *_manifolds(generated, train, test),
        _vendi(generated, train, seed),
    ]


def _frechet(
    generated: FeatureSet, train: FeatureSet, test: FeatureSet, seed: int, name: str
) -> Measurement:
    width = test.features.shape[1]
    n = min(generated.weights.n // 2, len(test.labels))
    if n < 2 * width:
        return Measurement(
            name=name,
            note=f"left out: covariances of {width} features need at least {2 * width} tiles "
            f"of each kind; there are {n}",
        )
    measured, floor = (
        over_halves(
            lambda some: frechet_distance(some, test.features),
            measured.features,
            measured.weights,
            seed_of(seed, "frechet"),
        )
        for measured in (generated, train)
    )
    return Measurement(
        name=name,
        measured=measured,
        floor=floor,
        note="grows with fewer tiles; compare it only with its floor",
    )


def _manifolds(generated: FeatureSet, train: FeatureSet, test: FeatureSet) -> list[Measurement]:
    notes = {
        "precision": "generated tiles within the real tiles' reach",
        "recall": "real tiles within the generated tiles' reach",
        "density": "real tiles that have a generated one within reach, over k; may exceed 1",
        "coverage": "real tiles with a generated one within reach",
    }
    if min(generated.weights.n, test.weights.n) <= NEIGHBOURS:
        reason = f"left out: needs more than {NEIGHBOURS} tiles of each kind"
        return [Measurement(name=name, note=reason) for name in notes]
    measured, floor = (
        manifold_figures(measured.features, test.features, measured.weights, test.weights)
        for measured in (generated, train)
    )
    return [
        Measurement(
            name=name, measured=measured[name], floor=floor[name], better="higher", note=note
        )
        for name, note in notes.items()
    ]


def _vendi(generated: FeatureSet, train: FeatureSet, seed: int) -> Measurement:
    if generated.weights.n < 4:
        return Measurement(name="Vendi score", note="left out: needs at least 4 tiles")
    measured, floor = (
        over_halves(vendi_score, measured.features, measured.weights, seed_of(seed, "vendi"))
        for measured in (generated, train)
    )
    return Measurement(
        name="Vendi score",
        measured=measured,
        floor=floor,
        better="like the floor",
        note="effective number of different tiles",
    )


def classification_figures(right: Right, classes: int, seed: int) -> list[Measurement]:
    """Return the classification accuracy scores (Ravuri and Vinyals 2019) and their ratios.

    Args:
        right: for `real`, `generated` and `gaussian` training tiles, each read in several
            ways: unchanged; standardised, without colour; decorrelated, without anything that a
                Gaussian of the bands contains, whose accuracy must drop to chance there.
        classes: number of classes, for the level of chance.
        seed: of the resamples.
    """
    found = []
    for view in dict.fromkeys(view for view, _ in right):
        real = right[view, "real"]
        for name, title in (("generated", "CAS"), ("gaussian", "CAS of Gaussian tiles")):
            found.append(
                Measurement(
                    name=f"{title}, {view}",
                    measured=share_of(right[view, name]),
                    floor=share_of(real),
                    better="higher",
                    control=name == "gaussian",
                    note=f"the floor is trained on real tiles; chance is {percent(1 / classes, 0)}",
                )
            )
            ratio = ratio_of(right[view, name], real, seed)
            note = "paired over test tiles"
            if ratio is None:
                note = "left out: the classifier trained on real tiles is wrong too often"
            found.append(
                Measurement(
                    name=f"{title}, {view}, ratio to real",
                    measured=ratio,
                    better="higher",
                    control=name == "gaussian",
                    note=note,
                )
            )
    return found


def repeated_figures(
    right: Mapping[tuple[str, str], Bool[Tensor, "s n"]], classes: int, seed: int
) -> list[Measurement]:
    """Return the same of classifiers that were trained from several seeds each.

    Args:
        right: which test tiles each seed gets right, by view and by `real`, `generated` and
            `gaussian`.
        classes: number of classes, for the level of chance.
        seed: of the resamples.
    """
    found = []
    for view in dict.fromkeys(view for view, _ in right):
        real = right[view, "real"]
        for name, title in (("generated", "CAS"), ("gaussian", "CAS of tiles without texture")):
            seeds = right[view, name]
            found += [
                Measurement(
                    name=f"{title}, {view}",
                    measured=repeated_share(seeds, seed),
                    floor=repeated_share(real, seed),
                    better="higher",
                    control=name == "gaussian",
                    note=f"the floor is trained on real tiles; mean of {len(seeds)} seeds; "
                    f"chance is {percent(1 / classes, 0)}",
                ),
                Measurement(
                    name=f"{title}, {view}, ratio to real",
                    measured=repeated_ratio(seeds, real, seed),
                    better="higher",
                    control=name == "gaussian",
                    note="paired over test tiles; the interval is over tiles and seeds",
                ),
            ]
    return found


def memorisation_figures(
    generated: Mapping[str, Float[Tensor, " n"]], held_out: Mapping[str, Float[Tensor, " m"]]
) -> list[Measurement]:
    """Return shares of generated tiles that are nearer to a training tile than real ones are.

    Args:
        generated: distance to the nearest training tile, by the space it is measured in.
        held_out: the same for real tiles outside the training set.
    """
    found = []
    for space, distances in generated.items():
        others = held_out[space]
        for what, limit in (("1 % quantile", threshold(others)), ("smallest", float(others.min()))):
            below = share_of(others < limit)
            found.append(
                Measurement(
                    name=f"copies, {space}, below the {what}",
                    measured=share_of(distances < limit),
                    floor=below,
                    better="like the floor",
                    note=f"nearer to a training tile than {limit:.3g}; the floor is held-out tiles",
                )
            )
    return found


def threshold(held_out: Float[Tensor, " m"]) -> float:
    """Return the distance below which a tile is suspected to be a copy."""
    return float(torch.quantile(held_out.double(), QUANTILE))


def markdown(groups: Mapping[str, Sequence[Measurement]]) -> str:
    """Return the table that report.md holds."""
    lines = []
    for title, measurements in groups.items():
        lines += [
            f"## {title}",
            "",
            f"| {' | '.join(HEADS)} |",
            "|---|---:|---|---:|---:|---|---:|---|---|",
            *(f"| {' | '.join(row_of(one))} |" for one in measurements),
        ]
        lines.append("")
    return "\n".join(lines)


def row_of(one: Measurement) -> list[str]:
    """Return the cells of a figure, below `HEADS`."""
    return [one.name, *_cells(one.measured), *_cells(one.floor), one.better, one.note]


def _cells(one: Estimate | None) -> list[str]:
    if one is None:
        return ["", "", ""]
    return [f"{one.value:.3g}", f"{one.low:.3g} .. {one.high:.3g}", f"{one.n:,}"]
