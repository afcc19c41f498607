"""Targets, as functions in Python, of which one hangs on some tiles."""

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARK = 60_000
"""A digital number that no real tile has: the first pixel of a tile on which `hanging` hangs."""

MENDED = "RSLOW_TEST_MENDED"
"""The environment variable with which it does not."""


def scores(image: NDArray[np.float32]) -> NDArray[Any]:
    """Return logits of three classes for tiles b c h w."""
    means: NDArray[Any] = 5 * image.mean(axis=(2, 3))[:, :3]
    return means


def hanging(image: NDArray[np.float32]) -> NDArray[Any]:
    """Return the same, but never for a batch with a marked tile."""
    if image[:, 0, 0, 0].max() > 0.9 * MARK / 10_000 and MENDED not in os.environ:
        time.sleep(1000)
    return scores(image)
