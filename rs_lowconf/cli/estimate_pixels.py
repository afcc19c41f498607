"""`rslow estimate pixels`: what a target says of every pixel of tiles with masks, as a table."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate_pool import estimate_app
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import progress
from rs_lowconf.errors import DataError, ModelError, SettingsError, by_reason
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_list, join

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float

    from rs_lowconf.data.files import Split
    from rs_lowconf.data.masks import WindowSource
    from rs_lowconf.types import TargetModel, TileBatch

_TILES = 32
"""Asked at once, and rows of a Parquet row group."""

OutOption = Annotated[
    Path | None,
    typer.Option(help="The table to write; run.dir/estimate/pixels.parquet when missing."),
]


@estimate_app.command()
def pixels(
    config: ConfigOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Write a table of scores of all pixels of scenes or chips, a pool for estimates by pixel.

    Tiles are those of batch.splits, of the test split when missing. A row a pixel: what the
    target says, the mask's class as label where it is known, its tile as group, where it lies,
    and its reflectance as features. The other commands read it by estimate.scores.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.asking import require_most
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.device import choose_device
    from rs_lowconf.places import model_path
    from rs_lowconf.target.load import load_target

    if not settings.data.masked:
        raise SettingsError(
            f"data.kind={settings.data.kind} has a class a tile",
            expected="scenes or chips",
        )
    path = out or settings.run.dir / "estimate" / "pixels.parquet"
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
    sources = [open_masks(settings.data, split) for split in splits]
    meeting = join(
        class_list("the masks", sources[0].classes, error=ModelError),
        class_list("the target", target.classes, error=ModelError),
        error=ModelError,
    ).meeting(ModelError)
    if meeting.remark:
        print(meeting.remark)
    total, done, rows = sum(len(source) for source in sources), 0, 0
    unanswered = Counter[str]()
    with progress("asking about pixels", total) as bar, parquet_pieces(path) as write:
        for source in sources:
            for batch in _batches(source):
                table, without = pixel_scores(target, batch)
                write(table)
                done, rows = done + len(batch.ids), rows + len(table)
                unanswered.update(without)
                require_most(unanswered, done)
                bar.update(done)
    print(f"{rows:,} pixels of {total:,} tiles ({', '.join(splits)}): {path}")
    if unanswered:
        print(f"Tiles left out, as the target has no answer to them: {by_reason(unanswered)}.")
    hint("Then", "estimate plan", set_=(f"estimate.scores={path}",))


@contextmanager
def parquet_pieces(path: Path) -> "Iterator[Callable[[pa.Table], None]]":
    """Yield what writes tables of one schema one after another; the file appears whole.

    Raises:
        OutputError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    from rs_lowconf.runs import replacing

    writer: pq.ParquetWriter | None = None

    def write(table: "pa.Table") -> None:
        nonlocal writer
        writer = writer or pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table)

    with replacing(path) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()


def pixel_scores(target: "TargetModel", batch: "TileBatch") -> "tuple[pa.Table, Mapping[str, int]]":
    """Return a row for each pixel of tiles with masks.

    Pixels of tiles without an answer of the target have none: the number of these tiles by
    reason.

    Raises:
        ModelError: bands or processing level do not fit.
    """
    import numpy as np
    import pyarrow as pa
    import torch

    from rs_lowconf.asking import ask
    from rs_lowconf.masks import UNKNOWN
    from rs_lowconf.target.load import check_fit

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


def _joined(parts: "list[Float[np.ndarray, ' p']]") -> "Float[np.ndarray, ' n']":
    import numpy as np

    return np.concatenate([np.empty(0), *parts])


def _batches(source: "WindowSource") -> "Iterator[TileBatch]":
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
    from rs_lowconf.review.geotiff import to_digital_numbers
    from rs_lowconf.review.ids import package_id, sample_ids
    from rs_lowconf.review.package import place_for
    from rs_lowconf.review.publish import publish
    from rs_lowconf.review.samples import Observed
    from rs_lowconf.review.store import STORE, ReviewStore

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
                    pixels=to_digital_numbers(image.numpy()),
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
) -> "dict[str, tuple[WindowSource, int, int, int]]":
    """Return the source, tile, row and column of each pixel."""
    from rs_lowconf.data.masks import open_masks

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
