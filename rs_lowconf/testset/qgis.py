"""A QGIS project of a release: one sheet of all tiles and masks, below a layer of labels."""

from collections.abc import Sequence
from pathlib import Path

from rs_lowconf.bands import BandSpec
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.fields import Field
from rs_lowconf.review.geopackage import write_cells
from rs_lowconf.review.panels import mask_panel, panel_vrt
from rs_lowconf.review.project import Project, document, part, restyle
from rs_lowconf.review.sheet import Sheet, contact_vrt
from rs_lowconf.review.style import aliases_of, fill_headings, leave_out
from rs_lowconf.testset.release import ReleaseTile
from rs_lowconf.testset.table import mask_name, reviewed, tile_name

_FIELDS = (
    Field(name="sample_id", sql="TEXT"),
    Field(name="class_name", sql="TEXT"),
    Field(name="condition", sql="TEXT"),
    Field(name="predicted", sql="TEXT"),
    Field(name="confidence", sql="REAL"),
    Field(name="round", sql="INTEGER"),
    Field(name="reviewers", sql="TEXT"),
    Field(name="reviewed", sql="TEXT"),
    Field(name="realism", sql="INTEGER"),
)


_OF_CLASSES = {"class_name": '"condition"', "predicted": "''"}
"""Columns that are missing with masks, and what headings say instead: the name of the mask."""


def write_sheet(
    folder: Path,
    tiles: Sequence[ReleaseTile],
    bands: BandSpec,
    classes: Sequence[str],
    *,
    height: int,
    width: int,
) -> None:
    """Write contact.vrt, labels.gpkg and release.qgz, and mask.vrt where tiles have masks."""
    panels = () if tiles[0].mask is None else (mask_panel(classes),)
    sheet = Sheet(
        count=len(tiles),
        width=width,
        height=height,
        blocks=1,
        composites=composites_of(bands),
        panels=tuple((panel.kind,) for panel in panels),
    )
    vrt = contact_vrt(sheet, bands, [[tile_name(tile)] for tile in tiles])
    (folder / "contact.vrt").write_bytes(vrt.encode())
    project = Project("release.qgs")
    layer, pictures = project.layer("labels"), project.layer("contact sheet")
    fields: Sequence[Field] = _FIELDS
    if panels:
        renderer = part(layer, "renderer-v2")
        renderer.set("attr", "NULL")  # every mask was accepted, whatever the target says
        categories = part(renderer, "categories")
        categories[:] = [each for each in categories if not each.get("value")]
        categories[0].set("label", "mask accepted")
        leave_out(layer, _OF_CLASSES)
        fields = [field for field in _FIELDS if field.name not in _OF_CLASSES]
    fill_headings(layer, sheet, ["SYNTHETIC"], alone=True)
    write_cells(
        folder / "labels.gpkg",
        fields,
        [_row(tile) for tile in tiles],
        [sheet.extent(index) for index in range(sheet.count)],
        style=document(project.style(layer)),
        titles=aliases_of(layer),
        # Not the time of writing: the same release must give the same bytes.
        changed=max(reviewed(tile) for tile in tiles),
    )
    project.connect(layer, "./labels.gpkg|layername=labels", "ogr")
    project.connect(pictures, "./contact.vrt", "gdal")
    for panel in panels:
        vrt = panel_vrt(sheet, panel, [[mask_name(tile)] for tile in tiles])
        (folder / f"{panel.kind}.vrt").write_bytes(vrt.encode())
        shown = project.copy(pictures, panel.kind)
        project.connect(shown, f"./{panel.kind}.vrt", "gdal")
        restyle(shown, panel.style())
        project.node(shown).set("expanded", "1")  # the legend tells the classes
    title = "Test set of reviewed SYNTHETIC tiles (not observations)"
    project.write(folder / "release.qgz", title, sheet.bounds)


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
