"""Where a tile lies. Without torch, so that catalogs are read without it, too."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where a tile lies on the ground."""

    crs: str
    """An authority code such as EPSG:32633, or WKT."""

    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f."""
