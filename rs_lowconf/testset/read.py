"""Reads a release: everything is checked, and nothing is written."""

import json
from pathlib import Path
from typing import Any, cast

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError
from rs_lowconf.folders import UNFINISHED
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset.checksums import read_checksums, verify
from rs_lowconf.testset.release import (
    CHECKSUMS,
    DESCRIPTION,
    FORMAT,
    FORMAT_OF_MASKS,
    LABELS,
    ParentRelease,
    Release,
)
from rs_lowconf.testset.table import mask_name, read_labels, tile_name


def read_release(folder: Path, *, checksum: bool = True) -> Release:
    """Read a release.

    Args:
        folder: the release.
        checksum: whether to compare all files with their checksums; the
            description and the labels always are.

    Raises:
        DataError: it is not a release, has a newer format, or is damaged: a file is missing or
            was edited.
    """
    if folder.name.endswith(UNFINISHED):
        raise DataError(f"{folder} was left by an interrupted build", remedy="build again")
    values = _description(folder)
    sums = read_checksums(folder)
    verify(folder, sums if checksum else {name: sums[name] for name in (DESCRIPTION, LABELS)})
    tiles = read_labels(folder)
    told = {tile_name(tile): tile.sha256 for tile in tiles}
    told |= {mask_name(tile): tile.mask.sha256 for tile in tiles if tile.mask is not None}
    for name, checksum_told in told.items():
        if sums.get(name) != checksum_told:
            raise DataError(
                f"release {folder}: {LABELS} and {CHECKSUMS} differ on {name}",
                remedy="restore the release from a copy, or build it again",
            )
    parent = values["parent"]
    return Release(
        folder=folder,
        version=values["version"],
        checksum=sha256_of(folder / CHECKSUMS),
        classes=tuple(values["classes"]),
        pixelwise=values["format"] == FORMAT_OF_MASKS,
        bands=BandSpec.from_json(values["bands"]),
        attribution=values["attribution"],
        licence=values["licence"],
        provenance=values["provenance"],
        parent=parent and ParentRelease(**{k: _frozen(v) for k, v in parent.items()}),
        tiles=tiles,
    )


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        form = values["format"]
    except OSError as error:
        raise DataError(
            f"{folder} is not a release of a test set ({DESCRIPTION}: {error.strerror})",
            expected="a folder that `rslow testset build` wrote",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged", remedy="restore the release from a copy") from error
    # Before the checksums, which a newer format may compute differently.
    if form not in (FORMAT, FORMAT_OF_MASKS):
        raise DataError(
            f"release {folder} has format {form}",
            expected=f"at most {FORMAT_OF_MASKS}",
            remedy="upgrade rs_lowconf",
        )
    return cast("dict[str, Any]", values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
