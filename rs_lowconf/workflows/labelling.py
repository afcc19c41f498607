"""Units of a draw that people label in QGIS: packages are written, reviews are read."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rs_lowconf.batch.review import scores_of, write_real
from rs_lowconf.errors import DataError, ReviewError, listed
from rs_lowconf.estimate.waves import check_complete
from rs_lowconf.places import job_folder, settling_folder
from rs_lowconf.review.ids import sample_ids
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.review.verdicts import verdicts
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_name
from rs_lowconf.workflows.catalog import target_of, tiles_of


def write_tile_packages(
    settings: Settings, folder: Path, ids: Sequence[str], *, trust_code: bool
) -> list[Path]:
    """Write review packages of a catalog's tiles.

    Args:
        settings: of the run.
        folder: takes the packages.
        ids: of the tiles.
        trust_code: whether a target that can run code may be loaded.

    Raises:
        DataError: a tile is not in the catalog, or has changed since.
        JobError: there are no scores of this target.
        ReviewError: the tiles differ in size, or have no bands that can be shown.
        OutputError: a package or the store cannot be written.
    """
    catalog, target = tiles_of(settings), target_of(settings, trust_code=trust_code)
    scores = scores_of(catalog, job_folder(settings, "score"), target)
    labels = tuple(sorted({*scores["label"].dropna(), *settings.estimate.classes}))
    scores = scores.set_index("id", drop=False)
    lost = [name for name in ids if name not in scores.index]
    if lost:
        raise DataError(
            f"{catalog.path} lacks {len(lost)} tiles that were drawn, such as {lost[0]}",
            remedy="restore the catalog and its scores, or draw anew under another --name",
        )
    drawn = scores.loc[list(ids)].assign(sample_id=sample_ids(settings.run.seed, ids))
    # Their order in the draw would tell where the target is unsure.
    drawn = drawn.sort_values("sample_id")
    most = settings.review.max_samples
    return [
        write_real(
            settings,
            catalog,
            drawn.iloc[first : first + most],
            target,
            into=folder,
            labels=labels,
            provenance={"drawn_for": "an error estimate"},
        )
        for first in range(0, len(drawn), most)
    ]


def read_reviews(settings: Settings, ids: Sequence[str], where: str) -> dict[str, str | None]:
    """Return the class that reviewers gave each unit; None where they could not tell.

    Args:
        settings: of the run.
        ids: of the units.
        where: they were to be reviewed, for errors.

    Raises:
        MissingLabelsError: nobody reviewed some of them.
        ReviewError: reviewers disagree.
    """
    found = verdicts(ReviewStore(settings.run.dir / STORE).opinions())
    names = dict(zip(ids, sample_ids(settings.run.seed, ids), strict=True))
    missing = [unit for unit, name in names.items() if name not in found]
    check_complete(missing, len(ids), f"{where}, as imported")
    disputed = [unit for unit, name in names.items() if found[name].decision is None]
    if disputed:
        raise ReviewError(
            f"reviewers disagree on {listed(disputed)}",
            remedy="have it settled",
            command=f"review agreement --export {shlex.quote(str(settling_folder(settings)))}",
        )
    return {unit: class_name(found[name].true_class) for unit, name in names.items()}
