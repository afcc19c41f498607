"""Put the quality tables of several GANs side by side, as Markdown.

Usage: python scripts/research/compare_recipes.py NAME=EVALUATION_FOLDER ...

Each folder is what `rslow evaluate` wrote. All must have been measured by the same reporter on
the same number of tiles, or their figures would not speak of the same.
"""

import json
import sys
from pathlib import Path
from typing import Any


def cell(measured: dict[str, Any] | None) -> str:
    """Return a figure with its interval."""
    if measured is None:
        return ""
    low, high = measured["interval_95"]
    return f"{measured['value']:.3g} ({low:.3g} .. {high:.3g})"


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Return one row a figure and one column a recipe, the floor last."""
    first, *others = reports.values()
    for name, report in reports.items():
        for key in ("split", "tiles", "reporter"):
            if report.get(key) != first.get(key):
                sys.exit(f"{name} and {next(iter(reports))} were measured with different {key}")
    lines = [
        f"| figure | {' | '.join(reports)} | floor | better |",
        f"|---|{'---|' * len(reports)}---|---|",
        "| images seen | "
        + " | ".join(f"{report['gan']['images']:,}" for report in reports.values())
        + " | | |",
    ]
    for group, figures in first["figures"].items():
        for row, figure in enumerate(figures):
            same = [figure, *(report["figures"][group][row] for report in others)]
            cells = [cell(one["measured"]) for one in same]
            lines.append(
                f"| {figure['name']} | {' | '.join(cells)} | {cell(figure['floor'])} "
                f"| {figure['better']} |"
            )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Read the reports and print the table."""
    if not words or not all("=" in word for word in words):
        sys.exit(__doc__)
    reports = {}
    for word in words:
        name, _, folder = word.partition("=")
        reports[name] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    print(table(reports))


if __name__ == "__main__":
    main(sys.argv[1:])
