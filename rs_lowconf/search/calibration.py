"""The gate's statistics of real tiles, measured once, so that a search needs no data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import ModelError
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.search.evaluate import Penalty
from rs_lowconf.search.fitted import FittedGate
from rs_lowconf.search.gate import (
    Gate,
    GatePart,
    Stage,
    centre_and_spread,
    scores_one_by_one,
    single_stage,
)
from rs_lowconf.search.head import ReviewHead
from rs_lowconf.search.parts import Likeness, Spectra, fit_spectra
from rs_lowconf.types import Critic, MaskJudge, TileSource

KIND = "gate calibration"
CRITIC, LIKENESS, SPECTRA, AGREEMENT, REVIEWS = (
    "critic",
    "likeness",
    "spectra",
    "mask agreement",
    "reviews",
)

_LIKENESS_COLUMN, _SPECTRA_COLUMN, _AGREEMENT_COLUMN = 1, 2, 3
"""Columns of a calibration's scores: after the critic, before optional parts."""

AGREEMENT_SHARE = 0.4
"""Share of the permitted false rejection that the agreement of tiles with their masks gets beside
fitted parts, which do not look at masks."""

Features = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]]
"""Features of tiles whose channels are in the order of the gate's bands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Statistics of training tiles for the parts of the gate, and scores of held-out tiles."""

    bank: Float[Tensor, "8 n f"]
    """Features of the training tiles in their eight orientations, the original one first."""
    spectra: Spectra
    """Relations between bands in training tiles."""
    reference: Float[Tensor, "m p"]
    """Scores of the held-out tiles by every part of the gate."""
    energy: Float[Tensor, " m"]
    """Realism of the held-out tiles by the critic of the search's energy."""
    models: Mapping[str, str]
    """Checksums of the models that were calibrated, by name."""
    head: ReviewHead | None = None
    """Head learned from reviews; None before the first reviews, and where `fitted` contains it."""
    fitted: FittedGate | None = None
    """The gate that decides instead of all these parts, which are then only recorded; None for a
    gate of the recipe `native`."""

    def gate(
        self,
        critic: Critic,
        features: Features,
        false_rejection: float,
        views: Mapping[str, Features] = MappingProxyType({}),
    ) -> Gate:
        """Return the gate of the calibrated models.

        Args:
            critic: the gate's.
            features: of the extractor.
            false_rejection: share of real tiles that may be rejected.
            views: by which the fitted parts see tiles, by name.

        Raises:
            DataError: too few held-out tiles for so small a share.
        """
        return self._gate(parts_of(critic, features, self), false_rejection, views)

    def describe(self, false_rejection: float) -> dict[str, Any]:
        """Describe what the gate costs in real tiles, its guarantee, and what it drops."""
        names = [CRITIC, LIKENESS, SPECTRA, *([AGREEMENT] if self._masked else [])]
        if self.head is not None:
            names.append(REVIEWS)
        views = {} if self.fitted is None else dict.fromkeys(self.fitted.views, _unseen)
        return self._gate(dict.fromkeys(names, _unscored), false_rejection, views).describe()

    def _gate(
        self, parts: Mapping[str, GatePart], false_rejection: float, views: Mapping[str, Features]
    ) -> Gate:
        if self.fitted is None:
            return single_stage(parts, self.reference, false_rejection)
        stages = [stage.stage(views, false_rejection) for stage in self.fitted.stages]
        columns = {name: column for column, name in enumerate(parts)}
        if self._masked:
            own = AGREEMENT_SHARE * false_rejection
            stages.append(self._stage(parts, [columns.pop(AGREEMENT)], own))
        stages.append(self._stage(parts, list(columns.values()), 0.0))
        return Gate(stages=tuple(stages), power=self.fitted.power)

    @property
    def _masked(self) -> bool:
        """Return whether tiles have masks, so that there is a column of their agreement."""
        return self.reference.shape[1] - (self.head is not None) > _AGREEMENT_COLUMN

    def _stage(
        self, parts: Mapping[str, GatePart], columns: Sequence[int], false_rejection: float
    ) -> Stage:
        names = list(parts)
        return Stage(
            parts={names[column]: parts[names[column]] for column in columns},
            reference=self.reference[:, list(columns)],
            false_rejection=false_rejection,
        )

    def penalties(
        self,
        energy: Critic,
        critic: Critic,
        *,
        realism_weight: float,
        spectra_weight: float,
        review_weight: float,
        share: float,
    ) -> tuple[Penalty, ...]:
        """Return the penalties of a search's energy, without terms of weight 0.

        Args:
            energy: the critic of the search's energy, which is not the gate's.
            critic: the gate's, on whose features reviews were learned.
            realism_weight: of tiles that the energy's critic rates as unreal.
            spectra_weight: of spectra that real pixels do not have. It uses the gate's part itself:
                not a network that could be fooled, but a fixed quadratic form of the pixels.
            review_weight: of tiles that reviewers would reject, as learned from their reviews.
            share: the share of real tiles that lie below a penalty's floor.
        """
        spectra = self.reference[:, _SPECTRA_COLUMN]
        penalties = [
            Penalty(
                part=energy.realism,
                floor=float(self.energy.quantile(share)),
                spread=1.0,
                weight=realism_weight,
            ),
            Penalty(
                part=self.spectra,
                floor=float(spectra.quantile(share)),
                spread=float(centre_and_spread(spectra, 0)[1]),
                weight=spectra_weight,
            ),
        ]
        if self.head is not None:
            reviews = self.reference[:, -1]
            penalties.append(
                Penalty(
                    part=self.head.part(critic.features),
                    # The median of real tiles: a higher score lowers the energy no further.
                    floor=float(reviews.median()),
                    spread=float(centre_and_spread(reviews, 0)[1]),
                    weight=review_weight,
                )
            )
        return tuple(penalty for penalty in penalties if penalty.weight)

    @property
    def distances(self) -> Float[Tensor, " m"]:
        """Return the distances of the held-out tiles to their nearest training tile."""
        return (-self.reference[:, _LIKENESS_COLUMN]).exp()

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        tensors = {
            "bank": self.bank,
            "spectra.matrix": self.spectra.matrix,
            "spectra.centre": self.spectra.centre,
            "reference": self.reference,
            "energy": self.energy,
        }
        header: dict[str, Any] = {"models": dict(self.models)}
        if self.head is not None:
            tensors |= {"head.weight": self.head.weight, "head.bias": self.head.bias}
        if self.fitted is not None:
            weights, header["fitted"] = self.fitted.to_checkpoint()
            tensors |= {f"fitted.{name}": tensor for name, tensor in weights.items()}
        write_checkpoint(path, KIND, tensors, header)


def load_calibration(path: Path, models: Mapping[str, str]) -> Calibration:
    """Read what `Calibration.save` wrote.

    Args:
        path: the file.
        models: checksums of the models at hand, by name.

    Raises:
        ModelError: the file is missing, damaged, or of other models.
    """
    tensors, header = read_checkpoint(path, KIND)
    changed = [name for name, checksum in models.items() if header["models"][name] != checksum]
    if changed:
        raise ModelError(
            f"{path} was calibrated for a different {' and '.join(changed)}",
            command="train gate",
        )
    head = None
    if "head.weight" in tensors:
        head = ReviewHead(weight=tensors["head.weight"], bias=tensors["head.bias"])
    fitted = None
    if "fitted" in header:
        weights = {
            name.removeprefix("fitted."): tensor
            for name, tensor in tensors.items()
            if name.startswith("fitted.")
        }
        fitted = FittedGate.from_checkpoint(weights, header["fitted"])
    return Calibration(
        head=head,
        fitted=fitted,
        bank=tensors["bank"],
        spectra=Spectra(tensors["spectra.matrix"], tensors["spectra.centre"]),
        reference=tensors["reference"],
        energy=tensors["energy"],
        models=header["models"],
    )


def calibrate(
    critic: Critic,
    energy: Critic,
    features: Features,
    train: TileSource,
    val: TileSource,
    *,
    bank: Float[Tensor, "8 n f"],
    seed: int,
    models: Mapping[str, str],
    device: torch.device,
    head: ReviewHead | None = None,
    fitted: FittedGate | None = None,
) -> Calibration:
    """Measure training and held-out tiles.

    Args:
        critic: the gate's.
        energy: the critic of the search's energy, with the same bands and classes.
        features: of the extractor.
        train: the training tiles of all models.
        val: held-out tiles; those of classes that the critic lacks are left out.
        bank: features of the training tiles in their eight orientations.
        seed: of the choice of pixels.
        models: checksums of critic, generator and extractor, by name.
        device: where the models compute.
        head: learned from reviews, if there are any.
        fitted: the gate that decides instead of the parts measured here, if any.
    """
    blank = torch.empty(0)
    calibration = Calibration(
        bank=bank,
        spectra=fit_spectra(train, train.bands.index_of(critic.bands.names), seed),
        reference=blank[:, None],
        energy=blank,
        models=models,
        head=head,
        fitted=fitted,
    )
    parts = parts_of(critic, features, calibration)
    scores = scores_one_by_one(
        {**parts, "energy": energy.realism},
        val,
        channels=val.bands.index_of(critic.bands.names),
        classes=critic.classes,
        device=device,
    )
    return replace(calibration, reference=scores[:, :-1], energy=scores[:, -1])


def parts_of(critic: Critic, features: Features, calibration: Calibration) -> dict[str, GatePart]:
    """Return the parts of the gate in the order of a calibration's columns."""
    critic_scores = critic_parts(critic)
    parts: dict[str, GatePart] = {
        CRITIC: critic_scores.pop(CRITIC),
        LIKENESS: Likeness(features, calibration.bank.flatten(0, 1)),
        SPECTRA: calibration.spectra,
        **critic_scores,
    }
    if calibration.head is not None:
        parts[REVIEWS] = calibration.head.part(critic.features)
    return parts


def critic_parts(critic: Critic) -> dict[str, GatePart]:
    """Return a critic's scores as parts: realism, and agreement of a tile with its mask."""
    parts: dict[str, GatePart] = {CRITIC: critic.realism}
    if isinstance(critic, MaskJudge):
        parts[AGREEMENT] = _agreement(critic)
    return parts


def _agreement(critic: MaskJudge) -> GatePart:
    """Return the log-odds of agreement, with one pixel added to both counts.

    Shares crowd below 1, so that the few real tiles with a smaller one would lie a hundred
    deviations out and the worst part of a tile would always be this one.
    """

    def part(image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        share, pixels = critic.agreement(image, label), image.shape[2] * image.shape[3]
        return ((share * pixels + 1) / ((1 - share) * pixels + 1)).log()

    return part


def _unseen(
    image: Float[Tensor, "b c h w"],  # noqa: ARG001  # it stands for a view
) -> Float[Tensor, "b f"]:
    raise AssertionError("a gate that is only described looks at no tile")


def _unscored(
    image: Float[Tensor, "b c h w"],  # noqa: ARG001  # it stands for a part
    label: Int[Tensor, " b"],  # noqa: ARG001
) -> Float[Tensor, " b"]:
    raise AssertionError("a gate that is only described scores no tile")
