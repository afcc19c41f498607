"""SHA256SUMS: one line per file, for `sha256sum -c`."""

import re
from collections.abc import Mapping
from pathlib import Path

from rs_lowconf.errors import DataError, listed
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset.release import CHECKSUMS, DESCRIPTION, LABELS

_LINE = re.compile(
    r"([0-9a-f]{64})  ([A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)"
)


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files below `folder`, in the order of their names."""
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in files]
    (folder / CHECKSUMS).write_bytes("".join(lines).encode())


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of every file by its path below `folder`.

    Raises:
        DataError: they are missing or damaged.
    """
    path = folder / CHECKSUMS
    damaged = DataError(
        f"{path} is missing or damaged", remedy="restore the release from a copy, or build it again"
    )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged from error
    matches = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in matches if match}
    if not all(matches) or not {DESCRIPTION, LABELS} <= sums.keys():
        raise damaged
    return sums


def verify(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare every file with its checksum. Additional files, such as those of QGIS, are ignored.

    Raises:
        DataError: a file is missing or was edited.
    """
    faults = []
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif sha256_of(path) != expected:
            faults.append(f"{name} was edited")
    if faults:
        raise DataError(
            f"release {folder}: {listed(faults)}",
            expected=f"the files that {CHECKSUMS} lists",
            remedy="restore the release from a copy, or build it again",
        )
