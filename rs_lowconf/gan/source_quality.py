"""How generated tiles look to a network that was not used in training, by source of tiles.

Two kinds of figures on the same features: distances between sets of tiles (KID, FD, precision,
recall), and the probe, which tries to distinguish single tiles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.gan.measure import Estimate, Measurement, matched_counts, share_of, weigh
from rs_lowconf.gan.probe import ProbeResult, probe, result_of
from rs_lowconf.gan.quality import FeatureSet, feature_figures
from rs_lowconf.percents import percent
from rs_lowconf.seeds import seed_of

NETWORK: Literal["efficientnet_lite2"] = "efficientnet_lite2"
"""The probe's network. Critics, the choice of checkpoints and the gate must never use it: a network
used in training cannot judge its result."""
SUFFIX = " (EfficientNet-Lite2)"
LEAST = 20
"""Tiles on each side below which there is no probe."""
_LEAST_OF_CLASS = 5

MEANING = """\
The *probe* is a logistic regression on EfficientNet-Lite2 features that learns to distinguish
generated tiles from real ones, and is tested on tiles it was not trained on. Nothing else in this
package uses that network. The AUC is the probability that, of a real and a generated tile, the
probe rates the real one as more real: 0.5 is chance, so these features cannot distinguish the
tiles; at 1 it is always right. *Kept* is the share of generated tiles that would pass a threshold
at which 5 % of real tiles are rejected: about 95 % if they look real, 0 % if each is recognised.
Intervals are 95 %, over tiles. The *floor* is measured on real tiles instead of generated ones: no
generator can be expected to do better.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """The network's features of one set of tiles."""

    features: Float[Tensor, "n f"]
    labels: Int[Tensor, " n"]
    """Class of each."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels)

    def at(self, chosen: Int[Tensor, " m"]) -> "Looks":
        """Return some of the tiles."""
        return Looks(features=self.features[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Probed:
    """The probe's result for one kind of tiles."""

    whole: ProbeResult
    by_class: Mapping[str, ProbeResult]
    """Results for the classes with enough tiles, from the same fits."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "all": self.whole.to_json(),
            "by_class": {name: result.to_json() for name, result in self.by_class.items()},
        }


def probe_kind(
    real: Looks, other: Looks, classes: Sequence[str], *, per_class: int | None, seed: int
) -> Probed | None:
    """Distinguish one kind of tiles from real ones, with as many of each class on both sides.

    Args:
        real: real tiles.
        other: generated ones, or real ones for the floor.
        classes: the names that labels index.
        per_class: most tiles of a class; default is all that both sides have.
        seed: of the choice of tiles, folds and resamples.

    Returns:
        None where fewer than `LEAST` tiles of each side can be compared.
    """
    counts = matched_counts(real.labels, other.labels, classes=len(classes))
    if per_class is not None:
        counts = counts.clamp_max(per_class)
    if int(counts.sum()) < LEAST:
        return None
    a, b = (
        looks.at(some_of_each(looks.labels, counts, seed_of(seed, name)))
        for name, looks in (("real", real), ("other", other))
    )
    whole, scores = probe(a.features, b.features, seed=seed)
    truth = np.arange(len(a) + len(b)) < len(a)
    label = torch.cat([a.labels, b.labels]).numpy()
    by_class = {}
    for k, name in enumerate(classes):
        if counts[k] >= _LEAST_OF_CLASS:
            members = label == k
            by_class[name] = result_of(scores[members], truth[members], seed=seed_of(seed, name))
    return Probed(whole=whole, by_class=by_class)


def some_of_each(
    labels: Int[Tensor, " n"], counts: Int[Tensor, " k"], seed: int
) -> Int[Tensor, " m"]:
    """Return random tiles, a given number of each class."""
    rng = torch.Generator().manual_seed(seed)
    chosen = []
    for k, wanted in enumerate(counts.tolist()):
        mine = torch.nonzero(labels == k)[:, 0]
        chosen.append(mine[torch.randperm(len(mine), generator=rng)[:wanted]])
    return torch.cat(chosen)


def first_of_each(labels: Int[Tensor, " n"], most: Int[Tensor, " k"]) -> Int[Tensor, " m"]:
    """Return the first tiles of each class, at most `most`."""
    chosen = [torch.nonzero(labels == k)[:wanted, 0] for k, wanted in enumerate(most.tolist())]
    return torch.cat(chosen)


def halves(real: Looks, classes: int, *, per_class: int | None, seed: int) -> tuple[Looks, Looks]:
    """Return two disjoint halves of real tiles, with as many of each class in both."""
    counts = torch.bincount(real.labels, minlength=classes) // 2
    if per_class is not None:
        counts = counts.clamp_max(per_class)
    chosen = some_of_each(real.labels, 2 * counts, seed)
    # Alternating within each class, whose counts are even.
    return real.at(chosen[::2]), real.at(chosen[1::2])


def probe_measurements(
    kinds: Sequence[str],
    probes: Mapping[str, Probed | None],
    floor: Probed | None,
    missing: Mapping[str, str],
) -> list[Measurement]:
    """Return the lines of the report: AUC and share kept of each kind of tiles.

    Args:
        kinds: of tiles, in the order of the lines, so that reports can be compared.
        probes: the result of each kind; None where there were too few tiles.
        floor: result of real tiles instead of generated ones.
        missing: why there are no tiles of a kind at all.
    """
    found = []
    for kind in kinds:
        probed = probes.get(kind)
        for name, value_of, better, note in _PROBE_LINES:
            if probed is None:
                why = missing.get(kind, f"fewer than {LEAST} tiles on one side")
                line = Measurement(
                    name=f"probe, {kind}: {name}", better=better, note=f"left out: {why}"
                )
            else:
                line = Measurement(
                    name=f"probe, {kind}: {name}",
                    measured=value_of(probed.whole),
                    floor=None if floor is None else value_of(floor.whole),
                    better=better,
                    note=note,
                )
            found.append(line)
    return found


def _auc(result: ProbeResult) -> Estimate:
    return Estimate(value=result.auc, low=result.auc_low, high=result.auc_high, n=result.generated)


def _kept(result: ProbeResult) -> Estimate:
    return Estimate(
        value=result.kept, low=result.kept_low, high=result.kept_high, n=result.generated
    )


_PROBE_LINES: tuple[
    tuple[str, Callable[[ProbeResult], Estimate], Literal["higher", "like the floor"], str], ...
] = (
    (
        "AUC",
        _auc,
        "like the floor",
        "0.5: indistinguishable from real tiles; 1: always distinguished",
    ),
    (
        "kept at 5 % false rejection",
        _kept,
        "higher",
        "share that passes at a threshold that rejects 5 % of real tiles",
    ),
)


def probe_table(
    probes: Mapping[str, Probed | None], floor: Probed | None, classes: Sequence[str]
) -> str:
    """Return the results by class as a Markdown table: AUC and share kept, with intervals."""
    columns = {kind: probed for kind, probed in probes.items() if probed is not None}
    if floor is not None:
        columns["real tiles (floor)"] = floor
    if not columns:
        return ""
    lines = [
        "| class | " + " | ".join(f"{kind}: AUC | kept | tiles" for kind in columns) + " |",
        "|---|" + "---|---|---:|" * len(columns),
    ]
    for name in ("all", *classes):
        cells = []
        for probed in columns.values():
            result = probed.whole if name == "all" else probed.by_class.get(name)
            cells += ["", "", ""] if result is None else _cells(result)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(result: ProbeResult) -> list[str]:
    return [
        f"{result.auc:.3f} ({result.auc_low:.3f} .. {result.auc_high:.3f})",
        f"{percent(result.kept, 1)} "
        f"({percent(result.kept_low, 1)} .. {percent(result.kept_high, 1)})",
        f"{result.generated:,}",
    ]


def likeness_figures(
    generated: Looks, train: Looks, test: Looks, classes: int, seed: int
) -> list[Measurement]:
    """Return KID, FD, precision, recall and diversity, each beside its floor.

    For the floor, training tiles replace generated ones; all classes weigh the same.
    """
    counts = matched_counts(generated.labels, train.labels, classes=classes)
    wanted = {
        "generated": (generated, counts),
        "train": (train, counts),
        "test": (test, torch.bincount(test.labels, minlength=classes)),
    }
    sets = {
        name: FeatureSet(
            features=looks.features,
            labels=looks.labels,
            weights=weigh(looks.labels, number, seed_of(seed, name)),
        )
        for name, (looks, number) in wanted.items()
    }
    return feature_figures(**sets, seed=seed, suffix=SUFFIX)


def passed_figure(passed: Bool[Tensor, " n"]) -> Measurement:
    """Return the share of random tiles that the gate lets through."""
    return Measurement(
        name="random tiles that the gate passes",
        measured=share_of(passed),
        better="higher",
        note="not meaningful alone: the probe shows whether passed tiles look more real than "
        "others",
    )
