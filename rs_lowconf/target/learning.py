"""The training epochs of our classifiers and segmenters: one schedule, any loss."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from rs_lowconf.errors import DataError, JobError
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import ClassifierSettings, SegmenterSettings
from rs_lowconf.types import MaskSource, TileSource

Step = tuple[Tensor, Tensor, int]
"""Augmented tiles, their true classes, and a seed for dropout."""


@dataclass(frozen=True, kw_only=True)
class TrainedEpoch:
    """One epoch, before validation."""

    epoch: int
    """From 1 on."""
    train_loss: float
    """Mean over the epoch's steps."""
    learning_rate: float
    """Of the epoch's last step."""
    start: float
    """`time.perf_counter` when it began."""


def learn(
    network: Module,
    average: Module,
    schedule: ClassifierSettings | SegmenterSettings,
    *,
    per_epoch: int,
    steps_of: Callable[[int], Iterable[Step]],
    loss_of: Callable[[Float[Tensor, "b k *pixels"], Any], Float[Tensor, ""]],
) -> Iterator[TrainedEpoch]:
    """Yield after each epoch; AdamW with cosine decay to zero.

    Args:
        network: to train, on the device to compute on.
        average: of its weights; this is the result (Izmailov et al., "Averaging weights leads to
            wider optima and better generalization", UAI 2018, as an exponential one).
        schedule: how long and how fast.
        per_epoch: steps of an epoch.
        steps_of: the steps of an epoch, given its number.
        loss_of: from logits and true classes to a loss.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs * per_epoch)
    steps = 0
    for epoch in range(1, schedule.epochs + 1):
        start = time.perf_counter()
        losses = []
        for image, truth, step_seed in steps_of(epoch):
            with forked_rng(step_seed):
                logits = network.train()(image)
            loss = loss_of(logits, truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            learning_rate = float(optimizer.param_groups[0]["lr"])
            decay.step()
            steps += 1
            # Faster at first, or the average would remember the random start for long.
            half_life = min(schedule.average_epochs * per_epoch, steps / 4)
            _follow(average, network, 0.5 ** (1 / half_life) if half_life else 0.0)
            losses.append(loss.detach())
        yield TrainedEpoch(
            epoch=epoch,
            train_loss=torch.stack(losses).mean().item(),
            learning_rate=learning_rate,
            start=start,
        )


def require_finite(learned: TrainedEpoch, val_loss: float) -> None:
    """Stop training if a loss is not finite.

    Raises:
        JobError: a loss is not finite.
    """
    if not math.isfinite(learned.train_loss + val_loss):
        raise JobError(
            f"training diverged in epoch {learned.epoch} (losses {learned.train_loss} and "
            f"{val_loss})",
            remedy="lower the learning_rate",
        )


def require_alike(train: TileSource | MaskSource, val: TileSource | MaskSource) -> None:
    """Reject splits that do not belong together.

    Raises:
        DataError: one is empty, or they differ in bands or classes.
    """
    for name, source in (("training", train), ("validation", val)):
        if len(source) == 0:
            raise DataError(f"the {name} split has no tile", expected="at least one")
    if train.bands != val.bands or train.classes != val.classes:
        raise DataError("training and validation split differ in their bands or classes")


@torch.no_grad()
def _follow(average: Module, network: Module, keep: float) -> None:
    """Move the average towards the network, including the statistics of batch norms."""
    for slow, fast in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - keep)
        else:
            slow.copy_(fast)
