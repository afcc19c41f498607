"""Evaluates a target on a release: separate from real test data, never averaged with it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.errors import ModelError
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.shares import share_of
from rs_lowconf.stored import reflectance_of
from rs_lowconf.testset.release import WARNING, Release, ReleaseTile
from rs_lowconf.types import TargetModel
from rs_lowconf.vocabulary import class_list, join

_BATCH = 64


def evaluate_release(release: Release, target: TargetModel) -> dict[str, Any]:
    """Return the figures of a target on a release, matching bands and classes by name.

    Tiles of classes that the target does not know are counted and left out.

    Returns:
        release: version and checksum.
        tiles, evaluated, left_out: numbers of tiles, the last by class.
        accuracy, class_accuracy, round_accuracy: each `value`, `interval_95` (exact: Clopper
            and Pearson 1934), `count` and `n`; value and interval are None without tiles.
        mean_confidence: mean of the largest probability.
        confusion: tiles by class, then by the target's prediction.
        note: what these figures do not mean.

    Raises:
        ModelError: the target lacks a band, has another level, knows none of the classes, or spells
            one differently.
        ReviewError: a tile is missing or damaged.
    """
    channels = _channels(release, target)
    join(
        class_list(f"release {release.version}", release.classes, error=ModelError),
        class_list("the target", target.classes, error=ModelError),
        error=ModelError,
    )
    known = [tile for tile in release.tiles if tile.class_name in target.classes]
    unknown = Counter(t.class_name for t in release.tiles if t.class_name not in target.classes)
    if not known:
        raise ModelError(
            f"the target knows none of the classes {', '.join(unknown)} of release "
            f"{release.version}",
            expected=f"some of {', '.join(target.classes)}",
        )
    log_probability = _predict(known, channels, target)
    predicted = [target.classes[k] for k in log_probability.argmax(1).tolist()]
    right = [(tile, tile.class_name == name) for tile, name in zip(known, predicted, strict=True)]
    pairs = Counter(zip((tile.class_name for tile in known), predicted, strict=True))
    classes = [name for name in release.classes if name in target.classes]
    rounds = sorted({tile.round for tile in known})
    return {
        "release": {"version": release.version, "checksum": release.checksum},
        "tiles": len(release.tiles),
        "evaluated": len(known),
        "left_out": dict(sorted(unknown.items())),
        "accuracy": _right(ok for _, ok in right),
        "class_accuracy": {
            name: _right(ok for tile, ok in right if tile.class_name == name) for name in classes
        },
        "round_accuracy": {
            str(number): _right(ok for tile, ok in right if tile.round == number)
            for number in rounds
        },
        "mean_confidence": log_probability.double().exp().max(1).values.mean().item(),
        "confusion": {
            name: {answer: pairs[name, answer] for answer in target.classes} for name in classes
        },
        "note": _note(unknown),
    }


def _right(flags: Iterable[bool]) -> dict[str, Any]:
    found = list(flags)
    return share_of(sum(found), len(found))


def _channels(release: Release, target: TargetModel) -> list[int]:
    """Return the tiles' channel of each band that the target reads."""
    missing = [name for name in target.bands.names if name not in release.bands.names]
    if missing:
        raise ModelError(
            f"the target reads {', '.join(missing)}, release {release.version} has "
            f"{', '.join(release.bands.names)}",
            remedy="evaluate it on a release with its bands",
        )
    if target.bands.level != release.bands.level:
        raise ModelError(
            f"the target was made for {target.bands.level}, release {release.version} is "
            f"{release.bands.level}",
            remedy="evaluate it on a release of its level, or correct target.level",
        )
    return list(release.bands.index_of(target.bands.names))


def _predict(
    tiles: Sequence[ReleaseTile], channels: list[int], target: TargetModel
) -> Float[Tensor, "n k"]:
    parts = []
    with torch.no_grad():
        for first in range(0, len(tiles), _BATCH):
            some = tiles[first : first + _BATCH]
            pixels = np.stack([read_tile(tile.path).pixels[channels] for tile in some])
            parts.append(target.predict(reflectance_of(pixels)).cpu())
    return torch.cat(parts)


def _note(unknown: Counter[str]) -> str:
    if not unknown:
        return WARNING
    counts = ", ".join(f"{name} ({number})" for name, number in sorted(unknown.items()))
    return f"{WARNING} Left out, as the target does not know their classes: {counts}."
