"""A gate that is fitted on real and generated tiles, from training to an update by rejects."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image, ImageOps

from rs_lowconf.data.source import open_split
from rs_lowconf.models import load_models
from rs_lowconf.places import EMBEDDED
from rs_lowconf.review.reading import read_package
from rs_lowconf.search.calibration import load_calibration
from rs_lowconf.search.fitted import FittedGate, LinearScore
from rs_lowconf.settings import load
from rs_lowconf.stored import stored_numbers
from rs_lowconf.workflows.gate_kinds import GAUSSIAN, GENERATOR, SCRAMBLED, SHUFFLED
from tests.conftest import Run, run_program
from tests.test_cli_hints import decide

WORDS = ("-s", "search.false_rejection=0.2", "-s", "search.baseline_evaluations=0")


def add_pictures(project: Path) -> None:
    """Show every tile as JPEGs too, and make these, which are more, a further source."""
    for path in sorted((project / "tiles").glob("*/*.tif")):
        with rasterio.open(path) as file:
            pixels = np.stack(
                [file.read(file.descriptions.index(b) + 1) for b in ("B04", "B03", "B02")]
            )
        shown = np.rint(pixels / 3_000 * 255).clip(0, 255).astype(np.uint8)
        place = project / "pictures" / path.parent.name / f"{path.stem}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.moveaxis(shown, 0, 2))
        picture.save(place, quality=100, subsampling="4:2:0")
        mirrored = place.with_stem(f"{path.stem}_mirrored")
        ImageOps.mirror(picture).save(mirrored, quality=100, subsampling="4:2:0")
    config = project / "config.yaml"
    lines = config.read_text().replace(
        "       test_share: 0.1}",
        "       test_share: 0.1, more: [{kind: pictures, root: "
        f"{project / 'pictures'}, bands: [B04, B03, B02], tile_size: 32, val_share: 0.45, "
        "test_share: 0.1, reflectance: [0.0, 0.3], chroma: half}]}",
    )
    lines = lines.replace(
        "recipe: native, width: 8, images: 320", "tiles: 24, side: 32, width: 8, images: 32"
    )
    config.write_text(lines)


@pytest.fixture
def fitted(project: Path) -> Path:
    """Return a project whose gate is fitted."""
    add_pictures(project)
    ran = run_program("train", "gate", "-c", project / "config.yaml", *WORDS)
    assert ran.code == 0, ran.err
    assert "drops" in ran.told
    assert "left out of its fit" in ran.told
    return project


def calibration_of(project: Path) -> Path:
    return project / "run" / "gate" / "calibration.safetensors"


def test_the_gate_drops_a_bad_generator_and_passes_real_tiles(fitted: Path) -> None:
    """Its report tells power by kind; stored real tiles pass it, and a search says what fell."""
    report = json.loads((fitted / "run" / "gate" / "report.json").read_text())
    kinds = report["power"]["kinds"]
    assert set(kinds) == {GENERATOR, GAUSSIAN, SCRAMBLED, SHUFFLED}
    assert not kinds[SHUFFLED]["fitted"]
    assert "left_out_of_the_fit" not in kinds[SHUFFLED]
    # A generator of 800 images and tiles without texture look like nothing real.
    assert min(kinds[name]["value"] for name in (GENERATOR, GAUSSIAN)) > 0.8
    assert report["power"]["real_tiles_shown_as_pictures"]["value"] < 0.5
    assert report["joint_false_rejection_at_most"] <= 0.2
    assert [one["parts"] for one in report["stages"]] == [
        ["true colour"],
        ["near infrared", "spectra and texture"],
    ]
    assert calibration_of(fitted).stat().st_size < 2e6
    settings = load(fitted / "config.yaml", ["search.false_rejection=0.2"])
    models = load_models(settings, trust_code=False)
    val = open_split(settings.data, "val")
    image = stored_numbers(val.batch(range(len(val))).image)
    judged = [
        models.evaluator.judge_stored(tile, int(label))
        for tile, label in zip(image, val.labels, strict=True)
    ]
    assert np.mean([one.passes for one in judged]) > 0.6
    for one in judged:
        assert (one.dropped_by is None) == one.passes
        assert "near infrared" in one.parts or not one.passes
    run_program(
        *("generate", "-c", fitted / "config.yaml", *WORDS),
        *("-s", "search.count=2", "-s", "search.max_evaluations=60"),
    )
    search = json.loads((fitted / "run" / "generate" / "report.json").read_text())["search"]
    assert search["rejected_by_gate"] == sum(search["dropped_by_part"].values()) > 0


def test_rejects_alone_teach_the_gate_without_data(fitted: Path, rslow: Run) -> None:
    """From ten rejects and no accept a part is learned that drops their like, without any tiles."""
    path = calibration_of(fitted)
    known = load_calibration(path, {})
    assert known.fitted is not None
    replace(known, fitted=open_wide(known.fitted)).save(path)
    words = (
        *("-c", fitted / "config.yaml"),
        *WORDS,
        *("-s", "data.kind=none"),
    )
    ran = rslow("generate", *words, "-s", "search.count=12", "-s", "search.per_condition=12")
    assert ran.code == 0, ran.err
    package = fitted / "run" / "generate" / "review"
    count = len(read_package(package).answers)
    decide(package, ["reject"] * 9 + ["unsure"] * (count - 9))
    assert rslow("review", "import", package, "-c", fitted / "config.yaml").code == 0
    few = rslow("update", *words)
    assert few.code == 6
    assert "9 rejected samples" in few.err
    decide(package, ["reject"] * count)
    assert rslow("review", "import", package, "-c", fitted / "config.yaml").code == 0
    assert "Next: rslow update" in rslow("status", *words).out
    ran = rslow("update", *words)
    assert ran.code == 0, ran.err
    report = json.loads((fitted / "run" / "update-1" / "report.json").read_text())
    assert (report["rejected"], report["accepted"]) == (12, 0)
    assert report["dropped"]["value"] > 0.5
    before, after = (report["gate"][when] for when in ("before", "after"))
    assert {*after["parts"]} - {*before["parts"]} == {"reviews"}
    assert after["power"]["kinds"] == before["power"]["kinds"] == known.fitted.power["kinds"]
    page = (fitted / "run" / "update-1" / "report.html").read_text()
    assert "learned from 12 rejected and 0 accepted tiles" in page
    assert page.count("<article>") == 12
    rslow("generate", *words, "--name", "round-2", "-s", "search.max_evaluations=60")
    again = json.loads((fitted / "run" / "round-2" / "report.json").read_text())
    assert "reviews" in again["gate"]["parts"]
    assert again["search"]["dropped_by_part"]["reviews"] > 0


def open_wide(gate: FittedGate) -> FittedGate:
    """Return a gate that drops nothing, so that tiles of a bad generator come to review."""
    stages = []
    for stage in gate.stages:
        parts = tuple(
            replace(
                part,
                score=LinearScore(
                    weight=torch.zeros_like(part.score.weight),
                    bias=torch.full_like(part.score.bias, 1e6),
                ),
            )
            for part in stage.parts
        )
        stages.append(replace(stage, parts=parts))
    return replace(gate, stages=tuple(stages))


def test_a_checkpoint_of_another_generator_is_a_kind_of_its_own(project: Path) -> None:
    """Other generators are fitted on or only measured, as the settings say; misfits are refused."""
    other = project / "run" / "gan" / "gan.safetensors"
    words = (
        "-c",
        project / "config.yaml",
        *WORDS,
        "-s",
        "gate.recipe=frozen",
        "-s",
        "gate.tiles=12",
    )
    small = ("-s", "gate.side=32", "-s", "gate.images=16", "-s", "gate.leave_out=false")
    ran = run_program("train", "gate", *words, *small, "-s", f"gate.held_out=[{other}]")
    assert ran.code == 0, ran.err
    report = json.loads((project / "run" / "gate" / "report.json").read_text())
    # Without pictures one stage gets all of the permitted rejection.
    (stage,) = report["stages"]
    assert stage["parts"] == ["true colour", "near infrared", "spectra and texture"]
    assert not report["power"]["kinds"]["generator of run"]["fitted"]
    embedded = EMBEDDED / "gan" / "gan.safetensors"
    ran = run_program("train", "gate", *words, *small, "-s", f"gate.generators=[{embedded}]")
    assert ran.code == 5
    assert "lacks fields, meadow, woods" in ran.err
