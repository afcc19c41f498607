"""Sheets: real tiles beside generated ones of the same conditions, all with one stretch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rs_lowconf.bands import BandSpec, Composite, composites_or_grey
from rs_lowconf.colours import Colour, colours_of
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.mask_networks import MaskGenerator, mask_layers
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.runs import replacing
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource, TileSource

Row = tuple[str, Sequence[UInt8[np.ndarray, "h w 3"]]]
"""A row's name, and its pictures from left to right."""

_BETWEEN_TILES, _BETWEEN_PARTS, _BETWEEN_BLOCKS = 2, 16, 6
_HEADER = 46
_SMALLEST = 64
"""Tiles are magnified by a whole number to at least this side."""
_GREY = 40
"""Where tiles are missing."""
_DRAWN = 2
"""Tiles drawn for each mask, of different latents."""
_BLOCKS = 3
"""Rows of masks."""
_BATCH = 64


def write_sheets(
    folder: Path,
    generator: ClassGenerator | MaskGenerator,
    source: TileSource | MaskSource,
    *,
    columns: int,
    seed: int,
    images: int,
    rendering: Rendering | None = None,
    name: str = "",
) -> list[Path]:
    """Write one PNG per composite; tiles are drawn with the same latents at every call.

    Of classes, one row per class, real tiles left and generated ones right. Of masks, each mask
    above its real tile and above two tiles drawn for it; those with the most mixed masks are
    shown, because they reveal whether borders are kept.

    Args:
        folder: where to write `COMPOSITE_IMAGES.png`.
        generator: of the source's classes, or of its masks.
        source: of real tiles.
        columns: tiles per class in each half, or masks in a row.
        seed: of the latents.
        images: training progress, for caption and file name.
        rendering: how the source stores reflectance; without it its tiles are shown unchanged.
        name: of the source, in caption and file name, where there are several.

    Returns:
        the files written: composites whose bands are missing are left out; without any, the
        first band in grey.
    """
    legend: dict[str, Colour] = {}
    colours: list[Colour] = []
    if isinstance(generator, MaskGenerator):
        legend = colours_of(source.classes)
        colours = list(legend.values())
        blocks = _of_masks(generator, source, columns, seed)
        if any((block[0][1][0] == UNKNOWN).any() for block in blocks):
            legend.setdefault("unknown", (0, 0, 0))
    else:
        assert isinstance(source, TileSource)  # noqa: S101 -- as its generator
        blocks = [_of_classes(generator, source, columns, seed, rendering)]
    written = []
    for composite in composites_or_grey(source.bands):
        words = f"{name} {composite.name}".strip().replace(" ", "_")
        title = f"{words.replace('_', ' ')}, 0 .. {composite.white} reflectance, {images:,} images"
        heads = () if legend else ("REAL", "GENERATED")
        rows = [
            [
                (label, [_row(part, source.bands, composite, colours, columns) for part in parts])
                for label, parts in block
            ]
            for block in blocks
        ]
        path = folder / f"{words}_{images:09d}.png"
        with replacing(path) as temporary:
            compose(title, rows, heads, legend).save(temporary, format="PNG")
        written.append(path)
    return written


def _row(
    part: Tensor, bands: BandSpec, composite: Composite, colours: Sequence[Colour], columns: int
) -> UInt8[np.ndarray, "h row 3"]:
    """Return tiles, or masks, side by side."""
    if part.dim() == 3:
        return _mask_row(part, colours, columns)
    return tiles_row(part, bands, composite, columns)


def _of_classes(
    generator: ClassGenerator,
    source: TileSource,
    columns: int,
    seed: int,
    rendering: Rendering | None,
) -> list[tuple[str, list[Tensor]]]:
    """Return the first tiles of each class, and as many generated ones."""
    label = torch.arange(len(source.classes)).repeat_interleave(columns)
    drawn = sample(generator, label, seed)
    if rendering is not None:
        drawn = rendering(drawn, generator.bands)
    rows = []
    for k, fake in enumerate(torch.split(drawn, columns)):
        members = torch.nonzero(source.labels == k)[:columns, 0]
        rows.append((source.classes[k], [source.batch(members.tolist()).image, fake]))
    return rows


def _of_masks(
    generator: MaskGenerator, source: TileSource | MaskSource, columns: int, seed: int
) -> list[list[tuple[str, list[Tensor]]]]:
    """Return blocks of masks, their real tiles, and tiles drawn for them."""
    tiles = source.batch(_most_mixed(source, _BLOCKS * columns))
    mask = masks_of(tiles)
    rows = [("mask", mask), ("real", tiles.image)]
    for number in range(_DRAWN):
        drawn = sample(generator, mask, seed_of(seed, "sheet", number))
        rows.append((f"generated {number + 1}", drawn))
    return [
        [(name, [values[part]]) for name, values in rows]
        for part in torch.split(torch.arange(len(mask)), columns)
    ]


def _most_mixed(source: TileSource | MaskSource, count: int) -> list[int]:
    """Return the tiles with the largest entropy of known pixels, largest first."""
    entropy = []
    for first in range(0, len(source), _BATCH):
        mask = masks_of(source.batch(range(first, min(first + _BATCH, len(source)))))
        layers = mask_layers(mask, len(source.classes))[:, :-1].sum((2, 3))
        share = layers / layers.sum(1, keepdim=True).clamp_min(1)
        entropy.append(torch.special.entr(share).sum(1))
    return torch.cat(entropy).argsort(descending=True, stable=True)[:count].tolist()


def tiles_row(
    image: Float[Tensor, "b c h w"], bands: BandSpec, composite: Composite, columns: int
) -> UInt8[np.ndarray, "h row 3"]:
    """Return tiles side by side as bytes, missing ones grey."""
    picked = image[:, list(bands.index_of(composite.bands))] / composite.white
    pixels = (picked.clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    return _beside(pixels.numpy().astype(np.uint8), columns)


def _mask_row(
    mask: Int[Tensor, "b h w"], colours: Sequence[Colour], columns: int
) -> UInt8[np.ndarray, "h row 3"]:
    """Return masks side by side in colours, `UNKNOWN` black, missing ones grey."""
    table = np.zeros((UNKNOWN + 1, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    return _beside(table[mask.numpy()], columns)


def _beside(pictures: UInt8[np.ndarray, "b h w 3"], columns: int) -> UInt8[np.ndarray, "h row 3"]:
    height, width = pictures.shape[1:3]
    row = np.full((height, columns * (width + _BETWEEN_TILES), 3), _GREY, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        left = number * (width + _BETWEEN_TILES)
        row[:, left : left + width] = picture
    return row


def compose(
    title: str,
    blocks: Sequence[Sequence[Row]],
    heads: Sequence[str] = (),
    legend: Mapping[str, Colour] | None = None,
) -> Image.Image:
    """Return a picture of rows with their names.

    Args:
        title: of the picture.
        blocks: of rows, all of the same size, with a gap between blocks.
        heads: above the parts of the rows, if they have some.
        legend: name and colour of classes, if there are some.
    """
    first = blocks[0][0][1]
    scale = max(1, -(-_SMALLEST // first[0].shape[0]))
    height, widths = scale * first[0].shape[0], [scale * part.shape[1] for part in first]
    font = ImageFont.load_default(13)
    margin = 14 + int(max(font.getlength(name) for block in blocks for name, _ in block))
    lefts = [margin + sum(widths[:n]) + n * _BETWEEN_PARTS for n in range(len(widths))]
    lines = sum(len(block) for block in blocks)
    size = (
        max(lefts[-1] + widths[-1], 12 + int(font.getlength(title))),
        _HEADER + lines * (height + _BETWEEN_TILES) + (len(blocks) - 1) * _BETWEEN_BLOCKS,
    )
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 6), title, fill="black", font=font)
    for left, head in zip(lefts, heads, strict=False):
        draw.text((left, 25), head, fill="black", font=font)
    left = margin
    for name, colour in (legend or {}).items():
        draw.rectangle((left, 27, left + 12, 39), fill=colour)
        draw.text((left + 17, 25), name, fill="black", font=font)
        left += 17 + int(font.getlength(name)) + 16
    top = _HEADER
    for block in blocks:
        for name, parts in block:
            draw.text((6, top + height // 2 - 8), name, fill="black", font=font)
            for left, width, part in zip(lefts, widths, parts, strict=True):
                picture = Image.fromarray(part)
                sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
            top += height + _BETWEEN_TILES
        top += _BETWEEN_BLOCKS
    return sheet
