"""How workers ask a target about the tiles of a catalog."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.batch.score import SCHEMA, ScoreWork
from rs_lowconf.batch.work import ERROR, Call
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.search.reading import Answer, Reading
from rs_lowconf.types import TargetModel

_COLUMNS = SCHEMA.append(pa.field(ERROR, pa.string()))


def scorer(work: ScoreWork) -> Call:
    """Load the target of a work and return the function that asks it about rows of a catalog.

    Raises:
        RsLowconfError: it cannot be loaded.
    """
    reading = Reading(share=work.pixel_share)
    loaded = {work.side: work.target.load(work.side)}

    def score(table: pa.Table) -> pa.Table:
        by_size: dict[int, list[CatalogRow]] = {}
        for row in from_table(table):
            by_size.setdefault(row.window[2], []).append(row)
        records = []
        for side, own in by_size.items():
            if side not in loaded:
                loaded[side] = work.target.load(side)
            try:
                records += _scores(own, loaded[side], reading, work.micro_batch)
            except ModelError:
                # Its process may have ended: the next tiles need a new one.
                del loaded[side]
                raise
        return pa.Table.from_pylist(records, schema=_COLUMNS)

    return score


def answer_in_batches(
    target: TargetModel, images: Float[Tensor, "n c h w"], reading: Reading, micro_batch: int
) -> Answer:
    """Return a target's answer to tiles, the same for a tile in whatever company.

    Kernels depend on the batch's shape: it is fixed, and what is lacking is filled with zeros.

    Args:
        target: the model.
        images: reflectance in the order of the target's bands, on the CPU.
        reading: what counts as confidence.
        micro_batch: the fixed size.
    """
    answers = []
    for start in range(0, len(images), micro_batch):
        some = images[start : start + micro_batch]
        lacking = torch.zeros(micro_batch - len(some), *images.shape[1:])
        with torch.no_grad():
            told = target.predict(torch.cat([some, lacking]) if len(lacking) else some)[
                : len(some)
            ].cpu()
        answers.append(reading(told, torch.zeros(len(some), dtype=torch.long)))
    return Answer(
        log_probability=torch.cat([one.log_probability for one in answers]),
        confidence=torch.cat([one.confidence for one in answers]),
        log_odds=torch.cat([one.log_odds for one in answers]),
    )


def _scores(
    rows: list[CatalogRow], target: TargetModel, reading: Reading, micro_batch: int
) -> list[dict[str, Any]]:
    """Return a record for each tile, all of one size; of bad tiles, why they have no score."""
    records: list[dict[str, Any]] = []
    tiles = _tiles(rows, target, records)
    # Read as many as are scored at once, which stay in the processor's memory between the two.
    while some := list(islice(tiles, micro_batch)):
        images = torch.stack([image for _, image in some])
        answer = answer_in_batches(target, images, reading, micro_batch)
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
                some,
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
) -> Iterator[tuple[CatalogRow, Float[Tensor, "c h w"]]]:
    """Yield tiles as the target reads them; records of those that it cannot read go to `bad`."""
    for row in rows:
        try:
            image = _image(row, target)
        except DataError as error:
            bad.append({"id": row.tile_id, ERROR: str(error)})
        else:
            yield row, image


def _image(row: CatalogRow, target: TargetModel) -> Float[Tensor, "c h w"]:
    if row.bands.level != target.bands.level:
        raise DataError(
            f"its numbers are {row.bands.level}",
            expected=f"{target.bands.level}, which the target was made for",
        )
    return reflectance(row, read_row(row), target.bands)
