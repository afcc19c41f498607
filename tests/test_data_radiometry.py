"""What files and their names say of their numbers is used, or refused in one line.

Oracles are rasterio, which knows tags and masks by itself, and the numbers that were written.
"""

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
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from rs_lowconf.bands import RESOLUTION_M, BandSpec
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.data.nodata import FILL_PIXELS, Part, equal_to, no_data
from rs_lowconf.data.source import open_split
from rs_lowconf.data.tiles import Tile, read_profile
from rs_lowconf.settings import FolderData
from tests.conftest import Run, WriteTile

BANDS = ("B02", "B03", "B04", "B08")
L2A = tuple(name for name in RESOLUTION_M if name != "B10")
NEW = "S2B_MSIL2A_20230701T103629_N0509_R008_T32UPU_20230701T135112"
OLD = "S2B_MSIL2A_20210701T103629_N0300_R008_T32UPU_20210701T135112"


def ground(seed: int, bands: int = 4, side: int = 64) -> NDArray[np.uint16]:
    """Return drawn digital numbers without an offset, none of them 0."""
    rng = np.random.default_rng(seed)
    return rng.integers(150, 3500, (bands, side, side)).astype(np.uint16)


def tagged(path: Path, scale: float, offset: float) -> None:
    """Write scale and offset into the tags of a file."""
    with rasterio.open(path, "r+") as file:
        file.scales = [scale] * file.count
        file.offsets = [offset] * file.count


def build(rslow: Run, folder: Path, *words: str) -> Any:
    """Catalog the images of a folder."""
    usual = (f"run.dir={folder / 'run'}", "data.kind=images", f"data.images={folder / 'images'}")
    return rslow("catalog", "build", *(part for word in (*usual, *words) for part in ("-s", word)))


def rows_in(folder: Path) -> list[CatalogRow]:
    """Return the rows of the catalog that `build` wrote."""
    catalog = Catalog(folder / "run" / "catalog.parquet")
    return [row for table in catalog.tables() for row in from_table(table)]


def read(row: CatalogRow) -> NDArray[np.float32]:
    """Return the reflectance of a row in the order of its bands."""
    return reflectance(row, read_row(row), row.bands).numpy()


@pytest.mark.parametrize(
    "case",
    [(1e-4, -0.1, 1, 1000), (5e-5, 0.0, 2, 0), (1e-4, 0.0, 1, 0), (1 / 65_535, 0.0, 6.5535, 0)],
)
def test_scale_and_offset_tags_are_used(
    case: tuple[float, float, float, int], rslow: Run, write_tile: WriteTile, tmp_path: Path
) -> None:
    """Reflectance is what rasterio makes of numbers, scales and offsets, and the build says so."""
    factor, addend, stretch, added = case
    numbers = np.rint(ground(1) * stretch + added).astype(np.uint16)
    path = tmp_path / "images" / "a.tif"
    write_tile(path, bands=BANDS, pixels=numbers)
    tagged(path, factor, addend)
    ran = build(rslow, tmp_path, "data.level=L2A")
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    with rasterio.open(path) as file:
        due = file.read() * np.array(file.scales)[:, None, None] + file.offsets[0]
    np.testing.assert_allclose(read(row), due, atol=1e-6)
    assert "scale and offset tags" in ran.out
    checked = rslow("catalog", "check", "-s", f"run.dir={tmp_path / 'run'}")
    assert "(scale and offset tags)" in checked.out


def test_tags_of_class_folders_are_used(tmp_path: Path, write_tile: WriteTile, rslow: Run) -> None:
    """Files of one data set that differ in scale and offset become the same reflectance."""
    for index in range(8):
        path = tmp_path / "tiles" / ("wood", "field")[index % 2] / f"{index}.tif"
        numbers = ground(index, side=32)
        added = 1000 * (index // 2 % 2)
        write_tile(path, bands=BANDS, pixels=numbers + np.uint16(added))
        if added:
            tagged(path, 1e-4, -0.1)
    data = FolderData(root=tmp_path / "tiles", tile_size=32, val_share=0.25)
    source = open_split(data, "train")
    for name, image in zip(source.ids, source.batch(range(len(source))).image, strict=True):
        due = ground(int(name.split("/")[1]), side=32) / 10_000
        np.testing.assert_allclose(image.numpy(), due, atol=1e-6)
    words = ("data.kind=folder", f"data.root={tmp_path / 'tiles'}", "data.tile_size=32")
    more = (*words, "data.val_share=0.25", "data.test_share=0.25")
    ran = rslow("data", "check", *(part for word in more for part in ("-s", word)))
    assert "4 files with level L1C (default), scale 10000 (scale and offset tags)" in ran.told
    assert "4 files with level L1C (default), scale 10000 (default)" in ran.told


def test_settings_have_the_last_word(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """A setting corrects tags and names, and the build says against what."""
    path = tmp_path / "images" / f"{NEW}.tif"
    write_tile(path, bands=BANDS, pixels=ground(2))
    tagged(path, 1e-4, -0.1)
    ran = build(rslow, tmp_path, "data.level=L1C", "data.scale=20000", "data.dn_offset=0")
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    assert (row.bands.level, row.bands.scale, row.bands.dn_offset) == ("L1C", 20_000, 0)
    assert "offset 0 (data.dn_offset, against -1000 by scale and offset tags)" in ran.told
    assert "level L1C (data.level, against L2A by product name, L2A, baseline 05.09)" in ran.told


def test_product_names_are_used(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Images of old and new baselines in one folder get their level and offset from their names."""
    for index in range(3):
        write_tile(
            tmp_path / "images" / f"{NEW}_{index}.tif",
            bands=L2A,
            pixels=ground(index, 12) + np.uint16(1000),
        )
        write_tile(tmp_path / "images" / f"{OLD}_{index}.tif", bands=L2A, pixels=ground(index, 12))
    ran = build(rslow, tmp_path)
    assert ran.code == 0, ran.err
    rows = rows_in(tmp_path)
    assert {row.bands.level for row in rows} == {"L2A"}
    for row in rows:
        seed = int(Path(row.files[0].href).stem[-1])
        np.testing.assert_allclose(read(row), ground(seed, 12) / 10_000, atol=1e-6)
    assert "3 images with level L2A (product name, L2A, baseline 05.09)" in ran.told
    assert "3 images with level L2A (product name, L2A, baseline 03.00)" in ran.told


@pytest.mark.parametrize(
    "case",
    [
        (NEW, {"tags": (1e-4, 0.0)}, (), "offset"),
        (NEW, {"dtype": "float32"}, (), "fractional numbers"),
        (NEW, {}, ("data.scale=1",), "numbers of scale 1"),
        (f"{NEW}/{OLD}", {}, (), "folder of another product"),
        ("a", {"tags": (2.0, 0.0)}, (), "has the scale tag 2"),
        ("a", {"tags": "mixed"}, (), "2 scales and offsets"),
        ("S2L1C", {"meta": "Level-2A"}, (), "level"),
    ],
)
def test_contradictions_are_one_line(
    case: tuple[str, dict[str, Any], tuple[str, ...], str],
    rslow: Run,
    write_tile: WriteTile,
    tmp_path: Path,
) -> None:
    """What contradicts itself is refused with the settings that decide, and these do decide."""
    name, change, words, complaint = case
    path = tmp_path / "images" / f"{name}.tif"
    write_tile(path, bands=BANDS, pixels=ground(3).astype(change.get("dtype", "uint16")))
    with rasterio.open(path, "r+") as file:
        if change.get("tags") == "mixed":
            file.scales = (1e-4, 1e-4, 5e-5, 1e-4)
        elif "tags" in change:
            file.scales, file.offsets = ([value] * 4 for value in change["tags"])
        file.update_tags(**({"PROCESSING_LEVEL": change["meta"]} if "meta" in change else {}))
    ran = build(rslow, tmp_path, *words)
    assert ran.code == 4
    assert complaint in ran.err
    assert ran.err.count("\n") == 1
    decided = ("data.level=L2A", "data.dn_offset=0", *(words or ("data.scale=10000",)))
    ran = build(rslow, tmp_path, *decided)
    assert ran.code == 0, ran.err


def test_tags_of_bands_that_are_not_used(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Bands without reflectance may have other scales, and are named as not used."""
    path = tmp_path / "images" / "a.tif"
    write_tile(path, bands=(*BANDS, "SCL"), pixels=ground(4, 5))
    with rasterio.open(path, "r+") as file:
        file.scales = (*[1e-4] * 4, 1.0)
    ran = build(rslow, tmp_path, "data.level=L2A")
    assert ran.code == 0, ran.err
    assert "not used: SCL" in ran.told


def masked_file(path: Path, how: str, write_tile: WriteTile) -> NDArray[np.bool_]:
    """Write a tile whose left 40 columns hold junk that only the mask tells; return the mask."""
    invalid = np.zeros((64, 64), dtype=bool)
    invalid[:, :40] = True
    pixels = ground(5)
    pixels[:, invalid] = 7
    alpha = np.where(invalid, 0, 65_535).astype(np.uint16)
    if how == "alpha":
        write_tile(path, bands=BANDS, pixels=np.concatenate([pixels, alpha[None]]), described=False)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = (*[ColorInterp.undefined] * 4, ColorInterp.alpha)
            file.descriptions = (*BANDS, None)
        return invalid
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "internal"):
        write_tile(path, bands=BANDS, pixels=pixels)
        with rasterio.open(path, "r+") as file:
            file.write_mask(~invalid)
    return invalid


@pytest.mark.parametrize("how", ["internal", "beside", "alpha"])
def test_masks_of_files_decide(how: str, rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Masks inside and beside a file and alpha bands are read as rasterio reads them."""
    path = tmp_path / "images" / "a.tif"
    invalid = masked_file(path, how, write_tile)
    ran = build(rslow, tmp_path, "data.level=L2A")
    assert ran.code == 4
    assert "1 tile: more nodata than data.max_nodata=0" in ran.told
    ran = build(rslow, tmp_path, "data.level=L2A", "data.max_nodata=0.7")
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    with rasterio.open(path) as file:
        # GDAL takes alpha for a mask beside one or three bands only.
        masked = file.read(5) if how == "alpha" else file.dataset_mask()
        np.testing.assert_array_equal(masked == 0, invalid)
    assert row.valid == pytest.approx(1 - invalid.mean())
    np.testing.assert_array_equal(read_row(row).nodata.numpy(), invalid)
    assert (read(row)[:, invalid] == 0).all()
    assert f"nodata by its {'alpha band' if how == 'alpha' else 'mask'}" in ran.told


@pytest.mark.parametrize("how", ["internal", "beside", "alpha"])
def test_masks_of_class_folders(how: str, write_tile: WriteTile, tmp_path: Path) -> None:
    """Labelled tiles are zero reflectance where their mask says so."""
    path = tmp_path / "a.tif"
    invalid = masked_file(path, how, write_tile)
    for split in ("train", "val", "test"):
        for name in ("x", "y"):
            folder = tmp_path / "tiles" / split / name
            folder.mkdir(parents=True)
            for file in tmp_path.glob("a.tif*"):
                shutil.copy(file, folder)
    source = open_split(FolderData(root=tmp_path / "tiles", max_nodata=0.7), "train")
    image = source.batch([0]).image[0].numpy()
    assert (image[:, invalid] == 0).all()
    assert (image[:, ~invalid] > 0).all()


def test_alpha_that_is_a_band(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """GDAL calls the fourth of four bytes alpha; where it is B08 it masks nothing."""
    pixels = np.clip(ground(6) // 14, 1, 255).astype(np.uint8)
    pixels[3, :9] = 0
    write_tile(tmp_path / "images" / "a.tif", bands=BANDS, pixels=pixels)
    with rasterio.open(tmp_path / "images" / "a.tif") as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    ran = build(rslow, tmp_path, "data.level=L2A", "data.scale=255")
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    np.testing.assert_allclose(read(row), pixels / 255, atol=1e-6)


_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_TAGS = st.one_of(
    st.sampled_from([-3.40282e38, -3.4028234663852886e38, -3.4e38, -99999.9, -0.1, 1e20]), _FLOATS
)


@settings(max_examples=60, deadline=None)
@given(
    tag=_TAGS, dtype=st.sampled_from(["float32", "float64"]), others=st.lists(_FLOATS, max_size=3)
)
def test_declared_values_are_matched_as_gdal_matches_them(
    tag: float, dtype: str, others: list[float]
) -> None:
    """A number that its tag does not equal by `==` is nodata where rasterio's mask says so."""
    near = np.float32(tag)
    values = [near, np.nextafter(near, np.float32(0)), *map(np.float32, others)]
    pixels = np.array(values, dtype=dtype)[None, None]
    with MemoryFile() as memory:
        shape = {"driver": "GTiff", "height": 1, "width": len(values), "count": 1}
        profile = {**shape, "dtype": dtype, "transform": Affine(10, 0, 0, 0, -10, 0)}
        with memory.open(nodata=tag, **profile) as file:
            file.write(pixels)
        with memory.open() as file:
            due, declared = file.read_masks(1) == 0, file.nodata
    found = equal_to(torch.from_numpy(pixels.astype(np.float32)), declared)[0].numpy()
    if dtype == "float32":
        np.testing.assert_array_equal(found, due)
    else:
        assert (found | ~due).all()


def test_a_truncated_tag_gives_no_nan(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """The lowest float32 under the tag -3.40282e+38 is nodata, and no number of a tile."""
    pixels = ground(7).astype(np.float32) / 10_000
    pixels[:, :20] = np.float32(-3.4028235e38)
    write_tile(tmp_path / "images" / "a.tif", bands=BANDS, pixels=pixels, nodata=-3.40282e38)
    ran = build(rslow, tmp_path, "data.scale=1", "data.max_nodata=0.5")
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    assert row.valid == pytest.approx(44 / 64)
    np.testing.assert_array_equal(read(row)[:, 20:], pixels[:, 20:])
    assert (read(row)[:, :20] == 0).all()


def test_dark_water_is_data(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Single pixels of 0 in all bands are dark; borders of 0 are not, and are counted."""
    for index in range(10):
        pixels = ground(index)
        if index < 7:
            pixels[:, np.random.default_rng(index).random((64, 64)) < 0.01] = 0
        elif index == 7:
            pixels[:, :, :3] = 0
        write_tile(tmp_path / "images" / f"lake_{index}.tif", bands=BANDS, pixels=pixels)
    ran = build(rslow, tmp_path, "data.level=L2A")
    assert ran.code == 0, ran.err
    assert len(rows_in(tmp_path)) == 9
    assert "1 tile: more nodata than data.max_nodata=0 (images/lake_7" in ran.told
    dark = {row.tile_id: read_row(row).pixels for row in rows_in(tmp_path)}
    assert sum(bool((pixels == 0).all(dim=0).any()) for pixels in dark.values()) == 7


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("declared", [None, 0.0, 65_535.0])
@pytest.mark.parametrize("offset", [0.0, -1000.0])
def test_what_counts_as_no_data(seed: int, declared: float | None, offset: float) -> None:
    """Rules of nodata: 0 everywhere where it is declared or offset, else areas of it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 9, (3, 12, 12)).astype(np.float32)
    pixels[:, :, :2] = 0
    pixels[:, 6, 6] = 0
    pixels[1, 3, 3] = 0
    pixels[2, 9, 9] = 65_535
    part = Part(
        pixels=torch.from_numpy(pixels),
        nodata=() if declared is None else (declared,),
        masked=None,
    )
    found = no_data([part], offset).numpy()
    zero = (pixels == 0).all(axis=0)
    border = np.arange(12)[None, :].repeat(12, 0) < 2
    assert border.sum() >= FILL_PIXELS
    due = zero if declared == 0 or offset else border
    if declared == 65_535:
        due = due | (pixels == 65_535).any(axis=0)
    np.testing.assert_array_equal(found, due)


@pytest.mark.parametrize(
    "case",
    [
        (("B1", *L2A[1:], "QA60", "MSK_CLDPRB"), (), L2A),
        (("B1", *L2A[1:], "QA60", "MSK_CLDPRB"), (f"data.file_bands=[{','.join(L2A)}]",), L2A),
        (
            ("B1", *L2A[1:], "QA60", "MSK_CLDPRB"),
            (f"data.file_bands=[{','.join((*L2A, 'QA60', 'cloud'))}]",),
            L2A,
        ),
        ((None,) * 5, ("data.file_bands=[B02,B03,B04,B08,QA60]",), BANDS),
        ((*BANDS, "B8 minus B4 over B8 plus B4 (NDVI)"), (), BANDS),
        ((*BANDS, "B8-B4 / B8+B4"), (), BANDS),
    ],
)
def test_bands_beside_the_named_ones(
    case: tuple[tuple[str | None, ...], tuple[str, ...], tuple[str, ...]],
    rslow: Run,
    write_tile: WriteTile,
    tmp_path: Path,
) -> None:
    """Files with more than bands of Sentinel-2 can be used, and say what is not used of them."""
    names, words, used = case
    pixels = ground(8, len(names))
    path = tmp_path / "images" / "a.tif"
    write_tile(path, bands=names, pixels=pixels)
    ran = build(rslow, tmp_path, "data.level=L2A", *words)
    assert ran.code == 0, ran.err
    (row,) = rows_in(tmp_path)
    assert row.bands.names == used
    np.testing.assert_allclose(read(row), pixels[: len(used)] / 10_000, atol=1e-6)
    assert "not used: " in ran.out
    checked = rslow("catalog", "check", "-s", f"run.dir={tmp_path / 'run'}")
    assert checked.code == 0, checked.err


def test_a_band_more_that_nobody_names(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Without any word on the fifth band the line says how to name it."""
    write_tile(tmp_path / "images" / "a.tif", bands=BANDS, pixels=ground(9, 5), described=False)
    ran = build(rslow, tmp_path, "data.file_bands=[B02,B03,B04,B08]")
    assert ran.code == 4
    assert "has 5 bands" in ran.err
    assert "QA60" in ran.err


def test_numbers_that_fill_sixteen_bits(rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Reflectance stored as 0 .. 65535 without a tag is told by its brightness, and which it is."""
    for index in range(12):
        numbers = (ground(index, 12) * 6.5535).astype(np.uint16)
        write_tile(tmp_path / "images" / f"{index}.tif", bands=L2A, pixels=numbers)
    assert build(rslow, tmp_path, "data.level=L2A").code == 0
    ran = rslow("catalog", "check", "-s", f"run.dir={tmp_path / 'run'}")
    assert "65535 fits numbers that fill 0 .. 65535" in ran.told


def test_levels_of_one_data_set(write_tile: WriteTile, tmp_path: Path, rslow: Run) -> None:
    """Class folders hold tiles of one level; the other is named, and can be left out."""
    for index in range(6):
        name = f"{index}_S2L{'1C' if index == 5 else '2A'}.tif"
        path = tmp_path / "tiles" / ("wood", "field")[index % 2] / name
        write_tile(path, bands=BANDS, pixels=ground(index, side=32))
    words = ("data.kind=folder", f"data.root={tmp_path / 'tiles'}", "data.tile_size=32")
    ran = rslow("data", "check", *(part for word in words for part in ("-s", word)))
    assert ran.code == 4
    assert "is L1C; expected L2A, as the files before it" in ran.told


def test_a_tile_in_the_numbers_of_another(write_tile: WriteTile, tmp_path: Path) -> None:
    """Converted digital numbers mean the same reflectance."""
    path = tmp_path / "a.tif"
    write_tile(path, bands=BANDS)
    own = BandSpec(names=BANDS, level="L2A", scale=20_000.0, dn_offset=-2000.0)
    other = BandSpec(names=BANDS[::-1], level="L2A", scale=10_000.0, dn_offset=0.0)
    numbers = torch.from_numpy(ground(10).astype(np.float32))
    nodata = torch.zeros(64, 64, dtype=torch.bool)
    tile = Tile(profile=read_profile(path), bands=own, pixels=numbers, nodata=nodata)
    torch.testing.assert_close(
        tile.select(other) / 10_000, ((numbers - 2000) / 20_000).flip(0), atol=1e-6, rtol=0
    )
