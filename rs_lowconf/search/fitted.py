"""Parts of the gate that are fitted on real and on generated tiles: linear scores on features.

A critic trained on a few hundred tiles rates held-out real tiles no more real than generated ones,
so a threshold on it drops nothing. A linear score on existing features (of a pretrained network, or
of pixels) can be cross-fitted instead: every real tile is scored by a function that was fitted
without it, so held-out tiles are not unusual and the threshold lies close to them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rs_lowconf.search.gate import Gate, GatePart, GateScores, Stage, least_tiles, rank_of
from rs_lowconf.shares import share_of

Seen = Mapping[str, Float[Tensor, "_ _"]]
"""Features of tiles, one row per tile, by the name of the view that shows them."""

Features = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]]
"""One view of tiles whose channels are in the order of the gate's bands."""

FOLDS = 5
_STRENGTH = 300.0
"""Inverse weight of the ridge penalty, relative to the mean loss over tiles on standardised
features. A weaker penalty separates the kinds at hand better and unseen kinds worse."""
_SPLIT_FROM = 8
"""Held-out tiles, in units of the fewest that can bound the false rejection, from which a stage is
fitted on training tiles and calibrated on these; with fewer all tiles are cross-fitted."""
_BY_CLASS_FROM = 3
"""Held-out tiles of every class, in the same units, from which each has its own threshold."""
_ITERATIONS = 1_000


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearScore:
    """A linear function of features per fold, fitted without the real tiles of that fold."""

    weight: Float[Tensor, "k f"]
    bias: Float[Tensor, " k"]

    def __call__(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the scores, higher for more real."""
        return features @ self.weight.T.to(features) + self.bias.to(features)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPart:
    """A linear score on the features of one view."""

    name: str
    view: str
    score: LinearScore

    def part(self, features: Features) -> GatePart:
        """Return this score as a part of the gate.

        Args:
            features: its view.
        """
        return lambda image, label: self.score(features(image).cpu())


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedStage:
    """Parts that are fitted and calibrated on the real tiles of one source."""

    name: str
    """Name of the source."""
    share: float
    """Its share of the permitted false rejection."""
    parts: tuple[FittedPart, ...]
    reference: Float[Tensor, "n p"]
    """Scores of real tiles, each by a function fitted without it."""
    folds: Int[Tensor, " n"] | None
    """Fold of each of these tiles; None if they were held out of all fits."""
    labels: Int[Tensor, " n"] | None = None
    """Class of each of these tiles, if each class has a separate threshold."""

    def stage(self, views: Mapping[str, Features], false_rejection: float) -> Stage:
        """Return the stage of a gate.

        Args:
            views: by name.
            false_rejection: of the whole gate.

        Raises:
            DataError: too few held-out tiles for a share so small.
        """
        return Stage(
            parts={fitted.name: fitted.part(views[fitted.view]) for fitted in self.parts},
            reference=self.reference,
            false_rejection=false_rejection * self.share,
            folds=self.folds,
            labels=self.labels,
        )

    def scores(self, seen: Seen) -> Float[Tensor, "b p k"]:
        """Return the scores of tiles with known features, as `Stage.score` does."""
        scores = [part.score(seen[part.view]) for part in self.parts]
        models = max(column.shape[1] for column in scores)
        return torch.stack([column.expand(-1, models) for column in scores], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kind:
    """Tiles of one kind that are not real, by their features in each view."""

    seen: Seen
    labels: Int[Tensor, " n"]
    """Class that each was made for."""
    origin: Int[Tensor, " n"] | None = None
    """Training tile from which each was made, in the source whose `RealTiles.origin` is set; None
    if they were not made from any."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class RealTiles:
    """Real tiles of one source, by their features in each view."""

    name: str
    """Name of the source."""
    share: float
    """Share of the permitted false rejection for its stage."""
    train: Seen
    train_labels: Int[Tensor, " n"]
    val: Seen
    val_labels: Int[Tensor, " m"]
    origin: bool = False
    """Whether other kinds were made from its training tiles."""


def fit_stage(
    real: RealTiles, kinds: Mapping[str, Kind], *, false_rejection: float, seed: int
) -> FittedStage:
    """Fit the parts of a source and calibrate them on real tiles that were not used in the fit.

    Args:
        real: tiles of the source.
        kinds: of tiles that are not real.
        false_rejection: of the whole gate; held-out tiles should suffice for it.
        seed: of the folds.
    """
    needed = least_tiles(false_rejection * real.share)
    labels = None
    if len(real.val_labels) >= _SPLIT_FROM * needed:
        parts = _fit_parts(real.train, kinds, None)
        reference = [part.score(real.val[part.view])[:, 0] for part in parts]
        folds = None
        classes = torch.bincount(real.val_labels, minlength=int(real.train_labels.max()) + 1)
        if len(classes) > 1 and int(classes.min()) >= _BY_CLASS_FROM * needed:
            labels = real.val_labels
    else:
        both = {
            name: torch.cat([features, real.val[name]]) for name, features in real.train.items()
        }
        folds = folds_of(torch.cat([real.train_labels, real.val_labels]), seed)
        parts = _fit_parts(both, kinds, folds, origin=real.origin)
        reference = [out_of_fold(part.score, both[part.view], folds) for part in parts]
    return FittedStage(
        name=real.name,
        share=real.share,
        parts=parts,
        reference=torch.stack(reference, 1),
        folds=folds,
        labels=labels,
    )


def _fit_parts(
    real: Seen,
    kinds: Mapping[str, Kind],
    folds: Int[Tensor, " n"] | None,
    *,
    origin: bool = False,
) -> tuple[FittedPart, ...]:
    origins = {name: kind.origin if origin else None for name, kind in kinds.items()}
    return tuple(
        FittedPart(
            name=view,
            view=view,
            score=fit_linear(
                real_features,
                {name: kind.seen[view] for name, kind in kinds.items()},
                folds,
                origins,
            ),
        )
        for view, real_features in real.items()
    )


def folds_of(labels: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Return a fold for every tile, with every class spread over all of them."""
    folds = torch.empty(len(labels), dtype=torch.long)
    if int(torch.bincount(labels).max()) < FOLDS:
        return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)) % FOLDS
    # Ranks within classes rather than scikit-learn's splitter, which warns of rare classes.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    folds[order] = torch.arange(len(labels)) % FOLDS
    return folds


def fit_linear(
    real: Float[Tensor, "n f"],
    kinds: Mapping[str, Float[Tensor, "_ f"]],
    folds: Int[Tensor, " n"] | None = None,
    origins: Mapping[str, Int[Tensor, " _"] | None] | None = None,
    *,
    also_real: Float[Tensor, "_ f"] | None = None,
) -> LinearScore:
    """Fit by logistic regression with a ridge penalty; real and other tiles weigh the same.

    Kinds are weighted by the root of their number of tiles: few found tiles count more than
    proportionally, but less than a thousand generated ones.

    Args:
        real: features of real tiles.
        kinds: features of tiles that are not real.
        folds: of the real tiles; one function is fitted per fold, without the real tiles of it.
            A single function when missing.
        origins: the real tiles from which a kind was made; it shares their folds.
        also_real: tiles that count as real in every fold; together they weigh as much as the
            others.
    """
    fits = []
    for fold in range(1 if folds is None else FOLDS):
        kept = torch.ones(len(real), dtype=torch.bool) if folds is None else folds != fold
        rows = [real[kept]]
        if also_real is not None and len(also_real):
            rows.append(also_real)
        weights = [torch.full((len(part),), 0.5 / len(rows) / len(part)) for part in rows]
        positive = sum(map(len, rows))
        for name, part in kinds.items():
            origin = (origins or {}).get(name)
            if folds is not None and origin is not None:
                rows.append(part[folds[origin] != fold])
            else:
                rows.append(part)
        others = rows[-len(kinds) :]
        total = sum(len(part) ** 0.5 for part in others)
        weights += [torch.full((len(part),), 0.5 / total / len(part) ** 0.5) for part in others]
        x, weight = torch.cat(rows).double(), torch.cat(weights).double()
        centre, spread = rows[0].double().mean(0), rows[0].double().std(0)
        # A feature that is constant in real tiles is not scaled.
        spread = torch.where(spread > 1e-9, spread, torch.ones_like(spread))
        model = LogisticRegression(C=_STRENGTH, max_iter=_ITERATIONS)
        truth = np.arange(len(x)) < positive
        model.fit(((x - centre) / spread).numpy(), truth, sample_weight=weight.numpy())
        slope = torch.from_numpy(model.coef_[0]) / spread
        fits.append((slope, float(model.intercept_[0]) - float(centre @ slope)))
    return LinearScore(
        weight=torch.stack([slope for slope, _ in fits]).float(),
        bias=torch.tensor([bias for _, bias in fits]),
    )


def out_of_fold(
    score: LinearScore, features: Float[Tensor, "n f"], folds: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the score of every tile by the function that was fitted without it."""
    return score(features).gather(1, folds[:, None])[:, 0]


def judged(stages: tuple[FittedStage, ...], kind: Kind, false_rejection: float) -> GateScores:
    """Return the gate scores of tiles with known features, for a gate of some stages."""
    views: dict[str, Features] = {part.view: _no_view for stage in stages for part in stage.parts}
    gate = Gate(stages=tuple(stage.stage(views, false_rejection) for stage in stages))
    return gate.judge([stage.scores(kind.seen) for stage in stages], kind.labels)


def false_rejection_by_class(
    stage: FittedStage,
    labels: Int[Tensor, " n"],
    classes: Sequence[str],
    false_rejection: float,
) -> dict[str, Any]:
    """Return the share of the real tiles of each class that a stage rejects, with intervals.

    Args:
        stage: fitted.
        labels: of the tiles of its reference.
        classes: which the labels index.
        false_rejection: of the whole gate.
    """
    views: dict[str, Features] = {part.view: _no_view for part in stage.parts}
    built = stage.stage(views, false_rejection)
    joint = built.standardised(stage.reference).amin(1)
    rejects = torch.zeros(len(joint), dtype=torch.bool)
    groups = torch.zeros_like(labels) if stage.labels is None else labels
    for k in set(groups.tolist()):
        members = torch.nonzero(groups == k)[:, 0]
        rank = rank_of(built.false_rejection, len(members))
        rejects[members[joint[members].argsort()[:rank]]] = True
    return {
        name: share_of(int(rejects[labels == k].sum()), int((labels == k).sum()))
        for k, name in enumerate(classes)
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredFeatures:
    """Real tiles that no score was fitted on, by compressed features of one view.

    From them and from rejected tiles a score can be fitted without any data.
    """

    view: str
    centre: Float[Tensor, " f"]
    projection: Float[Tensor, "f d"]
    """Projection onto principal components of real and generated tiles, scaled to unit
    deviation."""
    real: Float[Tensor, "n d"]
    """One row per tile of the stage's reference, in its order."""

    def of(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """Return the compressed features of tiles."""
        return (features - self.centre) @ self.projection


def store_features(
    view: str, real: Float[Tensor, "n f"], generated: Float[Tensor, "m f"], *, most: int = 128
) -> StoredFeatures:
    """Reduce features to principal components and half precision.

    Args:
        view: of the tiles.
        real: of the tiles of a stage's reference.
        generated: of generated tiles, so that their differences from real tiles are kept.
        most: components.
    """
    both = torch.cat([real, generated]).double()
    centre = both.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(both.T))
    kept = values.argsort(descending=True)[: min(most, len(both) - 1)]
    projection = vectors[:, kept] / values[kept].clamp_min(1e-12).sqrt()
    # Rounded as they are stored, so that a loaded gate equals the fitted one.
    centre, projection = centre.float(), projection.half().float()
    kept_of_real = ((real - centre) @ projection).half().float()
    return StoredFeatures(view=view, centre=centre, projection=projection, real=kept_of_real)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedGate:
    """All fitted stages, with their views and the stored features to fit another part."""

    stages: tuple[FittedStage, ...]
    """In the order of their use."""
    views: Mapping[str, Any]
    """Definition of each view, as JSON values, by name."""
    power: Mapping[str, Any]
    """Figures of the fit, as JSON values: see `power_of`."""
    stored: StoredFeatures

    def to_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values."""
        tensors = {
            "stored.centre": self.stored.centre,
            "stored.projection": self.stored.projection.half(),
            "stored.real": self.stored.real.half(),
        }
        stages = []
        for number, stage in enumerate(self.stages):
            tensors[f"{number}.reference"] = stage.reference
            if stage.folds is not None:
                tensors[f"{number}.folds"] = stage.folds.to(torch.uint8)
            if stage.labels is not None:
                tensors[f"{number}.labels"] = stage.labels.to(torch.int16)
            for part, fitted in enumerate(stage.parts):
                tensors[f"{number}.{part}.weight"] = fitted.score.weight
                tensors[f"{number}.{part}.bias"] = fitted.score.bias
            parts = [{"name": fitted.name, "view": fitted.view} for fitted in stage.parts]
            stages.append({"name": stage.name, "share": stage.share, "parts": parts})
        return tensors, {
            "stages": stages,
            "views": dict(self.views),
            "power": dict(self.power),
            "stored": self.stored.view,
        }

    @classmethod
    def from_checkpoint(
        cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
    ) -> "FittedGate":
        """Return what `to_checkpoint` described."""
        stages = []
        for number, described in enumerate(header["stages"]):
            folds = tensors.get(f"{number}.folds")
            labels = tensors.get(f"{number}.labels")
            parts = tuple(
                FittedPart(
                    name=part["name"],
                    view=part["view"],
                    score=LinearScore(
                        weight=tensors[f"{number}.{place}.weight"],
                        bias=tensors[f"{number}.{place}.bias"],
                    ),
                )
                for place, part in enumerate(described["parts"])
            )
            stages.append(
                FittedStage(
                    name=described["name"],
                    share=described["share"],
                    parts=parts,
                    reference=tensors[f"{number}.reference"],
                    folds=None if folds is None else folds.long(),
                    labels=None if labels is None else labels.long(),
                )
            )
        return cls(
            stages=tuple(stages),
            views=header["views"],
            power=header["power"],
            stored=StoredFeatures(
                view=header["stored"],
                centre=tensors["stored.centre"],
                projection=tensors["stored.projection"].float(),
                real=tensors["stored.real"].float(),
            ),
        )


def _no_view(
    image: Float[Tensor, "b c h w"],  # noqa: ARG001  # it stands for a view
) -> Float[Tensor, "b f"]:
    raise AssertionError("features are known already")


def dropped(stages: tuple[FittedStage, ...], kind: Kind, false_rejection: float) -> dict[str, Any]:
    """Return the share of tiles that the gate drops, with its interval, and by which part."""
    scores = judged(stages, kind, false_rejection)
    parts = Counter(name for name in scores.dropped_by if name is not None)
    return {
        **share_of(int((~scores.passes).sum()), len(scores.passes)),
        "by_part": {part.name: parts[part.name] for stage in stages for part in stage.parts},
    }
