"""An error estimate in a folder: drawn in waves, labelled by people, reported."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.describe import DrawnFrom, describe, drawn_by
from rs_lowconf.estimate.prepare import Prepared
from rs_lowconf.estimate.report import report
from rs_lowconf.estimate.result import Report
from rs_lowconf.estimate.scores import Scores, read_scores
from rs_lowconf.estimate.stored import (
    StoredPool,
    read_draw,
    read_labels,
    read_pool,
    same_request,
    write_draw,
    write_labels,
    write_pool,
)
from rs_lowconf.estimate.waves import (
    Labels,
    MissingLabelsError,
    Request,
    Waves,
    check_clear,
    common_labels,
)
from rs_lowconf.pages.rendering import made, target_facts
from rs_lowconf.pages.report import write_report
from rs_lowconf.places import catalog_path, model_path
from rs_lowconf.runs import sha256_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.origin import origin_of

REPORT_FORMAT = 1

Source = Literal["review", "table"]
"""Where labels come from: reviews in QGIS, or a table that is filled in."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWaves:
    """All that was drawn so far, as the files of a folder hold it."""

    waves: Waves
    stored: StoredPool
    checksums: tuple[str, ...]
    """One per wave."""


@dataclass(frozen=True, kw_only=True)
class ToLabel:
    """Where the newest wave is labelled: in a table, or in review packages."""

    table: Path | None
    """To fill in; None where there are packages."""
    packages: tuple[Path, ...]


def draw_folder(settings: Settings, name: str) -> DrawFolder:
    """Return where a draw is, and where its labels come from."""
    path, scores = settings.run.dir / "estimate" / name, settings.estimate.scores
    # A table that somebody fills in already stays one.
    filled = (path / "labels-1.csv").exists()
    review = scores is None or (not filled and _are_pixels(settings, scores))
    return DrawFolder(path=path, source="review" if review else "table")


def draw_first(settings: Settings, folder: DrawFolder, prepared: Prepared) -> None:
    """Write the pool and the first wave.

    Raises:
        SettingsError: see `check_request`; nothing is written then.
        DataError: `by_class` of a pool without predicted classes.
        OutputError: the files cannot be written.
    """
    request = Request.of(settings.estimate, settings.run.seed)
    drawn = request.draw(prepared.pool)
    stored = write_pool(folder.path, prepared)
    write_draw(folder.wave_file(1), request, drawn, stored, wave=1, before=None)


def draw_next(settings: Settings, folder: DrawFolder) -> tuple[Waves, bool]:
    """Draw the next wave of a draw that has begun, if all before it are labelled.

    Returns:
        What is drawn, and whether nothing is left to do: all waves are drawn and labelled.

    Raises:
        SettingsError: the folder holds a draw by other settings.
        DataError: see `read_waves` and `read_all_labels`; labels of the newest wave may be missing.
        ReviewError: reviewers disagree.
        OutputError: the file cannot be written.
    """
    found = read_waves(folder)
    request = Request.of(settings.estimate, settings.run.seed)
    same_request(found.waves.request, request, folder.path)
    try:
        _read_labels(settings, folder, found.waves, len(found.waves.draws))
    except MissingLabelsError:
        return found.waves, False
    if found.waves.complete:
        return found.waves, True
    labels = read_all_labels(settings, folder, found.waves)
    longer = found.waves.next(labels, settings.estimate.unclear, f"the labels of {folder.path}")
    write_draw(
        folder.wave_file(len(longer.draws)),
        longer.request,
        longer.draws[-1],
        found.stored,
        wave=len(longer.draws),
        before=found.checksums[-1],
    )
    return longer, False


def report_draw(settings: Settings, folder: DrawFolder) -> Report:
    """Return the report of a draw, which report.json, report.md and report.html then hold.

    Raises:
        DataError: see `read_waves` and `read_all_labels`; not all waves are drawn.
        ReviewError: reviewers disagree.
        OutputError: the files cannot be written.
    """
    found, section = read_waves(folder), settings.estimate
    waves, request = found.waves, found.waves.request
    labels = read_all_labels(settings, folder, waves)
    if not waves.complete:
        raise DataError(
            f"{len(waves.draws)} of {len(request.sizes)} waves are drawn",
            expected="all of them: stopping when the result looks good biases the estimate",
            remedy="draw the next",
            command=f"estimate draw --name {shlex.quote(folder.path.name)}",
        )
    labelled = waves.labelled(labels, section.unclear, f"the labels of {folder.path}")
    result = report(labelled, section.level)
    files = (folder.path / "pool.parquet", *folder.existing)
    draw = DrawnFrom(
        seed=request.seed,
        defensive=request.defensive,
        validated=waves.pool.validated,
        sha256={path.name: sha256_of(path) for path in files},
    )
    facts = _facts(settings, waves.pool.classes, result, draw)
    values = {
        "format": REPORT_FORMAT,
        "draw": asdict(draw),
        "facts": facts,
        "answer": result.headline,
        **result.to_json(),
    }
    write_report(folder.path, describe(result, draw, facts), values)
    return result


def _facts(
    settings: Settings, classes: Sequence[str], result: Report, draw: DrawnFrom
) -> dict[str, str]:
    """Return which target was tested on what, and when.

    Of a table nobody knows more than its predictions tell.
    """
    section, file = settings.estimate, settings.estimate.scores
    created = made()
    if file is None:
        origin = origin_of(settings.target, model_path(settings, "target"))
        tested = target_facts(origin, classes)
        where = str(catalog_path(settings))
        for name, asked in (
            ("splits", settings.batch.splits),
            ("collections", settings.batch.collections),
        ):
            where += "" if asked is None else f", {name} {', '.join(asked)}"
    else:
        gone = "the table is gone"
        tested = {
            "Target": f"the model whose predictions are in {file.name}",
            "SHA-256 of that table": sha256_of(file) if file.is_file() else gone,
            "Its classes": ", ".join(classes),
        }
        where = str(file)
    unclear = "" if section.unclear == "refuse" else f", unclear ones count as {section.unclear}"
    return {
        "Target": tested.pop("Target"),
        "Pool": f"{result.units:,} {result.unit} of {where}",
        "Date": created["Date"],
        "Settings": drawn_by(result, draw),
        "Labels": f"{result.labels:,}, of which {result.errors_found:,} are errors{unclear}",
        **tested,
        "Versions": created["Versions"],
    }


def read_waves(folder: DrawFolder) -> StoredWaves:
    """Return the draw of a folder.

    Raises:
        DataError: it holds none, or a file was changed, lost or put elsewhere.
    """
    stored = read_pool(folder.path)
    paths = folder.existing or [folder.wave_file(1)]
    drawn = [read_draw(path, stored) for path in paths]
    checksums = tuple(wave.checksum for wave in drawn)
    for number, (path, wave) in enumerate(zip(paths, drawn, strict=True), 1):
        before = None if number == 1 else checksums[number - 2]
        if (wave.wave, wave.before) != (number, before):
            raise DataError(
                f"{path} is not wave {number} of the draw before it",
                remedy="restore the files, or draw anew under another --name",
            )
    waves = Waves(
        pool=stored.units, request=drawn[-1].request, draws=tuple(wave.draw for wave in drawn)
    )
    return StoredWaves(waves=waves, stored=stored, checksums=checksums)


def read_all_labels(settings: Settings, folder: DrawFolder, waves: Waves) -> Labels:
    """Return the class of every drawn unit; None where it could not be told.

    Raises:
        DataError: labels are unknown, or unclear where that is refused; as `MissingLabelsError`,
            some are missing.
        ReviewError: reviewers disagree.
    """
    labels: dict[str, str | None] = {}
    for wave in range(1, len(waves.draws) + 1):
        labels |= _read_labels(settings, folder, waves, wave)
    return labels


def write_to_label(
    settings: Settings, folder: DrawFolder, waves: Waves, *, trust_code: bool
) -> ToLabel:
    """Write what people label the newest wave in, unless it is there.

    Args:
        settings: of the run.
        folder: of the draw.
        waves: all that was drawn.
        trust_code: whether a target that can run code may be loaded.

    Raises:
        DataError: units that were drawn are gone, or their tiles have changed.
        ReviewError: tiles cannot be shown.
        OutputError: files cannot be written.
    """
    wave, section = len(waves.draws), settings.estimate
    ids = waves.new_ids(wave)
    if folder.source == "table":
        assert section.scores is not None  # noqa: S101 -- else labels come from reviews
        if not folder.table(wave).exists():
            scores = read_scores(
                section.scores, section.measure, class_map=settings.target.common_names
            )
            _write_table(scores, folder.table(wave), ids)
        return ToLabel(table=folder.table(wave), packages=())
    into = folder.packages(wave)
    if section.scores is None:
        from rs_lowconf.workflows.labelling import write_tile_packages

        packages = write_tile_packages(settings, into, ids, trust_code=trust_code)
    else:
        from rs_lowconf.workflows.catalog import target_of
        from rs_lowconf.workflows.pixels import write_pixel_packages

        target = target_of(settings, trust_code=trust_code)
        own = waves.pool.class_map.in_words_of_data(waves.pool.classes, target.classes)
        classes = tuple(dict.fromkeys((*own, *section.classes)))
        packages = write_pixel_packages(settings, into, ids, classes)
    return ToLabel(table=None, packages=tuple(packages))


def _write_table(scores: Scores, path: Path, ids: list[str]) -> None:
    """Write the table to fill in, with what the scores tell of units for those who label."""
    place = pd.Index(scores.ids).get_indexer(ids)
    if (place < 0).any():
        raise DataError(f"{scores.source} lacks units that were drawn", remedy="restore that table")
    shown = scores.shown.iloc[place]
    if scores.group is not None:
        shown = shown.assign(group=scores.group[place])
    write_labels(path, ids, shown)


def _read_labels(settings: Settings, folder: DrawFolder, waves: Waves, wave: int) -> Labels:
    """Return the class of each unit that is new in a wave; see `read_all_labels`."""
    ids, class_map = waves.new_ids(wave), waves.pool.class_map
    if settings.target.common_names != class_map:
        raise SettingsError(
            f"the draw in {folder.path} was made with target.class_map "
            f"{dict(class_map.names)}, and the settings have {settings.target.class_map}",
            remedy="set it as it was, or draw anew under another --name",
        )
    labels: Labels
    if folder.source == "table":
        classes = (*waves.pool.classes, *settings.estimate.classes)
        labels = read_labels(folder.table(wave), ids, classes, class_map)
    else:
        from rs_lowconf.workflows.labelling import read_reviews

        where = f"wave {wave} in {folder.packages(wave)}"
        labels = common_labels(read_reviews(settings, ids, where), waves.pool, "the reviews")
    check_clear(labels, settings.estimate.unclear)
    return labels


def _are_pixels(settings: Settings, path: Path) -> bool:
    """Return whether a table is of pixels of the data that the settings name."""
    if not settings.data.masked or path.suffix.lower() == ".csv":
        return False
    try:
        return {"row", "col", "group"} <= set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return False
