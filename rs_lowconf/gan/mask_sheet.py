"""The sample sheet of masks: each mask above its real tile and above tiles drawn for it."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rs_lowconf.bands import composites_or_grey
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.mask_networks import MaskGenerator, mask_layers
from rs_lowconf.gan.sheet import GAP, tiles_row
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.runs import replacing
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource

#: Colours of the classes, repeated after the last; the colour-blind-safe palette of Okabe and Ito.
PALETTE = np.array(
    [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0)],
    dtype=np.uint8,
)
_DRAWN = 2
"""Tiles drawn for each mask, of different latents."""
_BLOCKS = 3
_SMALLEST = 96
"""Tiles are magnified by a whole number to at least this side."""
_BETWEEN, _MARGIN, _HEADER = 6, 90, 46
_BATCH = 64


def write_mask_sheets(
    folder: Path,
    generator: MaskGenerator,
    source: MaskSource,
    *,
    columns: int,
    seed: int,
    images: int,
) -> list[Path]:
    """Write one PNG per composite: rows of masks, their real tiles and two tiles drawn for each.

    The tiles with the most mixed masks are shown, because they reveal whether borders are kept.

    Args:
        folder: where to write `COMPOSITE_IMAGES.png`.
        generator: draws tiles with the same latents at every call.
        source: gives masks and real tiles.
        columns: tiles in a row.
        seed: of the latents.
        images: training progress, for caption and file name.

    Returns:
        the files written.
    """
    tiles = source.batch(_most_mixed(source, _BLOCKS * columns))
    mask = masks_of(tiles)
    rows = [("real", tiles.image)]
    for number in range(_DRAWN):
        drawn = sample(generator, mask, seed_of(seed, "sheet", number))
        rows.append((f"generated {number + 1}", drawn))
    written = []
    for composite in composites_or_grey(source.bands):
        name, bands, white = composite.name, composite.bands, composite.white
        blocks = []
        for part in torch.split(torch.arange(len(mask)), columns):
            block = [("mask", _mask_row(mask[part], columns))]
            for title, image in rows:
                row = tiles_row(image[part], source.bands, bands, white, columns)
                block.append((title, row))
            blocks.append(block)
        title = f"{name.replace('_', ' ')}, 0 .. {white} reflectance, {images:,} images"
        path = folder / f"{name}_{images:09d}.png"
        sheet = _compose(blocks, source.classes, title, max(1, -(-_SMALLEST // mask.shape[-1])))
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
        written.append(path)
    return written


def _most_mixed(source: MaskSource, count: int) -> list[int]:
    """Return the tiles with the largest entropy of known pixels, largest first."""
    entropy = []
    for first in range(0, len(source), _BATCH):
        mask = masks_of(source.batch(range(first, min(first + _BATCH, len(source)))))
        layers = mask_layers(mask, len(source.classes))[:, :-1].sum((2, 3))
        share = layers / layers.sum(1, keepdim=True).clamp_min(1)
        entropy.append(torch.special.entr(share).sum(1))
    return torch.cat(entropy).argsort(descending=True, stable=True)[:count].tolist()


def _mask_row(mask: Int[Tensor, "b h w"], columns: int) -> UInt8[np.ndarray, "h row 3"]:
    """Return masks side by side in colours, `UNKNOWN` black, missing tiles grey."""
    height, width = mask.shape[1:]
    row = np.full((height, columns * (width + GAP), 3), 40, dtype=np.uint8)
    for number, indices in enumerate(mask.numpy()):
        colours = PALETTE[indices % len(PALETTE)] * (indices != UNKNOWN)[:, :, None].astype(
            np.uint8
        )
        row[:, number * (width + GAP) : number * (width + GAP) + width] = colours
    return row


def _compose(
    blocks: list[list[tuple[str, UInt8[np.ndarray, "h w 3"]]]],
    classes: tuple[str, ...],
    title: str,
    scale: int,
) -> Image.Image:
    height, width = (scale * side for side in blocks[0][0][1].shape[:2])
    lines = sum(len(block) for block in blocks)
    size = (_MARGIN + width, _HEADER + lines * (height + GAP) + len(blocks) * _BETWEEN)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((_MARGIN, 6), title, fill="black", font=font)
    left = _MARGIN
    for number, name in enumerate(classes):
        colour = tuple(int(value) for value in PALETTE[number % len(PALETTE)])
        draw.rectangle((left, 27, left + 12, 39), fill=colour)
        draw.text((left + 17, 25), name, fill="black", font=font)
        left += 17 + int(draw.textlength(name, font=font)) + 16
    top = _HEADER
    for block in blocks:
        for name, row in block:
            draw.text((6, top + height // 2 - 8), name, fill="black", font=font)
            sheet.paste(
                Image.fromarray(row).resize((width, height), Image.Resampling.NEAREST),
                (_MARGIN, top),
            )
            top += height + GAP
        top += _BETWEEN
    return sheet
