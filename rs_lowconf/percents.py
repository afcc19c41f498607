"""Shares in words, in one style everywhere: a number, a space and the sign."""

import math


def percent(value: float | None, decimals: int | None = None) -> str:
    """Return a share as a percentage, a dash where it is unknown.

    Args:
        value: the share, 0..1; None or NaN where it is unknown.
        decimals: digits after the point; without it, three digits in all.

    Example:
        >>> percent(0.5), percent(0.01234), percent(1.0), percent(None)
        ('50 %', '1.23 %', '100 %', '-')
        >>> percent(0.96, 1)
        '96.0 %'
    """
    if value is None or math.isnan(value):
        return "-"
    number = f"{100 * value:.3g}" if decimals is None else f"{value:.{decimals}%}".rstrip("%")
    return f"{number} %"
