"""Settings of catalogs and of the jobs that work on them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rs_lowconf.settings.section import Section


class CatalogSettings(Section):
    """The catalog of tiles for batch jobs."""

    path: Path | None = None
    """The GeoParquet file; default is run.dir/catalog.parquet."""
    collection: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of these tiles in `rslow catalog build`; prefix of their ids. Default is the name of the
    source: of the collection of a STAC item, else of the folder or file of the data."""
    sample: PositiveInt = 1_000
    """Tiles of each collection that `rslow catalog check` reads, evenly spread."""


class BatchSettings(Section):
    """Jobs over a catalog: on which tiles, and how they run."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Process only tiles of these splits, such as val and test; default is all."""
    collections: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Process only tiles of these collections; default is all."""

    executor: Literal["serial", "process", "dask"] = "process"
    """`serial`: one process; `process`: several on this machine; `dask`: a cluster on this machine,
    or the one of --scheduler."""
    workers: NonNegativeInt = 0
    """Processes on this machine; 0 is one per core."""
    chunk: PositiveInt | None = None
    """Tiles that are processed and stored together, on average; default is 256 to score and 16 to
    generate, which takes seconds per tile."""
    seconds: PositiveFloat | None = 1_200.0
    """Time limit of a chunk, after which its process is killed and the hanging tile is searched
    for; null: no limit."""
    per_class: PositiveInt | None = None
    """Generate and review: most tiles of one class, by label or else, in reviews, by prediction;
    null: no limit."""
    per_region: PositiveInt | None = None
    """Generate and review: most tiles of one region; null: no limit."""
    region_degrees: PositiveFloat = 1.0
    """Regions are cells of longitude and latitude with this side in degrees."""
    regions: Path | None = None
    """A vector file of polygons with a column `name` to use as regions instead; tiles outside form
    one more region."""
