"""The program of a process that works on pieces and can be killed; see `children.py`.

It receives the pickled work, then repeatedly rows (an Arrow stream) and a number of seconds. It
answers `ready` when the work is open, then for each: `done` with the result, `raised` with a
message, or `fatal` with an error that affects all tiles.
"""

import faulthandler
import os
import pickle
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from rs_lowconf.batch.sessions import kill_session
from rs_lowconf.batch.work import Call, Work, answer, from_bytes, one_line, to_bytes
from rs_lowconf.errors import JobError, OutputError, RsLowconfError

_ORPHAN_SECONDS = 30.0
"""After its time limit, a process that was not killed ends itself."""


def main(handle: int) -> None:
    """Serve the other end of a connection until it closes, then exit with all helpers.

    Args:
        handle: the file descriptor of this end.
    """
    import resource  # noqa: PLC0415 (systems without it have no such processes)

    faulthandler.enable()
    connection = Connection(handle)
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    # One thread per process, as there is one process per core; other libraries read
    # OMP_NUM_THREADS.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    # No core dump when it is forced to report where it hangs.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        # Pickled by the process that started this one.
        work: Work = pickle.loads(inbox.get())  # noqa: S301
        call = work.open()
    except Exception as error:  # of any kind: no tile can be processed
        connection.send(("fatal", _for_users(error)))
        return
    connection.send(("ready", None))
    while True:
        stream, seconds = inbox.get()
        if seconds is not None:
            # The parent kills it much earlier, unless the parent was killed while the work blocks
            # Python. This timer needs no Python.
            faulthandler.dump_traceback_later(seconds + _ORPHAN_SECONDS, exit=True)
        reply = _reply(call, work.schema, stream)
        faulthandler.cancel_dump_traceback_later()
        connection.send(reply)


def _reply(call: Call, schema: pa.Schema, stream: bytes) -> tuple[str, Any]:
    try:
        result = answer(call, schema, from_bytes(stream))
    except OutputError as error:
        return "fatal", error
    return ("raised", result) if isinstance(result, str) else ("done", to_bytes(result))


def _listen(connection: Connection, inbox: "SimpleQueue[Any]") -> None:
    """Pass on messages; when the parent is gone, kill this process and its helpers."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        kill_session(os.getpid())


def _for_users(error: Exception) -> RsLowconfError:
    if isinstance(error, RsLowconfError):
        return error
    return JobError(
        f"the work cannot start ({one_line(error)})",
        remedy="fix it and run the same command again, it resumes",
    )
