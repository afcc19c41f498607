"""The words and the JSON of `data check` and `catalog check` on drawn data with faults.

`check_reports.json` holds what they were before their tallies became one. Run as a program, this
file writes it anew.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rs_lowconf.cli import tables
from rs_lowconf.data.files import SPLITS
from tests.conftest import run_program
from tests.make_scenes import BANDS, corner, draw, make_chips, write

STORED = Path(__file__).parent / "check_reports.json"
COMMON = ("data.level=L2A", "data.tile_size=32", f"data.file_bands=[{', '.join(BANDS)}]")


def place(number: int) -> Any:
    """Return the corner of one image of many, 3 km apart."""
    return corner(400_000 + 3_000 * (number % 5), 5_000_000 + 3_000 * (number // 5))


def tiles(folder: Path) -> list[str]:
    """Draw tiles: some brighter by 1000, one constant, others too big, doubled, short of bands."""
    number = 0
    for split in SPLITS:
        for name in ("damage", "healthy"):
            for i in range(4):
                pixels, _ = draw(32, 32, number)
                pixels += np.uint16(1000 * (number % 5 == 1))
                write(folder / "tiles" / split / name / f"{i}.tif", pixels, place(number))
                number += 1
    flat, _ = draw(32, 32, 90)
    flat[2] = 77
    flat[:, :8] = 0
    train = folder / "tiles" / "train" / "damage"
    write(train / "flat.tif", flat, place(25))
    write(train / "large.tif", draw(48, 48, 91)[0], place(26))
    write(train / "short.tif", draw(32, 32, 92)[0][:2], place(27))
    (train / "notes.txt").write_text("is no tile")
    shutil.copy(train / "0.tif", train / "again.tif")
    shutil.copy(train / "2.tif", folder / "tiles" / "test" / "healthy" / "leak.tif")
    return [
        *("data check", "data.kind=folder", f"data.root={folder}/tiles"),
        *("data.max_nodata=0.5", "data.skip_bad=true", *COMMON),
    ]


def chips(folder: Path) -> list[str]:
    """Draw chips: some brighter by 1000, one short of bands, two without a known mask."""
    make_chips(folder, 14, side=32)
    for number in (2, 5, 8):
        for date in ("2019", "2020"):
            path = folder / "images" / date / f"s2_{number}.tif"
            write(path, draw(32, 32, number)[0] + np.uint16(1000), place(number))
    (folder / "masks" / "mask_3.tif").unlink()
    write(folder / "images" / "2019" / "s2_4.tif", draw(32, 32, 4)[0][:2], place(4))
    write(folder / "masks" / "mask_9.tif", np.full((32, 32), 7, np.uint8), place(9))
    return [
        *("data check", "data.kind=chips", f"data.images={folder}/images"),
        *(f"data.masks={folder}/masks", "data.image_name=s2_*.tif", "data.mask_name=mask_*.tif"),
        *("data.mask_classes={0: background, 1: damage}", "data.val_share=0.3"),
        *("data.test_share=0.3", *COMMON),
    ]


def catalog(folder: Path) -> list[str]:
    """Catalogue images: some brighter by 1000, one constant, filled, doubled, and one lost."""
    for number in range(16):
        pixels, _ = draw(32, 32, number)
        pixels += np.uint16(1000 * (number % 5 == 1))
        if number == 3:
            pixels[1] = 55
        if number == 4:
            pixels[:, :6] = 32_767
        write(folder / "images" / f"s2_{number:02}.tif", pixels, place(number))
    shutil.copy(folder / "images" / "s2_00.tif", folder / "images" / "s2_00_again.tif")
    words = [
        *("data.kind=images", f"data.images={folder}/images"),
        *(f"catalog.path={folder}/catalog.parquet", *COMMON),
    ]
    built = run_program("catalog", "build", *settings(words))
    assert built.code == 0, built.err
    (folder / "images" / "s2_05.tif").unlink()
    return ["catalog check", *words]


CASES: dict[str, Callable[[Path], list[str]]] = {
    "tiles": tiles,
    "chips": chips,
    "catalog": catalog,
}


def settings(words: list[str]) -> list[str]:
    """Return settings as words of a command."""
    return [word for setting in words for word in ("-s", setting)]


def answer(case: str, folder: Path) -> dict[str, Any]:
    """Return how a check of drawn data ends, what it prints and what it saves."""
    command, *words = CASES[case](folder)
    file = folder / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        # Else lines are folded at other places where the folder has a longer name.
        patch.setattr(tables, "_PLAIN_WIDTH", 1_000)
        ran = run_program(*command.split(), *settings(words), "--json", file)
    out, saved = (
        text.replace(str(folder), "FOLDER") for text in (ran.out, file.read_text(encoding="utf-8"))
    )
    return {"code": ran.code, "out": out.splitlines(), "json": json.loads(saved)}


@pytest.mark.parametrize("case", CASES)
def test_a_check_says_what_it_always_said(case: str, tmp_path: Path) -> None:
    """Exit code, words and every value of the saved report are the stored ones."""
    assert answer(case, tmp_path) == json.loads(STORED.read_text(encoding="utf-8"))[case]


if __name__ == "__main__":
    answers = {}
    for chosen in CASES:
        with tempfile.TemporaryDirectory() as made:
            answers[chosen] = answer(chosen, Path(made))
    STORED.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{STORED}\n")
