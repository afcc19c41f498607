"""How often the probe was opened for a model: whoever looks again has no fresh judge any more."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rs_lowconf.boundary import reading
from rs_lowconf.gan.source_quality import NETWORK
from rs_lowconf.runs import output_errors
from rs_lowconf.settings import Settings

LOG = "probe.jsonl"
"""In the folder of an evaluation: one line each time the probe is opened."""


def log_probe(
    settings: Settings, folder: Path, results: Mapping[str, Any], *, sha256: str, images: int
) -> str:
    """Write that the probe was opened, and return how often it has been for this model.

    Args:
        settings: of the run.
        folder: of the evaluation.
        results: of the probe, as JSON values.
        sha256: of the generator.
        images: that it was trained on.
    """
    split = settings.evaluate.split
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": sha256,
        "images": images,
        "split": split,
        "network": NETWORK,
        "result": results,
    }
    with output_errors(folder), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
    times = sum(
        known.get("model") == sha256 and known.get("split") == split
        for path in sorted(settings.run.dir.glob(f"*/{LOG}"))
        for known in _lines(path)
    )
    name = "validation" if split == "val" else "test"
    often = "once" if times == 1 else f"{times} times"
    return (
        f"The probe of this model has been opened {often} on the {name} split, this time included "
        f"({LOG} in the folders of run.dir). Whoever changes a model after looking, and looks "
        "again, no longer has a judge that nobody trained against."
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    with reading(path, expected="one JSON object per line, one per opening of the probe"):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
