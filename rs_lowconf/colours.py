"""Colours of classes, the same in QGIS, in a browser and on sheets."""

from collections.abc import Sequence

Colour = tuple[int, int, int]
"""Red, green and blue, 0 .. 255."""

BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (230, 159, 0)
BLUISH_GREEN: Colour = (0, 158, 115)
REDDISH_PURPLE: Colour = (204, 121, 167)
YELLOW: Colour = (240, 228, 66)
VERMILION: Colour = (213, 94, 0)
SKY_BLUE: Colour = (86, 180, 233)
PALETTE = (BLUE, ORANGE, BLUISH_GREEN, REDDISH_PURPLE, YELLOW, VERMILION, SKY_BLUE)
"""The colour-blind-safe palette of Okabe and Ito (2008)."""

_DARKER, _PALER = 0.5, 0.55


def colours_of(names: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for each name, by its position in the list.

    After the palette come darker and then paler versions, and after these 21 the first again: so
    many cannot be distinguished by colour, but their names are in the files.
    """
    unique = tuple(dict.fromkeys(names))
    return {name: _colour(number) for number, name in enumerate(unique)}


def _colour(number: int) -> Colour:
    turn, place = divmod(number, len(PALETTE))
    red, green, blue = PALETTE[place]
    match turn % 3:
        case 1:
            return (int(red * _DARKER), int(green * _DARKER), int(blue * _DARKER))
        case 2:
            pale = (int(255 - (255 - part) * _PALER) for part in (red, green, blue))
            return (next(pale), next(pale), next(pale))
    return (red, green, blue)
