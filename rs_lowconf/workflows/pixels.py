"""Pixels of tiles with masks: a table of what a target says of each, and packages to label them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float

from rs_lowconf.asking import ask, require_most
from rs_lowconf.data.files import Split
from rs_lowconf.data.masks import WindowSource, open_masks
from rs_lowconf.device import choose_device
from rs_lowconf.errors import DataError, ModelError, SettingsError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.places import model_path
from rs_lowconf.review.ids import package_id, sample_ids
from rs_lowconf.review.package import place_for
from rs_lowconf.review.publish import publish
from rs_lowconf.review.samples import Observed
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.runs import replacing
from rs_lowconf.settings import Settings
from rs_lowconf.stored import stored_numbers
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.types import TargetModel, TileBatch
from rs_lowconf.vocabulary import class_list
from rs_lowconf.workflows.records import Step, Work

_TILES = 32
"""Asked at once, and rows of a Parquet row group."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelPool:
    """Tiles with masks, and the target that is asked about their pixels."""

    target: TargetModel
    sources: tuple[WindowSource, ...]
    splits: tuple[Split, ...]
    """Of each source."""
    remark: str
    """Which classes only the masks or only the target name; empty where they agree."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return sum(len(source) for source in self.sources)


@dataclass(frozen=True, kw_only=True)
class ScoredPixels:
    """What a table of pixels holds."""

    pixels: int
    unanswered: Mapping[str, int]
    """Number of tiles that the target has no answer to, by reason; their pixels are left out."""


def open_pixels(settings: Settings, *, trust_code: bool) -> PixelPool:
    """Load the target and open the tiles of batch.splits, of the test split when missing.

    Raises:
        SettingsError: the data have no masks.
        ModelError: the target is missing, answers for whole tiles, or shares no class with the
            masks.
        DataError: the data cannot be read.
    """
    if not settings.data.masked:
        raise SettingsError(
            f"data.kind={settings.data.kind} has a class a tile",
            expected="scenes or chips",
        )
    target = load_target(
        settings.target,
        model_path(settings, "target"),
        trust_code=trust_code,
        tile_size=settings.data.tile_size,
        device=choose_device(settings.run),
    )
    if not target.pixelwise:
        raise ModelError("the target predicts one class per tile", expected="one class per pixel")
    splits = cast("tuple[Split, ...]", settings.batch.splits or ("test",))
    sources = tuple(open_masks(settings.data, split) for split in splits)
    meeting = settings.target.common_names.meet(
        class_list("the masks", sources[0].classes, error=ModelError),
        class_list("the target", target.classes, error=ModelError),
        error=ModelError,
    ).meeting(ModelError)
    return PixelPool(target=target, sources=sources, splits=splits, remark=meeting.remark)


def write_pixels(pool: PixelPool, path: Path) -> Work[ScoredPixels]:
    """Write a table of scores of all pixels.

    Raises:
        ModelError: bands do not fit, or the target has no answer to most tiles.
        OutputError: the table cannot be written.
    """
    done, rows, unanswered = 0, 0, Counter[str]()
    title = "asking about pixels"
    yield Step(title=title, done=0, total=len(pool))
    with parquet_pieces(path) as write:
        for source in pool.sources:
            for batch in _batches(source):
                table, without = pixel_scores(pool.target, batch)
                write(table)
                done, rows = done + len(batch.ids), rows + len(table)
                unanswered.update(without)
                require_most(unanswered, done)
                yield Step(title=title, done=done, total=len(pool))
    return ScoredPixels(pixels=rows, unanswered=unanswered)


@contextmanager
def parquet_pieces(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yield what writes tables of one schema one after another; the file appears whole.

    Raises:
        OutputError: the file cannot be written.
    """
    writer: pq.ParquetWriter | None = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        writer = writer or pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table)

    with replacing(path) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()


def pixel_scores(target: TargetModel, batch: TileBatch) -> tuple[pa.Table, Mapping[str, int]]:
    """Return a row for each pixel of tiles with masks.

    Pixels of tiles without an answer of the target have none: the number of these tiles by
    reason.

    Raises:
        ModelError: bands or processing level do not fit.
    """
    assert batch.mask is not None  # noqa: S101 -- tiles of scenes and chips have masks
    image = batch.image[:, list(check_fit(target.bands, batch.bands))]
    side = batch.mask.shape[-1]
    with torch.no_grad():
        asked = ask(target.predict, image, len(image))
    rows, count = asked.rows, len(asked.rows)
    answer = asked.log_probability
    if answer is None:
        answer = torch.empty(0, len(target.classes), side, side)
    largest, said = answer[:count].cpu().max(1)
    image, ids = image[rows], [batch.ids[one] for one in rows]
    row, col = (part.ravel() for part in np.indices((side, side)))
    names = np.array(target.classes, dtype=object)
    known = np.array([*batch.classes, None], dtype=object)
    mask = batch.mask[rows].numpy().ravel()
    columns: dict[str, Any] = {
        "id": [f"{own}/{r}/{c}" for own in ids for r, c in zip(row, col, strict=True)],
        "predicted": names[said.numpy().ravel()],
        "confidence": largest.exp().double().clamp(max=1.0).numpy().ravel(),
        "label": known[np.where(mask == UNKNOWN, -1, mask)],
        "group": np.repeat(np.array(ids, dtype=object), side * side),
        "row": np.tile(row, count),
        "col": np.tile(col, count),
    }
    grids = batch.grids or ()
    if len(grids) == len(batch.ids) and all(grid is not None for grid in grids):
        x, y, crs = [], [], []
        for grid in (grids[one] for one in rows):
            assert grid is not None  # noqa: S101 -- so it was asked
            a, b, c, d, e, f = grid.transform
            x.append(a * (col + 0.5) + b * (row + 0.5) + c)
            y.append(d * (col + 0.5) + e * (row + 0.5) + f)
            crs += [grid.crs] * (side * side)
        columns |= {"x": _joined(x), "y": _joined(y), "crs": crs}
    spectra = image.permute(0, 2, 3, 1).reshape(count * side * side, image.shape[1]).numpy()
    columns["features"] = pa.FixedSizeListArray.from_arrays(spectra.ravel(), spectra.shape[1])
    text = {name: pa.string() for name in ("id", "predicted", "label", "group", "crs")}
    table = pa.table({name: pa.array(own, text.get(name)) for name, own in columns.items()})
    return table, asked.reasons


def _joined(parts: list[Float[np.ndarray, " p"]]) -> Float[np.ndarray, " n"]:
    return np.concatenate([np.empty(0), *parts])


def _batches(source: WindowSource) -> Iterator[TileBatch]:
    for first in range(0, len(source), _TILES):
        yield source.batch(range(first, min(first + _TILES, len(source))))


def write_pixel_packages(
    settings: Settings, folder: Path, ids: Sequence[str], classes: Sequence[str]
) -> list[Path]:
    """Write review packages of pixels, each framed in the middle of its surroundings.

    They are blind: whoever is told what the target says is led by it.

    Args:
        settings: of the run; `batch.splits` as when the table was written.
        folder: takes the packages.
        ids: of the pixels, as `rslow estimate pixels` writes them.
        classes: among which reviewers choose.

    Raises:
        DataError: a tile is not among the data, or a file has changed since.
        ReviewError: the surroundings have no bands that can be shown.
        OutputError: a package or the store cannot be written.
    """
    places = _places(settings, ids)
    names = dict(zip(ids, sample_ids(settings.run.seed, ids), strict=True))
    ordered, most, written = sorted(ids, key=names.__getitem__), settings.review.max_samples, []
    for first in range(0, len(ordered), most):
        shown = ordered[first : first + most]
        package = package_id(settings.run.seed, "pixels", *shown)
        path = place_for(folder, package)
        written.append(path)
        if path.exists():
            continue
        samples = []
        for name in shown:
            source, index, row, col = places[name]
            image, grid = source.around(index, row, col)
            samples.append(
                Observed(
                    sample_id=names[name],
                    pixels=stored_numbers(image).numpy(),
                    bands=source.bands,
                    label=None,
                    prediction=None,
                    grid=grid,
                    tile=source.ids[index],
                    pixel=(row, col),
                )
            )
        publish(
            ReviewStore(settings.run.dir / STORE),
            path,
            samples,
            package_id=package,
            label="blind",
            round=0,
            classes=classes,
            target_classes=(),
            attribution=settings.data.attribution,
            provenance={},
        )
    return written


def _places(
    settings: Settings, ids: Sequence[str]
) -> dict[str, tuple[WindowSource, int, int, int]]:
    """Return the source, tile, row and column of each pixel."""
    wanted = {name: name.rsplit("/", 2) for name in ids}
    tiles: dict[str, tuple[WindowSource, int]] = {}
    for split in cast("tuple[Split, ...]", settings.batch.splits or ("test",)):
        source = open_masks(settings.data, split)
        tiles |= {own: (source, index) for index, own in enumerate(source.ids)}
    lost = [tile for tile, _, _ in wanted.values() if tile not in tiles]
    if lost:
        raise DataError(
            f"{len(lost)} drawn pixels are of tiles that the data lack, such as {lost[0]}",
            remedy="set data and batch.splits as when the table was written",
        )
    return {name: (*tiles[tile], int(row), int(col)) for name, (tile, row, col) in wanted.items()}
