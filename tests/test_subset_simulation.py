"""The engine of rare events: what earlier code told, its constants and its interval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rs_lowconf.estimate.rare import RareEvent, SubsetRules, counted_event, rare_event

GOLDEN = Path(__file__).parent / "rare_golden.json"
"""What `rare_event` told of `told` at commit 322d5e5, before both uses had one engine."""
SMALL = SubsetRules(particles=100, survivors=20, max_levels=6)


def told() -> dict[str, Any]:
    """Ask for events whose scores need no arithmetic, so that every machine tells the same."""

    def first(z: np.ndarray) -> np.ndarray:
        return z[:, 0].copy()

    def partly(z: np.ndarray) -> np.ndarray:
        return np.where(z[:, 1] > 1.0, np.nan, z[:, 0])

    events = {
        "default sizes": rare_event(first, 5, [-1.0, -3.0, -5.0], 3),
        "twelve small populations": rare_event(
            first, 3, [-2.0, -4.0], 7, SubsetRules(particles=50, survivors=10, replicates=12)
        ),
        "not all get there": rare_event(first, 20, [0.0, -3.0, -4.2], 2, SMALL),
        "a tenth without a score": rare_event(partly, 4, [-2.5], 1, SMALL),
        "counted": counted_event(first, 4, [0.5, -1.0], 8, SMALL),
    }
    return {name: {**event.to_json(), **intervals(event)} for name, event in events.items()}


def intervals(event: RareEvent) -> dict[str, Any]:
    """Return the interval at each threshold that a population reached."""
    ends = [event.interval(place) for place in range(len(event.thresholds)) if event.value[place]]
    return {"low": [end.low for end in ends], "high": [end.high for end in ends]}


def test_rare_events_are_told_as_before() -> None:
    """Each population's estimate is the same bit for bit; intervals to the twelfth digit."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    now = told()
    assert now.keys() == golden.keys()
    for name, before in golden.items():
        for end in ("low", "high"):
            assert now[name].pop(end) == pytest.approx(before.pop(end), rel=1e-12)
        assert now[name] == before
