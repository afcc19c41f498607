"""Positions of the pictures in a cell of the contact sheet.

The same layout as in rs_lowconf/review/sheet.py, from the size of a cell instead of a tile, because
a row of the layer `review` only contains its cell. A test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The pictures of one cell: one block per tile with its composites, then panels."""

    width: int
    """Width of a tile in pixels of the sheet."""

    height: int
    """Height of a tile."""

    blocks: int
    """Tiles: 2 with a real one left of or above the one to review, else 1."""

    composites: int
    """Pictures of each tile, from left to right."""

    panels: int
    """Pictures right of these, if any; then blocks are below each other."""

    @property
    def line(self) -> int:
        """Height of one line of text."""
        return max(4, self.width // 8)

    @property
    def block_width(self) -> int:
        """Width of all pictures of one tile."""
        pictures = self.composites + self.panels
        return pictures * (self.width + self.line // 4) - self.line // 4

    @property
    def cell_width(self) -> int:
        """Width of the cell's frame."""
        across = 1 if self.panels else self.blocks
        return across * (self.block_width + self.line) + self.line

    def offset(self, block: int, place: int) -> tuple[int, int]:
        """Return how far a picture lies to the right of and below its cell's corner."""
        x, y = self.line + place * (self.width + self.line // 4), 4 * self.line
        if self.panels:
            return x, y + block * (self.height + 3 * self.line)
        return x + block * (self.block_width + self.line), y


def layout_of(
    cell_width: int, cell_height: int, blocks: int, composites: int, panels: int
) -> Layout:
    """Return the layout of a cell of this size."""
    width = 1
    while Layout(width, 0, blocks, composites, panels).cell_width < cell_width:
        width += 1
    line = max(4, width // 8)
    height = cell_height - 5 * line
    if panels:
        height = (cell_height - 2 * line) // blocks - 3 * line
    return Layout(width, height, blocks, composites, panels)
