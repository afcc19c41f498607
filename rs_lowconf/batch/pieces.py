"""Chunks that fail are cut into pieces until the bad tiles are found."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from rs_lowconf.batch.ledger import TileError, Unfinished
from rs_lowconf.batch.plan import Chunk
from rs_lowconf.batch.work import ERROR, ID, Done, Failed, FailureKind, Outcome, Piece

_WAYS = 8
"""Number of parts that a failed piece is cut into. Halves would find a bad tile of 512 in ten
pieces, eighths in four; each costs a new process that loads the model again, or a whole time
limit."""

_ATTEMPTS = 2
"""Fewest attempts before a tile counts as bad, because it may have failed transiently."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedChunk:
    """All finished tiles of a chunk."""

    chunk: Chunk
    results: pa.Table
    """One row per good tile, with the columns of the work's schema."""

    errors: list[TileError]


@dataclass(kw_only=True, eq=False)
class _Open:
    """A chunk in progress."""

    left: Unfinished
    pieces: int = 0
    """Pieces that are not finished."""
    tables: list[pa.Table] = field(default_factory=list)
    errors: list[TileError] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sent:
    piece: Piece
    attempts: int
    """This one included."""
    chunk: _Open


class Pieces:
    """Hands out pieces by `take`, and accepts their outcomes by `tell`."""

    def __init__(
        self, unfinished: Iterable[Unfinished], schema: pa.Schema, stopped: Callable[[], bool]
    ) -> None:
        """Begin with nothing handed out.

        Args:
            unfinished: chunks to process, in this order.
            schema: of the results.
            stopped: whether no further chunk may be started; chunks in progress are finished.
        """
        self._fresh = iter(unfinished)
        self._schema = schema
        self._stopped = stopped
        self._waiting: deque[_Sent] = deque()
        self._out: dict[int, _Sent] = {}
        self._number = 0

    def take(self) -> Piece | None:
        """Return the next piece, parts of chunks in progress first; None if there is none now."""
        if not self._waiting and not self._stopped():
            left = next(self._fresh, None)
            if left is not None:
                self._add(_Open(left=left), left.rows, attempts=1)
        if not self._waiting:
            return None
        sent = self._waiting.popleft()
        self._out[sent.piece.number] = sent
        return sent.piece

    def tell(self, outcome: Outcome) -> FinishedChunk | None:
        """Accept the outcome of a piece; return its chunk if that is finished."""
        sent = self._out.pop(outcome.number)
        chunk, rows = sent.chunk, sent.piece.rows
        chunk.pieces -= 1
        if isinstance(outcome, Done):
            self._keep(chunk, outcome.table, sent.attempts)
        elif len(rows) == 1 and sent.attempts >= _ATTEMPTS:
            chunk.errors.append(_given_up(rows[ID][0].as_py(), outcome, sent.attempts))
        else:
            size = -(-len(rows) // _WAYS)
            for start in range(0, len(rows), size):
                self._add(chunk, rows.slice(start, size), sent.attempts + 1)
        if chunk.pieces:
            return None
        # Metadata is that of the first table.
        results = pa.concat_tables([*chunk.tables, self._schema.empty_table()])
        return FinishedChunk(chunk=chunk.left.chunk, results=results, errors=chunk.errors)

    def _add(self, chunk: _Open, rows: pa.Table, attempts: int) -> None:
        piece = Piece(number=self._number, rows=rows, share=len(rows) / len(chunk.left.rows))
        self._number += 1
        chunk.pieces += 1
        self._waiting.append(_Sent(piece=piece, attempts=attempts, chunk=chunk))

    def _keep(self, chunk: _Open, table: pa.Table, attempts: int) -> None:
        """Separate the good tiles from those that the work reported as bad."""
        good = pc.is_null(table[ERROR])
        chunk.tables.append(table.filter(good).select(self._schema.names))
        for row in table.filter(pc.invert(good)).select([ID, ERROR]).to_pylist():
            chunk.errors.append(
                TileError(
                    id=row[ID], kind=FailureKind.RAISED, message=row[ERROR], attempts=attempts
                )
            )


def _given_up(name: str, failure: Failed, attempts: int) -> TileError:
    return TileError(id=name, kind=failure.kind, message=failure.message, attempts=attempts)
