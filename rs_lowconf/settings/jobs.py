"""Settings of catalogs and of the jobs that work on them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rs_lowconf.settings.section import Section


class CatalogSettings(Section):
    """The catalog of tiles that jobs work on."""

    path: Path | None = None
    """The GeoParquet file; run.dir/catalog.parquet when missing."""
    collection: str = Field(default="tiles", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What `rslow catalog build` calls these tiles: their ids begin with it."""
    sample: PositiveInt = 1_000
    """Tiles of each collection that `rslow catalog check` reads, evenly spread."""


class BatchSettings(Section):
    """Jobs over a catalog: on which tiles, and how they are worked on."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Work on tiles of these splits alone, such as val and test; on all when missing."""
    collections: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Work on tiles of these collections alone."""

    executor: Literal["serial", "process", "dask"] = "process"
    """`serial`: one process; `process`: several of this machine; `dask`: a cluster on this
    machine, or the one that --scheduler names."""
    workers: NonNegativeInt = 0
    """Processes of this machine; 0 is one a core."""
    chunk: PositiveInt | None = None
    """Tiles that are worked on and stored at once, on average; when missing 256 to score and 16
    to generate, which takes seconds a tile."""
    seconds: PositiveFloat | None = 1_200.0
    """Time limit of a chunk, after which its process is killed and the tile that hangs is looked
    for; null sets none."""
    per_class: PositiveInt | None = None
    """Generate and review: most tiles of one class that are chosen, by label or else, in reviews,
    by prediction; null sets no limit."""
    per_region: PositiveInt | None = None
    """Generate and review: most tiles of one region that are chosen; null sets no limit."""
    region_degrees: PositiveFloat = 1.0
    """Side of the cells of longitude and latitude that are regions."""
    regions: Path | None = None
    """A vector file of polygons with a column `name`, which are the regions instead; what lies in
    none of them is one more."""
