"""Labelled tiles as JPEG or PNG files: bytes that stand for a range of reflectance.

Pictures carry no band names and no scale, so the settings must give them. Layouts: class-named
subfolders of `root`, or of `root/eurosat/2750` as torchvision.datasets.EuroSAT writes them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import (
    SPLITS,
    Split,
    TileFile,
    class_files,
    count_beside,
    is_hidden,
    refuse_twins,
    require_every_class,
    splits_by_hash,
)
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.tiles import FileProfile, Tile, TileError, read_errors
from rs_lowconf.errors import DataError
from rs_lowconf.settings import PictureData

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_TORCHVISION = Path("eurosat", "2750")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class PictureError(TileError):
    """One picture that cannot be used; `data.skip_bad` skips it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureSplit:
    """The pictures of one split, listed and not read yet."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[TileFile, ...]
    """Class by class, in the order of `classes`."""
    left_out: LeftOut
    """Counts of the whole folder, shared by its splits."""


def open_pictures(
    settings: PictureData,
    split: Split,
    *,
    classes: tuple[str, ...] | None = None,
    known: Mapping[str, Split] | None = None,
) -> MemorySource:
    """Read a split of pictures into memory; see `list_pictures` for the arguments.

    Raises:
        DataError: there are no pictures, or none of a class.
        PictureError: a picture cannot be read, or has another size or number of bands.
    """
    listed = list_pictures(settings, classes=classes, known=known)[split]
    left_out = listed.left_out
    wanted, pixels = [], []
    for file in listed.files:
        try:
            pixels.append(read_picture(file.path, settings))
        except PictureError as error:
            left_out.fault("file", error)
        else:
            wanted.append(file)
    require_every_class(wanted, listed.classes, split, settings.root)
    for line in left_out.lines() if split == SPLITS[0] else map(str, left_out.faults):
        log.warning("left out: %s", line)
    return MemorySource(
        pixels=np.stack(pixels),
        bands=picture_bands(settings),
        classes=listed.classes,
        ids=tuple(file.tile_id for file in wanted),
        labels=[file.label for file in wanted],
        grids=(None,) * len(wanted),
    )


def list_pictures(
    settings: PictureData,
    *,
    classes: tuple[str, ...] | None = None,
    known: Mapping[str, Split] | None = None,
) -> dict[Split, PictureSplit]:
    """List the pictures of all splits.

    Splits are those of the lists train.txt, val.txt and test.txt in `root` (paths below the
    folder of classes) if these exist, else by the hash of each file's name.

    Args:
        settings: of these pictures.
        classes: the class list to use, in order; default is that of the settings, else the names of
            all subfolders.
        known: splits of tiles in other sources, by name; they override the pictures' splits.

    Raises:
        DataError: there is no such folder, or none of a class.
    """
    folder = class_folder(settings)
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
    classes = classes or settings.classes or tuple(found)
    absent = [name for name in classes if name not in found]
    if absent:
        raise DataError(
            f"{folder} has no subfolder {', '.join(absent)}",
            expected=f"one per class; it has {', '.join(found)}",
        )
    left_out = LeftOut(skip_bad=settings.skip_bad)
    files = _listed(folder, classes, left_out)
    splits = _splits(settings, files, left_out)
    assigned = {
        file.tile_id: (known or {}).get(file.path.stem, splits.get(file.tile_id)) for file in files
    }
    return {
        split: PictureSplit(
            root=settings.root,
            classes=classes,
            files=tuple(file for file in files if assigned.get(file.tile_id) == split),
            left_out=left_out,
        )
        for split in SPLITS
    }


def _listed(folder: Path, classes: tuple[str, ...], left_out: LeftOut) -> list[TileFile]:
    """Return the pictures of the classes, and count the other files in the folder."""
    labels = {name: label for label, name in enumerate(classes)}
    files = []
    for path, label in class_files(folder, labels, left_out):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            tile_id = path.relative_to(folder).with_suffix("").as_posix()
            files.append(TileFile(path=path, tile_id=tile_id, label=label))
        else:
            left_out.count("file", "not a JPEG or PNG by its name", str(path))
    lists = (f"{split}.txt" for split in SPLITS)
    count_beside(folder, {*classes, *lists}, "not in a folder of the classes used", left_out)
    refuse_twins(file.path for file in files)
    # Class by class, in the order of the labels.
    return sorted(files, key=lambda file: file.label)


def picture_bands(settings: PictureData) -> BandSpec:
    """Return the bands of pictures; scale and offset turn bytes into reflectance."""
    low, high = settings.reflectance
    scale = 255 / (high - low)
    return BandSpec(
        names=settings.bands,
        level=settings.level or "L1C",
        scale=scale,
        dn_offset=low * scale,
    )


def class_folder(settings: PictureData) -> Path:
    """Return the folder whose subfolders are classes, downloading EuroSAT when asked to.

    Raises:
        DataError: there is none.
    """
    root = settings.root
    if settings.download:
        # torchvision takes seconds to import, and only this needs it.
        import torchvision

        try:
            torchvision.datasets.EuroSAT(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"EuroSAT's pictures could not be downloaded to {root}: "
                f"{' '.join(str(error).split())}",
                remedy="try again, or download them by hand and set data.download=false",
            ) from error
    if not root.is_dir():
        raise DataError(
            f"data folder {root} does not exist",
            remedy="set data.root to the folder with the class-named subfolders",
        )
    return root / _TORCHVISION if (root / _TORCHVISION).is_dir() else root


def read_picture(path: Path, settings: PictureData) -> np.ndarray:
    """Return a picture's bytes, c h w.

    Raises:
        PictureError: it cannot be read, or has another size or number of bands.
    """
    with read_errors(path, "cannot be read", PictureError), Image.open(path) as picture:
        mode = picture.mode
        pixels = np.asarray(picture)
    count = len(settings.bands)
    if mode != _MODES.get(count):
        raise PictureError(
            path, f"is a picture in mode {mode}", expected=f"{count} band(s), as data.bands says"
        )
    side = settings.tile_size
    pixels = pixels.reshape(*pixels.shape[:2], count)
    if pixels.shape[:2] != (side, side):
        raise PictureError(
            path,
            f"is {pixels.shape[0]} x {pixels.shape[1]} pixels",
            expected=f"{side} x {side} (data.tile_size)",
        )
    return np.moveaxis(pixels, 2, 0)


def picture_tile(path: Path, settings: PictureData) -> Tile:
    """Return a picture as an 8-bit tile without georeference.

    Raises:
        PictureError: it cannot be read, or has another size or number of bands.
    """
    pixels = read_picture(path, settings)
    count, height, width = pixels.shape
    profile = FileProfile(
        path=path,
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype.name,
        nodata=None,
        descriptions=(None,) * count,
        scales=((1.0, 0.0),) * count,
        alpha=None,
        masked=False,
        tags={},
        grid=None,
    )
    return Tile(
        profile=profile,
        bands=picture_bands(settings),
        pixels=torch.from_numpy(pixels.astype(np.float32)),
        nodata=torch.zeros((height, width), dtype=torch.bool),
    )


def _splits(settings: PictureData, files: list[TileFile], left_out: LeftOut) -> dict[str, Split]:
    """Return the split of every tile by id: from lists in the root, else by hash.

    Files missing from the lists, and listed files missing on disk, are counted.
    """
    root = settings.root
    lists = {split: root / f"{split}.txt" for split in SPLITS}
    given = [split for split, path in lists.items() if path.is_file()]
    if given and len(given) < len(SPLITS):
        raise DataError(
            f"{root} has lists for {', '.join(given)} only",
            expected="train.txt, val.txt and test.txt, or none of them",
        )
    splits: dict[str, Split] = {}
    if given:
        for split, path in lists.items():
            for line in path.read_text(encoding="utf-8").split():
                tile = Path(line).with_suffix("").as_posix()
                if splits.setdefault(tile, split) != split:
                    raise DataError(f"{tile} is in {splits[tile]}.txt and in {split}.txt")
        present = {file.tile_id for file in files}
        for tile in sorted(present - splits.keys()):
            left_out.count("file", "in none of train.txt, val.txt and test.txt", tile)
        for tile in sorted(splits.keys() - present):
            left_out.count("file", "in a list, but not on disk or not of the classes used", tile)
        return splits
    return splits_by_hash(((file.tile_id, file.label) for file in files), settings)
