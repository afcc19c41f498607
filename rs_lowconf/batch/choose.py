"""Chooses the tiles of a catalog for a job: by split and collection, within quotas."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from rs_lowconf.batch.jobs import CatalogRows
from rs_lowconf.batch.quotas import within_quotas
from rs_lowconf.data.catalog.rows import PLACE, centres
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import JobError, RsLowconfError, left_out_words
from rs_lowconf.settings import BatchSettings, SearchSettings
from rs_lowconf.vocabulary import Vocabulary, class_name, join, vocabulary

_READ = ("id", "collection", "rslow:split", "rslow:label", *PLACE)
_UNLABELLED = ""
_QUOTAS = "beyond batch.per_class or batch.per_region"
_ASKED = (("rslow:split", "split"), ("collection", "collection"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Narrowed:
    """Tiles of the requested splits and collections."""

    rows: Bool[np.ndarray, " n"]
    """True for these tiles."""
    left_out: Mapping[str, int]
    """Number of other tiles, by reason."""


def tau_of(confidence: Float64[np.ndarray, " n"], settings: SearchSettings) -> float:
    """Return the confidence below which a scored tile counts as unsure.

    Args:
        confidence: of all scored tiles; `search.tau_quantile` is one of theirs.
        settings: what is asked for.
    """
    if settings.tau_quantile is None or not len(confidence):
        return settings.tau
    return float(np.quantile(confidence, settings.tau_quantile))


def narrow(
    column: Callable[[str], Iterable[object]],
    count: int,
    settings: BatchSettings,
    *,
    error: type[RsLowconfError] = JobError,
) -> Narrowed:
    """Return which tiles belong to batch.splits and batch.collections.

    Args:
        column: returns the values of a column of the catalog.
        count: number of tiles.
        settings: what is asked for.
        error: class of the errors.

    Raises:
        error: a split or collection is spelled almost as in the tiles, or no tile is left.
    """
    keep: NDArray[np.bool_] = np.ones(count, dtype=np.bool_)
    left_out: Counter[str] = Counter()
    for name, what in _ASKED:
        wanted = getattr(settings, f"{what}s")
        if wanted is None:
            continue
        values = [class_name(value) for value in column(name)]
        names = tuple(value for value in dict.fromkeys(values) if value is not None)
        asked = vocabulary(f"batch.{what}s", wanted, error=error)
        join(asked, Vocabulary(origin=f"the {what}s of the tiles", names=names), error=error)
        fits = np.array([value in asked.names for value in values], dtype=np.bool_)
        left_out.update(
            f"without a {what}" if values[i] is None else f"of {what} {values[i]}"
            for i in np.flatnonzero(keep & ~fits)
        )
        keep &= fits
    if not keep.any():
        raise error(
            f"no tile is left of {count:,}{left_out_words(left_out, ': ')}",
            remedy="see batch.splits and batch.collections",
            command="catalog show",
        )
    return Narrowed(rows=keep, left_out=left_out)


def chosen_rows(catalog: Catalog, settings: BatchSettings, seed: int) -> CatalogRows:
    """Return the rows to work on, in the catalog's order.

    Quotas take tiles in a shuffled order that depends only on ids and seed, so tiles added to a
    catalog change few of the choices.

    Raises:
        JobError: see `narrow`.
    """
    asked = (settings.splits, settings.collections, settings.per_class, settings.per_region)
    if all(limit is None for limit in asked):
        return CatalogRows(catalog=catalog)
    table = pa.concat_tables(list(catalog.tables(_READ)))
    narrowed = narrow(lambda name: table[name].to_pylist(), len(table), settings)
    index, left_out = np.flatnonzero(narrowed.rows), dict(narrowed.left_out)
    if settings.per_class is not None or settings.per_region is not None:
        within = _within(table.take(pa.array(index)), index, settings, seed)
        if len(within) < len(index):
            left_out[_QUOTAS] = len(index) - len(within)
        index = within
    return CatalogRows(catalog=catalog, chosen=np.sort(index), left_out=left_out)


def selection(settings: BatchSettings, seed: int) -> str:
    """Return the settings that the choice depends on besides the catalog."""
    names = {"splits", "collections", "per_class", "per_region", "regions", "region_degrees"}
    return f"{settings.model_dump_json(include=names)} {seed}"


def _within(
    table: pa.Table, index: "np.ndarray", settings: BatchSettings, seed: int
) -> "np.ndarray":
    """Return those of `index`, the rows of `table`, that are within the quotas."""
    digests = [
        hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        for name in table["id"].to_pylist()
    ]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    lon, lat = centres(table)[order].T
    labels = [class_name(label) or _UNLABELLED for label in table["rslow:label"].to_pylist()]
    taken = within_quotas(
        [labels[i] for i in order],
        lon,
        lat,
        per_class=settings.per_class,
        per_region=settings.per_region,
        regions=settings.regions or settings.region_degrees,
    )
    return index[[order[i] for i in taken]]
