"""Batch jobs: an engine that processes a million tiles and survives crashes and interruptions.

A `Job` is rows, a `Work` and a folder; `run_job` processes the remaining rows with an `Executor`:
`Serial`, `Processes` or `Dask`. `status` and related functions only need the folder.
"""

from rs_lowconf.batch.children import Processes
from rs_lowconf.batch.cluster import Dask
from rs_lowconf.batch.job import Job, Progress, run_job
from rs_lowconf.batch.ledger import TileError
from rs_lowconf.batch.serial import Serial
from rs_lowconf.batch.status import (
    Problem,
    Status,
    forget_errors,
    open_results,
    problems,
    read_errors,
    request_stop,
    status,
)
from rs_lowconf.batch.work import Executor, FailureKind, Work

__all__ = [
    "Dask",
    "Executor",
    "FailureKind",
    "Job",
    "Problem",
    "Processes",
    "Progress",
    "Serial",
    "Status",
    "TileError",
    "Work",
    "forget_errors",
    "open_results",
    "problems",
    "read_errors",
    "request_stop",
    "run_job",
    "status",
]
