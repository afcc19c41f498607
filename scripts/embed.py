"""Put the models of a run into the package, with a model card made of the run's own figures.

Beside them it writes the album: of each class 8 of the training tiles, as different as possible.

Usage: python scripts/embed.py RUN_FOLDER VISIBLE_RUN_FOLDER [REMARK]

The second folder holds the target of the visible bands. The remark says on the card what the
files do not: how their training differed.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from rs_lowconf.album import ALBUM
from rs_lowconf.data.source import open_split
from rs_lowconf.models import checksums
from rs_lowconf.percents import percent
from rs_lowconf.places import EMBEDDED
from rs_lowconf.review.geotiff import observed_tags, write_tile
from rs_lowconf.runs import read_checkpoint, sha256_of, write_text
from rs_lowconf.search.archive import most_diverse
from rs_lowconf.search.calibration import Calibration, load_calibration
from rs_lowconf.search.neighbours import features_of
from rs_lowconf.search.report import gate_lines
from rs_lowconf.settings import GanSettings, SearchSettings, load
from rs_lowconf.stored import stored_numbers
from rs_lowconf.target.trained import load_trained

MOST_BYTES = 12_000_000
FILES = (
    "gan/gan.safetensors",
    "gate/critic.safetensors",
    "gate/calibration.safetensors",
    "extractor/extractor.safetensors",
    "encoder/encoder.safetensors",
    "encoder/distances.safetensors",
    "target/multispectral.safetensors",
    "target/visible.safetensors",
)
PER_CLASS = 8
"""Tiles of each class in the album."""
NOTICE = """# The album

Real Sentinel-2 tiles (L1C, 13 bands, reflectance x 10,000), {per_class} of each class, from the
training split of the embedded generator. `rslow generate` and `rslow quickstart` show them beside
generated tiles where no other data are named. Nothing is measured on them.

* **Licence**: MIT (EuroSAT, Helber et al. 2019, https://github.com/phelber/EuroSAT)
* **Attribution**: {attribution}
"""
CARD = """# Embedded models

What `rslow quickstart` and `rslow generate` use when no other models are named: a conditional GAN
for 64 x 64 tiles of the 13 bands of Sentinel-2 (L1C), the gate that judges its tiles, two
classifiers to be tested, the network that measures likeness, and the encoder by which real tiles
are redrawn.

* **Data**: {tiles} tiles of EuroSAT ({data}), split by torchgeo; for the
  target of the visible bands its pictures, split in the same way.
* **Licence**: MIT, as rs_lowconf.
* **Attribution**: {attribution}.
* **Recipe** of the generator, where it differs from the defaults: {recipe}. The kept
  checkpoint, the one nearest to the validation tiles, saw {images:,} images.
* **Trained** by the commands of `scripts/train-reference EUROSAT_FOLDER PICTURES_FOLDER`;
  seed {seed}.{remark}
  Someone with all 27,000 tiles of EuroSAT runs the same command; folders that do not exist are
  fetched.

## Figures

Test split, unless another is named; intervals are 95 %.

| model | figure |
|---|---|
{figures}

Every figure of the generator, with its number of tiles, interval and floor, is in
[QUALITY.md](QUALITY.md).

## Limits

* The classes, the places (Europe), the season and the processing level are EuroSAT's. A tile that
  these models find hard says nothing about another product, sensor or land cover.
* The generator knows {train} tiles. It mixes what it saw there; what it never saw it cannot draw.
  It learned from L1C reflectance as EuroSAT delivers it: 20 m and 60 m bands resampled to 10 m.
{gate}
* Generated tiles are no observations. Every file they are written to says so (`RSLOW_SYNTHETIC`).
* The classifiers are subjects for tests, no products. That of the visible bands learned from
  pictures that end at a reflectance of 0.275: brighter pixels are new to it.

## Files

| file | bytes | sha256 |
|---|---:|---|
{files}
"""


def write_album(run: Path, folder: Path) -> None:
    """Write the album of a run's data, and what may be done with it.

    Args:
        run: with an extractor and a gate, whose settings name the data.
        folder: replaced when it exists.
    """
    data = load(run / "gate" / "settings.yaml").data
    source, cpu = open_split(data, "train"), torch.device("cpu")
    extractor = load_trained(run / "extractor" / "extractor.safetensors", cpu, kind="classifier")
    features = features_of(extractor, source, cpu)
    shutil.rmtree(folder, ignore_errors=True)
    for label, name in enumerate(source.classes):
        own = (source.labels == label).nonzero()[:, 0]
        (folder / name).mkdir(parents=True)
        for row in own[most_diverse(features[own], PER_CLASS)].tolist():
            tile = source.batch([row])
            write_tile(
                folder / name / f"{Path(source.ids[row]).name}.tif",
                stored_numbers(tile.image)[0].numpy(),
                source.bands,
                observed_tags(data.attribution),
                None if tile.grids is None else tile.grids[0],
            )
    text = NOTICE.format(per_class=PER_CLASS, attribution=data.attribution)
    write_text(folder / "README.md", text)


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file that a stage wrote."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def figures_of(run: Path, visible: Path) -> list[str]:
    """Return the rows of the card's table."""
    rows = []
    for name, folder in (
        ("target, visible bands", visible / "target"),
        ("target, 13 bands", run / "target"),
        ("extractor", run / "extractor"),
    ):
        own = read(folder / "report.json")
        rows.append(
            f"| {name} | {percent(own['accuracy'], 1)} of {own['tiles']:,} tiles right "
            f"({percent(own['accuracy_low'], 1)} .. {percent(own['accuracy_high'], 1)}), "
            f"calibration error {own['ece_equal_count']:.3f} "
            f"(by chance {own['ece_by_chance']:.3f}) |"
        )
    for group in read(run / "evaluate" / "report.json")["figures"].values():
        for figure in group:
            own = figure["measured"]
            if own is None or figure["name"] not in SHOWN:
                continue
            low, high = own["interval_95"]
            floor = figure["floor"]
            beside = f"; floor {floor['value']:.3g}" if floor else ""
            rows.append(
                f"| generator | {figure['name']}: {own['value']:.3g} ({low:.3g} .. {high:.3g})"
                f"{beside} |"
            )
    return rows


def gate_of(calibration: Calibration) -> list[str]:
    """Return what the card says of the gate: what it costs in real tiles and what it drops."""
    permitted = SearchSettings().false_rejection
    if calibration.fitted is not None:
        return gate_lines(calibration.describe(permitted))
    return [
        f"The gate was calibrated on {len(calibration.reference)} held-out tiles: on average over "
        f"such sets it rejects at most {percent(permitted, 0)} of real tiles, but one set may be "
        "worse.",
        "What share of generated tiles it drops was not measured.",
    ]


SHOWN = (
    "KID-S2",
    "CAS, tiles as they are, ratio to real",
    "CAS of Gaussian tiles, tiles as they are, ratio to real",
    "CAS, standardised tiles, ratio to real",
    "CAS of Gaussian tiles, standardised tiles, ratio to real",
    "SAM to the nearest real spectrum",
    "SID of class means",
    "radial power",
    "copies, features, below the 1 % quantile",
)


def main(run: Path, visible: Path, remark: str = "") -> None:
    """Check that the models belong together, copy them and write the card."""
    trained = Path("target", "target.safetensors")
    sources = {file: run / file for file in FILES}
    sources |= {FILES[-2]: run / trained, FILES[-1]: visible / trained}
    names = {path.stem: path for file, path in sources.items() if file != FILES[-1]}
    calibration = load_calibration(names["calibration"], checksums(names))
    size = sum(path.stat().st_size for path in sources.values())
    if size > MOST_BYTES:
        sys.exit(f"the models take {size:,} bytes; the package holds at most {MOST_BYTES:,}")
    report = read(run / "evaluate" / "report.json")
    if report["gan"]["sha256"] != sha256_of(names["gan"]):
        sys.exit(f"{run / 'evaluate'} measured another GAN; run rslow evaluate again")
    header = read_checkpoint(names["gan"], "gan")[1]
    counts = report["tiles"]
    card = CARD.format(
        tiles=counts["train"] + counts["val"] + counts["test"],
        data=f"{counts['train']} to train, {counts['val']} to validate, {counts['test']} to test",
        attribution=header["attribution"],
        seed=header["seed"],
        recipe=", ".join(
            f"{name} {value}"
            for name, value in header["settings"].items()
            if value != GanSettings().model_dump(mode="json")[name]
        ),
        figures="\n".join(figures_of(run, visible)),
        images=header["images"],
        remark=f" {remark}" if remark else "",
        train=counts["train"],
        gate="\n".join(f"* {line}" for line in gate_of(calibration)),
        files="\n".join(
            f"| {file} | {path.stat().st_size:,} | {sha256_of(path)} |"
            for file, path in sources.items()
        ),
    )
    for file, path in sources.items():
        (EMBEDDED / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, EMBEDDED / file)
    write_album(run, ALBUM)
    shutil.copyfile(run / "evaluate" / "report.md", EMBEDDED / "QUALITY.md")
    write_text(EMBEDDED / "MODEL_CARD.md", card)
    print(f"{size:,} bytes in {EMBEDDED}; read {EMBEDDED / 'MODEL_CARD.md'}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
