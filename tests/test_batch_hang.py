"""A real job whose target hangs on a tile, in whatever way: the others are as ever."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import rasterio

from rs_lowconf.batch import read_errors
from tests.batch_works import content
from tests.conftest import Run
from tests.make_tiles import BANDS, make_tiles
from tests.slow_targets import MARK, MENDED

MARKED = "woods/woods_003"

_CONFIG = """
run: {{dir: {folder}/run, threads: 1}}
data: {{kind: folder, root: {folder}/tiles, tile_size: 32}}
target: {{kind: callable, python: tests.slow_targets:hanging, bands: [{bands}],
         classes: [woods, meadow, fields]}}
search: {{micro_batch: 4}}
batch: {{executor: process, workers: 2, chunk: 8}}
"""

_SERVE = f"{sys.executable}, 'package:rs_lowconf/target/serve.py'"
KINDS = {
    "callable": ("target.kind=callable", "target.python=tests.slow_targets:hanging"),
    "process": ("target.kind=process", f"target.command=[{_SERVE}, 'tests.slow_targets:hanging']"),
}


@pytest.fixture
def config(tmp_path: Path, rslow: Run) -> Path:
    """Return settings beside a catalog of 24 tiles, one of them marked."""
    make_tiles(tmp_path / "tiles", 8)
    with rasterio.open(tmp_path / "tiles" / f"{MARKED}.tif", "r+") as file:
        pixels = file.read()
        pixels[0, 0, 0] = MARK
        file.write(pixels)
    path = tmp_path / "config.yaml"
    path.write_text(_CONFIG.format(folder=tmp_path, bands=", ".join(BANDS)))
    ran = rslow("catalog", "build", "-c", path)
    assert ran.code == 0, ran.err
    return path


def running(text: str) -> list[str]:
    """Return the command lines of processes that hold a text."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            lines.append(path.read_text(errors="replace"))
    return [line for line in lines if text in line]


@pytest.mark.parametrize(
    "case",
    [
        ("callable", 8, 60, "hung: no answer within .* it was in hanging"),
        pytest.param(
            ("process", 4, 60, "hung: no answer within .* it was in _header"),
            marks=pytest.mark.slow,
        ),
        ("process", 60, 4, "raised: .* was killed after target.batch_seconds=4"),
    ],
)
def test_a_target_that_hangs_on_a_tile(
    config: Path, rslow: Run, monkeypatch: pytest.MonkeyPatch, case: tuple[str, int, int, str]
) -> None:
    """It is an error, the others have their scores, no process stays; mended, all are as ever."""
    kind, chunk_seconds, batch_seconds, message = case
    seconds = [f"target.batch_seconds={batch_seconds}"] if kind == "process" else []
    options = [*KINDS[kind], *seconds]
    words = ["batch", "score", "-c", config, "--trust-code"]
    words += [word for option in options for word in ("-s", option)]
    job = config.parent / "run" / "batch" / "score"
    ran = rslow(*words, "-s", f"batch.seconds={chunk_seconds}")
    assert ran.code == 0, ran.err
    assert "23 of 24 tiles done, 1 failed" in ran.out
    errors = {error.id: f"{error.kind.value}: {error.message}" for error in read_errors(job)}
    assert list(errors) == [f"tiles/{MARKED}_r00000_c00000"]
    assert re.match(message, errors[f"tiles/{MARKED}_r00000_c00000"]), errors
    assert running("slow_targets:hanging") == []
    monkeypatch.setenv(MENDED, "1")
    here = ("-s", "batch.executor=serial", "-s", "batch.seconds=null")
    assert rslow("batch", "retry", "-c", config).code == 0
    assert "24 of 24 tiles done" in rslow(*words, *here).out
    other = config.parent / "undisturbed"
    catalog = f"catalog.path={config.parent}/run/catalog.parquet"
    assert rslow(*words, *here, "-s", f"run.dir={other}", "-s", catalog).code == 0
    assert content(job) == content(other / "batch" / "score")
