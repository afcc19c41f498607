"""Drawn images with masks: spectra of two classes in blobs, on any grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from scipy.ndimage import gaussian_filter

from rs_lowconf.bands import Level
from rs_lowconf.data.catalog.rows import CatalogRow
from rs_lowconf.data.catalog.scan import Account, rows_of
from rs_lowconf.data.catalog.sources import list_images
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.settings import load

BANDS = ("B02", "B03", "B04", "B08")
#: Digital numbers of the background and of damage, in the order of BANDS.
SPECTRA = np.array([[300, 500, 300, 3000], [700, 900, 1100, 1900]], dtype=float)


def write(
    path: Path, pixels: NDArray[Any], place: Affine, crs: str = "EPSG:32633", **profile: Any
) -> None:
    """Write a GeoTIFF of c h w or h w pixels without band descriptions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = layers.shape
    with rasterio.open(
        path,
        "w",
        driver=profile.pop("driver", "GTiff"),
        count=count,
        height=height,
        width=width,
        dtype=layers.dtype,
        crs=crs or None,
        transform=place,
        **profile,
    ) as file:
        file.write(layers)


def draw(height: int, width: int, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return an image, c h w, and its mask of 0 and 1, h w."""
    dice = np.random.default_rng(seed)
    field = gaussian_filter(dice.normal(size=(height, width)), 4)
    mask = (field > np.quantile(field, 0.75)).astype(np.uint8)
    image = np.moveaxis(SPECTRA[mask], -1, 0) + dice.normal(scale=60, size=(4, height, width))
    return np.clip(image, 1, None).astype(np.uint16), mask


def corner(x: float, y: float, size: float = 10.0) -> Affine:
    """Return the transform of an image with its upper left corner at x, y."""
    return Affine(size, 0, x, 0, -size, y)


def make_scenes(
    folder: Path, level: Level, images: Mapping[str, NDArray[np.uint16]], tile_size: int
) -> list[CatalogRow]:
    """Write a scene per date, all at one place, below `scenes`, and config.yaml that names them.

    Args:
        folder: of both.
        level: of the scenes.
        images: pixels of each date, c h w in the order of BANDS.
        tile_size: of the tiles.

    Returns:
        The tiles of all scenes, as a catalog has them.
    """
    for date, image in images.items():
        name = f"S2_{date.replace('-', '')}T103629.tif"
        write(folder / "scenes" / name, image, corner(500_000, 5_000_000))
    (folder / "config.yaml").write_text(
        f"data: {{kind: images, images: {folder}/scenes, file_bands: [B02, B03, B04, B08],"
        f" level: {level}, scale: 10000, dn_offset: 0, tile_size: {tile_size}}}\n"
    )
    data, account = load(folder / "config.yaml").data, Account(left_out=LeftOut(skip_bad=False))
    scenes = [*list_images(data, account.left_out)]  # type: ignore[arg-type]
    return [row for one in scenes for row in rows_of(one, data, "tiles", account)]  # type: ignore[arg-type]


def make_chips(folder: Path, count: int, side: int = 48) -> None:
    """Write `count` places, 3 km apart, each with two dates that share a mask."""
    for number in range(count):
        image, mask = draw(side, side, number)
        place = corner(400_000 + 3_000 * (number % 5), 5_000_000 + 3_000 * (number // 5))
        for date in ("2019", "2020"):
            write(folder / "images" / date / f"s2_{number}.tif", image, place)
        write(folder / "masks" / f"mask_{number}.tif", mask, place)
