"""Shared by all GAN trainings: optimiser, learning rate, weight average and state."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.errors import JobError, ModelError
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import EncoderSettings, GateSettings, GeneratorSettings, UpdateSettings
from rs_lowconf.training_state import restore, tensors_below, tensors_of
from rs_lowconf.types import MaskSource, TileSource

_BASIS_TILES = 1_000


def optimiser(module: nn.Module, settings: GeneratorSettings) -> torch.optim.Adam:
    """Return R3GAN's optimiser: Adam without momentum."""
    return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, betas=(0.0, 0.99))


def set_learning_rate(
    optimisers: Iterable[torch.optim.Adam], settings: GeneratorSettings, images: int
) -> None:
    """Set the learning rate for a number of images: a cosine down to its final share."""
    share = fallen(images / settings.images, settings.final_rate)
    for each in optimisers:
        for group in each.param_groups:
            group["lr"] = settings.learning_rate * share


def fallen(done: float, low: float) -> float:
    """Return what is left of 1 on its way along a cosine down to `low`, where it stays.

    Args:
        done: share of the way, from 0 on.
        low: its end.
    """
    return low + (1 - low) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def precision(settings: GeneratorSettings, device: torch.device) -> torch.autocast:
    """Return the context of the heavy layers; gradient penalties stay out of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def improve(optimisers: Iterable[torch.optim.Adam], loss: Float[Tensor, ""]) -> None:
    """Take one step down the gradient of a loss."""
    chosen = tuple(optimisers)
    for each in chosen:
        each.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
    for each in chosen:
        each.step()


@torch.no_grad()
def follow(
    average: nn.Module,
    module: nn.Module,
    settings: GeneratorSettings | GateSettings | EncoderSettings | UpdateSettings,
    images: int,
) -> None:
    """Update the weight average with the set half-life; faster during the first images."""
    half_life = min(settings.ema_images, max(images, 1) / 4)
    keep = 0.5 ** (settings.batch_size / half_life)
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


def some_tiles(source: TileSource | MaskSource, seed: int) -> Float[Tensor, "n c h w"]:
    """Return random tiles, enough to fit the spectral basis."""
    rng = torch.Generator().manual_seed(seed_of(seed, "gan", "basis"))
    return source.batch(torch.randperm(len(source), generator=rng)[:_BASIS_TILES].tolist()).image


def network_shape(
    source: TileSource | MaskSource, tile_size: int, seed: int, whitening: float
) -> dict[str, Any]:
    """Return the arguments by which generators and discriminators are built.

    Args:
        source: the training split.
        tile_size: side of a tile in pixels.
        seed: the run's.
        whitening: see `spectral_basis`.
    """
    return {
        "bands": source.bands,
        "classes": source.classes,
        "tile_size": tile_size,
        "basis": spectral_basis(some_tiles(source, seed), source.bands, whitening),
    }


class SavedTraining(ABC):
    """A GAN's training between two steps.

    Every random choice of a step is derived from the run seed and the step's number, so there is no
    random state to save: a resumed run equals an uninterrupted one.
    """

    images: int
    """Real tiles shown so far."""
    _optimisers: dict[str, torch.optim.Adam]

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as tensors by name."""
        saved = tensors_of(self.modules(), self._optimisers)
        return {"images": torch.tensor(self.images), **saved}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            ModelError: the state is of a network with other settings or data.
        """
        with _fitting("the saved training state"):
            restore(self.modules(), self._optimisers, tensors)
        self.images = int(tensors["images"])

    def begin_at(self, tensors: Mapping[str, Tensor], images: int) -> None:
        """Continue from the weights of a checkpoint; the optimisers start anew.

        Args:
            tensors: of the averaged generator, which trains on, and of its critics.
            images: real tiles shown before.

        Raises:
            ModelError: the checkpoint is of a network with other settings or data.
        """
        with _fitting("the checkpoint"):
            for name, module in self.modules().items():
                stored = tensors_below(tensors, "generator" if name == "average" else name)
                if stored:  # networks that only help in training are in no checkpoint
                    module.load_state_dict(stored)
        self.images = images


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ModelError(
            f"{what} is of a generator with other settings or bands",
            remedy="train in another folder (run.dir), or restore the settings",
        ) from error


@runtime_checkable
class LossRecord(Protocol):
    """Losses of a training step."""

    @property
    def images(self) -> int:
        """Real tiles shown so far."""

    @property
    def critic_loss(self) -> float:
        """Loss of the discriminator."""

    @property
    def generator_loss(self) -> float:
        """Loss of the generator."""


R_co = TypeVar("R_co", bound=LossRecord, covariant=True)


@runtime_checkable
class Training(Protocol[R_co]):
    """The part of a GAN's training that `train` needs."""

    images: int

    @property
    def settings(self) -> GeneratorSettings:
        """Return how it is trained."""

    def step(self) -> R_co:
        """Show one batch."""


def train(training: Training[R_co], section: str = "gan") -> Iterator[R_co]:
    """Yield a record after each step until the set number of images has been shown.

    Args:
        training: of a GAN.
        section: of the settings, which the error names.

    Raises:
        JobError: a loss is no longer a number; earlier checkpoints remain valid.
    """
    while training.images < training.settings.images:
        record = training.step()
        if not math.isfinite(record.critic_loss + record.generator_loss):
            raise JobError(
                f"training diverged after {record.images:,} images (a loss is not finite)",
                remedy=f"lower {section}.learning_rate or raise {section}.gamma, and train in a "
                "new run.dir",
            )
        yield record
