"""Records what the final files of a job were made from, so that a second run can skip them.

This needs none of the libraries that make them: a run with nothing to do only takes the time to
read the catalog's bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rs_lowconf.batch.ledger import ERRORS, PARTS
from rs_lowconf.runs import write_json

STAMP: Final = "collected.json"
_FORMAT = 2
"""Format of the files and of the stamp; another one makes them anew."""


def fingerprint(job: Path, inputs: Sequence[str]) -> str:
    """Return a checksum of the results of a job, by file size and time, and of `inputs`.

    Args:
        job: the job's folder; one without results has a checksum, too.
        inputs: other inputs of the files: checksums, settings.
    """
    digest = hashlib.sha256(repr((_FORMAT, *inputs)).encode())
    for folder in (PARTS, ERRORS):
        for path in sorted((job / folder).glob("part-*")):
            facts = path.stat()
            digest.update(f"{folder} {path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_stamped(job: Path, made_from: str) -> bool:
    """Return whether all files exist and were made from the inputs of this `fingerprint`."""
    try:
        stamp = json.loads((job / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp["made_from"] == made_from and all((job / name).exists() for name in stamp["files"])


def stamp(job: Path, made_from: str, files: Sequence[Path]) -> None:
    """Record that files in a job folder are complete, and what they were made from."""
    names = [path.name for path in files]
    write_json(job / STAMP, {"made_from": made_from, "files": names})


def unstamp(job: Path) -> None:
    """Remove the stamp, before a file is written again."""
    (job / STAMP).unlink(missing_ok=True)
