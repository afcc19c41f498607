"""The look of all plots: colours, and axes without a box."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

REAL, GENERATED, OTHER = "#0b6e4f", "#b23a48", "#8a8d91"
"""Real and generated tiles, and what is neither."""
BLUE = "#1f5a94"


def panels(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    box: bool = False,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row.

    Args:
        width: of the figure, in inches.
        height: the same.
        rows: of axes.
        columns: of axes.
        box: whether axes have all four sides, as images do.
        options: for `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).flatten().tolist()
    if not box:
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
    return figure, axes
