"""Inputs of the jobs: rows of a catalog, and a target.

No torch is imported before a target is loaded: the driver of a job does not need it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.runs import classes_of
from rs_lowconf.settings import Device, OwnTarget, RunSettings, TargetSettings
from rs_lowconf.target.origin import origin_of

if TYPE_CHECKING:
    from rs_lowconf.types import TargetModel

#: Columns that identify a tile's pixels and meaning; if one changes, the tile is done again.
COLUMNS = (
    "id",
    "collection",
    "datetime",
    "assets",
    "proj:code",
    "proj:transform",
    "processing:level",
    "rslow:bands",
    "rslow:scale",
    "rslow:dn_offset",
    "rslow:window",
    "rslow:valid",
    "rslow:sha256",
    "rslow:label",
    "rslow:masks",
    "rslow:mask_classes",
)

#: Metadata of scores: `true` if the target predicts a class per pixel, `false` if one per tile.
PIXELWISE = "rslow:pixelwise"


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogRows:
    """Rows of a catalog with the columns that jobs read."""

    catalog: Catalog
    chosen: NDArray[np.int64] | None = None
    """Numbers of the rows, ascending; None for all."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of other rows of the catalog, by reason."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.catalog) if self.chosen is None else len(self.chosen)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows in order."""
        first = 0
        for table in self.catalog.tables(COLUMNS):
            if self.chosen is None:
                yield table
                continue
            low, high = np.searchsorted(self.chosen, (first, first + len(table)))
            if low < high:
                yield table.take(pa.array(self.chosen[low:high] - first))
            first += len(table)

    def kinds(self) -> "tuple[TileKind, ...]":
        """Return the kinds of these tiles, the most frequent one first."""
        counts: Counter[tuple[Any, ...]] = Counter()
        for table in self.tables():
            window, masks = table["rslow:window"], table["rslow:masks"]
            columns = pa.table(
                {
                    "level": table["processing:level"],
                    "bands": pc.binary_join(table["rslow:bands"], " "),
                    "height": pc.list_element(window, 2),
                    "width": pc.list_element(window, 3),
                    "masked": pc.greater(pc.fill_null(pc.list_value_length(masks), 0), 0),
                }
            )
            names = columns.column_names
            for record in columns.group_by(names).aggregate([([], "count_all")]).to_pylist():
                counts[tuple(record[name] for name in names)] += record["count_all"]
        return tuple(
            TileKind(
                level=level,
                bands=tuple((bands or "").split()),
                height=height,
                width=width,
                masked=masked,
                count=count,
            )
            for (level, bands, height, width, masked), count in counts.most_common()
        )


def rows_of(catalog: Catalog, ids: Sequence[str]) -> list[CatalogRow]:
    """Return the rows of these tiles, in their order."""
    found: dict[str, CatalogRow] = {}
    for table in catalog.tables(COLUMNS):
        own = table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
        found |= {row.tile_id: row for row in from_table(own)}
    return [found[name] for name in ids]


@dataclass(frozen=True, kw_only=True)
class TileKind:
    """Properties of tiles that decide whether a model can process them."""

    level: str
    bands: tuple[str, ...]
    height: int
    width: int
    masked: bool
    """Whether they have masks."""
    count: int
    """Number of tiles of this kind."""


def kind_of_row(row: CatalogRow) -> TileKind:
    """Return the kind of a single tile."""
    return TileKind(
        level=row.bands.level,
        bands=row.bands.names,
        height=row.window[2],
        width=row.window[3],
        masked=bool(row.masks),
        count=1,
    )


def require_fitting(
    kinds: Sequence[TileKind], misfit: Callable[[TileKind], DataError | ModelError | None]
) -> None:
    """Require that a job does not fail at every tile for the same reason.

    Args:
        kinds: all the tiles.
        misfit: returns why tiles of a kind cannot be processed.

    Raises:
        DataError, ModelError: none can be processed.
    """
    reasons: dict[str, tuple[int, DataError | ModelError]] = {}
    for kind in kinds:
        error = misfit(kind)
        if error is None:
            return
        count, _ = reasons.get(str(error), (0, error))
        reasons[str(error)] = (count + kind.count, error)
    if reasons:
        most, error = max(reasons.values(), key=lambda found: found[0])
        others = sum(count for count, _ in reasons.values()) - most
        beside = f" ({others:,} tiles for other reasons)" if others else ""
        form = ModelError if isinstance(error, ModelError) else DataError
        raise form(f"no tile of the catalog can be processed{beside}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TargetOf:
    """A target that can be loaded in another process."""

    settings: TargetSettings
    trained: Path
    """The checkpoint of a target of kind `embedded` or `trained`."""
    trust_code: bool
    device: Device
    """As `run.device`: each worker chooses for itself. Not part of `key`."""

    @property
    def key(self) -> str:
        """Identity of the target: what its answers depend on, and the checksum of its file."""
        return f"{self.settings.answers} {origin_of(self.settings, self.trained).sha256}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes, read without loading it; empty if its file is missing or damaged."""
        settings = self.settings
        if isinstance(settings, OwnTarget):
            return classes_of(self.trained)
        return settings.classes

    def load(self, tile_size: int) -> "TargetModel":
        """Load it for tiles of a size, onto the device of this worker.

        Raises:
            RsLowconfError: see `load_target` and `choose_device`.
        """
        from rs_lowconf.device import choose_device  # noqa: PLC0415 (imports torch)
        from rs_lowconf.target.load import load_target  # noqa: PLC0415 (imports torch)

        return load_target(
            self.settings,
            self.trained,
            trust_code=self.trust_code,
            tile_size=tile_size,
            device=choose_device(RunSettings(device=self.device)),
        )
