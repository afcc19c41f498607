"""Joins the results of a job with the location of its tiles: tables, and a map for QGIS."""

from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rs_lowconf.batch.stamp import fingerprint, stamp, unstamp
from rs_lowconf.batch.status import open_results
from rs_lowconf.data.catalog.rows import PLACE, centres
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.geopackage import write_features
from rs_lowconf.review.maps import bounds_of
from rs_lowconf.review.project import TEMPLATES, Project, part
from rs_lowconf.runs import replacing

#: Columns of the catalog that are written with a score.
_BESIDE = ("id", "collection", "datetime", "rslow:split", "geometry")


def placed(catalog: Catalog, job: Path) -> geopandas.GeoDataFrame:
    """Return the results of a job with location, collection, date and split, in catalog order.

    The columns `lon` and `lat` are the centres of the tiles.

    Raises:
        JobError: it is not a job folder, or has no results yet.
    """
    results = open_results(job).to_table()
    pieces = []
    for table in catalog.tables((*_BESIDE, *PLACE)):
        found = pc.index_in(table["id"], results["id"])
        known = table.filter(pc.is_valid(found))
        beside = results.take(pc.drop_null(found)).drop(["id"])
        for field, column in zip(beside.schema, beside.columns, strict=True):
            known = known.append_column(field, column)
        lon, lat = centres(known).T
        known = known.append_column("lon", pa.array(lon)).append_column("lat", pa.array(lat))
        pieces.append(known.drop(list(PLACE)))
    whole = pa.concat_tables(pieces)
    outlines = shapely.from_wkb(whole["geometry"].to_numpy(zero_copy_only=False))
    return geopandas.GeoDataFrame(
        whole.drop(["geometry"]).to_pandas(), geometry=outlines, crs="EPSG:4326"
    )


def write_scores(folder: Path, catalog: Catalog, inputs: Sequence[str]) -> None:
    """Write scores.parquet, scores.gpkg and scores.qgz into a job folder of `score`.

    Args:
        folder: of the job.
        catalog: of the job.
        inputs: identify catalog and settings, see `stamp.py`.

    Raises:
        JobError: it is not a job folder, or has no results yet.
        OutputError: the files cannot be written.
    """
    # Before reading, so that a part written meanwhile makes the files outdated.
    made_from = fingerprint(folder, inputs)
    unstamp(folder)
    frame = placed(catalog, folder)
    paths = [folder / name for name in ("scores.parquet", "scores.gpkg", "scores.qgz")]
    with replacing(paths[0]) as temporary:
        frame.to_parquet(temporary)
    write_score_map(folder, frame.drop(columns="probabilities"))
    stamp(folder, made_from, paths)


def write_score_map(folder: Path, frame: geopandas.GeoDataFrame) -> None:
    """Write scores.gpkg and scores.qgz, which colour tiles by their column `confidence`.

    Raises:
        ReviewError: the template of the project has another number of colours.
    """
    write_features(folder / "scores.gpkg", frame.rename(columns={"rslow:split": "split"}), "scores")
    project = Project("scores.qgs")
    layer = project.layer("confidence of the target")
    edges, colours = edges_of(frame["confidence"].to_numpy()), part(layer, "renderer-v2/ranges")
    if len(colours) != len(edges) - 1:
        raise ReviewError(
            f"{TEMPLATES / 'scores.qgs'} has {len(colours)} colours", expected=f"{len(edges) - 1}"
        )
    for colour, low, high in zip(colours, edges[:-1], edges[1:], strict=True):
        label = f"{low:.3f} to {high:.3f}"
        colour.attrib |= {"lower": repr(low), "upper": repr(high), "label": label}
    project.connect(layer, "./scores.gpkg|layername=scores", "ogr")
    project.write(folder / "scores.qgz", "Confidence of the target", bounds_of(frame))


def edges_of(confidence: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    """Return the edges of five colours, chosen so that the few uncertain tiles stand out.

    They are the quantiles 1, 5, 20 and 50 %, moved apart where they coincide.
    """
    inner = np.quantile(confidence, [0.01, 0.05, 0.2, 0.5])
    edges = [float(confidence.min()), *inner.tolist(), float(confidence.max())]
    for number in range(1, len(edges)):
        edges[number] = max(edges[number], edges[number - 1] + 1e-6)
    return edges
