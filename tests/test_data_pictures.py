"""Tiles as JPEG and PNG files: bands and range from the settings, splits from lists or by hash."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rs_lowconf.data.check import list_sources
from rs_lowconf.data.pictures import open_pictures
from rs_lowconf.data.source import open_split
from rs_lowconf.data.sources import open_more
from rs_lowconf.data.tiles import TileError
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import FolderData, PictureData, checked, data_settings, load
from tests.conftest import Run, WriteTile

RGB = ("B04", "B03", "B02")


def picture_settings(root: Path, **changes: object) -> PictureData:
    values = {"root": root, "bands": RGB, "reflectance": (0.0, 0.51)}
    return checked(PictureData, {**values, "tile_size": 16, **changes})


def write_picture(path: Path, seed: int = 0, *, side: int = 16, mode: str = "RGB") -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return class folders of PNG files."""
    for name in ("Forest", "River"):
        for number in range(20):
            write_picture(tmp_path / name / f"{name}_{number}.png", number)
    return tmp_path


def test_bytes_become_reflectance_by_the_range(folder: Path) -> None:
    """Byte 0 is the first reflectance and byte 255 the second, in the bands of the settings."""
    source = open_pictures(picture_settings(folder), "train")
    assert source.bands.names == RGB
    assert source.classes == ("Forest", "River")
    name, number = source.ids[3].split("/")[1].split("_")
    expected = write_picture(folder / "again.png", int(number)).astype(float) / 255 * 0.51
    np.testing.assert_allclose(
        source.batch([3]).image[0].permute(1, 2, 0), expected, atol=1e-6, err_msg=name
    )


def test_splits_by_hash_are_disjoint_and_complete(folder: Path) -> None:
    """Every picture is in one split; each class is in all of them."""
    splits = [open_pictures(picture_settings(folder), s).ids for s in ("train", "val", "test")]
    together = [name for ids in splits for name in ids]
    assert len(together) == len(set(together)) == 40
    assert [len(ids) for ids in splits] == [28, 6, 6]


def test_files_follow_the_rule_of_all_data(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hidden folders are left out, links are followed, and what is left out is counted."""
    before = open_pictures(picture_settings(folder), "train").ids
    assert not caplog.records
    write_picture(folder / "Forest" / ".thumbnails" / "Forest_0.png")
    write_picture(folder / "Forest" / "._Forest_1.png")
    (folder / "River" / "notes.csv").touch()
    write_picture(folder.with_name("elsewhere") / "Forest_99.PNG")
    (folder / "Forest" / "linked").symlink_to(folder.with_name("elsewhere"))
    splits = [open_pictures(picture_settings(folder), s).ids for s in ("train", "val", "test")]
    assert {name for ids in splits for name in ids} >= {*before, "Forest/linked/Forest_99"}
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(" (")[0] for line in told] == [
        "left out: 2 files: hidden",
        "left out: 1 file: not a JPEG or PNG by its name",
    ]


def test_lists_in_the_root_are_the_splits(folder: Path) -> None:
    """train.txt, val.txt and test.txt name the tiles of each split; a tile in two is refused."""
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{n}/{n}_{number}.png" for n in ("Forest", "River")]
        (folder / f"{split}.txt").write_text("\n".join(lines))
    assert open_pictures(picture_settings(folder), "val").ids == (
        "Forest/Forest_1",
        "River/River_1",
    )
    (folder / "test.txt").write_text("Forest/Forest_1.png\nRiver/River_2.png\n")
    with pytest.raises(DataError, match=r"Forest/Forest_1 is in val.txt and in test.txt"):
        open_pictures(picture_settings(folder), "val")
    (folder / "test.txt").unlink()
    with pytest.raises(DataError, match="lists for train, val only"):
        open_pictures(picture_settings(folder), "val")


def test_what_lists_lack_is_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pictures in no list are no part of any split, which is said; so are names without a file."""
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{n}/{n}_{number}.png" for n in ("Forest", "River")]
        (folder / f"{split}.txt").write_text("\n".join([*lines, f"River/gone_{number}.png"]))
    ids = [
        i for s in ("train", "val", "test") for i in open_pictures(picture_settings(folder), s).ids
    ]
    assert len(ids) == 6
    assert "34 files: in none of train.txt, val.txt and test.txt" in caplog.text
    assert "3 files: in a list, but not on disk" in caplog.text


def test_torchvisions_layout_is_found(folder: Path, tmp_path: Path) -> None:
    """root/eurosat/2750/CLASS is where torchvision.datasets.EuroSAT puts the classes."""
    root = tmp_path / "torchvision"
    (root / "eurosat").mkdir(parents=True)
    for name in ("Forest", "River"):
        (folder / name).rename(root / "eurosat" / name)
    (root / "eurosat").rename(root / "2750")
    (root / "eurosat").mkdir()
    (root / "2750").rename(root / "eurosat" / "2750")
    assert len(open_pictures(picture_settings(root), "train")) == 28


def test_splits_agree_between_sources_by_name(folder: Path, write_tile: WriteTile) -> None:
    """A picture of a tile that the first source holds out is held out too."""
    tiles = folder / "tiles"
    for name in ("Forest", "River"):
        for number in range(20):
            write_tile(tiles / name / f"{name}_{number}.tif", seed=number, side=16)
    first = FolderData(
        root=tiles,
        tile_size=16,
        val_share=0.3,
        more=(picture_settings(folder, classes=("Forest", "River")),),
    )
    for split in ("train", "val", "test"):
        source = open_split(first, split)
        (pictures,) = open_more(first, split, source.classes)
        assert set(pictures.ids) == set(source.ids), split


def test_other_sources_may_not_hold_what_is_held_out(folder: Path, write_tile: WriteTile) -> None:
    """Tiles of another folder whose names are in another split here would leak: refused."""
    roots = [folder / "first", folder / "second"]
    for root, splits in zip(
        roots, (("train", "val", "test"), ("val", "train", "test")), strict=True
    ):
        for number, split in enumerate(splits):
            for name in ("Forest", "River"):
                path = root / split / name / f"{name}_{number}.tif"
                write_tile(path, seed=number, side=16)
    first, second = (FolderData(root=root, tile_size=16) for root in roots)
    both = first.model_copy(update={"more": (second,)})
    classes = ("Forest", "River")
    assert len(open_more(both, "test", classes)[0]) == 2
    leak = r"train split of .*second has 2 tiles .*another split"
    with pytest.raises(DataError, match=leak):
        open_more(both, "train", classes)
    with pytest.raises(DataError, match=leak):
        list_sources(both)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "L"}, "mode L.*expected 3 band"),
        ({"side": 32}, "32 x 32 pixels.*expected 16 x 16"),
    ],
)
def test_other_pictures_are_refused(folder: Path, change: dict[str, object], words: str) -> None:
    """One line says what a picture is and what was expected."""
    for number in range(20):
        write_picture(folder / "River" / f"River_{number}.png", **change)  # type: ignore[arg-type]
    with pytest.raises(TileError, match=words):
        open_pictures(picture_settings(folder), "train")


def test_a_damaged_picture_is_one_line(folder: Path) -> None:
    """What the decoder says becomes a TileError that names the file."""
    for path in (folder / "River").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(TileError, match=r"River_\d+\.png cannot be read") as raised:
        open_pictures(picture_settings(folder), "train")
    assert raised.value.command == "data check"


def test_a_damaged_picture_is_left_out_where_that_is_asked_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With data.skip_bad the others are read, and the one that is left out is named."""
    ids = open_pictures(picture_settings(folder), "train").ids
    bad = next(name for name in ids if name.startswith("River"))
    (folder / f"{bad}.png").write_bytes(b"")
    kept = open_pictures(picture_settings(folder, skip_bad=True), "train").ids
    assert set(ids) - set(kept) == {bad}
    assert f"{bad}.png cannot be read" in caplog.text


def test_pictures_are_tiles_of_data_too(folder: Path) -> None:
    """What trains on the tiles of data trains on pictures; settings without effect are refused."""
    assert len(open_split(picture_settings(folder), "train")) == 28
    with pytest.raises(SettingsError, match=r"data\.scale has no effect with data\.kind=pictures"):
        data_settings({**picture_settings(folder).model_dump(), "scale": 255.0})


def test_bands_and_range_are_asked_for(tmp_path: Path) -> None:
    """A picture names neither its bands nor its range, so nobody guesses them."""
    path = tmp_path / "settings.yaml"
    path.write_text("data: {kind: pictures, root: x}")
    with pytest.raises(SettingsError, match=r"kind=pictures needs data\.bands, data\.reflectance"):
        load(path)
    path.write_text("data: {kind: pictures, root: x, bands: [B04], reflectance: [0.3, 0.0]}")
    with pytest.raises(SettingsError, match="must rise"):
        load(path)


def check_words(folder: Path, *changed: str) -> list[str]:
    """Return the words of `rslow data check` for the pictures of a folder."""
    settings = [
        *("data.kind=pictures", f"data.root={folder}"),
        *("data.bands=[B04, B03, B02]", "data.tile_size=16", *changed),
    ]
    return ["data", "check", *(word for one in settings for word in ("--set", one))]


def test_pictures_are_checked(folder: Path, rslow: Run) -> None:
    """Counts by class and split, what bytes mean, a file that cannot be read, and doubles."""
    words = check_words(folder, "data.reflectance=[0, 0.51]")
    shutil.copy(folder / "Forest" / "Forest_1.png", folder / "Forest" / "again.png")
    ran = rslow(*words)
    assert ran.code == 0, ran.err
    assert "41 tiles" in ran.told
    assert "reflectance 0 .. 0.51 (data.reflectance)" in ran.told
    assert "same pixels" in ran.told
    (folder / "River" / "torn.png").write_bytes(
        (folder / "River" / "River_0.png").read_bytes()[:200]
    )
    ran = rslow(*words)
    assert ran.code == 4
    assert "torn.png" in ran.told
    assert "1 cannot" in ran.told
    assert rslow(*words, "--set", "data.skip_bad=true").code == 0


def test_a_wrong_range_of_reflectance_is_noticed(folder: Path, rslow: Run) -> None:
    """Bytes that would be far too bright or dark for land."""
    bright, dark, infrared = (
        rslow(*check_words(folder, *changed)).told
        for changed in (
            ["data.reflectance=[0, 1]"],
            ["data.reflectance=[0, 0.02]"],
            ["data.reflectance=[0, 1]", "data.bands=[B08, B11, B12]"],
        )
    )
    assert "too large a value, 1" in bright
    assert "too small a value, 0.02" in dark
    assert "too large" not in infrared


def test_eurosat_as_pictures_raises_no_alarm(
    eurosat_root: Path, tmp_path: Path, rslow: Run
) -> None:
    """With the tiles of all bands first and some of its JPEGs as the second source."""
    for folder in (eurosat_root.parent / "eurosat_rgb" / "eurosat" / "2750").iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).mkdir()
            for path in sorted(folder.iterdir())[:20]:
                shutil.copy(path, tmp_path / folder.name)
    more = (
        f"data.more=[{{kind: pictures, root: {tmp_path}, bands: [B04, B03, B02], "
        "reflectance: [-0.00108268, 0.275], chroma: half}]"
    )
    kind = ("--set", "data.kind=eurosat", "--set", f"data.root={eurosat_root}")
    ran = rslow("data", "check", *kind, "--set", more)
    assert ran.code == 0, ran.err
    assert "200 tiles" in ran.told
    assert ran.told.count("No problems found.") == 2, ran.out
