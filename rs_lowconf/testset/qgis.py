"""A QGIS project of a release: one sheet of all tiles, below a layer of labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rs_lowconf.bands import BandSpec
from rs_lowconf.review import style
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.fields import Field
from rs_lowconf.review.geopackage import write_geopackage
from rs_lowconf.review.project import write_project
from rs_lowconf.review.sheet import Sheet, contact_vrt
from rs_lowconf.testset.release import ReleaseTile
from rs_lowconf.testset.table import reviewed, tile_name

LAYER: Final = "labels"

_FIELDS = (
    Field(name="sample_id", sql="TEXT", alias="Sample"),
    Field(name="class_name", sql="TEXT", alias="Class"),
    Field(name="condition", sql="TEXT", alias="Generated as"),
    Field(name="predicted", sql="TEXT", alias="Target's prediction"),
    Field(name="confidence", sql="REAL", alias="Target's confidence"),
    Field(name="round", sql="INTEGER", alias="Round"),
    Field(name="reviewers", sql="TEXT", alias="Reviewers"),
    Field(name="reviewed", sql="TEXT", alias="Time"),
    Field(name="realism", sql="INTEGER", alias="Realism, 1 to 5"),
)
_WRONG = 'CASE WHEN "predicted" <> "class_name" THEN \'target wrong\' END'
_RED = "214,39,40,255"


def write_sheet(
    folder: Path, tiles: Sequence[ReleaseTile], bands: BandSpec, *, height: int, width: int
) -> None:
    """Write contact.vrt, labels.gpkg and release.qgz."""
    sheet = Sheet(
        count=len(tiles),
        width=width,
        height=height,
        blocks=1,
        composites=composites_of(bands),
    )
    vrt = contact_vrt(sheet, bands, [[tile_name(tile)] for tile in tiles])
    (folder / "contact.vrt").write_bytes(vrt.encode())
    elements = [
        style.outlines(_WRONG, {"target wrong": _RED}, other="target right"),
        style.headings(
            sheet,
            "\"sample_id\" || '   SYNTHETIC'",
            [
                "\"class_name\" || '   target: ' || \"predicted\" || ' '"
                " || round(100 * \"confidence\") || ' %'"
            ],
        ),
    ]
    write_geopackage(
        folder / f"{LAYER}.gpkg",
        _FIELDS,
        [_row(tile) for tile in tiles],
        [sheet.extent(index) for index in range(sheet.count)],
        style.document(elements),
        layer=LAYER,
        # Not the time of writing: the same release must give the same bytes.
        changed=max(reviewed(tile) for tile in tiles),
    )
    write_project(
        folder / "release.qgz",
        sheet.size,
        elements,
        "Test set of reviewed SYNTHETIC tiles (not observations)",
        layer=LAYER,
        read_only=True,
    )


def _row(tile: ReleaseTile) -> dict[str, str | float | None]:
    return {
        "sample_id": tile.sample_id,
        "class_name": tile.class_name,
        "condition": tile.condition,
        "predicted": tile.predicted,
        "confidence": tile.confidence,
        "round": tile.round,
        "reviewers": ", ".join(tile.reviewers),
        "reviewed": reviewed(tile).isoformat(timespec="milliseconds"),
        "realism": tile.realism,
    }
