"""The command line as a user meets it: the whole way, and what happens when something is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning

from rs_lowconf import errors
from rs_lowconf.cli.app import app
from rs_lowconf.data.source import open_split
from rs_lowconf.gan.model import load_critic, load_model
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.settings import load
from rs_lowconf.settings.renamed import COMMANDS
from rs_lowconf.target.trained import load_trained
from tests.conftest import Ran, Run

ROOT = Path(__file__).parent.parent


def test_the_whole_way_ends_in_a_review_package(rslow: Run, project: Path) -> None:
    """Report, plots, table, tiles and package are there and speak of the same samples."""
    ran = rslow("generate", "-c", project / "config.yaml")
    assert ran.code == 0, ran.err
    folder = project / "run" / "generate"
    assert f"Open in QGIS: {folder / 'review' / 'review.qgz'}" in ran.out
    report = json.loads((folder / "report.json").read_text())
    table = pq.read_table(folder / "samples.parquet").to_pylist()
    layer = geopandas.read_file(folder / "review" / "review.gpkg", layer="review")
    assert report["search"]["accepted"] == len(table) == len(layer) == 8
    assert report["random_latents"]["evaluations"] >= 40
    assert {row["sample_id"] for row in table} == set(layer["sample_id"])
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "yield",
        "confusion",
        "confidence",
    }
    manifest = json.loads((folder / "review" / "manifest.json").read_text())
    assert manifest["attribution"] == "Contains modified Copernicus Sentinel data"


def test_every_exported_tile_is_low_confidence_when_read_back_alone(
    rslow: Run, project: Path
) -> None:
    """Rasterio reads each GeoTIFF; the target scores it alone below tau, and the gate admits it."""
    assert rslow("generate", "-c", project / "config.yaml").code == 0
    folder = project / "run" / "generate"
    target = load_trained(project / "run" / "target" / "target.safetensors", torch.device("cpu"))
    gan = load_model(project / "run" / "gan" / "gan.safetensors", torch.device("cpu"))
    critic = load_critic(
        project / "run" / "gate" / "critic.safetensors", gan.condition, torch.device("cpu")
    )
    told = json.loads((folder / "report.json").read_text())["gate"]
    least = told["joint_false_rejection_at_most"]
    for row in pq.read_table(folder / "samples.parquet").to_pylist():
        # No place is invented: rasterio warns that there is no georeference.
        with pytest.warns(NotGeoreferencedWarning):
            file = rasterio.open(folder / row["tile"])
        with file:
            assert file.descriptions == gan.generator.bands.names
            assert file.tags()["RSLOW_SYNTHETIC"] == "true"
            assert file.tags()["RSLOW_CONDITION"] == row["condition"]
            image = torch.from_numpy(file.read().astype(np.float32) / 10_000)[None]
        with torch.no_grad():
            confidence = float(target.predict(image).max().exp())
            label = torch.tensor([gan.generator.classes.index(row["condition"])])
            realism = float(critic.realism(image, label)[0])
        assert confidence < 0.9
        assert confidence == pytest.approx(row["confidence"], abs=1e-5)
        assert realism == pytest.approx(row["gate_critic"], abs=1e-4)
        assert row["gate_p_value"] > least


def test_a_package_is_never_overwritten(rslow: Run, project: Path) -> None:
    """The same command twice leaves the first package alone; another --name makes another."""
    words = ("generate", "-c", project / "config.yaml", "-s", "search.count=2")
    assert rslow(*words).code == 0
    before = (project / "run" / "generate" / "review" / "review.gpkg").stat().st_mtime_ns
    again = rslow(*words)
    assert again.code == 6
    assert "--name" in again.err
    assert (project / "run" / "generate" / "review" / "review.gpkg").stat().st_mtime_ns == before
    assert rslow(*words, "--name", "second").code == 0


def test_blind_packages_hide_what_the_tiles_folder_tells(rslow: Run, project: Path) -> None:
    """With review.mode=blind the package names no condition, the table still does."""
    ran = rslow(
        "generate",
        "-c",
        project / "config.yaml",
        "-s",
        "review.mode=blind",
        "-s",
        "search.count=4",
    )
    assert ran.code == 0, ran.err
    folder = project / "run" / "generate"
    layer = geopandas.read_file(folder / "review" / "review.gpkg", layer="review")
    assert not {"cond_class", "pred_class", "confidence"} & set(layer.columns)
    for row in pq.read_table(folder / "samples.parquet").to_pylist():
        assert read_tile(folder / row["tile"]).tags["RSLOW_CONDITION"] == row["condition"]
        inside = read_tile(folder / "review" / "tiles" / f"{row['sample_id']}.tif")
        assert "RSLOW_CONDITION" not in inside.tags
        assert np.array_equal(inside.pixels, read_tile(folder / row["tile"]).pixels)


def test_a_class_subset_is_searched_alone(rslow: Run, project: Path) -> None:
    """Only the wanted conditions appear in the table."""
    ran = rslow(
        "generate",
        "-c",
        project / "config.yaml",
        "-s",
        "search.conditions=[woods]",
        "-s",
        "search.count=3",
    )
    assert ran.code == 0, ran.err
    table = pq.read_table(project / "run" / "generate" / "samples.parquet").to_pylist()
    assert {row["condition"] for row in table} == {"woods"}


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_equals_the_unbroken_one(
    rslow: Run, project: Path
) -> None:
    """Ctrl-C ends with 130; the same command finishes; its tiles are those of one go."""
    config = project / "config.yaml"
    words = ["generate", "-c", str(config), "-s", "search.count=8"]
    # Far more than is wanted, so that the search is not over when the signal comes.
    more = [*words, "-s", "search.count=100000", "-s", "search.max_evaluations=1000000"]
    interrupt = [sys.executable, "-m", "tests.kills", "SIGINT", "journal.jsonl", "4"]
    ran = subprocess.run(
        [*interrupt, *more],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 130, ran.stderr
    assert b"Traceback" not in ran.stderr
    assert b"run the same command again" in ran.stderr
    journal = project / "run" / "generate" / "search" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) >= 4
    assert rslow(*words).code == 0
    assert rslow(*words, "--name", "unbroken").code == 0
    ids = {}
    for name in ("generate", "unbroken"):
        folder = project / "run" / name / "tiles"
        ids[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ids["generate"] == ids["unbroken"]


def test_training_resumes_after_a_checkpoint(rslow: Run, project: Path) -> None:
    """More images continue the saved training; metrics and sheets are kept."""
    ran = rslow("train", "gan", "-c", project / "config.yaml", "-s", "gan.images=1200")
    assert ran.code == 0, ran.err
    lines = (project / "run" / "gan" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [400, 800, 1200]
    assert len(list((project / "run" / "gan" / "sheets").iterdir())) == 6


class TestBadInput:
    """Each mistake gives one clear line and the documented exit code, never a traceback."""

    @staticmethod
    def fails(ran: Ran, code: int, *words: str) -> None:
        assert ran.code == code, ran
        message = [line for line in ran.err.splitlines() if line.startswith("rslow: ")]
        assert len(message) == 1, ran.err
        assert "Traceback" not in ran.err
        for word in words:
            assert word in message[0]

    @staticmethod
    def first_tile(project: Path) -> Path:
        """Return a tile of the training split, the first one read."""
        settings = load(project / "config.yaml")
        return project / "tiles" / (open_split(settings.data, "train").ids[0] + ".tif")

    @staticmethod
    def rewrite(
        path: Path, change: Callable[["np.ndarray"], "np.ndarray"], **profile: object
    ) -> None:
        with rasterio.open(path) as file:
            pixels, kept, names = file.read(), file.profile, file.descriptions
        pixels = change(pixels)
        kept.update(dtype=pixels.dtype, count=len(pixels), **profile)
        with rasterio.open(path, "w", **kept) as file:
            file.write(pixels)
            file.descriptions = names[: len(pixels)]

    def test_a_missing_band(self, rslow: Run, project: Path) -> None:
        """B10 is asked for and the files lack it."""
        ran = rslow("train", "target", "-c", project / "config.yaml", "-s", "data.bands=[B02, B10]")
        self.fails(ran, 4, "B10")

    def test_a_wrong_band_order_by_name(self, rslow: Run, project: Path) -> None:
        """The settings say one order, the files' descriptions another."""
        order = "data.file_bands=[B02, B03, B04, B11, B08, B12]"
        ran = rslow("train", "target", "-c", project / "config.yaml", "-s", order)
        self.fails(ran, 4, "names its bands", "as in data.file_bands")

    def test_a_truncated_tiff(self, rslow: Run, project: Path) -> None:
        """Half of a file is named, not read as if whole."""
        path = self.first_tile(project)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.fails(rslow("train", "gan", "-c", project / "config.yaml"), 4, path.name)

    def test_nan(self, rslow: Run, project: Path) -> None:
        """A float tile with NaN is refused by name."""
        path = self.first_tile(project)

        def spoil(pixels: "np.ndarray") -> "np.ndarray":
            spoiled = pixels.astype(np.float32)
            spoiled[0, 3, 3] = np.nan
            return spoiled

        self.rewrite(path, spoil, nodata=None)
        self.fails(rslow("train", "target", "-c", project / "config.yaml"), 4, path.name, "NaN")

    def test_all_nodata(self, rslow: Run, project: Path) -> None:
        """An empty tile is refused by name."""
        path = self.first_tile(project)
        self.rewrite(path, np.zeros_like)
        self.fails(rslow("train", "target", "-c", project / "config.yaml"), 4, path.name, "nodata")

    def test_an_unknown_class(self, rslow: Run, project: Path) -> None:
        """A condition that the generator does not know, and a class that the data lack."""
        config = project / "config.yaml"
        self.fails(
            rslow("generate", "-c", config, "-s", "search.conditions=[Volcano]"),
            3,
            "Volcano",
            "woods",
        )
        self.fails(
            rslow("train", "target", "-c", config, "-s", "data.classes=[Volcano]"), 4, "Volcano"
        )

    def test_a_target_whose_bands_the_data_lack(self, rslow: Run, project: Path) -> None:
        """A foreign target that reads B10 is refused before its first evaluation."""
        (project / "net.py").write_text(
            "import torch\n"
            "def make():\n"
            "    torch.manual_seed(1)\n"
            "    pool = torch.nn.AdaptiveAvgPool2d(1)\n"
            "    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(2, 2))\n"
        )
        sys.path.insert(0, str(project))
        try:
            ran = rslow(
                *("generate", "-c", project / "config.yaml", "--trust-code"),
                *("-s", "target.kind=python", "-s", "target.python=net:make"),
                *("-s", "target.bands=[B02, B10]", "-s", "target.classes=[x, y]"),
            )
        finally:
            sys.path.remove(str(project))
            sys.modules.pop("net", None)
        self.fails(ran, 5, "B10")

    def test_foreign_code_needs_trust(self, rslow: Run, project: Path) -> None:
        """Without --trust-code nothing foreign is run, and the message says what to type."""
        ran = rslow(
            *("generate", "-c", project / "config.yaml", "-s", "target.kind=python"),
            *(
                "-s",
                "target.python=os:getcwd",
                "-s",
                "target.bands=[B02]",
                "-s",
                "target.classes=[x, y]",
            ),
        )
        self.fails(ran, 5, "--trust-code")

    def test_an_unwritable_folder(self, rslow: Run, project: Path) -> None:
        """A run folder below a file cannot be made."""
        blocked = project / "file"
        blocked.write_text("")
        ran = rslow(
            "train", "target", "-c", project / "config.yaml", "-s", f"run.dir={blocked}/run"
        )
        self.fails(ran, 8, str(blocked))

    def test_an_unknown_config_key(self, rslow: Run, project: Path) -> None:
        """A typing error in the settings is named."""
        config = project / "config.yaml"
        config.write_text(config.read_text().replace("count: 8", "cuont: 8"))
        self.fails(rslow("generate", "-c", config), 3, "search.cuont")

    @pytest.mark.parametrize(
        "part",
        ["gan/gan", "gate/critic", "gate/calibration", "target/target", "extractor/extractor"],
    )
    def test_a_corrupt_checkpoint(self, rslow: Run, project: Path, part: str) -> None:
        """One flipped byte in the weights is noticed."""
        path = project / "run" / f"{part}.safetensors"
        content = bytearray(path.read_bytes())
        content[-50] ^= 0xFF
        path.write_bytes(bytes(content))
        self.fails(rslow("generate", "-c", project / "config.yaml"), 5, path.name, "damaged")

    def test_a_missing_checkpoint(self, rslow: Run, project: Path) -> None:
        """Generating before training says what to train."""
        shutil.rmtree(project / "run" / "gan")
        self.fails(rslow("generate", "-c", project / "config.yaml"), 5, "gan.safetensors", "train")

    def test_a_budget_that_finds_nothing(self, rslow: Run, project: Path) -> None:
        """No result is an exit code of its own, with a report to read."""
        ran = rslow(
            *("generate", "-c", project / "config.yaml", "-s", "search.tau=0.334"),
            *("-s", "search.max_evaluations=30"),
        )
        self.fails(ran, 7, "budget of target evaluations")
        assert (project / "run" / "generate" / "report.json").exists()

    def test_a_confidence_that_nothing_falls_below(self, rslow: Run, project: Path) -> None:
        """Of three probabilities the largest is a third or more; that is said before searching."""
        words = ("-s", "search.tau=0.33")
        self.fails(rslow("generate", "-c", project / "config.yaml", *words), 3, "never below 0.333")

    def test_another_gan_does_not_continue_a_search(self, rslow: Run, project: Path) -> None:
        """An unfinished search of another model is not mixed with this one's."""
        config = project / "config.yaml"
        assert (
            rslow(
                "generate",
                "-c",
                config,
                "-s",
                "search.tau=0.334",
                "-s",
                "search.max_evaluations=30",
            ).code
            == 7
        )
        self.fails(rslow("generate", "-c", config), 3, "search settings")

    def test_a_missing_config_file(self, rslow: Run, project: Path) -> None:
        """A wrong path is named."""
        self.fails(rslow("generate", "-c", project / "nowhere.yaml"), 3, "nowhere.yaml")

    def test_a_wrong_data_folder(self, rslow: Run, project: Path) -> None:
        """A wrong data path is named."""
        ran = rslow(
            "train", "gan", "-c", project / "config.yaml", "-s", f"data.root={project}/nowhere"
        )
        self.fails(ran, 4, "nowhere", "data.root")

    def test_a_wrong_option(self, rslow: Run) -> None:
        """Wrong words on the command line end with 2 and a usage line."""
        ran = rslow("generate", "--bogus")
        assert ran.code == 2
        assert "--bogus" in ran.err


def commands() -> list[tuple[str, ...]]:
    """Return the words of every command."""
    found: list[tuple[str, ...]] = [
        (c.name or str(c.callback and c.callback.__name__),) for c in app.registered_commands
    ]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            name = command.name or str(command.callback and command.callback.__name__)
            found.append((str(group.name), name))
    return found


def test_every_command_has_help(rslow: Run) -> None:
    """--help explains each command."""
    rslow("--help")
    assert len(commands()) >= 5
    for words in commands():
        ran = rslow(*words, "--help")
        assert ran.code == 0
        assert len(ran.out.split()) > 20


def test_every_exit_code_is_documented() -> None:
    """The table of the reference names the code of every error class."""
    table = (ROOT / "docs/pages/reference/exit-codes.md").read_text()
    for kind in errors.RsLowconfError.__subclasses__():
        assert re.search(rf"^\| {kind.exit_code} \|", table, re.MULTILINE), kind


def test_help_answers_without_torch() -> None:
    """The program and its help import neither torch nor rasterio."""
    code = (
        "import sys; sys.argv = ['rslow', 'generate', '--help']\n"
        "from rs_lowconf.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'rasterio', 'numpy', 'kornia', 'torchgeo'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("old", "new"), COMMANDS.items())
def test_commands_by_their_former_name_are_refused(old: str, new: str, rslow: Run) -> None:
    """The message says what the command is called now, and that command exists."""
    ran = rslow(*old.split())
    assert (ran.code, ran.err.strip()) == (3, f"rslow: rslow {old} is called rslow {new} now.")
    assert rslow(*new.split(), "--help").code == 0
