"""Pictures for the form: one tile a row, the one to judge last, one composite a column."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from rs_lowconf.bands import BandSpec
from rs_lowconf.review.composites import Composite, stretch
from rs_lowconf.runs import replacing

_SIDE = 192  # pixels of a picture on the screen, about
_GAP = 8
_LINE = 24
_INK = (20, 20, 20)
_PAPER = (255, 255, 255)


def write_preview(
    path: Path,
    rows: Sequence[tuple[str, UInt16[np.ndarray, "c h w"]]],
    bands: BandSpec,
    composites: Sequence[Composite],
    description: str,
) -> None:
    """Write a PNG with one captioned row a tile.

    Args:
        path: the file, replaced when it exists.
        rows: heading and pixels of each tile, from top to bottom.
        bands: what the channels of the pixels hold.
        composites: the columns.
        description: text stored in the file, for when it is copied elsewhere.
    """
    _, height, width = rows[0][1].shape
    zoom = max(1, _SIDE // width)
    cell_width, cell_height = width * zoom, height * zoom
    row_height = 2 * _LINE + cell_height + _GAP
    # The widest heading decides when a single composite makes the picture narrow.
    heading, caption = ImageFont.load_default(17), ImageFont.load_default(14)
    widest = max(int(heading.getlength(text)) for text, _ in rows)
    sheet_width = max(len(composites) * (cell_width + _GAP) - _GAP, widest) + 2 * _GAP
    picture = Image.new("RGB", (sheet_width, len(rows) * row_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (text, pixels) in enumerate(rows):
        top = _GAP + row * row_height
        draw.text((_GAP, top), text, fill=_INK, font=heading)
        for column, composite in enumerate(composites):
            left = _GAP + column * (cell_width + _GAP)
            draw.text((left, top + _LINE), legend(composite), fill=_INK, font=caption)
            image = Image.fromarray(stretch(pixels, bands, composite))
            image = image.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            picture.paste(image, (left, top + 2 * _LINE - 2))
    text_chunks = PngImagePlugin.PngInfo()
    text_chunks.add_text("Description", description)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text_chunks)


def legend(composite: Composite) -> str:
    """Return the caption with its bands, such as `NIR (B08 B04 B03)`."""
    return f"{composite.caption} ({' '.join(composite.bands)})"
