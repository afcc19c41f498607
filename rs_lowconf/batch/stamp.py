"""What the files at the end of a job were made from, by which a second run knows them to be right.

Read without what makes them: that nothing is to be done is found out in the time of reading the
catalog's bytes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rs_lowconf.batch.ledger import ERRORS, PARTS
from rs_lowconf.runs import write_json

STAMP: Final = "collected.json"
_FORMAT = 1
"""Of the files and of the stamp; another one has them made again."""


def fingerprint(job: Path, inputs: Sequence[str]) -> str:
    """Return a checksum of the results of a job, as the file system tells them, and of `inputs`.

    Args:
        job: the job's folder; one without results has a checksum, too.
        inputs: what else the files are made from: checksums, settings.
    """
    digest = hashlib.sha256(repr((_FORMAT, *inputs)).encode())
    for folder in (PARTS, ERRORS):
        for path in sorted((job / folder).glob("part-*")):
            facts = path.stat()
            digest.update(f"{folder} {path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_stamped(job: Path, made_from: str) -> bool:
    """Return whether all files are there and were made from what `fingerprint` tells."""
    try:
        stamp = json.loads((job / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp["made_from"] == made_from and all((job / name).exists() for name in stamp["files"])


def stamp(job: Path, made_from: str, files: Sequence[Path]) -> None:
    """Say of files in a job folder that they are whole and what they were made from."""
    names = [path.name for path in files]
    write_json(job / STAMP, {"made_from": made_from, "files": names})


def unstamp(job: Path) -> None:
    """Say it no more, before another file is written."""
    (job / STAMP).unlink(missing_ok=True)
