"""Reading tiles: the oracle is rasterio, or the numbers that were written."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchgeo.datasets import EuroSAT

from rs_lowconf.bands import EUROSAT_ORDER, RESOLUTION_M
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.source import open_split
from rs_lowconf.data.tiles import read_profile
from rs_lowconf.errors import DataError
from rs_lowconf.percents import percent
from rs_lowconf.settings import DataSettings, EuroSatData, data_settings
from rs_lowconf.types import TileSource
from tests.conftest import WriteTile

RGBN = ("B02", "B03", "B04", "B08")


def folder(root: Path, **changes: Any) -> DataSettings:
    """Return settings for a folder whose files are all for training."""
    values = {"kind": "folder", "root": root, "tile_size": 32, "val_share": 0, "test_share": 0}
    return data_settings({**values, **changes})


def only_tile(chosen: DataSettings) -> NDArray[Any]:
    """Return the one tile of a folder."""
    return open_split(chosen, "train").batch([0]).image[0].numpy()


def test_real_batches_equal_rasterio(eurosat_root: Path) -> None:
    """Real tiles come as rasterio reads them, over 10,000, with class, place and name."""
    source = open_split(EuroSatData(root=eurosat_root), "val")
    assert isinstance(source, TileSource)
    assert source.bands.names == EUROSAT_ORDER
    assert len(source) == 58
    assert len(source.classes) == 10
    batch = source.batch(range(0, 58, 7))
    for i, name in enumerate(batch.ids):
        with rasterio.open(eurosat_root / EuroSAT.base_dir / f"{name}.tif") as file:
            expected = file.read().astype(np.float32) / np.float32(10_000)
            np.testing.assert_array_equal(batch.image[i].numpy(), expected)
            assert batch.grids is not None
            grid = batch.grids[i]
            assert grid is not None
            assert grid.transform == tuple(file.transform)[:6]
            assert grid.crs == f"EPSG:{file.crs.to_epsg()}"
        assert batch.label is not None
        assert source.classes[int(batch.label[i])] == name.split("/")[0]


def test_real_bands_by_name(eurosat_root: Path) -> None:
    """A subset in its own order equals the channels of those names in the whole."""
    chosen = EuroSatData(root=eurosat_root, classes=("Forest",))
    whole = open_split(chosen, "test").batch([0, 1])
    some = open_split(chosen.model_copy(update={"bands": ("B8A", "b4", "B12")}), "test")
    assert some.bands.names == ("B8A", "B04", "B12")
    assert torch.equal(some.batch([0, 1]).image, whole.image[:, [12, 3, 11]])


@settings(max_examples=15)
@given(orders=st.lists(st.permutations(RGBN), min_size=2, max_size=4), data=st.data())
def test_files_of_any_band_order_agree(
    tmp_path_factory: pytest.TempPathFactory,
    write_tile: WriteTile,
    orders: list[list[str]],
    data: Any,
) -> None:
    """Files that store their bands in different orders come out in one order, by name."""
    root = tmp_path_factory.mktemp("orders")
    values = {name: (np.arange(1024).reshape(32, 32) + 5000 * k) for k, name in enumerate(RGBN)}
    for number, order in enumerate(orders):
        pixels = np.stack([values[name] for name in order]).astype(np.uint16)
        write_tile(root / "a" / f"{number}.tif", bands=order, pixels=pixels)
    wanted = data.draw(st.none() | st.permutations(RGBN).map(lambda names: tuple(names[:3])))
    source = open_split(folder(root, bands=wanted), "train")
    assert source.bands.names == (wanted or RGBN)
    due = np.stack([values[name] for name in source.bands.names]).astype(np.float32) / 10_000
    for image in source.batch(range(len(orders))).image.numpy():
        np.testing.assert_array_equal(image, due)


def test_splits_have_one_band_order(tmp_path: Path, write_tile: WriteTile) -> None:
    """The order of bands does not depend on which file of a split comes first."""
    for split, order in zip(SPLITS, (RGBN, RGBN[::-1], (*EUROSAT_ORDER[1:4], "B08")), strict=True):
        write_tile(tmp_path / split / "a" / "1.tif", bands=order)
    sources = [open_split(folder(tmp_path), split) for split in SPLITS]
    assert {source.bands.names for source in sources} == {RGBN}


def test_file_bands_name_what_files_do_not(tmp_path: Path, write_tile: WriteTile) -> None:
    """Files without descriptions, or with others than band names, are read by data.file_bands."""
    pixels = write_tile(tmp_path / "a" / "1.tif", bands=RGBN, described=False)
    write_tile(tmp_path / "a" / "2.tif", bands=("blue", "", "B04 (red)", "nir"), pixels=pixels)
    source = open_split(folder(tmp_path, file_bands=RGBN, bands=("B08", "B02")), "train")
    for image in source.batch([0, 1]).image.numpy():
        np.testing.assert_array_equal(image, pixels[[3, 0]].astype(np.float32) / 10_000)


@pytest.mark.parametrize(
    ("bands", "changes", "complaint"),
    [
        (RGBN[::-1], {"file_bands": RGBN}, r"names its bands.*as in data\.file_bands"),
        (RGBN, {"file_bands": RGBN[:3]}, "has 4 bands; expected 3"),
        (("B02", "red"), {}, r"describes.*red.*list their order in data\.file_bands"),
        (("", ""), {}, r"\(none\).*data\.file_bands"),
        (("B02", "B2"), {}, "B02 more than once"),
        (RGBN, {"bands": ("B02", "B11")}, r"lacks B11 of data\.bands"),
        (RGBN, {"bands": ("B02", "B77")}, "'B77' is unknown"),
        (RGBN, {"bands": ("B02", "B2")}, "more than once"),
        (RGBN, {"tile_size": 64}, r"is 32 x 32 pixels; expected 64 x 64 \(data\.tile_size\)"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path,
    write_tile: WriteTile,
    bands: tuple[str, ...],
    changes: dict[str, Any],
    complaint: str,
) -> None:
    """Files and settings that contradict each other end in one line that says how."""
    write_tile(tmp_path / "a" / "1.tif", bands=bands)
    with pytest.raises(DataError, match=complaint) as caught:
        open_split(folder(tmp_path, **changes), "train")
    assert "\n" not in str(caught.value)


def test_twelve_bands_where_thirteen_are_due(tmp_path: Path, eurosat_root: Path) -> None:
    """An L2A file among EuroSAT's is refused: its B09 would be taken for B10."""
    shutil.copytree(eurosat_root, tmp_path / "e")
    path = sorted((tmp_path / "e" / EuroSAT.base_dir / "River").glob("*.tif"))[0]
    for split in SPLITS:  # one split of one class, to read little
        (tmp_path / "e" / EuroSAT.split_filenames[split]).write_text(path.name)
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    for count, dtype, complaint in ((12, "uint16", "12 bands"), (13, "float32", "float32")):
        with rasterio.open(path, "w", **{**profile, "count": count, "dtype": dtype}) as file:
            file.write(pixels[:count].astype(dtype))
        with pytest.raises(DataError, match=rf"{path.name} .*{complaint}"):
            open_split(EuroSatData(root=tmp_path / "e", classes=("River",)), "val")


@pytest.mark.parametrize("side", [32, 48, 64, 128])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint8"])
def test_types_and_sizes(tmp_path: Path, write_tile: WriteTile, dtype: str, side: int) -> None:
    """Every number type and size comes out as the numbers that were written."""
    dice = np.random.default_rng(side)
    pixels = dice.uniform(1, 200, (4, side, side)).astype(dtype)
    if dtype == "int16":
        pixels[0, 0, 0] = -300
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN, pixels=pixels)
    image = only_tile(folder(tmp_path, tile_size=side))
    np.testing.assert_allclose(image, pixels.astype(np.float64) / 10_000, rtol=1e-6)


def test_whole_and_fractional_tiles_together(tmp_path: Path, write_tile: WriteTile) -> None:
    """A tile that does not fit two bytes changes nothing about those before and after it."""
    first = write_tile(tmp_path / "a" / "1.tif", bands=RGBN, seed=1)
    second = write_tile(tmp_path / "a" / "2.tif", bands=RGBN, pixels=first * np.float32(0.3))
    third = write_tile(tmp_path / "a" / "3.tif", bands=RGBN, seed=3)
    images = open_split(folder(tmp_path), "train").batch([0, 1, 2]).image.numpy()
    for image, pixels in zip(images, (first, second, third), strict=True):
        np.testing.assert_allclose(image, pixels.astype(np.float64) / 10_000, rtol=1e-6)


def test_scale_and_offset(tmp_path: Path, write_tile: WriteTile) -> None:
    """Reflectance is digital number plus offset, over scale; it may be negative or above 1."""
    pixels = write_tile(tmp_path / "a" / "1.tif", bands=RGBN)
    pixels[0, 0, 0] = 30_000
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN, pixels=pixels)
    image = only_tile(folder(tmp_path, dn_offset=-1000, scale=5000))
    np.testing.assert_allclose(image, (pixels.astype(np.float64) - 1000) / 5000, rtol=1e-5)
    assert image.min() < 0
    assert image.max() > 1


@pytest.mark.parametrize("declared", [-9999.0, float("nan"), 65535.0, 0.0, None])
@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_nodata_becomes_zero_reflectance(
    tmp_path: Path, write_tile: WriteTile, declared: float | None, offset: float
) -> None:
    """Nodata, declared or 0 in all bands, is counted, refused by default, and else becomes 0."""
    dice = np.random.default_rng(0)
    pixels = dice.uniform(1, 4000, (4, 32, 32)).astype(np.float32)
    pixels[:, :8] = 0
    pixels[2, 20, 20] = 0  # a dark pixel, not nodata
    if declared:
        pixels[1, 8:16] = declared  # one band is enough to spoil a pixel
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN, pixels=pixels, nodata=declared)
    lost = np.zeros((32, 32), dtype=bool)
    lost[: 16 if declared else 8] = True
    with pytest.raises(DataError, match=re.escape(percent(lost.mean(), 1))):
        only_tile(folder(tmp_path))
    image = only_tile(folder(tmp_path, max_nodata=0.5, dn_offset=offset))
    assert (image[:, lost] == 0).all()
    due = (pixels[:, ~lost].astype(np.float64) + offset) / 10_000
    np.testing.assert_allclose(image[:, ~lost], due, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_number_are_refused(
    tmp_path: Path, write_tile: WriteTile, value: float
) -> None:
    """NaN that no file declares as nodata, and infinity, are refused however much nodata may be."""
    pixels = np.ones((4, 32, 32), np.float32)
    pixels[1, 2, 3] = value
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN, pixels=pixels)
    with pytest.raises(DataError, match=r"NaN or infinity \(1 pixels\)"):
        only_tile(folder(tmp_path, max_nodata=1))


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_truncated_files_are_refused(
    tmp_path: Path, write_tile: WriteTile, compression: str, interleave: str
) -> None:
    """Wherever a GeoTIFF is cut, it is refused; no part of it is taken for the whole."""
    path = tmp_path / "a" / "1.tif"
    form = {"compress": compression, "interleave": interleave}
    chosen = folder(tmp_path, file_bands=RGBN)
    write_tile(path, bands=RGBN, described=False, **form)
    whole = path.read_bytes()
    for length in (0, 3, 7, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"1\.tif cannot be (opened|read)") as caught:
            only_tile(chosen)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    only_tile(chosen)


def test_a_file_that_lost_its_names_is_refused(tmp_path: Path, write_tile: WriteTile) -> None:
    """GDAL writes band names last and passes over their loss; all pixels are there, nameless."""
    path = tmp_path / "a" / "1.tif"
    write_tile(path, bands=RGBN)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"\(none\)"):
        only_tile(folder(tmp_path))


def test_truncated_eurosat_is_refused(tmp_path: Path, eurosat_root: Path) -> None:
    """Torchgeo's own loader raises on a truncated file too, which becomes one line."""
    shutil.copytree(eurosat_root, tmp_path / "e")
    for path in (tmp_path / "e" / EuroSAT.base_dir / "River").glob("*.tif"):
        path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(DataError, match="cannot be read"):
        open_split(EuroSatData(root=tmp_path / "e", classes=("River",)), "test")


def test_a_picture_by_another_name_is_refused(tmp_path: Path) -> None:
    """A file that is no TIFF despite its suffix is refused."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.tif").write_text("this is no picture")
    with pytest.raises(DataError, match="cannot be opened"):
        only_tile(folder(tmp_path))


def test_files_without_place(tmp_path: Path, write_tile: WriteTile) -> None:
    """A file without georeference is no cause for a warning: its grid is None."""
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN)
    with rasterio.open(tmp_path / "a" / "1.tif") as file:
        pixels = file.read()
    # rasterio warns when writing such a file as well; GDAL's PNG driver does not write four bands.
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_tile(tmp_path / "a" / "2.tif", bands=RGBN, pixels=pixels, georeferenced=False)
    grids = open_split(folder(tmp_path), "train").batch([0, 1]).grids
    assert grids is not None
    assert grids[0] is not None
    assert grids[1] is None
    assert read_profile(tmp_path / "a" / "2.tif").grid is None


def test_skip_bad_leaves_out_and_says_so(
    tmp_path: Path, write_tile: WriteTile, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad files are left out with a reason each; ids, labels and pixels stay aligned."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.tif").write_text("nonsense")
    good = {}
    for name, seed in (("a/1", 1), ("a/3", 2), ("b/2", 3)):
        good[name] = write_tile(tmp_path / f"{name}.tif", bands=RGBN, seed=seed)
    write_tile(tmp_path / "a" / "2.tif", bands=RGBN, side=16)
    write_tile(tmp_path / "b" / "3.tif", bands=RGBN[:2])
    with caplog.at_level(logging.WARNING):
        source = open_split(folder(tmp_path, skip_bad=True), "train")
    assert [record.args is not None for record in caplog.records] == [True] * 3
    assert source.ids == tuple(good)
    assert source.labels.tolist() == [0, 0, 1]
    for name, image in zip(source.ids, source.batch(range(3)).image.numpy(), strict=True):
        np.testing.assert_array_equal(image, good[name].astype(np.float32) / 10_000)


def test_skip_bad_does_not_hide_a_wrong_setting(tmp_path: Path, write_tile: WriteTile) -> None:
    """A mistake in the settings is no fault of each file, and a class left empty is an error."""
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN)
    with pytest.raises(DataError, match="B77"):
        open_split(folder(tmp_path, skip_bad=True, bands=("B77",)), "train")
    with pytest.raises(DataError, match="no usable tile of a"):
        open_split(folder(tmp_path, skip_bad=True, tile_size=64), "train")


def test_the_first_file_does_not_decide_when_it_is_bad(
    tmp_path: Path, write_tile: WriteTile
) -> None:
    """A bad file with other bands, listed first, does not make the good ones bad."""
    write_tile(tmp_path / "a" / "0.tif", bands=EUROSAT_ORDER, side=16)
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN)
    source = open_split(folder(tmp_path, skip_bad=True), "train")
    assert source.bands.names == RGBN


def test_classes_missing_in_a_split_stop_at_once(tmp_path: Path, write_tile: WriteTile) -> None:
    """A split without a tile of some class is refused before any file is read."""
    write_tile(tmp_path / "a" / "1.tif", bands=RGBN)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"train split.*no usable tile of b"):
        open_split(folder(tmp_path), "train")


def test_batches_take_any_indices(tmp_path: Path, write_tile: WriteTile) -> None:
    """Indices may repeat, run backwards or be a range; an index beyond the end is an error."""
    for i in range(3):
        write_tile(tmp_path / "a" / f"{i}.tif", bands=RGBN, seed=i)
    source = open_split(folder(tmp_path), "train")
    batch = source.batch([2, 0, 2])
    assert batch.ids == ("a/2", "a/0", "a/2")
    assert torch.equal(batch.image[0], batch.image[2])
    assert torch.equal(source.batch([0]).image[0], batch.image[1])
    assert source.batch([]).image.shape == (0, 4, 32, 32)
    with pytest.raises(IndexError):
        source.batch([3])


def test_file_order_is_esa_order_by_default(tmp_path: Path, write_tile: WriteTile) -> None:
    """Named bands come in ESA's order, B8A after B08, whatever the file's order."""
    pixels = write_tile(tmp_path / "a" / "1.tif", bands=EUROSAT_ORDER)
    source = open_split(folder(tmp_path), "train")
    assert source.bands.names == tuple(RESOLUTION_M)
    expected = pixels[[EUROSAT_ORDER.index(name) for name in RESOLUTION_M]]
    np.testing.assert_array_equal(
        source.batch([0]).image[0].numpy(), expected.astype(np.float32) / 10_000
    )
