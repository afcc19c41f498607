"""The job `score`: the target's confidence in every tile of a catalog."""

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from rs_lowconf.batch.jobs import TargetOf, answer_in_batches
from rs_lowconf.batch.work import Call
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.errors import DataError
from rs_lowconf.search.reading import Reading
from rs_lowconf.types import TargetModel

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("predicted", pa.string()),
        ("second", pa.string()),
        ("confidence", pa.float64()),
        ("log_odds", pa.float64()),
        ("probabilities", pa.list_(pa.float32())),
        ("label", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoreWork:
    """What the target says of tiles."""

    target: TargetOf
    pixel_share: float
    """See `search.pixel_share`."""
    micro_batch: int
    target_key: str
    """`TargetOf.key`, once: files are not read again for every chunk."""

    @property
    def key(self) -> str:
        """All that scores depend on beside the tiles."""
        return f"score 1 {self.target_key} {self.pixel_share} {self.micro_batch}"

    @property
    def schema(self) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def open(self) -> Call:
        """Load the target when the first tiles tell their size."""
        reading = Reading(share=self.pixel_share)
        loaded: dict[int, TargetModel] = {}

        def score(table: pa.Table) -> pa.Table:
            rows = from_table(table)
            by_size: dict[int, list[CatalogRow]] = {}
            for row in rows:
                by_size.setdefault(row.window[2], []).append(row)
            done = []
            for side, own in by_size.items():
                if side not in loaded:
                    loaded[side] = self.target.load(side)
                done.append(_score(own, loaded[side], reading, self.micro_batch))
            return pa.concat_tables(done)

        return score


def _score(
    rows: list[CatalogRow], target: TargetModel, reading: Reading, micro_batch: int
) -> pa.Table:
    """Return the scores of tiles of one size; of bad tiles, why they have none."""
    images, good, errors = [], [], []
    for row in rows:
        try:
            images.append(_image(row, target))
            good.append(row)
        except DataError as error:
            errors.append({"id": row.tile_id, "error": str(error)})
    scores = []
    if good:
        answer = answer_in_batches(target, torch.stack(images), reading, micro_batch)
        first, second = answer.log_probability.topk(2).indices.T.tolist()
        scores = [
            {
                "id": row.tile_id,
                "predicted": target.classes[a],
                "second": target.classes[b],
                "confidence": float(confidence),
                "log_odds": float(odds),
                "probabilities": probabilities,
                "label": row.label,
            }
            for row, a, b, confidence, odds, probabilities in zip(
                good,
                first,
                second,
                answer.confidence,
                answer.log_odds,
                answer.log_probability.exp().tolist(),
                strict=True,
            )
        ]
    schema = SCHEMA.append(pa.field("error", pa.string()))
    return pa.Table.from_pylist([*scores, *errors], schema=schema)


def _image(row: CatalogRow, target: TargetModel) -> Tensor:
    if row.bands.level != target.bands.level:
        raise DataError(
            f"its numbers are {row.bands.level}",
            expected=f"{target.bands.level}, which the target was made for",
        )
    return reflectance(row, read_row(row), target.bands)
