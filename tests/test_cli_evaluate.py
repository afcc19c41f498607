"""`rslow evaluate` as a user meets it."""

import html
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rs_lowconf.cli import main
from tests.conftest import WriteTile, train_models

CONFIG = """
run: {{dir: {folder}/run, models: trained, threads: 1}}
data: {{kind: folder, root: {folder}/tiles, tile_size: 16}}
gan: {{width: 8, critic_width: 8, latent_global: 8, latent_map: 2, images: 160, batch_size: 8,
      checkpoint_images: 160, sheet_columns: 2}}
evaluate:
  tiles_per_class: 7
  reporter: {{width: 4, epochs: 3}}
  classifier: {{width: 4, epochs: 3}}
"""
BANDS = ("B02", "B03", "B04", "B08")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rslow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `rslow evaluate` in this process: code, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rslow", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_tile: WriteTile) -> Path:
    """Return a folder with tiles of three classes, a config and a barely trained GAN."""
    folder = tmp_path_factory.mktemp("trained")
    dice = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 5)):
        for k, name in enumerate(("field", "lake", "town")):
            for i in range(count):
                level = np.array([500, 800, 900, 2500 - 900 * k])[:, None, None]
                stripes = 150 * (np.arange(16) // (k + 1) % 2)
                noise = dice.normal(0, 40, (4, 16, 16))
                pixels = (level + dice.normal(0, 60) + stripes + noise).clip(1).astype(np.uint16)
                path = folder / "tiles" / split / name / f"{name}-{split}-{i}.tif"
                write_tile(path, bands=BANDS, pixels=pixels)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder))
    train_models(config, "extractor", "gan")
    return folder


@pytest.fixture(scope="module")
def evaluated(trained: Path) -> Path:
    """Return the folder of one evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rslow", "evaluate", "-c", str(trained / "config.yaml")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, None)
    return trained / "run" / "evaluate"


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_every_figure_has_its_number_and_interval_or_a_reason(evaluated: Path) -> None:
    """Each line of the report is measured with tiles and interval, or says why it is left out."""
    report = report_of(evaluated)
    assert report["tiles"] == {"generated": 21, "train": 24, "val": 12, "test": 15}
    figures = {one["name"]: one for group in report["figures"].values() for one in group}
    for wanted in ("KID-S2", "recall", "Vendi score", "NDVI distance", "CAS, decorrelated tiles"):
        assert figures[wanted]["measured"] is not None, wanted
    assert "B11" in figures["NDBI distance"]["note"]
    assert "left out" in figures["FD-S2"]["note"]
    for one in figures.values():
        if one["measured"] is None:
            assert one["note"].startswith("left out"), one
            continue
        for part in filter(None, (one["measured"], one["floor"])):
            low, high = part["interval_95"]
            assert low <= part["value"] <= high, one
            assert part["tiles"] > 0
    assert set(report["by_class"]) == {"field", "lake", "town"}
    assert set(report["by_band"]) == set(BANDS)


def test_table_and_pictures_are_there(evaluated: Path) -> None:
    """report.md holds every figure of report.json, and each plot opens as a picture."""
    table = (evaluated / "report.md").read_text()
    page = html.unescape((evaluated / "report.html").read_text())
    assert page.count("data:image/webp") == 5
    for group, own in report_of(evaluated)["figures"].items():
        assert f"## {group}" in table
        for one in own:
            assert f"| {one['name']} |" in table
            assert f"<th>{one['name']}</th>" in page
    plots = {path.name for path in (evaluated / "plots").iterdir()}
    assert plots == {"radial_power.png", "class_accuracy.png", "memorisation.png", "indices.png"}
    for name in plots:
        with Image.open(evaluated / "plots" / name) as picture:
            assert min(picture.size) > 200


def test_the_key_of_the_mixed_sheet_covers_every_tile(evaluated: Path) -> None:
    """All 21 tiles are on the sheet, mixed, each with class and id in the key alone."""
    key = json.loads((evaluated / "mixed.json").read_text())["tiles"]
    classes = [one["class"] for one in key.values()]
    assert len({one["id"] for one in key.values()}) == 21
    assert {name: classes.count(name) for name in classes} == {"field": 7, "lake": 7, "town": 7}
    assert classes != sorted(classes)
    with Image.open(evaluated / "mixed.png") as picture:
        assert picture.mode == "RGB"


def test_the_same_inputs_give_the_same_report(rslow: Run, trained: Path, evaluated: Path) -> None:
    """A second run reuses the reporter and writes the same bytes."""
    before = (evaluated / "report.json").read_bytes()
    reporter = (evaluated / "reporter.safetensors").stat().st_mtime_ns
    (evaluated / "report.json").unlink()
    code, out, err = rslow("-c", trained / "config.yaml")
    assert code == 0, err
    assert "report.md" in out
    assert "training the reporter" not in err
    assert (evaluated / "reporter.safetensors").stat().st_mtime_ns == reporter
    assert (evaluated / "report.json").read_bytes() == before


def test_another_recipe_trains_another_reporter(
    rslow: Run, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    """The cached reporter belongs to its settings; others replace it."""
    shutil.copytree(trained / "run", tmp_path / "run")
    words = ("-c", trained / "config.yaml", "-s", f"run.dir={tmp_path / 'run'}")
    code, _, err = rslow(
        *words, "-s", "evaluate.reporter.epochs=1", "-s", "evaluate.tiles_per_class=3"
    )
    assert code == 0, err
    assert "training the reporter: 1 of 1" in err
    report = report_of(tmp_path / "run" / "evaluate")
    assert report["reporter"]["settings"]["epochs"] == 1
    assert report["reporter"]["settings"]["width"] == 4
    assert report["tiles"]["generated"] == 9


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-s", "run.dir=nowhere"), 5, "train the gan first"),
        (("-s", "data.tile_size=32"), 5, "tiles of 16 pixels"),
        (("-s", "evaluate.tiles=3"), 3, "evaluate.tiles is unknown"),
        (("-s", "evaluate.classifier.architecture=big"), 3, "small_cnn"),
        (("-s", "data.root=nowhere"), 4, "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(
    rslow: Run, trained: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """Each mistake gives the documented exit code and says what is wrong."""
    ended, _, err = rslow("-c", trained / "config.yaml", "--name", "wrong", *words)
    lines = [line for line in err.splitlines() if line.startswith("rslow: ")]
    assert ended == code, err
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in err


def test_an_unwritable_folder_is_told_before_the_work(rslow: Run, trained: Path) -> None:
    """A file where the folder should be ends the command before anything is trained."""
    (trained / "run" / "blocked").write_text("")
    code, _, err = rslow("-c", trained / "config.yaml", "--name", "blocked")
    assert code == 8
    assert "training" not in err
