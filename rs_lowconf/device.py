"""Chooses the device of torch, and sets torch up there."""

import os

import torch

from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import WORKER, RunSettings


def choose_device(settings: RunSettings) -> torch.device:
    """Return the device of the settings; `auto` is CUDA if available.

    Workers of a batch job take turns at the GPUs of their machine.

    Raises:
        SettingsError: CUDA is requested but not available.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "run.device is cuda, but torch finds no GPU", remedy="set run.device=auto"
        )
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # Denormal numbers arise in dying activations and slow a CPU a hundredfold.
    torch.set_flush_denormal(True)
    if settings.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get(WORKER, "0")) % torch.cuda.device_count())
