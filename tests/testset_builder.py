"""Builds releases in processes of their own, and kills them: `python -m tests.testset_builder`.

Says `ready`, then reads lines of a folder and of seconds until the kill, and answers each with
`killed`, `done` or `failed`. One process that forks, because importing takes longer than building.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

from rs_lowconf.testset import ReleaseTile
from tests.testset_samples import release, reviewed_tiles


def build_and_kill(folder: Path, tiles: list[ReleaseTile], seconds: float) -> str:
    """Build in a child process, kill it by SIGKILL after `seconds`, and say how it ended."""
    child = os.fork()
    if child == 0:
        try:
            release(folder, tiles)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.001)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if os.WEXITSTATUS(status) == 0 else "failed"


if __name__ == "__main__":
    store = Path(sys.argv[1])
    accepted = reviewed_tiles(store, int(sys.argv[2]))
    # Libraries load on their first use: half a second in which a kill would show nothing.
    release(store.with_name("first"), accepted)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        where, patience = line.split()
        sys.stdout.write(build_and_kill(Path(where), accepted, float(patience)) + "\n")
        sys.stdout.flush()
