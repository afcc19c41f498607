"""Tile files on disk: which there are, in which split, and how one is read.

Two layouts: `torchgeo.datasets.EuroSAT`, and any folder of class-named subfolders with
multi-band GeoTIFFs. Both are torchgeo datasets with `samples`, `classes` and items.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import torch
from jaxtyping import Float
from rasterio.errors import RasterioError
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, EuroSAT, NonGeoClassificationDataset

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec, canonical_name
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings
from rs_lowconf.types import Grid

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class TileFile:
    """One file of a split."""

    path: Path
    tile_id: str
    """The path below the data set's root, without suffix."""
    label: int
    """Index into the class list."""


class FolderDataset(NonGeoClassificationDataset):  # type: ignore[misc]
    """Class-named subfolders of multi-band GeoTIFFs, read with their bands in file order."""

    def __init__(self, root: Path, settings: DataSettings, split: Split) -> None:
        """List the files of a split.

        Subfolders `train`, `val` and `test` are the splits when all three exist. Otherwise
        each class's files are ranked by the SHA-256 of their name and the first shares
        become test and validation: the same on every machine, and every class in each.

        Raises:
            DataError: the folder is missing, or a class has no file in the split.
        """
        self._classes = settings.classes
        given = all((root / name).is_dir() for name in SPLITS)
        chosen = None if given else _ranked_split(root, settings, split)
        try:
            super().__init__(
                root=str(root / split if given else root),
                loader=_read_channels_last,
                is_valid_file=lambda path: (
                    Path(path).suffix.lower() in SUFFIXES
                    and (chosen is None or Path(path) in chosen)
                ),
            )
        except FileNotFoundError as error:
            raise DataError(
                f"the {split} split of {root}: {error}",
                expected="subfolders named after the classes, holding GeoTIFFs",
            ) from error

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """Return the wanted classes in the wanted order; all subfolders when none are named."""
        found, index = super().find_classes(directory)
        if self._classes is None:
            return found, index
        unknown = sorted(set(self._classes) - set(found))
        if unknown:
            raise _unknown_classes(unknown, found)
        return list(self._classes), {name: i for i, name in enumerate(self._classes)}


def open_dataset(settings: DataSettings, split: Split) -> EuroSAT | FolderDataset:
    """Open a split through torchgeo, downloading EuroSAT when asked to.

    Raises:
        DataError: there is no such data set, or it lacks a wanted class.
    """
    root = settings.root.expanduser()
    if not root.is_dir() and not settings.download:
        raise DataError(
            f"data folder {root} does not exist",
            remedy="set data.root to the folder that holds the tiles, or data.download=true",
        )
    if settings.kind == "folder":
        return FolderDataset(root, settings, split)
    try:
        dataset = EuroSAT(root=str(root), split=split, download=settings.download, checksum=True)
    except DatasetNotFoundError as error:
        raise DataError(
            f"{root} holds no EuroSAT ({split} split)",
            expected="eurosat-*.txt and ds/images/… as torchgeo lays them out",
            remedy="set data.download=true, or data.kind=folder for class-named subfolders",
        ) from error
    return dataset


def class_names(settings: DataSettings, dataset: EuroSAT | FolderDataset) -> tuple[str, ...]:
    """Return the classes in use, in order.

    Raises:
        DataError: a wanted class is not in the data set.
    """
    if settings.classes is None:
        return tuple(dataset.classes)
    unknown = sorted(set(settings.classes) - set(dataset.classes))
    if unknown:
        raise _unknown_classes(unknown, dataset.classes)
    return settings.classes


def list_files(
    settings: DataSettings, dataset: EuroSAT | FolderDataset
) -> tuple[tuple[int, TileFile], ...]:
    """Return the dataset's index and file of every tile of a class in use."""
    classes = class_names(settings, dataset)
    root = Path(dataset.root)
    listed = []
    for index, (name, label) in enumerate(dataset.samples):
        if dataset.classes[label] in classes:
            path = Path(name)
            file = TileFile(
                path=path,
                tile_id=path.relative_to(root).with_suffix("").as_posix(),
                label=classes.index(dataset.classes[label]),
            )
            listed.append((index, file))
    return tuple(listed)


def band_spec(settings: DataSettings, profile: "FileProfile") -> BandSpec:
    """Describe the bands of a file as it lies on disk.

    Raises:
        DataError: the file names other bands than the settings, or nobody names them.
    """
    names: tuple[str, ...] | None
    if settings.kind == "eurosat":
        names, level = EUROSAT_ORDER, "L1C"
    else:
        names, level = settings.file_bands, settings.level
        described = profile.band_names()
        if names is not None and described is not None:
            wanted = tuple(canonical_name(name) for name in names)
            if wanted != described:
                raise DataError(
                    f"{profile.path} names its bands {' '.join(described)}",
                    expected=f"{' '.join(wanted)}, as data.file_bands says",
                    remedy="drop data.file_bands (the files' own names are used) or mend the files",
                )
        names = described or names
    if names is None:
        raise DataError(
            f"{profile.path} does not name its {profile.count} bands",
            expected="a band description each, such as B04",
            remedy="list their order in data.file_bands",
        )
    if len(names) != profile.count:
        raise DataError(
            f"{profile.path} has {profile.count} bands", expected=f"{len(names)}: {' '.join(names)}"
        )
    return BandSpec(names=names, level=level, scale=settings.scale, dn_offset=settings.dn_offset)


@dataclass(frozen=True, kw_only=True)
class FileProfile:
    """What a GeoTIFF says of itself."""

    path: Path
    count: int
    height: int
    width: int
    dtype: str
    nodata: float | None
    descriptions: tuple[str | None, ...]
    grid: Grid | None

    def band_names(self) -> tuple[str, ...] | None:
        """Return canonical names, or None when a band has no description.

        Raises:
            DataError: a description is no Sentinel-2 band.
        """
        if any(not name for name in self.descriptions):
            return None
        return tuple(canonical_name(name or "") for name in self.descriptions)


def read_profile(path: Path) -> FileProfile:
    """Read a GeoTIFF's header.

    Raises:
        DataError: the file cannot be opened as a raster.
    """
    try:
        with rasterio.open(path) as file:
            grid = None
            if file.crs is not None:
                authority = file.crs.to_authority()
                crs = ":".join(authority) if authority else file.crs.to_wkt()
                grid = Grid(crs=crs, transform=tuple(file.transform)[:6])
            return FileProfile(
                path=path,
                count=file.count,
                height=file.height,
                width=file.width,
                dtype=file.dtypes[0],
                nodata=file.nodata,
                descriptions=tuple(file.descriptions),
                grid=grid,
            )
    except (RasterioError, OSError) as error:
        raise DataError(f"{path} cannot be opened: {_one_line(error)}") from error


def read_pixels(dataset: EuroSAT | FolderDataset, index: int, path: Path) -> Float[Tensor, "c h w"]:
    """Read a tile's digital numbers through torchgeo, all bands in file order.

    Raises:
        DataError: the file is truncated or no raster.
    """
    try:
        image: Tensor = dataset[index]["image"]
    except (RasterioError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {_one_line(error)}",
            remedy="replace the file, or leave it out with data.skip_bad=true",
        ) from error
    return image


def problems_of(pixels: Float[Tensor, "c h w"], settings: DataSettings) -> list[str]:
    """Say in words why a tile cannot be used; empty when it can."""
    side = settings.tile_size
    height, width = pixels.shape[1:]
    problems = []
    if (height, width) != (side, side):
        problems.append(f"is {height} x {width} pixels, expected {side} x {side} (data.tile_size)")
    unreal = int((~torch.isfinite(pixels)).any(dim=0).sum())
    if unreal:
        problems.append(f"has NaN or infinity in {unreal} pixels")
    empty = float((pixels == 0).all(dim=0).float().mean())
    if empty == 1.0:
        problems.append("is nodata (0 in every band) everywhere")
    elif empty > settings.max_nodata:
        problems.append(
            f"has {empty:.1%} nodata pixels, expected at most {settings.max_nodata:.1%} "
            "(data.max_nodata)"
        )
    return problems


def _ranked_split(root: Path, settings: DataSettings, split: Split) -> frozenset[Path]:
    chosen: list[Path] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
        files.sort(
            key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
        )
        test = round(settings.test_share * len(files))
        val = round(settings.val_share * len(files))
        parts = {
            "test": files[:test],
            "val": files[test : test + val],
            "train": files[test + val :],
        }
        chosen += parts[split]
    return frozenset(chosen)


def _read_channels_last(path: str) -> np.ndarray[Any, Any]:
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)


def _unknown_classes(unknown: list[str], found: list[str]) -> DataError:
    return DataError(
        f"classes {', '.join(unknown)} are unknown",
        expected=f"some of {', '.join(found)}",
        remedy="correct data.classes",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
