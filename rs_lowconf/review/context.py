"""The map of georeferenced samples: tiles generated around real tiles, or real tiles.

```
context.qgz   outlines of the samples with rank, class and date, their rasters, those of their
              anchors, and the scenes around them
context.gpkg  the outlines
context/      the rasters, straight from the tiles (see `mosaics`) and the scenes
```

Labels tell how sure the model is of a sample once it is decided. For that, the outlines are joined
to the rows of `review.gpkg` that have a decision, and these to `opinions.gpkg`, whose rows have the
same numbers. An expression that looks features up, as in the form, would stop QGIS while it draws.

Scenes stay where they are: on another machine they are not shown.

A sample has the grid of its anchor, so its raster has exactly the corners of its anchor's. Several
samples at the same location, which would hide each other, are in separate groups: group 1 holds the
first sample of every location, group 2 the second, and so on. Layers with generated pixels or their
outlines are labelled SYNTHETIC, in the list of layers and on the map, and the pixels are switched
off at first.

Rasters are drawn only where tiles are large enough to be seen: five hundred at once would take
seconds and gigabytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import geopandas
import numpy as np

from rs_lowconf.grid import Grid
from rs_lowconf.outlines import outlines
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.fields import LAYER, OPINIONS, OPINIONS_FILE, Label
from rs_lowconf.review.geopackage import write_features
from rs_lowconf.review.maps import on_map
from rs_lowconf.review.mosaics import Frame, frames_of, mosaic_vrt, mosaics_of
from rs_lowconf.review.project import Project, fill, part, restyle
from rs_lowconf.review.samples import Generated, ReviewSample
from rs_lowconf.review.style import leave_out, tile_style
from rs_lowconf.runs import write_text

Kind = Literal["REAL", "SYNTHETIC"]

_TITLE = """"title" || coalesce(' model ' || round(100 * "confidence") || ' %', '')"""
_DATE = r"""coalesce('\n' || "date", '')"""
"""Short lines of labels, because QGIS leaves out labels that have no room. The date of an anchor
stands once, below all samples of the location."""
_SCENES = "REAL scenes around the tiles"
_MARGIN, _LEAST_MARGIN_M = 0.1, 1_000.0
"""Margin around the initial map view: as a share of it, and the least in metres."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Real images around tiles, as one raster."""

    name: str
    """Of the layer, behind "REAL scenes"."""
    crs: str
    vrt: str
    """With three bands of bytes, 0 where there is nothing, and absolute paths."""


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A georeferenced sample."""

    sample: ReviewSample
    rank: str
    """Place in the order of review, from 1, with as many digits as the last one."""
    grid: Grid
    files: Mapping[str, str]
    """By kind, relative to the package."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Tiles that are switched on and off together."""

    kind: Kind
    name: str
    tiles: dict[str, tuple[str, Grid]]
    """Name and grid by file, relative to the package."""


def write_context(
    folder: Path,
    samples: Sequence[ReviewSample],
    files: Sequence[Mapping[str, str]],
    label: Label,
    scenes: Sequence[Scenes],
) -> None:
    """Write the map into a package, unless no sample is georeferenced.

    It tells nothing of what the model says before a sample is decided.

    Args:
        folder: the package, with its tiles.
        samples: of the package.
        files: the manifest's entry of each.
        label: of the package; a blind one tells only when a tile was taken.
        scenes: drawn below all else.
    """
    digits = len(str(len(samples)))
    placed = [
        _Placed(sample=sample, rank=f"{rank:0{digits}}", grid=sample.grid, files=entry)
        for rank, (sample, entry) in enumerate(zip(samples, files, strict=True), start=1)
        if sample.grid is not None
    ]
    if not placed:
        return
    _, height, width = samples[0].pixels.shape
    frame = _outlines(placed, width, height, label)
    write_features(folder / "context.gpkg", frame, "samples")
    kind: Kind = "SYNTHETIC"
    title = "SYNTHETIC tiles (not observations) over the real ones they were generated around"
    heading = f"""'location of SYNTHETIC tiles\\n' || {_together(_TITLE)} || {_DATE}"""
    if not isinstance(samples[0], Generated):
        kind, title = "REAL", "Real tiles to review, at their location"
        heading = _together(f"{_TITLE} || {_DATE}")
    project = Project("context.qgs")
    fill(project.root, {"@kind": kind, "@heading": heading})
    places = project.layer(f"locations of {kind} tiles")
    project.connect(places, "./context.gpkg|layername=samples", "ogr")
    decided, opinions = project.layer("decided"), project.layer(OPINIONS)
    if label == "blind":
        leave_out(places, dict.fromkeys(("decided_fid", "confidence"), "NULL"))
        places.remove(part(places, "vectorjoins"))
        project.layers.remove(decided)
        project.layers.remove(opinions)
    else:
        of_decided = '"decision" IS NOT NULL'
        project.connect(decided, f"./review.gpkg|layername={LAYER}|subset={of_decided}", "ogr")
        project.connect(opinions, f"./{OPINIONS_FILE}|layername={OPINIONS}", "ogr")
    frames = frames_of([each.grid for each in placed], width, height)
    _add_rasters(project, folder, _groups(placed), frames, samples[0])
    _add_scenes(project, folder, scenes)
    shown = on_map(frame.geometry)
    west, south, east, north = shown.total_bounds.tolist()
    margin = max(_LEAST_MARGIN_M, _MARGIN * (east - west), _MARGIN * (north - south))
    bounds = (west - margin, south - margin, east + margin, north + margin)
    project.write(folder / "context.qgz", title, bounds, shown.crs.to_string())


def _groups(placed: Sequence[_Placed]) -> list[_Group]:
    """Return the groups of layers from the top: the samples, then their anchors."""
    turns: Counter[Grid] = Counter()
    samples: dict[int, _Group] = {}
    anchors: dict[tuple[str, Grid], str] = {}
    for each in placed:
        sample, grid = each.sample, each.grid
        turns[grid] += 1
        kind: Kind = "SYNTHETIC" if isinstance(sample, Generated) else "REAL"
        name = f"{kind} {turns[grid]} of each location"
        group = samples.setdefault(turns[grid], _Group(kind=kind, name=name, tiles={}))
        group.tiles[each.files["tile"]] = (f"{each.rank} {sample.sample_id}", grid)
        if isinstance(sample, Generated) and sample.neighbour is not None:
            anchors.setdefault((sample.neighbour.tile_id, grid), each.files["anchor"])
    below = _Group(kind="REAL", name="REAL", tiles={file: grid for grid, file in anchors.items()})
    return [*samples.values(), *([below] if anchors else [])]


def _add_rasters(
    project: Project,
    folder: Path,
    groups: Sequence[_Group],
    frames: Mapping[Grid, Frame],
    like: ReviewSample,
) -> None:
    """Write the rasters of groups, and copy the group and the raster of the template for them.

    Args:
        project: the map.
        folder: the package.
        groups: the first one on top.
        frames: of their grids.
        like: any sample; all have its bands and size.
    """
    _, height, width = like.pixels.shape
    example = part(project.tree, "layer-tree-group[@name='group']")
    raster = project.layer("raster")
    restyle(raster, tile_style(like.bands, composites_of(like.bands)[0]))
    for number, group in enumerate(groups, start=1):
        tiles = [(file, grid) for file, (_, grid) in group.tiles.items()]
        for index, mosaic in enumerate(mosaics_of(tiles, frames, width, height), start=1):
            path = f"context/{number:02d}_{index:03d}.vrt"
            write_text(folder / path, mosaic_vrt(mosaic, "..", like.bands, width, height))
            (first, _), *others = mosaic.tiles
            more = f" and {len(others)} more" if others else ""
            copied = project.copy(raster, f"{group.kind} {group.tiles[first][0]}{more}")
            project.connect(copied, f"./{path}", "gdal", mosaic.frame.grid.crs)
        checked = "Qt::Checked" if group.kind == "REAL" else "Qt::Unchecked"
        entry = ET.SubElement(project.tree, "layer-tree-group", example.attrib)
        entry.attrib |= {"name": group.name, "checked": checked}
        *copies, last = example.findall("layer-tree-layer")
        entry.extend(copies)
        example[:] = [last]
    project.tree.remove(example)
    project.layers.remove(raster)


def _add_scenes(project: Project, folder: Path, scenes: Sequence[Scenes]) -> None:
    """Write the rasters of scenes, and put their group below all others."""
    raster = project.layer("scenes")
    group = part(project.tree, f"layer-tree-group[@name='{_SCENES}']")
    for number, each in enumerate(scenes, start=1):
        path = f"context/scenes_{number:03d}.vrt"
        write_text(folder / path, each.vrt)
        copied = project.copy(raster, f"REAL scenes {each.name}")
        project.connect(copied, f"./{path}", "gdal", each.crs)
    group.remove(project.node(raster))
    project.layers.remove(raster)
    project.tree.remove(group)
    if scenes:
        project.tree.append(group)


def _outlines(
    placed: Sequence[_Placed], width: int, height: int, label: Label
) -> geopandas.GeoDataFrame:
    """Return one row per sample with its outline in degrees."""
    corners = np.array([each.grid.corners(height, width) for each in placed], dtype=np.float64)
    shapes = outlines(corners, [each.grid.crs for each in placed])
    places = {grid: number for number, grid in enumerate(dict.fromkeys(e.grid for e in placed))}
    rows = [_row(each, label) | {"place": places[each.grid]} for each in placed]
    return geopandas.GeoDataFrame(rows, geometry=shapes, crs="EPSG:4326")


def _row(placed: _Placed, label: Label) -> dict[str, Any]:
    """Return what the map tells of a sample: no more than the first tab of the form; a title."""
    sample = placed.sample
    row: dict[str, Any] = {"sample_id": sample.sample_id, "rank": placed.rank}
    taken = "taken"
    told: list[str | None] = [placed.rank]
    masks = sample.masks is not None
    if isinstance(sample, Generated):
        assert sample.neighbour is not None  # noqa: S101  # it lies where that lies
        row |= {"condition": sample.condition, "anchor": sample.neighbour.tile_id}
        taken = "anchor_taken"
        told.append("mask" if masks else sample.condition)
    elif label == "confirm":
        row["suggested"] = suggested = None if masks else sample.label
        told.append("mask" if masks else suggested and f"{suggested}?")
    row["date"] = sample.provenance.get(taken, "")[:10] or None
    return row | {"title": " ".join(filter(None, told))}


def _together(text: str) -> str:
    """Return an expression for all samples of a location, because labels hide each other."""
    return f"""concatenate({text}, group_by:="place", concatenator:='\\n')"""
