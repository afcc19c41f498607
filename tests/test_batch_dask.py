"""Batch jobs on Dask: a cluster on this machine, and one of other processes, by its address."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rs_lowconf.batch import Dask, Serial, open_results, read_errors, run_job, status
from rs_lowconf.batch import cluster as module
from rs_lowconf.errors import JobError
from rs_lowconf.extras import missing
from tests.batch_works import Multiply, content, job, run
from tests.test_batch_faults import driver, ended

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def work(tmp_path: Path) -> Multiply:
    return Multiply(folder=tmp_path / "marks")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A scheduler and workers in processes of their own."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Start a scheduler and two workers without a nanny, and end them."""
    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1"],
                    cwd=Path(__file__).parents[1],
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
            return process

        scheduler = start("scheduler", "--port=0", "--no-dashboard", f"--scheduler-file={file}")
        options = (f"--scheduler-file={file}", "--nthreads=1", "--no-nanny", "--no-dashboard")
        workers = [start("worker", *options) for _ in range(2)]
        while not file.exists():
            assert scheduler.poll() is None, "the scheduler did not start"
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        yield Cluster(address=address, scheduler=scheduler, workers=workers)


@pytest.mark.slow
def test_a_cluster_on_this_machine_gives_the_results_of_serial(
    tmp_path: Path, work: Multiply
) -> None:
    """With tiles that kill, hang and raise, results and errors are those of one process."""
    bad = replace(
        work,
        always=(("tile-000011", "kill"), ("tile-000012", "hang hard"), ("tile-000013", "raise")),
        once=(("tile-000050", "exit"),),
    )
    assert run(job(tmp_path / "dask", bad, count=150), Dask(workers=2, seconds=12.0)) == 150
    kinds = {error.id: error.kind.value for error in read_errors(tmp_path / "dask")}
    assert kinds == {"tile-000011": "died", "tile-000012": "hung", "tile-000013": "raised"}
    # What each of them does to one process is the matter of other tests.
    said = replace(work, always=tuple((name, "say") for name in kinds))
    run(job(tmp_path / "serial", said, count=150), Serial())
    ours, theirs = (open_results(tmp_path / name).to_table() for name in ("dask", "serial"))
    assert ours.sort_by("id").equals(theirs.sort_by("id"))
    assert ended(work)


@pytest.mark.slow
def test_a_cluster_by_its_address_loses_a_worker_and_then_its_scheduler(
    tmp_path: Path, work: Multiply, cluster: Cluster
) -> None:
    """It gives the results of serial, ends its processes, and a lost scheduler is told."""
    run(job(tmp_path / "serial", work), Serial())
    expected = content(tmp_path / "serial")
    dask = Dask(address=cluster.address)
    held = replace(work, hold=True)
    for number, _ in enumerate(run_job(job(tmp_path / "dask", held), dask)):
        if number == 0:
            cluster.workers[0].kill()
            (work.folder / "go").touch()
    assert content(tmp_path / "dask") == expected
    assert ended(work)
    held = replace(work, folder=tmp_path / "marks of another", hold=True)
    running = run_job(job(tmp_path / "lost", held), dask)
    next(running)
    cluster.scheduler.kill()
    with pytest.raises(JobError, match=r"scheduler at tcp://\S+ is lost; start it and run"):
        list(running)
    assert 0 < status(tmp_path / "lost").done < 600
    assert status(tmp_path / "lost").running is None
    run(job(tmp_path / "lost", work), Serial())
    assert content(tmp_path / "lost") == expected


def test_a_killed_driver_takes_its_cluster_with_it(tmp_path: Path, work: Multiply) -> None:
    """After kill -9 of a driver with a cluster on this machine, no process of it is left."""
    held = replace(work, hold=True)
    options = {"executor": "Dask", "options": {"workers": 1}}
    with driver(tmp_path / "job", held, **options) as (process, lines):
        assert lines.readline().startswith("chunk")
        process.kill()
    assert ended(work)
    done = status(tmp_path / "job").done
    assert run(job(tmp_path / "job", work), Serial()) == 600 - done


def test_no_scheduler_no_workers_and_no_dask_are_told(
    tmp_path: Path, work: Multiply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong address and a missing extra end the job in a line that says what to do."""
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(JobError, match=r"cannot reach a Dask scheduler at tcp://127.0.0.1:9 "):
        run(job(tmp_path / "job", work), Dask(address="tcp://127.0.0.1:9"))
    with pytest.raises(JobError, match="cluster on this machine has no workers; start some"):
        run(job(tmp_path / "job", work), Dask(workers=0, patience_seconds=1.0))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        run(job(tmp_path / "job", work), Dask())
    assert "pip install 'rs-lowconf[dask]'" in str(missing(raised.value.name or "", "batch"))
