"""Training of a network on one split and its temperature calibration on another."""

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from rs_lowconf.errors import JobError, ModelError
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.target.networks import Network
from rs_lowconf.target.normalise import band_statistics, decorrelation
from rs_lowconf.target.tasks import Task
from rs_lowconf.target.trained import TrainedNetwork
from rs_lowconf.target.truth import Source, in_order, is_known, truth_of
from rs_lowconf.training_state import restore, tensors_of

log = logging.getLogger(__name__)

#: Range of calibrated temperatures: without it, a network without mistakes on the validation split
#: would be sharpened endlessly.
TEMPERATURES = (0.2, 5.0)

#: Tiles or pixels to fit the temperature; more would not change it.
_CALIBRATION = 200_000

_STATE = "target training state"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of training, measured on the validation split."""

    epoch: int
    """From 1 on."""

    train_loss: float
    """Mean over the epoch's steps of the task's loss on augmented tiles, in nats."""

    val_loss: float
    """The task's loss on the validation tiles, in nats, at temperature 1."""

    val_score: float
    """The task's score on the validation tiles: accuracy, or mean intersection over union."""

    learning_rate: float
    """Of the epoch's last step."""

    seconds: float
    """Wall time of the epoch, validation included."""


class Training:
    """A network that learns a task epoch by epoch; what it has learned can be saved between two.

    AdamW with cosine decay to zero. The result is the running average of the weights (Izmailov et
    al., "Averaging weights leads to wider optima and better generalization", UAI 2018, as an
    exponential one) after the epoch with the lowest validation loss: on a few dozen tiles accuracy
    moves in steps of percents, and its maximum picks lucky early epochs. The result depends on the
    arguments only, bit for bit on one machine with a fixed number of threads, however often the
    training was interrupted.
    """

    epoch = 0
    """Epochs that are finished."""

    best: TrainedNetwork
    """The network after the best epoch so far, at temperature 1; before the first, a random one."""

    def __init__(self, task: Task, seed: int, device: torch.device) -> None:
        """Build the network.

        Args:
            task: what to learn, and how long and how fast.
            seed: seeds weights, draws, augmentation and dropout.
            device: where to compute.

        Raises:
            SettingsError: the architecture is unknown.
        """
        self._task, self._seed, self._device = task, seed, device
        with forked_rng(seed_of(seed, "weights")):
            self._network = task.spec.build().to(device)
        mean, covariance = band_statistics(task.train)
        self._network.mean.copy_(mean)
        self._network.decorrelation.copy_(decorrelation(covariance))
        self._average = copy.deepcopy(self._network).requires_grad_(False)
        self._best_loss = math.inf
        self._keep_best()
        schedule = task.settings
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
        )
        self._steps = math.ceil(len(task.train) / schedule.batch_size)
        self._rates = _cosine(schedule.learning_rate, schedule.epochs * self._steps)

    def seconds_left(self) -> float:
        """Return about how long the epochs that are left will take.

        Two steps of a copy are timed, the first of which prepares the device; a validation tile
        takes a third of the time of a training tile. Nothing is learned.
        """
        task, schedule, network = self._task, self._task.settings, copy.deepcopy(self._network)
        indices, seconds = task.draws(self._seed)[0].tolist(), 0.0
        for step in range(2):
            start = time.perf_counter()
            loss = self._loss(network, indices, self._seed, step)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()  # waits for the device
            seconds = time.perf_counter() - start
        steps = self._steps + len(task.val) / schedule.batch_size / 3
        return seconds * steps * (schedule.epochs - self.epoch)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left, and yield after each.

        Raises:
            JobError: the loss is no longer a number.
        """
        schedule = self._task.settings
        while self.epoch < schedule.epochs:
            start = time.perf_counter()
            train_loss = self._learn(seed_of(self._seed, self.epoch + 1))
            logits, truth = known_logits(self._average, self._task.val, schedule.batch_size)
            val_loss, val_score = self._task.figures(logits, truth)
            self.epoch += 1
            if not math.isfinite(train_loss + val_loss):
                raise JobError(
                    f"training diverged in epoch {self.epoch} (losses {train_loss} and {val_loss})",
                    remedy="lower the learning_rate",
                )
            if val_loss < self._best_loss:
                self._best_loss = val_loss
                self._keep_best()
            yield EpochRecord(
                epoch=self.epoch,
                train_loss=train_loss,
                val_loss=val_loss,
                val_score=val_score,
                learning_rate=self._rates[self.epoch * self._steps - 1],
                seconds=time.perf_counter() - start,
            )

    def _learn(self, seed: int) -> float:
        """Train one epoch, and return the mean loss of its steps."""
        task, losses = self._task, []
        for step, indices in enumerate(task.draws(seed).tolist()):
            loss = self._loss(self._network, indices, seed, step)
            done = self.epoch * self._steps + step
            for group in self._optimiser.param_groups:
                group["lr"] = self._rates[done]
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            # Faster at first, or the average would remember the random start for long.
            half_life = min(task.settings.average_epochs * self._steps, (done + 1) / 4)
            _follow(self._average, self._network, 0.5 ** (1 / half_life) if half_life else 0.0)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    def _loss(
        self, network: nn.Module, indices: list[int], seed: int, step: int
    ) -> Float[Tensor, ""]:
        """Return the loss of a network on a batch, as in this step of an epoch with this seed."""
        batch = self._task.train.batch(indices)
        image, truth = self._task.augmented(
            batch.image.to(self._device),
            truth_of(batch).to(self._device),
            seed_of(seed, step, "augment"),
        )
        with forked_rng(seed_of(seed, step, "dropout")):
            logits = network.train()(image)
        return self._task.loss(logits, truth)

    def _keep_best(self) -> None:
        self.best = TrainedNetwork(self._task.spec, copy.deepcopy(self._average))

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next epoch depends on, besides the arguments."""
        return {
            "epoch": torch.tensor(self.epoch),
            "best_loss": torch.tensor(self._best_loss, dtype=torch.float64),
            **tensors_of(self._modules(), {"network": self._optimiser}),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned for a training with the same arguments.

        Raises:
            RuntimeError: it is of another network.
        """
        restore(self._modules(), {"network": self._optimiser}, tensors)
        self.epoch = int(tensors["epoch"])
        self._best_loss = float(tensors["best_loss"])

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self._network, "average": self._average, "best": self.best.network}


def save_state(path: Path, training: Training, made_with: Mapping[str, Any]) -> None:
    """Write what a training has learned so far as one file, atomically.

    Args:
        path: the file.
        training: between two epochs.
        made_with: JSON values by name, all that the training depends on.

    Raises:
        OutputError: the file cannot be written.
    """
    write_checkpoint(path, _STATE, training.state(), made_with)


def restore_state(path: Path, training: Training, made_with: Mapping[str, Any]) -> None:
    """Continue a training from what `save_state` wrote.

    Raises:
        ModelError: the file is damaged, or of a training with other settings.
    """
    tensors, header = read_checkpoint(path, _STATE)
    changed = [name for name in made_with if made_with[name] != header.get(name)]
    if changed:
        raise ModelError(
            f"{path} is of a training with other settings of {', '.join(changed)}",
            remedy="restore them, choose another run.dir, or delete the file to begin again",
        )
    try:
        training.restore(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path} is of a training by another version of rs_lowconf",
            remedy="delete the file to begin again",
        ) from error


def calibrate(trained: TrainedNetwork, val: Source) -> TrainedNetwork:
    """Return the same network at the temperature with the lowest validation NLL."""
    logits, truth = known_logits(trained.network, val, trained.batch_size)
    every = math.ceil(len(truth) / _CALIBRATION)
    return TrainedNetwork(
        trained.spec,
        trained.network,
        temperature=best_temperature(logits[::every], truth[::every]),
        batch_size=trained.batch_size,
    )


def best_temperature(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> float:
    """Return the T within `TEMPERATURES` that minimises the NLL of `logits / T`.

    The NLL is convex in 1 / T, so it has one minimum (Guo et al. 2017, On Calibration of
    Modern Neural Networks, section 4.2).
    """
    logits = logits.double()

    def negative_log_likelihood(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded")
    temperature = math.exp(found.x)
    if min(abs(found.x - bound) for bound in bounds) < 0.01:
        log.warning(
            "temperature %.2f is at the edge of its range: %d validation tiles do not determine it",
            temperature,
            len(labels),
        )
    return temperature


@torch.no_grad()
def known_logits(
    network: Network, source: Source, batch_size: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, " n"]]:
    """Return logits and classes of all tiles, or of the pixels whose class is known."""
    network.eval()
    logits, classes = [], []
    for batch in in_order(source, batch_size):
        truth = truth_of(batch)
        known = is_known(truth)
        answers = network(batch.image.to(network.mean.device)).cpu()
        logits.append(answers.movedim(1, -1)[known])
        classes.append(truth[known])
    return torch.cat(logits), torch.cat(classes)


def _cosine(first: float, steps: int) -> list[float]:
    """Return the learning rate of every step: a cosine from `first` down to 0 after the last.

    Step by step, as torch's CosineAnnealingLR computes it, down to the last bit.
    """
    shares = [1 + math.cos(math.pi * step / steps) for step in range(steps)]
    ratios = (later / earlier for earlier, later in pairwise(shares))
    return list(accumulate(ratios, lambda rate, ratio: ratio * rate, initial=first))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move the average towards the network, including the statistics of batch norms."""
    for slow, fast in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - keep)
        else:
            slow.copy_(fast)
