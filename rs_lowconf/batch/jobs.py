"""What concrete jobs are told: the rows of a catalog that they read, and a target.

No torch is imported before a target is loaded: who drives a job does not need it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rs_lowconf.batch.children import worker_number
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.runs import sha256_of
from rs_lowconf.settings import Device, TargetSettings
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


def rows_of(catalog: Catalog) -> pa.Table:
    """Return the rows of a catalog with the columns that jobs read."""
    return pa.concat_tables(list(catalog.tables(COLUMNS)))


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

    def load(self, tile_size: int) -> "TargetModel":
        """Load it for tiles of a size, onto the device of this worker.

        Raises:
            RsLowconfError: see `load_target` and `worker_device`.
        """
        from rs_lowconf.device import worker_device  # noqa: PLC0415 (imports torch)
        from rs_lowconf.target.load import load_target  # noqa: PLC0415 (imports torch)

        return load_target(
            self.settings,
            self.trained,
            trust_code=self.trust_code,
            tile_size=tile_size,
            device=worker_device(self.device, worker_number()),
        )
