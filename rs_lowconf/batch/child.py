"""The program of a process that works on pieces and can be killed; see `children.py`.

It is sent the pickled work, then rows (an Arrow stream) and a number of seconds again and again.
It answers `ready` when the work is open, then for each: `done` with the result, `raised` with a
message, or `fatal` with an error that concerns all tiles.
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
from rs_lowconf.batch.work import Call, Work, answer, from_bytes, to_bytes, told
from rs_lowconf.errors import JobError, OutputError, RsLowconfError

_ORPHAN_SECONDS = 30.0
"""After its time limit, a process that nobody killed ends itself."""


def main(handle: int) -> None:
    """Serve the other end of a connection until it closes, then end with all helpers.

    Args:
        handle: the file descriptor of this end.
    """
    import resource  # noqa: PLC0415 (systems without it have no such processes)

    faulthandler.enable()
    connection = Connection(handle)
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    # One thread a process, as there is a process a core; other libraries read OMP_NUM_THREADS.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    # No file of all its memory when it is made to say where it hangs.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        # Pickled by the process that started this one.
        work: Work = pickle.loads(inbox.get())  # noqa: S301
        call = work.open()
    except Exception as error:  # whatever it is, no tile can be worked on
        connection.send(("fatal", _for_users(error)))
        return
    connection.send(("ready", None))
    while True:
        stream, seconds = inbox.get()
        if seconds is not None:
            # The starter kills it much earlier, unless that was killed itself while the work
            # keeps Python from noticing. This timer needs no Python.
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
    """Pass on what arrives; when the starter is gone, kill this process and its helpers."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        kill_session(os.getpid())


def _for_users(error: Exception) -> RsLowconfError:
    if isinstance(error, RsLowconfError):
        return error
    return JobError(
        f"the work cannot start ({told(error)})",
        remedy="mend it and run the same command again, it resumes",
    )
