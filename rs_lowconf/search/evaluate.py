"""Latents to scores: generator, target and gate in padded micro-batches of one fixed size.

Kernels depend on the batch's shape, so a sample computed in a batch of 3 differs in its last
bits from the same sample in a batch of 16. A fixed, padded shape makes it the same in any
company (at any place in the batch, with what `rs_lowconf.determinism` asks of the matrix library);
a stored tile is always scored alone.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt16
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.asking import ask, require_answers
from rs_lowconf.search.gate import Gate, GatePart
from rs_lowconf.search.reading import Answer, Reading
from rs_lowconf.types import TargetModel, TileGenerator

EXPORT_SCALE = 10_000.0


Limit = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Bool[Tensor, " b"]]
"""Whether tiles may be found at all, given the index of their condition."""

Guide = Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]]
"""A differentiable guess of the log-odds of a target's confidence, given the index of the
conditioned class. The channels are in the generator's order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What the target, or a guide in its place, says of a batch of tiles."""

    confidence: Float[Tensor, " b"]
    log_odds: Float[Tensor, " b"]
    """Of the confidence, where that rounds to 1."""
    evaluations: int
    """Evaluations of the target that each tile cost: none where a guide answered."""
    pixels: UInt16[Tensor, "b c h w"]
    """The tiles as they would be stored: reflectance x 10,000."""
    gradient: Float[Tensor, "b d"] | None
    """Gradient of the energy with respect to the latent; None when not asked for."""
    unanswered: Mapping[int, str]
    """Rows of the tiles that the target has no answer to, and why: their confidence is 1, their
    log-odds infinite, their gradient 0."""

    @property
    def answered(self) -> list[int]:
        """Return the rows of the other tiles."""
        return [row for row in range(len(self.log_odds)) if row not in self.unanswered]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gate says of a tile as it is stored, scored alone."""

    parts: dict[str, float]
    """What every part says."""
    p_value: float
    """The joint p-value."""
    passes: bool
    dropped_by: str | None = None
    """The part of the gate that dropped it; None where it passes, or where the limit of the search
    is what it fails."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Penalty:
    """What the energy of a latent rises by where its tile is unlike real ones."""

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
            reading: what counts as the target's confidence.
            features: of tiles with the generator's channels.
            target_channels: the generator's channels that the target reads, in its order.
            micro_batch: the fixed batch size.
            device: where the networks are.
        """
        self.generator = generator
        self.target = target
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

        What it raises ends the work between two of them, whatever search they belong to.
        """
        watched = copy.copy(self)
        watched._before_batch = before_batch
        return watched

    def guided_by(self, guide: Guide) -> "Evaluator":
        """Return the same with a guide that leads in the target's place.

        What it leads to is put to the target as it is stored.
        """
        guided = copy.copy(self)
        guided._guide = guide
        return guided

    def by_confidence_alone(self) -> "Evaluator":
        """Return the same without penalties of the energy."""
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
        """Return the same for other conditions, such as the surroundings of real tiles.

        Args:
            generator: draws tiles of these conditions.
            gate: that knows them.
            penalties: of the energy, which know them too.
            limit: tiles outside do not pass, whatever the gate says.
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
            gate: that knows them.
            penalties: of the energy, which know them too.
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
        """Score tiles of latents, with the energy's gradient when asked for.

        The energy of a latent is the log-odds of the target's confidence, which do not
        saturate as the confidence does, plus the penalties.

        Raises:
            ModelError: the target has no answer to any of the tiles, which are not just a few.
        """
        parts = [
            self._micro(
                z[start : start + self._micro_batch],
                label[start : start + self._micro_batch],
                gradient,
            )
            for start in range(0, len(z), self._micro_batch)
        ]
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
        told = self.target.predict(self._image(pixels)[:, self._target_channels])
        said = self._reading(told, torch.tensor([label], device=told.device))
        return Answer(
            log_probability=said.log_probability.cpu(),
            confidence=said.confidence.cpu(),
            log_odds=said.log_odds.cpu(),
        )

    @torch.no_grad()
    def judge_stored(
        self, pixels: UInt16[Tensor, "c h w"], label: int, *, thorough: bool = False
    ) -> Judgement:
        """Return what the gate says of a stored tile, scored alone.

        Args:
            pixels: of the tile, in the generator's bands.
            label: index of its condition.
            thorough: whether to ask all parts of the gate, also after one that drops it.
        """
        image, own = self._image(pixels), torch.tensor([label], device=self._device)
        gate = self.gate.score(image, own, thorough=thorough)
        inside = self._limit is None or bool(self._limit(image, own)[0])
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

        Only of a target that answers for pixels. Nothing new is learned, so it counts as no
        evaluation.
        """
        said = self.target.predict(self._image(pixels)[:, self._target_channels])
        self.target.evaluations -= 1
        best = said[0].max(dim=0)
        return best.indices.cpu(), best.values.exp().cpu()

    @torch.no_grad()
    def features_stored(self, pixels: UInt16[Tensor, "c h w"]) -> Float[Tensor, " f"]:
        """Return the features of a stored tile, in which distance means dissimilarity."""
        return self._features(self._image(pixels))[0].cpu()

    def _image(self, pixels: UInt16[Tensor, "c h w"]) -> Float[Tensor, "1 c h w"]:
        return (pixels.float() / EXPORT_SCALE)[None].to(self._device)

    def _micro(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], gradient: bool) -> Scores:
        self._before_batch()
        count = len(z)
        padding = self._micro_batch - count
        # Padding rows repeat the first one; their scores are dropped.
        row = torch.cat([torch.arange(count), torch.zeros(padding, dtype=torch.long)])
        leaf = z[row].to(self._device).requires_grad_(gradient)
        labels = label[row].to(self._device)
        rows, unanswered = list(range(count)), dict[int, str]()
        with torch.set_grad_enabled(gradient):
            image = self.generator(leaf, labels)
            guide = self._guide if gradient else None
            if guide is not None:
                log_odds = guide(image, labels)
                confidence = log_odds.sigmoid()
            else:
                before = self.target.evaluations
                asked = ask(self.target.predict, image[:, self._target_channels], count)
                # Padding is work for the machine, and to ask again without some is, too: neither
                # is a question to the target.
                self.target.evaluations = before + count
                rows, said = asked.rows, asked.log_probability
                unanswered = {tile: why.reason for tile, why in asked.without.items()}
                log_odds = confidence = torch.empty(0, device=self._device)
                if said is not None:
                    answer = self._reading(said, labels[asked.filled].to(said.device))
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
    """Return the first values in their rows, on the CPU, and another value in all other rows."""
    placed = torch.full((count,), other)
    placed[list(rows)] = values.detach()[: len(rows)].cpu()
    return placed


def _nothing() -> None:
    """Let the work go on."""


def stored_numbers(image: Float[Tensor, "b c h w"]) -> UInt16[Tensor, "b c h w"]:
    """Return reflectance x 10,000 as stored: at least 1, because 0 is nodata."""
    return (image * EXPORT_SCALE).round().clamp(1, 65_535).to(torch.uint16)
