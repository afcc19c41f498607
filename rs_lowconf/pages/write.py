"""Pages of samples: what was tested, the answer, and every sample beside its real neighbour."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rs_lowconf.models import Models
from rs_lowconf.pages.rendering import target_facts, template
from rs_lowconf.pages.result import Result
from rs_lowconf.pages.samples import Card, Group, groups_of, places_of
from rs_lowconf.percents import percent
from rs_lowconf.runs import write_text

MOST = 1_000
"""Samples on one page."""
_WIDTH, _HEIGHT = 220, 90
"""Of a spectrum, in pixels."""
_FIRST = 10
"""Groups that are listed at once; the others can be opened."""
_MAP = 420
"""Side of the map of samples, in pixels."""
_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a6d00"),
    *("#003959", "#734f00", "#004f39", "#66334f", "#2b5a74", "#6a2f00"),
)
"""Okabe and Ito's palette, and darker."""


def tested_by(models: Models) -> dict[str, str]:
    """Return which target was tested with which generator."""
    target, generator, class_map = models.target, models.generator, models.class_map
    return {
        **target_facts(models.target_origin, target.classes),
        "Its bands": f"{', '.join(target.bands.names)} ({target.bands.level})",
        **({"Common names of classes": class_map.text} if class_map.names else {}),
        "Generator's SHA-256": generator.sha256,
        "Generator learned from": generator.attribution,
    }


def write_page(folder: Path, told: Result, cards: Sequence[Card], seed: int = 0) -> Path:
    """Write a page of samples; above a thousand, pages of a thousand and an index.

    Args:
        folder: takes `report.html`, and `report/page-1.html` and so on beside it if there are many.
        told: beside the samples.
        cards: the samples, in the order to show them in.
        seed: of the search for groups.

    Returns:
        report.html.

    Raises:
        OutputError: a file cannot be written.
    """
    samples = template("samples.html")
    groups = groups_of(cards, seed)
    group_of = {card.name: number for number, group in enumerate(groups) for card in group.cards}
    parts = [cards[first : first + MOST] for first in range(0, len(cards), MOST)]
    pages = [f"report/page-{number}.html" for number in range(1, len(parts) + 1)]
    place = {card.name: "" for card in cards}
    if len(parts) > 1:
        place = {card.name: page for part, page in zip(parts, pages, strict=True) for card in part}

    def written(path: Path, own: Sequence[Card], **changes: Any) -> Path:
        """Write one page with some of the samples."""
        values = {
            "told": told,
            "spectrum": _spectrum,
            "colours": _COLOURS,
            "group_of": group_of,
            "cards": own,
            "conditions": sorted({card.condition for card in own}),
            "predictions": sorted({card.predicted for card in own} - {""}),
            "map_side": _MAP,
            "spectrum_size": (_WIDTH, _HEIGHT),
            "first_groups": _FIRST,
            "total": len(cards),
            "number": 0,
            "pages": [],
        }
        write_text(path, samples.render(values | changes))
        return path

    rows = [_row(number, group, place) for number, group in enumerate(groups)]
    points = _points(cards, group_of, place)
    if len(parts) <= 1:
        return written(folder / "report.html", cards, groups=rows, points=points)
    (folder / "report").mkdir(exist_ok=True)
    for number, part in enumerate(parts, start=1):
        here = {group_of[card.name] for card in part}
        own = [row for row in rows if row["number"] in here]
        written(folder / pages[number - 1], part, groups=own, number=number)
    return written(folder / "report.html", [], groups=rows, points=points, pages=pages)


def _row(number: int, group: Group, place: Mapping[str, str]) -> dict[str, Any]:
    """Return what the table of groups tells of one."""
    lowest = min(group.cards, key=lambda card: card.confidence)
    return {
        "number": number,
        "name": group.name,
        "count": len(group.cards),
        "lowest": lowest.confidence,
        "href": f"{place[lowest.name]}#{lowest.name}",
    }


def _points(
    cards: Sequence[Card], group_of: Mapping[str, int], place: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the samples as points of the map."""
    return [
        {
            "x": round(8 + float(x) * (_MAP - 16), 1),
            "y": round(8 + float(y) * (_MAP - 16), 1),
            "colour": _COLOURS[group_of[card.name] % len(_COLOURS)],
            "title": f"{card.name}: {card.confusion}, {percent(card.confidence, 0)}",
            "href": f"{place[card.name]}#{card.name}",
        }
        for card, (x, y) in zip(cards, places_of(cards), strict=True)
    ]


def _spectrum(card: Card) -> dict[str, Any]:
    """Return the lines of a sample's spectrum and of its neighbour's, in pixels."""
    lines = [card.spectrum, card.real_spectrum]
    values = [value for line in lines for _, value in line]
    waves = [wave for line in lines for wave, _ in line]
    if not values:
        return {"own": "", "real": "", "top": ""}
    top, left, right = max(*values, 0.05), min(waves), max(*waves, min(waves) + 1)

    def points(line: Sequence[tuple[int, float]]) -> str:
        return " ".join(
            f"{4 + (wave - left) / (right - left) * (_WIDTH - 8):.0f},"
            f"{_HEIGHT - 4 - value / top * (_HEIGHT - 16):.0f}"
            for wave, value in line
        )

    return {
        "own": points(card.spectrum),
        "real": points(card.real_spectrum),
        "top": f"{top:.2f}",
    }
