#!/usr/bin/env python3
"""Real and generated tiles mixed on numbered sheets, to be judged before anybody opens the key.

Usage:
    scripts/research/blind_sheet.py OUT --config CONFIG [--set KEY=VALUE] [--split val]
        [--real 100] [--passed 200] [--found 100] [--random 50] [--old 50 --old-model FILE]
        [--folder NAME=FOLDER] [--composite near_infrared] [--seed 0]
    scripts/research/blind_sheet.py --score OUT/form.csv --key OUT/key.csv

The first form writes OUT/sheet-01.png and so on (tiles four times enlarged, each with its number),
OUT/form.csv and OUT/key.csv. Numbers of tiles are totals, spread evenly over the classes. A judge
looks at the sheets and fills in the form: one row per tile, `verdict` real or generated, and, if
the judge likes, `class`. The second form reads form and key and prints, for each kind of tiles and
each class, how many were taken for real, with Wilson's 95 % intervals. The judgement is valid only
if at least 80 % of the real tiles were taken for real and, where there are tiles of an old
generator, at most 10 % of these: otherwise the judge cannot tell, or calls everything generated.

All tiles are shown as the first source of pictures in data.more stores them, generated ones after
one JPEG pass; with --composite as three bands of multispectral tiles. Real tiles come from the
split that --split names. --folder adds tiles from anywhere: PNG or JPEG files, in subfolders named
by class or in none.
"""

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from rs_lowconf.bands import COMPOSITES
from rs_lowconf.data.source import open_split
from rs_lowconf.data.sources import open_more
from rs_lowconf.errors import DataError, RsLowconfError, SettingsError
from rs_lowconf.gan.measure import share_of
from rs_lowconf.gan.model import GanModel, load_model
from rs_lowconf.gan.pictures import (
    CompositeView,
    StoredView,
    View,
    draw_pictures,
    random_tiles,
    real_pictures,
)
from rs_lowconf.gan.rendering import rendering_of
from rs_lowconf.gan.source_quality import some_of_each
from rs_lowconf.gan.tiles import SomeTiles
from rs_lowconf.models import GeneratorModel, load_gate
from rs_lowconf.places import model_path
from rs_lowconf.runs import replacing, sha256_of
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings, further_sources, load
from rs_lowconf.workflows.quality_pictures import found_tiles, searched_gan

CPU = torch.device("cpu")
ENLARGED = 4
COLUMNS, ROWS = 6, 4
REAL, OLD = "real", "old generator"
VERDICTS = ("real", "generated")
REAL_AT_LEAST, OLD_AT_MOST = 0.80, 0.10
_GAP, _CAPTION = 12, 20
_ATTEMPTS = 200
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One tile of the sheets, and what the key says of it."""

    kind: str
    class_name: str
    """Empty where it is not known."""
    picture: UInt8[np.ndarray, "h w 3"]


def write_sheets(folder: Path, tiles: Sequence[Shown], seed: int) -> list[Path]:
    """Write shuffled sheets, the empty form and the key.

    Raises:
        DataError: there are no tiles, or they differ in size.
    """
    if len({tile.picture.shape for tile in tiles}) != 1:
        sizes = sorted({tile.picture.shape for tile in tiles})
        raise DataError(f"tiles of sizes {sizes}", expected="at least one tile, all of one size")
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [tiles[i] for i in order]
    written: list[Path] = []
    for first in range(0, len(shuffled), COLUMNS * ROWS):
        path = folder / f"sheet-{len(written) + 1:02d}.png"
        sheet = _sheet([tile.picture for tile in shuffled[first : first + COLUMNS * ROWS]], first)
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
        written.append(path)
    numbers = range(1, len(shuffled) + 1)
    write_csv(
        folder / "form.csv",
        ({"number": number, "verdict": "", "class": ""} for number in numbers),
    )
    write_csv(
        folder / "key.csv",
        (
            {"number": number, "kind": tile.kind, "class": tile.class_name}
            for number, tile in zip(numbers, shuffled, strict=True)
        ),
    )
    return written


def _sheet(pictures: Sequence[UInt8[np.ndarray, "h w 3"]], first: int) -> Image.Image:
    height, width = (ENLARGED * side for side in pictures[0].shape[:2])
    rows = math.ceil(len(pictures) / COLUMNS)
    size = (
        _GAP + COLUMNS * (width + _GAP),
        _GAP + rows * (height + _CAPTION + _GAP),
    )
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, COLUMNS)
        left, top = _GAP + column * (width + _GAP), _GAP + row * (height + _CAPTION + _GAP)
        draw.text((left, top), str(first + place + 1), fill="black", font=font)
        large = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(large, (left, top + _CAPTION))
    return sheet


def write_csv(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows of the same columns."""
    listed = list(rows)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)


def read_csv(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Return the rows of a form or a key by number.

    Raises:
        DataError: it cannot be read, lacks a column, or has a number twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
            found = {int(row["number"]): row for row in rows}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read ({error})", expected=f"a CSV with {', '.join(columns)}"
        ) from error
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing or len(found) != len(rows):
        raise DataError(
            f"{path} lacks {', '.join(missing)}" if missing else f"{path} has a number twice",
            expected=f"a CSV with {', '.join(columns)}, one row per tile",
        )
    return found


def score(form: Path, key: Path) -> str:
    """Return the table of a filled form.

    Raises:
        DataError: form and key differ in their tiles, or a verdict is missing or unknown.
    """
    filled = read_csv(form, ("number", "verdict", "class"))
    known = read_csv(key, ("number", "kind", "class"))
    if filled.keys() != known.keys():
        odd = sorted(filled.keys() ^ known.keys())
        raise DataError(
            f"{form} and {key} differ in tiles {odd[:10]}", expected="form and key of one folder"
        )
    said = {number: (row["verdict"] or "").strip().lower() for number, row in filled.items()}
    bad = [number for number, verdict in said.items() if verdict not in VERDICTS]
    if bad:
        raise DataError(
            f"{form}: {len(bad)} tiles without a verdict or with another, such as number "
            f"{min(bad)} ({said[min(bad)]!r})",
            expected=" or ".join(VERDICTS),
        )
    kinds = sorted({row["kind"] for row in known.values()}, key=lambda kind: (kind != REAL, kind))
    classes = sorted({row["class"] for row in known.values()} - {""})
    lines = [
        f"| class | {' | '.join(f'{kind}: taken for real' for kind in kinds)} |",
        "|---|" + "---|" * len(kinds),
    ]
    shares: dict[str, float] = {}
    for name in ("all", *classes):
        cells = []
        for kind in kinds:
            verdicts = [
                said[number] == "real"
                for number, row in known.items()
                if row["kind"] == kind and name in ("all", row["class"])
            ]
            if not verdicts:
                cells.append("")
                continue
            own = share_of(torch.tensor(verdicts))
            if name == "all":
                shares[kind] = own.value
            cells.append(
                f"{sum(verdicts)} of {own.n}: {own.value:.0%} ({own.low:.0%} .. {own.high:.0%})"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    named = [
        (number, row["class"].strip())
        for number, row in filled.items()
        if (row["class"] or "").strip()
    ]
    if named:
        right = sum(known[number]["class"] == name for number, name in named)
        lines += ["", f"Classes named: {len(named)}, of which {right} as in the key."]
    return "\n".join([*lines, "", validity(shares), ""])


def validity(shares: Mapping[str, float]) -> str:
    """Return whether a judgement counts.

    Args:
        shares: of the tiles of each kind that were taken for real.
    """
    faults = []
    if REAL not in shares:
        faults.append("there are no real tiles on the sheets")
    elif shares[REAL] < REAL_AT_LEAST:
        faults.append(
            f"{shares[REAL]:.0%} of the real tiles were taken for real, not {REAL_AT_LEAST:.0%}"
        )
    if shares.get(OLD, 0.0) > OLD_AT_MOST:
        faults.append(f"{shares[OLD]:.0%} of the old generator's were, more than {OLD_AT_MOST:.0%}")
    if faults:
        return f"NOT VALID: {'; '.join(faults)}."
    without = "" if OLD in shares else " (There are no tiles of an old generator on the sheets.)"
    return f"Valid.{without}"


def collect(words: argparse.Namespace, settings: Settings) -> Iterator[Shown]:
    """Yield the tiles that the command line asks for.

    Raises:
        RsLowconfError: data or models cannot be used, or there are too few tiles.
    """
    first = open_split(settings.data, words.split)
    classes, source = first.classes, first
    view: View
    if words.composite:
        view = CompositeView(composite=COMPOSITES[words.composite])
    else:
        more = further_sources(settings.data)
        number = next((n for n, own in enumerate(more) if own.kind == "pictures"), None)
        if number is None:
            raise SettingsError(
                "data.more has no pictures",
                remedy="add a source with kind: pictures, or choose a --composite",
            )
        source = open_more(settings.data, words.split, classes)[number]
        view = StoredView(rendering=rendering_of(more[number], source.bands))
    seed = seed_of(words.seed, "blind sheet")
    if words.real:
        counts = spread(words.real, len(classes))
        held = torch.bincount(source.labels, minlength=len(classes))
        if (held < counts).any():
            raise DataError(
                f"the {words.split} split has {int(held.min())} tiles of a class",
                expected=f"{int(counts.max())} for --real {words.real}",
            )
        some = SomeTiles(source, some_of_each(source.labels, counts, seed))
        yield from _shown(REAL, real_pictures(some, view), some.labels, classes)
    path = model_path(settings, "gan")
    if words.random or words.passed or words.found:
        gan = load_model(path, CPU)
        require_classes(gan, classes, path)
    if words.random:
        drawn = draw_pictures(gan.class_generator, spread(words.random, len(classes)), view, seed)
        yield from _shown("random", *drawn, classes)
    if words.passed:
        yield from gate_passed(settings, gan, view, spread(words.passed, len(classes)), seed)
    if words.found:
        yield from found(settings.run.dir / words.search, gan, path, view, words.found)
    if words.old:
        old = load_model(words.old_model, CPU)
        require_classes(old, classes, words.old_model)
        drawn = draw_pictures(old.class_generator, spread(words.old, len(classes)), view, seed)
        yield from _shown(OLD, *drawn, classes)
    for word in words.folder:
        kind, _, folder = word.partition("=")
        yield from of_folder(kind, Path(folder))


def spread(total: int, classes: int) -> torch.Tensor:
    """Return how many tiles of each class make a total, as evenly as may be."""
    counts = torch.full((classes,), total // classes)
    counts[: total % classes] += 1
    return counts


def require_classes(gan: GanModel, classes: tuple[str, ...], path: Path) -> None:
    """Refuse a generator of other classes than the data's."""
    if gan.generator.classes != classes:
        raise DataError(
            f"{path} draws {', '.join(gan.generator.classes)}", expected=", ".join(classes)
        )


def _shown(
    kind: str, pictures: UInt8[np.ndarray, "n h w 3"], labels: torch.Tensor, classes: Sequence[str]
) -> Iterator[Shown]:
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        yield Shown(kind=kind, class_name=classes[label], picture=picture)


def gate_passed(
    settings: Settings, gan: GanModel, view: View, counts: torch.Tensor, seed: int
) -> Iterator[Shown]:
    """Yield random tiles that the gate passes.

    Raises:
        DataError: the gate passes too few.
    """
    generator = gan.class_generator
    whole = GeneratorModel(gan=gan, sha256=sha256_of(model_path(settings, "gan")))
    permitted = settings.search.false_rejection
    gate = load_gate(settings, whole, CPU).gate(generator.bands, permitted, CPU)
    for label, wanted in enumerate(counts.tolist()):
        left, tried, name = wanted, 0, generator.classes[label]
        for image in islice(random_tiles(generator, label, seed_of(seed, "passed")), _ATTEMPTS):
            with torch.no_grad():
                scores = gate.score(image, torch.full((len(image),), label))
            some = image[scores.passes][:left]
            left, tried = left - len(some), tried + len(image)
            for picture in view.generated(some, generator.bands):
                yield Shown(kind="gate-passed", class_name=name, picture=picture)
            if not left:
                break
        if left:
            raise DataError(
                f"the gate passes {wanted - left} of {tried:,} random tiles of {name}",
                expected=f"{wanted} tiles",
                remedy="ask for fewer with --passed",
            )


def found(search: Path, gan: GanModel, path: Path, view: View, total: int) -> Iterator[Shown]:
    """Yield tiles that a search found, spread over the conditions as evenly as may be.

    Raises:
        DataError: the search had another generator, or found too few.
    """
    if searched_gan(search) != sha256_of(path):
        raise DataError(f"the tiles that {search} found are of another generator than {path}")
    by_class: dict[str, list[torch.Tensor]] = {}
    for image, condition in found_tiles(search, gan.generator.bands):
        by_class.setdefault(condition, []).append(image)
    left = total
    while left and any(by_class.values()):
        for condition, images in sorted(by_class.items()):
            if images and left:
                picture = view.generated(images.pop(0), gan.generator.bands)[0]
                yield Shown(kind="found", class_name=condition, picture=picture)
                left -= 1
    if left:
        raise DataError(
            f"{search} found {total - left} tiles", expected=f"{total}, as --found asks"
        )


def of_folder(kind: str, folder: Path) -> Iterator[Shown]:
    """Yield the pictures of a folder; the name of a subfolder is the class.

    Raises:
        DataError: there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not kind or not paths:
        raise DataError(
            f"--folder {kind}={folder} names no PNG or JPEG files", expected="NAME=FOLDER"
        )
    for path in paths:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        name = "" if path.parent == folder else path.parent.name
        yield Shown(kind=kind, class_name=name, picture=pixels)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Return the command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--score", type=Path, metavar="FORM")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--config", "-c", type=Path)
    parser.add_argument("--set", "-s", action="append", default=[], dest="overrides")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    for kind in ("real", "random", "passed", "found", "old"):
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="TILES")
    parser.add_argument("--search", default="generate", help="folder of --found below run.dir")
    parser.add_argument("--old-model", type=Path, help="gan.safetensors of the old generator")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--composite", choices=tuple(COMPOSITES))
    parser.add_argument("--seed", type=int, default=0)
    found_words = parser.parse_args(words)
    if (found_words.score is None) == (found_words.out is None):
        parser.error("name either a folder for the sheets or --score FORM")
    if (found_words.score is None) != (found_words.key is None):
        parser.error("--score and --key go together")
    if bool(found_words.old) != bool(found_words.old_model):
        parser.error("--old and --old-model go together")
    return found_words


def main(arguments: Sequence[str]) -> None:
    """Write sheets, or score a form."""
    words = parsed(arguments)
    try:
        if words.score is not None:
            print(score(words.score, words.key))
            return
        if (words.out / "form.csv").exists():
            raise DataError(f"{words.out} holds sheets already", remedy="choose another folder")
        tiles = list(collect(words, load(words.config, words.overrides)))
        sheets = write_sheets(words.out, tiles, seed_of(words.seed, "order"))
    except RsLowconfError as error:
        sys.exit(f"blind_sheet: {error}")
    print(f"{len(tiles)} tiles on {len(sheets)} sheets in {words.out}; fill in form.csv, then")
    print(f"scripts/research/blind_sheet.py --score {words.out}/form.csv --key {words.out}/key.csv")


if __name__ == "__main__":
    main(sys.argv[1:])
