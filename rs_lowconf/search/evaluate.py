"""Latents to scores: generator, target and gate in padded micro-batches of one fixed size.

A sample is then independent of what else is in its batch (and of its position, with the settings
of the matrix library in `rs_lowconf.determinism`); a stored tile is always scored alone.
"""

import copy
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt16
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.asking import CountedTarget, require_answers
from rs_lowconf.batches import fixed_batches
from rs_lowconf.generators import finish
from rs_lowconf.search.gate import Gate, GatePart
from rs_lowconf.search.reading import Answer, Reading
from rs_lowconf.stored import reflectance_of, stored_numbers
from rs_lowconf.types import TargetModel, TileGenerator

Limit = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Bool[Tensor, " b"]]
"""Whether tiles are eligible at all, given the index of their condition."""

Guide = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]]
"""A differentiable guess of the log-odds of a target's confidence, given the index of the
conditioned class. The channels are in the generator's order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Predictions of the target, or of a guide instead, for a batch of tiles."""

    confidence: Float[Tensor, " b"]
    log_odds: Float[Tensor, " b"]
    """Log-odds of the confidence, finite where that rounds to 1."""
    evaluations: int
    """Evaluations of the target that each tile cost: 0 if a guide answered."""
    pixels: UInt16[Tensor, "b c h w"]
    """The tiles as stored in a file; see `stored_numbers`."""
    gradient: Float[Tensor, "b d"] | None
    """Gradient of the energy with respect to the latent; None when not asked for."""
    unanswered: Mapping[int, str]
    """Rows of the tiles that the target has no answer for, and why: their confidence is 1, their
    log-odds infinite, their gradient 0."""

    @property
    def answered(self) -> list[int]:
        """Return the rows of the other tiles."""
        return [row for row in range(len(self.log_odds)) if row not in self.unanswered]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The gate's scores of a stored tile, scored alone."""

    parts: dict[str, float]
    """Score of each part."""
    p_value: float
    """The joint p-value."""
    passes: bool
    dropped_by: str | None = None
    """The part of the gate that dropped it; None if it passes, or only exceeds the limit of the
    search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Penalty:
    """Increase of a latent's energy where its tile is unlike real tiles."""

    part: GatePart
    """Differentiable; its channels are in the generator's order."""
    floor: float
    """The score below which the energy rises."""
    spread: float
    """The score's unit."""
    weight: float

    def __call__(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return weight x softplus((floor - score) / spread)."""
        return self.weight * F.softplus((self.floor - self.part(image, label)) / self.spread)


class Evaluator:
    """Joins the generator, the target under test, the penalties of the energy and the gate."""

    def __init__(
        self,
        generator: TileGenerator,
        target: TargetModel,
        gate: Gate,
        *,
        penalties: Sequence[Penalty],
        reading: Reading,
        features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]],
        target_channels: Sequence[int],
        micro_batch: int,
        device: torch.device,
    ) -> None:
        """Join them.

        Args:
            generator: draws the tiles.
            target: the model under test.
            gate: judges stored tiles, their channels in the generator's order.
            penalties: terms of the energy besides the target's confidence.
            reading: how the target's confidence is computed.
            features: of tiles with the generator's channels.
            target_channels: the generator's channels that the target reads, in its order.
            micro_batch: the fixed batch size.
            device: where the networks are.
        """
        self.generator = generator
        self.target = CountedTarget(target)
        """Shared by all evaluators made from this one."""
        self.gate = gate
        self._features = features
        self._target_channels = list(target_channels)
        self.penalties = tuple(penalties)
        self._reading = reading
        self._guide: Guide | None = None
        self._limit: Limit | None = None
        self._micro_batch = micro_batch
        self._device = device
        self._before_batch: Callable[[], None] = _nothing

    def watched(self, before_batch: Callable[[], None]) -> "Evaluator":
        """Return the same that calls `before_batch` before each micro-batch and stored tile.

        An exception of it ends the work between two of them, in any search.
        """
        watched = copy.copy(self)
        watched._before_batch = before_batch
        return watched

    def guided_by(self, guide: Guide) -> "Evaluator":
        """Return the same with a guide that provides gradients instead of the target.

        The tiles it leads to are shown to the target as stored.
        """
        guided = copy.copy(self)
        guided._guide = guide
        return guided

    def by_confidence_alone(self) -> "Evaluator":
        """Return the same without the penalties of the energy."""
        other = copy.copy(self)
        other.penalties = ()
        return other

    def around(
        self,
        generator: TileGenerator,
        *,
        gate: Gate,
        penalties: Sequence[Penalty],
        limit: Limit,
    ) -> "Evaluator":
        """Return the same for other conditions, such as surroundings of real tiles.

        Args:
            generator: draws tiles of these conditions.
            gate: for these conditions.
            penalties: of the energy, for these conditions.
            limit: tiles outside do not pass, whatever their gate scores.
        """
        other = copy.copy(self)
        other.generator, other.gate = generator, gate
        other.penalties = tuple(penalties)
        other._limit = limit
        return other

    def of_masks(
        self,
        generator: TileGenerator,
        *,
        gate: Gate,
        penalties: Sequence[Penalty],
        regions: Bool[Tensor, "n h w"],
    ) -> "Evaluator":
        """Return the same for tiles of other masks, such as those of held-out real ones.

        Args:
            generator: draws tiles of these masks.
            gate: for these conditions.
            penalties: of the energy, for these conditions.
            regions: the pixels of each over which the target's confidence is read.
        """
        other = copy.copy(self)
        other.generator, other.gate = generator, gate
        other.penalties = tuple(penalties)
        other._reading = replace(self._reading, regions=regions)
        return other

    def reads(self, label: int) -> bool:
        """Return whether a condition has pixels over which the target's confidence is read."""
        regions = self._reading.regions
        return regions is None or bool(regions[label].any())

    def score(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], *, gradient: bool) -> Scores:
        """Score tiles of latents, with the energy's gradient on request; see `scoring`."""
        return finish(self.scoring(z, label, gradient=gradient))

    def scoring(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], *, gradient: bool
    ) -> Generator[int, None, Scores]:
        """Score tiles of latents, and yield how many are scored after each batch.

        The energy of a latent is the log-odds of the target's confidence, which do not
        saturate as the confidence does, plus the penalties.

        Raises:
            ModelError: the target has no answer for any of the tiles, and they are not just a few.
        """
        parts, scored = [], 0
        for count, (latents, conditions) in fixed_batches(self._micro_batch, z, label):
            parts.append(self._micro(latents, conditions, count, gradient=gradient))
            scored += count
            yield scored
        gradients = [part.gradient for part in parts if part.gradient is not None]
        unanswered = {
            number * self._micro_batch + row: reason
            for number, part in enumerate(parts)
            for row, reason in part.unanswered.items()
        }
        require_answers(Counter(unanswered.values()), len(z))
        return Scores(
            confidence=torch.cat([part.confidence for part in parts]),
            log_odds=torch.cat([part.log_odds for part in parts]),
            evaluations=parts[0].evaluations,
            pixels=torch.cat([part.pixels for part in parts]),
            gradient=torch.cat(gradients) if gradients else None,
            unanswered=unanswered,
        )

    @torch.no_grad()
    def answer_stored(self, pixels: UInt16[Tensor, "c h w"], label: int) -> Answer:
        """Return the target's answer to a stored tile, scored alone, on the CPU.

        Raises:
            AnswerError: it has none.
        """
        self._before_batch()
        prediction = self.target.predict(self._image(pixels)[:, self._target_channels])
        answer = self._reading(prediction, torch.tensor([label], device=prediction.device))
        return Answer(
            log_probability=answer.log_probability.cpu(),
            confidence=answer.confidence.cpu(),
            log_odds=answer.log_odds.cpu(),
        )

    @torch.no_grad()
    def judge_stored(
        self, pixels: UInt16[Tensor, "c h w"], label: int, *, thorough: bool = False
    ) -> Judgement:
        """Return the gate's scores of a stored tile, scored alone.

        Args:
            pixels: of the tile, in the generator's bands.
            label: index of its condition.
            thorough: whether to compute all parts of the gate, also after one drops it.
        """
        image, condition = self._image(pixels), torch.tensor([label], device=self._device)
        gate = self.gate.score(image, condition, thorough=thorough)
        inside = self._limit is None or bool(self._limit(image, condition)[0])
        return Judgement(
            parts={name: float(values[0]) for name, values in gate.parts.items()},
            p_value=float(gate.p_value[0]),
            passes=inside and bool(gate.passes[0]),
            dropped_by=gate.dropped_by[0],
        )

    @torch.no_grad()
    def maps_stored(
        self, pixels: UInt16[Tensor, "c h w"]
    ) -> tuple[Int[Tensor, "h w"], Float[Tensor, "h w"]]:
        """Return class and confidence of every pixel of a stored tile, on the CPU.

        Only of a target that predicts one class per pixel. It does not count as an evaluation, as
        the tile was evaluated before.
        """
        prediction = self.target.model.predict(self._image(pixels)[:, self._target_channels])
        best = prediction[0].max(dim=0)
        return best.indices.cpu(), best.values.exp().cpu()

    @torch.no_grad()
    def features_stored(self, pixels: UInt16[Tensor, "c h w"]) -> Float[Tensor, " f"]:
        """Return the features of a stored tile, in which distance means dissimilarity."""
        return self._features(self._image(pixels))[0].cpu()

    def _image(self, pixels: UInt16[Tensor, "c h w"]) -> Float[Tensor, "1 c h w"]:
        return reflectance_of(pixels)[None].to(self._device)

    def _micro(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], count: int, *, gradient: bool
    ) -> Scores:
        """Score the first `count` tiles of a batch."""
        self._before_batch()
        leaf = z.to(self._device).requires_grad_(gradient)
        labels = label.to(self._device)
        rows, unanswered = list(range(count)), dict[int, str]()
        with torch.set_grad_enabled(gradient):
            image = self.generator(leaf, labels)
            guide = self._guide if gradient else None
            if guide is not None:
                log_odds = guide(image, labels)
                confidence = log_odds.sigmoid()
            else:
                asked = self.target.ask(image[:, self._target_channels], count)
                rows, prediction = asked.rows, asked.log_probability
                unanswered = {tile: why.reason for tile, why in asked.without.items()}
                log_odds = confidence = torch.empty(0, device=self._device)
                if prediction is not None:
                    answer = self._reading(prediction, labels[asked.filled].to(prediction.device))
                    log_odds, confidence = answer.log_odds, answer.confidence
            slope = None
            if gradient:
                energy = log_odds[: len(rows)]
                for penalty in self.penalties:
                    energy = energy + penalty(image, labels)[rows]
                slope = torch.zeros(count, z.shape[1])
                if rows:
                    slope = torch.autograd.grad(energy.sum(), leaf)[0][:count].cpu()
        return Scores(
            confidence=_placed(confidence, rows, count, 1.0),
            log_odds=_placed(log_odds, rows, count, torch.inf),
            evaluations=1 if guide is None else 0,
            pixels=stored_numbers(image.detach()[:count].cpu()),
            gradient=slope,
            unanswered=unanswered,
        )


def _placed(
    values: Float[Tensor, " n"], rows: Sequence[int], count: int, other: float
) -> Float[Tensor, " count"]:
    """Return the first values in their rows, on the CPU, and a fill value in all other rows."""
    placed = torch.full((count,), other)
    placed[list(rows)] = values.detach()[: len(rows)].cpu()
    return placed


def _nothing() -> None:
    """Do nothing."""
