"""Shared fixtures: real data where the environment offers it, and small seeded folders."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio import Affine

from rs_lowconf.bands import EUROSAT_ORDER
from rs_lowconf.cli import main

WriteTile = Callable[..., NDArray[Any]]


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undo what a command run in this process sets for the whole of it: hypothesis minds."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def eurosat_root() -> Path:
    """Return the real EuroSAT subset; in CI its absence is a failure, not a skip."""
    folder = os.environ.get("RSLOW_DATA")
    root = Path(folder, "eurosat") if folder else None
    if root is None or not root.is_dir():
        reason = "RSLOW_DATA names no folder with eurosat/ in it: no real data to test on"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return root


def train_models(config: Path, *stages: str) -> None:
    """Run `rslow train` for one stage after another, in this process."""
    for stage in stages:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["rslow", "train", stage, "-c", str(config)])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code in (0, None)


@pytest.fixture(scope="session")
def write_tile() -> WriteTile:
    """Return a function that writes a seeded GeoTIFF and returns its pixels, c h w."""

    def write(
        path: Path,
        *,
        seed: int = 0,
        bands: Sequence[str] = EUROSAT_ORDER,
        described: bool = True,
        pixels: NDArray[Any] | None = None,
        side: int = 32,
        georeferenced: bool = True,
        **profile: Any,
    ) -> NDArray[Any]:
        if pixels is None:
            dice = np.random.default_rng(seed)
            pixels = dice.integers(50, 4000, (len(bands), side, side), dtype=np.uint16)
        place = (
            {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
            if georeferenced
            else {}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = pixels.shape
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=pixels.dtype,
            **place,
            **profile,
        ) as file:
            file.write(pixels)
            if described:
                file.descriptions = tuple(bands)
        return pixels

    return write
