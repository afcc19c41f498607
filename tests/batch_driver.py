"""A driver in a process of its own, that tests kill: python -m tests.batch_driver JSON.

It prints a line for each chunk that ends, and at last how it ended.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from rs_lowconf.batch import Dask, Processes, run_job
from rs_lowconf.errors import RsLowconfError
from tests.batch_works import Multiply, job
from tests.kills import signal_at


def main(
    *,
    folder: str,
    work: dict[str, Any],
    executor: str,
    options: dict[str, Any],
    full_after: int,
    kill_at: tuple[str, int] | None,
) -> None:
    """Run a job.

    Args:
        folder: of the job.
        work: fields of `Multiply`.
        executor: `Processes` or `Dask`.
        options: its fields.
        full_after: chunks after which no file of more than 1,000 bytes fits on the disk; 0:
            never.
        kill_at: an event of the files of finished chunks, such as `os.rename`, and how often it
            has to happen before this process kills itself.
    """
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fields: dict[str, Any] = {name: _tuples(value) for name, value in work.items()}
    multiply = Multiply(**fields | {"folder": Path(fields["folder"])})
    kinds: dict[str, type[Processes | Dask]] = {"Processes": Processes, "Dask": Dask}
    chunks = 0
    if kill_at is not None:
        event, count = kill_at
        signal_at(
            "SIGKILL", lambda name, path: name == event and path.parent.name == "parts", count
        )
    try:
        for progress in run_job(job(Path(folder), multiply), kinds[executor](**options)):
            chunks += 1
            print("chunk", progress.done, progress.failed, flush=True)
            if chunks == full_after:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    except RsLowconfError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(error.exit_code)
    print("end", "torch" in sys.modules, flush=True)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
