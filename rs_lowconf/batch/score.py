"""The job `score`: the target's confidence in every tile of a catalog."""

from dataclasses import dataclass

import pyarrow as pa

from rs_lowconf.batch.jobs import TargetOf, TileKind
from rs_lowconf.batch.work import Call

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
    """The target's predictions for tiles."""

    target: TargetOf
    pixel_share: float
    """See `search.pixel_share`."""
    micro_batch: int
    target_key: str
    """`TargetOf.key`, once: files are not read again for every chunk."""
    kinds: tuple[TileKind, ...]
    """Kinds of all tiles: at the start the target is loaded for a kind that it can process, and for
    tiles of other sizes when they occur. Scores do not depend on it."""

    @property
    def key(self) -> str:
        """All that scores depend on besides the tiles."""
        return f"score 1 {self.target_key} {self.pixel_share} {self.micro_batch}"

    @property
    def schema(self) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def open(self) -> Call:
        """Load the target and return the function that scores rows; see `scoring.py`.

        Raises:
            RsLowconfError: the target cannot be loaded, or cannot process any of the tiles.
        """
        from rs_lowconf.batch.scoring import scorer  # noqa: PLC0415 (imports torch)

        return scorer(
            self.target,
            self.kinds,
            pixel_share=self.pixel_share,
            micro_batch=self.micro_batch,
            schema=SCHEMA,
        )
