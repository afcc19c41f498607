"""Textured tiles of four classes, or with masks, for the tests of review packages, from a seed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.fields import Label
from rs_lowconf.review.package import write_package
from rs_lowconf.review.publish import publish
from rs_lowconf.review.samples import (
    Generated,
    Observed,
    Prediction,
    RealNeighbour,
    ReviewSample,
    TileMasks,
    masks_of,
    neighbour_of,
)
from rs_lowconf.review.sheet import Sheet
from rs_lowconf.review.store import ReviewStore

CLASSES = ("Forest", "Field", "Town", "Water")
PIXEL_CLASSES = ("Water", "Wood & more", "Town")
TARGET_CLASSES = ("Town", "Bog", "Water")
"""In another order than those of pixels, and not the same."""
SIZE = 32
GRID = Grid(crs="EPSG:32633", transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
ATTRIBUTION = "Contains modified Copernicus Sentinel data 2018"


def tile(seed: int, kind: int, channels: int) -> UInt16[np.ndarray, "c h w"]:
    """Return a tile whose brightness follows its class, with stripes, noise and a cloud."""
    random = np.random.default_rng((seed, kind))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    stripes = np.sin(rows * (kind + 1) / 5 + columns / (kind + 2))
    level = random.uniform(300, 2500, size=(channels, 1, 1)) * (1 + 0.3 * stripes)
    values = level + random.normal(0, 60, size=(channels, SIZE, SIZE))
    values[:, :4, :4] = 9000  # brighter than every stretch
    values[:, -4:, -4:] = 1  # black, but not without data
    pixels: UInt16[np.ndarray, "c h w"] = np.clip(values, 1, 65535).astype(np.uint16)
    return pixels


def sample(
    number: int,
    names: tuple[str, ...] = EUROSAT_ORDER,
    grid: Grid | None = GRID,
    *,
    real: bool = True,
) -> Generated:
    """Return the sample of this number, with a real neighbour or without.

    Its tiles depend on the number alone.
    """
    kind = number % len(CLASSES)
    bands = BandSpec(names=names, level="L1C")
    neighbour = RealNeighbour(
        tile_id=f"{CLASSES[kind]}_{number}",
        pixels=tile(2 * number + 1, kind, len(names)),
        class_name=CLASSES[kind],
        grid=grid,
        distance=1.5,
    )
    return Generated(
        sample_id=f"s{number:04d}",
        origin="found",
        pixels=tile(2 * number, kind, len(names)),
        bands=bands,
        condition=CLASSES[kind],
        prediction=prediction(kind),
        realism=-0.25,
        gate_score=0.1,
        tile=f"generate/tiles/s{number:04d}.tif",
        sha256="0" * 64,
        neighbour=neighbour if real else None,
        provenance={"seed": str(number)},
    )


def prediction(kind: int) -> Prediction:
    """Return what a model that errs says of a tile of the class of this number."""
    return Prediction(
        class_name=CLASSES[(kind + 1) % len(CLASSES)], second=CLASSES[kind], confidence=0.31
    )


def observed(
    number: int, grid: Grid | None = GRID, *, labelled: bool = True, asked: bool = True
) -> Observed:
    """Return the real tile of this number, to be judged; its pixels depend on the number alone.

    Args:
        number: of the tile.
        grid: where it lies.
        labelled: whether its data set has a class for it.
        asked: whether a model was asked about it.
    """
    one, kind = sample(number, real=False), number % len(CLASSES)
    return Observed(
        sample_id=one.sample_id,
        pixels=one.pixels,
        bands=one.bands,
        label=CLASSES[kind] if labelled else None,
        prediction=prediction(kind) if asked else None,
        grid=grid,
        tile=f"real/{number}",
        sha256="0" * 64,
        provenance={"tile_id": f"real/{number}"},
    )


def pixel(number: int) -> Observed:
    """Return the pixel of this number with its surroundings; no model was asked about it."""
    one = observed(number, labelled=False, asked=False)
    return replace(one, pixels=one.pixels[:, 1:, 1:], pixel=(number, 7), sha256=None, provenance={})


def mask_of(number: int, classes: int = len(PIXEL_CLASSES)) -> UInt8[np.ndarray, "h w"]:
    """Return stripes of all classes, different for each number."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    mask: UInt8[np.ndarray, "h w"] = ((rows + (number + 2) * columns) // 9 % classes).astype(
        np.uint8
    )
    return mask


def masked(number: int, *, real: bool = True) -> Generated:
    """Return the sample of this number with masks, a corner of whose own is not known."""
    one = sample(number, real=real)
    mask = mask_of(number)
    mask[-5:, :7] = UNKNOWN
    steps = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    return replace(
        one,
        condition=f"scene_{number}",
        masks=TileMasks(mask=mask, predicted=mask_of(number + 5), confidence=steps),
        neighbour=one.neighbour and replace(one.neighbour, mask=mask_of(number + 9)),
    )


def blocks_of(one: ReviewSample) -> list[UInt16[np.ndarray, "c h w"]]:
    """Return the tiles of a sample's cell from left to right."""
    beside = neighbour_of(one)
    return [one.pixels] if beside is None else [beside.pixels, one.pixels]


def sheet_of(samples: Sequence[ReviewSample]) -> Sheet:
    """Return the places on the sheet of these samples, in a confirm package."""
    kinds = [("mask",), ("mask", "predicted", "confidence")]
    blocks = len(blocks_of(samples[0]))
    return Sheet(
        count=len(samples),
        width=SIZE,
        height=SIZE,
        blocks=blocks,
        composites=composites_of(samples[0].bands),
        panels=tuple(kinds[-blocks:]) if masks_of(samples[0]) is not None else (),
    )


def package(
    folder: Path,
    samples: Sequence[ReviewSample],
    label: Label = "confirm",
    package_id: str = "0123456789abcdef",
) -> Path:
    """Write a package of these samples and return its folder."""
    write_package(folder, samples, **about(samples, label, package_id))
    return folder


def published(
    store: ReviewStore,
    folder: Path,
    samples: Sequence[ReviewSample],
    label: Label = "confirm",
    package_id: str = "0123456789abcdef",
) -> Path:
    """Publish a package of these samples, of round 1 or of observed tiles; return its folder."""
    number = 1 if isinstance(samples[0], Generated) else 0
    publish(store, folder, samples, round=number, **about(samples, label, package_id))
    return folder


def about(samples: Sequence[ReviewSample], label: Label, package_id: str) -> dict[str, Any]:
    """Return what a package of these samples is written with."""
    masks = bool(samples) and masks_of(samples[0]) is not None
    return {
        "package_id": package_id,
        "classes": () if masks else CLASSES,
        "target_classes": TARGET_CLASSES if masks else CLASSES,
        "label": label,
        "attribution": ATTRIBUTION,
        "provenance": {"generator": "0123abcd"},
        "pixel_classes": PIXEL_CLASSES if masks else (),
    }
