"""Quotas of tiles per class and per region, so that a choice is not all of one kind."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import shapely
from jaxtyping import Float
from pyogrio.errors import DataSourceError

from rs_lowconf.errors import DataError
from rs_lowconf.vocabulary import text_of

log = logging.getLogger(__name__)

NAME = "name"
"""The column with the names in a file of regions."""

ELSEWHERE = "elsewhere"
"""The region of tiles outside all polygons of a file."""


def within_quotas(
    classes: Sequence[str],
    lon: Float[np.ndarray, " n"],
    lat: Float[np.ndarray, " n"],
    *,
    per_class: int | None,
    per_region: int | None,
    regions: float | Path,
) -> list[int]:
    """Return the tiles that are taken in the given order, best first.

    Each is taken unless the quota of its class or its region is reached, so the result for the
    first tiles does not depend on later ones.

    Args:
        classes: of each tile.
        lon: degrees east of each tile's centre.
        lat: degrees north.
        per_class: most tiles of one class; None sets no limit.
        per_region: most tiles of one region; None sets no limit.
        regions: see `regions_of`.

    Raises:
        DataError: the file of regions cannot be used.
    """
    taken = []
    of_class: Counter[str] = Counter()
    of_region: Counter[str] = Counter()
    for index, pair in enumerate(zip(classes, regions_of(lon, lat, regions), strict=True)):
        name, region = pair
        if (per_class is None or of_class[name] < per_class) and (
            per_region is None or of_region[region] < per_region
        ):
            taken.append(index)
            of_class[name] += 1
            of_region[region] += 1
    return taken


def regions_of(
    lon: Float[np.ndarray, " n"],
    lat: Float[np.ndarray, " n"],
    regions: float | Path,
) -> list[str]:
    """Return the name of the region of each point.

    Args:
        lon: degrees east.
        lat: degrees north.
        regions: side of cells in degrees, which are named by their numbers; or a vector file of
            polygons in any CRS with a column `name`, where the first in the file counts if they
            overlap. Polygons with the same name are one region, and points outside are `ELSEWHERE`.

    Raises:
        DataError: the file is missing, damaged or without names.
    """
    if not isinstance(regions, Path):
        columns, rows = (np.floor(degrees / regions).astype(int).tolist() for degrees in (lon, lat))
        return [f"{column} {row}" for column, row in zip(columns, rows, strict=True)]
    polygons = _polygons(regions)
    points, hits = shapely.STRtree(polygons.geometry.to_numpy()).query(
        shapely.points(lon, lat), predicate="intersects"
    )
    names = [ELSEWHERE] * len(lon)
    # From the last polygon to the first, which then takes precedence.
    for number in np.argsort(-hits):
        names[points[number]] = str(text_of(polygons[NAME].iloc[hits[number]]))
    return names


def _polygons(path: Path) -> geopandas.GeoDataFrame:
    """Read a file of regions, in degrees."""
    expected = f"a vector file of polygons with a CRS and a column {NAME}"
    try:
        # Whole numbers as names stay whole if another polygon has no name.
        found = geopandas.read_file(
            path, use_arrow=True, arrow_to_pandas_kwargs={"integer_object_nulls": True}
        )
    except DataSourceError as error:
        raise DataError(f"regions {path} cannot be read ({error})", expected=expected) from error
    if NAME not in found.columns or not isinstance(found, geopandas.GeoDataFrame):
        raise DataError(f"regions {path} have no names or no shapes", expected=expected)
    if found.crs is None:
        raise DataError(f"regions {path} have no CRS", expected=expected)
    named = found[NAME].notna()
    if not named.all():
        log.warning("left out: %d polygons of %s without a name", int((~named).sum()), path)
    return found[named].to_crs("EPSG:4326")
