"""Shared fixtures: real data where the environment offers it, and small seeded folders."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import rasterio
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from rasterio import Affine
from selenium import webdriver

from rs_lowconf.bands import EUROSAT_ORDER
from rs_lowconf.cli import main
from rs_lowconf.determinism import make_deterministic
from tests.make_tiles import make_tiles

# Before any test computes: a command run in this process would come too late, and differ in its
# last bits from the same command in a process of its own.
make_deterministic()

WriteTile = Callable[..., NDArray[Any]]

#: Files that take longest: begun first, so that no worker is left alone with one at the end.
LONGEST = (
    *("test_cli_loop", "test_gan_masks", "test_cli", "test_search_loop", "test_cli_masks"),
    *("test_review_plugin", "test_cli_blackbox", "test_embedded", "test_batch_hang"),
    *("test_testset_kill", "test_batch_faults", "test_batch_dask"),
)


# A busy machine is slow, which is no fault of what is tested.
settings.register_profile("rslow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rslow")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let slow tests be asked for."""
    parser.addoption("--everything", action="store_true", help="also run tests marked slow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files; mark what waits for trained models, and what needs QGIS."""
    if not config.option.everything:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    for item in items:
        assert isinstance(item, pytest.Function)
        if "trained" in item.fixturenames:
            item.add_marker("trains")
        if "qgis_python" in item.fixturenames:
            item.add_marker("qgis")


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undo what a command run in this process sets for the whole of it: hypothesis minds."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Check no types and shapes at calls, which takes half the time of a simulation.

    For tests of what comes out on average; other tests call the same functions with checks.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def eurosat_root() -> Path:
    """Return the real EuroSAT subset; in CI its absence is a failure, not a skip."""
    folder = os.environ.get("RSLOW_DATA")
    root = Path(folder, "eurosat") if folder else None
    if root is None or not root.is_dir():
        reason = "RSLOW_DATA names no folder with eurosat/ in it: no real data to test on"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return root


_CONFIG = """
run: {{dir: {folder}/run, models: trained, threads: 1}}
data: {{kind: folder, root: {folder}/tiles, tile_size: 32, val_share: 0.45,
       test_share: 0.1}}
target: {{kind: trained}}
classifier: {{width: 8, epochs: 6}}
extractor: {{architecture: residual_cnn, width: 8, epochs: 4}}
gan: {{width: 8, critic_width: 8, latent_global: 8, latent_map: 2, images: 800, batch_size: 8,
      learning_rate: 2.0e-3, ema_images: 200, checkpoint_images: 400, sheet_columns: 3}}
gate: {{recipe: native, width: 8, images: 320, ema_images: 100}}
search: {{count: 8, tau: 0.9, slots: 6, micro_batch: 3, max_evaluations: 4000,
         baseline_evaluations: 40, per_condition: 8, per_cell: null,
         novelty_quantile: null}}
"""


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """Return what it printed on one line, however wide the terminal is."""
        return " ".join(self.out.split())


Run = Callable[..., Ran]


def run_program(*words: object) -> Ran:
    """Run the program in this process, which takes seconds less than one of its own."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["rslow", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def train_models(config: Path, *stages: str) -> None:
    """Run `rslow train` for one stage after another, in this process."""
    for stage in stages:
        ran = run_program("train", stage, "-c", config)
        assert ran.code == 0, ran.err


@pytest.fixture
def rslow() -> Run:
    """Return the function that runs the program in this process."""
    return run_program


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with tiles, a config and models that were trained by the commands.

    Of several workers one trains, and the others copy what it made.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            folder = tmp_path_factory.mktemp("training")
            make_tiles(folder / "tiles", 16)
            (folder / "config.yaml").write_text(_CONFIG.format(folder=folder))
            train_models(folder / "config.yaml", "target", "extractor", "gan", "gate")
            folder.rename(made)
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    (folder / "config.yaml").write_text(_CONFIG.format(folder=folder))
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained folder that a test may spoil."""
    shutil.copytree(trained, tmp_path / "project")
    config = tmp_path / "project" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path / "project")))
    return tmp_path / "project"


@pytest.fixture(scope="session")
def qgis_python() -> str:
    """Return a Python that has QGIS; without one, skip here and fail on the build server."""
    python = os.environ.get("QGIS_PYTHON", "/usr/bin/python3")
    try:
        check = [python, "-c", "import qgis.core"]
        found = subprocess.run(check, capture_output=True, check=False).returncode == 0
    except OSError:
        found = False
    if not found:
        reason = f"{python} has no module qgis: install QGIS, or name its Python by QGIS_PYTHON"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return python


OpenChromium = Callable[..., webdriver.Chrome]


@pytest.fixture(scope="session")
def open_chromium() -> Iterator[OpenChromium]:
    """Return what opens a Chromium without a screen; skip without one, fail on the build server."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if None in found:
        reason = "chromium or chromedriver is missing: install Debian's package chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    opened = []

    def start(profile: Path | None = None, downloads: Path | None = None) -> webdriver.Chrome:
        """Open one, with a profile that lasts, and a folder for downloads."""
        options = webdriver.ChromeOptions()
        options.binary_location = str(found[0])
        for word in (
            *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
            *("disable-background-networking", "disable-component-update", "disable-sync"),
            *("disable-dev-shm-usage", "window-size=1400,900"),
            *([] if profile is None else [f"user-data-dir={profile}"]),
        ):
            options.add_argument(f"--{word}")
        if downloads is not None:
            options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(str(found[1]))
        opened.append(webdriver.Chrome(options=options, service=service))
        return opened[-1]

    yield start
    for driver in opened:
        driver.quit()


@pytest.fixture(scope="session")
def chromium(open_chromium: OpenChromium) -> webdriver.Chrome:
    """Return a Chromium that tests share."""
    return open_chromium()


@pytest.fixture(scope="session")
def write_tile() -> WriteTile:
    """Return a function that writes a seeded GeoTIFF and returns its pixels, c h w."""

    def write(
        path: Path,
        *,
        seed: int = 0,
        bands: Sequence[str] = EUROSAT_ORDER,
        described: bool = True,
        pixels: NDArray[Any] | None = None,
        side: int = 32,
        georeferenced: bool = True,
        **profile: Any,
    ) -> NDArray[Any]:
        if pixels is None:
            dice = np.random.default_rng(seed)
            pixels = dice.integers(50, 4000, (len(bands), side, side), dtype=np.uint16)
        place = (
            {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
            if georeferenced
            else {}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = pixels.shape
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=pixels.dtype,
            **place,
            **profile,
        ) as file:
            file.write(pixels)
            if described:
                file.descriptions = tuple(bands)
        return pixels

    return write
