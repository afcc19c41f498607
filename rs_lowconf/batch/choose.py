"""Which tiles of a catalog a job works on: of splits and collections, within quotas."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rs_lowconf.batch.jobs import CatalogRows
from rs_lowconf.batch.quotas import within_quotas
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import JobError
from rs_lowconf.settings import BatchSettings

_READ = ("id", "collection", "rslow:split", "rslow:label", "geometry")
_UNLABELLED = ""


def chosen_rows(catalog: Catalog, settings: BatchSettings, seed: int) -> CatalogRows:
    """Return the rows to work on, in the catalog's order.

    Where quotas choose, they choose by a shuffled order that depends on ids and seed alone, so
    tiles that are added to a catalog change few of those chosen.

    Raises:
        JobError: no tile is left.
    """
    asked = (settings.splits, settings.collections, settings.per_class, settings.per_region)
    if all(own is None for own in asked):
        return CatalogRows(catalog=catalog)
    told = pa.concat_tables(list(catalog.tables(_READ)))
    keep = np.ones(len(told), dtype=np.bool_)
    for column, wanted in (
        ("rslow:split", settings.splits),
        ("collection", settings.collections),
    ):
        if wanted is not None:
            among = pc.is_in(told[column], value_set=pa.array(wanted, pa.string()))
            keep &= among.to_numpy(zero_copy_only=False).astype(np.bool_)
    index = np.flatnonzero(keep)
    if settings.per_class is not None or settings.per_region is not None:
        index = _within(told.take(pa.array(index)), index, settings, seed)
    if not len(index):
        raise JobError(
            f"no tile of {catalog.path} is left to work on",
            remedy="see batch.splits and batch.collections",
            command="catalog show",
        )
    return CatalogRows(catalog=catalog, chosen=np.sort(index))


def selection(settings: BatchSettings, seed: int) -> str:
    """Return what the choice depends on beside the catalog."""
    names = {"splits", "collections", "per_class", "per_region", "regions", "region_degrees"}
    return f"{settings.model_dump_json(include=names)} {seed}"


def _within(
    told: pa.Table, index: "np.ndarray", settings: BatchSettings, seed: int
) -> "np.ndarray":
    """Return those of `index`, the rows of `told`, that fit into the quotas."""
    digests = [
        hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        for name in told["id"].to_pylist()
    ]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    centre = shapely.centroid(shapely.from_wkb(told["geometry"].to_numpy(zero_copy_only=False)))[
        order
    ]
    labels = told["rslow:label"].to_pylist()
    taken = within_quotas(
        [labels[i] or _UNLABELLED for i in order],
        shapely.get_x(centre),
        shapely.get_y(centre),
        per_class=settings.per_class,
        per_region=settings.per_region,
        regions=settings.regions or settings.region_degrees,
    )
    return index[[order[i] for i in taken]]
