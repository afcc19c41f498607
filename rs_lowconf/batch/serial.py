"""The executor for one process."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from rs_lowconf.batch.children import Processes
from rs_lowconf.batch.work import Done, Failed, FailureKind, Outcome, Piece, Work, answer


@dataclass(frozen=True, kw_only=True)
class Serial:
    """Processes one piece after another: in this process, or in a child that can be killed."""

    seconds: float | None = None
    """Time limit of a chunk, enforced by a child process. None: in this process, with its number of
    threads, where a tile that hangs or crashes stops the job."""

    def outcomes(
        self, work: Work, take: Callable[[], Piece | None]
    ) -> Generator[Outcome, None, None]:
        """Work on pieces and yield an outcome for each; see `Executor`."""
        if self.seconds is not None:
            yield from Processes(workers=1, seconds=self.seconds).outcomes(work, take)
            return
        piece = take()
        # Not opened when there is nothing to do.
        call = None if piece is None else work.open()
        while piece is not None and call is not None:
            result = answer(call, work.schema, piece.rows)
            yield (
                Failed(number=piece.number, kind=FailureKind.RAISED, message=result)
                if isinstance(result, str)
                else Done(number=piece.number, table=result)
            )
            piece = take()
