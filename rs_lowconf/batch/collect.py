"""Joins the results of a job with the location of its tiles: tables, a map for QGIS, a page."""

from collections.abc import Sequence
from pathlib import Path

import geopandas
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rs_lowconf.batch.jobs import TargetOf
from rs_lowconf.batch.score_map import write_score_map
from rs_lowconf.batch.score_page import write_score_page
from rs_lowconf.batch.stamp import fingerprint, stamp, unstamp
from rs_lowconf.batch.status import open_results
from rs_lowconf.data.catalog.rows import PLACE, centres
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.runs import replacing
from rs_lowconf.settings import Settings

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


def write_scores(
    folder: Path,
    catalog: Catalog,
    inputs: Sequence[str],
    settings: Settings,
    target: TargetOf,
) -> None:
    """Write scores.parquet, scores.gpkg, scores.qgz and report.html into a job folder of `score`.

    Args:
        folder: of the job.
        catalog: of the job.
        inputs: identify catalog and settings, see `stamp.py`.
        settings: of the run.
        target: that scored.

    Raises:
        JobError: it is not a job folder, or has no results yet.
        OutputError: the files cannot be written.
    """
    # Before reading, so that a part written meanwhile makes the files outdated.
    made_from = fingerprint(folder, inputs)
    unstamp(folder)
    frame = placed(catalog, folder)
    table = folder / "scores.parquet"
    with replacing(table) as temporary:
        frame.to_parquet(temporary)
    written = write_score_map(folder, frame.drop(columns="probabilities"), catalog)
    page = write_score_page(folder, frame, catalog, settings, target)
    stamp(folder, made_from, [table, *written, page])
