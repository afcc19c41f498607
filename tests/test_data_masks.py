"""Tiles with masks: the oracle is rasterio, pixel by pixel, or the numbers that were written."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.warp import transform

from rs_lowconf.data.augment import mask_augmentation
from rs_lowconf.data.blocks import COMMON_CRS, assign
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.mask_check import check_masks
from rs_lowconf.data.masks import WindowSource, _read_all, open_masks, open_pictures, split_cuts
from rs_lowconf.data.windows import grid_windows
from rs_lowconf.errors import DataError, RsLowconfError, SettingsError
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import AugmentSettings, MaskData, data_settings
from rs_lowconf.types import MaskSource
from tests.conftest import Run
from tests.make_scenes import BANDS, corner, draw, make_chips, write

DATES = ("s2_2019", "s2_2020")
S2_BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]


def chosen(folder: Path, kind: str = "chips", **changes: Any) -> MaskData:
    """Return settings for drawn data whose tiles are all for training."""
    values = {
        "kind": kind,
        "images": folder / "images",
        "masks": folder / "masks",
        "image_name": "s2_*.tif",
        "mask_name": "mask_*.tif",
        "mask_classes": {0: "background", 1: "damage"},
        "file_bands": BANDS,
        "level": "L2A",
        "tile_size": 32,
        "val_share": 0,
        "test_share": 0,
    }
    found = data_settings({**values, **changes})
    assert isinstance(found, MaskData)
    return found


def one_pair(folder: Path, *, kind: str = "chips", side: int = 48, **changes: Any) -> MaskData:
    """Write one image with its mask and return settings for them."""
    image, mask = draw(side, side, 0)
    write(folder / "images" / "s2_a.tif", image, corner(400_000, 5_000_000))
    write(folder / "masks" / "mask_a.tif", mask, corner(400_000, 5_000_000))
    return chosen(folder, kind, **changes)


def place_of(name: str) -> tuple[Path, int, int]:
    """Return the image and the upper left pixel that a tile's name tells."""
    found = re.fullmatch(r"(.+)_r(\d+)_c(\d+)", name)
    assert found is not None
    return Path(found[1] + ".tif"), int(found[2]), int(found[3])


def _site(name: str) -> str:
    """Return a tile's name without its date."""
    return name.split("/")[1]


def outline(grid: Grid, side: int) -> list[tuple[float, float]]:
    """Return a tile's corners and points between them in the common CRS."""
    a, _, c, _, e, f = grid.transform
    steps = [(i, j) for i in (0, side / 2, side) for j in (0, side / 2, side)]
    x, y = transform(
        grid.crs, COMMON_CRS, [c + a * j for _, j in steps], [f + e * i for i, _ in steps]
    )
    return list(zip(x, y, strict=True))


@pytest.fixture(scope="module")
def barkbeetle() -> Path:
    """Return the real sites; in CI their absence is a failure, not a skip."""
    root = Path(os.environ.get("RSLOW_DATA", "nowhere"), "barkbeetle")
    if not root.is_dir():
        reason = "RSLOW_DATA names no folder with barkbeetle/ in it: no real data to test on"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return root


def test_real_sites_equal_rasterio(barkbeetle: Path, tmp_path: Path) -> None:
    """Real tiles and masks come as rasterio reads them; both dates lie on one side."""
    ids = sorted(path.stem.removeprefix("mask_") for path in (barkbeetle / "masks").iterdir())[:24]
    for name in ids:
        for date in DATES:
            (tmp_path / "images" / date).mkdir(parents=True, exist_ok=True)
            file = f"geojson_{name}.tif"
            (tmp_path / "images" / date / file).symlink_to(barkbeetle / date / file)
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"mask_{name}.tif").symlink_to(
            barkbeetle / "masks" / f"mask_{name}.tif"
        )
    own = chosen(
        tmp_path,
        image_name="geojson_*.tif",
        file_bands=S2_BANDS,
        bands=("B8A", "B04"),
        max_nodata=1.0,
        val_share=0.3,
        test_share=0.3,
    )
    seen: set[str] = set()
    for split in SPLITS:
        source = open_masks(own, split)
        sites = {date: {_site(n) for n in source.ids if date in n} for date in DATES}
        # One site is empty in 2019 but for its edge.
        assert sites["s2_2019"] <= sites["s2_2020"]
        assert not sites["s2_2020"] & seen
        assert sites["s2_2019"]
        seen |= sites["s2_2020"]
        for i, name in enumerate(source.ids):
            path, row, col = place_of(name)
            if i % 7:
                continue
            batch = source.batch([i])
            part = rasterio.windows.Window(col, row, 32, 32)
            with rasterio.open(tmp_path / "images" / path) as file:
                pixels = file.read(window=part)
            with rasterio.open(tmp_path / "masks" / path.name.replace("geojson", "mask")) as file:
                due = file.read(1, window=part).astype(int)
            np.testing.assert_array_equal(
                batch.image[0].numpy(), pixels[[8, 3]].astype(np.float32) / np.float32(10_000)
            )
            assert batch.mask is not None
            mask = batch.mask[0].numpy()
            known = mask != UNKNOWN
            np.testing.assert_array_equal(mask[known], due[known])
            assert not known[(pixels == 0).all(0)].any()
            if split == "train":
                assert known[(pixels != 0).any(0)].all()


@pytest.mark.parametrize("kind", ["chips", "scenes"])
def test_no_two_splits_share_land(tmp_path: Path, kind: str) -> None:
    """Tiles of different splits share no block, both dates of a place lie on one side."""
    make_chips(tmp_path, 25 if kind == "chips" else 10)
    own = chosen(tmp_path, kind, block_size=700.0, val_share=0.2, test_share=0.2, stride=16)
    touched: dict[str, set[tuple[int, int]]] = {}
    names: dict[str, set[str]] = {}
    for split in SPLITS:
        source = open_masks(own, split)
        assert isinstance(source, MaskSource)
        grids = source.batch(range(len(source))).grids
        assert grids is not None
        touched[split] = {
            (int(x // 700), int(y // 700))
            for grid in grids
            if grid is not None
            for x, y in outline(grid, 32)
        }
        names[split] = set(source.ids)
        assert set(source.blocks) <= touched[split]
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not touched[one] & touched[other]
    if kind == "chips":
        for own_names in names.values():
            assert {n.replace("2019/", "2020/") for n in own_names} <= own_names


@settings(max_examples=40)
@given(
    counts=st.dictionaries(
        st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
        st.integers(1, 9),
        min_size=40,
        max_size=90,
    ),
    seed=st.integers(0, 5),
)
def test_assignment_is_balanced_and_knows_no_order(
    counts: dict[tuple[int, int], int], seed: int
) -> None:
    """Shares come true to within a block, whatever the order in which blocks are listed."""
    own = chosen(Path(), val_share=0.2, test_share=0.3, block_seed=seed)
    splits = assign(counts, own)
    shuffled = list(counts.items())
    random.Random(seed).shuffle(shuffled)  # no secret
    assert assign(dict(shuffled), own) == splits
    total, largest = sum(counts.values()), max(counts.values())
    for split, share in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        placed = sum(n for block, n in counts.items() if splits[block] == split)
        assert abs(placed - share * total) <= largest


@settings(max_examples=40)
@given(height=st.integers(32, 150), width=st.integers(32, 150))
def test_each_pixel_counts_once(height: int, width: int) -> None:
    """The fresh parts of a grid of windows tile the image without gap or overlap."""
    seen = np.zeros((height, width), dtype=int)
    for window in grid_windows(height, width, 32, 32):
        (top, bottom), (left, right) = window.fresh_rows, window.fresh_cols
        assert 0 <= window.row <= height - 32
        assert 0 <= window.col <= width - 32
        seen[window.row + top : window.row + bottom, window.col + left : window.col + right] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("kind", ["chips", "scenes"])
def test_grid_of_a_split_covers_each_pixel_once(tmp_path: Path, kind: str) -> None:
    """The validation tiles of an image hold every known pixel exactly once."""
    one_pair(tmp_path, side=75)
    # Everything in one large block, and that block on the side of validation.
    own = chosen(tmp_path, kind, block_size=90_000.0)
    pictures = open_pictures(own)
    windows = pictures.usable[0].windows(training=False)
    cut = split_cuts(own, pictures.usable)["train"][0]
    cuts = [type(cut)(picture=cut.picture, window=w, block=cut.block) for w in windows]
    assert pictures.bands is not None
    source = WindowSource(_read_all(cuts, own, LeftOut(skip_bad=False)), pictures.bands, own)
    seen = np.zeros((75, 75), dtype=int)
    for i, name in enumerate(source.ids):
        _, row, col = place_of(name)
        mask = source.batch([i]).mask
        assert mask is not None
        seen[row : row + 32, col : col + 32] += (mask[0] != UNKNOWN).numpy()
    assert (seen == 1).all()


@pytest.mark.parametrize("kind", ["chips", "scenes"])
def test_surroundings_of_a_pixel_are_those_of_its_image(tmp_path: Path, kind: str) -> None:
    """Also at the edges and corners of an image, whose outside is 0; the grid is that of them."""
    own = one_pair(tmp_path, kind=kind, side=75)
    source = open_masks(own, "train")
    with rasterio.open(tmp_path / "images" / "s2_a.tif") as file:
        framed = np.pad(file.read(), ((0, 0), (15, 15), (15, 15)))
        a, b, c, d, e, f = tuple(file.transform)[:6]
    for index, name in enumerate(source.ids):
        _, top, left = place_of(name)
        for row, col in ((0, 0), (31, 31), (0, 17), (20, 31), (9, 5)):
            y, x = top + row, left + col
            due = framed[:, y : y + 31, x : x + 31].astype(np.float32) / np.float32(10_000)
            image, grid = source.around(index, row, col)
            np.testing.assert_array_equal(image.numpy(), due)
            place = (a, b, c + a * (x - 15), d, e, f + e * (y - 15))
            assert grid.transform == pytest.approx(place)


def test_nodata_and_unknown_values_are_unknown(tmp_path: Path) -> None:
    """Empty pixels, 255, null values and a declared nodata all end as UNKNOWN."""
    image, mask = draw(32, 32, 1)
    image[:, :4] = 0
    image[0, 10] = 0  # dark in one band only
    mask[5], mask[6], mask[7] = 255, 9, 77
    write(tmp_path / "images" / "s2_a.tif", image, corner(400_000, 5_000_000))
    write(tmp_path / "masks" / "mask_a.tif", mask, corner(400_000, 5_000_000), nodata=77)
    own = chosen(tmp_path, mask_classes={1: "damage", 0: "background", 9: None}, max_nodata=0.5)
    source = open_masks(own, "train")
    assert source.classes == ("damage", "background")
    read = source.batch([0]).mask
    assert read is not None
    due = np.where(mask == 1, 0, 1)
    due[:4] = due[5:8] = UNKNOWN
    np.testing.assert_array_equal(read[0].numpy(), due)
    with pytest.raises(DataError, match="no tile of the train split has a pixel of known class"):
        open_masks(own.model_copy(update={"max_nodata": 0.1}), "train")


def test_scenes_of_many_crs_and_extents(tmp_path: Path) -> None:
    """Images keep their own pixels; each mask pixel is the nearest one of a mask in another CRS."""
    image, _ = draw(96, 80, 2)
    image_place = corner(500_000, 5_300_000)
    write(tmp_path / "images" / "s2_utm.tif", image, image_place)
    degrees = corner(15.002, 47.85, 1.1e-4)
    write(tmp_path / "images" / "s2_degrees.tif", image[:, :64, :64], degrees, "EPSG:4326")
    # Masks of 1 and 0 on coarse pixels in a third CRS, in two files that leave a gap.
    dice = np.random.default_rng(0)
    (x,), (y,) = transform("EPSG:32633", "EPSG:3857", [499_950], [5_300_100])
    places = {"west": corner(x, y, 31.0), "east": corner(x + 1000, y, 31.0)}
    coarse = {name: dice.integers(0, 2, (60, 30)).astype(np.uint8) for name in places}
    for name, place in places.items():
        write(tmp_path / "masks" / f"mask_{name}.tif", coarse[name], place, "EPSG:3857")
    own = chosen(tmp_path, "scenes", block_size=50_000.0)
    source = open_masks(own, "train")
    assert {name.split("_r")[0] for name in source.ids} == {"s2_utm", "s2_degrees"}
    right = total = unknown = 0
    for i, name in enumerate(source.ids):
        batch = source.batch([i])
        path, row, col = place_of(name)
        with rasterio.open(tmp_path / "images" / path) as file:
            pixels = file.read(window=rasterio.windows.Window(col, row, 32, 32))
            crs, placed = str(file.crs), file.transform
        np.testing.assert_array_equal(
            batch.image[0].numpy(), pixels.astype(np.float32) / np.float32(10_000)
        )
        assert batch.mask is not None
        assert batch.grids is not None
        assert batch.grids[0] is not None
        assert batch.grids[0].transform[2:6:3] == pytest.approx(
            (placed.c + placed.a * col, placed.f + placed.e * row)
        )
        rows, cols = np.mgrid[row : row + 32, col : col + 32] + 0.5
        xs, ys = placed.c + placed.a * cols.ravel(), placed.f + placed.e * rows.ravel()
        mx, my = transform(crs, "EPSG:3857", xs, ys)
        due = np.full(1024, UNKNOWN)
        for key in ("west", "east"):
            own_place = places[key]
            j = (np.array(mx) - own_place.c) / own_place.a
            k = (np.array(my) - own_place.f) / own_place.e
            inside = (j >= 0) & (j < 30) & (k >= 0) & (k < 60)
            values = coarse[key][k[inside].astype(int), j[inside].astype(int)]
            due[inside] = values
        found = batch.mask[0].numpy().ravel()
        right, total = right + int((found == due).sum()), total + 1024
        unknown += int((due == UNKNOWN).sum())
    assert 0 < unknown < total
    # GDAL interpolates the transformation to an eighth of a pixel, which moves few edges.
    assert right / total > 0.985


def test_more_scenes_than_the_training_stride(tmp_path: Path) -> None:
    """Half the stride draws about four times the tiles, at places that repeat."""
    one_pair(tmp_path, kind="scenes", side=200)
    few = open_masks(chosen(tmp_path, "scenes", block_size=90_000.0), "train")
    many = open_masks(chosen(tmp_path, "scenes", block_size=90_000.0, stride=16), "train")
    again = open_masks(chosen(tmp_path, "scenes", block_size=90_000.0, stride=16), "train")
    assert len(few) < len(many) / 2
    assert many.ids == again.ids


def _spoil(folder: Path, what: str) -> None:
    """Spoil the files of a data set in one way."""
    image, mask = draw(48, 48, 0)
    place = corner(400_000, 5_000_000)
    images, masks = folder / "images" / "s2_a.tif", folder / "masks" / "mask_a.tif"
    if what == "no mask":
        masks.rename(folder / "masks" / "mask_b.tif")
    elif what == "size":
        write(masks, mask[:40], place)
    elif what == "place":
        write(masks, mask, corner(400_500, 5_000_000))
    elif what == "value":
        mask[3, 3] = 7
        write(masks, mask, place)
    elif what == "truncated":
        whole = images.read_bytes()
        images.write_bytes(whole[: len(whole) // 2])
    elif what == "mask bands":
        write(masks, np.stack([mask, mask]), place)
    elif what == "no raster":
        masks.write_text("a mask")
    elif what == "no place":
        write(images, image, Affine.identity(), "")


CHANGES: dict[str, dict[str, Any]] = {
    "bands": {"file_bands": (*BANDS, "B11")},
    "small": {"tile_size": 64},
    "folder": {"masks": Path("nowhere")},
    "name": {"image_name": "t2_*.tif"},
    "blocks": {"val_share": 0.2, "test_share": 0.2, "block_size": 50_000.0},
    "tiny blocks": {"block_size": 100.0},
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("no mask", r"s2_a\.tif has no mask \(mask_a\.tif\)"),
        ("size", r"mask_a\.tif is 40 x 48 pixels; expected 48 x 48, as s2_a\.tif"),
        ("place", r"mask_a\.tif is not on the grid of s2_a\.tif"),
        ("value", r"mask with value 7.*expected some of 0, 1 \(data\.mask_classes\)"),
        ("bands", "has 4 bands; expected 5: B02"),
        ("truncated", r"s2_a\.tif cannot be read"),
        ("mask bands", r"mask_a\.tif has 2 bands; expected one, of class values"),
        ("no raster", r"mask_a\.tif cannot be opened"),
        ("no place", r"s2_a\.tif has no georeference; expected a CRS"),
        ("small", r"smaller than data\.tile_size=64 \(48 x 48"),
        ("folder", r"nowhere does not exist; set data\.masks"),
        ("name", r"contains no image named t2_\*\.tif;.* correct data\.image_name"),
        ("blocks", r"1 blocks of 50000 m.*no block for.*data\.block_size"),
        ("tiny blocks", r"larger than a block of 100 m; set a larger data\.block_size"),
    ],
)
def test_bad_chips_end_in_one_line(tmp_path: Path, what: str, complaint: str) -> None:
    """What is wrong with data or settings is one line that names it, without a traceback."""
    one_pair(tmp_path)
    _spoil(tmp_path, what)
    with pytest.raises(RsLowconfError, match=complaint) as caught:
        open_masks(chosen(tmp_path, **CHANGES.get(what, {})), "train")
    assert "\n" not in str(caught.value)


def test_scene_without_mask_is_refused(tmp_path: Path) -> None:
    """A scene that no mask lies on is named; skip_bad leaves it out."""
    one_pair(tmp_path, kind="scenes")
    image, _ = draw(48, 48, 0)
    write(tmp_path / "images" / "s2_far.tif", image, corner(600_000, 5_000_000))
    own = chosen(tmp_path, "scenes", block_size=90_000.0)
    with pytest.raises(DataError, match=r"s2_far\.tif is covered by no mask"):
        open_masks(own, "train")
    kept = open_masks(own.model_copy(update={"skip_bad": True}), "train")
    assert {name.split("_r")[0] for name in kept.ids} == {"s2_a"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"masks": None}, "data.masks"),
        ({"classes": ("damage",)}, r"data\.classes has no effect with data\.kind=chips, remove"),
        ({"mask_classes": {0: "a", 255: None}}, "two classes or more"),
        ({"stride": 64}, "leaves gaps"),
        ({"image_name": "image.tif"}, r"must contain one \* for chips"),
    ],
)
def test_settings_are_checked(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    """Settings that cannot work are refused before any file is opened."""
    with pytest.raises(SettingsError, match=complaint):
        chosen(tmp_path, **changes)


def test_check_tells_repeated_pixels_from_unknown_ones(tmp_path: Path) -> None:
    """Where the last tile of a row is moved back inside, pixels of the one before are repeated."""
    make_chips(tmp_path, 12, side=48)
    report = check_masks(chosen(tmp_path, val_share=0.2, test_share=0.2))
    for name in ("val", "test"):
        split = report.splits[name]
        assert (split.unknown, split.nodata) == (0, 0)
        assert split.repeated > 0
        assert sum(split.pixels.values()) + split.repeated == split.tiles * 32 * 32


def test_check_counts_as_numpy_does(tmp_path: Path, rslow: Run) -> None:
    """`rslow data check` counts pixels a class, nodata and blocks, and lists every bad file."""
    make_chips(tmp_path, 12, side=32)
    own = chosen(tmp_path, val_share=0.2, test_share=0.2)
    report = check_masks(own)
    masks = np.stack([draw(32, 32, number)[1] for number in range(12)])
    ones = sum(split.pixels["damage"] for split in report.splits.values())
    left = sum(split.tiles for split in report.splits.values())
    assert left <= 24
    assert ones <= 2 * int(masks.sum())
    assert ones + sum(s.pixels["background"] for s in report.splits.values()) == left * 1024
    words = [
        word
        for name, value in {
            "kind": own.kind,
            **own.model_dump(mode="json", exclude_defaults=True),
        }.items()
        for word in ("-s", f"data.{name}={value if value is not None else 'null'}")
    ]
    ran = rslow("data", "check", *words, "--json", tmp_path / "report.json")
    assert ran.code == 0, ran.err
    assert "pixels of damage" in ran.out
    assert (tmp_path / "report.json").exists()
    (tmp_path / "masks" / "mask_3.tif").unlink()
    ran = rslow("data", "check", *words)
    assert ran.code == 4
    assert ran.told.count("has no mask (mask_3.tif)") == 2


def test_mask_moves_with_the_image() -> None:
    """Augmented masks still fit their images, and blanked pixels are unknown."""
    dice = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (16, 32, 32), generator=dice)
    image = mask[:, None].float().repeat(1, 3, 1, 1) + 1
    own = AugmentSettings(zoom=1.0, brightness=0.0, band_gain=0.0, cutout=0.3)
    moved, new = mask_augmentation(own)(image, mask, 5)
    known = new != UNKNOWN
    assert not torch.equal(moved, image)
    assert torch.equal(moved[:, 0][known], new[known].float() + 1)
    assert (moved[:, 0][~known] == 0).all()
    assert 0 < (~known).float().mean() < 0.2


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    """A scene of 2,048 pixels and 13 bands, 109 MB, is read in windows within 64 MB."""
    place = corner(500_000, 5_300_000)
    bands = [
        "B01",
        "B02",
        "B03",
        "B04",
        "B05",
        "B06",
        "B07",
        "B08",
        "B8A",
        "B09",
        "B10",
        "B11",
        "B12",
    ]
    row, col = np.mgrid[:2048, :2048].astype(np.uint16)
    image = np.stack([row % 500 + col + band for band in range(1, 14)])
    tiled: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    write(tmp_path / "images" / "s2_a.tif", image, place, **tiled)
    write(tmp_path / "masks" / "mask_a.tif", (row // 1024).astype(np.uint8), place, **tiled)
    del image
    code = f"""
import resource
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.masks import WindowSource, _read_all, open_pictures, split_cuts
from rs_lowconf.settings import data_settings
own = data_settings(dict(kind="scenes", images={str(tmp_path / "images")!r},
    masks={str(tmp_path / "masks")!r}, mask_classes={{0: "a", 1: "b"}}, file_bands={bands},
    tile_size=128, block_size=9e4, val_share=0, test_share=0))
pictures = open_pictures(own)
cuts = split_cuts(own, pictures.usable)["train"]
out = LeftOut(skip_bad=False)
WindowSource(_read_all(cuts[:20], own, out), pictures.bands, own, kept_bytes=0).batch(range(8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = WindowSource(_read_all(cuts, own, out), pictures.bands, own, kept_bytes=0)
source.batch(range(len(source) - 8, len(source)))
print(len(source), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(  # the peak of a process of its own
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GDAL_CACHEMAX": "32"},
    )
    assert done.returncode == 0, done.stderr
    tiles, grown = map(int, done.stdout.split())
    assert tiles > 150
    assert grown < 64
