"""Training of a network beside a finished generator: critics of the gate, and the encoder."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.errors import JobError
from rs_lowconf.gan.steps import follow, improve
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import EncoderSettings, GateSettings, UpdateSettings

D = TypeVar("D", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, eq=False)
class BesideRecord(Generic[D]):
    """One training step of a network that is trained beside a finished generator."""

    images: int
    """Real tiles shown so far."""
    loss: float
    """Of a discriminator, in nats: the mean over real and generated tiles, so that log 2 is chance,
    or the sum where each pixel is judged. Of an encoder: see `encode.Comparison`."""
    average: D
    """The weight average so far; training still updates it, so copy it to keep it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """The loss of one step."""

    total: Float[Tensor, ""]
    """What the step lowers."""
    loss: Float[Tensor, ""]
    """What is reported of it."""


def train_beside(
    network: D,
    lesson: Callable[[int, torch.Generator], Lesson],
    recipe: GateSettings | EncoderSettings | UpdateSettings,
    *,
    seed: int,
    stream: tuple[str, ...],
    real: int | None = None,
    momentum: float = 0.0,
    cosine: bool = False,
    diverged: tuple[str, str],
) -> Iterator[BesideRecord[D]]:
    """Train a network by Adam; the weight average counts.

    Args:
        network: to train; parameters that need no gradient stay as they are.
        lesson: gives the loss of a step, for its number and its random number generator.
        recipe: how long and how fast.
        seed: of the training.
        stream: names the random stream of its steps.
        real: real tiles in a batch, if not all of it are.
        momentum: of Adam.
        cosine: whether the learning rate falls to 0, by a cosine.
        diverged: how to call the training, and what to do, if the loss is no longer a number.

    Raises:
        JobError: the loss is no longer a number.
    """
    average = copy.deepcopy(network).requires_grad_(requires_grad=False)
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(
        free, lr=recipe.learning_rate, betas=(momentum, 0.999 if momentum else 0.99)
    )
    real = real or recipe.batch_size
    steps = math.ceil(recipe.images / real)
    for number in range(steps):
        step = lesson(number, torch.Generator().manual_seed(seed_of(seed, *stream, number)))
        if cosine:
            for group in adam.param_groups:
                group["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * number / steps)) / 2
        improve([adam], step.total)
        images, loss = (number + 1) * real, step.loss.item()
        follow(average, network, recipe, images)
        if not math.isfinite(loss):
            name, remedy = diverged
            raise JobError(f"{name} diverged after {images:,} images", remedy=remedy)
        yield BesideRecord(images=images, loss=loss, average=average)
