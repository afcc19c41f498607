"""The models inside the package: small, whole, documented, and enough to search with."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import geopandas
import pandas
import pytest
import torch

from rs_lowconf.album import ALBUM, open_album
from rs_lowconf.data.source import open_split
from rs_lowconf.errors import SettingsError
from rs_lowconf.gan.model import load_encoder, load_model
from rs_lowconf.models import checksums, known_to_encoder
from rs_lowconf.places import EMBEDDED, model_path
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.calibration import load_calibration
from rs_lowconf.search.distances import load_distances
from rs_lowconf.settings import load
from rs_lowconf.stored import reflectance_of
from rs_lowconf.target.load import load_target

CPU = torch.device("cpu")
TRAINING = EMBEDDED / "training" / "gan.safetensors"
MODELS = {path.stem: path for path in EMBEDDED.glob("*/*.safetensors") if path != TRAINING}
PROGRAM = [sys.executable, "-c", "from rs_lowconf.cli import main; main()"]
SMALL = ("--set", "search.count=3", "--set", "search.baseline_evaluations=0")


def test_they_are_complete_and_small_and_belong_together() -> None:
    """At most 12 MB; the gate was calibrated and the encoder trained for these very files."""
    gate = {"critic", "calibration"}
    targets = {"multispectral", "visible"}
    assert set(MODELS) == {"gan", "extractor", "encoder", "distances"} | gate | targets
    shipped = [path for path in EMBEDDED.rglob("*") if path.parent != TRAINING.parent]
    models = [path for path in shipped if ALBUM not in path.parents]
    assert sum(path.stat().st_size for path in models if path.is_file()) <= 12e6
    load_calibration(MODELS["calibration"], checksums(MODELS))
    known = known_to_encoder(load(None))
    load_encoder(MODELS["encoder"], {"gan": known["gan"]}, CPU)
    load_distances(MODELS["distances"], known)


def test_the_training_can_go_on() -> None:
    """Its checkpoint is whole, and its README says after how many images."""
    images = load_model(TRAINING, CPU).header["images"]
    assert f"{images:,} images" in (TRAINING.parent / "README.md").read_text()


def test_the_model_card_speaks_of_these_files() -> None:
    """The card names every file with its checksum, the data, the licence and the attribution."""
    card = (EMBEDDED / "MODEL_CARD.md").read_text()
    assert all(sha256_of(path) in card for path in MODELS.values())
    for words in ("EuroSAT", "MIT", "Copernicus Sentinel data", "Limits"):
        assert words in card


@pytest.mark.parametrize(
    ("choice", "bands", "bytes_at_most"), [("multispectral", 13, 1e6), ("visible", 3, 4e6)]
)
def test_either_target_is_loaded_by_its_name(choice: str, bands: int, bytes_at_most: float) -> None:
    """Both know EuroSAT's classes in one order, and each reads its own bands."""
    settings = load(None, [f"target.model={choice}"])
    path = model_path(settings, "target")
    assert path == MODELS[choice]
    assert path.stat().st_size <= bytes_at_most
    target = load_target(settings.target, path, trust_code=False, tile_size=64, device=CPU)
    assert len(target.bands.names) == bands
    assert target.classes == load_model(MODELS["gan"], CPU).generator.classes
    with pytest.raises(SettingsError, match=r"target\.model has no effect with target\.kind=tr"):
        load(None, ["target.kind=trained", "target.model=visible"])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small search in an empty working folder, without any data."""
    folder = tmp_path_factory.mktemp("nothing")
    words = ("generate", *SMALL, "--set", f"run.dir={folder / 'run'}")
    environment = {key: value for key, value in os.environ.items() if key != "RSLOW_DATA"}
    ran = subprocess.run(
        [*PROGRAM, *words], check=False, cwd=folder, env=environment, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return folder / "run" / "generate"


def test_a_search_needs_no_data(searched: Path) -> None:
    """Beside every tile is a real one of its class from the album, at its true location."""
    rows = geopandas.read_file(searched / "review" / "review.gpkg", layer="review")
    assert len(rows) == 3
    album, found = open_album(), pandas.read_parquet(searched / "samples.parquet")
    where = dict(zip(album.ids, zip(album.labels.tolist(), album.grids, strict=True), strict=True))
    for own in found.itertuples():
        label, grid = where[own.neighbour]
        assert album.classes[label] == own.condition
        (beside,) = (searched / "review").glob(f"anchors/*{own.sample_id}*.tif")
        assert read_tile(beside).grid == grid
        pixels = album.batch([album.ids.index(own.neighbour)]).image[0]
        assert torch.equal(reflectance_of(read_tile(beside).pixels), pixels)
    manifest = json.loads((searched / "review" / "manifest.json").read_text())
    assert "Copernicus Sentinel data" in manifest["attribution"]


def test_the_album_has_eight_training_tiles_of_every_class(eurosat_root: Path) -> None:
    """Every file says that it was observed and whose it is; nothing was held out for tests."""
    album = open_album()
    assert Counter(album.labels.tolist()) == dict.fromkeys(range(10), 8)
    train = open_split(load(None, ["data.kind=eurosat", f"data.root={eurosat_root}"]).data, "train")
    known = {Path(name).name for name in train.ids}
    assert {Path(name).name for name in album.ids} <= known
    for path in ALBUM.glob("*/*.tif"):
        tags = read_tile(path).tags
        assert tags["RSLOW_SYNTHETIC"] == "false"
        assert "EuroSAT" in tags["TIFFTAG_COPYRIGHT"]
    assert "Copernicus" in (ALBUM / "README.md").read_text()
    assert sum(path.stat().st_size for path in ALBUM.rglob("*") if path.is_file()) <= 6e6


@pytest.mark.slow
def test_tiles_do_not_depend_on_slots_or_on_being_killed(searched: Path, tmp_path: Path) -> None:
    """Killed in the middle and started again, with other slots: the same files bit for bit."""
    words = ["generate", *SMALL, "--set", f"run.dir={tmp_path}"]
    kill = [sys.executable, "-m", "tests.kills", "SIGKILL", "journal.jsonl", "2"]
    root = Path(__file__).parents[1]
    killed = subprocess.run(
        [*kill, *words, "--set", "search.slots=1"], capture_output=True, check=False, cwd=root
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    ran = subprocess.run(
        [*PROGRAM, *words, "--set", "search.slots=24"], check=False, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    ours, theirs = (
        {path.name: path.read_bytes() for path in (folder / "tiles").iterdir()}
        for folder in (tmp_path / "generate", searched)
    )
    assert ours == theirs


def test_the_quickstart_leaves_a_package_alone(searched: Path) -> None:
    """Where a package is, it says where and ends well."""
    words = ("quickstart", "--out", str(searched.parent))
    ran = subprocess.run([*PROGRAM, *words], check=False, capture_output=True, text=True)
    assert ran.returncode == 0
    assert str(searched / "review" / "review.qgz") in ran.stdout
