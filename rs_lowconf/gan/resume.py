"""The state of a GAN's training as one file, from which it goes on as if it had not stopped."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rs_lowconf.errors import ModelError
from rs_lowconf.gan.model import AnyTraining
from rs_lowconf.runs import read_checkpoint, write_checkpoint

log = logging.getLogger(__name__)

STATE, CHECKPOINT = "state.safetensors", "gan.safetensors"
"""In the folder of a training: everything that its next step depends on, and its best model."""


def save_state(path: Path, training: AnyTraining) -> None:
    """Write everything that the next training step depends on."""
    header = {"seed": training.seed, "settings": training.settings.model_dump(mode="json")}
    write_checkpoint(path, _state_kind(training), training.state(), header)


def restore_state(path: Path, training: AnyTraining) -> None:
    """Continue a training from what `save_state` wrote.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    tensors, header = read_checkpoint(path, _state_kind(training))
    _require_same(path, header, training)
    training.restore(tensors)


def resume(folder: Path, training: AnyTraining) -> None:
    """Continue a training from its folder, if there is anything: its state, or else its checkpoint.

    Raises:
        ModelError: the file is damaged, or of a training with other settings or seed.
    """
    state, checkpoint = folder / STATE, folder / CHECKPOINT
    if state.exists():
        restore_state(state, training)
    elif checkpoint.exists():
        tensors, header = read_checkpoint(checkpoint, training.kind)
        _require_same(checkpoint, header, training)
        training.begin_at(tensors, header["images"])
        log.warning(
            "%s is missing: training goes on from %s after %s images, with averaged weights and an "
            "optimiser that knows nothing of the steps before",
            state,
            checkpoint.name,
            f"{training.images:,}",
        )


def _require_same(
    path: Path,
    header: Mapping[str, Any],
    training: AnyTraining,
) -> None:
    """Raise a ModelError if a file is of a training with other settings or seed."""
    # A setting that did not exist then had today's default.
    before = type(training.settings).model_validate(header["settings"]).model_dump(mode="json")
    free = ("images", "checkpoint_images", "sheet_columns", "bank")
    wanted = training.settings.model_dump(mode="json")
    changed = [key for key in wanted if key not in free and wanted[key] != before[key]]
    if header["seed"] != training.seed:
        changed.append("run.seed")
    if changed:
        raise ModelError(
            f"{path} was trained with other settings of {', '.join(changed)}",
            remedy="restore them, or choose another run.dir",
        )


def _state_kind(training: AnyTraining) -> str:
    return f"{training.kind} training state"
