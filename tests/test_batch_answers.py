"""`rslow batch score` where a target has no answer to some tiles, or to none of them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from numpy.typing import NDArray

from tests.conftest import Run, WriteTile
from tests.make_tiles import BANDS, make_tiles

TARGET = {
    "kind": "callable",
    "python": f"{__name__}:sure",
    "bands": f"[{', '.join(BANDS)}]",
    "classes": "[woods, meadow, fields]",
}


def sure(image: NDArray[Any]) -> NDArray[Any]:
    """Return logits that grow with a band each."""
    return np.asarray(image[:, 3:].mean((2, 3)) * [4, 5, 6] - 1)


def silent(image: NDArray[Any]) -> NDArray[Any]:
    """Return NaN for the greenest tiles and infinity for those with bare soil."""
    answer = sure(image)
    near, red = image[:, 3].mean((1, 2)), image[:, 2].mean((1, 2))
    answer[(near > 0.3) & (near > 2 * red)] = np.nan
    answer[(red > 0.085) & (near > 1.5 * red)] = np.inf
    return answer


def dark(image: NDArray[Any]) -> NDArray[Any]:
    """Return NaN where there is nothing, as a ratio of bands does."""
    answer = sure(image)
    answer[~image.any((1, 2, 3))] = np.nan
    return answer


def small(image: NDArray[Any]) -> NDArray[Any]:
    """Take tiles of 16 pixels and no others."""
    return sure(image.reshape(len(image), -1, 16, 16))


@pytest.fixture
def catalog(tmp_path: Path, rslow: Run) -> Path:
    """Return a folder with a catalog of 24 tiles of 32 pixels and six bands."""
    make_tiles(tmp_path / "tiles", 8)
    assert build(rslow, tmp_path).code == 0
    return tmp_path


def build(rslow: Run, folder: Path, **data: str) -> Any:
    values = {"kind": "folder", "root": f"{folder / 'tiles'}", "tile_size": "32", **data}
    words = [word for name, value in values.items() for word in ("-s", f"data.{name}={value}")]
    return rslow("catalog", "build", "-s", f"run.dir={folder / 'run'}", *words)


EMBEDDED = {"kind": "embedded"}


def score(rslow: Run, folder: Path, **target: str) -> Any:
    values = target if target == EMBEDDED else TARGET | target
    words = [word for name, value in values.items() for word in ("-s", f"target.{name}={value}")]
    return rslow(
        "batch", "score", "--trust-code", "-s", f"run.dir={folder / 'run'}",
        "-s", "batch.executor=serial", "-s", "batch.seconds=null", "-s", "batch.chunk=10", *words,
    )  # fmt: skip


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(folder / "run" / "batch" / "score" / "scores.parquet")
    return {row["id"]: row for row in table.to_pylist()}


def pixels_of(folder: Path, tile: str) -> NDArray[Any]:
    name = tile.removeprefix("tiles/").removesuffix("_r00000_c00000")
    with rasterio.open(folder / "tiles" / f"{name}.tif") as file:
        return np.asarray(file.read(), np.float32)[None] / 10_000


def test_a_tile_without_an_answer_is_a_failed_tile(catalog: Path, rslow: Run) -> None:
    """NaN and infinity are never stored; these tiles fail with the reason, the others do not.

    The oracle is the function, asked about each tile by hand.
    """
    assert score(rslow, catalog).code == 0
    before = rows(catalog)
    ran = score(rslow, catalog, python=f"{__name__}:silent")
    assert ran.code == 0, ran.err
    after = rows(catalog)
    good = {tile for tile in before if np.isfinite(silent(pixels_of(catalog, tile))).all()}
    assert 0 < len(good) < len(before)
    assert after == {tile: before[tile] for tile in good}
    bad = len(before) - len(good)
    assert f"{len(good)} of {len(before)} tiles done, {bad} failed" in ran.out
    assert f"{bad} raised: the target returns NaN or infinity" in ran.out


def test_what_fills_a_batch_does_not_count(catalog: Path, rslow: Run) -> None:
    """A target that has no answer to empty tiles has one to all of these."""
    ran = score(rslow, catalog, python=f"{__name__}:dark")
    assert "24 of 24 tiles done, 0 failed" in ran.out
    assert score(rslow, catalog, python=f"{__name__}:dark", batch_size="5").code == 0


@pytest.mark.parametrize(
    ("data", "target", "code", "message"),
    [
        ({"level": "L2A"}, {}, 4, "the tile is L2A; expected L1C"),
        ({}, {"bands": "[B02, B03, B05, B8A, B11, B12]"}, 4, "bands B05, B8A are missing"),
        ({}, {"python": f"{__name__}:small"}, 5, "rejects 3 tiles of 6 bands and 32 pixels"),
        ({}, {"classes": "[a, b, c, d]"}, 5, "expected (3, 4), one number per tile and class"),
        ({}, EMBEDDED, 4, "bands B01"),
    ],
    ids=["level", "bands", "tile size", "classes", "embedded"],
)  # fmt: skip
def test_a_mismatch_of_the_whole_job_is_one_line(  # noqa: PLR0917
    catalog: Path, rslow: Run, data: dict[str, str], target: dict[str, str], code: int, message: str
) -> None:
    """Where no tile fits the target, the job ends with one line and no tile scored or failed."""
    assert build(rslow, catalog, **data).code == 0
    ran = score(rslow, catalog, **target)
    assert ran.code == code, ran.err
    assert "tiles done" not in ran.out
    assert message in ran.err
    assert ran.err.count("\n") == 1
    status = rslow("batch", "status", "-s", f"run.dir={catalog / 'run'}")
    assert "score: 0 of 24 tiles done, 0 failed, 24 left" in status.out


def test_tiles_of_another_size_are_refused_by_the_embedded_target(
    tmp_path: Path, rslow: Run, write_tile: WriteTile
) -> None:
    """EuroSAT's classifier takes tiles of 64 pixels; a catalog of 32 ends with one line."""
    for number in range(3):
        write_tile(tmp_path / "tiles" / "a" / f"{number}.tif", seed=number)
    assert build(rslow, tmp_path).code == 0
    ran = score(rslow, tmp_path, **EMBEDDED)
    assert ran.code == 5
    assert "(13, 32, 32); expected (13, 64, 64)" in ran.err
    assert ran.err.count("\n") == 1


def test_a_part_that_does_not_fit_fails_alone(catalog: Path, rslow: Run) -> None:
    """Where some tiles fit, the job goes on, and each of the others has its reason."""
    assert build(rslow, catalog, level="L2A").code == 0
    run = catalog / "run"
    (run / "catalog.parquet").rename(run / "l2a.parquet")
    assert build(rslow, catalog).code == 0
    (run / "catalog.parquet").rename(run / "l1c.parquet")
    table = pq.read_table(run / "l2a.parquet")
    names = [f"other/{name}" for name in table["id"].to_pylist()]
    changed = table.set_column(table.schema.get_field_index("id"), "id", [names])
    pq.write_table(changed, run / "l2a.parquet")
    merged = rslow(
        "catalog", "merge", run / "l1c.parquet", run / "l2a.parquet", "-s", f"run.dir={run}"
    )
    assert merged.code == 0, merged.err
    ran = score(rslow, catalog)
    assert ran.code == 0, ran.err
    assert "24 of 48 tiles done, 24 failed" in ran.out
    assert "24 raised: the tile is L2A; expected L1C" in ran.out
    assert Counter(tile.startswith("other/") for tile in rows(catalog)) == {False: 24}


def test_results_of_a_run_in_the_home_folder_lie_there(
    catalog: Path, rslow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """~ means the home folder in settings and on the command line, and no folder is called ~."""
    work = catalog / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(catalog))
    ran = score(rslow, Path("~"))
    assert ran.code == 0, ran.err
    assert str(catalog / "run" / "batch" / "score" / "scores.parquet") in ran.out
    assert len(rows(catalog)) == 24
    status = rslow("batch", "status", "~/run/batch/score")
    assert "24 of 24 tiles done" in status.out
    ran = rslow("catalog", "check", "-s", "run.dir=~/run", "--json=~/report.json")
    assert ran.code == 0, ran.err
    assert (catalog / "report.json").is_file()
    (catalog / "settings.yaml").write_text("run: {dir: ~/run}\n")
    assert rslow("batch", "status", "-c", "~/settings.yaml").out == status.out
    assert not list(work.iterdir())


def by_pixel(image: NDArray[Any]) -> NDArray[Any]:
    """Return logits of every pixel."""
    return np.asarray(image[:, 3:] * 4 - 1)


SHOWN = (
    (("batch", "review"), ("search.tau=0.999999",)),
    (("batch", "suspects"), ()),
    (("estimate", "draw"), ("estimate.budget=20",)),
)


@pytest.mark.parametrize(("command", "more"), SHOWN, ids=["review", "suspects", "draw"])
def test_tiles_with_scores_are_shown_without_trust(
    catalog: Path, rslow: Run, command: tuple[str, str], more: tuple[str, ...]
) -> None:
    """What shows tiles to people runs no classifier: it takes classes and scores from the job."""
    assert score(rslow, catalog).code == 0
    ran = shown(rslow, catalog, command, *more)
    assert ran.code == 0, ran.err
    assert "--trust-code" not in ran.out
    package = re.findall(r"Open in QGIS: (.*)/review.qgz", ran.out)[0]
    manifest = json.loads((Path(package) / "manifest.json").read_text())
    assert set(manifest["classes"]) == {"woods", "meadow", "fields"}
    assert manifest["samples"]


@pytest.mark.parametrize("told", [True, False], ids=["now", "earlier version"])
def test_masks_need_trust_and_so_do_scores_that_do_not_say_what_they_are_of(
    catalog: Path, rslow: Run, told: bool
) -> None:
    """A segmenter runs again for its masks; scores of earlier versions do not say what it is."""
    changes = {"python": f"{__name__}:by_pixel"} if told else {}
    assert score(rslow, catalog, **changes).code == 0
    parts = [*(catalog / "run" / "batch" / "score" / "parts").glob("part-*")]
    for path in [] if told else parts:
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    command, more = SHOWN[0]
    ran = shown(rslow, catalog, command, *more, **changes)
    assert ran.code == 5
    assert ran.err.count("\n") == 1
    assert "--trust-code" in ran.err
    assert shown(rslow, catalog, command, *more, "--trust-code", **changes).code == 0


def shown(rslow: Run, folder: Path, command: tuple[str, str], *more: str, **target: str) -> Any:
    """Run a command that shows tiles, with the target of `score`."""
    values = [f"target.{name}={value}" for name, value in (TARGET | target).items()]
    values += [f"run.dir={folder / 'run'}", *(word for word in more if not word.startswith("--"))]
    options = [word for word in more if word.startswith("--")]
    return rslow(*command, *options, *(word for value in values for word in ("-s", value)))
