"""Files that are read without GDAL: the oracle is rasterio."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rs_lowconf.data.plain import read_plain
from tests.conftest import WriteTile

MOST = 10_000_000


def same(path: Path) -> bool:
    """Return whether a file is read, and make sure that it is read as rasterio reads it."""
    plain = read_plain(path, MOST)
    if plain is None:
        return False
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(plain.numbers, file.read())
        assert plain.numbers.dtype == np.dtype(file.dtypes[0])
        np.testing.assert_equal(plain.nodata, file.nodata)
    return True


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "uint32", "int32", "float32"]),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 40), st.integers(1, 40)),
    profile=st.fixed_dictionaries(
        {
            "interleave": st.sampled_from(["pixel", "band"]),
            "ENDIANNESS": st.sampled_from(["LITTLE", "BIG"]),
            "blockysize": st.integers(1, 50),
            "nodata": st.sampled_from([None, 0, 7, 100]),
        }
    ),
)
def test_plain_files_are_read_as_by_rasterio(
    tmp_path: Path,
    write_tile: WriteTile,
    dtype: str,
    shape: tuple[int, int, int],
    profile: dict[str, Any],
) -> None:
    """Types of pixels, orders of bytes and bands, strips and nodata make no difference."""
    path = tmp_path / "a.tif"
    path.unlink(missing_ok=True)
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    write_tile(path, pixels=pixels, described=False, **profile)
    # GDAL makes an alpha band of the last of four that have eight bits.
    assert same(path) == ((dtype, shape[0]) != ("uint8", 4))


def test_real_tiles_are_plain(eurosat_root: Path) -> None:
    """EuroSAT's files are read, all of those of a class."""
    folder = next(path for path in eurosat_root.rglob("*") if any(path.glob("*.tif")))
    for path in folder.glob("*.tif"):
        assert same(path)


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
    ],
)
def test_what_takes_gdal_is_left_to_it(
    tmp_path: Path, write_tile: WriteTile, profile: dict[str, object]
) -> None:
    """Compressed, tiled and other files are not read, nor those that something lies beside."""
    write_tile(tmp_path / "a.tif", **profile)
    assert read_plain(tmp_path / "a.tif", MOST) is None


@pytest.mark.parametrize("profile", [{"BIGTIFF": "YES"}, {"NBITS": 12}])
def test_rare_files_are_read_rightly_or_not_at_all(
    tmp_path: Path, write_tile: WriteTile, profile: dict[str, object]
) -> None:
    """Large offsets, numbers of twelve bits."""
    write_tile(tmp_path / "a.tif", **profile)
    assert same(tmp_path / "a.tif") or read_plain(tmp_path / "a.tif", MOST) is None


def test_what_lies_beside_a_file_takes_gdal(tmp_path: Path, write_tile: WriteTile) -> None:
    """An .aux.xml may declare a nodata value; a large file is not worth it; none is none."""
    path = tmp_path / "a.tif"
    write_tile(path)
    assert same(path)
    assert read_plain(path, path.stat().st_size - 1) is None
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    assert read_plain(path, MOST) is None
    assert read_plain(tmp_path / "b.tif", MOST) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 2200), place=st.integers(0, 2199), value=st.integers(0, 255))
def test_damage_is_no_bug(
    tmp_path: Path, write_tile: WriteTile, length: int, place: int, value: int
) -> None:
    """Cut anywhere, or with any byte changed, a file is read as something or not at all."""
    path = tmp_path / "a.tif"
    path.unlink(missing_ok=True)
    write_tile(path, bands=("B02", "B03"), side=16)
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:length])
    read_plain(path, MOST)
    whole[min(place, len(whole) - 1)] = value
    path.write_bytes(whole)
    read_plain(path, MOST)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_nodata_of_zero_point_zero_is_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of whole numbers often have it so, and nobody is warned of each of them."""
    path = tmp_path / "a.tif"
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    tifffile.imwrite(path, pixels, extratags=[(42113, "s", 0, "0.0", True)])
    assert same(path)
    found = read_plain(path, MOST)
    assert found is not None
    assert found.nodata == 0
    assert caplog.records == []
