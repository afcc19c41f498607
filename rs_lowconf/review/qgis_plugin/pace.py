"""Estimates the remaining time from recent decisions."""

from __future__ import annotations

from collections import deque
from statistics import median

BREAK_S = 300.0
"""A longer time between decisions is a break."""

RECENT = 20
ENOUGH = 3


class Pace:
    """Times between decisions, without breaks."""

    def __init__(self) -> None:
        """Begin without decisions."""
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._last: float | None = None

    def decided(self, now: float) -> None:
        """Record a decision at this time in seconds."""
        if self._last is not None and now - self._last <= BREAK_S:
            self._seconds.append(now - self._last)
        self._last = now

    def left(self, pending: int) -> str:
        """Return the time left as text; empty when done or without enough decisions."""
        if not pending or len(self._seconds) < ENOUGH:
            return ""
        minutes = round(pending * median(self._seconds) / 60)
        if minutes < 1:
            return "less than a minute left"
        if minutes < 60:
            return f"about {minutes} min left"
        return f"about {minutes // 60} h {minutes % 60} min left"
