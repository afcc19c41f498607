"""A report as Markdown and as one HTML file that needs nothing beside it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rs_lowconf.runs import save_figures, write_json, write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff;
       max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e4e6e8; text-align: right; }
th { border-bottom: 2px solid #999; } th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } .key { font-size: 1.35rem; font-weight: 600; }
"""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str
    key: bool = False
    """Whether it is what the reader came for."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first row holds the heads."""

    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot."""

    name: str
    """Of its file beside the Markdown, without ending."""
    caption: str
    figure: Figure


Block = Text | Table | Picture


@dataclass(frozen=True, kw_only=True)
class Part:
    """What stands below one heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    parts: Sequence[Part]

    def figures(self) -> dict[str, Figure]:
        """Return the plots by name, as `runs.save_figures` takes them."""
        blocks = [block for part in self.parts for block in part.blocks]
        return {block.name: block.figure for block in blocks if isinstance(block, Picture)}

    def markdown(self, plots: str) -> str:
        """Return it as Markdown that shows the plots of a folder."""
        lines = [f"# {self.title}", ""]
        for part in self.parts:
            lines += [f"## {part.title}", ""]
            for block in part.blocks:
                lines += [*_markdown(block, plots), ""]
        return "\n".join(lines).rstrip() + "\n"

    def html(self) -> str:
        """Return it as one file, plots included."""
        body = [f"<h1>{html.escape(self.title)}</h1>"]
        for part in self.parts:
            body.append(f"<h2>{html.escape(part.title)}</h2>")
            body += [_html(block) for block in part.blocks]
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width">\n'
            f"<title>{html.escape(self.title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(body)
            + "\n</body></html>\n"
        )


def _markdown(block: Block, plots: str) -> list[str]:
    match block:
        case Text(text=text, key=key):
            return [f"**{text}**" if key else text]
        case Table(rows=rows):
            heads, *rest = [[cell.replace("|", "\\|") for cell in row] for row in rows]
            lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rest]
            return [f"| {' | '.join(row)} |" for row in lines]
        case Picture(name=name, caption=caption):
            return [f"![{caption}]({plots}/{name}.png)", "", caption]


def _html(block: Block) -> str:
    match block:
        case Text(text=text, key=key):
            return f"<p{' class=key' if key else ''}>{html.escape(text)}</p>"
        case Table(rows=rows):
            heads, *rest = [[html.escape(cell) for cell in row] for row in rows]
            lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in heads)}</tr>"]
            lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rest]
            return f"<table>{''.join(lines)}</table>"
        case Picture(caption=caption, figure=figure):
            FigureCanvasAgg(figure)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=110)
            data = base64.b64encode(file.getvalue()).decode()
            text = html.escape(caption)
            return f'<p><img alt="{text}" src="data:image/png;base64,{data}"><br>{text}</p>'


def write_report(folder: Path, page: Page, values: Mapping[str, Any]) -> None:
    """Write a page as report.md with plots/ and as report.html, and values as report.json.

    Raises:
        OutputError: they cannot be written.
    """
    save_figures(folder / "plots", page.figures())
    write_text(folder / "report.md", page.markdown("plots"))
    write_text(folder / "report.html", page.html())
    write_json(folder / "report.json", values)
