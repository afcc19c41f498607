#!/usr/bin/env python3
"""Measure batch jobs as ratios within one run: workers, overhead, reading, a million rows.

Usage: scripts/bench_batch.py EUROSAT_FOLDER [--tiles 4000] [--rows 1000000] [--reads 50000]

`batch score` with the embedded target on real tiles, repeated under other ids: one worker, two,
and one process with two threads, against the bare model on the same tiles in memory; a job that
does nothing; planning and status of a catalog of a million rows; memory over many reads. Rates
are those after the first chunks, without the start of workers, which is told apart. Run it on an
idle machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)

import pyarrow as pa
from bench_works import Nothing, Read

from rs_lowconf.batch import Executor, Job, Processes, Serial, Work, run_job, status
from rs_lowconf.batch.jobs import CatalogRows, TargetOf
from rs_lowconf.batch.ledger import open_ledger
from rs_lowconf.batch.score import ScoreWork
from rs_lowconf.data.catalog.table import Catalog, write_catalog
from rs_lowconf.places import model_path
from rs_lowconf.settings import Settings, load

_CHUNK = 64
_PIECE = 20_000


def repeated(catalog: Catalog, count: int) -> Iterator[pa.Table]:
    """Yield the tiles of a catalog again and again, under other ids."""
    table = pa.concat_tables(list(catalog.tables()))
    names, place = table["id"].to_pylist(), table.column_names.index("id")
    whole = pa.concat_tables([table] * (_PIECE // len(table) + 1))
    for first in range(0, count, _PIECE):
        some = whole.slice(0, min(_PIECE, count - first))
        ids = [f"{names[i % len(names)]}/{first + i:07d}" for i in range(len(some))]
        yield some.set_column(place, "id", pa.array(ids, pa.string()))


def score_work(settings: Settings, catalog: Catalog) -> ScoreWork:
    """Return the work of `rslow batch score`."""
    target = TargetOf(
        settings=settings.target,
        trained=model_path(settings, "target").absolute(),
        trust_code=False,
        device="cpu",
    )
    return ScoreWork(
        target=target,
        target_key=target.key,
        pixel_share=settings.search.pixel_share,
        micro_batch=settings.search.micro_batch,
        side=catalog.first_side,
    )


def timed(folder: Path, catalog: Catalog, work: Work, executor: Executor, chunk: int) -> Any:
    """Run a job; return tiles a second after its first chunks, of the whole, and of the start."""
    job = Job(
        folder=folder, kind="bench", rows=CatalogRows(catalog=catalog), work=work, chunk_rows=chunk
    )
    began, marks = time.perf_counter(), []
    for step in run_job(job, executor):
        marks.append((time.perf_counter() - began, step.tried))
    # The first chunks wait for workers to start.
    (early, before), (late, after) = marks[min(4, len(marks) - 2)], marks[-1]
    return {
        "tiles_per_second": (after - before) / (late - early),
        "whole_tiles_per_second": after / late,
        "start_seconds": early - before * (late - early) / (after - before),
    }


def bare_rate(settings: Settings, catalog: Catalog) -> float:
    """Return tiles a second of the model alone, on tiles in memory, one thread."""
    import torch  # noqa: PLC0415 (planning is measured without it)

    from rs_lowconf.data.catalog.reading import read_row, reflectance  # noqa: PLC0415 (as torch)
    from rs_lowconf.data.catalog.rows import from_table  # noqa: PLC0415 (as torch)

    torch.set_num_threads(1)
    target = score_work(settings, catalog).target.load(catalog.first_side)
    rows = from_table(next(catalog.tables()).slice(0, 256))
    image = torch.stack([reflectance(row, read_row(row), target.bands) for row in rows])
    size = settings.search.micro_batch
    best = 0.0
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            for first in range(0, len(image), size):
                target.predict(image[first : first + size])
            best = max(best, len(image) / (time.perf_counter() - start))
    return best


def memory_mb(peak: bool) -> float:
    """Return the memory of this process now, or at most, in MiB."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def plan_and_status(path: Path, folder: Path) -> dict[str, float]:
    """Plan a job over a catalog and ask how far it is; measured in a process of its own."""
    catalog = Catalog(path)
    work = score_work(load(None), catalog)
    start = time.perf_counter()
    rows = CatalogRows(catalog=catalog)
    with open_ledger(folder, kind="bench", rows=rows, work=work, chunk_rows=256) as ledger:
        next(iter(ledger.unfinished()))
        planned = time.perf_counter() - start
    start = time.perf_counter()
    told = status(folder)
    return {
        "tiles": told.planned,
        "plan_seconds": planned,
        "status_seconds": time.perf_counter() - start,
        "peak_mb": memory_mb(peak=True),
    }


def many_reads(path: Path, folder: Path) -> dict[str, float]:
    """Read all tiles of a catalog in one process; return its memory on the way."""
    job = Job(
        folder=folder,
        kind="bench",
        rows=CatalogRows(catalog=Catalog(path)),
        work=Read(),
        chunk_rows=256,
    )
    seen: dict[str, float] = {}
    for step in run_job(job, Serial(seconds=None)):
        if step.tried >= step.planned / 10:
            seen.setdefault("mb_after_a_tenth", memory_mb(peak=False))
        seen["mb_at_the_end"] = memory_mb(peak=False)
        seen["reads"], seen["reads_per_second"] = step.tried, step.rate
    return seen


def apart(name: str, *words: object) -> dict[str, float]:
    """Run a measurement in a process of its own, whose memory is its own."""
    command = [sys.executable, __file__, f"--{name}", *map(str, words)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    values: dict[str, float] = json.loads(ran.stdout)
    return values


def measure(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything."""
    root = Path(words.data).resolve()
    base = folder / "base.parquet"
    subprocess.run(
        [
            sys.executable, "-c", "from rs_lowconf.cli import main; main()", "catalog", "build",
            "-s", "data.kind=eurosat", "-s", f"data.root={root}", "-s", f"catalog.path={base}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    settings, real = load(None), Catalog(base)
    paths = {name: folder / f"{name}.parquet" for name in ("tiles", "million", "reads")}
    for name, count in (
        ("tiles", words.tiles), ("million", words.rows), ("reads", words.reads),
    ):  # fmt: skip
        write_catalog(paths[name], repeated(real, count))
    tiles = Catalog(paths["tiles"])
    work = score_work(settings, tiles)
    result: dict[str, Any] = {"bare_model": bare_rate(settings, tiles)}
    one = result["one_worker"] = timed(
        folder / "one", tiles, work, Processes(workers=1, seconds=600), _CHUNK
    )
    two = result["two_workers"] = timed(
        folder / "two", tiles, work, Processes(workers=2, seconds=600), _CHUNK
    )
    os.environ["OMP_NUM_THREADS"] = "2"
    threads = result["one_worker_two_threads"] = apart("threads", paths["tiles"], folder / "thr")
    os.environ["OMP_NUM_THREADS"] = "1"
    nothing = result["nothing"] = timed(
        folder / "none", Catalog(paths["reads"]), Nothing(), Processes(workers=2, seconds=600), 256
    )
    result["ratios"] = {
        "two workers over one": two["tiles_per_second"] / one["tiles_per_second"],
        "two workers over two threads": two["tiles_per_second"] / threads["tiles_per_second"],
        "read-score-write over bare model": one["tiles_per_second"] / result["bare_model"],
        "engine, ms a tile": 1e3 / nothing["tiles_per_second"],
    }
    result["million"] = apart("plan", paths["million"], folder / "million")
    result["reads"] = apart("read", paths["reads"], folder / "reads")
    return result


def threads_of(path: Path, folder: Path) -> Any:
    """Score in this process with as many threads as the environment says."""
    import torch  # noqa: PLC0415 (planning is measured without it)

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    catalog = Catalog(path)
    work = score_work(load(None), catalog)
    return timed(folder, catalog, work, Serial(seconds=None), _CHUNK)


def main() -> None:
    """Measure and print."""
    parts = {"--plan": plan_and_status, "--read": many_reads, "--threads": threads_of}
    if len(sys.argv) == 4 and sys.argv[1] in parts:
        print(json.dumps(parts[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--tiles", type=int, default=4_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--reads", type=int, default=50_000)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(words, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
