"""Real tiles that the target is unsure of, for people to say what they show.

The class in the catalog is suggested where there is one, and nothing elsewhere: what the target
says would lead people to say the same, so it is on the second tab of the form. Where the target
answers for every pixel, people judge the mask in the catalog, and that of the target where there is
none: nobody draws a mask in a form. The tiles are tagged as the observations they are, and
`context.qgz` shows them in their place, in the scenes that are on the disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.batch.choose import narrow, tau_of
from rs_lowconf.batch.collect import placed
from rs_lowconf.batch.imagery import scenes_around
from rs_lowconf.batch.jobs import PIXELWISE, TargetOf, rows_of
from rs_lowconf.batch.ledger import read_description
from rs_lowconf.batch.quotas import within_quotas
from rs_lowconf.batch.status import open_results
from rs_lowconf.class_map import ClassMap
from rs_lowconf.data.catalog.reading import read_mask, read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import DataError, JobError
from rs_lowconf.places import job_folder
from rs_lowconf.review.ids import package_id, sample_ids
from rs_lowconf.review.package import place_for
from rs_lowconf.review.publish import publish
from rs_lowconf.review.samples import Observed, Prediction, TileMasks
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.settings import Settings
from rs_lowconf.stored import stored_numbers
from rs_lowconf.types import TargetModel
from rs_lowconf.vocabulary import class_list, class_name, vocabulary


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """Tiles to be judged."""

    scores: geopandas.GeoDataFrame
    """Theirs, see `collect.placed`, in the order to show them in, with a column `sample_id`."""
    labels: tuple[str, ...]
    """All classes of the scored tiles."""
    left_out: Mapping[str, int]
    """Scored tiles of other splits and collections, by reason."""
    answered: int
    """How many that could be chosen reviewers answered before, which are not asked again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LeastSure(Chosen):
    """Tiles to be judged, lowest confidence first."""

    tau: float
    """All are below it."""
    below: int
    """Tiles below it, chosen or not."""


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


def predicts_tiles(job: Path) -> bool:
    """Return whether the scores of a job say that the target predicts one class per tile.

    Scores of earlier versions do not say it.

    Raises:
        JobError: the job has no results yet.
    """
    told = open_results(job).schema.metadata or {}
    return told.get(PIXELWISE.encode()) == b"false"


def choose(scores: geopandas.GeoDataFrame, settings: Settings) -> LeastSure:
    """Return the least sure tiles within the quotas that nobody judged yet.

    Raises:
        JobError: there is none.
        SettingsError: target.class_map lacks a label.
        DataError: the file of regions cannot be used, or the catalog writes a class nearly as the
            target does.
    """
    narrowed = narrow(lambda name: scores[name].tolist(), len(scores), settings.batch)
    scores = scores[narrowed.rows]
    settings.target.common_names.meet(
        vocabulary("the catalog's labels", scores["label"].unique()),
        vocabulary("the target's answers", scores["predicted"].unique()),
    )
    tau = tau_of(scores["confidence"].to_numpy(), settings.search)
    below = scores[scores["confidence"] < tau].sort_values(["confidence", "id"])
    if not len(below):
        lowest = f", the lowest is {scores['confidence'].min():.3f}" if len(scores) else ""
        raise JobError(
            f"none of {len(scores):,} scored tiles is below {tau:.3f}{lowest}",
            remedy="raise search.tau, or see batch.splits and batch.collections",
        )
    left = pending(below, settings)
    if not len(left):
        raise JobError(
            f"all {len(below):,} tiles below {tau:.3f} were judged already",
            remedy="raise search.tau",
        )
    return LeastSure(
        scores=first_within_quotas(left, settings),
        tau=tau,
        labels=labels_of(scores),
        below=len(below),
        left_out=narrowed.left_out,
        answered=len(below) - len(left),
    )


def pending(scores: geopandas.GeoDataFrame, settings: Settings) -> geopandas.GeoDataFrame:
    """Return the tiles that nobody judged yet, with a column `sample_id`."""
    named = scores.assign(sample_id=sample_ids(settings.run.seed, scores["id"]))
    answered = {one.sample_id for one in ReviewStore(settings.run.dir / STORE).opinions()}
    return named[~named["sample_id"].isin(answered)]


def first_within_quotas(
    scores: geopandas.GeoDataFrame, settings: Settings
) -> geopandas.GeoDataFrame:
    """Return the first tiles within the quotas, as many as one package shows.

    Raises:
        DataError: the file of regions cannot be used.
    """
    own = settings.batch
    taken = within_quotas(
        classes_of(scores, settings.target.common_names),
        scores["lon"].to_numpy(),
        scores["lat"].to_numpy(),
        per_class=own.per_class,
        per_region=own.per_region,
        regions=own.regions or own.region_degrees,
    )
    return scores.iloc[taken[: settings.review.max_samples]]


def labels_of(scores: geopandas.GeoDataFrame) -> tuple[str, ...]:
    """Return the classes in the catalog of scored tiles."""
    return tuple(sorted(scores["label"].dropna().unique()))


def classes_of(scores: geopandas.GeoDataFrame, class_map: ClassMap) -> list[str]:
    """Return the class of each tile: its label, or else the common name of what the target says."""
    said = scores["predicted"].map(class_map.common)
    return [str(own) for own in scores["label"].where(scores["label"].notna(), said)]


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

    Reviewers choose among the classes of the target and those of the catalog; where
    target.class_map gives a class of the target some of the catalog, among these instead.

    Args:
        settings: of the run; `review.mode` decides what is told.
        catalog: of the tiles.
        scores: theirs with a column `sample_id`, in the order to show them in.
        target: whose scores these are.
        into: folder in run.dir that takes the package.
        labels: classes in the catalog, beside those of these tiles.
        provenance: what chose them; not told where reviews are blind.

    Raises:
        DataError: a tile or mask cannot be read, or has changed, or they have no band in common, or
            a class is written in two ways.
        AnswerError: the target has no answer to a tile that it had one to before.
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
    # Only masks need the model; scores say what it predicts of tiles, and running it needs trust.
    model = None
    if predicts_tiles(job_folder(settings, "score")) and target.classes:
        classes, pixelwise = target.classes, False
    else:
        model = target.load(rows[0].window[2])
        classes, pixelwise = model.classes, model.pixelwise
    if pixelwise:
        named = [one for row in rows for one in (row.mask_classes or {}).values() if one]
    else:
        # Labels may have come into the catalog since.
        named = [*labels, *(row.label for row in rows if row.label)]
    class_map = settings.target.common_names
    catalog_classes, target_classes = (
        vocabulary("the catalog", named),
        class_list("the target", classes),
    )
    class_map.meet(catalog_classes, target_classes)
    # The target's mask is shown where the catalog has none, so its classes stay.
    own = class_map.commons(classes) if pixelwise else class_map.in_words_of_data(classes, classes)
    offered = tuple(dict.fromkeys((*own, *catalog_classes.names)))
    publish(
        ReviewStore(settings.run.dir / STORE),
        folder,
        [*_samples(scores, rows, model if pixelwise else None, offered, class_map)],
        package_id=package,
        label=settings.review.mode,
        round=0,
        classes=() if pixelwise else offered,
        pixel_classes=offered if pixelwise else (),
        target_classes=classes,
        attribution=settings.data.attribution,
        provenance={"catalog": catalog.path.name, **provenance},
        scenes=scenes_around(rows, blind=blind),
    )
    return folder


def _samples(
    scores: geopandas.GeoDataFrame,
    rows: Sequence[CatalogRow],
    segmenter: TargetModel | None,
    classes: Sequence[str],
    class_map: ClassMap,
) -> Iterator[Observed]:
    """Yield tiles with what the catalog and the target say of them; a segmenter runs again."""
    bands = _common(rows)
    for row, score in zip(rows, scores.to_dict("records"), strict=True):
        numbers, label, masks = read_row(row), row.label or None, None
        if segmenter is not None:
            label = "catalog" if row.masks else "target"
            image = reflectance(row, numbers, segmenter.bands)
            masks = _masks(row, image, segmenter, classes, class_map)
        yield Observed(
            sample_id=score["sample_id"],
            pixels=stored_numbers(reflectance(row, numbers, bands)).numpy(),
            bands=bands,
            label=label,
            masks=masks,
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


def _masks(
    row: CatalogRow,
    image: Float[Tensor, "c h w"],
    model: TargetModel,
    classes: Sequence[str],
    class_map: ClassMap,
) -> TileMasks:
    """Return the mask of a tile in the catalog, or else the target's, beside the target's answer.

    Args:
        row: of the tile.
        image: in the target's bands.
        model: the target.
        classes: of masks; the common names of those of the target among them.
        class_map: gives these names.
    """
    with torch.no_grad():
        best = model.predict(image[None])[0].max(dim=0)
    predicted = best.indices.to(torch.uint8).cpu()
    if row.masks:
        mask = read_mask(row, classes)
    else:
        shown = [classes.index(class_map.common(name)) for name in model.classes]
        mask = torch.tensor(shown)[predicted.long()]
    return TileMasks(
        mask=mask.to(torch.uint8).numpy(),
        predicted=predicted.numpy(),
        confidence=best.values.exp().clamp(0, 1).cpu().numpy(),
    )


def _common(rows: Sequence[CatalogRow]) -> BandSpec:
    """Return the bands that all tiles have, in the order of the first."""
    names = [name for name in rows[0].bands.names if all(name in row.bands.names for row in rows)]
    if not names:
        raise DataError(
            "the chosen tiles have no band in common", remedy="choose with batch.collections"
        )
    return BandSpec(names=tuple(names), level=rows[0].bands.level)
