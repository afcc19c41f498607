"""labels.parquet: one row per tile, with all data on it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rs_lowconf.errors import DataError
from rs_lowconf.testset.release import LABELS, ReleaseMask, ReleaseTile

_TILE = [("sample_id", pa.string()), ("tile", pa.string()), ("sha256", pa.string())]
_CLASS = [("class_name", pa.string()), ("label", pa.int32())]
_MASK = [
    ("mask", pa.string()),
    ("mask_sha256", pa.string()),
    ("mask_classes", pa.list_(pa.string())),
]


def _schema(*, masks: bool) -> pa.Schema:
    """Return the columns of a release whose labels are masks, or classes of tiles."""
    columns = [
        *_TILE,
        *(_MASK if masks else _CLASS),
        ("condition", pa.string()),
        *([] if masks else [("predicted", pa.string())]),
        ("confidence", pa.float64()),
        ("round", pa.int32()),
        ("reviewers", pa.list_(pa.string())),
        ("reviewed", pa.timestamp("ms", tz="UTC")),
        ("realism", pa.int32()),
        ("provenance", pa.map_(pa.string(), pa.string())),
    ]
    return pa.schema(columns)


def tile_name(tile: ReleaseTile) -> str:
    """Return the path of a tile in the release."""
    return f"tiles/{tile.sample_id}.tif"


def mask_name(tile: ReleaseTile) -> str:
    """Return the path of a tile's mask in the release."""
    return f"masks/{tile.sample_id}.tif"


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
            **_label(tile, classes),
            "condition": tile.condition,
            "confidence": tile.confidence,
            "round": tile.round,
            "reviewers": list(tile.reviewers),
            "reviewed": tile.reviewed_ms,
            "realism": tile.realism,
            "provenance": sorted(tile.provenance.items()),
        }
        for tile in tiles
    ]
    schema = _schema(masks=tiles[0].mask is not None)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / LABELS)


def _label(tile: ReleaseTile, classes: Sequence[str]) -> dict[str, Any]:
    """Return what the table tells of a tile's label, and of the target's answer to the tile."""
    if tile.mask is not None:
        return {
            "mask": mask_name(tile),
            "mask_sha256": tile.mask.sha256,
            "mask_classes": list(tile.mask.classes),
        }
    return {
        "class_name": tile.class_name,
        "label": classes.index(str(tile.class_name)),
        "predicted": tile.predicted,
    }


def read_labels(folder: Path) -> tuple[ReleaseTile, ...]:
    """Return what `write_labels` wrote.

    Raises:
        DataError: the table is damaged or lacks a column.
    """
    path = folder / LABELS
    try:
        table = pq.read_table(path)
        table = table.cast(_schema(masks="mask" in table.column_names))
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
            class_name=row.get("class_name"),
            condition=row["condition"],
            predicted=row.get("predicted"),
            confidence=row["confidence"],
            round=row["round"],
            reviewers=tuple(row["reviewers"]),
            reviewed_ms=time,
            realism=row["realism"],
            mask=_mask(folder, row),
            provenance=dict(row["provenance"]),
        )
        for row, time in zip(table.drop_columns(["reviewed"]).to_pylist(), times, strict=True)
    )


def _mask(folder: Path, row: dict[str, Any]) -> ReleaseMask | None:
    if "mask" not in row:
        return None
    return ReleaseMask(
        path=folder / "masks" / f"{row['sample_id']}.tif",
        sha256=row["mask_sha256"],
        classes=tuple(row["mask_classes"]),
    )
