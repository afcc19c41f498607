"""`rslow batch generate`: variants in their place, read back from the files it writes."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from torch import Tensor, nn

from rs_lowconf.models import known_to_encoder
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.search.distances import load_distances
from rs_lowconf.settings import load
from rs_lowconf.target.trained import load_trained
from tests.conftest import Run, run_program, train_models

CPU = torch.device("cpu")
#: The tiny GAN redraws nothing well, so its bounds are wide.
WORDS = (
    "-s", "variants.inversion.quantile=0.9", "-s", "variants.inversion.steps=15",
    "-s", "variants.budget=0.99", "-s", "variants.count=2", "-s", "variants.attempts=3",
    "-s", "search.false_rejection=0.2", "-s", "search.max_age=15", "-s", "search.tau=0.47",
    "-s", "batch.executor=serial", "-s", "batch.seconds=null", "-s", "batch.chunk=6",
    "-s", "batch.splits=[val, test]",
)  # fmt: skip


@pytest.fixture(scope="module")
def encoded(trained: Path) -> Path:
    """Return the trained folder with an encoder."""
    config = trained / "encoder.yaml"
    text = (trained / "config.yaml").read_text()
    config.write_text(f"{text}encoder: {{images: 320, ema_images: 100}}\n")
    train_models(config, "encoder")
    return trained


@pytest.fixture
def catalogued(encoded: Path, project: Path, rslow: Run) -> Path:
    """Return a project with models, encoder and a catalog of all its tiles."""
    assert encoded
    ran = rslow("catalog", "build", "-c", project / "config.yaml")
    assert ran.code == 0, ran.err
    return project


@pytest.fixture(scope="module")
def generated(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose job is done, for tests that only read it."""
    folder = tmp_path_factory.mktemp("generated") / "project"
    shutil.copytree(encoded, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(encoded), str(folder)))
    ran = run_program("catalog", "build", "-c", config)
    assert ran.code == 0, ran.err
    ran = generate(run_program, folder)
    assert ran.code == 0, ran.err
    return folder


def generate(rslow: Run, folder: Path, *words: str) -> Any:
    """Run the job."""
    return rslow("batch", "generate", "-c", folder / "config.yaml", *WORDS, *words)


def folder_of(project: Path) -> Path:
    """Return where the job works."""
    return project / "run" / "batch" / "generate"


def variants(project: Path) -> list[dict[str, Any]]:
    """Return the table of variants, sorted."""
    table = pq.read_table(folder_of(project) / "variants.parquet")
    return sorted(table.to_pylist(), key=lambda one: str(one["sample_id"]))


def test_variants_lie_on_their_tiles_and_are_what_the_tables_say(generated: Path) -> None:
    """Read back: the grid of the real tile, marks, confidence, distances within the budget."""
    folder = folder_of(generated)
    report = json.loads((folder / "report.json").read_text())
    tiles = {one["id"]: one for one in pq.read_table(folder / "tiles.parquet").to_pylist()}
    found = variants(generated)
    assert report["tiles"] == len(tiles) == sum(report["endings"].values())
    assert report["variants"] == len(found) > 5
    target = load_trained(generated / "run" / "target" / "target.safetensors", CPU)
    path = generated / "run" / "encoder" / "distances.safetensors"
    distances = load_distances(path, known_to_encoder(load(generated / "config.yaml")))
    for one in found:
        tile = tiles[one["id"]]
        assert tile["outcome"] == "varied"
        assert tile["pixel_error"] <= tile["pixel_bound"]
        assert tile["feature_error"] <= tile["feature_bound"]
        label = torch.tensor([distances.classes.index(tile["group"])])
        budget = distances.bound(label, 0.99)[0].tolist()
        assert one["pixel_distance"] <= budget[0]
        assert one["feature_distance"] <= budget[1]
        name = one["id"].split("/")[-1].removesuffix("_r00000_c00000")
        real_path = next((generated / "tiles").glob(f"*/{name}.tif"))
        with rasterio.open(folder / one["file"]) as file, rasterio.open(real_path) as real:
            assert (file.crs, file.transform, file.shape) == (real.crs, real.transform, real.shape)
            assert file.tags()["RSLOW_SYNTHETIC"] == "true"
            assert one["id"] in file.tags()["RSLOW_DERIVED_FROM"]
            pixels, before = file.read(), real.read()
            order = [file.descriptions.index(band) for band in target.bands.names]
        image = torch.from_numpy(pixels.astype(np.float32) / 10_000)[None]
        told = float(target.predict(image[:, order]).max().exp())
        assert told == pytest.approx(one["confidence"], abs=1e-5)
        assert told < 0.47
        spread = distances.spread.numpy()[:, None, None]
        apart = (pixels.astype(float) - before) / 10_000 / spread
        assert np.sqrt((apart**2).mean()) == pytest.approx(one["pixel_distance"], rel=1e-3)
    assert len({one["sample_id"] for one in found}) == len(found)
    store = ReviewStore(generated / "run" / STORE)
    (package,) = store.packages()
    assert {one.sample_id for one in store.samples(package.package_id)} == {
        one["sample_id"] for one in found
    }
    assert (folder / "review" / "context.qgz").is_file()
    assert (folder / "sheet.png").is_file()
    page = html.unescape((folder / "report.html").read_text())
    assert all(f'<article id="{one["sample_id"]}"' in page for one in found)
    assert page.count("<article") == len(found)
    varied = report["endings"]["varied"]
    assert f"{len(found)} variants on which" in page
    assert f"around {varied} of {report['tiles']} real tiles" in page


@pytest.mark.slow
def test_chunks_and_processes_change_no_variant(
    generated: Path, rslow: Run, tmp_path: Path
) -> None:
    """Another company and other processes: the same variants to the last bit."""
    alone = variants(generated)
    files = {one["file"]: (folder_of(generated) / one["file"]).read_bytes() for one in alone}
    words = (
        "-s", "batch.executor=process", "-s", "batch.workers=2", "-s", "batch.seconds=300",
        "-s", "batch.chunk=4", "-s", "search.slots=3",
        "-s", f"catalog.path={generated / 'run' / 'catalog.parquet'}",
    )  # fmt: skip
    other = tmp_path / "other"
    for name in ("target", "extractor", "gan", "gate", "encoder"):
        (other / name).mkdir(parents=True)
        for path in (generated / "run" / name).glob("*.safetensors"):
            (other / name / path.name).write_bytes(path.read_bytes())
    ran = generate(rslow, generated, *words, "-s", f"run.dir={other}")
    assert ran.code == 0, ran.err
    table = pq.read_table(other / "batch" / "generate" / "variants.parquet").to_pylist()
    assert sorted(table, key=lambda one: str(one["sample_id"])) == alone
    for file, content in files.items():
        assert (other / "batch" / "generate" / file).read_bytes() == content


def test_the_page_judges_by_common_names(generated: Path, rslow: Run, tmp_path: Path) -> None:
    """Where all classes mean the same, the target takes no variant for another class."""
    other = tmp_path / "run"
    shutil.copytree(generated / "run", other)
    page = other / "batch" / "generate" / "report.html"
    assert "taken for" in page.read_text()
    tiles = pq.read_table(folder_of(generated) / "tiles.parquet")
    names = {*tiles["condition"].to_pylist(), *(one["predicted"] for one in variants(generated))}
    common = ", ".join(f"{name}: land" for name in sorted(names))
    words = ("-s", f"run.dir={other}", "-s", f"target.class_map={{{common}}}")
    catalog = f"catalog.path={generated / 'run' / 'catalog.parquet'}"
    ran = generate(rslow, generated, *words, "-s", catalog)
    assert ran.code == 0, ran.err
    assert "taken for" not in page.read_text()
    assert "Common names of classes" in page.read_text()


@pytest.mark.slow
def test_a_second_run_does_nothing_and_other_settings_all(catalogued: Path, rslow: Run) -> None:
    """Files keep their times; a stricter bound makes other endings, and no old file stays."""
    assert generate(rslow, catalogued).code == 0
    folder = folder_of(catalogued)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    # The number of samples of `rslow generate` is nothing that variants depend on.
    ran = generate(rslow, catalogued, "-s", "search.count=9")
    assert ran.code == 0, ran.err
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    changed = {path.name for path in before if kept[path] != before[path]}
    assert changed <= {"lock", "job.json"}
    more = len(variants(catalogued))
    assert generate(rslow, catalogued, "-s", "variants.inversion.quantile=0.5").code == 0
    fewer = variants(catalogued)
    assert len(fewer) < more
    assert {path.name for path in (folder / "variants").iterdir()} == {
        Path(one["file"]).name for one in fewer
    }
    assert (folder / "review").is_dir()


def test_what_the_generator_cannot_draw_is_told(catalogued: Path, rslow: Run) -> None:
    """Tiles of another level, or with pixels without data, fail with the reason."""
    path = catalogued / "tiles" / "woods" / "woods_003.tif"
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[:, :3, :3] = 0
        file.write(pixels)
    build = ("catalog", "build", "-c", catalogued / "config.yaml")
    assert rslow(*build, "-s", "data.max_nodata=0.5").code == 0
    # Little is tried with the others, of which nothing is looked at.
    hasty = ("-s", "variants.inversion.steps=1", "-s", "variants.attempts=1",
             "-s", "search.max_age=1", "-s", "variants.count=1")  # fmt: skip
    ran = generate(rslow, catalogued, "-s", "batch.splits=null", "-s", "batch.per_class=40", *hasty)
    assert ran.code == 0, ran.err
    assert "9 of its pixels have no data" in ran.out
    assert rslow(*build, "-s", "data.max_nodata=0.5", "-s", "data.level=L2A").code == 0
    ran = generate(rslow, catalogued)
    assert ran.code == 4
    assert "the tile is L2A" in ran.err
    assert "tiles done" not in ran.out


class Quiet(nn.Module):
    """The trained target, which after its first tiles has no answer to every fourth or so."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        self._whole = load_trained(Path(os.environ["QUIET_TARGET"]), CPU)

    def forward(self, image: Tensor) -> Tensor:
        # Before anything else the adapter tries four tiles of its own.
        chosen = (image.detach().double().sum((1, 2, 3)) * 1e4).long() % 4 == 0
        if self._asked < 4:
            chosen[:] = False
        self._asked += len(image)
        return self._whole.predict(image).masked_fill(chosen[:, None], torch.nan)


@pytest.mark.slow
def test_tiles_without_an_answer_fail_alone(
    catalogued: Path, rslow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real tile without an answer is a failed tile; generated ones are counted by reason."""
    path = catalogued / "run" / "target" / "target.safetensors"
    monkeypatch.setenv("QUIET_TARGET", str(path))
    whole = load_trained(path, CPU)
    target = {
        "kind": "python", "python": f"{__name__}:Quiet", "level": whole.bands.level,
        "bands": f"[{', '.join(whole.bands.names)}]", "classes": f"[{', '.join(whole.classes)}]",
    }  # fmt: skip
    words = [word for name, value in target.items() for word in ("-s", f"target.{name}={value}")]
    ran = generate(rslow, catalogued, "--trust-code", *words, "-s", "batch.splits=null")
    assert ran.code == 0, ran.err
    failed = int(re.findall(r"(\d+) failed", ran.out)[-1])
    assert failed > 0
    assert f"{failed} raised: the target returns NaN or infinity" in ran.out
    report = json.loads((folder_of(catalogued) / "report.json").read_text())
    assert report["tiles"] + failed == 48
    ((reason, count),) = report["unanswered"]["by_reason"].items()
    assert reason == "the target returns NaN or infinity"
    assert report["unanswered"]["tiles"] == count > 0
    assert f"no answer to {count:,} tiles around the tiles" in ran.told
    tiles = pq.read_table(folder_of(catalogued) / "tiles.parquet").to_pylist()
    assert sum(dict(one["unanswered"]).get(reason, 0) for one in tiles) == count
    assert all(0 < one["confidence"] < 0.47 for one in variants(catalogued))


def test_without_an_encoder_it_says_how_to_get_one(catalogued: Path, rslow: Run) -> None:
    """One line, before anything begins."""
    (catalogued / "run" / "encoder" / "encoder.safetensors").unlink()
    ran = generate(rslow, catalogued)
    assert ran.code != 0
    assert "encoder" in ran.err
    assert not folder_of(catalogued).exists()


def test_quotas_choose_tiles_by_class(catalogued: Path, rslow: Run) -> None:
    """So many tiles of each class are worked on, the same ones again."""
    ran = generate(rslow, catalogued, "-s", "batch.per_class=2")
    assert ran.code == 0, ran.err
    tiles = pq.read_table(folder_of(catalogued) / "tiles.parquet").to_pylist()
    assert len(tiles) == 6


@pytest.mark.slow
def test_a_system_that_is_not_posix(catalogued: Path) -> None:
    """No module needs `fcntl` or `resource`; a search runs in one process without them."""
    words = [sys.executable, "-m", "tests.other_system", "batch", "generate"]
    ran = subprocess.run(
        [*words, "-c", str(catalogued / "config.yaml"), *WORDS, "-s", "batch.splits=[test]"],
        cwd=Path(__file__).parents[1],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert variants(catalogued)
