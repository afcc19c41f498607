"""Tiles as pictures of three bands, for tools that read no GeoTIFF of many."""

from pathlib import Path

from PIL import Image

from rs_lowconf.bands import COMPOSITES, BandSpec
from rs_lowconf.errors import DataError, ReviewError
from rs_lowconf.review.composites import stretch
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.previews import save_png


def write_pictures(
    tiles: Path | str, folder: Path | str, composite: str = "true_colour"
) -> dict[str, Path]:
    """Write a PNG of every tile in a folder, of the same width and height in pixels.

    All have the stretch of reviews, so that their brightness can be compared. Each says in its
    description whether the tile is synthetic, as the GeoTIFF does.

    Args:
        tiles: folder of GeoTIFFs that this package wrote, such as `tiles/` of a search, a review
            package or a test set.
        folder: for the pictures; those of the same names are replaced.
        composite: a name of `rs_lowconf.bands.COMPOSITES`: `true_colour`, `near_infrared` or
            `short_wave_infrared`.

    Returns:
        The picture of each sample, by its id.

    Raises:
        ReviewError: there are no tiles, or one cannot be read.
        DataError: a tile lacks a band of the composite, or there is no such composite.

    Example:
        >>> import rs_lowconf as rl
        >>> generator = rl.load_generator()
        >>> target, gate = rl.load_target("multispectral"), rl.load_gate(generator)
        >>> result = rl.Search(generator, target, gate, count=2, seed=0).result()
        >>> package = rl.write_review(result, "hard")
        >>> len(rl.write_pictures(package / "tiles", "pictures"))
        2
    """
    if composite not in COMPOSITES:
        raise DataError(
            f"there is no composite {composite}", expected=f"one of {', '.join(COMPOSITES)}"
        )
    paths = sorted(Path(tiles).glob("*.tif"))
    if not paths:
        raise ReviewError(
            f"{tiles} holds no tiles", expected="GeoTIFFs, such as tiles/ of a review package"
        )
    pictures = {}
    for path in paths:
        tile = read_tile(path)
        bands = BandSpec(names=tile.names, level=tile.level)
        pictures[path.stem] = Path(folder) / f"{path.stem}.png"
        picture = Image.fromarray(stretch(tile.pixels, bands, COMPOSITES[composite]))
        save_png(pictures[path.stem], picture, tile.tags.get("TIFFTAG_IMAGEDESCRIPTION", ""))
    return pictures
