"""How the rows of a job are cut into chunks, and what names them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import pyarrow as pa

from rs_lowconf.batch.work import ID, Work

FORMAT: Final = 1
"""Of a job folder. Part of every chunk's name, so that another format does all again."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive rows that are worked on and stored together."""

    name: str
    """32 hexadecimal digits: a hash of its rows, the work's key and its schema."""

    start: int
    """Its first row, from 0."""

    length: int
    """Number of its rows, at least 1."""


def plan(rows: pa.Table, work: Work, chunk_rows: int) -> list[Chunk]:
    """Cut `rows` into chunks of about `chunk_rows` rows, from half to twice as many.

    The cuts depend on the ids around them and not on positions: rows that come or go change
    the chunks they are in and, at most, a few after, while the others keep their names.
    """
    ends = _ends(rows[ID].to_pylist(), chunk_rows)
    starts = [0, *ends[:-1]]
    plain = _without_dictionaries(rows)
    types = "\n".join(f"{field.name} {field.type}" for field in plain.schema)
    columns = "\n".join(f"{field.name} {field.type}" for field in work.schema)
    head = hashlib.sha256("\0".join((str(FORMAT), work.key, columns, types)).encode())
    return [
        Chunk(name=_name(head.digest(), plain.slice(a, b - a)), start=a, length=b - a)
        for a, b in zip(starts, ends, strict=True)
    ]


def _ends(ids: Sequence[str], size: int) -> list[int]:
    """Return the row after the last one of each chunk.

    A chunk ends at an id whose checksum is divisible by a number that makes chunks of `size`
    on average: content-defined chunking, as programs for backups do it.
    """
    shortest = (size + 1) // 2
    divisor = size - shortest + 1
    ends, start = [], 0
    for end, name in enumerate(ids, 1):
        length = end - start
        if length == 2 * size or (length >= shortest and crc32(name.encode()) % divisor == 0):
            ends.append(end)
            start = end
    return ends if start == len(ids) else [*ends, len(ids)]


def _without_dictionaries(rows: pa.Table) -> pa.Table:
    """Return the rows without what says more than their values: dictionaries and metadata."""
    fields = [
        pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
        for f in rows.schema
    ]
    return rows.cast(pa.schema(fields))


def _name(head: bytes, rows: pa.Table) -> str:
    digest = hashlib.sha256(head)
    for batch in rows.combine_chunks().to_batches():
        # Of a slice only its own values, from offset 0: equal rows give equal bytes.
        digest.update(batch.serialize())
    return digest.hexdigest()[:32]
