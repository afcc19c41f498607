"""Writes a release of reviewed tiles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, OutputError
from rs_lowconf.folders import whole_folder
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.project import document
from rs_lowconf.review.style import tile_style
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset.checksums import write_checksums
from rs_lowconf.testset.datasheet import datasheet
from rs_lowconf.testset.qgis import write_sheet
from rs_lowconf.testset.read import read_release
from rs_lowconf.testset.release import (
    DESCRIPTION,
    FORMAT,
    WARNING,
    ReleaseTile,
    check_version,
    compare,
    counts,
)
from rs_lowconf.testset.stac import write_stac
from rs_lowconf.testset.table import tile_name, write_labels
from rs_lowconf.vocabulary import class_list


def write_release(
    folder: Path,
    tiles: Sequence[ReleaseTile],
    *,
    classes: Sequence[str],
    bands: BandSpec,
    attribution: str,
    licence: str,
    provenance: Mapping[str, str],
    parent: Path | None = None,
    agreement: Mapping[str, float | None] | None = None,
) -> None:
    """Write a release, completely or not at all.

    Args:
        folder: the release, which must not exist yet; its name is the version.
        tiles: accepted tiles of the same bands and size, in any order.
        classes: the classes that reviewers could choose.
        bands: of the tiles.
        attribution: notice that the licence of the real data requires.
        licence: SPDX identifier or text.
        provenance: origin of the tiles, such as checksums of models.
        parent: folder of the release that this one continues.
        agreement: figures of the agreement of reviewers, by name; None is undefined.

    Raises:
        DataError: a tile was changed since its review or does not fit the others, or the parent is
            damaged.
        OutputError: the folder exists or cannot be written.
    """
    version = check_version(folder.name)
    class_list("the classes of the reviews", classes)
    _check(tiles, classes)
    ordered = sorted(tiles, key=lambda tile: (classes.index(tile.class_name), tile.sample_id))
    before = None if parent is None else read_release(parent)
    # Tiles are stored as x 10000, whatever the scale and offset of the source.
    bands = bands.as_stored
    exists = OutputError(
        f"{folder} exists already; a release never changes", remedy="name the next version"
    )
    with whole_folder(folder, exists) as building:
        height, width = _copy_tiles(building, ordered, bands)
        description: dict[str, Any] = {
            "format": FORMAT,
            "version": version,
            "synthetic": True,
            "warning": WARNING,
            "classes": list(classes),
            "bands": bands.to_json(),
            "tile_size": [height, width],
            "tiles": len(ordered),
            "counts": counts(ordered, classes),
            "licence": licence,
            "attribution": attribution,
            "provenance": dict(sorted(provenance.items())),
            "agreement": None if agreement is None else dict(sorted(agreement.items())),
            "parent": None
            if before is None
            else asdict(compare(before.version, before.checksum, before.tiles, ordered)),
        }
        text = json.dumps(description, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        (building / DESCRIPTION).write_bytes(text.encode())
        write_labels(building, ordered, classes)
        write_stac(building, ordered, description)
        (building / "DATASHEET.md").write_bytes(datasheet(ordered, description).encode())
        write_sheet(building, ordered, bands, height=height, width=width)
        write_checksums(building)


def _check(tiles: Sequence[ReleaseTile], classes: Sequence[str]) -> None:
    if not tiles:
        raise DataError(
            "there is no accepted tile to release",
            remedy="have tiles reviewed and import the review first",
        )
    seen: set[str] = set()
    for tile in tiles:
        # Windows and macOS treat names that differ only in case as the same file.
        if tile.sample_id.lower() in seen:
            raise DataError(f"sample id {tile.sample_id} occurs more than once")
        seen.add(tile.sample_id.lower())
        if tile.class_name not in classes:
            raise DataError(
                f"tile {tile.sample_id} has the unknown class {tile.class_name!r}",
                expected=f"one of {', '.join(classes)}",
            )


def _copy_tiles(building: Path, tiles: Sequence[ReleaseTile], bands: BandSpec) -> tuple[int, int]:
    """Copy the tiles byte by byte and write their styles; return their height and width."""
    (building / "tiles").mkdir()
    style = document(tile_style(bands, composites_of(bands)[0])).encode()
    shapes = set()
    for tile in tiles:
        path = building / tile_name(tile)
        path.write_bytes(_content(tile))
        _refuse_edited(tile, path)
        path.with_suffix(".qml").write_bytes(style)
        found = read_tile(path)
        if found.names != bands.names:
            raise DataError(
                f"tile {tile.sample_id} has the bands {', '.join(found.names)}",
                expected=", ".join(bands.names),
            )
        if found.tags.get("RSLOW_SYNTHETIC") != "true" or found.grid is not None:
            raise DataError(
                f"{tile.path} is not marked as synthetic, or has a georeference",
                expected="a tile that `rslow generate` wrote",
            )
        shapes.add(found.pixels.shape[1:])
    if len(shapes) > 1:
        raise DataError(
            f"the tiles have the sizes {', '.join(f'{w} x {h}' for h, w in sorted(shapes))}",
            expected="one size",
            remedy="make one release per size",
        )
    height, width = shapes.pop()
    return height, width


def _content(tile: ReleaseTile) -> bytes:
    try:
        return tile.path.read_bytes()
    except OSError as error:
        raise DataError(
            f"tile {tile.path} cannot be read ({error.strerror})",
            remedy="restore it, or omit it",
        ) from error


def _refuse_edited(tile: ReleaseTile, path: Path) -> None:
    """Compare the copy, and thereby the original, with the reviewed file."""
    if sha256_of(path) != tile.sha256:
        raise DataError(
            f"tile {tile.path} was edited after its review (its checksum differs)",
            expected=tile.sha256,
            remedy="restore it, or omit it",
        )
