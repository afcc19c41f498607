"""Single tiles of a review package, with rasterio as the independent reader."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import CRSError, NotGeoreferencedWarning

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.review.geotiff import read_tile, synthetic_tags, write_tile
from tests.review_samples import ATTRIBUTION, GRID, tile

BANDS = BandSpec(names=("B8A", "B02", "B04"), level="L2A")


def test_tile_comes_back(tmp_path: Path) -> None:
    """What is written is read again: pixels, names in order, tags, and no place."""
    pixels = tile(0, 0, 3)
    write_tile(tmp_path / "a.tif", pixels, BANDS, {})
    found = read_tile(tmp_path / "a.tif")
    assert np.array_equal(found.pixels, pixels)
    assert found.names == BANDS.names
    assert found.tags["RSLOW_LEVEL"] == "L2A"
    assert found.grid is None


def test_foreign_readers_see_plain_numbers(tmp_path: Path) -> None:
    """Rasterio sees uint16 without scale, nodata 0 that no pixel has, and the warning tags."""
    pixels = tile(1, 1, 3)
    pixels[:, 0, 0] = 0
    write_tile(tmp_path / "a.tif", pixels, BANDS, synthetic_tags(ATTRIBUTION))
    with pytest.warns(NotGeoreferencedWarning):
        file = rasterio.open(tmp_path / "a.tif")
    with file:
        assert file.dtypes == ("uint16",) * 3
        assert file.nodata == 0
        assert file.scales == (1.0,) * 3
        assert file.offsets == (0.0,) * 3
        assert file.descriptions == BANDS.names
        assert file.compression.name == "deflate"
        assert file.crs is None
        assert file.read().min() == 1
        tags = file.tags()
    assert "SYNTHETIC" in tags["TIFFTAG_IMAGEDESCRIPTION"]
    assert "NOT AN OBSERVATION" in tags["TIFFTAG_IMAGEDESCRIPTION"]
    assert tags["TIFFTAG_COPYRIGHT"] == ATTRIBUTION
    assert tags["RSLOW_SYNTHETIC"] == "true"
    assert tags["RSLOW_DIGITAL_SOURCE_TYPE"].endswith("/trainedAlgorithmicMedia")


def test_place_of_a_real_tile_is_kept(tmp_path: Path) -> None:
    """A real tile with a grid is written where it lies."""
    write_tile(tmp_path / "a.tif", tile(2, 2, 3), BANDS, {}, GRID)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert tuple(file.bounds) == (500_000, 4_999_680, 500_320, 5_000_000)
    assert read_tile(tmp_path / "a.tif").grid == GRID


def test_same_tile_same_bytes(tmp_path: Path) -> None:
    """Writing is reproducible, so that a checksum identifies a tile."""
    for name in ("a.tif", "b.tif"):
        write_tile(tmp_path / name, tile(3, 3, 3), BANDS, synthetic_tags(ATTRIBUTION))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A tile that cannot be written neither replaces the old one nor leaves a temporary."""
    write_tile(tmp_path / "a.tif", tile(4, 0, 3), BANDS, {})
    before = (tmp_path / "a.tif").read_bytes()
    nowhere = Grid(crs="EPSG:0", transform=GRID.transform)
    with pytest.raises(CRSError):
        write_tile(tmp_path / "a.tif", tile(5, 0, 3), BANDS, {}, nowhere)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == before


def test_wrong_channels_and_files_are_named(tmp_path: Path) -> None:
    """Channels that do not fit the bands, and files that are no tiles, are users' errors."""
    with pytest.raises(DataError, match="2 channels to write"):
        write_tile(tmp_path / "a.tif", tile(6, 0, 2), BANDS, {})
    (tmp_path / "b.tif").write_text("no raster")
    with pytest.raises(ReviewError, match=r"b\.tif cannot be read"):
        read_tile(tmp_path / "b.tif")
