"""What a report says, in blocks, and the same as Markdown; `rs_lowconf.pages` makes it HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from rs_lowconf.estimate.intervals import Interval


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
    folded: bool = False
    """Whether a page shows it only once its heading is clicked."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the reader came for."""

    text: str
    """One sentence."""
    value: float
    """The estimate, 0..1."""
    interval: Interval
    """The one that the sentence tells."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    parts: Sequence[Part]
    answer: Answer | None = None
    """None where one sentence and one interval do not hold it."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What was tested and how, by name; it stands below the answer."""

    def figures(self) -> dict[str, Figure]:
        """Return the plots by name, as `runs.save_figures` takes them."""
        blocks = [block for part in self.parts for block in part.blocks]
        return {block.name: block.figure for block in blocks if isinstance(block, Picture)}

    def markdown(self, plots: str) -> str:
        """Return it as Markdown that shows the plots of a folder."""
        lines = [f"# {self.title}", ""]
        if self.answer is not None:
            lines += [f"**{self.answer.text}**", ""]
        if self.facts:
            rows = Table(rows=[("", ""), *self.facts.items()])
            lines += [*_markdown(rows, plots), ""]
        for part in self.parts:
            lines += [f"## {part.title}", ""]
            for block in part.blocks:
                lines += [*_markdown(block, plots), ""]
        return "\n".join(lines).rstrip() + "\n"


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
