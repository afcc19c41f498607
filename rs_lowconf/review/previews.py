"""Pictures for the form: one row per tile, the one to review last; one column per composite."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from rs_lowconf.bands import BandSpec, Composite
from rs_lowconf.colours import Colour
from rs_lowconf.review.composites import stretch
from rs_lowconf.runs import replacing

_SIDE = 192  # pixels of a picture on the screen, about
_GAP = 8
_SIDE_OF_MANY, _GAP_OF_MANY = 96, 4  # with panels: no wider than without, as the form has no room
_LINE = 24
_SWATCH = 14
_INK = (20, 20, 20)
_PAPER = (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PANEL_ROW = 2 * _LINE + _SIDE_OF_MANY + _GAP
"""Height of a row with panels."""
LEGEND = _GAP + _LINE
"""Height of a legend of one line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One tile."""

    title: str

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000."""

    panels: Mapping[str, UInt8[np.ndarray, "h w 3"]]
    """Panels right of the composites, by caption, of the tile's size."""

    marked: bool = False
    """Whether the pixel in the middle is framed."""


def write_preview(
    path: Path,
    rows: Sequence[Row],
    bands: BandSpec,
    composites: Sequence[Composite],
    *,
    description: str,
    legend: Mapping[str, Colour],
) -> None:
    """Write a PNG with one captioned row per tile.

    Args:
        path: the file, replaced when it exists.
        rows: the tiles, from top to bottom.
        bands: of the pixels' channels.
        composites: the first columns.
        description: text stored in the file, in case it is copied elsewhere.
        legend: what the colours of the panels mean; empty when there are no panels.
    """
    _, height, width = rows[0].pixels.shape
    side, gap = (_SIDE_OF_MANY, _GAP_OF_MANY) if legend else (_SIDE, _GAP)
    zoom = max(1, side // width)
    cell_width, cell_height = width * zoom, height * zoom
    row_height = 2 * _LINE + cell_height + _GAP
    # The widest heading counts if a single composite makes the picture narrow.
    heading, caption = ImageFont.load_default(17), ImageFont.load_default(14)
    widest = max(int(heading.getlength(row.title)) for row in rows)
    columns = len(composites) + max(len(row.panels) for row in rows)
    sheet_width = max(columns * (cell_width + gap) - gap, widest) + 2 * _GAP
    lines = _lines(legend, caption, sheet_width - 2 * _GAP)
    below = _GAP + len(rows) * row_height
    picture = Image.new("RGB", (sheet_width, below + len(lines) * _LINE), _PAPER)
    draw = ImageDraw.Draw(picture)
    for number, row in enumerate(rows):
        top = _GAP + number * row_height
        draw.text((_GAP, top), row.title, fill=_INK, font=heading)
        # Narrow columns have no room for the names of bands.
        shown = {
            each.caption if legend else _caption(each): stretch(row.pixels, bands, each)
            for each in composites
        }
        pictures = shown | dict(row.panels)
        small = _fitting(pictures, cell_width)
        for column, (text, colours) in enumerate(pictures.items()):
            left = _GAP + column * (cell_width + gap)
            draw.text((left, top + _LINE), text, fill=_INK, font=small)
            image = Image.fromarray(colours)
            image = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            picture.paste(image, (left, top + 2 * _LINE - 2))
            if row.marked:
                middle = (left + width // 2 * zoom, top + 2 * _LINE - 2 + height // 2 * zoom)
                _frame(draw, middle, zoom)
    for number, line in enumerate(lines):
        left, top = _GAP, below + number * _LINE
        for name in line:
            swatch = (left, top, left + _SWATCH, top + _SWATCH)
            draw.rectangle(swatch, fill=legend[name], outline=_INK)
            draw.text((left + _SWATCH + 6, top - 2), name, fill=_INK, font=caption)
            left += _width(name, caption)
    save_png(path, picture, description)


def save_png(path: Path, picture: Image.Image, description: str) -> None:
    """Write a picture that says what it is, in case it is copied elsewhere; atomically."""
    text_chunks = PngImagePlugin.PngInfo()
    text_chunks.add_text("Description", description)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text_chunks)


def _fitting(captions: Collection[str], room: int) -> Font:
    """Return a font in which captions of pictures do not run into each other, if it is legible."""
    fonts = [ImageFont.load_default(size) for size in (14, 13, 12, 11, 10)]
    fits = (font for font in fonts if max(map(font.getlength, captions), default=0) <= room)
    return next(fits, fonts[-1])


def _frame(draw: ImageDraw.ImageDraw, corner: tuple[int, int], zoom: int) -> None:
    """Draw a frame around a pixel, light and dark so that it is visible on any background."""
    x, y = corner
    for far, colour in ((3, _INK), (2, _PAPER), (1, _INK)):
        draw.rectangle((x - far, y - far, x + zoom - 1 + far, y + zoom - 1 + far), outline=colour)


def _lines(names: Iterable[str], font: Font, room: int) -> list[list[str]]:
    """Return the legend's names broken into lines of this width."""
    lines: list[list[str]] = []
    for name in names:
        if lines and sum(_width(text, font) for text in [*lines[-1], name]) <= room:
            lines[-1].append(name)
        else:
            lines.append([name])
    return lines


def _width(name: str, font: Font) -> int:
    """Return the width of an entry of the legend, with its swatch and the space behind it."""
    return _SWATCH + 24 + int(font.getlength(name))


def _caption(composite: Composite) -> str:
    """Return the caption with its bands, such as `NIR (B08 B04 B03)`."""
    return f"{composite.caption} ({' '.join(composite.bands)})"
