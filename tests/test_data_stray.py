"""One rule for files: suffixes, links, hidden folders; what is left out is counted by reason."""

import os
from pathlib import Path
from typing import Any

import pytest

from rs_lowconf.data.files import files_in, list_files, name_fits, open_dataset
from rs_lowconf.data.left_out import LeftOut, joined
from rs_lowconf.data.tiles import TileError
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings, data_settings


def folder(root: Path, **changes: Any) -> DataSettings:
    """Return settings for a folder of tiles."""
    return data_settings({"kind": "folder", "root": root, **changes})


def touch(path: Path) -> None:
    """Make an empty file: listing does not open them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def stray(tmp_path: Path) -> Path:
    """Return class folders among which there is what operating systems and tools leave behind."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("a/1.tif", "a/2.TIF", "a/3.tiff", "a/deep/4.TiFf", "b/1.tif"):
        touch(root / name)
    for name in ("a/._1.tif", "a/.DS_Store", ".Trash-1000/a/1.tif", "__MACOSX/a/1.tif",
                 "a/@eaDir/1.tif", "a/.ipynb_checkpoints/1-checkpoint.tif"):  # fmt: skip
        touch(root / name)
    for name in ("a/1.tif.aux.xml", "b/list.csv", "readme.txt"):
        touch(root / name)
    touch(elsewhere / "c" / "1.tif")
    touch(elsewhere / "more" / "5.tif")
    (root / "c").symlink_to(elsewhere / "c")
    (root / "a" / "linked").symlink_to(elsewhere / "more")
    (root / "a" / "circle").symlink_to(root)
    (root / "b" / "nowhere.tif").symlink_to(root / "gone.tif")
    return root


USED = ("a/1", "a/2", "a/3", "a/deep/4", "a/linked/5", "b/1", "c/1")
HIDDEN, OTHER = 6, 3


def test_class_folders_and_images_have_one_rule(stray: Path) -> None:
    """Suffixes in any case, links and hidden folders: the same files for all kinds of data."""
    chosen = folder(stray, val_share=0.0, test_share=0.0)
    dataset = open_dataset(chosen, "train")
    assert [file.tile_id for file in list_files(dataset)] == list(USED)
    assert dataset.classes == ["a", "b", "c"]
    left_out = LeftOut(skip_bad=False)
    found = files_in(stray, "*.tif", "image", left_out)
    assert [path.relative_to(stray).with_suffix("").as_posix() for path in found] == list(USED)


def test_everything_left_out_of_a_folder_is_counted(stray: Path) -> None:
    """Files that are used and those that are left out, by reason, are all that are there."""
    left_out = LeftOut(skip_bad=False)
    found = files_in(stray, "*.tif", "image", left_out)
    # The oracle is a walk that does not enter the link to the root, which is counted itself.
    everything = []
    for top, folders, names in os.walk(stray, followlinks=True):
        everything += [Path(top, name) for name in names]
        folders[:] = [name for name in folders if name != "circle"]
    assert len(found) + left_out.number("file") == len(everything) + 1
    reasons = {
        line.split(": ")[1].split(" (")[0]: int(line.split()[0]) for line in left_out.lines()
    }
    assert reasons == {
        "hidden": HIDDEN,
        "not named like data.image_name=*.tif": OTHER,
        "a link to a folder above it": 1,
        "a dangling link, or not a regular file": 1,
    }
    chosen = folder(stray, classes=("a", "c"), val_share=0.0, test_share=0.0)
    dataset = open_dataset(chosen, "train")
    told = " ".join(dataset.left_out.lines())
    assert "3 files: not in a folder of the classes used" in told  # two of b, and readme.txt
    assert len(list_files(dataset)) + dataset.left_out.number("file") == len(everything) + 1


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a.tif", "*.tif", True),
        ("a.TIFF", "*.tif", True),
        ("a.Tif", "*.tiff", True),
        ("s2_a.TIF", "s2_*.tif", True),
        ("S2_a.tif", "s2_*.tif", False),
        ("a.JP2", "*.jp2", True),
        ("a.jp2", "*.tif", False),
        ("2021/a.TIF", "2021/*.tif", True),
        ("2022/a.tif", "2021/*.tif", False),
        ("a", "*", True),
        ("a.tif.ovr", "*.tif", False),
    ],
)
def test_names_that_fit(name: str, pattern: str, fits: bool) -> None:
    """Suffixes are alike in capitals and as .tiff; the rest of a name is not."""
    assert name_fits(Path("x", name), pattern) == fits


def test_files_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    """Tiles are named without suffix, so two such files are refused for images, too."""
    touch(tmp_path / "1.tif")
    touch(tmp_path / "1.TIFF")
    with pytest.raises(DataError, match="only in their suffix"):
        files_in(tmp_path, "*.tif", "image", LeftOut(skip_bad=True))


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    """Such a file is one line that can be printed, and is left out where bad files may be."""
    touch(tmp_path / "a" / "1.tif")
    os.close(os.open(os.fsencode(tmp_path / "a") + b"/M\xfcller.tif", os.O_CREAT))
    for listed in (
        lambda: files_in(tmp_path, "*.tif", "image", LeftOut(skip_bad=False)),
        lambda: open_dataset(folder(tmp_path), "train"),
    ):
        with pytest.raises(DataError, match="not UTF-8") as raised:
            listed()
        assert r"M\udcfcller.tif" in str(raised.value)
        str(raised.value).encode()
    left_out = LeftOut(skip_bad=True)
    assert len(files_in(tmp_path, "*.tif", "image", left_out)) == 1
    assert left_out.number("file") == 1
    dataset = open_dataset(folder(tmp_path, skip_bad=True, val_share=0, test_share=0), "train")
    assert [file.tile_id for file in list_files(dataset)] == ["a/1"]
    assert dataset.left_out.number("file") == 1


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without permission ends the listing: it may hold anything."""
    touch(tmp_path / "a" / "1.tif")

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        files_in(tmp_path, "*.tif", "image", LeftOut(skip_bad=True))


def test_what_is_left_out_is_summed() -> None:
    """Numbers and examples of several parts add up; a fault ends the work unless it may not."""
    parts = []
    for number in range(3):
        left_out = LeftOut(skip_bad=True)
        left_out.count("file", "hidden", f"{number}.tif", number + 1)
        left_out.fault("file", TileError(Path("x.tif"), "is bad"))
        parts.append(left_out)
    whole = joined(parts)
    assert whole.number("file") == 6 + 3
    assert len(whole.faults) == 3
    assert next(whole.lines()) == "6 files: hidden (0.tif, 1.tif, 2.tif, ...)"
    with pytest.raises(TileError, match="is bad"):
        LeftOut(skip_bad=False).fault("file", TileError(Path("x.tif"), "is bad"))
