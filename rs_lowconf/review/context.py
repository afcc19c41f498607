"""The map of samples that have a place: real tiles, and what was generated around them.

```
context.qgz   outlines and names of the samples; rasters of them, switched off; the real tiles
context.gpkg  the outlines
context/      the rasters, straight from the tiles (see `mosaics`)
```

A sample has the grid of its anchor, so its raster has the very corners of its anchor's. Of several
samples around one tile, which would hide each other, each is in a group of its own: the first of
every place can be switched on at once, then the second. Whatever holds or outlines generated
pixels is called SYNTHETIC, in the list of layers as well as on the map.

Rasters are drawn only where tiles are large enough to be seen: five hundred at once would take
seconds and gigabytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas
import shapely
from rasterio.warp import transform

from rs_lowconf.grid import Grid
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.maps import (
    MAP_CRS,
    MapGroup,
    MapLayer,
    places,
    write_features,
    write_map,
)
from rs_lowconf.review.mosaics import Frame, frames_of, mosaic_vrt, mosaics_of
from rs_lowconf.review.samples import ReviewSample
from rs_lowconf.review.style import raster_style
from rs_lowconf.runs import write_text

PROJECT = "context.qgz"
_NEAR = 100_000
"""At 1 : 100 000 a tile of 64 pixels of 10 m is 6 mm wide."""
_MAGENTA = "220,0,130"
_MARGIN, _LEAST_MARGIN_M = 0.1, 1_000.0
"""Around what the project opens with: a share of it, and metres."""


def write_context(
    folder: Path, samples: Sequence[ReviewSample], files: Sequence[Mapping[str, str]]
) -> None:
    """Write the map into a package, unless no sample has a place.

    Args:
        folder: the package, with its tiles.
        samples: of the package.
        files: for each its entry of the manifest.
    """
    placed = [
        (sample, sample.grid, names)
        for sample, names in zip(samples, files, strict=True)
        if sample.grid is not None
    ]
    if not placed:
        return
    _, height, width = samples[0].pixels.shape
    grids = [grid for _, grid, _ in placed]
    rasters = _Rasters(folder, samples[0], frames_of(grids, width, height))
    turns: Counter[Grid] = Counter()
    variants: dict[int, list[tuple[str, str, Grid]]] = {}
    anchors: dict[tuple[str, Grid], tuple[str, str, Grid]] = {}
    for sample, grid, names in placed:
        turns[grid] += 1
        variants.setdefault(turns[grid], []).append((sample.sample_id, names["tile"], grid))
        if sample.neighbour is not None:
            anchor = sample.neighbour.tile_id
            anchors.setdefault((anchor, grid), (anchor, names["anchor"], grid))
    outlines = _outlines([sample for sample, _, _ in placed], grids, width, height)
    write_features(folder / "context.gpkg", outlines, "samples")
    west, south, east, north = outlines.to_crs(MAP_CRS).total_bounds.tolist()
    margin = max(_LEAST_MARGIN_M, _MARGIN * (east - west), _MARGIN * (north - south))
    write_map(
        folder / PROJECT,
        [
            MapLayer(
                name="places of SYNTHETIC tiles",
                provider="ogr",
                source="./context.gpkg|layername=samples",
                crs="EPSG:4326",
                style=places(_MAGENTA, "place of a SYNTHETIC tile", _TITLE, near=_NEAR),
            ),
            *(
                MapGroup(
                    name=f"SYNTHETIC {turn} of each place",
                    layers=rasters.layers("SYNTHETIC", own),
                    shown=False,
                )
                for turn, own in variants.items()
            ),
            MapGroup(name="REAL", layers=rasters.layers("REAL", [*anchors.values()])),
        ],
        (west - margin, south - margin, east + margin, north + margin),
        "SYNTHETIC tiles (not observations) over the real ones that they were generated around",
    )


#: All samples of a place in one label: theirs would hide each other.
_TITLE = (
    "'place of SYNTHETIC ' || concatenate(\"sample_id\", group_by:=\"anchor\", concatenator:=' ')"
)


class _Rasters:
    """Writes rasters and names their layers."""

    def __init__(self, folder: Path, like: ReviewSample, frames: Mapping[Grid, Frame]) -> None:
        self._folder, self._like, self._frames = folder, like, frames
        self._count = 0

    def layers(self, kind: str, tiles: Sequence[tuple[str, str, Grid]]) -> list[MapLayer]:
        """Write rasters of tiles, given by name, file and grid, and return their layers."""
        bands = self._like.bands
        _, height, width = self._like.pixels.shape
        composite = composites_of(bands)[0]
        red, green, blue = (position + 1 for position in bands.index_of(composite.bands))
        named = {f"../{file}": name for name, file, _ in tiles}
        found = []
        for mosaic in mosaics_of(
            [(f"../{file}", grid) for _, file, grid in tiles], self._frames, width, height
        ):
            self._count += 1
            path = f"context/{self._count:04d}.vrt"
            write_text(self._folder / path, mosaic_vrt(mosaic, bands, width, height))
            (first, _), *others = mosaic.tiles
            told = f"{named[first]} and {len(others)} more" if others else named[first]
            found.append(
                MapLayer(
                    name=f"{kind} {told}",
                    provider="gdal",
                    source=f"./{path}",
                    crs=mosaic.frame.grid.crs,
                    style=raster_style((red, green, blue), composite.white),
                    nearer_than=2 * _NEAR,
                )
            )
        return found


def _outlines(
    samples: Sequence[ReviewSample], grids: Sequence[Grid], width: int, height: int
) -> geopandas.GeoDataFrame:
    """Return a row a sample with its outline in degrees."""
    shapes = []
    for grid in grids:
        a, b, c, d, e, f = grid.transform
        corners = ((0, 0), (width, 0), (width, height), (0, height))
        xs = [a * column + b * row + c for column, row in corners]
        ys = [d * column + e * row + f for column, row in corners]
        shapes.append(shapely.Polygon(zip(*transform(grid.crs, "EPSG:4326", xs, ys), strict=True)))
    return geopandas.GeoDataFrame(
        {
            "sample_id": [sample.sample_id for sample in samples],
            "condition": [sample.condition for sample in samples],
            "predicted": [sample.predicted for sample in samples],
            "confidence": [sample.confidence for sample in samples],
            "anchor": [
                None if sample.neighbour is None else sample.neighbour.tile_id for sample in samples
            ],
        },
        geometry=shapes,
        crs="EPSG:4326",
    )
