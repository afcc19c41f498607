"""A small folder of drawn multi-band tiles that a GAN learns in seconds.

Three classes of 32 x 32 tiles with six bands at 10 and 20 m: dark woods, green meadows and
striped fields.
"""

from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine
from scipy.ndimage import gaussian_filter, zoom

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
SIDE = 32
#: Reflectance x 10,000 in the order of BANDS.
SPECTRA = {
    "woods": (850, 700, 480, 2400, 1200, 550),
    "meadow": (950, 950, 750, 3400, 2000, 1100),
    "soil": (1200, 1300, 1500, 2300, 3000, 2500),
}


def cover_of(
    name: str, dice: np.random.Generator
) -> "np.ndarray[tuple[int, int], np.dtype[np.object_]]":
    """Return the surface of every pixel."""
    row, column = np.mgrid[:SIDE, :SIDE].astype(float)
    angle = dice.uniform(0, np.pi)
    along = np.cos(angle) * row + np.sin(angle) * column
    surface = np.full((SIDE, SIDE), "meadow", dtype=object)
    if name == "woods":
        surface[:] = name
    elif name == "fields":
        surface[(along + dice.uniform(0, 9)) % dice.uniform(7, 12) < 4] = "soil"
    return surface


def draw(
    name: str, dice: np.random.Generator
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]":
    """Return one tile, bands first."""
    surface = cover_of(name, dice)
    light = dice.normal(1, 0.08)
    texture = 1 + 0.12 * gaussian_filter(dice.normal(size=(SIDE, SIDE)), 1) / 0.28
    spectra = np.array([[SPECTRA[kind] for kind in line] for line in surface])
    tile = np.moveaxis(spectra * texture[:, :, None] * light, -1, 0)
    tile += dice.normal(scale=25, size=tile.shape)
    for index, band in enumerate(BANDS):
        if band in ("B11", "B12"):  # measured at 20 m
            coarse = tile[index].reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
            tile[index] = zoom(coarse, 2, order=1, grid_mode=True, mode="nearest")
    numbers: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]
    numbers = np.clip(np.rint(tile), 1, 65_535).astype(np.uint16)
    return numbers


def make_tiles(folder: Path, count: int) -> None:
    """Write `count` tiles of each class into class-named subfolders."""
    for number, name in enumerate(("woods", "meadow", "fields")):
        dice = np.random.default_rng([7, number])
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            # A grid far from any place: the tiles show none.
            corner = Affine(10, 0, 500_000 + index * SIDE * 10, 0, -10, number * SIDE * 10)
            with rasterio.open(
                folder / name / f"{name}_{index:03d}.tif",
                "w",
                driver="GTiff",
                width=SIDE,
                height=SIDE,
                count=len(BANDS),
                dtype="uint16",
                nodata=0,
                crs="EPSG:32631",
                transform=corner,
                compress="deflate",
            ) as file:
                file.write(draw(name, dice))
                file.descriptions = BANDS
                file.update_tags(TIFFTAG_IMAGEDESCRIPTION="SYNTHETIC drawing, NOT AN OBSERVATION")
