"""The device that torch works on, and how torch is set up there."""

import torch

from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import RunSettings


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
