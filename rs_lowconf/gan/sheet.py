"""The sample sheet: real tiles beside generated ones, one row per class, all with one stretch."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rs_lowconf.bands import BandSpec, composites_or_grey
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.runs import replacing
from rs_lowconf.types import TileSource

GAP = 2
"""Pixels between tiles in a row."""
_MARGIN, _HEADER = 150, 30


def write_sheets(
    folder: Path,
    generator: ClassGenerator,
    source: TileSource,
    *,
    columns: int,
    seed: int,
    images: int,
    rendering: Rendering | None = None,
    name: str = "",
) -> list[Path]:
    """Write one PNG per composite, real tiles left and generated ones right.

    Args:
        folder: where to write `COMPOSITE_IMAGES.png`.
        generator: draws the right half, with the same latents at every call.
        source: gives the left half, the first tiles of each class.
        columns: tiles per class in each half.
        seed: of the latents.
        images: training progress, for caption and file name.
        rendering: how the source stores reflectance; without it its tiles are shown unchanged.
        name: of the source, in caption and file name, where there are several.

    Returns:
        the files written: composites whose bands are missing are left out; without any, the
        first band in grey.
    """
    per_class = [torch.nonzero(source.labels == k)[:columns, 0] for k in range(len(source.classes))]
    real = [source.batch(members.tolist()).image for members in per_class]
    label = torch.arange(len(source.classes)).repeat_interleave(columns)
    drawn = sample(generator, label, seed)
    if rendering is not None:
        drawn = rendering(drawn, generator.bands)
    fake = torch.split(drawn, columns)
    written = []
    for composite in composites_or_grey(source.bands):
        bands, white = composite.bands, composite.white
        words = f"{name} {composite.name}".strip().replace(" ", "_")
        path = folder / f"{words}_{images:09d}.png"
        title = f"{words.replace('_', ' ')}, 0 .. {white} reflectance, {images:,} images"
        rows = [
            (
                tiles_row(a, source.bands, bands, white, columns),
                tiles_row(b, source.bands, bands, white, columns),
            )
            for a, b in zip(real, fake, strict=True)
        ]
        sheet = _compose(rows, source.classes, title)
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
        written.append(path)
    return written


def tiles_row(
    image: Float[Tensor, "b c h w"],
    bands: BandSpec,
    wanted: tuple[str, ...],
    white: float,
    columns: int,
) -> UInt8[np.ndarray, "h row 3"]:
    """Return tiles side by side as bytes, missing ones grey."""
    picked = image[:, list(bands.index_of(wanted))] / white
    height, width = picked.shape[2:]
    row = np.full((height, columns * (width + GAP), 3), 40, dtype=np.uint8)
    for number, tile in enumerate(picked):
        pixels = (tile.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
        row[:, number * (width + GAP) : number * (width + GAP) + width] = pixels
    return row


def _compose(
    rows: list[tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]],
    classes: tuple[str, ...],
    title: str,
) -> Image.Image:
    height, width = rows[0][0].shape[:2]
    middle = 16
    size = (_MARGIN + 2 * width + middle, _HEADER + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    right = _MARGIN + width + middle
    draw.text((_MARGIN, 8), f"REAL ({title})", fill="black", font=font)
    draw.text((right, 8), "GENERATED", fill="black", font=font)
    for number, (real, fake) in enumerate(rows):
        top = _HEADER + number * (height + GAP)
        draw.text((6, top + height // 2 - 8), classes[number], fill="black", font=font)
        sheet.paste(Image.fromarray(real), (_MARGIN, top))
        sheet.paste(Image.fromarray(fake), (right, top))
    return sheet
