"""The gate: tiles that look unlike real ones are dropped, at a known joint cost in real tiles.

Several parts score a tile in different ways. Parts that are calibrated on the same held-out
tiles form a stage with one threshold on the worst score: five parts that each reject 5 % of real
tiles would together reject up to 23 %. Stages share the permitted false rejection between them, so
their joint bound holds however they depend on each other (Bonferroni). A tile that one stage drops
is not shown to the next, so the most expensive parts come last.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import beta
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.percents import percent
from rs_lowconf.types import TileSource

log = logging.getLogger(__name__)

_MAD_TO_DEVIATION = 1.4826


GatePart = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b *k"]]
"""A score of tiles, higher for more real, given the index of the
conditioned class. The channels are in the order of the gate's bands. A cross-fitted part returns
one score per fold, by the model fitted without the held-out tiles of that fold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Parts with their scores on the same held-out real tiles.

    Full conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005):
    the parts are standardised by median and absolute deviation of the held-out tiles *and*
    the judged one, so a real tile is exchangeable with them and its p-value is at most alpha
    with probability at most alpha, whatever the distribution and however the parts depend
    on each other. Cross-fitted parts compare a tile with the held-out tiles of each fold by the
    model of that fold (Vovk, "Cross-conformal predictors", 2015).
    """

    parts: Mapping[str, GatePart]
    reference: Float[Tensor, "n p"]
    """Scores of the held-out real tiles, one column per part; each by the model of its fold."""
    false_rejection: float
    """Share of real tiles that may be rejected, over all parts together; 0 rejects none: the parts
    are recorded but decide nothing."""
    folds: Int[Tensor, " n"] | None = None
    """Fold of every held-out tile, from 0; None if no part is cross-fitted."""
    labels: Int[Tensor, " n"] | None = None
    """Class of every held-out tile, if each class has a separate threshold, so that no class pays
    for the others (Vovk, "Conditional validity of inductive conformal predictors", 2012); None for
    one threshold."""

    def __post_init__(self) -> None:
        """Check that there are enough held-out tiles.

        Raises:
            DataError: they are too few for so small a share.
        """
        if self.false_rejection:
            require_enough(self.fewest, self.false_rejection)

    def score(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b p k"]:
        """Return the score of every part, by the model of each fold."""
        scores = [part(image, label).cpu() for part in self.parts.values()]
        scores = [score if score.ndim == 2 else score[:, None] for score in scores]
        models = max(score.shape[1] for score in scores)
        return torch.stack([score.expand(-1, models) for score in scores], 1)

    def p_value(
        self, scores: Float[Tensor, "b p *k"], label: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return the share of real tiles, including the scored one, that look at most as real.

        Args:
            scores: see `score`.
            label: class of each tile, if classes have separate thresholds.
        """
        scores = scores if scores.ndim == 3 else scores[:, :, None]
        if self.labels is None:
            return self._against(scores, torch.ones(len(self.reference), dtype=torch.bool))
        assert label is not None  # noqa: S101  # a gate passes it
        p_value = torch.empty(len(scores))
        for k in set(label.tolist()):
            p_value[label == k] = self._against(scores[label == k], self.labels == k)
        return p_value

    def _against(
        self, scores: Float[Tensor, "b p k"], rows: Bool[Tensor, " n"]
    ) -> Float[Tensor, " b"]:
        """Return the p-values against some of the held-out tiles."""
        folds = torch.zeros(len(self.reference)) if self.folds is None else self.folds
        count = torch.ones(len(scores), dtype=torch.long)
        for fold in range(int(folds.max()) + 1):
            held_out = self.reference[(folds == fold) & rows].double()
            judged = scores[:, :, min(fold, scores.shape[2] - 1)].double()
            together = torch.cat(
                [held_out.expand(len(scores), -1, -1), judged[:, None]], dim=1
            )  # b n+1 p
            centre, spread = centre_and_spread(together, 1)
            joint = ((together - centre) / spread).amin(2)  # b n+1
            count += (joint[:, :-1] <= joint[:, -1:]).sum(1)
        return count.float() / (int(rows.sum()) + 1)

    def standardised(self, scores: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Return scores in units of the held-out tiles' deviation, 0 at their median."""
        centre, spread = centre_and_spread(self.reference, 0)
        return (scores - centre) / spread

    def passes(self, p_value: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Return which tiles pass the stage."""
        # A share such as 3/60 is not exact in binary.
        return p_value > self.false_rejection + 1e-6

    @property
    def fewest(self) -> int:
        """Return the number of held-out tiles; of the smallest class if each has a threshold."""
        if self.labels is None:
            return len(self.reference)
        return int(torch.bincount(self.labels).min())

    @property
    def bound(self) -> float:
        """Return the share of real tiles that is rejected at most, on average."""
        sizes = [len(self.reference)]
        if self.labels is not None:
            sizes = torch.bincount(self.labels).tolist()
        return max(rank_of(self.false_rejection, size) / (size + 1) for size in sizes)

    def describe(self) -> dict[str, Any]:
        """Describe what the calibration guarantees, and what so few tiles cannot."""
        n, rank = self.fewest, rank_of(self.false_rejection, self.fewest)
        crossed = self.folds is not None
        return {
            "parts": list(self.parts),
            "held_out_real_tiles": len(self.reference),
            "cross_fitted": crossed,
            "threshold_per_class": self.labels is not None,
            "false_rejection_at_most": self.bound,
            "chance_that_more_than_10_percent_are_rejected": float(
                beta.sf(0.10, rank, n - rank + 1)
            ),
        }


def rank_of(false_rejection: float, tiles: int) -> int:
    """Return how many of the held-out tiles plus the scored one a threshold rejects."""
    return math.floor(false_rejection * (tiles + 1) + 1e-9)


def least_tiles(false_rejection: float) -> int:
    """Return the number of held-out tiles needed to bound a share of falsely rejected ones."""
    return math.ceil(1 / false_rejection - 1e-9) - 1


def require_enough(tiles: int, false_rejection: float) -> None:
    """Reject a number of held-out tiles that cannot bound a share of falsely rejected ones.

    Raises:
        DataError: they are too few.
    """
    needed = least_tiles(false_rejection)
    if tiles < needed:
        raise DataError(
            f"{tiles} held-out tiles of the generator's classes cannot bound a false rejection of "
            f"{percent(false_rejection, 1)}",
            expected=f"at least {needed}",
            remedy="raise search.false_rejection, or hold out more tiles for validation",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class GateScores:
    """The gate's scores of tiles and its decision."""

    parts: dict[str, Float[Tensor, " b"]]
    """Raw score of every computed part, the mean over the models of its folds."""
    p_value: Float[Tensor, " b"]
    """Joint p-value: a tile is rejected where it is at most the permitted false rejection."""
    passes: Bool[Tensor, " b"]
    """Which tiles pass the gate."""
    dropped_by: tuple[str | None, ...]
    """The part by which each tile was dropped: the worst one of the first stage that rejects it;
    None for tiles that pass."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """Stages in the order of their use."""

    stages: tuple[Stage, ...]
    power: Mapping[str, Any] = field(default_factory=dict)
    """Share dropped of every kind of tile that is not real, measured when the gate was fitted;
    empty if not measured."""
    conditions: Int[Tensor, " m"] | None = None
    """Class index of every condition; None if conditions are classes."""

    @property
    def parts(self) -> dict[str, GatePart]:
        """Return the parts of all stages, by name."""
        return {name: part for stage in self.stages for name, part in stage.parts.items()}

    @property
    def false_rejection(self) -> float:
        """Return the share of real tiles that may be rejected, over all stages together."""
        return sum(stage.false_rejection for stage in self.stages)

    def changed(self, change: Callable[[str, GatePart], GatePart]) -> "Gate":
        """Return the same gate with other parts of the same names."""
        return replace(
            self,
            stages=tuple(
                replace(stage, parts={name: change(name, p) for name, p in stage.parts.items()})
                for stage in self.stages
            ),
        )

    def score(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"], *, thorough: bool = True
    ) -> GateScores:
        """Return the scores of tiles by the parts, and the decision.

        Args:
            image: reflectance in the gate's bands.
            label: index of the conditioned class.
            thorough: whether to compute every stage; if not, stages after one that rejects all
                tiles are skipped.
        """
        seen = []
        for stage in self.stages:
            seen.append(stage.score(image, label))
            classes = self._classes(label)
            if not thorough and not stage.passes(stage.p_value(seen[-1], classes)).any():
                break
        return self.judge(seen, label)

    def _classes(self, label: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the class of each condition."""
        return label.cpu() if self.conditions is None else self.conditions.cpu()[label.cpu()]

    def judge(
        self, scores: Sequence[Float[Tensor, "b _ _"]], label: Int[Tensor, " b"]
    ) -> GateScores:
        """Return the decision from the scores of the first stages, or all of them.

        Args:
            scores: see `Stage.score`, one per stage.
            label: index of the condition of each tile.
        """
        count = len(scores[0])
        passes = torch.ones(count, dtype=torch.bool)
        p_value = torch.ones(count)
        parts: dict[str, Tensor] = {}
        dropped: list[str | None] = [None] * count
        for stage, stage_scores in zip(self.stages, scores, strict=False):
            mean = stage_scores.mean(2)
            parts |= dict(zip(stage.parts, mean.unbind(1), strict=True))
            if not stage.false_rejection:
                continue
            stage_p_value = stage.p_value(stage_scores, self._classes(label))
            rejects = ~stage.passes(stage_p_value)
            names = list(stage.parts)
            worst = stage.standardised(mean).argmin(1)
            for row in torch.nonzero(rejects & passes)[:, 0].tolist():
                dropped[row] = names[int(worst[row])]
            passes &= ~rejects
            # Each stage counts by its share, so that the smallest one is a joint p-value.
            weight = self.false_rejection / stage.false_rejection
            p_value = torch.minimum(p_value, stage_p_value * weight)
        return GateScores(parts=parts, p_value=p_value, passes=passes, dropped_by=tuple(dropped))

    def joint(self, parts: Mapping[str, float]) -> float:
        """Return the worst standardised score, which ranks tiles more finely than the p-value.

        Args:
            parts: raw scores by name; those of skipped stages may be missing.
        """
        worst = math.inf
        for stage in self.stages:
            if stage.false_rejection and stage.parts.keys() <= parts.keys():
                scores = torch.tensor([[parts[name] for name in stage.parts]])
                worst = min(worst, float(stage.standardised(scores).amin()))
        return worst

    def describe(self) -> dict[str, Any]:
        """Say what the gate costs in real tiles, what is guaranteed of it, and what it drops."""
        deciding = [stage for stage in self.stages if stage.false_rejection]
        bound = sum(stage.bound for stage in deciding)
        counts = ", ".join(str(len(stage.reference)) for stage in deciding)
        return {
            "parts": [name for stage in deciding for name in stage.parts],
            "recorded_only": [
                name for stage in self.stages if stage not in deciding for name in stage.parts
            ],
            "false_rejection": self.false_rejection,
            "joint_false_rejection_at_most": bound,
            "stages": [stage.describe() for stage in deciding],
            "power": dict(self.power),
            "note": (
                f"On average over draws of the held-out tiles ({counts}) at most "
                f"{percent(bound, 1)} of real tiles are rejected; a single calibration may exceed "
                "this with the probabilities above. Mirrored and rotated copies would add no "
                "information. "
                "There is no guarantee for single classes or for tiles from elsewhere."
            )
            + (
                ""
                if self.power
                else " The share of generated tiles that the gate drops was not measured."
            ),
        }


def single_stage(
    parts: Mapping[str, GatePart], reference: Float[Tensor, "n p"], false_rejection: float
) -> Gate:
    """Return a gate of one stage; see `Stage` for the arguments."""
    stage = Stage(parts=parts, reference=reference, false_rejection=false_rejection)
    return Gate(stages=(stage,))


def centre_and_spread(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return median and scaled absolute deviation along a dimension, which is kept."""
    centre = scores.quantile(0.5, dim=dim, keepdim=True)
    spread = (scores - centre).abs().quantile(0.5, dim=dim, keepdim=True) * _MAD_TO_DEVIATION
    return centre, spread.clamp_min(1e-9)


@torch.no_grad()
def scores_one_by_one(
    parts: Mapping[str, GatePart],
    source: TileSource,
    *,
    channels: tuple[int, ...],
    classes: tuple[str, ...],
    device: torch.device,
) -> Float[Tensor, "n p"]:
    """Return every part's score of real tiles, each alone, as a stored tile is scored.

    Args:
        parts: by name.
        source: real tiles; those of classes not in `classes` are left out, and counted in the log.
        channels: the source's channels in the order that the parts read.
        classes: the class list that the parts' labels index; classes match by name.
        device: where the parts compute.
    """
    rows = [torch.empty(0, len(parts))]
    left_out: Counter[str] = Counter()
    for index, class_index in enumerate(source.labels.tolist()):
        name = source.classes[class_index]
        if name in classes:
            image = source.batch([index]).image[:, list(channels)].to(device)
            label = torch.tensor([classes.index(name)], device=device)
            rows.append(torch.stack([part(image, label).cpu() for part in parts.values()], 1))
        else:
            left_out[name] += 1
    for name, count in left_out.items():
        log.warning("left out: %d held-out tiles of %s, which the generator lacks", count, name)
    return torch.cat(rows)
