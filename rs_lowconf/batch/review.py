"""Real tiles that the target is unsure of, for people to say what they show.

The class in the catalog is suggested where there is one, and nothing elsewhere: what the target
says would lead people to say the same, so it is on the second tab of the form. The tiles are tagged
as the observations they are, and `context.qgz` shows them in their place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rs_lowconf.bands import BandSpec
from rs_lowconf.batch.choose import narrow
from rs_lowconf.batch.collect import placed
from rs_lowconf.batch.jobs import COLUMNS, TargetOf
from rs_lowconf.batch.ledger import read_description
from rs_lowconf.batch.quotas import within_quotas
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import DataError, JobError
from rs_lowconf.review.ids import package_id, sample_ids
from rs_lowconf.review.package import place_for
from rs_lowconf.review.publish import publish
from rs_lowconf.review.samples import Observed, Prediction
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.settings import Settings
from rs_lowconf.stored import stored_numbers
from rs_lowconf.vocabulary import class_list, class_name, join, vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """Tiles to be judged."""

    scores: geopandas.GeoDataFrame
    """Theirs, see `collect.placed`, lowest confidence first, with a column `sample_id`."""
    tau: float
    """All are below it."""
    labels: tuple[str, ...]
    """All classes of the scored tiles."""
    below: int
    """Tiles below it, chosen or not."""
    left_out: Mapping[str, int]
    """Scored tiles of other splits and collections, by reason."""
    answered: int
    """Of those, how many reviewers answered before, which are not asked again."""


def scores_of(catalog: Catalog, job: Path, target: TargetOf) -> geopandas.GeoDataFrame:
    """Return what a job of `score` found, see `collect.placed`.

    Raises:
        JobError: it has no results yet, or they are of another target.
    """
    scores = placed(catalog, job)
    for column in ("label", "predicted"):
        scores[column] = [class_name(value) for value in scores[column]]
    if target.key not in read_description(job)["key"]:
        raise JobError(
            f"the scores in {job} are of another target than the settings name",
            command="batch score",
        )
    return scores


def choose(scores: geopandas.GeoDataFrame, settings: Settings) -> Chosen:
    """Return the least sure tiles within the quotas that nobody judged yet.

    Raises:
        JobError: there is none.
        DataError: the file of regions cannot be used, or the catalog writes a class nearly as the
            target does.
    """
    own = settings.batch
    narrowed = narrow(lambda name: scores[name].tolist(), len(scores), own)
    scores = scores[narrowed.rows]
    join(
        vocabulary("the catalog's labels", scores["label"].unique()),
        vocabulary("the target's answers", scores["predicted"].unique()),
    )
    tau = settings.search.tau
    if settings.search.tau_quantile is not None and len(scores):
        tau = float(np.quantile(scores["confidence"], settings.search.tau_quantile))
    below = scores[scores["confidence"] < tau].sort_values(["confidence", "id"])
    if not len(below):
        lowest = f", the lowest is {scores['confidence'].min():.3f}" if len(scores) else ""
        raise JobError(
            f"none of {len(scores):,} scored tiles is below {tau:.3f}{lowest}",
            remedy="raise search.tau, or see batch.splits and batch.collections",
        )
    names = sample_ids(settings.run.seed, below["id"])
    answered = {one.sample_id for one in ReviewStore(settings.run.dir / STORE).opinions()}
    left = below.assign(sample_id=names)
    left = left[~left["sample_id"].isin(answered)]
    if not len(left):
        raise JobError(
            f"all {len(below):,} tiles below {tau:.3f} were judged already",
            remedy="raise search.tau",
        )
    taken = within_quotas(
        classes_of(left),
        left["lon"].to_numpy(),
        left["lat"].to_numpy(),
        per_class=own.per_class,
        per_region=own.per_region,
        regions=own.regions or own.region_degrees,
    )
    return Chosen(
        scores=left.iloc[taken[: settings.review.max_samples]],
        tau=tau,
        labels=tuple(sorted(scores["label"].dropna().unique())),
        below=len(below),
        left_out=narrowed.left_out,
        answered=len(below) - len(left),
    )


def classes_of(scores: geopandas.GeoDataFrame) -> list[str]:
    """Return the class of each tile: its label, or else what the target says."""
    return [str(own) for own in scores["label"].where(scores["label"].notna(), scores["predicted"])]


def write_real(
    settings: Settings,
    catalog: Catalog,
    scores: geopandas.GeoDataFrame,
    target: TargetOf,
    *,
    into: Path,
    labels: Sequence[str],
    provenance: Mapping[str, str],
) -> Path:
    """Write a package of tiles, unless it is there, and return it.

    Reviewers choose among the classes of the target and those of the catalog.

    Args:
        settings: of the run; `review.mode` decides what is told.
        catalog: of the tiles.
        scores: theirs with a column `sample_id`, in the order to show them in.
        target: whose scores these are.
        into: folder in run.dir that takes the package.
        labels: classes in the catalog, beside those of these tiles.
        provenance: what chose them; not told where reviews are blind.

    Raises:
        JobError: the target answers for every pixel, so tiles have no class to ask for.
        DataError: a tile cannot be read, or has changed, or they have no band in common, or a class
            is written in two ways.
        ReviewError: the tiles differ in size, or have no bands that can be shown.
        OutputError: the package or the store cannot be written.
    """
    blind = settings.review.mode == "blind"
    if blind:
        # Their order would tell how sure the target is.
        scores = scores.sort_values("sample_id")
    package = package_id(settings.run.seed, "catalog", blind, *scores["sample_id"])
    folder = place_for(into, package)
    if folder.exists():
        return folder
    rows = rows_of(catalog, [*scores["id"]])
    model = target.load(rows[0].window[2])
    if model.pixelwise:
        raise JobError(
            "the target answers for every pixel",
            expected="one that gives a tile a class, which reviewers can name",
        )
    # Labels may have come into the catalog since.
    own = [row.label for row in rows if row.label]
    offered = join(
        class_list("the target", model.classes), vocabulary("the catalog", [*labels, *own])
    ).either
    publish(
        ReviewStore(settings.run.dir / STORE),
        folder,
        [*_samples(scores, rows)],
        package_id=package,
        label=settings.review.mode,
        round=0,
        classes=offered,
        target_classes=model.classes,
        attribution=settings.data.attribution,
        provenance={"catalog": catalog.path.name, **provenance},
    )
    return folder


def rows_of(catalog: Catalog, ids: Sequence[str]) -> list[CatalogRow]:
    """Return the rows of these tiles, in their order."""
    found: dict[str, CatalogRow] = {}
    for table in catalog.tables(COLUMNS):
        own = table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
        found |= {row.tile_id: row for row in from_table(own)}
    return [found[name] for name in ids]


def _samples(scores: geopandas.GeoDataFrame, rows: Sequence[CatalogRow]) -> Iterator[Observed]:
    """Yield tiles with what the catalog and the target say of them."""
    bands = _common(rows)
    for row, score in zip(rows, scores.to_dict("records"), strict=True):
        yield Observed(
            sample_id=score["sample_id"],
            pixels=stored_numbers(reflectance(row, read_row(row), bands)).numpy(),
            bands=bands,
            label=row.label or None,
            prediction=Prediction(
                class_name=score["predicted"],
                second=score["second"],
                confidence=score["confidence"],
            ),
            grid=row.grid,
            tile=row.tile_id,
            sha256=row.sha256,
            provenance={
                "tile_id": row.tile_id,
                "collection": row.collection,
                **({} if row.taken is None else {"taken": row.taken.isoformat()}),
            },
        )


def _common(rows: Sequence[CatalogRow]) -> BandSpec:
    """Return the bands that all tiles have, in the order of the first."""
    names = [name for name in rows[0].bands.names if all(name in row.bands.names for row in rows)]
    if not names:
        raise DataError(
            "the chosen tiles have no band in common", remedy="choose with batch.collections"
        )
    return BandSpec(names=tuple(names), level=rows[0].bands.level)
