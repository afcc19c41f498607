"""Shares with their intervals, in the form of all reports."""

from typing import Any

from scipy.stats import binomtest


def share_of(count: int, n: int) -> dict[str, Any]:
    """Return a share for reports: value, exact 95 % interval, count and n.

    The interval is Clopper and Pearson's (1934); value and interval are None where n is 0.
    """
    if not n:
        return {"value": None, "interval_95": None, "count": 0, "n": 0}
    interval = binomtest(count, n).proportion_ci(confidence_level=0.95, method="exact")
    return {
        "value": count / n,
        "interval_95": [float(interval.low), float(interval.high)],
        "count": count,
        "n": n,
    }
