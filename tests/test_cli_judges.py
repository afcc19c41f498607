"""The probe and blind sheets as a user meets them, with pictures as a second source of tiles."""

import csv
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from scipy.stats import binomtest

from rs_lowconf.bands import BandSpec
from rs_lowconf.review.geotiff import write_tile
from rs_lowconf.runs import sha256_of
from tests.conftest import Run, run_program
from tests.make_tiles import BANDS, draw

ROOT = Path(__file__).parent.parent
CLASSES = ("fields", "meadow", "woods")
SCALE = 254 / 0.275


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "blind_sheet", ROOT / "scripts/research/blind_sheet.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


blind = load_script()


def write_pictures(folder: Path, count: int) -> None:
    """Write drawn tiles as EuroSAT's JPEGs are, with lists of their splits."""
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, name in enumerate(CLASSES):
        rng = np.random.default_rng([8, number])
        (folder / name).mkdir(parents=True)
        for index in range(count):
            # Other names than those of the tiles with all bands, whose splits would count.
            path = folder / name / f"{name}_{100 + index}.jpg"
            numbers = draw(name, rng)[[BANDS.index(band) for band in ("B04", "B03", "B02")]]
            shown = (1 + numbers / 10_000 * SCALE).round().clip(0, 255).astype(np.uint8)
            Image.fromarray(np.moveaxis(shown, 0, 2)).save(path, quality=100, subsampling="4:2:0")
            split = ("train", "test", "val")[index % 3]
            listed[split].append(f"{name}/{path.name}")
    for split, names in listed.items():
        (folder / f"{split}.txt").write_text("\n".join(names))


def options(project: Path, *changed: str) -> list[str]:
    """Return the words of a quick evaluation with pictures."""
    more = (
        f"data.more=[{{kind: pictures, root: {project}/pictures, bands: [B04, B03, B02], "
        "tile_size: 32, reflectance: [-0.00108268, 0.275], chroma: half}]"
    )
    settings = [
        more,
        *("evaluate.tiles_per_class=6", "evaluate.probe_tiles=24", "evaluate.picture_tiles=36"),
        *("evaluate.reporter.epochs=1", "evaluate.classifier.epochs=1"),
        *("evaluate.reporter.width=4", "evaluate.classifier.width=4"),
        *changed,
    ]
    words = ["-c", str(project / "config.yaml")]
    return words + [word for one in settings for word in ("--set", one)]


def write_search(folder: Path, gan: Path, tiles: Sequence[Path]) -> None:
    """Write real tiles as if a search had found them."""
    (folder / "tiles").mkdir(parents=True)
    rows = []
    for number, path in enumerate(tiles):
        name = f"tiles/s{number}.tif"
        with rasterio.open(path) as file:
            write_tile(folder / name, file.read(), BandSpec(names=BANDS, level="L1C"), {})
        rows.append({"tile": name, "condition": path.parent.name})
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    (folder / "report.json").write_text(json.dumps({"models": {"GAN file": sha256_of(gan)}}))


@pytest.fixture(scope="module")
def judged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with pictures and found tiles, evaluated once."""
    project = tmp_path_factory.mktemp("judged") / "project"
    shutil.copytree(trained, project)
    config = project / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(project)))
    write_pictures(project / "pictures", 45)
    tiles = sorted((project / "tiles").glob("*/*_00?.tif"))
    write_search(project / "run" / "generate", project / "run/gan/gan.safetensors", tiles)
    cas = ("cas_rgb=true", "cas_seeds=2", "cas_classifier.epochs=1", "cas_classifier.width=4")
    ran = run_program("evaluate", *options(project, *(f"evaluate.{one}" for one in cas)))
    assert ran.code == 0, ran.err
    assert "has been opened once on the test split" in ran.told
    return project


def key_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "key.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report_of(project: Path, name: str = "evaluate") -> Any:
    return json.loads((project / "run" / name / "report.json").read_text())


def test_every_source_is_judged(judged: Path) -> None:
    """Pictures get distances, the probe and CAS; the composite that they do not show the probe."""
    report = report_of(judged)
    groups = report["figures"]
    for title in ("Likeness: pictures", "Probe: pictures", "Use: pictures", "Gate"):
        assert title in groups
    assert "Probe: near infrared" in groups
    assert "Likeness: near infrared" not in groups
    assert "Probe: true colour" not in groups
    # Split test: 15 pictures of each class; the multispectral tiles of test and val together.
    assert report["tiles"]["pictures (test)"] == 45
    both = report["tiles"]["val"] + report["tiles"]["test"]
    assert report["tiles"]["near infrared (test and val)"] == both
    figures = {one["name"]: one for one in groups["Likeness: pictures"]}
    kernel = figures["KID (EfficientNet-Lite2)"]
    assert kernel["measured"]["tiles"] == 36
    assert kernel["floor"]["interval_95"][0] < 0 < kernel["measured"]["value"]
    assert "left out" in figures["FD (EfficientNet-Lite2)"]["note"]
    assert len(groups["Use: pictures"]) == 8
    for one in groups["Use: pictures"]:
        assert one["measured"]["tiles"] == 45
        assert "FID" not in one["name"]


def test_a_poor_generator_is_recognised_and_real_tiles_are_not(judged: Path) -> None:
    """Barely trained: nearly every tile is told from real ones; real halves are not."""
    probe = report_of(judged)["probe"]["pictures"]
    random = probe["random tiles"]["all"]
    assert random["real"] == random["generated"] == 24
    assert random["auc"]["value"] > 0.9
    assert set(probe["random tiles"]["by_class"]) == set(CLASSES)
    assert probe["floor"]["all"]["auc"]["interval_95"][0] < 0.6
    # What the search found are real tiles here, drawn by the same hand as the pictures.
    found = probe["found tiles"]["all"]
    assert found["generated"] == 30
    assert found["auc"]["value"] < random["auc"]["value"]


def test_the_report_explains_the_probe(judged: Path) -> None:
    """What AUC 0.5 and 1 mean, a table by class, and how often the probe was opened."""
    text = (judged / "run/evaluate/report.md").read_text()
    assert "0.5 is chance" in text
    assert "### pictures, by class" in text
    assert "| meadow | " in text
    assert "has been opened once" in text
    assert "Compared with the test split." in text


def test_every_opening_is_logged(judged: Path) -> None:
    """One line in the evaluation's folder, with model, split and result."""
    line = json.loads((judged / "run/evaluate/probe.jsonl").read_text())
    assert line["model"] == sha256_of(judged / "run/gan/gan.safetensors")
    assert line["split"] == "test"
    assert line["result"] == report_of(judged)["probe"]


@pytest.mark.slow
def test_the_validation_split_leaves_the_test_split_alone(judged: Path, rslow: Run) -> None:
    """A torn picture of the test split is not read; openings under other names are counted."""
    torn = judged / "pictures" / (judged / "pictures/test.txt").read_text().split()[0]
    whole = torn.read_bytes()
    torn.write_bytes(whole[:100])
    # Models may be without a gate, and the other evaluation of this one is not forgotten.
    (judged / "run" / "gate").rename(judged / "run" / "no gate")
    earlier = {"model": sha256_of(judged / "run/gan/gan.safetensors"), "split": "val"}
    (judged / "run" / "earlier").mkdir()
    (judged / "run" / "earlier" / "probe.jsonl").write_text(json.dumps(earlier) + "\n")
    ran = rslow("evaluate", "--name", "compared", *options(judged, "evaluate.split=val"))
    assert ran.code == 0, ran.err
    assert "opened 2 times on the validation split" in ran.told
    report = report_of(judged, "compared")
    assert "test" not in report["tiles"]
    assert report["tiles"]["pictures (val)"] == 45
    assert "too favourable to report" in (judged / "run/compared/report.md").read_text()
    figures = report["figures"]["Probe: pictures"]
    notes = {one["name"]: one["note"] for one in figures}
    assert notes["probe, gate-passed: AUC"] == "left out: there is no gate yet"
    # Line by line as in the other report, so that both can be put side by side.
    before = report_of(judged)["figures"]["Probe: pictures"]
    assert [one["name"] for one in figures] == [one["name"] for one in before]
    ran = rslow("evaluate", *options(judged))
    assert ran.code == 4
    assert torn.name in ran.err
    assert "training" not in ran.err
    torn.write_bytes(whole)
    (judged / "run" / "no gate").rename(judged / "run" / "gate")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--set", "evaluate.probe_tiles=99"), 3, "picture_tiles"),
        (("--found", "nowhere"), 4, "nowhere/report.json"),
        (("--set", "data.more=[]"), 3, "evaluate.probe_tiles has no effect without pictures"),
    ],
)
def test_mistakes_end_in_one_line(
    rslow: Run, judged: Path, words: Sequence[str], code: int, said: str
) -> None:
    """Settings without effect, and a search that is not there."""
    ran = rslow("evaluate", "--name", "wrong", *options(judged), *words)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_options_of_the_probe_need_pictures(rslow: Run, judged: Path) -> None:
    """Without a source of pictures, what only the probe reads is refused."""
    words = ("evaluate", "-c", judged / "config.yaml", "--name", "wrong")
    for more in (("--found", "generate"), ("--set", "evaluate.cas_rgb=true")):
        ran = rslow(*words, *more)
        assert ran.code == 3
        assert "has no effect without pictures" in ran.err


def test_sheets_are_judged_and_scored(judged: Path, tmp_path: Path) -> None:
    """Sheets, form and key belong together; a judge who is right, and one who cannot tell."""
    kinds = {"real": 9, "random": 6, "found": 3, "old": 6}
    out = tmp_path / "sheets"
    words = [str(out), *options(judged), "--old-model", str(judged / "run/gan/gan.safetensors")]
    words += [word for kind, n in kinds.items() for word in (f"--{kind}", str(n))]
    blind.main(words)
    key = key_of(out)
    assert [int(row["number"]) for row in key] == list(range(1, 25))
    assert [row["kind"] for row in key] != sorted(row["kind"] for row in key)
    for kind, name in (("real", "real"), ("old", "old generator"), ("random", "random")):
        own = [row["class"] for row in key if row["kind"] == name]
        assert {one: own.count(one) for one in CLASSES} == dict.fromkeys(CLASSES, kinds[kind] // 3)
    with Image.open(out / "sheet-01.png") as sheet:
        # The first tile: four times 32 pixels below its number.
        assert sheet.size == (12 + 6 * (128 + 12), 12 + 4 * (128 + 20 + 12))
        assert np.asarray(sheet)[32:160, 12:140].std() > 0
    with pytest.raises(SystemExit, match="without a verdict"):
        blind.main(["--score", str(out / "form.csv"), "--key", str(out / "key.csv")])
    with pytest.raises(SystemExit, match="holds sheets already"):
        blind.main(words)

    def scored(judge: Any) -> str:
        rows = [
            {"number": row["number"], "verdict": judge(row), "class": row["class"]} for row in key
        ]
        blind.write_csv(out / "form.csv", rows)
        table: str = blind.score(out / "form.csv", out / "key.csv")
        return table

    table = scored(lambda row: "real" if row["kind"] in ("real", "found") else "generated")
    assert "Valid." in table
    interval = binomtest(9, 9).proportion_ci(method="wilson")
    assert f"| all | 9 of 9: 100% ({interval.low:.0%} .. 100%)" in table
    assert "of which 24 as in the key" in table
    assert "NOT VALID" in scored(lambda row: "real")
    assert "0% of the real tiles" in scored(lambda row: "generated")


def test_composites_and_folders_are_shown_too(judged: Path, tmp_path: Path) -> None:
    """Near infrared of the multispectral tiles beside pictures from elsewhere, by subfolder."""
    out = tmp_path / "sheets"
    words = [str(out), *options(judged), "--split", "val", "--composite", "near_infrared"]
    folder = f"theirs={judged / 'pictures'}"
    blind.main([*words, "--real", "6", "--passed", "0", "--folder", folder])
    key = key_of(out)
    assert sum(row["kind"] == "theirs" for row in key) == 135
    assert {row["class"] for row in key} == set(CLASSES)
    assert len(list(out.glob("sheet-*.png"))) == 6
    with pytest.raises(SystemExit, match="1000 for --real 3000"):
        blind.main([str(tmp_path / "more"), *words[1:], "--real", "3000"])


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"real": 0.8, "old generator": 0.1}, "Valid."),
        ({"real": 0.79, "old generator": 0.0}, "NOT VALID: 79% of the real tiles"),
        ({"real": 1.0, "old generator": 0.11}, "NOT VALID: 11% of the old generator's"),
        ({"real": 0.9}, "Valid. (There are no tiles of an old generator"),
        ({"random": 0.9}, "NOT VALID: there are no real tiles"),
    ],
)
def test_a_judgement_counts_by_rule(shares: dict[str, float], said: str) -> None:
    """At least 80 % of real tiles taken for real, at most 10 % of the old generator's."""
    assert blind.validity(shares).startswith(said)
