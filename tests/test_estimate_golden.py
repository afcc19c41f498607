"""Every sampling design still draws, expects, estimates and says what it did."""

import json
from typing import Any

import pytest

from tests.make_estimate_golden import GOLDEN, assert_alike, observed

STORED: dict[str, Any] = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what is found now of the designs that are stored."""
    now = observed(tmp_path_factory.mktemp("golden"), tuple(STORED["designs"]))
    values: dict[str, Any] = json.loads(json.dumps(now))
    return values


@pytest.mark.parametrize("part", ["plan", "replayed", *STORED["designs"]])
def test_nothing_has_changed(part: str, found: dict[str, Any]) -> None:
    """Keys in order, words, units, and numbers to 1e-12; to 1e-6 where scikit-learn fits them."""
    before, after = (values.get(part) or values["designs"][part] for values in (STORED, found))
    assert_alike(after, before, 1e-6 if part in ("plan", "replayed", "adaptive") else 1e-12)
