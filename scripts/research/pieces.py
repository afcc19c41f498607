"""Long experiments in pieces, each a JSON file: an interrupted run goes on where it stopped."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rs_lowconf.runs import write_json


def piece(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an earlier run wrote, or do the work and write it."""
    if not path.exists():
        start = time.monotonic()
        write_json(path, work())
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result
