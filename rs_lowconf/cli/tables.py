"""Tables and findings in the terminal, or as plain columns for grep and cut."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from rs_lowconf.bands import RESOLUTION_M

if TYPE_CHECKING:
    from rs_lowconf.bands import BandSpec
    from rs_lowconf.data.mixtures import Finding
    from rs_lowconf.data.radiometry import BandRange

_PLAIN_WIDTH = 100
_LINES_SHOWN = 20


def open_console() -> Console:
    """Return the console for tables: standard output."""
    console = Console(markup=False, highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(markup=False, highlight=False, emoji=False, width=_PLAIN_WIDTH)


def show_table(console: Console, title: str, alignment: str, rows: Iterable[Sequence[str]]) -> None:
    """Show rows, the first of which are the headings; `alignment` is l or r per column."""
    heads, *body = rows
    # Without a terminal no lines: columns for grep, cut and diff.
    table = Table(box=SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for head, side in zip(heads, alignment, strict=True):
        table.add_column(
            head, justify="right" if side == "r" else "left", no_wrap=side == "r", overflow="fold"
        )
    for row in body:
        table.add_row(*row)
    console.print(title, style="bold")
    console.print(Padding(table, (0, 0, 0, 2), expand=False))
    console.print()


def show_finding(console: Console, finding: "Finding") -> None:
    """Show one problem and some of the files or tiles that have it."""
    names = finding.names
    count = f" ({len(names):,})" if names else ""
    style = "red" if finding.severity == "error" else "yellow"
    console.print(
        f"{finding.severity.upper()}{count}: {finding.text}", style=style, overflow="fold"
    )
    for name in names[:_LINES_SHOWN]:
        console.print(Padding(name, (0, 0, 0, 4), expand=False), overflow="fold")
    rest = len(names) - _LINES_SHOWN
    if rest > 0:
        console.print(f"    and {rest:,} more; --json saves all")


def show_findings(console: Console, findings: "Sequence[Finding]") -> None:
    """Show problems, or say that there are none."""
    for finding in findings:
        show_finding(console, finding)
    if not findings:
        console.print("No problems found.")


def save_report(path: Path | None, values: Mapping[str, Any]) -> None:
    """Save a report as JSON where the user wants one, and print where it is."""
    from rs_lowconf.runs import write_json

    if path is not None:
        write_json(path, values)
        print(f"Saved as {path}.")


def show_meanings(console: Console, meanings: Mapping[str, int], what: str) -> None:
    """Show the meanings of digital numbers with their source and number of files or images."""
    for why, number in meanings.items():
        console.print(f"{number:,} {what}{'' if number == 1 else 's'} with {why}")
    if meanings:
        console.print()


def radiometry(bands: "BandSpec") -> str:
    """Return how digital numbers become reflectance."""
    offset = f"{bands.dn_offset:+g}" if bands.dn_offset else "+ 0"
    return f"{bands.level} reflectance = (digital number {offset}) / {bands.scale:g}"


def range_rows(ranges: "Mapping[str, BandRange]") -> Iterable[Sequence[str]]:
    """Yield the table of each band's reflectance."""
    yield "band", "native", "min", "1 %", "median", "99 %", "max"
    for name, found in ranges.items():
        values = (found.minimum, found.p1, found.median, found.p99, found.maximum)
        yield name, f"{RESOLUTION_M[name]} m", *(f"{value:.4f}" for value in values)


def with_counts(counts: Mapping[str, int]) -> str:
    """Return names with their counts."""
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items()) or "unknown"
