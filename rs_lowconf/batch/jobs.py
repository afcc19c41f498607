"""What concrete jobs share: the rows of a catalog that they read, and how tiles are scored."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.reading import Answer, Reading
from rs_lowconf.settings import TargetSettings
from rs_lowconf.target.load import load_target
from rs_lowconf.target.origin import model_file
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
    device: str
    """As torch names it."""

    @property
    def key(self) -> str:
        """What tells it from other targets: its settings and the checksum of its file."""
        file = model_file(self.settings, self.trained)
        return f"{self.settings.model_dump_json()} {None if file is None else sha256_of(file)}"

    def load(self, tile_size: int) -> TargetModel:
        """Load it for tiles of a size."""
        torch.set_flush_denormal(True)
        return load_target(
            self.settings,
            self.trained,
            trust_code=self.trust_code,
            tile_size=tile_size,
            device=torch.device(self.device),
        )


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
        full = torch.zeros(micro_batch, *images.shape[1:])
        full[: len(some)] = some
        with torch.no_grad():
            told = target.predict(full)[: len(some)].cpu()
        answers.append(reading(told, torch.zeros(len(some), dtype=torch.long)))
    return Answer(
        log_probability=torch.cat([one.log_probability for one in answers]),
        confidence=torch.cat([one.confidence for one in answers]),
        log_odds=torch.cat([one.log_odds for one in answers]),
    )
