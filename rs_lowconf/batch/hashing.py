"""Feeds rows of a table into hashes: equal values as equal bytes, however Arrow stores them.

Arrow's memory is not usable for this: bits below nulls are undefined, and slices and dictionaries
are stored in many ways. Its calls are slow for few rows and fast for many, so they are made once
for all rows; the hash of some rows then takes slices of the bytes.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@runtime_checkable
class Digest(Protocol):
    """A hash of hashlib."""

    def update(self, data: Any, /) -> None:
        """Add bytes."""


Feed = Callable[[Digest, int, int], None]
"""Adds values from the first number to before the second one to a hash."""


def feeder(values: pa.Array) -> Feed:
    """Return a function that feeds values of a column into a hash.

    Fields of records that are null in all rows are left out: catalogs are merged with others that
    have more fields.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return feeder(values.dictionary_decode())
    if pa.types.is_struct(kind):
        return _records(values)
    if pa.types.is_nested(kind):
        return _lists(values)
    if pa.types.is_floating(kind):
        return _numbers(values.cast(pa.float64()))
    if pa.types.is_primitive(kind):
        return _numbers(values.cast(pa.int64()))
    return _texts(values.cast(pa.binary()))


def _records(values: pa.Array) -> Feed:
    valid = _valid(values)
    # `flatten` carries the nulls of the records into their fields.
    parts = [
        (field.name.encode(), _ends(_valid(part)), feeder(part))
        for field, part in zip(values.type, values.flatten(), strict=True)
        if part.null_count < len(part)
    ]

    def feed(digest: Digest, start: int, end: int) -> None:
        digest.update(valid[start:end])
        for name, seen, part in parts:
            if seen[start] < seen[end]:
                digest.update(name)
                part(digest, start, end)

    return feed


def _lists(values: pa.Array) -> Feed:
    valid, lengths = _valid(values), _numbers_in(pc.list_value_length(values))
    ends, inner = _ends(lengths), feeder(values.flatten())

    def feed(digest: Digest, start: int, end: int) -> None:
        digest.update(valid[start:end])
        digest.update(lengths[start:end])
        inner(digest, int(ends[start]), int(ends[end]))

    return feed


def _texts(values: pa.Array) -> Feed:
    valid, lengths = _valid(values), _numbers_in(pc.binary_length(values))
    whole = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values.fill_null(b""))
    ends, content = _ends(lengths), memoryview(pc.binary_join(whole, b"")[0].as_buffer())

    def feed(digest: Digest, start: int, end: int) -> None:
        digest.update(valid[start:end])
        digest.update(lengths[start:end])
        digest.update(content[ends[start] : ends[end]])

    return feed


def _numbers(values: pa.Array) -> Feed:
    valid, numbers = _valid(values), values.fill_null(0).to_numpy()

    def feed(digest: Digest, start: int, end: int) -> None:
        digest.update(valid[start:end])
        digest.update(numbers[start:end])

    return feed


def _valid(values: pa.Array) -> NDArray[np.uint8]:
    flags: NDArray[np.uint8] = values.is_valid().cast(pa.uint8()).to_numpy()
    return flags


def _numbers_in(lengths: pa.Array) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = lengths.fill_null(0).cast(pa.int64()).to_numpy()
    return numbers


def _ends(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each item of these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
