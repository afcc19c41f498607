"""Loads the model under test from any origin, and fits it to the data."""

from pathlib import Path

import torch

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.settings import ForeignModel, OwnTarget
from rs_lowconf.target.blackbox import BLACK_BOXES, load_black_box
from rs_lowconf.target.foreign import ForeignTarget
from rs_lowconf.target.programs import load_module
from rs_lowconf.target.trained import load_trained
from rs_lowconf.types import TargetModel
from rs_lowconf.vocabulary import class_list


def load_target(
    settings: OwnTarget | ForeignModel,
    trained: Path,
    *,
    trust_code: bool,
    tile_size: int,
    device: torch.device,
) -> TargetModel:
    """Return the target that the settings name, its evaluation counter at 0.

    Args:
        settings: which target.
        trained: the checkpoint of a target of kind `embedded` or `trained`.
        trust_code: whether files that can run code may be read.
        tile_size: side in pixels of the tiles to predict.
        device: where to compute.

    Raises:
        ModelError: the target is missing, damaged, needs trust or does not match the settings.
        SettingsError: timm or segmentation_models_pytorch has no such architecture, or
            target.class_map does not fit the target.
    """
    target: TargetModel
    if isinstance(settings, OwnTarget):
        target = load_trained(trained, device, batch_size=settings.batch_size)
    else:
        load = load_black_box if settings.kind in BLACK_BOXES else load_module
        function = load(settings, trust_code=trust_code, device=device)
        target = ForeignTarget(function, settings, tile_size=tile_size, device=device)
    settings.common_names.check(class_list("the target", target.classes, error=ModelError))
    return target


def check_fit(reads: BandSpec, data: BandSpec, *, model: str = "target") -> tuple[int, ...]:
    """Return the data's channel of each band a model reads, in the model's order.

    Args:
        reads: bands of the model.
        data: bands of the data's channel axis.
        model: its name in messages.

    Raises:
        ModelError: the data lack a band, or have another processing level.
    """
    missing = [name for name in reads.names if name not in data.names]
    if missing:
        raise ModelError(
            f"the {model} reads {', '.join(missing)}, the data have {', '.join(data.names)}",
            remedy=f"choose other bands for the data or the {model}",
        )
    if reads.level != data.level:
        raise ModelError(
            f"the {model} was made for {reads.level}, the data are {data.level}",
            remedy=f"use {reads.level} tiles, or correct the level in the settings",
        )
    return data.index_of(reads.names)
