"""The device that torch works on, and how torch is set up there."""

import torch

from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import Device, RunSettings


def choose_device(settings: RunSettings) -> torch.device:
    """Return the wanted device; `auto` is CUDA where there is one.

    Raises:
        SettingsError: CUDA is wanted and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("run.device is cuda, but torch sees none", remedy="set run.device=auto")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # Denormal numbers arise in dying activations and slow a CPU a hundredfold.
    torch.set_flush_denormal(True)
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def worker_device(wanted: Device, number: int) -> torch.device:
    """Return the device of one of several workers on a machine: they take turns at its GPUs.

    Args:
        wanted: as `run.device`.
        number: of the worker, from 0 on.

    Raises:
        SettingsError: CUDA is wanted and there is none.
    """
    device = choose_device(RunSettings(device=wanted))
    if device.type == "cuda":
        return torch.device("cuda", number % torch.cuda.device_count())
    return device
