"""The page of a generator's evaluation: every figure beside its floor, with the plots."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from rs_lowconf.gan.measure import Measurement
from rs_lowconf.gan.quality import HEADS, row_of
from rs_lowconf.pages.pictures import Picture, picture_of
from rs_lowconf.pages.rendering import made
from rs_lowconf.pages.result import Part, Result, write_result

_PLOTS = {
    "radial_power": "Power per band: what is missing at many cycles per tile is missing detail.",
    "class_accuracy": "Accuracy on real tiles of classifiers trained on real and generated ones.",
    "indices": "Distribution of spectral indices over pixels.",
    "memorisation": "Distance to the nearest training tile: copies would be left of the line.",
}


def write_quality_page(
    folder: Path,
    *,
    header: str,
    groups: Mapping[str, Sequence[Measurement]],
    tested: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Path:
    """Write report.html into the folder of an evaluation and return it.

    Args:
        folder: of the evaluation, which holds plots/ and mixed.png, or sheets/.
        header: of report.md: title, and paragraphs on how the figures are made.
        groups: the figures.
        tested: the generator and the tiles.
        notes: what else has to be known.

    Raises:
        OutputError: it cannot be written.
    """
    title, *paragraphs = header.strip().split("\n\n")
    result = Result(
        title=title.removeprefix("# "),
        answer=answer_of([*chain(*groups.values())]),
        tested={**tested, **made()},
        notes=[
            *(" ".join(text.split()) for text in paragraphs),
            "Intervals that overlap do not show that generated tiles look real: another figure, "
            "more tiles or a person may tell them apart.",
            *notes,
        ],
        parts=[
            *(
                Part(title=name, table=[HEADS, *map(row_of, group)], wide=True)
                for name, group in groups.items()
            ),
            *_pictures(folder),
        ],
    )
    return write_result(folder / "report.html", result)


def answer_of(figures: Sequence[Measurement]) -> str:
    """Return in one sentence in how many figures generated tiles differ from real ones.

    In those whose interval has nothing in common with that of the floor.
    """
    pairs = [(one.measured, one.floor) for one in figures if not one.control]
    both = [(own, real) for own, real in pairs if own is not None and real is not None]
    if not both:
        return "No figure could be compared with real tiles."
    apart = sum(own.low > real.high or own.high < real.low for own, real in both)
    return (
        f"In {apart} of {len(both)} figures the generated tiles differ from real ones by more than "
        f"the 95 % intervals; in the other {len(both) - apart} these overlap at this number of "
        "tiles."
    )


def _pictures(folder: Path) -> list[Part]:
    """Return what was written as pictures."""
    plots = [
        picture_of(folder / "plots" / f"{name}.png", caption, lossless=True)
        for name, caption in _PLOTS.items()
        if (folder / "plots" / f"{name}.png").is_file()
    ]
    sheets: list[Picture] = []
    if (folder / "mixed.png").is_file():
        caption = "Generated tiles of shuffled classes, without labels; the key is mixed.json."
        sheets.append(picture_of(folder / "mixed.png", caption, lossless=False))
    for path in sorted((folder / "sheets").glob("*.png")):
        sheets.append(
            picture_of(
                path, f"Masks, real tiles and tiles drawn for them: {path.stem}.", lossless=False
            )
        )
    parts = [Part(title="Plots", plots=plots, wide=True)] if plots else []
    return [*parts, Part(title="Look at the tiles", plots=sheets, wide=True)]
