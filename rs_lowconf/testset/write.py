"""Writes a release of reviewed tiles."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rs_lowconf.bands import BandSpec
from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.errors import DataError, OutputError
from rs_lowconf.folders import whole_folder
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.geotiff import read_classes, read_tile
from rs_lowconf.review.panels import mask_panel
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
    FORMAT_OF_MASKS,
    WARNING,
    ReleaseTile,
    check_version,
    compare,
    counts,
)
from rs_lowconf.testset.stac import write_stac
from rs_lowconf.testset.table import mask_name, tile_name, write_labels
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
    class_map: ClassMap = PLAIN,
) -> None:
    """Write a release, completely or not at all.

    Args:
        folder: the release, which must not exist yet; its name is the version.
        tiles: accepted tiles of the same bands and size, in any order, all with a class or all
            with a mask.
        classes: the classes that reviewers could choose, or those of masks.
        bands: of the tiles.
        attribution: notice that the licence of the real data requires.
        licence: SPDX identifier or text.
        provenance: origin of the tiles, such as checksums of models.
        parent: folder of the release that this one continues.
        agreement: figures of the agreement of reviewers, by name; None is undefined.
        class_map: which classes of the labels and of the target's predictions mean the same.

    Raises:
        DataError: a tile or mask was changed since its review or does not fit the others, or the
            parent is damaged or has labels of the other kind.
        OutputError: the folder exists or cannot be written.
    """
    version = check_version(folder.name)
    class_list("the classes of the reviews", classes)
    _check(tiles, classes)
    masks = tiles[0].mask is not None
    ordered = sorted(tiles, key=lambda tile: (_place(tile, classes), tile.sample_id))
    before = None if parent is None else read_release(parent)
    if before is not None and before.pixelwise != masks:
        raise DataError(
            f"release {before.version} has {'masks' if before.pixelwise else 'classes of tiles'}",
            expected="a parent with labels of the same kind",
            remedy="build into another folder",
        )
    # Tiles are stored as x 10000, whatever the scale and offset of the source.
    bands = bands.as_stored
    exists = OutputError(
        f"{folder} exists already; a release never changes", remedy="name the next version"
    )
    with whole_folder(folder, exists) as building:
        height, width = _copy_tiles(building, ordered, bands)
        description: dict[str, Any] = {
            "format": FORMAT_OF_MASKS if masks else FORMAT,
            "version": version,
            "synthetic": True,
            "warning": WARNING,
            "classes": list(classes),
            **({"class_map": dict(class_map.names)} if class_map.names else {}),
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
        _copy_masks(building, ordered, classes, (height, width))
        write_labels(building, ordered, classes)
        write_stac(building, ordered, description)
        (building / "DATASHEET.md").write_bytes(datasheet(ordered, description).encode())
        write_sheet(building, ordered, bands, classes, height=height, width=width)
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
        unknown = [name for name in tile.classes if name not in classes]
        if unknown:
            raise DataError(
                f"tile {tile.sample_id} has the unknown class {unknown[0]!r}",
                expected=f"one of {', '.join(classes)}",
            )
        if (tile.mask is None) != (tiles[0].mask is None):
            raise DataError(
                f"of tiles {tiles[0].sample_id} and {tile.sample_id}, one has a mask and one not",
                expected="a class for every tile, or a mask for every tile",
            )


def _place(tile: ReleaseTile, classes: Sequence[str]) -> int:
    """Return where a tile's class is in the list; tiles with masks have one place."""
    return 0 if tile.class_name is None else classes.index(tile.class_name)


def _copy_tiles(building: Path, tiles: Sequence[ReleaseTile], bands: BandSpec) -> tuple[int, int]:
    """Copy the tiles byte by byte and write their styles; return their height and width."""
    (building / "tiles").mkdir()
    style = document(tile_style(bands, composites_of(bands)[0])).encode()
    shapes = set()
    for tile in tiles:
        path = building / tile_name(tile)
        _copy(tile.path, tile.sha256, path)
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


def _copy_masks(
    building: Path, tiles: Sequence[ReleaseTile], classes: Sequence[str], size: tuple[int, int]
) -> None:
    """Copy the masks byte by byte, and write their styles and the names of their classes."""
    if tiles[0].mask is None:
        return
    (building / "masks").mkdir()
    panel = mask_panel(classes)
    for tile in tiles:
        assert tile.mask is not None  # noqa: S101  # all tiles have one, or none has
        path = building / mask_name(tile)
        _copy(tile.mask.path, tile.mask.sha256, path)
        values = read_classes(path)
        present = tuple(name for k, name in enumerate(classes) if (values == k).any())
        highest = int(values[values != UNKNOWN].max(initial=0))
        if values.shape != size or highest >= len(classes) or present != tile.mask.classes:
            raise DataError(
                f"the mask of tile {tile.sample_id} has {values.shape} pixels of "
                f"{', '.join(present)} and indices up to {highest}",
                expected=f"{size} pixels of {', '.join(tile.mask.classes)}",
            )
        panel.describe(path)


def _copy(original: Path, checksum: str, path: Path) -> None:
    """Copy a file; compare the copy, and thereby the original, with what was reviewed."""
    try:
        path.write_bytes(original.read_bytes())
    except OSError as error:
        raise DataError(
            f"{original} cannot be read ({error.strerror})", remedy="restore it, or omit it"
        ) from error
    if sha256_of(path) != checksum:
        raise DataError(
            f"{original} was edited after its review (its checksum differs)",
            expected=checksum,
            remedy="restore it, or omit it",
        )
