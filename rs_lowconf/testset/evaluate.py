"""Evaluates a target on a release: separate from real test data, never averaged with it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.errors import ModelError
from rs_lowconf.review.geotiff import read_classes, read_tile
from rs_lowconf.shares import share_of
from rs_lowconf.stored import reflectance_of
from rs_lowconf.target.evaluate import evaluate_segmenter
from rs_lowconf.testset.release import WARNING, Release, ReleaseTile
from rs_lowconf.types import TargetModel, TileBatch
from rs_lowconf.vocabulary import class_list

_BATCH = 64


def evaluate_release(
    release: Release, target: TargetModel, class_map: ClassMap = PLAIN
) -> dict[str, Any]:
    """Return the figures of a target on a release, matching bands and classes by name.

    Tiles of classes that the target does not know are counted and left out. Where the labels are
    masks, the target has to know all their classes, and the figures are those of
    `target.evaluate.SegmentationReport` overall and, in `round`, by round, with tiles as blocks:
    each is independent evidence.

    Args:
        release: of a test set.
        target: the model to measure.
        class_map: which classes of the release and the target mean the same.

    Returns:
        release: version and checksum.
        tiles, evaluated, left_out: numbers of tiles, the last by class.
        accuracy, class_accuracy, round_accuracy: each `value`, `interval_95` (exact: Clopper
            and Pearson 1934), `count` and `n`; value and interval are None without tiles.
        mean_confidence: mean of the largest probability.
        confusion: tiles by class, then by the target's prediction, in its own words.
        class_map: common names by name; only where there is a map.
        note: what these figures do not mean.

    Raises:
        ModelError: the target lacks a band, has another level, knows none of the classes, or spells
            one differently, or predicts classes of tiles for masks, or the other way round.
        ReviewError: a tile is missing or damaged.
        SettingsError: the map lacks a class of the release.
    """
    channels = _channels(release, target)
    if release.pixelwise != target.pixelwise:
        what = {True: "one class per pixel", False: "one class per tile"}
        raise ModelError(
            f"the target predicts {what[target.pixelwise]}, and the labels of release "
            f"{release.version} are {'masks' if release.pixelwise else 'classes of tiles'}",
            expected=f"a target that predicts {what[release.pixelwise]}",
        )
    about: dict[str, Any] = {
        "release": {"version": release.version, "checksum": release.checksum},
        **({"class_map": dict(class_map.names)} if class_map.names else {}),
    }
    if release.pixelwise:
        return {**about, **_on_masks(release, target, class_map)}
    class_map.meet(
        class_list(f"release {release.version}", release.classes, error=ModelError),
        class_list("the target", target.classes, error=ModelError),
        error=ModelError,
    )
    classes = [name for name in release.classes if class_map.places(name, target.classes)]
    known = [tile for tile in release.tiles if tile.class_name in classes]
    unknown = Counter(str(t.class_name) for t in release.tiles if t.class_name not in classes)
    if not known:
        raise ModelError(
            f"the target knows none of the classes {', '.join(unknown)} of release "
            f"{release.version}",
            expected=f"some of {', '.join(target.classes)}",
            remedy="say in target.class_map which mean the same",
        )
    log_probability = _predict(known, channels, target)
    predicted = [target.classes[k] for k in log_probability.argmax(1).tolist()]
    right = [
        (tile, class_map.same(tile.class_name, name))
        for tile, name in zip(known, predicted, strict=True)
    ]
    pairs = Counter(zip((tile.class_name for tile in known), predicted, strict=True))
    rounds = sorted({tile.round for tile in known})
    return {
        **about,
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


def _on_masks(release: Release, target: TargetModel, class_map: ClassMap) -> dict[str, Any]:
    """Return the figures of a target that predicts a class per pixel."""
    rounds = sorted({tile.round for tile in release.tiles})
    parts = {number: [t for t in release.tiles if t.round == number] for number in rounds}

    def figures(tiles: Sequence[ReleaseTile]) -> dict[str, Any]:
        source = ReleasedMasks(release, tiles)
        return asdict(evaluate_segmenter(target, source, source.ids, class_map=class_map))

    total = figures(release.tiles)
    return {
        **total,
        "note": f"{WARNING} {total['note']}".strip(),
        "evaluated": len(release.tiles),
        "round": {str(number): figures(tiles) for number, tiles in parts.items()},
    }


class ReleasedMasks:
    """Tiles of a release with masks as a `MaskSource`."""

    def __init__(self, release: Release, tiles: Sequence[ReleaseTile]) -> None:
        """Read some tiles of a release."""
        self.bands = release.bands
        self.classes = release.classes
        self.ids = tuple(tile.sample_id for tile in tiles)
        self._tiles = tiles

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices`."""
        some = [self._tiles[i] for i in indices]
        return TileBatch(
            image=reflectance_of(np.stack([read_tile(tile.path).pixels for tile in some])),
            bands=self.bands,
            ids=tuple(tile.sample_id for tile in some),
            classes=self.classes,
            mask=torch.stack([mask_of(tile) for tile in some]),
        )


def mask_of(tile: ReleaseTile) -> Int[Tensor, "h w"]:
    """Return the mask of a tile of a release with masks.

    Raises:
        ReviewError: it is missing or damaged.
    """
    assert tile.mask is not None  # noqa: S101  # asked of releases with masks only
    return torch.from_numpy(read_classes(tile.mask.path)).long()


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
