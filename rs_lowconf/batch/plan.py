"""How the rows of a job are cut into chunks, and what names them."""

import hashlib
import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
    columns = "\n".join(f"{field.name} {field.type}" for field in work.schema)
    head = hashlib.sha256(repr((FORMAT, work.key, columns, rows.column_names)).encode()).digest()
    return [
        Chunk(name=_name(head, rows.slice(a, b - a)), start=a, length=b - a)
        for a, b in zip(starts, ends, strict=True)
    ]


def _ends(ids: Sequence[str], size: int) -> list[int]:
    """Return the row after the last one of each chunk.

    A chunk ends at an id whose hash is divisible by a number that makes chunks of `size`
    on average: content-defined chunking, as programs for backups do it.
    """
    shortest = (size + 1) // 2
    divisor = size - shortest + 1
    ends, start = [], 0
    for end, name in enumerate(ids, 1):
        length = end - start
        if length == 2 * size or (length >= shortest and _number(name) % divisor == 0):
            ends.append(end)
            start = end
    return ends if start == len(ids) else [*ends, len(ids)]


def _number(name: str) -> int:
    # Not a checksum such as CRC-32, by whose lowest bits ids that count up are no dice.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _name(head: bytes, rows: pa.Table) -> str:
    digest = hashlib.sha256(head)
    for column in rows.itercolumns():
        digest.update(_bytes(column.to_pylist()))
    return digest.hexdigest()[:32]


def _bytes(values: list[Any]) -> bytes:
    """Return values as bytes, equal ones as equal bytes.

    Python's values, because Arrow leaves bits of what is null or past the end to chance, and keeps
    slices and dictionaries in many ways.
    """
    try:
        # Version 2 knows no references to equal objects. Four times as fast as text.
        return marshal.dumps(values, 2)
    except ValueError:  # dates
        return repr(values).encode()
