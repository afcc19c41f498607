"""Job folders: what is in them, what a second run does, who may work on them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rs_lowconf.batch import (
    FailureKind,
    Job,
    Processes,
    Serial,
    TileError,
    forget_errors,
    open_results,
    read_errors,
    request_stop,
    run_job,
    status,
)
from rs_lowconf.errors import JobError, ModelError, OutputError
from tests.batch_works import Careless, Closed, Multiply, content, job, run, tiles


@pytest.fixture
def work(tmp_path: Path) -> Multiply:
    return Multiply(folder=tmp_path / "marks")


def test_results_are_those_of_a_loop(tmp_path: Path, work: Multiply) -> None:
    """Every tile has the product that arithmetic gives, with the columns of the schema."""
    assert run(job(tmp_path / "job", work), Serial()) == 600
    table = open_results(tmp_path / "job").to_table().sort_by("id")
    assert table.to_pylist() == [{"id": f"tile-{i:06d}", "product": 3 * i} for i in range(600)]
    assert table.schema.equals(work.schema, check_metadata=True)


def test_each_part_keeps_the_order_of_the_rows(tmp_path: Path, work: Multiply) -> None:
    """Within a part, tiles follow each other as in the catalog, also after bad luck."""
    unlucky = replace(work, once=(("tile-000020", "raise"),))
    run(job(tmp_path / "job", unlucky, count=100), Serial())
    for path in (tmp_path / "job" / "parts").iterdir():
        ids = pq.read_table(path)["id"].to_pylist()
        assert ids == sorted(ids)


def test_a_second_run_does_nothing(tmp_path: Path, work: Multiply) -> None:
    """It works on no tile, opens no model, and changes no file of the results."""
    run(job(tmp_path / "job", work), Serial())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "job/parts").iterdir()}
    opened = replace(work, folder=tmp_path / "unopened")
    for executor in (Serial(), Processes(workers=2)):
        assert run(job(tmp_path / "job", opened), executor) == 0
    assert not (tmp_path / "unopened").exists()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "job/parts").iterdir()}
    assert after == before


def test_rows_a_chunk_are_no_setting_of_the_results(tmp_path: Path, work: Multiply) -> None:
    """Another number of rows a chunk does nothing again in a folder that has one."""
    a_job = job(tmp_path / "job", work)
    run(a_job, Serial())
    assert run(replace(a_job, chunk_rows=10), Serial()) == 0


def test_another_key_does_all_again_and_the_old_one_returns(tmp_path: Path, work: Multiply) -> None:
    """Parts of another key are out of sight, and come back without work when the key does."""
    folder = tmp_path / "job"
    bad = replace(work, always=(("tile-000009", "say"),))
    assert run(job(folder, bad), Serial()) == 600
    first = content(folder)
    assert run(job(folder, replace(work, factor=4)), Serial()) == 600
    second = content(folder)
    assert open_results(folder).count_rows() == 600
    assert run(job(folder, bad), Serial()) == 0
    assert content(folder) == first
    assert run(job(folder, replace(work, factor=4)), Serial()) == 0
    assert content(folder) == second


def test_changed_rows_are_done_again_and_no_others(tmp_path: Path, work: Multiply) -> None:
    """New and changed tiles cost their chunks; tiles that went have no result any more."""
    folder = tmp_path / "job"
    a_job = job(folder, work, count=2000)
    run(a_job, Serial())
    rows = tiles(2000)
    numbers = rows["number"].to_pylist()
    numbers[100] = 7
    changed = rows.set_column(1, "number", [numbers])
    new = pa.table({"id": ["new"], "number": [5]})
    changed = pa.concat_tables([changed.slice(0, 1000), new, changed.slice(1001)])
    assert run(replace(a_job, rows=changed), Serial()) < 1000
    products = {row["id"]: row["product"] for row in open_results(folder).to_table().to_pylist()}
    assert products["tile-000100"] == 21
    assert products["new"] == 15
    assert "tile-001000" not in products
    assert len(products) == 2000


def test_bad_tiles_are_recorded_and_tried_again_on_request(tmp_path: Path, work: Multiply) -> None:
    """A bad tile is no result; after `forget_errors` it alone is tried, and then is like others."""
    run(job(tmp_path / "good", work), Serial())
    folder = tmp_path / "job"
    bad = replace(work, always=(("tile-000009", "say"), ("tile-000010", "raise")))
    assert run(job(folder, bad), Serial()) == 600
    assert sorted(read_errors(folder), key=lambda error: error.id) == [
        TileError(id="tile-000009", kind=FailureKind.RAISED, message="it is black", attempts=3),
        TileError(
            id="tile-000010",
            kind=FailureKind.RAISED,
            message="ValueError: something is wrong (batch_works.py:"
            + str(_line_of("raise ValueError"))
            + ")",
            attempts=4,
        ),
    ]
    assert (status(folder).done, status(folder).failed, status(folder).left) == (598, 2, 0)
    assert run(job(folder, bad), Serial()) == 0
    assert forget_errors(folder) == 2
    assert status(folder).left == 2
    assert run(job(folder, bad), Serial()) == 2
    assert forget_errors(folder) == 2
    assert run(job(folder, work), Serial()) == 2
    assert content(folder) == content(tmp_path / "good")


def _line_of(text: str) -> int:
    lines = (Path(__file__).parent / "batch_works.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_chunk_without_good_tiles_is_done(tmp_path: Path, work: Multiply) -> None:
    """A job whose tiles are all bad ends, with an error for each and no result."""
    ids = [f"tile-{i:06d}" for i in range(30)]
    bad = replace(work, always=tuple((name, "raise") for name in ids))
    assert run(job(tmp_path / "job", bad, count=30), Serial()) == 30
    assert sorted(error.id for error in read_errors(tmp_path / "job")) == ids
    assert open_results(tmp_path / "job").to_table().schema == work.schema


def test_a_work_that_loses_tiles_gives_no_results(tmp_path: Path) -> None:
    """A work that returns other tiles than it was given is found out."""
    run(job(tmp_path / "job", Careless(), count=20), Serial())
    errors = list(read_errors(tmp_path / "job"))
    assert len(errors) == 20
    assert all("did not return one row per tile" in error.message for error in errors)


def test_progress_and_status_agree(tmp_path: Path, work: Multiply) -> None:
    """What the last record says is what the folder says, and the rest takes no time."""
    bad = replace(work, raising=100)
    records = list(run_job(job(tmp_path / "job", bad), Serial()))
    last, now = records[-1], status(tmp_path / "job")
    assert (last.planned, last.done, last.failed) == (600, 594, 6)
    assert (now.planned, now.done, now.failed, now.left) == (600, 594, 6, 0)
    assert last.tried == 600
    assert now.rate == pytest.approx(last.rate, rel=0.5)
    assert now.seconds_left == 0
    assert (now.kind, now.running, now.stopping) == ("test", None, False)


def test_results_can_be_read_while_a_job_runs(tmp_path: Path, work: Multiply) -> None:
    """After each record the results so far are there, as is who works on them."""
    running = run_job(job(tmp_path / "job", work), Serial())
    for number, progress in enumerate(running):
        assert open_results(tmp_path / "job").count_rows() == progress.done
        assert f"process {os.getpid()} on" in (status(tmp_path / "job").running or "")
        if number == 3:
            break
    running.close()
    assert status(tmp_path / "job").running is None


def test_a_job_stops_on_request_and_goes_on(tmp_path: Path, work: Multiply) -> None:
    """A stopped run ends early; the next one forgets the request and does the rest."""
    folder = tmp_path / "job"
    done = 0
    for number, progress in enumerate(run_job(job(folder, work), Serial())):
        done += progress.rows
        if number == 2:
            request_stop(folder)
            assert status(folder).stopping
    assert 0 < done < 600
    assert status(folder).left == 600 - done
    assert run(job(folder, work), Serial()) == 600 - done
    with pytest.raises(JobError, match="no job is running in"):
        request_stop(folder)


def test_a_second_driver_is_refused(tmp_path: Path, work: Multiply) -> None:
    """While one works, others may neither run the job nor forget its errors; one line says who."""
    folder = tmp_path / "job"
    running = run_job(job(folder, work), Serial())
    next(running)
    refusal = rf"locked by process {os.getpid()} on \S+; wait"
    with pytest.raises(JobError, match=refusal):
        run(job(folder, work), Serial())
    with pytest.raises(JobError, match=refusal):
        forget_errors(folder)
    assert sum(progress.rows for progress in running) > 0
    assert status(folder).left == 0


def test_leftovers_are_swept_and_damaged_parts_done_again(tmp_path: Path, work: Multiply) -> None:
    """Temporary files of a crash vanish, and a part that cannot be read is made anew."""
    folder = tmp_path / "job"
    run(job(folder, work), Serial())
    expected = content(folder)
    part = sorted((folder / "parts").iterdir())[0]
    rows = pq.read_metadata(part).num_rows
    part.write_bytes(part.read_bytes()[:-20])
    leftovers = [folder / ".job.json.1.tmp", part.with_name(f".{part.name}.1.tmp")]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    assert run(job(folder, work), Serial()) == rows
    assert content(folder) == expected
    assert not any(leftover.exists() for leftover in leftovers)


def test_tiles_missing_in_a_part_are_done(tmp_path: Path, work: Multiply) -> None:
    """A crash between a part and its errors leaves tiles without either: they are done again."""
    folder = tmp_path / "job"
    bad = replace(work, always=(("tile-000009", "raise"),))
    run(job(folder, bad), Serial())
    expected = content(folder)
    for path in (folder / "errors").iterdir():
        path.unlink()
    assert run(job(folder, bad), Serial()) == 1
    assert content(folder) == expected


def test_a_job_that_was_killed_at_its_start_begins(tmp_path: Path, work: Multiply) -> None:
    """A folder with a lock and the first file half written is taken for a new one."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / ".job.json.1.tmp").write_bytes(b"{")
    assert run(job(folder, work), Serial()) == 600


def test_other_folders_are_left_alone(tmp_path: Path, work: Multiply) -> None:
    """A folder with other files, another job or another format is refused without a trace."""
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").touch()
    with pytest.raises(JobError, match="not a job folder"):
        run(job(foreign, work), Serial())
    assert [path.name for path in foreign.iterdir()] == ["cat.jpg"]
    with pytest.raises(JobError, match="not a job folder"):
        status(foreign)
    folder = tmp_path / "job"
    a_job = job(folder, work)
    run(a_job, Serial())
    with pytest.raises(JobError, match="contains a job test; expected other"):
        run(replace(a_job, kind="other"), Serial())
    description = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(JobError, match="format 99"):
        run(a_job, Serial())
    (folder / "job.json").write_text("{")
    with pytest.raises(JobError, match="damaged"):
        status(folder)


def test_results_of_a_new_job_are_asked_for_too_early(tmp_path: Path, work: Multiply) -> None:
    """Before the first chunk there are no results, no rate and no time left."""
    running = run_job(
        job(tmp_path / "job", replace(work, always=(("tile-000000", "full"),))), Serial()
    )
    with pytest.raises(OutputError, match="disk is full"):
        next(running)
    with pytest.raises(JobError, match="no results yet"):
        open_results(tmp_path / "job")
    now = status(tmp_path / "job")
    assert (now.rate, now.seconds_left, now.left) == (None, None, 600)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (tiles(3).slice(0, 0), "no tiles"),
        (pa.table({"name": ["a"]}), "lack ids"),
        (pa.table({"id": [1, 2]}), "lack ids"),
        (pa.table({"id": ["a", "b", "a"]}), "not unique"),
        (pa.table({"id": ["a", None]}), "missing"),
    ],
)
def test_rows_need_ids(tmp_path: Path, work: Multiply, rows: pa.Table, message: str) -> None:
    """Rows without ids, or with ids that name no single tile, are refused."""
    with pytest.raises(JobError, match=message):
        run(Job(folder=tmp_path / "job", kind="test", rows=rows, work=work), Serial())


@pytest.mark.parametrize(
    ("closed", "serial", "error", "message"),
    [
        (Closed(), True, ModelError, "there is no checkpoint x; train the target first."),
        (Closed(), False, ModelError, "there is no checkpoint x; train the target first."),
        (Closed(bug=True), True, KeyError, "weights"),
        (Closed(bug=True), False, JobError, "cannot start .KeyError: 'weights' .batch_works"),
        (Closed(hang=True), False, JobError, "cannot start .no answer within 12 s, it was in"),
    ],
)
def test_a_work_that_does_not_open_ends_the_job(
    tmp_path: Path, closed: Closed, serial: bool, error: type[Exception], message: str
) -> None:
    """No tile is blamed when the model is missing, loading it fails or takes too long."""
    executor = (
        Serial() if serial else Processes(workers=1, opening_seconds=12.0 if closed.hang else 200.0)
    )
    with pytest.raises(error, match=message):
        run(job(tmp_path / "job", closed), executor)
    assert list(read_errors(tmp_path / "job")) == []


def test_a_work_that_others_cannot_import_is_refused(tmp_path: Path, work: Multiply) -> None:
    """A work whose class is local to a function cannot go to another process."""

    class Local(Multiply):
        pass

    local = Local(folder=work.folder)
    with pytest.raises(JobError, match="define it in a module"):
        run(job(tmp_path / "job", local), Processes(workers=1))
