"""The map of scores for QGIS: opaque, the least sure tiles on top, zoomed to most of them.

Where tiles of several dates lie over each other, each date is a group of its own with its imagery,
of which one is seen at a time, and one more group shows the least sure of all dates. Tiles whose
image is on the disk are frames around it, others are filled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from rs_lowconf.batch.imagery import FOLDER, Imagery, Raster, write_imagery
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.geopackage import write_features
from rs_lowconf.review.maps import cells_of, largest_cluster, on_map
from rs_lowconf.review.project import TEMPLATES, Bounds, Project, fill, part

_SHARES = (0.01, 0.05, 0.2, 0.5)
"""Of tiles below the edges between colours: the few unsure ones stand out."""
_FEW = 10
"""Tiles that count as the least sure where 1 % are fewer."""
_WINDOW = (40, 20)
"""Tiles across and down the initial view at most: each has 20 pixels of a laptop's screen."""
_LEAST_WINDOW = (12, 6)
"""The same at least: a single tile is seen with what is around it."""
_MARGIN = 0.1
"""Around the initial view, as a share of it: dots seen from afar are larger than their tiles."""
_DATES = 30
"""Dates with a group of their own, because QGIS opens the layers of all."""
_DOTS = 20_000
"""Tiles that QGIS draws within a second."""
_DOT_M, _IMAGERY_M = 0.002, 0.004
"""Sides of a tile on the screen below which it is a dot, and below which no image is read."""
COLOURS = len(_SHARES) + 1
_PRECISION = 12
"""Most digits after the point in a legend."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Tiles that have one colour."""

    colour: int
    """Its number in the template; 0 is for the least sure."""
    above: float
    """The confidence is above this; -1 for the lowest range, which includes its lowest."""
    upto: float
    """The highest confidence."""
    label: str
    """Lowest and highest confidence as the legend has them; one number where they are equal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """Tiles that are switched on and off together."""

    name: str
    """Empty for layers outside of groups."""
    layer: str = "confidence of the target"
    """Name of their layer."""
    of: Bool[np.ndarray, " n"]
    """Which tiles."""
    subset: str = ""
    """The same for QGIS; empty for all."""
    imagery: Sequence[Raster] = ()
    """Rasters of images below these tiles, and of no others."""


def write_score_map(
    folder: Path, scores: geopandas.GeoDataFrame, catalog: Catalog | None = None
) -> list[Path]:
    """Write scores.gpkg and scores.qgz, and rasters of the images that are on the disk.

    Args:
        folder: of the job.
        scores: what it found, see `collect.placed`.
        catalog: of the tiles; without it there is no imagery.

    Returns:
        What was written.

    Raises:
        ReviewError: the template of the project has another number of colours.
        OutputError: a file cannot be written.
    """
    frame = scores.rename(columns={"rslow:split": "split"}).reset_index(drop=True)
    frame["date"] = dates = frame["datetime"].dt.strftime("%Y-%m-%d").fillna("unknown")
    confidence = frame["confidence"].to_numpy()
    ranges = ranges_of(confidence)
    few = min(_FEW, len(frame)) - 1
    least = confidence <= max(ranges[0].upto, np.partition(confidence, few)[few])
    stacked = _stacked(frame)
    groups = dates if stacked else pd.Series("all", index=dates.index)
    cluster = frame[least][_cluster(frame[least], groups[least])]
    for first in (cluster, frame[least]):
        shown = on_map(first.geometry)
        side = float(np.nanmedian(shown.bounds["maxy"] - shown.bounds["miny"]))
        view = _view(shown, side)
        x, y = _points(frame).to_crs(shown.crs).get_coordinates().to_numpy().T
        near = (view[0] <= x) & (x <= view[2]) & (view[1] <= y) & (y <= view[3])
        if near.sum() > 1:  # scattered tiles, each alone on an empty map, are seen from afar
            break
    imagery = Imagery(rasters={}, shown=np.zeros(len(frame), dtype=np.bool_))
    if catalog is not None:
        imagery = write_imagery(folder, catalog, frame, near, groups.tolist())
    frame["imagery"] = imagery.shown.astype(np.int32)
    write_features(folder / "scores.gpkg", frame, "scores", ["date", "confidence"])
    writer = _Writer(confidence, ranges, imagery.shown, side)
    everything = np.ones(len(frame), dtype=np.bool_)
    if not stacked:
        writer.add(_Group(name="", of=everything, imagery=imagery.rasters.get("all", ())))
    else:
        first, unsure = cluster["date"].iloc[0], Counter(dates[least])
        most = [date for date, _ in unsure.most_common(_DATES)]
        others = sorted({*most} - {first})
        for date in (first, *others):
            writer.add(
                _Group(
                    name=f"{date} ({unsure[date]:,} unsure)",
                    of=(dates == date).to_numpy(),
                    subset=f"\"date\" = '{date}'",
                    imagery=imagery.rasters.get(date, ()),
                ),
                checked=date == first,
            )
        name = f"all {dates.nunique()} dates"
        writer.add(_Group(name=name, layer="lowest confidence of all dates", of=everything))
    writer.write(folder / "scores.qgz", view, shown.crs.to_string())
    written = [folder / "scores.gpkg", folder / "scores.qgz"]
    return [*written, folder / FOLDER] if imagery.rasters else written


def ranges_of(confidence: Float[np.ndarray, " n"]) -> list[Range]:
    """Return ranges of confidence from the lowest on, in each of which there are tiles.

    They end at the quantiles 1, 5, 20, 50 and 100 %. Where all tiles have the same, none stands
    out, and it has the colour of the surest.
    """
    low, high = float(confidence.min()), float(confidence.max())
    edges = [*np.quantile(confidence, _SHARES, method="inverted_cdf").tolist(), high]
    digits = 2
    while digits < _PRECISION and len({f"{e:.{digits}f}" for e in (low, *edges)}) < len(
        {low, *edges}
    ):
        digits += 1
    ranges: list[Range] = []
    above = -1.0
    for colour, upto in enumerate(edges):
        if upto > above and (low < high or colour == COLOURS - 1):
            ends = (f"{value:.{digits}f}" for value in (max(low, above), upto))
            label = " to ".join(dict.fromkeys(ends))
            ranges.append(Range(colour=colour, above=above, upto=upto, label=label))
            above = upto
    return ranges


def _stacked(frame: geopandas.GeoDataFrame) -> bool:
    """Return whether tiles of different dates lie over each other."""
    half = _side(frame) / 2
    cells = cells_of(frame["lon"].to_numpy(), frame["lat"].to_numpy(), (half, half))
    # Two tiles with their centres in one cell of half their side overlap.
    pairs = pd.DataFrame({"cell": cells, "date": frame["date"]}).drop_duplicates()
    return bool(pairs["cell"].duplicated().any())


def _points(frame: geopandas.GeoDataFrame) -> geopandas.GeoSeries:
    return geopandas.GeoSeries.from_xy(frame["lon"], frame["lat"], crs=frame.crs)


def _cluster(least: geopandas.GeoDataFrame, groups: pd.Series) -> Bool[np.ndarray, " n"]:
    """Return which of the least sure tiles the initial view is of."""
    side = _side(least)
    return largest_cluster(
        least["lon"].to_numpy(),
        least["lat"].to_numpy(),
        least["confidence"].to_numpy(),
        pd.factorize(groups)[0],
        (_WINDOW[0] * side, _WINDOW[1] * side),
    )


def _side(frame: geopandas.GeoDataFrame) -> float:
    """Return the side of the smallest tile in degrees of a meridian."""
    bounds = frame.bounds
    return float((bounds["maxy"] - bounds["miny"]).min())


def _view(shown: geopandas.GeoSeries, side: float) -> Bounds:
    """Return the initial view of tiles whose side is given in the unit of the map."""
    west, south, east, north = shown.total_bounds.tolist()
    x, y = (west + east) / 2, (south + north) / 2
    margin = max(2 * side, _MARGIN * (east - west), _MARGIN * (north - south))
    half_width = max(east - west + margin, _LEAST_WINDOW[0] * side) / 2
    half_height = max(north - south + margin, _LEAST_WINDOW[1] * side) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


class _Writer:
    """Fills the template of the project."""

    def __init__(
        self,
        confidence: Float[np.ndarray, " n"],
        ranges: Sequence[Range],
        pictured: Bool[np.ndarray, " n"],
        side: float,
    ) -> None:
        """Load it.

        Args:
            confidence: in each tile.
            ranges: of the legend.
            pictured: whether the image of each tile is on the disk.
            side: of a tile in the unit of the map.
        """
        self._ranges = ranges
        self._range = np.searchsorted([each.upto for each in ranges], confidence)
        self._pictured = pictured
        self._side = side
        self._project = Project("scores.qgs")
        self._tiles = self._project.layer("confidence of the target")
        self._raster = self._project.layer("imagery")
        self._dates = part(self._project.tree, "layer-tree-group[@name='one date at a time']")
        self._example = part(self._dates, "layer-tree-group[@name='date']")

    def add(self, group: _Group, *, checked: bool = False) -> None:
        """Add the layers of a group; without a name, outside of the groups of dates."""
        tiles = self._project.copy(self._tiles, group.layer)
        subset = f"|subset={group.subset}" if group.subset else ""
        self._project.connect(tiles, f"./scores.gpkg|layername=scores{subset}", "ogr")
        self._fill(tiles, group)
        layers = [tiles]
        for raster in group.imagery:
            copied = self._project.copy(self._raster, f"imagery, {raster.crs}")
            self._project.connect(copied, f"./{raster.path}", "gdal", raster.crs)
            copied.set("minScale", repr(self._side / _IMAGERY_M))
            layers.append(copied)
        nodes = [self._project.node(layer) for layer in layers]
        for node in nodes:
            self._example.remove(node)
        _open_legend(nodes[0], ("{tiles}", "{frames}"))
        if not group.name:
            self._project.tree.extend(nodes)
            return
        entry = ET.SubElement(self._dates, "layer-tree-group", self._example.attrib)
        entry.attrib |= {
            "name": group.name,
            "checked": "Qt::Checked" if checked else "Qt::Unchecked",
            "expanded": "1" if checked else "0",
        }
        entry.extend(nodes)
        if checked:
            self._dates.set("mutually-exclusive-child", str(len(self._dates) - 2))

    def write(self, path: Path, view: Bounds, crs: str) -> None:
        """Write the project without the layers of the template."""
        self._dates.remove(self._example)
        if not len(self._dates):
            self._project.tree.remove(self._dates)
        for layer in (self._tiles, self._raster):
            self._project.layers.remove(layer)
        self._project.write(path, "Confidence of the target", view, crs)

    def _fill(self, layer: ET.Element, group: _Group) -> None:
        """Fit the rules of a layer to the tiles of a group."""
        rules = part(layer, "renderer-v2/rules")
        frames = group.of & self._pictured if group.imagery else np.zeros_like(group.of)
        fills = group.of & ~frames
        both = frames.any() and fills.any()
        far = f"{self._side / _DOT_M:.0f}"  # QGIS reads whole numbers only
        for kind, of in (("tiles", fills), ("frames", frames), ("dots", group.of)):
            rule = part(rules, f"rule[@key='{{{kind}}}']")
            if not of.any():
                rules.remove(rule)
                continue
            counts = np.bincount(self._range[of], minlength=len(self._ranges))
            shown = len(counts)
            if kind == "dots":
                shown = max(1, int((counts.cumsum() <= _DOTS).sum()))
                rule.set("scalemindenom", far)
            else:
                rule.set("scalemaxdenom", far)
                if both:
                    rule.set("filter", f'"imagery" = {int(kind == "frames")}')
            if shown < len(counts):
                rule.set("label", f"{rule.get('label')} of the least sure")
            self._fill_colours(rule, counts[:shown])

    def _fill_colours(self, rule: ET.Element, counts: Int[np.ndarray, " n"]) -> None:
        colours = list(rule)
        if len(colours) != COLOURS:
            raise ReviewError(
                f"{TEMPLATES / 'scores.qgs'} has {len(colours)} colours", expected=f"{COLOURS}"
            )
        rule[:] = []
        for number, count in enumerate(counts.tolist()):
            each = self._ranges[number]
            colour = colours[each.colour]
            label = f"{each.label} [{count:,}]"
            fill(colour, {"@above": each.above, "@upto": each.upto, "@label": label})
            rule.append(colour)


def _open_legend(node: ET.Element, keys: Sequence[str]) -> None:
    """Let QGIS show the colours below these rules, and not only their titles."""
    properties = ET.SubElement(ET.SubElement(node, "customproperties"), "Option", type="Map")
    opened = ET.SubElement(properties, "Option", name="expandedLegendNodes", type="StringList")
    for key in keys:
        ET.SubElement(opened, "Option", type="QString", value=key)
