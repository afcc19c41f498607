"""Chunks and their names, and the search for bad tiles."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_lowconf.batch.ledger import Unfinished
from rs_lowconf.batch.pieces import FinishedChunk, Pieces
from rs_lowconf.batch.plan import Chunk, plan, rows_of
from rs_lowconf.batch.work import Done, Failed, FailureKind, Outcome, Piece
from tests.batch_works import Multiply, tiles

WORK = Multiply(folder=Path("marks"))


def names(rows: pa.Table, size: int = 16, work: Multiply = WORK) -> list[str]:
    return [chunk.name for chunk in plan([rows], work, size)[0]]


@given(count=st.integers(1, 300), size=st.integers(1, 40))
def test_chunks_hold_every_row_once(count: int, size: int) -> None:
    """Chunks follow each other, and none but the last is below half or above twice the size."""
    chunks, ids = plan([tiles(count)], WORK, size)
    assert ids.to_pylist() == tiles(count)["id"].to_pylist()
    assert chunks[0].start == 0
    for one, following in pairwise(chunks):
        assert following.start == one.start + one.length
        assert (size + 1) // 2 <= one.length <= 2 * size
    assert chunks[-1].start + chunks[-1].length == count
    assert chunks[-1].length <= 2 * size


def test_chunks_have_the_size_on_average() -> None:
    """Over many rows the mean length is near the one that was asked for."""
    for size in (1, 2, 3, 8, 50):
        count = 400 * size
        assert 0.85 * size <= count / len(plan([tiles(count)], WORK, size)[0]) <= 1.15 * size


@given(cuts=st.lists(st.integers(0, 300), max_size=6), wanted=st.sets(st.integers(0, 30)))
def test_rows_may_come_in_any_tables(cuts: list[int], wanted: set[int]) -> None:
    """However rows are cut into tables, chunks are the same, and any of them find their rows."""
    rows = tiles(300)
    edges = sorted({0, *cuts, 300})
    tables = [rows.slice(a, b - a) for a, b in pairwise(edges)]
    chunks, ids = plan(tables, WORK, 16)
    assert chunks == plan([rows], WORK, 16)[0]
    assert ids.to_pylist() == rows["id"].to_pylist()
    some = [chunk for number, chunk in enumerate(chunks) if number in wanted]
    found = list(rows_of(some, iter(tables)))
    assert [chunk for chunk, _ in found] == some
    for chunk, own in found:
        assert own.equals(rows.slice(chunk.start, chunk.length))


def test_names_depend_on_values_alone() -> None:
    """Another layout in memory of the same rows, or metadata, gives the same names."""
    rows = pa.table(
        {
            "id": [f"{i}" for i in range(200)],
            "place": [None if i % 3 == 0 else "here" for i in range(200)],
            "number": [None if i % 7 == 0 else i for i in range(200)],
            "box": [None if i % 5 == 0 else [0.5 * i, -1.0] for i in range(200)],
            "flag": [i % 2 == 0 for i in range(200)],
            "time": pa.array([None if i % 4 == 0 else i for i in range(200)], pa.timestamp("us")),
            "asset": [
                None if i % 6 == 0 else {"href": f"{i}.tif", "bands": ["B02"]} for i in range(200)
            ],
        }
    )
    expected = names(rows)
    column = rows.schema.get_field_index("place")
    same = [
        pa.concat_tables([rows.slice(0, 37), rows.slice(37, 50), rows.slice(87)]),
        pa.concat_tables([rows.slice(150), rows]).slice(50),
        rows.take(list(range(200))),
        rows.set_column(column, "place", rows["place"].dictionary_encode()),
        rows.replace_schema_metadata({"geo": "{}"}),
        rows.set_column(rows.schema.get_field_index("asset"), "asset", more_parts(rows["asset"])),
        rows.filter([True] * 200),
    ]
    for other in same:
        assert names(other) == expected


def more_parts(assets: pa.ChunkedArray) -> pa.Array:
    """Return records with a part more that is null everywhere."""
    records = assets.combine_chunks()
    names = [field.name for field in records.type]  # whose order differs between versions
    parts = dict(zip(names, records.flatten(), strict=True))
    parts = {names[0]: parts[names[0]], "size": pa.nulls(len(records), pa.int64()), **parts}
    return pa.StructArray.from_arrays(
        list(parts.values()), names=list(parts), mask=records.is_null()
    )


def test_names_depend_on_every_value_the_key_and_the_schema() -> None:
    """A changed number renames its chunk only, another key or name of a column all of them."""
    rows = tiles(500)
    numbers = rows["number"].to_pylist()
    numbers[250] += 1
    before, after = names(rows), names(rows.set_column(1, "number", [numbers]))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    for one, other in (
        ([["a"], ["b"]], [["a", "b"], []]),
        (["ab", ""], ["a", "b"]),
        ([None, 0], [0, None]),
        ([{"a": None}], [None]),
        ([{"a": 1}], [{"b": 1}]),
    ):
        two = [pa.table({"id": [f"{i}" for i in range(len(one))], "x": x}) for x in (one, other)]
        assert names(two[0]) != names(two[1])
    assert not set(before) & set(names(rows, work=replace(WORK, factor=4)))
    assert not set(before) & set(names(rows.rename_columns(["id", "value"])))
    assert before == names(rows, work=replace(WORK, hold=True))


@settings(max_examples=30)
@given(place=st.integers(0, 2000), count=st.integers(1, 5))
def test_rows_that_come_or_go_leave_most_chunks_alone(place: int, count: int) -> None:
    """Rows put in between, or taken away again, rename the chunks around them, not all after."""
    rows = tiles(2000)
    new = pa.table({"id": [f"new-{place}-{i}" for i in range(count)], "number": range(count)})
    more = pa.concat_tables([rows.slice(0, place), new, rows.slice(place)])
    before, after = set(names(rows)), set(names(more))
    assert len(before) > 100
    assert len(before - after) <= 20


def search(rows: pa.Table, bad: set[str], size: int) -> tuple[list[FinishedChunk], int]:
    """Work on rows as an executor whose pieces fail if they hold a bad tile; count pieces."""
    chunks = [
        Unfinished(
            chunk=Chunk(name=f"{start}", start=start, length=size), rows=rows.slice(start, size)
        )
        for start in range(0, len(rows), size)
    ]
    schema = pa.schema({"id": pa.string()})
    pieces = Pieces(chunks, schema, stopped=lambda: False)
    tried, count = [], 0
    while (piece := pieces.take()) is not None:
        count += 1
        ended = pieces.tell(_outcome(piece, bad))
        if ended is not None:
            tried.append(ended)
    return tried, count


def _outcome(piece: Piece, bad: set[str]) -> Outcome:
    ids = piece.rows["id"]
    if bad & set(ids.to_pylist()):
        return Failed(number=piece.number, kind=FailureKind.DIED, message="boom")
    table = pa.table({"id": ids, "error": pa.nulls(len(ids), pa.string())})
    return Done(number=piece.number, table=table)


@given(
    count=st.integers(1, 120),
    size=st.integers(1, 70),
    numbers=st.sets(st.integers(0, 119), max_size=12),
)
def test_exactly_the_bad_tiles_are_found(count: int, size: int, numbers: set[int]) -> None:
    """Whichever tiles are bad, they are the errors, and the others have one result each."""
    rows = tiles(count)
    bad = {f"tile-{i:06d}" for i in numbers if i < count}
    tried, _ = search(rows, bad, size)
    assert len(tried) == -(-count // size)
    assert sorted(error.id for one in tried for error in one.errors) == sorted(bad)
    results = [name for one in tried for name in one.results["id"].to_pylist()]
    assert sorted(results) == sorted(set(rows["id"].to_pylist()) - bad)


def test_a_bad_tile_costs_few_pieces() -> None:
    """One in 512 is given up after four attempts, and 24 pieces beside the chunk's own."""
    tried, pieces = search(tiles(512), {"tile-000300"}, 512)
    assert pieces == 25
    assert [error.attempts for error in tried[0].errors] == [4]


@pytest.mark.parametrize(("share", "limit"), [(1.0, 80.0), (0.5, 40.0), (1 / 512, 10.0)])
def test_parts_have_a_share_of_the_time_limit(share: float, limit: float) -> None:
    """A part of a chunk has its share of the limit, but no less than an eighth."""
    piece = Piece(number=0, rows=tiles(1), share=share)
    assert piece.limit(80.0) == limit
    assert piece.limit(None) is None
