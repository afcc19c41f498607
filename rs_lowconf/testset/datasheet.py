"""DATASHEET.md, after Gebru et al., "Datasheets for datasets" (Communications of the ACM, 2021)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from rs_lowconf.class_map import ClassMap
from rs_lowconf.testset.release import CHECKSUMS, LABELS, ReleaseTile
from rs_lowconf.testset.table import reviewed


def datasheet(tiles: Sequence[ReleaseTile], description: Mapping[str, Any]) -> str:
    """Return the datasheet of a release as Markdown.

    Args:
        tiles: its tiles.
        description: content of release.json.
    """
    masks = tiles[0].mask is not None
    parts = [
        f"# Datasheet of test set {description['version']}",
        f"**{description['warning']}**",
        'The questions follow Gebru et al., "Datasheets for datasets" (2021).',
        _motivation(masks=masks),
        *_composition(tiles, description),
        *_collection(tiles, description),
        _labelling(masks=masks),
        _uses(),
        f"## Distribution\n\nLicence: {description['licence']}\n\n"
        f"Attribution: {description['attribution']}",
        *_maintenance(description),
    ]
    return "\n\n".join(parts) + "\n"


def _motivation(*, masks: bool) -> str:
    kept = "accept them as observations with the right mask"
    if not masks:
        kept = "name their class"
    return (
        "## Motivation\n\n"
        "Errors of a good model are rare, and labelling random tiles does not find them. These "
        "tiles were made by a generative model, searched for low confidence of the target, and "
        f"kept when people found them realistic enough to {kept}. They show where the "
        "target errs, and whether its successor still does."
    )


def _composition(tiles: Sequence[ReleaseTile], description: Mapping[str, Any]) -> list[str]:
    height, width = description["tile_size"]
    bands = description["bands"]
    masks = tiles[0].mask is not None
    label = "a mask" if masks else "one class"
    marks = Counter("none" if tile.realism is None else str(tile.realism) for tile in tiles)
    reviewers = Counter(len(tile.reviewers) for tile in tiles)
    return [
        "## Composition",
        f"{len(tiles)} synthetic tiles of {width} x {height} pixels with the bands "
        f"{', '.join(bands['names'])} ({bands['level']}), each with {label}. There is no "
        "split: all are for testing. They contain no observation, show no place on Earth and "
        "have no coordinates.",
        "Tiles by class and round of review"
        + (", each counted for every class that its mask shows:" if masks else ":"),
        _by_class_and_round(description["counts"]),
        _answers(tiles, ClassMap(names=description.get("class_map", {})), masks=masks),
        "Realism scores, 1 to 5:",
        _table(("mark", "tiles"), sorted(marks.items())),
        f"Number of reviewers who agreed on a tile's {'mask' if masks else 'class'}:",
        _table(("reviewers", "tiles"), sorted(reviewers.items())),
        *_agreement(description["agreement"]),
        "The tiles are not a sample of any landscape: frequencies depend on what the generator "
        "makes, the search finds and reviewers accept. The generator may repeat its training "
        f"data. {LABELS} names the reviewers.",
    ]


def _answers(tiles: Sequence[ReleaseTile], class_map: ClassMap, *, masks: bool) -> str:
    """Return what the searched target and the reviewers said of the tiles."""
    confidences = [tile.confidence for tile in tiles]
    span = (
        f"from {min(confidences):.2f} to {max(confidences):.2f} (median {median(confidences):.2f})"
    )
    if masks:
        names = len({tile.condition for tile in tiles})
        return (
            f"The masks are those of {names} real tiles, for which the tiles were generated. The "
            f"searched target's mean confidence over a tile's pixels is {span}."
        )
    wrong = sum(not class_map.same(tile.class_name, tile.predicted) for tile in tiles)
    changed = sum(tile.condition != tile.class_name for tile in tiles)
    return (
        f"The searched target was wrong on {wrong} of {len(tiles)}, with confidences {span}. "
        f"Reviewers chose another class than that of generation for {changed}."
        + (
            " The target's classes have names of their own; a prediction counts as right where "
            f"both have one common name. These are, with the names that each stands for: "
            f"{class_map.text}."
            if class_map.names
            else ""
        )
    )


def _by_class_and_round(numbers: Mapping[str, Any]) -> str:
    rows = [
        (name, *by_round.values(), numbers["class"][name])
        for name, by_round in numbers["class_and_round"].items()
    ]
    by_round = numbers["round"].values()
    rows.append(("all", *by_round, sum(by_round)))
    return _table(("class", *(f"round {number}" for number in numbers["round"]), "all"), rows)


def _agreement(figures: Mapping[str, float | None] | None) -> list[str]:
    if figures is None:
        return ["The agreement of reviewers was not measured."]
    rows = [
        (name.replace("_", " "), "undefined" if value is None else f"{value:.4g}")
        for name, value in figures.items()
    ]
    return ["Agreement of reviewers:", _table(("figure", "value"), rows)]


def _collection(tiles: Sequence[ReleaseTile], description: Mapping[str, Any]) -> list[str]:
    times = sorted(reviewed(tile) for tile in tiles)
    return [
        "## Collection process",
        "A conditional generative model of Sentinel-2 tiles was sampled by moving its latents "
        "until the target's largest probability fell below a threshold. A gate dropped tiles "
        "that look unlike real ones, except for a few kept to audit it, and an archive dropped "
        "copies. People reviewed the rest in QGIS "
        f"between {times[0]:%Y-%m-%d} and {times[-1]:%Y-%m-%d} (UTC); only accepted tiles on "
        f"whose {'class' if tiles[0].mask is None else 'mask'} they agree are included. They were "
        "made by:",
        _table(("what", "value"), description["provenance"].items()),
    ]


def _labelling(*, masks: bool) -> str:
    label = (
        "A label is the mask that the tile was generated for, if the reviewers found that the tile "
        "shows it. Rejected and undecided tiles, and those with a wrong mask, are left out. "
        f"{LABELS} contains all data on each tile."
    )
    if not masks:
        label = (
            "A label is the reviewers' class of the whole tile: what a generated tile shows is "
            "defined by what people see in it, as there is no ground to visit. Rejected, mixed and "
            f"undecided tiles are left out. {LABELS} contains all data on each tile, including the "
            "target's prediction."
        )
    return (
        "## Preprocessing and labelling\n\n"
        "Digital numbers are reflectance x 10000, rounded, at least 1; 0 is nodata and does not "
        "occur. The tiles are the files that were reviewed, byte by byte. "
        f"{label}"
    )


def _uses() -> str:
    return (
        "## Uses\n\n"
        "For comparing a target with its successors on inputs that the target found hard, class "
        "by class, in addition to real test data.\n\n"
        "Not for:\n\n"
        "- estimating accuracy in the field. The tiles are synthetic and were selected for low "
        "confidence of one target, so that accuracy here is lower than elsewhere by "
        "construction, for that target more than for any other;\n"
        "- averaging with accuracy on real test data, in any proportion;\n"
        "- training or choosing a model, after which it is no longer a test set;\n"
        "- maps, or any use of a tile as an observation of the Earth."
    )


def _maintenance(description: Mapping[str, Any]) -> list[str]:
    parent = description["parent"]
    history = "This is the first release."
    if parent is not None:
        history = (
            f"It continues {parent['version']} (SHA-256 of its {CHECKSUMS}: "
            f"{parent['checksum']}): {len(parent['added'])} tiles added, "
            f"{len(parent['removed'])} removed, {len(parent['relabelled'])} with another class."
        )
    return [
        "## Maintenance",
        "A release never changes: corrections and new tiles make a new one. "
        f"`sha256sum -c {CHECKSUMS}` shows that this one is unchanged, and building it again "
        "from the same reviews gives the same checksums.",
        history,
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    lines: list[Sequence[str | int]] = [head, ["---"] * len(head), *rows]
    # A bar in a value would begin another column.
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in lines
    )
