"""Packages that people judge in QGIS: GeoTIFFs, a contact sheet, a layer of decisions."""

from rs_lowconf.review.fields import DECISIONS, Decision, Label
from rs_lowconf.review.geotiff import Tile, read_tile, to_digital_numbers, write_tile
from rs_lowconf.review.package import (
    MAX_SAMPLES,
    RealNeighbour,
    ReviewSample,
    TileMasks,
    write_package,
)

__all__ = [
    "DECISIONS",
    "MAX_SAMPLES",
    "Decision",
    "Label",
    "RealNeighbour",
    "ReviewSample",
    "Tile",
    "TileMasks",
    "read_tile",
    "to_digital_numbers",
    "write_package",
    "write_tile",
]
