"""What the commands of `rslow estimate` share: the pool that the settings name, and its labels."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from rs_lowconf.cli.app import app
from rs_lowconf.cli.batch import job_folder
from rs_lowconf.cli.catalog import catalog_path
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import print_left_out
from rs_lowconf.errors import DataError, JobError, ReviewError, listed
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_name

if TYPE_CHECKING:
    from rs_lowconf.estimate.draws import Draw
    from rs_lowconf.estimate.page import Page
    from rs_lowconf.estimate.prepare import Prepared
    from rs_lowconf.estimate.scores import Scores
    from rs_lowconf.estimate.stored import Request, StoredPool

#: Where labels come from: reviews of a catalog's tiles in QGIS, or a table that is filled in.
Source = Literal["review", "table"]


estimate_app = typer.Typer(
    help="Honest error estimates of a model from few labels.", no_args_is_help=True
)
app.add_typer(estimate_app, name="estimate")


def load_scores(settings: Settings, *, features: bool = False) -> "Scores":
    """Read the scores of the pool: a table, or what `rslow batch score` found.

    Args:
        settings: of the run.
        features: whether to read those of a table too.

    Raises:
        DataError: see `read_scores`; no tile is in the splits and collections of the settings.
        JobError: nothing was scored yet.
    """
    from rs_lowconf.batch.choose import narrow
    from rs_lowconf.estimate.scores import read_scores

    own = settings.estimate
    if own.scores is not None:
        return read_scores(own.scores, own.measure, features=features)
    path = job_folder(settings, "score") / "scores.parquet"
    if not path.exists():
        raise _no_scores(settings, path)
    scores = read_scores(path, own.measure)
    narrowed = narrow(
        lambda name: scores.shown[name].tolist(), len(scores), settings.batch, error=DataError
    )
    print_left_out(narrowed.left_out, len(scores))
    return scores.take(narrowed.rows)


def _no_scores(settings: Settings, path: Path) -> JobError:
    """Return the error of a pool that is missing, with the first step towards it."""
    found = f"there are no scores {path}"
    if catalog_path(settings).is_file():
        return JobError(found, remedy="name a table by estimate.scores", command="batch score")
    if settings.data.kind != "none":
        return JobError(found, remedy="name a table by estimate.scores", command="catalog build")
    return JobError(
        found,
        remedy="name a table by estimate.scores, or tiles to catalog by data.kind and data.root",
    )


def pool_is_there(settings: Settings) -> bool:
    """Return whether there are scores of real tiles; say what is the first step to them if not."""
    if settings.estimate.scores is not None:
        return settings.estimate.scores.exists()
    if (job_folder(settings, "score") / "scores.parquet").exists():
        return True
    if catalog_path(settings).is_file():
        hint("For real tiles beside them", "batch score")
    elif settings.data.kind != "none":
        hint("For real tiles beside them", "catalog build")
    return False


def load_pool(settings: Settings) -> "Prepared":
    """Return the pool with its error probabilities.

    Raises:
        RsLowconfError: see `load_scores` and `prepare`.
    """
    from rs_lowconf.estimate.prepare import prepare
    from rs_lowconf.estimate.scores import read_scores

    own = settings.estimate
    return prepare(
        load_scores(settings),
        validation=None if own.validation is None else read_scores(own.validation, own.measure),
        surrogates=own.surrogates,
        generated=None if own.generated is None else read_scores(own.generated, own.measure),
        seed=settings.run.seed,
        defensive=own.defensive,
    )


def say_pool(prepared: "Prepared") -> None:
    """Print what the pool is and what its error probabilities are worth."""
    print(
        f"{len(prepared.pool):,} units of {prepared.scores.path}, "
        f"{len(prepared.classes)} classes, {100 * prepared.pool.g.mean():.3g} % errors expected"
    )
    if prepared.remark:
        print(prepared.remark)
    choice = prepared.choice
    if choice is None:
        print("No validation labels: error probabilities are what the models say of themselves.")
    else:
        gain = f", {choice.gain:.2f} times better than confidence" if choice.gain > 1 else ""
        print(
            f"Error predictor: {choice.name}{gain}, of {', '.join(prepared.predictors)}; chosen "
            "by validation labels"
        )


@dataclass(frozen=True, kw_only=True)
class DrawFolder:
    """The files of one draw."""

    path: Path
    source: Source

    @property
    def existing(self) -> list[Path]:
        """Return the files of the waves, in order."""
        found: list[Path] = []
        while (path := self.wave_file(len(found) + 1)).exists():
            found.append(path)
        return found

    def wave_file(self, wave: int) -> Path:
        """Return the file of a wave, from 1 on."""
        return self.path / f"draw-{wave}.json"

    def table(self, wave: int) -> Path:
        """Return the table to fill in of a wave."""
        return self.path / f"labels-{wave}.csv"

    def packages(self, wave: int) -> Path:
        """Return the folder of the review packages of a wave."""
        return self.path / f"wave-{wave}"


def are_pixels(settings: Settings, path: Path) -> bool:
    """Return whether a table is of pixels of the data that the settings name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not settings.data.masked or path.suffix.lower() == ".csv":
        return False
    try:
        return {"row", "col", "group"} <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False


def draw_folder(settings: Settings, name: str) -> DrawFolder:
    """Return where a draw is, and where its labels come from."""
    path, scores = settings.run.dir / "estimate" / name, settings.estimate.scores
    # A table that somebody fills in already stays one.
    filled = (path / "labels-1.csv").exists()
    review = scores is None or (not filled and are_pixels(settings, scores))
    return DrawFolder(path=path, source="review" if review else "table")


@dataclass(frozen=True, kw_only=True, eq=False)
class Waves:
    """All that was drawn so far."""

    stored: "StoredPool"
    request: "Request"
    draws: "Sequence[Draw]"
    checksums: Sequence[str]

    def new_ids(self, wave: int) -> list[str]:
        """Return the units that a wave is the first to hold, each once, in random order."""
        seen: set[int] = set()
        for draw in self.draws[: wave - 1]:
            seen.update(draw.index.tolist())
        own = dict.fromkeys(one for one in self.draws[wave - 1].index.tolist() if one not in seen)
        return [str(self.stored.ids[one]) for one in own]


def read_waves(folder: DrawFolder) -> Waves:
    """Return the draw of a folder.

    Raises:
        DataError: it holds none, or a file was changed, lost or put elsewhere.
    """
    from rs_lowconf.estimate.stored import read_draw, read_pool

    stored = read_pool(folder.path)
    paths = folder.existing or [folder.wave_file(1)]
    waves = [read_draw(path, stored) for path in paths]
    checksums = [one.checksum for one in waves]
    for number, (path, one) in enumerate(zip(paths, waves, strict=True), 1):
        before = None if number == 1 else checksums[number - 2]
        if (one.wave, one.before) != (number, before):
            raise DataError(
                f"{path} is not wave {number} of the draw before it",
                remedy="restore the files, or draw anew under another --name",
            )
    return Waves(
        stored=stored,
        request=waves[-1].request,
        draws=[one.draw for one in waves],
        checksums=checksums,
    )


def labels_of(
    settings: Settings, folder: DrawFolder, waves: Waves, wave: int
) -> dict[str, str | None]:
    """Return the class of each unit that is new in a wave; None where it could not be told.

    Raises:
        DataError: labels are missing, unknown, or unclear where that is refused.
        ReviewError: reviewers disagree.
    """
    from rs_lowconf.estimate.stored import read_labels

    own = settings.estimate
    ids = waves.new_ids(wave)
    if folder.source == "table":
        classes = (*waves.stored.classes, *own.classes)
        found = read_labels(folder.table(wave), ids, classes)
    else:
        found = _reviewed(settings, ids, f"wave {wave} in {folder.packages(wave)}")
    unclear = [name for name, said in found.items() if said is None]
    if unclear and own.unclear == "refuse":
        raise DataError(
            f"of {len(unclear)} drawn units nobody could tell the class, such as {unclear[0]}",
            remedy="look again, or count them by estimate.unclear=wrong or right",
        )
    return found


def is_labelled(settings: Settings, folder: DrawFolder, waves: Waves, wave: int) -> bool:
    """Return whether a wave has all its labels.

    Raises:
        RsLowconfError: labels that are wrong, see `labels_of`.
    """
    from rs_lowconf.estimate.stored import MissingLabelsError

    try:
        labels_of(settings, folder, waves, wave)
    except MissingLabelsError:
        return False
    return True


def write_report(folder: Path, page: "Page", values: Mapping[str, Any]) -> None:
    """Write report.md with plots/, report.html and report.json.

    Raises:
        OutputError: they cannot be written.
    """
    from rs_lowconf.runs import save_figures, write_json, write_text

    save_figures(folder / "plots", page.figures())
    write_text(folder / "report.md", page.markdown("plots"))
    write_text(folder / "report.html", page.html())
    write_json(folder / "report.json", values)


def _reviewed(settings: Settings, ids: Sequence[str], where: str) -> dict[str, str | None]:
    """Return what reviewers say of tiles."""
    from rs_lowconf.cli.review import settling_folder, store_of
    from rs_lowconf.estimate.stored import check_complete
    from rs_lowconf.review.ids import sample_ids
    from rs_lowconf.review.verdicts import verdicts

    found = verdicts(store_of(settings).opinions())
    names: Mapping[str, str] = dict(zip(ids, sample_ids(settings.run.seed, ids), strict=True))
    check_complete(
        [tile for tile, name in names.items() if name not in found],
        len(ids),
        f"{where}, as imported",
    )
    disputed = [tile for tile, name in names.items() if found[name].decision is None]
    if disputed:
        raise ReviewError(
            f"reviewers disagree on {listed(disputed)}",
            remedy="have it settled",
            command=f"review agreement --export {shlex.quote(str(settling_folder(settings)))}",
        )
    return {tile: class_name(found[name].true_class) for tile, name in names.items()}
