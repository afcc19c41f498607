"""Lists tile files on disk with their class and split.

Two layouts: `torchgeo.datasets.EuroSAT`, and any folder of class-named subfolders with
multi-band GeoTIFFs. Both are torchgeo datasets with `samples`, `classes` and items.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from torchgeo.datasets import DatasetNotFoundError, EuroSAT, NonGeoClassificationDataset

from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.tiles import TileError
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.settings import (
    ClassedTiles,
    EuroSatTiles,
    FolderTiles,
    Held,
    PictureData,
    Tiles,
)
from rs_lowconf.vocabulary import UNCLEAR, class_name, require, vocabulary

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SUFFIX = ".tif"
"""Suffix of GeoTIFFs; `.tiff` means the same, in upper or lower case."""
_HIDDEN = ("__MACOSX", "@eaDir")
"""Folders that macOS and Synology hide, in addition to names that begin with a dot."""


@dataclass(frozen=True, kw_only=True)
class TileFile:
    """One file of a split."""

    path: Path
    tile_id: str
    """The path below the data set's root, without suffix."""
    label: int
    """Index into the class list."""


class EuroSATSplit(EuroSAT):
    """torchgeo's EuroSAT with the requested classes in the requested order."""

    def __init__(self, root: Path, settings: EuroSatTiles, split: Split) -> None:
        """List the files of a split, downloading the data when asked to."""
        self._wanted = settings.classes
        self.left_out = LeftOut(skip_bad=settings.skip_bad)
        super().__init__(root=str(root), split=split, download=settings.download, checksum=True)
        self.list_path = root / self.split_filenames[split]
        self.id_root = Path(self.root)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the requested classes and their indices."""
        return _chosen([Path(directory)], self._wanted)

    def make_dataset(
        self,
        directory: str,
        class_to_idx: dict[str, int],
        extensions: Any = None,  # noqa: ARG002
        is_valid_file: Callable[[str], bool] = bool,
        allow_empty: bool = True,  # noqa: ARG002
    ) -> list[tuple[str, int]]:
        """List the files of the split; files of other splits are left out uncounted."""
        files = class_files(Path(directory), class_to_idx, self.left_out)
        return [(str(path), label) for path, label in files if is_valid_file(str(path))]


class FolderSplit(NonGeoClassificationDataset):
    """Class-named subfolders of multi-band GeoTIFFs, read with their bands in file order."""

    samples: list[tuple[str, int]]

    def __init__(self, root: Path, settings: FolderTiles, split: Split) -> None:
        """List the files of a split.

        Subfolders `train`, `val` and `test` are the splits when they exist. Otherwise each
        class's files are ranked by the SHA-256 of their name and the first shares become test and
        validation: the same on every machine, with every class in each split.

        Raises:
            DataError: only some of the three subfolders exist.
        """
        given = [name for name in SPLITS if (root / name).is_dir()]
        if given and len(given) < len(SPLITS):
            raise DataError(
                f"{root} has subfolders {', '.join(given)} only",
                expected="train, val and test, or none of them",
                remedy="add the missing ones, or remove this level of folders to have the files "
                "split by hash",
            )
        self._wanted = settings.classes
        self.left_out = LeftOut(skip_bad=settings.skip_bad)
        # A class that one split lacks must not shift the class indices of that split.
        self._class_folders = [root / name for name in given] or [root]
        super().__init__(
            root=str(root / split if given else root),
            loader=_read_channels_last,
            is_valid_file=bool,
        )
        self.id_root = root
        if given and split == SPLITS[0]:
            count_beside(root, SPLITS, "outside the folders of the splits", self.left_out)
        if not given:
            names = [Path(path).relative_to(root).as_posix() for path, _ in self.samples]
            labels = [label for _, label in self.samples]
            splits = splits_by_hash(zip(names, labels, strict=True), settings)
            named = zip(self.samples, names, strict=True)
            self.samples = self.imgs = sorted(tile for tile, name in named if splits[name] == split)
            self.targets = [label for _, label in self.samples]

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:  # noqa: ARG002
        """Return the requested classes and their indices, the same in every split."""
        return _chosen(self._class_folders, self._wanted)

    def make_dataset(
        self,
        directory: str,
        class_to_idx: dict[str, int],
        extensions: Any = None,  # noqa: ARG002
        is_valid_file: Any = None,  # noqa: ARG002
        allow_empty: bool = True,  # noqa: ARG002
    ) -> list[tuple[str, int]]:
        """List the GeoTIFFs below the folders of the classes."""
        folder = Path(directory)
        found = []
        for path, label in class_files(folder, class_to_idx, self.left_out):
            if name_fits(path, f"*{_SUFFIX}"):
                found.append((str(path), label))
            else:
                self.left_out.count("file", "not a GeoTIFF by its name", str(path))
        count_beside(folder, class_to_idx, "not in a folder of the classes used", self.left_out)
        return found


def require_classes(settings: Tiles) -> ClassedTiles:
    """Return the settings of data with one class per tile.

    Raises:
        SettingsError: no data are set, or they have no class per tile.
    """
    if settings.kind == "none":
        raise SettingsError(
            "this needs real tiles, but none are configured (data.kind is none)",
            expected="data.kind eurosat or folder",
            remedy="set data.kind and data.root",
        )
    if not isinstance(settings, ClassedTiles):
        what = "classes of pixels, not of tiles" if settings.masked else "no classes"
        raise SettingsError(
            f"data.kind={settings.kind} has {what}",
            expected="data.kind eurosat or folder for this command",
        )
    return settings


def open_dataset(settings: Tiles, split: Split) -> EuroSATSplit | FolderSplit:
    """Open a split through torchgeo, downloading EuroSAT when asked to.

    Raises:
        SettingsError: no data are set, or they have no class per tile.
        DataError: there is no such data set, or it lacks a wanted class.
    """
    labelled = require_classes(settings)
    if isinstance(labelled, PictureData):
        raise SettingsError(
            "data.kind=pictures can only be used for training",
            expected="data.kind eurosat or folder for this command",
        )
    if isinstance(labelled, FolderTiles):
        return _open_folder(labelled, split)
    return _open_eurosat(labelled, split)


def _open_folder(settings: FolderTiles, split: Split) -> FolderSplit:
    if not settings.root.is_dir():
        raise _no_folder(settings.root)
    return FolderSplit(settings.root, settings, split)


def _open_eurosat(settings: EuroSatTiles, split: Split) -> EuroSATSplit:
    root = settings.root
    if not root.is_dir() and not settings.download:
        raise _no_folder(root, ", or data.download=true")
    try:
        return EuroSATSplit(root, settings, split)
    except DatasetNotFoundError as error:
        raise DataError(
            f"{root} does not contain EuroSAT ({split} split)",
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
        # torchgeo raises RuntimeError when the checksum of the download is wrong.
        raise DataError(
            f"EuroSAT could not be downloaded to {root}: {' '.join(str(error).split())}",
            remedy="try again, or download it by hand and set data.download=false",
        ) from error


def _no_folder(root: Path, otherwise: str = "") -> DataError:
    return DataError(
        f"data folder {root} does not exist",
        remedy=f"set data.root to the folder of the tiles{otherwise}",
    )


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
    refuse_twins(file.path for file in files)
    return files


def require_every_class(
    files: Iterable[TileFile], classes: tuple[str, ...], split: Split, root: Path
) -> None:
    """Require that a split has files of each class.

    Raises:
        DataError: a class has none.
    """
    present = {file.label for file in files}
    missing = [name for label, name in enumerate(classes) if label not in present]
    if missing:
        raise DataError(
            f"the {split} split of {root} has no usable tile of {', '.join(missing)}",
            remedy="add some, or name the classes to use in data.classes",
            command="data check",
        )


def absent_files(dataset: object) -> int:
    """Count the files that EuroSAT's list of a split names and the disk lacks.

    torchgeo skips them silently, so a half-unpacked archive looks like a complete data set.
    """
    if not isinstance(dataset, EuroSATSplit):
        return 0
    names = dataset.list_path.read_text(encoding="utf-8").split()
    on_disk = {path.stem for path in dataset.id_root.rglob("*.tif")}
    return sum(Path(name).stem not in on_disk for name in names)


def files_in(folder: Path, pattern: str, what: str, left_out: LeftOut) -> list[Path]:
    """Return the files below a folder whose names match a pattern, in order.

    Args:
        folder: value of the setting data.WHATs.
        pattern: value of the setting data.WHAT_name; see `name_fits`.
        what: image or mask.
        left_out: counts the other files.

    Raises:
        DataError: there is no such folder, or no such file, or two have the same name.
    """
    root = folder
    if not root.is_dir():
        raise DataError(
            f"folder {root} does not exist", remedy=f"set data.{what}s to the folder of the {what}s"
        )
    files = []
    for path in files_below(root, left_out):
        if name_fits(path, pattern):
            files.append(path)
        else:
            left_out.count("file", f"not named like data.{what}_name={pattern}", str(path))
    if not files:
        others = "".join(f"; {line}" for line in left_out.lines())
        raise DataError(
            f"{root} contains no {what} named {pattern}{others}", remedy=f"correct data.{what}_name"
        )
    refuse_twins(files)
    return sorted(files)


def files_below(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Yield the files below a folder, by the same rule for all kinds of data.

    Links to folders and files are followed. Hidden files and folders are left out, and so are
    dangling links and links to a folder above.

    Raises:
        DataError: a folder cannot be read, or, unless bad files are skipped, a name is not UTF-8.
    """
    yield from _files_below(folder, left_out, ())


def _files_below(folder: Path, left_out: LeftOut, above: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below a folder; `above` are its parents, with links resolved."""
    real = os.path.realpath(folder)
    if real in above:
        left_out.count("file", "a link to a folder above it", str(folder))
        return
    for path in _entries(folder):
        if is_hidden(path.name):
            _count_hidden(path, left_out)
        elif not _is_text(path.name):
            left_out.fault(
                "file",
                TileError(
                    path,
                    "has a name that is not UTF-8",
                    remedy="rename it; convmv renames many at once",
                ),
            )
        elif path.is_dir():
            yield from _files_below(path, left_out, (*above, real))
        elif path.is_file():
            yield path
        else:
            left_out.count("file", "a dangling link, or not a regular file", str(path))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden: such as `._x.tif` and `.ipynb_checkpoints`."""
    return name.startswith(".") or name in _HIDDEN


def name_fits(path: Path, pattern: str) -> bool:
    """Return whether a file's name matches a pattern.

    Suffixes are compared regardless of case, and `.tiff` is `.tif`.
    """
    return path.with_name(plain_suffix(path.name)).match(plain_suffix(pattern))


def plain_suffix(name: str) -> str:
    """Return a name or pattern with its suffix in lower case, and `.tif` for `.tiff`."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  # a pattern is no path
    return stem + (_SUFFIX if suffix.lower() == ".tiff" else suffix.lower())


def refuse_twins(files: Iterable[Path]) -> None:
    """Require that files differ in more than their suffix, which tile names lack.

    Raises:
        DataError: two do not.
    """
    seen: dict[PurePath, Path] = {}
    for path in files:
        other = seen.setdefault(path.with_suffix(""), path)
        if other is not path:
            raise DataError(
                f"{other} and {path} differ only in their suffix", remedy="rename or remove one"
            )


def count_beside(folder: Path, used: Container[str], reason: str, left_out: LeftOut) -> None:
    """Count the files in a folder that are not below the folders used.

    Args:
        folder: where to look.
        used: names of its subfolders that are used.
        reason: see `LeftOut.count`.
        left_out: counts them.
    """
    for path in _entries(folder):
        if path.name in used:
            continue
        if is_hidden(path.name):
            _count_hidden(path, left_out)
        elif path.is_dir():
            for file in _files_below(path, left_out, (os.path.realpath(folder),)):
                left_out.count("file", reason, str(file))
        else:
            left_out.count("file", reason, str(path))


def class_files(
    folder: Path, class_to_idx: dict[str, int], left_out: LeftOut
) -> Iterator[tuple[Path, int]]:
    """Yield the files below the folders of the classes; a missing folder has none.

    Args:
        folder: contains one folder per class.
        class_to_idx: label by the name of its folder.
        left_out: see `files_below`.

    Raises:
        DataError: see `files_below`.
    """
    above = (os.path.realpath(folder),)
    for name in sorted(class_to_idx):
        if (folder / name).is_dir():
            files = _files_below(folder / name, left_out, above)
            for path in sorted(files, key=lambda path: (str(path.parent), path.name)):
                yield path, class_to_idx[name]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror})") from error


def _count_hidden(path: Path, left_out: LeftOut) -> None:
    inside = [Path(top, name) for top, _, names in os.walk(path) for name in names]
    for file in sorted(inside) if path.is_dir() else [path]:
        left_out.count("file", "hidden", str(file))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _chosen(
    folders: list[Path], wanted: tuple[str, ...] | None
) -> tuple[list[str], dict[str, int]]:
    found = sorted(
        {
            path.name
            for folder in folders
            for path in _entries(folder)
            if path.is_dir() and not is_hidden(path.name) and _is_text(path.name)
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
            f"folder {folders[0] / nameless[0]} is not a class name: {UNCLEAR} and blanks mean "
            "unknown",
            expected="subfolders named after the classes",
            remedy="rename it, or move it away",
        )
    known = vocabulary(f"the folders of {folders[0]}", sorted(map(str, names.values())))
    require(vocabulary("data.classes", wanted or ()), known, remedy="correct data.classes")
    classes = list(wanted or known.names)
    # Folders whose names differ only in Unicode composition or blanks are the same class.
    return classes, {
        folder: classes.index(str(name)) for folder, name in names.items() if name in classes
    }


def splits_by_hash(names: Iterable[tuple[str, int]], settings: Held) -> dict[str, Split]:
    """Return the split of every name: the same on every machine, with every class in each split.

    Args:
        names: of tiles, with their classes; the names of each class are ranked by their SHA-256,
            and the first shares become test and validation.
        settings: of the data.
    """
    by_class: dict[int, list[str]] = {}
    for name, label in names:
        by_class.setdefault(label, []).append(name)
    splits: dict[str, Split] = {}
    for group in by_class.values():
        ranked = sorted(group, key=lambda name: hashlib.sha256(name.encode()).digest())
        test = round(settings.test_share * len(ranked))
        val = round(settings.val_share * len(ranked))
        for place, name in enumerate(ranked):
            splits[name] = "test" if place < test else "val" if place < test + val else "train"
    return splits


def _read_channels_last(path: Any) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)
