"""How the rows of a job are cut into chunks, and what names them."""

import hashlib
import marshal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

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
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        digest.update(name.encode())
        for part in _bytes(column.combine_chunks()):
            digest.update(part)
    return digest.hexdigest()[:32]


def _bytes(values: pa.Array) -> Iterator[bytes]:
    """Yield values as bytes, equal ones as equal bytes.

    Not the memory of Arrow, which leaves bits of what is null or past the end to chance, and keeps
    slices and dictionaries in many ways. Parts of records that are all null are left out: catalogs
    are merged with others that have more parts.
    """
    kind = values.type
    if pa.types.is_struct(kind):
        yield values.is_valid().cast(pa.uint8()).to_numpy().tobytes()
        # Carries the nulls of the records into their parts.
        for field, part in zip(kind, values.flatten(), strict=True):
            if part.null_count < len(part):
                yield field.name.encode()
                yield from _bytes(part)
    elif pa.types.is_nested(kind):
        yield pc.list_value_length(values).fill_null(-1).cast(pa.int64()).to_numpy().tobytes()
        yield from _bytes(values.flatten())
    elif pa.types.is_dictionary(kind):
        yield from _bytes(values.dictionary_decode())
    else:
        # Python's values in the order in which they first come: few, where lists repeat names.
        coded = values.dictionary_encode()
        yield _dumped(coded.dictionary.to_pylist())
        yield coded.indices.fill_null(-1).to_numpy().tobytes()


def _dumped(values: list[object]) -> bytes:
    try:
        # Version 2 knows no references to equal objects. Four times as fast as text.
        return marshal.dumps(values, 2)
    except ValueError:  # dates
        return repr(values).encode()
