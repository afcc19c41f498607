"""Loads the model under test, whatever its origin, and fits it to the data."""

from pathlib import Path

import torch

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.settings import TargetSettings
from rs_lowconf.target.classifier import load_classifier
from rs_lowconf.target.foreign import ForeignTarget
from rs_lowconf.target.programs import load_module
from rs_lowconf.types import TargetModel


def load_target(
    settings: TargetSettings,
    trained: Path,
    *,
    trust_code: bool,
    tile_size: int,
    device: torch.device,
) -> TargetModel:
    """Return the target that the settings name, its evaluation counter at 0.

    Args:
        settings: which target.
        trained: the checkpoint of a target of kind `trained`.
        trust_code: whether files that can run code may be read.
        tile_size: side in pixels of the tiles that will come.
        device: where to compute.

    Raises:
        ModelError: the target is missing, damaged, needs trust or does not do what the
            settings say.
        SettingsError: timm has no such architecture.
    """
    if settings.kind == "trained":
        return load_classifier(trained, device, batch_size=settings.batch_size)
    module = load_module(settings, trust_code=trust_code, device=device)
    return ForeignTarget(module, settings, tile_size=tile_size, device=device)


def check_fit(target: TargetModel, bands: BandSpec) -> tuple[int, ...]:
    """Return the data's channel of each band the target reads, in the target's order.

    Args:
        target: anything that names its bands.
        bands: what the channel axis of the data holds.

    Raises:
        ModelError: the data lack a band, or are of another processing level.
    """
    missing = [name for name in target.bands.names if name not in bands.names]
    if missing:
        raise ModelError(
            f"the target reads {', '.join(missing)}, the data have {', '.join(bands.names)}",
            remedy="choose other bands for the data or the target",
        )
    if target.bands.level != bands.level:
        raise ModelError(
            f"the target was made for {target.bands.level}, the data are {bands.level}",
            remedy=f"use {target.bands.level} tiles, or correct target.level or data.level",
        )
    return bands.index_of(target.bands.names)
