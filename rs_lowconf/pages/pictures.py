"""Pictures inside a page: tiles, plots and files, as WebP."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rs_lowconf.bands import BandSpec, composites_or_grey
from rs_lowconf.review.composites import stretch

_GAP = 2
_QUALITY = 82
_LARGEST = 2_400
"""Longer side of a picture that was a file, in pixels: WebP ends at 16,383, and a page at its
size."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as a page holds it."""

    data: str
    """WebP as base64."""
    size: tuple[int, int]
    """Width and height in pixels."""
    caption: str


def composites(
    pixels: UInt16[np.ndarray, "c h w"], bands: BandSpec
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return a tile in all composites that its bands allow, as reviewers see it."""
    return [stretch(pixels, bands, composite) for composite in composites_or_grey(bands)]


def sheet(rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]]) -> UInt8[np.ndarray, "v u 3"]:
    """Return pictures in rows, with white gaps."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    whole = np.full(shape, 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + _GAP), j * (width + _GAP)
            whole[top : top + height, left : left + width] = picture
    return whole


def tile_picture(
    pixels: UInt16[np.ndarray, "c h w"], bands: BandSpec, caption: str, *, side: int
) -> Picture:
    """Return a tile's composites side by side.

    Args:
        pixels: reflectance as stored.
        bands: of the pixels.
        caption: of the picture.
        side: longest side of one composite in pixels; larger tiles are averaged down to it.
    """
    shown = [Image.fromarray(picture) for picture in composites(pixels, bands)]
    for picture in shown:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    return _picture(Image.fromarray(sheet([[np.asarray(one) for one in shown]])), caption)


def plot(figure: Figure, caption: str) -> Picture:
    """Return a plot, without loss."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    with Image.open(file) as image:
        return _picture(image.convert("RGB"), caption, lossless=True)


def picture_of(path: Path, caption: str, *, lossless: bool) -> Picture:
    """Return a picture that was written as a file.

    Args:
        path: PNG.
        caption: of the picture.
        lossless: for plots, whose lines blur otherwise.
    """
    with Image.open(path) as image:
        whole = image.convert("RGB")
    whole.thumbnail((_LARGEST, _LARGEST))
    return _picture(whole, caption, lossless=lossless)


def webp(image: Image.Image, *, lossless: bool = False) -> str:
    """Return an image as WebP in base64."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4, lossless=lossless)
    return base64.b64encode(file.getvalue()).decode()


def _picture(image: Image.Image, caption: str, *, lossless: bool = False) -> Picture:
    return Picture(data=webp(image, lossless=lossless), size=image.size, caption=caption)
