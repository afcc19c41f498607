"""Where a tile lies. Imports no torch, so that catalogs can be read without it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where a tile lies on the ground."""

    crs: str
    """An authority code such as EPSG:32633, or WKT."""

    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f."""

    def at(self, row: float, col: float) -> tuple[float, float]:
        """Return x and y of a point given in pixels, in the unit of the CRS."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    def corners(self, height: int, width: int) -> list[tuple[float, float]]:
        """Return the corners of an image of this size, from the upper left, clockwise."""
        bottom, right = float(height), float(width)
        places = ((0.0, 0.0), (0.0, right), (bottom, right), (bottom, 0.0))
        return [self.at(*place) for place in places]
