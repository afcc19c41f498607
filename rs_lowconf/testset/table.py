"""labels.parquet: one row per tile, with all data on it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rs_lowconf.errors import DataError
from rs_lowconf.testset.release import LABELS, ReleaseTile

_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("tile", pa.string()),
        ("sha256", pa.string()),
        ("class_name", pa.string()),
        ("label", pa.int32()),
        ("condition", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float64()),
        ("round", pa.int32()),
        ("reviewers", pa.list_(pa.string())),
        ("reviewed", pa.timestamp("ms", tz="UTC")),
        ("realism", pa.int32()),
        ("provenance", pa.map_(pa.string(), pa.string())),
    ]
)


def tile_name(tile: ReleaseTile) -> str:
    """Return the path of a tile in the release."""
    return f"tiles/{tile.sample_id}.tif"


def reviewed(tile: ReleaseTile) -> datetime:
    """Return the time of the deciding review."""
    return datetime.fromtimestamp(tile.reviewed_ms / 1000, UTC)


def write_labels(folder: Path, tiles: Sequence[ReleaseTile], classes: Sequence[str]) -> None:
    """Write the table of a release."""
    rows = [
        {
            "sample_id": tile.sample_id,
            "tile": tile_name(tile),
            "sha256": tile.sha256,
            "class_name": tile.class_name,
            "label": classes.index(tile.class_name),
            "condition": tile.condition,
            "predicted": tile.predicted,
            "confidence": tile.confidence,
            "round": tile.round,
            "reviewers": list(tile.reviewers),
            "reviewed": tile.reviewed_ms,
            "realism": tile.realism,
            "provenance": sorted(tile.provenance.items()),
        }
        for tile in tiles
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), folder / LABELS)


def read_labels(folder: Path) -> tuple[ReleaseTile, ...]:
    """Return what `write_labels` wrote.

    Raises:
        DataError: the table is damaged or lacks a column.
    """
    path = folder / LABELS
    try:
        table = pq.read_table(path).cast(_SCHEMA)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())})",
            remedy="restore the release from a copy",
        ) from error
    times = table["reviewed"].cast(pa.int64()).to_pylist()
    return tuple(
        ReleaseTile(
            sample_id=row["sample_id"],
            path=folder / "tiles" / f"{row['sample_id']}.tif",
            sha256=row["sha256"],
            class_name=row["class_name"],
            condition=row["condition"],
            predicted=row["predicted"],
            confidence=row["confidence"],
            round=row["round"],
            reviewers=tuple(row["reviewers"]),
            reviewed_ms=time,
            realism=row["realism"],
            provenance=dict(row["provenance"]),
        )
        for row, time in zip(table.drop_columns(["reviewed"]).to_pylist(), times, strict=True)
    )
