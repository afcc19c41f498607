"""Ends a process with all that it started."""

import contextlib
import os
import signal
from pathlib import Path


def kill_session(leader: int) -> None:
    """Kill all processes of a session, the group of its leader last.

    What a process starts may be in a group of its own, so that Ctrl-C does not reach it, such as
    the program of a target. Where there is no /proc, such groups are left to end by themselves.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # Ended meanwhile, or not ours.
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            _, _, group, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader != int(group):
                os.kill(int(stat.parent.name), signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
