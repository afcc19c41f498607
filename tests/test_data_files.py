"""Which files there are: layouts, splits, classes."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchgeo.datasets import EuroSAT

from rs_lowconf.data.files import (
    SPLITS,
    absent_files,
    list_files,
    open_dataset,
    require_every_class,
)
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import DataSettings, EuroSatData, data_settings


def folder(root: Path, **changes: Any) -> DataSettings:
    """Return settings for a folder of tiles."""
    return data_settings({"kind": "folder", "root": root, **changes})


def touch(root: Path, *names: str) -> None:
    """Make empty files: listing does not open them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def ids(chosen: DataSettings, split: Any) -> list[str]:
    """Return the tile names of a split."""
    return [file.tile_id for file in list_files(open_dataset(chosen, split))]


def eurosat(root: Path, *, missing: tuple[str, ...] = ()) -> DataSettings:
    """Lay out three classes as torchgeo's EuroSAT, without pixels."""
    for split in SPLITS:
        names = [f"{name}_{split}.jpg" for name in ("Forest", "Highway", "River")]
        (root / EuroSAT.split_filenames[split]).write_text("\n".join(names) + "\n")
        touch(
            root / EuroSAT.base_dir,
            *(
                f"{name.split('_')[0]}/{Path(name).stem}.tif"
                for name in names
                if name not in missing
            ),
        )
    return EuroSatData(root=root)


@settings(max_examples=20)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    val=st.floats(0, 0.49),
    test=st.floats(0, 0.49),
)
def test_hashed_splits_partition_the_files(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], val: float, test: float
) -> None:
    """Every file is in exactly one split, and each class gives its share to each."""
    root = tmp_path_factory.mktemp("split")
    for label, count in enumerate(counts):
        touch(root, *(f"class{label}/deep/{i}.TIF" for i in range(count)))
    chosen = folder(root, val_share=val, test_share=test)
    parts = {split: ids(chosen, split) for split in SPLITS}
    everything = sorted(name for part in parts.values() for name in part)
    assert everything == sorted(
        f"class{k}/deep/{i}" for k, n in enumerate(counts) for i in range(n)
    )
    for label, count in enumerate(counts):
        own = {s: sum(n.startswith(f"class{label}/") for n in part) for s, part in parts.items()}
        assert own["test"] == round(test * count)
        assert own["val"] == round(val * count)


def test_hashed_splits_do_not_depend_on_the_place(tmp_path: Path) -> None:
    """The same files elsewhere, or beside other classes, are split the same way."""
    names = [f"{c}/{i}.tif" for c in ("a", "b") for i in range(20)]
    touch(tmp_path / "one", *names)
    touch(tmp_path / "two" / "deeper", *reversed(names), "c/0.tif")
    for split in SPLITS:
        there = ids(folder(tmp_path / "two" / "deeper", classes=("a", "b")), split)
        assert ids(folder(tmp_path / "one"), split) == there


def test_given_splits_share_one_class_list(tmp_path: Path) -> None:
    """A class that one split lacks does not shift the class indices of that split."""
    touch(tmp_path, "train/a/1.tif", "train/b/1.tif", "val/b/1.tif", "test/a/1.tif", "test/b/1.tif")
    dataset = open_dataset(folder(tmp_path), "val")
    assert dataset.classes == ["a", "b"]
    assert [(file.tile_id, file.label) for file in list_files(dataset)] == [("val/b/1", 1)]
    with pytest.raises(DataError, match=r"val split.*of a"):
        require_every_class(list_files(dataset), ("a", "b"), "val", tmp_path)


def test_tile_names_are_unique_across_splits(tmp_path: Path) -> None:
    """Two files of the same name in two splits have two tile names."""
    touch(tmp_path, *(f"{split}/a/1.tif" for split in SPLITS))
    assert len({ids(folder(tmp_path), split)[0] for split in SPLITS}) == 3


def test_names_that_differ_only_in_suffix_are_refused(tmp_path: Path) -> None:
    """a.tif and a.tiff would have one name."""
    touch(tmp_path, "a/1.tif", "a/1.tiff")
    with pytest.raises(DataError, match="suffix"):
        ids(folder(tmp_path, val_share=0, test_share=0), "train")


def test_some_split_folders_are_refused(tmp_path: Path) -> None:
    """Train and test without val would otherwise become two classes called train and test."""
    touch(tmp_path, "train/a/1.tif", "test/a/1.tif")
    with pytest.raises(DataError, match="train, test only"):
        open_dataset(folder(tmp_path), "train")


def test_classes_are_chosen_and_ordered(tmp_path: Path) -> None:
    """data.classes picks and orders the classes, in both layouts; hidden folders are none."""
    touch(tmp_path / "f", "a/1.tif", "b/1.tif", "c/1.tif", ".cache/1.tif", "notes.txt")
    own = folder(tmp_path / "f", val_share=0, test_share=0)
    assert open_dataset(own, "train").classes == ["a", "b", "c"]
    (tmp_path / "e").mkdir()
    for chosen, wanted in (
        (own, ("c", "a")),
        (eurosat(tmp_path / "e"), ("River", "Forest")),
    ):
        dataset = open_dataset(chosen.model_copy(update={"classes": wanted}), "train")
        found = {file.tile_id[0]: file.label for file in list_files(dataset)}
        assert dataset.classes == list(wanted)
        assert found == {wanted[0][0]: 0, wanted[1][0]: 1}


def test_unknown_classes_are_named(tmp_path: Path) -> None:
    """A class that is not there is refused with the list of those that are."""
    touch(tmp_path / "f", "Forest/1.tif")
    (tmp_path / "e").mkdir()
    for chosen in (folder(tmp_path / "f"), eurosat(tmp_path / "e")):
        wanted = chosen.model_copy(update={"classes": ("Forest", "Swamp")})
        with pytest.raises(DataError, match=r"Swamp is unknown to.*Forest"):
            open_dataset(wanted, "train")


def test_folders_that_are_no_data_are_refused(tmp_path: Path) -> None:
    """No folder, an empty one, and one without class folders are refused, with what to do."""
    with pytest.raises(DataError, match=r"does not exist.*data\.root"):
        open_dataset(folder(tmp_path / "none"), "train")
    with pytest.raises(DataError, match="no subfolder"):
        open_dataset(folder(tmp_path), "train")
    with pytest.raises(DataError, match=r"does not contain EuroSAT.*data\.download=true"):
        open_dataset(EuroSatData(root=tmp_path), "train")


def test_a_folder_of_other_files_has_no_tile(tmp_path: Path) -> None:
    """Files that are no GeoTIFF by their name are not listed."""
    touch(tmp_path, "a/1.jp2", "a/1.tif.aux.xml", "a/readme")
    assert ids(folder(tmp_path), "train") == []


@pytest.mark.parametrize("split", SPLITS)
def test_eurosat_without_a_split_file_is_refused(tmp_path: Path, split: Any) -> None:
    """Each of the three lists is needed, and the one that lacks is named."""
    chosen = eurosat(tmp_path)
    (tmp_path / EuroSAT.split_filenames[split]).unlink()
    with pytest.raises(DataError, match=f"{split} split"):
        open_dataset(chosen, split)


def test_eurosat_with_an_empty_class_is_listed(tmp_path: Path) -> None:
    """A class without a file in a split, which torchvision stops at, is left to the caller."""
    chosen = eurosat(tmp_path, missing=("Highway_val.jpg",))
    assert ids(chosen, "val") == ["Forest/Forest_val", "River/River_val"]
    with pytest.raises(DataError, match="Highway"):
        require_every_class(
            list_files(open_dataset(chosen, "val")), ("Forest", "Highway", "River"), "val", tmp_path
        )


def test_absent_files_are_counted(tmp_path: Path) -> None:
    """Names in EuroSAT's lists without a file are counted, whatever classes are in use."""
    chosen = eurosat(tmp_path, missing=("Highway_val.jpg", "River_val.jpg"))
    assert absent_files(open_dataset(chosen, "train")) == 0
    assert absent_files(open_dataset(chosen, "val")) == 2
    shutil.rmtree(tmp_path / EuroSAT.base_dir / "River")
    assert absent_files(open_dataset(chosen, "train")) == 1


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    """An archive that a broken download left is named, with what to do about it."""
    chosen = eurosat(tmp_path)
    shutil.rmtree(tmp_path / "ds")
    (tmp_path / EuroSAT.filename).write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match=r"damaged.*delete"):
        open_dataset(chosen, "train")
    with zipfile.ZipFile(tmp_path / EuroSAT.filename, "w") as archive:
        archive.writestr(f"{EuroSAT.base_dir}/Forest/Forest_train.tif", "")
    assert ids(chosen, "train") == ["Forest/Forest_train"]


def test_a_failed_download_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, asking for a download ends in one line, not in a traceback."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network\nhere")

    monkeypatch.setattr("torchgeo.datasets.eurosat.download_url", refuse)
    with pytest.raises(DataError, match=r"could not be downloaded.*no network here"):
        open_dataset(EuroSatData(root=tmp_path / "new", download=True), "train")


@pytest.mark.parametrize(
    "given",
    [
        {"level": "L2A"},
        {"file_bands": ("B02",)},
        {"val_share": 0.2},
        {"test_share": 0.2},
        {"kind": "folder", "download": True},
    ],
    ids=str,
)
def test_settings_without_effect_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    """A setting that the kind of data does not read is refused instead of passed over."""
    with pytest.raises(SettingsError, match=r"no effect.*remove it"):
        open_dataset(data_settings({"kind": "eurosat", "root": tmp_path, **given}), "train")


def test_defaults_written_out_are_no_settings_without_effect(tmp_path: Path) -> None:
    """The settings that a run folder keeps, which name every default, can be used again."""
    chosen = eurosat(tmp_path)
    again = data_settings(chosen.model_dump(mode="json"))
    assert ids(again, "train") == ids(chosen, "train")


def test_real_eurosat_is_listed_as_torchgeo_lists_it(eurosat_root: Path) -> None:
    """Our splits hold torchgeo's files with torchgeo's labels, and no file is absent."""
    for split in SPLITS:
        theirs = EuroSAT(root=str(eurosat_root), split=split)
        ours = open_dataset(EuroSatData(root=eurosat_root), split)
        assert ours.classes == theirs.classes
        assert [(str(f.path), f.label) for f in list_files(ours)] == theirs.samples
        assert absent_files(ours) == 0
