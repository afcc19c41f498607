"""Builds releases in a process of its own, and kills them: `python -m tests.testset_builder`.

Says `ready`, then reads lines of a folder and of the event to be killed at, -1 for none, and
answers each with JSON: how the build ended and its events. One process that forks, because
importing takes longer than building.
"""

import json
import sys
from functools import partial
from pathlib import Path

from tests.kills import run_and_kill
from tests.testset_samples import release, reviewed_tiles

if __name__ == "__main__":
    store = Path(sys.argv[1])
    accepted = reviewed_tiles(store, int(sys.argv[2]))
    # Libraries open their files on their first use: those are no events of a build.
    release(store.with_name("first") / "v1", accepted)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        where, moment = line.split()
        folder = Path(where)
        ended = run_and_kill(
            partial(release, folder, accepted),
            folder.parent,
            None if moment == "-1" else int(moment),
        )
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()
