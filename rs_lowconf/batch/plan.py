"""Cuts the rows of a job into chunks, and names them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from rs_lowconf.batch.hashing import feeder
from rs_lowconf.batch.work import ID, Work
from rs_lowconf.errors import JobError

FORMAT: Final = 1
"""Format of a job folder. Part of every chunk's name, so that a new format repeats all work."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Consecutive rows that are processed and stored together."""

    name: str
    """32 hexadecimal digits: a hash of its rows, the work's key and its schema."""

    start: int
    """Its first row, from 0."""

    length: int
    """Number of its rows, at least 1."""


def plan(tables: Iterable[pa.Table], work: Work, chunk_rows: int) -> tuple[list[Chunk], pa.Array]:
    """Cut rows into chunks of about `chunk_rows` rows, from half to twice as many.

    The cuts depend on nearby ids and not on positions: added or removed rows change their chunks
    and, at most, a few following ones, while the others keep their names.

    Args:
        tables: the rows in parts; at most one table is in memory at a time.
        work: on these rows.
        chunk_rows: rows per chunk, on average.

    Returns:
        The chunks, and the ids of all rows.

    Raises:
        JobError: there are no rows, or ids are missing or not unique.
    """
    columns = "\n".join(f"{field.name} {field.type}" for field in work.schema)
    chunks: list[Chunk] = []
    ids: list[pa.ChunkedArray] = []
    start, rest = 0, None
    for table in tables:
        if ID not in table.schema.names or not is_text(table.schema.field(ID).type):
            raise JobError("the rows of the job lack ids", expected=f"text in column {ID}")
        if table[ID].null_count:
            raise JobError("ids of tiles are missing", expected="one per tile")
        ids.append(table[ID])
        block = table if rest is None else pa.concat_tables([rest, table])
        ends = _ends(block[ID].to_pylist(), chunk_rows)
        head = repr((FORMAT, work.key, columns, block.column_names)).encode()
        chunks += _chunks(block, start, ends, head)
        end = ends[-1] if ends else 0
        start, rest = start + end, block.slice(end)
    if rest is not None and len(rest):
        chunks += _chunks(rest, start, [len(rest)], head)
    if not chunks:
        raise JobError("the job has no tiles", expected="at least one")
    names = pa.chunked_array(ids).combine_chunks()
    if pc.count_distinct(names).as_py() != len(names):
        raise JobError("ids of tiles are not unique", expected="one per tile")
    return chunks, names


def rows_of(
    chunks: Sequence[Chunk], tables: Iterator[pa.Table]
) -> Iterator[tuple[Chunk, pa.Table]]:
    """Yield chunks with their rows, which are read as needed."""
    begin, held = 0, None
    for chunk in chunks:
        while held is None or begin + len(held) < chunk.start + chunk.length:
            more = next(tables)
            if held is not None:
                needed = max(0, begin + len(held) - chunk.start)
                begin += len(held) - needed
                more = pa.concat_tables([held.slice(len(held) - needed), more])
            held = more
        yield chunk, held.slice(chunk.start - begin, chunk.length)


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _ends(ids: Sequence[str], size: int) -> list[int]:
    """Return the row after the last one of each chunk; the last rows may belong to none yet.

    A chunk ends at an id whose hash is divisible by a number that makes chunks of `size`
    on average: content-defined chunking, as in backup programs.
    """
    shortest = (size + 1) // 2
    divisor = size - shortest + 1
    ends, start = [], 0
    for end, name in enumerate(ids, 1):
        length = end - start
        if length == 2 * size or (length >= shortest and _number(name) % divisor == 0):
            ends.append(end)
            start = end
    return ends


def _number(name: str) -> int:
    # Not a checksum such as CRC-32, whose lowest bits are not random for consecutive ids.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _chunks(block: pa.Table, begin: int, ends: Sequence[int], head: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a table that end at some of its rows; its first is row `begin`."""
    feeds = [feeder(column.combine_chunks()) for column in block.columns]
    for start, end in pairwise((0, *ends)):
        digest = hashlib.sha256(head)
        for feed in feeds:
            feed(digest, start, end)
        name = digest.hexdigest()[:32]
        yield Chunk(name=name, start=begin + start, length=end - start)
