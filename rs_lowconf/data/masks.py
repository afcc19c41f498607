"""Tiles with a class for every pixel, cut out of scenes or chips and split by blocks of land."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.blocks import Block, assign, blocks_apart, blocks_at
from rs_lowconf.data.chips import Chip, chip_name
from rs_lowconf.data.files import SPLITS, Split, files_in
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.scenes import Scene, footprint
from rs_lowconf.data.tiles import TileError, read_profile, require_same_bands, used_bands
from rs_lowconf.data.windows import (
    Content,
    Picture,
    Window,
    class_names,
    content_of,
    grid_at,
    require_one_band,
    require_place,
    whole,
)
from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import MaskData, Rasters, Tiles
from rs_lowconf.types import TileBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One tile to be read."""

    picture: Picture
    window: Window
    block: Block
    """The block of the tile's centre."""

    @property
    def tile_id(self) -> str:
        """The image and the tile's upper left pixel in it."""
        return f"{self.picture.name}_r{self.window.row:05d}_c{self.window.col:05d}"

    @property
    def grid(self) -> Grid:
        """Where the tile lies."""
        return grid_at(self.picture.profile, self.window.row, self.window.col)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """The images of a data set, whose headers have been read."""

    usable: tuple[Picture, ...]
    bands: BandSpec | None
    """The bands to use; None when no image can be used."""
    faults: tuple[TileError, ...]
    """Why others cannot be used."""
    left_out: LeftOut
    """Files in the folders that are not among them."""


class WindowSource:
    """A `MaskSource` that reads windows on demand, and caches the first ones it has read.

    The cache is limited, so memory does not grow with the data.
    """

    def __init__(
        self,
        cuts: Iterable[tuple[Cut, Content]],
        bands: BandSpec,
        settings: MaskData,
        *,
        kept_bytes: int = 2**28,
    ) -> None:
        """Keep the tiles that can be used.

        Args:
            cuts: where the tiles lie and what was read there.
            bands: the bands to use, in order.
            settings: of the data.
            kept_bytes: size of the cache.
        """
        self.bands = bands
        self.classes = class_names(settings)
        self._settings = settings
        self._cuts: list[Cut] = []
        self._kept: list[tuple[Tensor, Tensor]] = []
        room = kept_bytes
        for cut, content in cuts:
            if room > 0:
                tile = self._compact(content)
                self._kept.append(tile)
                room -= sum(part.nbytes for part in tile)
            self._cuts.append(cut)
        self.ids = tuple(cut.tile_id for cut in self._cuts)
        self.blocks = tuple(cut.block for cut in self._cuts)
        """The block of each tile: tiles of the same block are not independent evidence."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` as reflectance with their masks.

        Raises:
            TileError: a file has changed since it was checked.
        """
        cuts = [self._cuts[i] for i in indices]
        tiles = [self._kept[i] if i < len(self._kept) else self._read(i) for i in indices]
        numbers = torch.stack([numbers.float() for numbers, _ in tiles])
        return TileBatch(
            image=self.bands.reflectance(numbers),
            bands=self.bands,
            ids=tuple(cut.tile_id for cut in cuts),
            classes=self.classes,
            mask=torch.stack([mask.long() for _, mask in tiles]),
            grids=tuple(
                grid_at(cut.picture.profile, cut.window.row, cut.window.col) for cut in cuts
            ),
        )

    def around(self, index: int, row: int, col: int) -> tuple[Float[Tensor, "c s s"], Grid]:
        """Return the surroundings of a pixel as reflectance, and where they lie.

        A square of `data.tile_size` - 1 pixels centred on the pixel; outside the image and in
        nodata it is 0.

        Args:
            index: of a tile.
            row: of the pixel in that tile.
            col: of the pixel in that tile.

        Raises:
            TileError: the file has changed since it was checked.
        """
        cut, side = self._cuts[index], self._settings.tile_size
        half = side // 2 - 1
        profile = cut.picture.profile
        middle = (cut.window.row + row, cut.window.col + col)
        sizes = (profile.height, profile.width)
        first = [min(max(m - half, 0), size - side) for m, size in zip(middle, sizes, strict=True)]
        content = content_of(cut.picture, whole(first[0], first[1], side), self._settings)
        numbers = content.tile.select(self.bands)
        image = self.bands.reflectance(numbers).masked_fill(content.tile.nodata, 0.0)
        # First row and column of the square within the data read; negative beyond the image's edge.
        top, left = (m - half - f for m, f in zip(middle, first, strict=True))
        padded = F.pad(image, (half, half, half, half))
        square = padded[:, top + half : top + 3 * half + 1, left + half : left + 3 * half + 1]
        return square, grid_at(profile, middle[0] - half, middle[1] - half)

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        cut = self._cuts[index]
        return self._compact(content_of(cut.picture, cut.window, self._settings))

    def _compact(self, content: Content) -> tuple[Tensor, Tensor]:
        """Return digital numbers, c h w, and mask, h w, in the smallest type that holds them."""
        numbers = content.tile.select(self.bands)
        exact = numbers.to(torch.uint16)
        if torch.equal(exact.float(), numbers):
            numbers = exact
        return numbers, content.mask.to(torch.uint8)


def open_masks(settings: Tiles, split: Split) -> WindowSource:
    """Open a split of tiles with masks; every tile is read once to see that it can be used.

    Left out are tiles with more nodata than `data.max_nodata`, and those without a pixel of
    known class.

    Raises:
        SettingsError: these data have no masks.
        DataError: a file cannot be used (unless `skip_bad`), or there is nothing to use.
    """
    if not isinstance(settings, MaskData):
        raise SettingsError(
            f"data.kind={settings.kind} has no masks", expected="data.kind scenes or chips"
        )
    pictures = open_pictures(settings)
    left_out = LeftOut(skip_bad=settings.skip_bad)
    for fault in pictures.faults:
        left_out.fault("file", fault)
    cuts = split_cuts(settings, pictures.usable)[split]
    source = WindowSource(_read_all(cuts, settings, left_out), _required(pictures), settings)
    for line in (*pictures.left_out.counted(), *left_out.lines()):
        log.warning("left out: %s", line)
    if len(source) == 0:
        raise DataError(
            f"no tile of the {split} split has a pixel of known class",
            remedy="a smaller data.block_size makes more blocks to split",
        )
    return source


def open_pictures(settings: MaskData) -> Pictures:
    """Read the header of every image and mask.

    Raises:
        DataError: a folder does not exist or holds no such file.
    """
    # Errors are collected here, and raised by callers that cannot go on.
    left_out = LeftOut(skip_bad=True)
    images = files_in(settings.images, settings.image_name, "image", left_out)
    masks = files_in(settings.masks, settings.mask_name, "mask", left_out)
    faults = [*left_out.faults]
    usable: list[Picture] = []
    bands: BandSpec | None = None
    for picture in _opened(images, masks, settings, faults):
        path = picture.profile.path
        try:
            used = used_bands(settings, path, picture.bands)
            require_same_bands(path, used, bands or used)
        except TileError as error:
            faults.append(error)
            continue
        bands = bands or used
        usable.append(picture)
    return Pictures(usable=tuple(usable), bands=bands, faults=tuple(faults), left_out=left_out)


def split_cuts(
    settings: MaskData, pictures: Sequence[Picture], left_out: LeftOut | None = None
) -> dict[Split, list[Cut]]:
    """Return the tiles of each split.

    A tile belongs to the block of its centre. A tile that overlaps a block of another split belongs
    to no split, so no ground pixel is in two splits.

    Args:
        settings: of the data.
        pictures: to cut.
        left_out: counts tiles that belong to no split.

    Raises:
        DataError: there are too few blocks, or tiles are larger than blocks.
    """
    grids = {
        training: [(p, p.windows(training=training)) for p in pictures]
        for training in (False, True)
    }
    placed = {training: list(_placed(grid, settings)) for training, grid in grids.items()}
    counts: Counter[Block] = Counter()
    for cut, corners in placed[False]:
        counts[cut.block] += 1
        counts.update(dict.fromkeys(corners, 0))
    splits = assign(counts, settings)
    found: dict[Split, list[Cut]] = {split: [] for split in SPLITS}
    for split, cuts in found.items():
        for cut, corners in placed[split == "train"]:
            within = {splits.get(block) for block in (cut.block, *corners)}
            if within == {split}:
                cuts.append(cut)
            elif splits.get(cut.block) == split and left_out is not None:
                left_out.count("tile", "overlaps another split", cut.tile_id)
    return found


def usable_cuts(
    cuts: Sequence[Cut], settings: MaskData, left_out: LeftOut
) -> Iterator[tuple[Cut, Content]]:
    """Read tiles and yield those with little nodata and a pixel of known class.

    Args:
        cuts: to read.
        settings: of the data.
        left_out: counts the others.

    Raises:
        TileError: a file cannot be used.
    """
    for cut in cuts:
        content = content_of(cut.picture, cut.window, settings)
        if float(content.tile.nodata.float().mean()) > settings.max_nodata:
            left_out.count("tile", too_empty(settings), cut.tile_id)
        elif not (content.mask != UNKNOWN).any():
            left_out.count("tile", "no pixel of known class", cut.tile_id)
        else:
            yield cut, content


def too_empty(settings: Rasters) -> str:
    """Return why a tile with too much nodata is left out."""
    return f"more nodata than data.max_nodata={settings.max_nodata:g}"


def by_picture(cuts: Sequence[Cut]) -> list[tuple[Picture, list[Cut]]]:
    """Return the tiles of each image."""
    found: dict[str, tuple[Picture, list[Cut]]] = {}
    for cut in cuts:
        found.setdefault(cut.picture.name, (cut.picture, []))[1].append(cut)
    return list(found.values())


def _read_all(
    cuts: Sequence[Cut], settings: MaskData, left_out: LeftOut
) -> Iterator[tuple[Cut, Content]]:
    """Yield the tiles that can be used; of a bad file those before the error."""
    for _, chosen in by_picture(cuts):
        try:
            yield from usable_cuts(chosen, settings, left_out)
        except TileError as error:
            left_out.fault("file", error)


def _required(pictures: Pictures) -> BandSpec:
    if pictures.bands is None:
        raise DataError("no image can be used", command="data check")
    return pictures.bands


def _opened(
    images: list[Path], masks: list[Path], settings: MaskData, faults: list[TileError]
) -> Iterator[Picture]:
    """Yield the images that can be opened with their masks; add the others to `faults`."""
    by_name: dict[str, Path] = {}
    for path in masks if settings.kind == "chips" else ():
        other = by_name.setdefault(chip_name(path, settings.mask_name), path)
        if other is not path:
            faults.append(TileError(path, "has the same name as another mask", detail=str(other)))
    footprints = []
    if settings.kind == "scenes":
        for path in masks:
            try:
                profile = read_profile(path)
                require_place(profile)
                require_one_band(profile)
                footprints.append(footprint(profile))
            except TileError as error:
                faults.append(error)
    for path in images:
        try:
            if settings.kind == "chips":
                yield Chip(path, by_name, settings)
            else:
                yield Scene(path, footprints, settings)
        except TileError as error:
            faults.append(error)


def _placed(
    grid: Sequence[tuple[Picture, list[Window]]], settings: MaskData
) -> Iterator[tuple[Cut, list[Block]]]:
    """Yield each tile with the blocks of its corners."""
    side, size = settings.tile_size, settings.block_size
    steps = np.array([[0.5, 0.5], [0, 0], [0, 1], [1, 0], [1, 1]]) * side
    for picture, windows in grid:
        place = picture.profile.grid
        assert place is not None  # noqa: S101  # `require_place`
        a, _, c, _, e, f = place.transform
        corners = np.array([[w.row, w.col] for w in windows]).reshape(-1, 1, 2) + steps  # n 5 2
        x, y = c + a * corners[..., 1], f + e * corners[..., 0]
        blocks = blocks_at(x.ravel(), y.ravel(), place.crs, size)
        for i, window in enumerate(windows):
            centre, *others = blocks[5 * i : 5 * i + 5]
            _require_small(others, settings)
            yield Cut(picture=picture, window=window, block=centre), others


def _require_small(corners: Sequence[Block], settings: MaskData) -> None:
    if blocks_apart(corners, settings.block_size) > 1:
        raise DataError(
            f"a tile of {settings.tile_size} pixels is larger than a block of "
            f"{settings.block_size:g} m",
            remedy="set a larger data.block_size",
        )
