"""The page of a result: the answer, what was tested, and parts with tables, plots and tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rs_lowconf.pages.pictures import Picture
from rs_lowconf.pages.rendering import template
from rs_lowconf.runs import write_text


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile among others."""

    title: str
    """What is said of it."""
    share: str
    """How surely; may be empty."""
    picture: Picture
    lines: Sequence[str]
    """Where it comes from, and what else is known."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What stands below one heading."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    table: Sequence[Sequence[str]] = ()
    """Cells, heads first."""
    plots: Sequence[Picture] = ()
    tiles: Sequence[Tile] = ()
    wide: bool = False
    """Whether it takes the whole width of a page, where there is room for two parts beside each
    other."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that a page tells."""

    title: str
    answer: str
    """One sentence."""
    tested: Mapping[str, str]
    """What was tested with what: model, checksum, data, date, versions."""
    notes: Sequence[str]
    """What has to be known to read the answer rightly."""
    parts: Sequence[Part]


def write_result(path: Path, result: Result) -> Path:
    """Write a page as one file that needs nothing beside it, and return it.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, template("result.html").render(told=result, number=0))
    return path
