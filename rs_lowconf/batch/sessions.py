"""Kills a process with all its descendants."""

import contextlib
import os
import signal
from pathlib import Path


def kill_session(leader: int) -> None:
    """Kill all processes of a session, the group of its leader last.

    Children may be in a separate process group, so that Ctrl-C does not reach them, such as the
    program of a target. Without /proc, such groups are left to exit by themselves.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # Exited meanwhile, or owned by another user.
        with contextlib.suppress(OSError):
            # The name, in brackets, may contain anything.
            _, _, group, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader != int(group):
                os.kill(int(stat.parent.name), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
