"""Scores tiles of a catalog with a target, in the workers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.asking import ask
from rs_lowconf.bands import BandSpec
from rs_lowconf.batch.jobs import PIXELWISE, TargetOf, TileKind, require_fitting
from rs_lowconf.batch.work import ERROR, Call
from rs_lowconf.batches import fixed_batches
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.errors import AnswerError, DataError, ModelError
from rs_lowconf.search.reading import Answer, Reading
from rs_lowconf.types import TargetModel

_Tile = tuple[CatalogRow, Float[Tensor, "c h w"]]


def scorer(
    target: TargetOf,
    kinds: Sequence[TileKind],
    *,
    pixel_share: float,
    micro_batch: int,
    schema: pa.Schema,
) -> Call:
    """Load a target and return the function that scores rows of a catalog with it.

    Args:
        target: to load.
        kinds: of all tiles; it has to load for one of them.
        pixel_share: see `search.pixel_share`.
        micro_batch: the fixed size of batches.
        schema: of the scores; a column for errors is added.

    Raises:
        RsLowconfError: it cannot be loaded, or cannot process any of the tiles.
    """
    reading, columns = Reading(share=pixel_share), schema.append(pa.field(ERROR, pa.string()))
    loaded: dict[int, TargetModel] = {}

    def misfit(kind: TileKind) -> DataError | ModelError | None:
        try:
            if kind.height not in loaded:
                loaded[kind.height] = target.load(kind.height)
            _try_out(loaded[kind.height], kind)
        except (DataError, ModelError) as error:
            # A target that cannot be loaded for one tile size may be loaded for another.
            return error
        return None

    require_fitting(kinds, misfit)

    def score(table: pa.Table) -> pa.Table:
        by_size: dict[int, list[CatalogRow]] = {}
        for row in from_table(table):
            by_size.setdefault(row.window[2], []).append(row)
        records = []
        for side, same_size in by_size.items():
            if side not in loaded:
                loaded[side] = target.load(side)
            try:
                records += _scores(same_size, loaded[side], reading, micro_batch)
            except ModelError:
                # Its process may have exited: the next tiles need a new one.
                del loaded[side]
                raise
        pixelwise = any(model.pixelwise for model in loaded.values())
        told = {PIXELWISE: json.dumps(pixelwise)}
        return pa.Table.from_pylist(records, schema=columns.with_metadata(told))

    return score


def _answer(
    tiles: Sequence[_Tile],
    target: TargetModel,
    reading: Reading,
    micro_batch: int,
    bad: list[dict[str, Any]],
) -> tuple[Sequence[_Tile], Answer | None]:
    """Return the tiles with an answer of the target, and its answers, independent of the batch.

    Records of the tiles without an answer go to `bad`.

    Args:
        tiles: at most `micro_batch`.
        target: the model.
        reading: how confidence is computed.
        micro_batch: the fixed size.
        bad: gets a record for each tile without an answer.
    """
    ((count, (images,)),) = fixed_batches(micro_batch, torch.stack([image for _, image in tiles]))
    with torch.no_grad():
        asked = ask(target.predict, images, count)
    bad += [{"id": tiles[i][0].tile_id, ERROR: str(why)} for i, why in asked.without.items()]
    if asked.log_probability is None:
        return [], None
    predicted = asked.log_probability[: len(asked.rows)].cpu()
    return [tiles[i] for i in asked.rows], reading(
        predicted, torch.zeros(len(predicted), dtype=torch.long)
    )


def _scores(
    rows: list[CatalogRow], target: TargetModel, reading: Reading, micro_batch: int
) -> list[dict[str, Any]]:
    """Return one record per tile, all of one size; for bad tiles, why they have no score."""
    records: list[dict[str, Any]] = []
    tiles = _tiles(rows, target, records)
    # As many tiles are read as are scored at once, so that they stay in the CPU cache.
    while some := list(islice(tiles, micro_batch)):
        answered, answer = _answer(some, target, reading, micro_batch, records)
        if answer is None:
            continue
        first, second = answer.log_probability.topk(2).indices.T.tolist()
        records += [
            {
                "id": row.tile_id,
                "predicted": target.classes[a],
                "second": target.classes[b],
                "confidence": confidence,
                "log_odds": odds,
                "probabilities": probabilities,
                "label": row.label,
            }
            for (row, _), a, b, confidence, odds, probabilities in zip(
                answered,
                first,
                second,
                answer.confidence.tolist(),
                answer.log_odds.tolist(),
                answer.log_probability.exp().tolist(),
                strict=True,
            )
        ]
    return records


def _tiles(
    rows: list[CatalogRow], target: TargetModel, bad: list[dict[str, Any]]
) -> Iterator[_Tile]:
    """Yield tiles in the target's bands; records of those that it cannot read go to `bad`."""
    for row in rows:
        try:
            image = _image(row, target)
        except DataError as error:
            bad.append({"id": row.tile_id, ERROR: str(error)})
        else:
            yield row, image


def _try_out(target: TargetModel, kind: TileKind) -> None:
    """Run the target on a synthetic tile of a kind.

    Raises:
        DataError: the tiles are of another level, or lack a band.
        ModelError: the target does not accept tiles of this size.
    """
    _require_level(kind.level, target)
    BandSpec(names=kind.bands, level=target.bands.level).index_of(target.bands.names)
    with torch.no_grad(), suppress(AnswerError):  # NaN concerns single tiles only
        target.predict(torch.full((1, len(target.bands), kind.height, kind.width), 0.1))


def _require_level(level: str, target: TargetModel) -> None:
    if level != target.bands.level:
        raise DataError(
            f"the tile is {level}",
            expected=f"{target.bands.level}, which the target was made for",
            remedy="use a catalog of such tiles, or correct data.level and build it again",
        )


def _image(row: CatalogRow, target: TargetModel) -> Float[Tensor, "c h w"]:
    _require_level(row.bands.level, target)
    return reflectance(row, read_row(row), target.bands)
