"""What concrete jobs are told: the rows of a catalog that they read, and a target.

No torch is imported before a target is loaded: who drives a job does not need it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.runs import classes_of, sha256_of
from rs_lowconf.settings import Device, RunSettings, TargetSettings
from rs_lowconf.target.origin import model_file

if TYPE_CHECKING:
    from rs_lowconf.types import TargetModel

#: What tells a tile's pixels and meaning; another value of these does the tile again.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogRows:
    """Rows of a catalog with the columns that jobs read."""

    catalog: Catalog
    chosen: NDArray[np.int64] | None = None
    """Numbers of the rows, rising; None for all."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many rows of the catalog are not among them, by reason."""

    def __len__(self) -> int:
        """Return their number."""
        return len(self.catalog) if self.chosen is None else len(self.chosen)

    def tables(self) -> Iterator[pa.Table]:
        """Yield them in order."""
        first = 0
        for table in self.catalog.tables(COLUMNS):
            if self.chosen is None:
                yield table
                continue
            low, high = np.searchsorted(self.chosen, (first, first + len(table)))
            if low < high:
                yield table.take(pa.array(self.chosen[low:high] - first))
            first += len(table)


@dataclass(frozen=True, kw_only=True)
class TargetOf:
    """A target that can be loaded in another process."""

    settings: TargetSettings
    trained: Path
    """The checkpoint of a target of kind `embedded` or `trained`."""
    trust_code: bool
    device: Device
    """As `run.device`: each worker chooses what it has. Not part of `key`."""

    @property
    def key(self) -> str:
        """What tells it from other targets: its settings and the checksum of its file."""
        file = model_file(self.settings, self.trained)
        return f"{self.settings.model_dump_json()} {None if file is None else sha256_of(file)}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes, told without loading it; none where its file is missing or damaged."""
        return self.settings.classes or classes_of(self.trained)

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
