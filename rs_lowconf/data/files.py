"""Tile files on disk: which there are, of which class, in which split.

Two layouts: `torchgeo.datasets.EuroSAT`, and any folder of class-named subfolders with
multi-band GeoTIFFs. Both are torchgeo datasets with `samples`, `classes` and items.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from torchgeo.datasets import DatasetNotFoundError, EuroSAT, NonGeoClassificationDataset

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import DataSettings
from rs_lowconf.vocabulary import UNCLEAR, class_name, require, vocabulary

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SUFFIXES = (".tif", ".tiff")

_LABELLED = ("eurosat", "folder")
_MASKED = ("scenes", "chips")
_CATALOGUED = ("images", "geopackage", "stac")

#: Settings that only some kinds of data read; the other kinds refuse them.
_READ_BY: dict[str, tuple[str, ...]] = {
    "root": (*_LABELLED, "geopackage", "stac"),
    "classes": _LABELLED,
    "download": ("eurosat",),
    "layer": ("geopackage",),
    **dict.fromkeys(("file_bands", "level"), ("folder", *_MASKED, *_CATALOGUED)),
    **dict.fromkeys(("val_share", "test_share"), ("folder", *_MASKED)),
    **dict.fromkeys(("images", "image_name"), (*_MASKED, "images")),
    **dict.fromkeys(("masks", "mask_name", "mask_classes", "block_size", "block_seed"), _MASKED),
    "stride": (*_MASKED, *_CATALOGUED),
}


@dataclass(frozen=True, kw_only=True)
class TileFile:
    """One file of a split."""

    path: Path
    tile_id: str
    """The path below the data set's root, without suffix."""
    label: int
    """Index into the class list."""


def _samples_of_any_class(
    directory: str,
    class_to_idx: dict[str, int],
    extensions: tuple[str, ...] | None = None,
    is_valid_file: Any = None,
    allow_empty: bool = True,  # noqa: ARG001
) -> list[tuple[str, int]]:
    """List as torchvision does, but leave a class without files for the caller to report."""
    samples: list[tuple[str, int]] = NonGeoClassificationDataset.make_dataset(
        directory, class_to_idx, extensions, is_valid_file, allow_empty=True
    )
    return samples


class EuroSATSplit(EuroSAT):
    """torchgeo's EuroSAT with the wanted classes in the wanted order."""

    make_dataset = staticmethod(_samples_of_any_class)

    def __init__(self, root: Path, settings: DataSettings, split: Split) -> None:
        """List the files of a split, downloading the data when asked to."""
        self._wanted = settings.classes
        super().__init__(root=str(root), split=split, download=settings.download, checksum=True)
        self.list_path = root / self.split_filenames[split]
        self.id_root = Path(self.root)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the wanted classes and their indices."""
        return _chosen([Path(directory)], self._wanted)


class FolderSplit(NonGeoClassificationDataset):
    """Class-named subfolders of multi-band GeoTIFFs, read with their bands in file order."""

    samples: list[tuple[str, int]]
    make_dataset = staticmethod(_samples_of_any_class)

    def __init__(self, root: Path, settings: DataSettings, split: Split) -> None:
        """List the files of a split.

        Subfolders `train`, `val` and `test` are the splits when they exist. Otherwise each
        class's files are ranked by the SHA-256 of their name and the first shares become
        test and validation: the same on every machine, and every class in each.

        Raises:
            DataError: only some of the three subfolders exist.
        """
        given = [name for name in SPLITS if (root / name).is_dir()]
        if given and len(given) < len(SPLITS):
            raise DataError(
                f"{root} has subfolders {', '.join(given)} only",
                expected="train, val and test, or none of them",
                remedy="add the missing ones, or remove that level to have the files split by hash",
            )
        self._wanted = settings.classes
        # A class that one split lacks must not shift the class indices of that split.
        self._class_folders = [root / name for name in given] or [root]
        super().__init__(
            root=str(root / split if given else root),
            loader=_read_channels_last,
            is_valid_file=lambda path: Path(path).suffix.lower() in SUFFIXES,
        )
        self.id_root = root
        if not given:
            self.samples = self.imgs = _hashed_split(self.samples, root, settings, split)
            self.targets = [label for _, label in self.samples]

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:  # noqa: ARG002
        """Return the wanted classes and their indices, the same in every split."""
        return _chosen(self._class_folders, self._wanted)


def open_dataset(settings: DataSettings, split: Split) -> EuroSATSplit | FolderSplit:
    """Open a split through torchgeo, downloading EuroSAT when asked to.

    Raises:
        SettingsError: no data are set, or a setting is given that these data do not read.
        DataError: there is no such data set, or it lacks a wanted class.
    """
    if settings.kind == "none":
        raise SettingsError(
            "real tiles are needed and none are set (data.kind is none)",
            expected="data.kind eurosat or folder",
            remedy="set data.kind and data.root",
        )
    if settings.kind not in _LABELLED:
        what = "a class for every pixel and none for the tile" if settings.masked else "no classes"
        raise SettingsError(
            f"data.kind={settings.kind} has {what}",
            expected="data.kind eurosat or folder for this command",
        )
    refuse_idle(settings)
    root = settings.root.expanduser()
    if not root.is_dir() and not settings.download:
        raise DataError(
            f"data folder {root} does not exist",
            remedy="set data.root to the folder that holds the tiles"
            + (", or data.download=true" if settings.kind == "eurosat" else ""),
        )
    if settings.kind == "folder":
        return FolderSplit(root, settings, split)
    try:
        return EuroSATSplit(root, settings, split)
    except DatasetNotFoundError as error:
        raise DataError(
            f"{root} holds no EuroSAT ({split} split)",
            expected=f"{EuroSAT.split_filenames[split]} and {EuroSAT.base_dir}/CLASS/*.tif in it",
            remedy="set data.download=true, or data.kind=folder for class-named subfolders",
        ) from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{root / EuroSAT.filename} is damaged",
            remedy="delete it and set data.download=true",
        ) from error
    except (OSError, RuntimeError) as error:
        if not settings.download:
            raise
        # torchgeo says RuntimeError when the checksum of what it fetched is wrong.
        raise DataError(
            f"EuroSAT could not be downloaded to {root}: {' '.join(str(error).split())}",
            remedy="try again, or fetch it by hand and set data.download=false",
        ) from error


def list_files(dataset: EuroSATSplit | FolderSplit) -> tuple[TileFile, ...]:
    """Return the file of every tile, in the order of the dataset's indices.

    Raises:
        DataError: two files would have the same tile name.
    """
    files = tuple(
        TileFile(
            path=Path(path),
            tile_id=Path(path).relative_to(dataset.id_root).with_suffix("").as_posix(),
            label=label,
        )
        for path, label in dataset.samples
    )
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.tile_id, file.path)
        if other is not file.path:
            raise DataError(
                f"{other} and {file.path} differ only in their suffix",
                remedy="rename or remove one",
            )
    return files


def require_every_class(
    files: Iterable[TileFile], classes: tuple[str, ...], split: Split, settings: DataSettings
) -> None:
    """Make sure that a split has files of each class.

    Raises:
        DataError: there is none of some class.
    """
    present = {file.label for file in files}
    missing = [name for label, name in enumerate(classes) if label not in present]
    if missing:
        raise DataError(
            f"the {split} split of {settings.root} has no usable tile of {', '.join(missing)}",
            remedy="add some, or name the classes to use in data.classes; "
            "`rslow data check` shows the counts",
        )


def absent_files(dataset: EuroSATSplit | FolderSplit) -> int:
    """Count the files that EuroSAT's list of a split names and the disk lacks.

    torchgeo passes over them in silence, so half an unpacked archive looks like a data set.
    """
    if not isinstance(dataset, EuroSATSplit):
        return 0
    names = dataset.list_path.read_text(encoding="utf-8").split()
    on_disk = {path.stem for path in dataset.id_root.rglob("*.tif")}
    return sum(Path(name).stem not in on_disk for name in names)


def files_in(folder: Path, pattern: str, what: str) -> list[Path]:
    """Return the files of a name below a folder, in order.

    Args:
        folder: which the setting data.WHATs names.
        pattern: of their names, which data.WHAT_name is.
        what: image or mask.

    Raises:
        DataError: there is no such folder, or no such file.
    """
    root = folder.expanduser()
    if not root.is_dir():
        raise DataError(
            f"folder {root} does not exist", remedy=f"set data.{what}s to the folder of the {what}s"
        )
    files = sorted(path for path in root.rglob(pattern) if path.is_file())
    if not files:
        raise DataError(
            f"{root} holds no {what} named {pattern}", remedy=f"correct data.{what}_name"
        )
    return files


def refuse_idle(settings: DataSettings, *, also: Sequence[str] = ()) -> None:
    """Refuse settings that this kind of data does not read.

    Args:
        settings: of the data.
        also: settings that the caller reads whatever the kind.

    Raises:
        SettingsError: there is one.
    """
    for name, kinds in _READ_BY.items():
        value = getattr(settings, name)
        if (
            name not in also
            and settings.kind not in kinds
            and value != type(settings).model_fields[name].default
        ):
            why = "; EuroSAT is L1C" if name == "level" else ""
            raise SettingsError(
                f"data.{name}={value} has no effect with data.kind={settings.kind}{why}",
                remedy=f"remove it, or set data.kind={' or '.join(kinds)}",
            )


def _chosen(
    folders: list[Path], wanted: tuple[str, ...] | None
) -> tuple[list[str], dict[str, int]]:
    found = sorted(
        {
            path.name
            for folder in folders
            for path in folder.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        }
    )
    if not found:
        raise DataError(
            f"{folders[0]} has no subfolder",
            expected="subfolders named after the classes, holding GeoTIFFs",
        )
    names = {folder: class_name(folder) for folder in found}
    nameless = [folder for folder, name in names.items() if name is None]
    if nameless:
        raise DataError(
            f"folder {folders[0] / nameless[0]} names no class: {UNCLEAR} and blanks mean unknown",
            expected="subfolders named after the classes",
            remedy="rename it, or move it away",
        )
    known = vocabulary(f"the folders of {folders[0]}", sorted(map(str, names.values())))
    require(vocabulary("data.classes", wanted or ()), known, remedy="correct data.classes")
    classes = list(wanted or known.names)
    # Folders whose names differ in composition or blanks are of one class.
    return classes, {
        folder: classes.index(str(name)) for folder, name in names.items() if name in classes
    }


def _hashed_split(
    samples: list[tuple[str, int]], root: Path, settings: DataSettings, split: Split
) -> list[tuple[str, int]]:
    by_class: dict[int, list[str]] = {}
    for path, label in samples:
        by_class.setdefault(label, []).append(path)
    chosen = []
    for label, paths in by_class.items():
        ranked = sorted(
            paths,
            key=lambda path: hashlib.sha256(
                Path(path).relative_to(root).as_posix().encode()
            ).digest(),
        )
        test = round(settings.test_share * len(ranked))
        val = round(settings.val_share * len(ranked))
        parts = {
            "test": ranked[:test],
            "val": ranked[test : test + val],
            "train": ranked[test + val :],
        }
        chosen += [(path, label) for path in parts[split]]
    return sorted(chosen)


def _read_channels_last(path: Any) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)
