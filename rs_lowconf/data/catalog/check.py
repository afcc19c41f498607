"""Checks the tiles of a catalog for wrong offsets, band order and nodata.

Statistics cannot prove an error; each finding states its certainty.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.catalog.reading import read_row
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.data.mixtures import Finding
from rs_lowconf.data.orders import fitting_order, said_of
from rs_lowconf.data.radiometry import BandRange
from rs_lowconf.data.tally import Tally
from rs_lowconf.data.tiles import TileError
from rs_lowconf.percents import percent

#: Shares of tiles that another order has to fit better to be reported, and to be nearly certain.
_PROBABLE, _CERTAIN = 0.5, 0.9
_FEWEST = 10
#: The same number in every band of this many pixels of a tile is not ground.
_FILL_SHARE = 0.005


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """Findings about the tiles whose digital numbers have one meaning."""

    collection: str
    bands: BandSpec
    tiles: int
    """Number of tiles in the catalog."""
    read: int
    """Number of tiles read for the check."""
    ranges: dict[str, BandRange]
    """Reflectance by band, nodata pixels not counted."""
    findings: tuple[Finding, ...]
    """Errors first."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {
            **asdict(self),
            "bands": self.bands.to_json(),
            "findings": [finding.to_json("tiles") for finding in self.findings],
        }


@dataclass(frozen=True, kw_only=True)
class CatalogReport:
    """What `rslow catalog check` shows and saves."""

    catalog: Path
    collections: tuple[CollectionReport, ...]
    findings: tuple[Finding, ...]
    """Those about all collections together."""
    meanings: Mapping[str, int]
    """Number of tiles by what their digital numbers mean and the source of this; not saved."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {
            "catalog": str(self.catalog),
            "collections": [report.to_json() for report in self.collections],
            "findings": [finding.to_json("tiles") for finding in self.findings],
        }


_MEANING = ("collection", "rslow:bands", "processing:level", "rslow:scale", "rslow:dn_offset")

Group = tuple[str, BandSpec]
"""Collection and meaning of the digital numbers; tiles of a group share their errors."""


class _Collection:
    """Adds up the tiles of one group."""

    def __init__(self, group: Group, tiles: int) -> None:
        self._collection, self._bands = group
        self._tiles = tiles
        self._tally = Tally()
        self._read = 0
        self._orders: Counter[tuple[str, ...]] = Counter()

    def read(self, row: CatalogRow) -> None:
        """Read a tile and count it."""
        self._read += 1
        try:
            content = read_row(row)
        except TileError as error:
            self._tally.note("error", error.kind, row.tile_id)
            return
        valid = content.pixels[:, ~content.nodata]
        if valid.shape[1] == 0:
            self._tally.note("warning", "nodata everywhere", row.tile_id)
            return
        file = Path(row.files[0].href).name
        for band in self._tally.add(row.bands, valid, file=file, picture=content.bits == 8):
            self._tally.note("warning", f"{band} is constant over the whole tile", row.tile_id)
        numbers = valid.numpy().astype(np.float64) + row.bands.dn_offset
        self._orders[fitting_order(row.bands.names, np.median(numbers, axis=1))] += 1
        same = (valid == valid[0]).all(dim=0)
        if len(valid) > 1 and float(same.float().mean()) > _FILL_SHARE:
            value = float(valid[0][same].mode().values)
            text = (
                f"pixels hold {value:g} in every band, which is nearly certainly nodata but not "
                "declared as such"
            )
            self._tally.note("warning", text, row.tile_id)

    def report(self) -> CollectionReport:
        """Return what has been found so far."""
        return CollectionReport(
            collection=self._collection,
            bands=self._bands,
            tiles=self._tiles,
            read=self._read,
            ranges=self._tally.ranges,
            findings=(
                *self._tally.noted("error"),
                *self._tally.implausible(),
                *self._order(),
                *self._tally.mixtures(),
                *self._tally.noted("warning"),
            ),
        )

    def _order(self) -> Iterator[Finding]:
        counted = sum(self._orders.values())
        if counted < _FEWEST:
            return
        order, count = self._orders.most_common(1)[0]
        share = count / counted
        if order != self._bands.names and share > _PROBABLE:
            sure = "nearly certainly" if share >= _CERTAIN else "probably"
            yield Finding(
                severity="warning",
                text=f"the band order is {sure} {said_of(order)} ({' '.join(order)}): it makes "
                f"the spectra of {percent(share, 0)} of {counted:,} tiles smoothest; correct "
                "data.file_bands and build the catalog again",
            )


def groups_of(catalog: Catalog) -> dict[Group, int]:
    """Return the number of tiles by collection and meaning."""
    counts: Counter[Group] = Counter()
    for table in catalog.tables(_MEANING):
        counts.update(_keys(table))
    return dict(counts)


def check_tiles(
    catalog: Catalog, groups: Mapping[Group, int], most: int
) -> Generator[int, None, CatalogReport]:
    """Read some tiles of each group, yield 1 after each, and return what was found.

    Args:
        catalog: of the tiles.
        groups: as `groups_of` returns them.
        most: tiles to read of each group.
    """
    found = {group: _Collection(group, tiles) for group, tiles in groups.items()}
    for row in sampled(catalog, groups, most):
        found[row.collection, row.bands].read(row)
        yield 1
    return CatalogReport(
        catalog=catalog.path,
        collections=tuple(collection.report() for collection in found.values()),
        findings=tuple(same_pixels(catalog)),
        meanings=_meanings_in(catalog),
    )


def _meanings_in(catalog: Catalog) -> dict[str, int]:
    """Return the number of tiles by the meaning of their digital numbers and its source."""
    counts: Counter[str] = Counter()
    for table in catalog.tables(("rslow:said",)):
        counts.update(filter(None, table["rslow:said"].to_pylist()))
    return dict(counts.most_common())


def sampled(catalog: Catalog, groups: Mapping[Group, int], most: int) -> Iterator[CatalogRow]:
    """Yield at most `most` tiles of each group, spread evenly over the catalog."""
    taken: Counter[Group] = Counter()
    passed: Counter[Group] = Counter()
    for table in catalog.tables():
        keys = _keys(table)
        chosen = []
        for index, key in enumerate(keys):
            in_group = groups[key]
            passed[key] += 1
            if taken[key] < passed[key] * min(most, in_group) // in_group:
                taken[key] += 1
                chosen.append(index)
        yield from from_table(table.take(pa.array(chosen, pa.int64())))


def same_pixels(catalog: Catalog) -> Iterator[Finding]:
    """Find tiles that are in the catalog more than once, most of all in two splits."""
    seen: dict[str, tuple[str, str | None]] = {}
    twice: list[str] = []
    leaks: list[str] = []
    for table in catalog.tables(["id", "rslow:sha256", "rslow:split"]):
        for tile_id, digest, split in zip(
            *(table[name].to_pylist() for name in table.column_names), strict=True
        ):
            if digest not in seen:
                seen[digest] = (tile_id, split)
                continue
            other, others_split = seen[digest]
            text = f"{tile_id} = {other}"
            (twice if split == others_split else leaks).append(text)
    if leaks:
        text = "the same pixels are in two splits, which inflates scores"
        yield Finding(severity="warning", text=text, names=tuple(leaks))
    if twice:
        text = "the same pixels are catalogued more than once"
        yield Finding(severity="warning", text=text, names=tuple(twice))


def _keys(table: pa.Table) -> list[Group]:
    known: dict[tuple[Any, ...], Group] = {}
    keys = []
    for name, bands, level, scale, offset in zip(
        *(table[column].to_pylist() for column in _MEANING), strict=True
    ):
        plain = (name, tuple(bands), level, scale, offset)
        if plain not in known:
            spec = BandSpec(names=plain[1], level=level, scale=scale, dn_offset=offset)
            known[plain] = (name, spec)
        keys.append(known[plain])
    return keys
