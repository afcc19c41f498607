"""Measures batch jobs for scripts/bench: each figure in a process of its own, as users run them.

Real tiles are those of EuroSAT, catalogued once and repeated under other ids; they are read again
each time, from the memory of the system. Rates are those of the time between the first chunks of
all workers and the last ones, so starting and ending do not count; the whole time stands beside.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rs_lowconf.batch import Executor, Job, Processes, Serial, run_job, status
from rs_lowconf.batch.choose import chosen_rows
from rs_lowconf.batch.jobs import TargetOf
from rs_lowconf.batch.score import ScoreWork
from rs_lowconf.batch.work import Outcome, Piece, Work
from rs_lowconf.data.catalog.rows import SCHEMA
from rs_lowconf.data.catalog.table import GROUP, Catalog, write_catalog
from rs_lowconf.places import model_path
from rs_lowconf.runs import sha256_of
from rs_lowconf.settings import Settings, load

CHUNK = 256
_START = "import json, sys; from jobs import measure; measure(**json.loads(sys.argv[1]))"


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """A work that does nothing."""

    @property
    def key(self) -> str:
        return "nothing"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema({"id": pa.string()})

    def open(self) -> Callable[[pa.Table], pa.Table]:
        return _ids


def _ids(rows: pa.Table) -> pa.Table:
    return rows.select(["id"])


class Nobody:
    """An executor that takes the first chunk and leaves it."""

    def outcomes(
        self,
        work: Work,  # noqa: ARG002 - of the protocol
        take: Callable[[], Piece | None],
    ) -> Generator[Outcome, None, None]:
        take()
        yield from ()


def bench_jobs(root: Path, *, tiles: int, rows: int, reads: int, rounds: int) -> dict[str, Any]:
    """Measure batch jobs.

    Args:
        root: EuroSAT, as torchgeo reads it.
        tiles: real tiles that are scored, by each of four ways.
        rows: of the catalog that is planned.
        reads: real tiles that one worker reads while its memory is watched.
        rounds: of the four ways, one after another.
    """
    with TemporaryDirectory() as text:
        folder = Path(text)
        build = ("data.kind=eurosat", f"data.root={root}", f"run.dir={folder}")
        words = [word for setting in build for word in ("--set", setting)]
        command = [sys.executable, "-m", "rs_lowconf"]
        subprocess.run([*command, "catalog", "build", *words], check=True, capture_output=True)
        real = Catalog(folder / "catalog.parquet")
        write_catalog(folder / "tiles.parquet", repeated(real, tiles, invented=False))
        write_catalog(folder / "reads.parquet", repeated(real, reads, invented=False))
        write_catalog(folder / "rows.parquet", repeated(real, rows, invented=True))
        return {
            "score": _scores(folder, rounds),
            "engine": _apart("engine", folder, "rows"),
            "status": _apart("told", folder, "rows"),
            "plan": _apart("plan", folder, "rows"),
            "memory": _apart("memory", folder, "reads"),
        }


def repeated(catalog: Catalog, count: int, *, invented: bool) -> Iterator[pa.Table]:
    """Yield `count` rows: those of a catalog again and again, under other ids.

    Args:
        catalog: real tiles.
        count: number of rows.
        invented: whether each has a path and a checksum of its own, too, so none can be read.
    """
    whole = pa.concat_tables(list(catalog.tables()))
    for start in range(0, count, GROUP):
        numbers = range(start, min(start + GROUP, count))
        table = whole.take(list(islice(cycle(range(len(whole))), start, numbers.stop)))
        ids = pa.array([f"tile-{number:08d}" for number in numbers])
        table = _with(table, "id", ids)
        if invented:
            table = _with(table, "rslow:sha256", pc.utf8_lpad(ids, 64, "0"))
            table = _with(table, "assets", _elsewhere(table["assets"].combine_chunks(), ids))
        yield table


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), SCHEMA.field(name), values)


def _elsewhere(assets: pa.StructArray, ids: pa.Array) -> pa.StructArray:
    image, *others = assets.flatten()
    _, *about = image.flatten()
    hrefs = pc.binary_join_element_wise("/no/such/folder/of/scenes", ids, "/")
    image = pa.StructArray.from_arrays([hrefs, *about], fields=list(image.type))
    return pa.StructArray.from_arrays([image, *others], fields=list(assets.type))


def _scores(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the ways to score, one after another, several times."""
    ways: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for way, threads in (
            ("bare_model", 1),
            ("one_worker", 1),
            ("two_workers", 1),
            ("two_threads", 2),
        ):
            done = folder / f"{way}-{number}"
            figures = _apart(way, folder, "tiles", job=str(done), threads=threads)
            ways.setdefault(way, []).append(figures)
    rates = {way: [one["tiles_per_second"] for one in found] for way, found in ways.items()}

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    return {
        **ways,
        "two_workers_over_one": ratio("two_workers", "one_worker"),
        "two_workers_over_two_threads": ratio("two_workers", "two_threads"),
        "one_worker_over_bare_model": ratio("one_worker", "bare_model"),
    }


def _apart(what: str, folder: Path, catalog: str, *, job: str = "", threads: int = 1) -> Any:
    """Return what a process of its own measures."""
    spec = {
        "what": what,
        "catalog": f"{folder / catalog}.parquet",
        "job": job or f"{folder / 'nothing'}",
    }
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _START, json.dumps(spec)],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
    )
    figures = json.loads(done.stdout)
    print(f"{what}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    return {**figures, "whole_seconds": time.monotonic() - start}


# What follows runs in those processes.


def measure(what: str, catalog: str, job: str) -> None:
    """Measure something and print it."""
    settings, tiles, folder = load(None), Catalog(Path(catalog)), Path(job)
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "bare_model": lambda: _bare(settings, tiles),
        "one_worker": lambda: _rate(settings, tiles, folder, Processes(workers=1), 1),
        "two_workers": lambda: _rate(settings, tiles, folder, Processes(workers=2), 2),
        "two_threads": lambda: _rate(settings, tiles, folder, Serial(), 1),
        "engine": lambda: _engine(tiles, folder),
        "told": lambda: _told(folder),
        "plan": lambda: _plan(settings, tiles, folder.with_name("planned")),
        "memory": lambda: _memory(settings, tiles, folder.with_name("read")),
    }
    print(json.dumps(ways[what]()))


def _job(settings: Settings, catalog: Catalog, folder: Path, work: Work | None = None) -> Job:
    """Return the job of `rslow batch score`, or another work in its place."""
    target = _target(settings)
    rows = chosen_rows(catalog, settings.batch, settings.run.seed)
    score = ScoreWork(
        target=target,
        target_key=target.key,
        pixel_share=settings.search.pixel_share,
        micro_batch=settings.search.micro_batch,
        kinds=rows.kinds(),
    )
    return Job(folder=folder, kind="score", rows=rows, work=work or score, chunk_rows=CHUNK)


def _target(settings: Settings) -> TargetOf:
    return TargetOf(
        settings=settings.target,
        trained=model_path(settings, "target").absolute(),
        trust_code=False,
        device="cpu",
    )


def _rate(
    settings: Settings, catalog: Catalog, folder: Path, executor: Executor, workers: int
) -> dict[str, float]:
    """Return the rate from the end of the first chunk of each worker to that of the last but one.

    Workers end their chunks in turns, so what is cut off at both ends weighs the same.
    """
    start = time.monotonic()
    ends = [
        (time.monotonic() - start, one.tried)
        for one in run_job(_job(settings, catalog, folder), executor)
    ]
    (begin, before), (end, after) = ends[workers - 1], ends[-1 - workers]
    rate = (after - before) / (end - begin)
    return {
        "tiles_per_second": rate,
        "seconds": ends[-1][0],
        "seconds_to_start": begin - before / rate,
    }


def _bare(settings: Settings, catalog: Catalog) -> dict[str, float]:
    """Return the rate of the model alone, on tiles in memory, in the same micro-batches."""
    import torch  # noqa: PLC0415 - as in a worker, where it is the largest part of starting

    from rs_lowconf.data.catalog.reading import read_row, reflectance  # noqa: PLC0415
    from rs_lowconf.data.catalog.rows import from_table  # noqa: PLC0415

    rows = chosen_rows(catalog, settings.batch, settings.run.seed)
    target = _target(settings).load(rows.kinds()[0].height)
    micro_batch = settings.search.micro_batch
    some = from_table(next(catalog.tables()).slice(0, CHUNK // micro_batch * micro_batch))
    images = torch.stack([reflectance(row, read_row(row), target.bands) for row in some])
    count = -(-len(catalog) // len(images))
    with torch.no_grad():
        target.predict(images[:micro_batch])
        start = time.monotonic()
        for _ in range(count):
            for batch in torch.split(images, micro_batch):
                target.predict(batch)
    return {"tiles_per_second": count * len(images) / (time.monotonic() - start)}


def _engine(catalog: Catalog, folder: Path) -> dict[str, float]:
    """Return what a tile costs on which nothing is done, from the first row read to the end."""
    start = time.monotonic()
    for _ in run_job(_job(load(None), catalog, folder, Nothing()), Processes(workers=1)):
        pass
    seconds = time.monotonic() - start
    return {"tiles": len(catalog), "ms_per_tile": 1e3 * seconds / len(catalog)}


def _told(folder: Path) -> dict[str, float]:
    """Return what `rslow batch status` takes when all is done."""
    start = time.monotonic()
    told = status(folder)
    return {"tiles": told.done, "seconds": time.monotonic() - start, "peak_mib": _peak()}


def _plan(settings: Settings, catalog: Catalog, folder: Path) -> dict[str, float]:
    """Return what `rslow batch score` takes until the first worker has something to do."""
    start = time.monotonic()
    sha256_of(catalog.path)
    for _ in run_job(_job(settings, catalog, folder), Nobody()):
        pass
    return {"tiles": len(catalog), "seconds": time.monotonic() - start, "peak_mib": _peak()}


def _memory(settings: Settings, catalog: Catalog, folder: Path) -> dict[str, Any]:
    """Return what a worker holds after a tenth of the tiles and after all."""
    held = [
        (one.tried, _memory_of(_children()[0], "VmRSS"))
        for one in run_job(_job(settings, catalog, folder), Processes(workers=1))
    ]
    early = next(own for own in held if own[0] >= len(catalog) / 10)
    return {"tiles": [early[0], held[-1][0]], "resident_mib": [early[1], held[-1][1]]}


def _children() -> list[int]:
    """Return the processes that this one started."""
    found = Path("/proc/self/task").glob("*/children")
    return [int(number) for path in found for number in path.read_text().split()]


def _peak() -> float:
    return _memory_of(os.getpid(), "VmHWM")


def _memory_of(process: int, what: str) -> float:
    """Return a figure of the memory of a process, in MiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(what)
