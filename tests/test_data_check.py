"""`rslow data check`: what it finds, how it says so, how it ends."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchgeo.datasets import EuroSAT

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.cli.data import data_app
from rs_lowconf.data.check import CheckReport, check_tiles, list_splits
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.radiometry import BandStatistics, radiometric_warnings
from rs_lowconf.errors import RsLowconfError
from rs_lowconf.generators import finish
from rs_lowconf.settings import FolderData, checked
from rs_lowconf.workflows.records import counted
from tests.conftest import WriteTile

L2A = tuple(name for name in EUROSAT_ORDER if name != "B10")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rslow(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `rslow data` and returns exit code, output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            data_app(["check", *words], standalone_mode=False)
        except RsLowconfError as error:
            print(error, file=sys.stderr)  # noqa: T201  # as rs_lowconf.cli.app does
            code = error.exit_code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def sound(tmp_path: Path, write_tile: WriteTile) -> Path:
    """Return a folder of two classes in three splits with nothing wrong, dark to bright."""
    root = tmp_path / "tiles"
    for number, (split, name, i) in enumerate(
        (split, name, i) for split in SPLITS for name in ("damage", "healthy") for i in range(3)
    ):
        pixels = np.random.default_rng(number).integers(20, 4000, (12, 32, 32), dtype=np.uint16)
        write_tile(root / split / name / f"{i}.tif", bands=L2A, pixels=pixels)
    return root


def options(root: Path, *more: str) -> list[str]:
    """Return the words that select a folder of L2A tiles."""
    values = (
        "data.kind=folder",
        "data.level=L2A",
        "data.tile_size=32",
        f"data.root={root}",
        *more,
    )
    return [word for value in values for word in ("-s", value)]


def report_of(chosen: FolderData) -> CheckReport:
    """Run the check without the command line."""
    return finish(counted(check_tiles(chosen, list_splits(chosen)), "checking", 1))


def folder(root: Path, **changes: Any) -> FolderData:
    """Return settings for the folder that `sound` makes."""
    values = {"level": "L2A", "root": root, "tile_size": 32}
    return checked(FolderData, {**values, **changes})


def texts(report: CheckReport, severity: str) -> str:
    """Return all findings of one severity, with their files, as lines."""
    return "\n".join(
        f"{finding.text} | {' '.join(finding.names)}"
        for finding in report.findings
        if finding.severity == severity
    )


def test_sound_data_pass(sound: Path, rslow: Run, tmp_path: Path) -> None:
    """Sound data end with 0, counts are right, and what --json saves says the same."""
    code, out, err = rslow(*options(sound), "--json", str(tmp_path / "r.json"))
    assert code == 0, err
    assert "18 can be used, 0 cannot" in " ".join(out.split())
    assert "No problems found." in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["damage"] == rows["healthy"] == ["3", "3", "3", "9"]
    assert rows["B8A"][:2] == ["20", "m"]
    assert "EPSG:32633 (18)" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["usable"] == {split: [3, 3] for split in SPLITS}
    assert report["sizes"] == {"32 x 32": 18}
    assert report["pixel_size"] == [10.0, 10.0]
    assert report["findings"] == []


def test_every_fault_is_reported(
    sound: Path, write_tile: WriteTile, rslow: Run, tmp_path: Path
) -> None:
    """Each kind of bad file is named with its fault, all are shown, and the exit code is 4."""
    (sound / "train" / "damage" / "text.tif").write_text("no raster")
    cut = sound / "train" / "damage" / "cut.tif"
    write_tile(cut, bands=L2A)
    cut.write_bytes(cut.read_bytes()[:-3_000])
    unreal = np.full((12, 32, 32), np.nan, np.float32)
    write_tile(sound / "val" / "damage" / "nan[red].tif", bands=L2A, pixels=unreal)
    write_tile(sound / "val" / "damage" / "small.tif", bands=L2A, side=16)
    write_tile(sound / "val" / "damage" / "few.tif", bands=L2A[:5])
    write_tile(sound / "test" / "damage" / "odd.tif", bands=("red", *L2A[1:]))
    zeros = np.zeros((12, 32, 32), np.uint16)
    write_tile(sound / "test" / "healthy" / "zeros.tif", bands=L2A, pixels=zeros)
    code, out, err = rslow(*options(sound), "--json", str(tmp_path / "r.json"))
    assert code == 4
    assert "7 files cannot be used" in err
    assert "18 can be used, 7 cannot" in " ".join(out.split())
    for name, fault in (
        ("train/damage/text.tif", "cannot be opened"),
        ("train/damage/cut.tif", "cannot be opened"),
        ("val/damage/nan[red].tif", "NaN or infinity"),
        ("val/damage/small.tif", "is 16 x 16 pixels; expected 32 x 32"),
        ("val/damage/few.tif", "has bands B01 B02 B03 B04 B05; expected B01"),
        ("test/damage/odd.tif", "describes its 12 bands as red"),
        ("test/healthy/zeros.tif", "is nodata everywhere"),
    ):
        block = next(b for b in re.split(r"^(?=ERROR|WARNING)", out, flags=re.M) if name in b)
        assert fault in block
        assert re.match(r"ERROR \(\d+\): ", block)
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "\x1b" not in out
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert sum(len(finding["files"]) for finding in findings) == 7


def test_skip_bad_ends_well(sound: Path, rslow: Run) -> None:
    """With data.skip_bad bad files are reported all the same, and the exit code is 0."""
    (sound / "train" / "damage" / "text.tif").write_text("no raster")
    code, out, _ = rslow(*options(sound, "data.skip_bad=true"))
    assert code == 0
    assert "text.tif" in out


def test_a_class_without_tiles_is_an_error(sound: Path, rslow: Run) -> None:
    """A split that lacks a class ends with 4, also when skipping is what emptied it."""
    for path in (sound / "val" / "damage").iterdir():
        path.write_text("no raster")
    code, out, _ = rslow(*options(sound, "data.skip_bad=true"))
    assert code == 4
    assert "ERROR: the val split has no usable tile of damage" in out
    shutil.rmtree(sound / "val" / "damage")
    code, out, _ = rslow(*options(sound))
    assert code == 4
    assert "ERROR: the val split has no usable tile of damage" in out


def test_duplicates_within_and_across_splits(sound: Path, write_tile: WriteTile) -> None:
    """Equal pixels are found under other names, compressions and band orders."""
    first = sound / "train" / "damage" / "0.tif"
    shutil.copy(first, sound / "train" / "damage" / "copy.tif")
    with rasterio.open(sound / "val" / "damage" / "1.tif") as file:
        pixels = file.read()
    write_tile(
        sound / "test" / "healthy" / "leak.tif",
        bands=L2A[::-1],
        pixels=pixels[::-1],
        compress="deflate",
    )
    found = texts(report_of(folder(sound)), "warning").splitlines()
    assert len(found) == 3
    assert "two splits" in found[0]
    assert "val/damage/1.tif (val) = test/healthy/leak.tif (test)" in found[0]
    assert "one split more than once" in found[1]
    assert "copy.tif" in found[1]
    assert "two classes" in found[2]
    assert "leak.tif" in found[2]


def test_constant_bands_and_nodata_are_counted(sound: Path, write_tile: WriteTile) -> None:
    """A band of one value is a warning; nodata is counted and does not enter the range."""
    pixels = np.random.default_rng(0).integers(20, 4000, (12, 32, 32), dtype=np.uint16)
    pixels[3] = 77
    pixels[:, :16] = 0
    write_tile(sound / "train" / "damage" / "flat.tif", bands=L2A, pixels=pixels)
    report = report_of(folder(sound, max_nodata=0.5))
    assert "B04 is constant over the whole tile | train/damage/flat.tif (77)" in texts(
        report, "warning"
    )
    assert report.nodata_tiles == 1
    assert report.nodata_share == pytest.approx(0.5 / 19)
    assert all(own.minimum >= 20 / 10_000 for own in report.ranges.values())


def test_names_that_contradict_the_settings(sound: Path) -> None:
    """Band descriptions in another order than data.file_bands are an error of every file."""
    report = report_of(folder(sound, file_bands=L2A[::-1]))
    assert sum(report.unusable.values()) == 18
    assert "as in data.file_bands" in texts(report, "error")
    assert report.bands is None
    assert json.loads(json.dumps(report.to_json()))["bands"] is None


def test_many_files_with_one_fault_are_one_finding(sound: Path, rslow: Run) -> None:
    """A fault of hundreds of files shows the first twenty and says where the rest is."""
    for i in range(25):
        (sound / "train" / "damage" / f"text{i:02}.tif").write_text("no raster")
    _, out, _ = rslow(*options(sound))
    assert "ERROR (25): cannot be opened" in out
    assert "text19.tif" in out
    assert "text20.tif" not in out
    assert "and 5 more" in out


def test_real_eurosat_passes(eurosat_root: Path, rslow: Run) -> None:
    """The real subset has nothing wrong; the ranges equal numpy's over all its pixels."""
    code, out, err = rslow("-s", "data.kind=eurosat", "-s", f"data.root={eurosat_root}")
    assert code == 0, err
    assert "389 can be used" in out
    assert "No problems found." in out
    pixels = []
    for path in sorted((eurosat_root / EuroSAT.base_dir).rglob("*.tif")):
        with rasterio.open(path) as file:
            pixels.append(file.read().reshape(13, -1))
    values = np.concatenate(pixels, axis=1) / 10_000
    rows = {line.split()[0]: line.split()[3:] for line in out.splitlines() if " m " in line}
    for name, own in zip(EUROSAT_ORDER, values, strict=True):
        due = np.quantile(own, [0, 0.01, 0.5, 0.99, 1], method="inverted_cdf")
        np.testing.assert_allclose([float(text) for text in rows[name]], due, atol=1.1e-4)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("data.dn_offset=1000", "nearly certainly (B10"),
        ("data.dn_offset=-1000", "nearly certainly data.dn_offset=-1000 is applied"),
        ("data.scale=1", "too small"),
        ("data.scale=1e7", "too large"),
    ],
)
def test_real_eurosat_with_wrong_radiometry(
    eurosat_root: Path, rslow: Run, given: str, found: str
) -> None:
    """A wrong offset or scale on real tiles is a warning that says how sure it is; not an error."""
    code, out, _ = rslow(
        "-s",
        "data.kind=eurosat",
        "-s",
        f"data.root={eurosat_root}",
        "-s",
        "data.classes=[River]",
        "-s",
        given,
    )
    assert code == 0
    assert found in " ".join(out.split())


def test_real_eurosat_half_unpacked(eurosat_root: Path, tmp_path: Path, rslow: Run) -> None:
    """Files that a split names and the disk lacks are counted as a warning."""
    shutil.copytree(eurosat_root, tmp_path / "e")
    for path in sorted((tmp_path / "e" / EuroSAT.base_dir / "River").glob("*.tif"))[:4]:
        path.unlink()
    code, out, _ = rslow(
        "-s", "data.kind=eurosat", "-s", f"data.root={tmp_path / 'e'}", "-s", "data.classes=[River]"
    )
    assert code == 0
    counts = re.findall(r"WARNING: (\d+) of the files that EuroSAT's list", out)
    assert sum(map(int, counts)) == 4


def test_no_data_ends_with_4_and_a_contradiction_with_3(tmp_path: Path, rslow: Run) -> None:
    """A wrong folder is a data error, a setting without effect a settings error, each one line."""
    for words, code in (
        (["-s", "data.kind=eurosat", "-s", f"data.root={tmp_path / 'none'}"], 4),
        (["-s", "data.kind=eurosat", "-s", f"data.root={tmp_path}", "-s", "data.level=L2A"], 3),
    ):
        ended, out, err = rslow(*words)
        assert ended == code
        assert out == ""
        assert err.count("\n") == 1


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-9000, 60_000), min_size=1, max_size=50), min_size=1))
def test_histogram_quantiles_equal_numpy(parts: list[list[int]]) -> None:
    """Quantiles from histograms, fed in parts, are those of all values at once."""
    statistics = BandStatistics(BandSpec(names=("B02",), level="L1C"))
    for part in parts:
        statistics.add(torch.tensor([part]) / 10_000)
    own = statistics.ranges()["B02"]
    values = np.concatenate(parts) / 10_000
    p1, median, p99 = np.quantile(values, [0.01, 0.5, 0.99], method="inverted_cdf")
    assert own.minimum == pytest.approx(values.min(), abs=1e-6)
    assert own.maximum == pytest.approx(values.max(), abs=1e-6)
    assert (own.p1, own.median, own.p99) == pytest.approx((p1, median, p99), abs=1.1e-4)


@pytest.mark.parametrize(
    ("names", "level", "warned"),
    [
        (EUROSAT_ORDER, "L1C", ""),
        (L2A, "L2A", ""),
        (("B02", "B03"), "L1C", ""),
        (L2A, "L1C", "level should be L2A"),
        (EUROSAT_ORDER, "L2A", "level is L1C"),
    ],
)
def test_levels_are_guessed_from_the_bands(names: tuple[str, ...], level: Any, warned: str) -> None:
    """L2A products have no B10 and L1C products have: a level that contradicts it is doubted."""
    spec = BandSpec(names=names, level=level)
    statistics = BandStatistics(spec)
    statistics.add(torch.linspace(0.001, 0.5, 1000).expand(len(names), 1000))
    found = radiometric_warnings(spec, statistics.ranges())
    assert bool(found) == bool(warned)
    assert all(warned in text for text in found)
