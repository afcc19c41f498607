"""Measure how well suspicious labels are found: known ones are flipped, and searched for.

Usage: python scripts/research/label_errors.py EUROSAT_PICTURES OUT [--flipped 100] [--rows 300]

The embedded target of the visible bands scores the test split, of which some labels are flipped to
another class at random, with five seeds. OUT gets scores.npz and report.json: the share of flipped
labels among the first rows by `rslow batch suspects`, and by cleanlab's find_label_issues where
cleanlab is installed (it needs an older NumPy than our lock: install it elsewhere, and call this
script there again with OUT of the first run, which has the scores). Of the first rows without any
flips OUT gets sheets, for someone to count which labels are true errors.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tile_targets import embedded, pool_table, read_tiles

from rs_lowconf.batch.suspects import suspicion

try:
    from cleanlab.filter import find_label_issues
except ModuleNotFoundError:
    find_label_issues = None

SEEDS = range(5)
COLUMNS, ROWS, SIDE, TEXT = 8, 5, 160, 30
"""Of a sheet: tiles per row, rows, pixels per tile and per caption."""


def scores_of(root: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str], list[str]]:
    """Return probabilities, labels and ids of the test split, and the classes."""
    tiles = read_tiles(root)
    table = pool_table(embedded(), tiles, np.nonzero(tiles.split == "test")[0])
    classes = list(tiles.classes)
    label = np.array([classes.index(name) for name in table["label"]])
    return np.array(table["probabilities"].tolist()), label, table["id"].tolist(), classes


def write_sheets(
    root: Path,
    out: Path,
    rows: NDArray[np.int64],
    known: dict[str, NDArray[np.generic]],
) -> None:
    """Write tiles with number, label and what the target says, the most suspicious first."""
    predicted, classes = known["probability"].argmax(1), known["classes"]
    per_sheet = COLUMNS * ROWS
    for first in range(0, len(rows), per_sheet):
        sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * (SIDE + TEXT)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, row in enumerate(rows[first : first + per_sheet]):
            x, y = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + TEXT)
            name = classes[int(known["label"][row])]
            (path,) = root.rglob(f"{known['ids'][row]}.jpg")
            with Image.open(path) as tile:
                sheet.paste(tile.resize((SIDE - 4, SIDE - 4), Image.Resampling.BICUBIC), (x, y))
            draw.text((x + 2, y + SIDE - 3), f"{first + place + 1} {name}", "black")
            draw.text((x + 2, y + SIDE + 11), f"> {classes[predicted[row]]}", "black")
        sheet.save(out / f"sheet-{first // per_sheet + 1}.png")


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description="How well suspicious labels are found.")
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--flipped", type=int, default=100)
    parser.add_argument("--rows", type=int, default=300)
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    stored = words.out / "scores.npz"
    if not stored.exists():
        probability, label, ids, classes = scores_of(words.root)
        np.savez(stored, probability=probability, label=label, ids=ids, classes=classes)
    values = np.load(stored)
    probability, label = values["probability"], values["label"]
    report: dict[str, object] = {
        "tiles": len(label),
        "target_right": float((probability.argmax(1) == label).mean()),
    }
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        flipped = rng.choice(len(label), words.flipped, replace=False)
        noisy = label.copy()
        shift = rng.integers(1, probability.shape[1], words.flipped)
        noisy[flipped] = (label[flipped] + shift) % probability.shape[1]
        orders = {"rslow": np.argsort(-suspicion(probability, noisy), kind="stable")}
        if find_label_issues is not None:
            for by in ("normalized_margin", "self_confidence"):
                orders[f"cleanlab, {by}"] = find_label_issues(
                    noisy, probability, return_indices_ranked_by=by
                )
        for name, order in orders.items():
            share = np.isin(flipped, order[: words.rows]).mean()
            found.setdefault(name, []).append(float(share))
    report["flipped_found"] = found
    first = np.argsort(-suspicion(probability, label), kind="stable")[: words.rows]
    report["first_without_flips"] = values["ids"][first].tolist()
    write_sheets(words.root, words.out, first[: words.rows - words.flipped], dict(values))
    text = json.dumps(report, indent=1)
    (words.out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in report.items() if k != "first_without_flips"}, indent=1))


if __name__ == "__main__":
    main()
