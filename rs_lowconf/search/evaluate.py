"""Latents to scores: generator, target and critic in padded micro-batches of one fixed size.

Kernels depend on the batch's shape, so a sample computed in a batch of 3 differs in its last
bits from the same sample in a batch of 16. A fixed, padded shape makes it the same in any
company; a stored tile is always scored alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt16
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.search.gate import Gate
from rs_lowconf.types import Critic, TargetModel, TileGenerator

EXPORT_SCALE = 10_000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What target and critic say of a batch of tiles."""

    log_probability: Float[Tensor, "b k"]
    realism: Float[Tensor, " b"]
    """The energy's critic; the gate has another one."""
    pixels: UInt16[Tensor, "b c h w"]
    """The tiles as they would be stored: reflectance x 10,000."""
    gradient: Float[Tensor, "b d"] | None
    """Gradient of the energy with respect to the latent; None when not asked for."""

    @property
    def confidence(self) -> Float[Tensor, " b"]:
        """Return the target's largest probability a tile."""
        return self.log_probability.max(dim=1).values.exp()


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScores:
    """What is said of a tile as it is stored, scored alone."""

    log_probability: Float[Tensor, " k"]
    parts: dict[str, float]
    """What every part of the gate says."""
    p_value: float
    """The gate's joint p-value."""
    features: Float[Tensor, " f"]
    """In which distance means dissimilarity."""

    @property
    def confidence(self) -> float:
        """Return the target's largest probability."""
        return float(self.log_probability.max().exp())


class Evaluator:
    """Joins the generator, the target under test, the critic of the energy and the gate."""

    def __init__(
        self,
        generator: TileGenerator,
        target: TargetModel,
        critic: Critic,
        gate: Gate,
        *,
        features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]],
        target_channels: Sequence[int],
        realism_floor: float,
        realism_weight: float,
        micro_batch: int,
        device: torch.device,
    ) -> None:
        """Join them.

        Args:
            generator: draws the tiles.
            target: the model under test.
            critic: of the energy; it reads the generator's bands by name.
            gate: judges stored tiles, their channels in the generator's order.
            features: of tiles with the generator's channels.
            target_channels: the generator's channels that the target reads, in its order.
            realism_floor: the critic's realism below which the energy rises.
            realism_weight: weight of the realism penalty in the energy.
            micro_batch: the fixed batch size.
            device: where the networks are.
        """
        self.generator = generator
        self.target = target
        self.critic = critic
        self.gate = gate
        self.realism_floor = realism_floor
        self._features = features
        self._target_channels = list(target_channels)
        self._critic_channels = list(generator.bands.index_of(critic.bands.names))
        self._realism_weight = realism_weight
        self._micro_batch = micro_batch
        self._device = device

    def score(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], *, gradient: bool) -> Scores:
        """Score tiles of latents, with the energy's gradient when asked for.

        The energy of a latent is the target's top-two log-probability margin, which does not
        saturate as the largest probability does, plus softplus(floor - realism).
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
        return Scores(
            log_probability=torch.cat([part.log_probability for part in parts]),
            realism=torch.cat([part.realism for part in parts]),
            pixels=torch.cat([part.pixels for part in parts]),
            gradient=torch.cat(gradients) if gradients else None,
        )

    @torch.no_grad()
    def score_stored(self, pixels: UInt16[Tensor, "c h w"], label: int) -> StoredScores:
        """Return what target and gate say of a stored tile, scored alone."""
        image = (pixels.float() / EXPORT_SCALE)[None].to(self._device)
        labels = torch.tensor([label], device=self._device)
        gate = self.gate.score(image, labels)
        return StoredScores(
            log_probability=self.target.predict(image[:, self._target_channels])[0].cpu(),
            parts={name: float(values[0]) for name, values in gate.parts.items()},
            p_value=float(gate.p_value[0]),
            features=self._features(image)[0].cpu(),
        )

    def _micro(self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"], gradient: bool) -> Scores:
        count = len(z)
        padding = self._micro_batch - count
        # Padding rows repeat the first one; their scores are dropped.
        row = torch.cat([torch.arange(count), torch.zeros(padding, dtype=torch.long)])
        leaf = z[row].to(self._device).requires_grad_(gradient)
        labels = label[row].to(self._device)
        with torch.set_grad_enabled(gradient):
            image = self.generator(leaf, labels)
            log_probability = self.target.predict(image[:, self._target_channels])
            realism = self.critic.realism(image[:, self._critic_channels], labels)
            slope = None
            if gradient:
                top = log_probability.topk(2, dim=1).values
                unreal = F.softplus(self.realism_floor - realism)
                energy = top[:, 0] - top[:, 1] + self._realism_weight * unreal
                slope = torch.autograd.grad(energy.sum(), leaf)[0][:count].cpu()
        # Padding is work for the machine, not a question to the target.
        self.target.evaluations -= padding
        return Scores(
            log_probability=log_probability.detach()[:count].cpu(),
            realism=realism.detach()[:count].cpu(),
            pixels=stored_numbers(image.detach()[:count].cpu()),
            gradient=slope,
        )


def stored_numbers(image: Float[Tensor, "b c h w"]) -> UInt16[Tensor, "b c h w"]:
    """Return reflectance x 10,000 as stored: at least 1, because 0 is nodata."""
    return (image * EXPORT_SCALE).round().clamp(1, 65_535).to(torch.uint16)
