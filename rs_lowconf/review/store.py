"""The database of reviews: exported samples, and every imported answer.

One SQLite file in the run folder. A package never contains the origin of a blind sample or the
models' predictions for it; this file does. Answers are only ever added: all answers with reviewer
and time are kept, also when an answer changes. Every call is one transaction, on disk when it
returns.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rs_lowconf.errors import ReviewError
from rs_lowconf.review.fields import Decision, Label
from rs_lowconf.review.reading import Answer, ReviewedPackage
from rs_lowconf.review.samples import Prediction
from rs_lowconf.runs import output_errors

STORE = "reviews.sqlite"
"""Its usual name, in run.dir."""
FORMAT = 4
"""2 since packages may have masks, 3 since they may be of a catalog's tiles, 4 since a sample may
have no prediction: older readers would misread them."""
_ALL = 5
"""From this many answers, if all differ in time, they are from another person."""
_APPLICATION = 0x72736C77  # 'rslw'
_PREDICTION = ("predicted", "second", "confidence")

Origin = Literal["found", "audit", "real", "catalog", "pixel"]
"""`found` passed the gate, `audit` was rejected by it, `real` is an observation hidden among them.
`catalog` is an observation shown as one, to be classified, and `pixel` a pixel of one: they have no
information on generator, gate or how reviewers judge realism."""

_TABLES = """
CREATE TABLE package (package_id TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT;
CREATE TABLE sample (
  sample_id TEXT NOT NULL, package_id TEXT NOT NULL REFERENCES package, content TEXT NOT NULL,
  PRIMARY KEY (sample_id, package_id)) STRICT;
CREATE TABLE answer (
  number INTEGER PRIMARY KEY, package_id TEXT NOT NULL, sample_id TEXT NOT NULL,
  reviewer TEXT NOT NULL, reviewed_ms INTEGER NOT NULL, decision TEXT, true_class TEXT,
  realism INTEGER, comment TEXT NOT NULL,
  FOREIGN KEY (sample_id, package_id) REFERENCES sample) STRICT;
CREATE INDEX answer_of ON answer (sample_id, reviewer);
"""


@dataclass(frozen=True, kw_only=True)
class SentPackage:
    """A package as it was exported."""

    package_id: str
    label: Label
    round: int
    """From 1; reviews of one round lead to the gate of the next. 0 for tiles of a catalog, which
    belong to none."""
    folder: str
    """Where it was written, relative to the store's folder."""
    classes: tuple[str, ...]
    exported: str
    """ISO 8601, UTC."""
    pixel_classes: tuple[str, ...] = ()
    """Classes of masks; empty without masks. With masks, samples are accepted without a class."""
    settles: bool = False
    """Whether it repeats samples that reviewers disagree on: then its answers decide."""


@dataclass(frozen=True, kw_only=True)
class SentSample:
    """An exported sample, including data that a blind package does not contain."""

    sample_id: str
    origin: Origin
    condition: str
    """Class that the tile was generated for; for a real tile its class in the data set, empty
    without one; if masks are reviewed, the name of the sample's mask."""
    prediction: Prediction | None
    """None if no model was asked."""
    realism: float | None
    """The critic's logit when the sample was exported; None if not computed."""
    gate_score: float | None
    """The gate's joint score when the sample was exported; None if not computed."""
    tile: str
    """GeoTIFF with all its metadata, relative to the store's folder; for a tile of a catalog its id
    there, because its pixels are not copied; for a pixel the id of its tile, its row and its
    column, with / between them."""
    sha256: str
    """Checksum of that GeoTIFF; for a tile of a catalog, the catalog's checksum of its digital
    numbers; for a pixel, the checksum of the digital numbers around it."""
    neighbour: Mapping[str, Any] | None = None
    """Name, class and distance of the real tile that was shown beside it."""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Counts of an import."""

    new: int
    """First answers of a reviewer to a sample."""
    changed: int
    withdrawn: int
    """Answers reverted: the sample is pending again."""
    older: int
    """Answers that are older than one of the same reviewer in the store: kept as history."""
    known: int
    """Answers that were in the store already."""
    pending: int
    """Samples without a decision."""


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """A reviewer's current answer to a sample."""

    sample_id: str
    package_id: str
    reviewer: str
    reviewed_ms: int
    decision: Decision
    true_class: str | None
    realism: int | None
    comment: str
    settles: bool
    """Whether it settles a disagreement."""


class ReviewStore:
    """The store in one file, created when the first package is registered."""

    def __init__(self, path: Path) -> None:
        """Set the path; nothing is opened yet."""
        self.path = path

    def register(self, package: SentPackage, samples: Sequence[SentSample]) -> None:
        """Register a package that is about to be written.

        Repeating this changes nothing, so that an interrupted export can be repeated.

        Raises:
            ReviewError: another package with that id is registered, or the file is damaged.
            OutputError: the file cannot be written.
        """
        with self._writing() as database:
            known = database.execute(
                "SELECT sample_id FROM sample WHERE package_id = ?", (package.package_id,)
            ).fetchall()
            if known:
                if {name for (name,) in known} != {sample.sample_id for sample in samples}:
                    raise ReviewError(
                        f"{self.path} has package {package.package_id} with other samples",
                        remedy="give this search another --name",
                    )
                return
            database.execute(f"PRAGMA user_version = {FORMAT}")  # of an older store, too
            content = json.dumps(asdict(package))
            database.execute("INSERT INTO package VALUES (?, ?)", (package.package_id, content))
            database.executemany(
                "INSERT INTO sample VALUES (?, ?, ?)",
                [(sample.sample_id, package.package_id, _content(sample)) for sample in samples],
            )

    def add(self, reviewed: ReviewedPackage, reviewer: str | None = None) -> Imported:
        """Add the answers of a package that this store has registered, all or none.

        A second time nothing is added.

        Args:
            reviewed: the returned package.
            reviewer: replaces the names in the package.

        Raises:
            ReviewError: the package is from another run, two people answered under one name, or the
                file is damaged.
            OutputError: the file cannot be written.
        """
        self._check_ours(reviewed)
        counts = dict.fromkeys(("new", "changed", "withdrawn", "older", "known", "pending"), 0)
        with self._writing() as database:
            if reviewer is None:
                _refuse_two_people(database, reviewed)
            for answer in reviewed.answers:
                counts[_add(database, reviewed.package_id, answer, reviewer)] += 1
        return Imported(**counts)

    def packages(self) -> tuple[SentPackage, ...]:
        """Return the packages in the order of their registration."""
        with self._reading() as database:
            rows = database.execute("SELECT content FROM package ORDER BY rowid").fetchall()
        return tuple(_package(content) for (content,) in rows)

    def samples(self, package_id: str) -> tuple[SentSample, ...]:
        """Return the samples of a package in the order of their registration."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT content FROM sample WHERE package_id = ? ORDER BY rowid", (package_id,)
            ).fetchall()
        return tuple(_sample(content) for (content,) in rows)

    def answers(self) -> int:
        """Return the number of all answers ever added."""
        with self._reading() as database:
            (count,) = database.execute("SELECT count(*) FROM answer").fetchone()
        return int(count)

    def opinions(self, first: int | None = None) -> tuple[Opinion, ...]:
        """Return every reviewer's current answers: the newest to each sample, not withdrawn.

        Args:
            first: use only this many answers, in the order in which they were added.
        """
        settling = {package.package_id: package.settles for package in self.packages()}
        current: dict[tuple[str, str, bool], Any] = {}
        with self._reading() as database:
            for row in database.execute(
                "SELECT sample_id, package_id, reviewer, reviewed_ms, decision, true_class,"
                " realism, comment FROM answer WHERE ?1 IS NULL OR number <= ?1"
                " ORDER BY reviewed_ms, number",
                (first,),
            ):
                current[row[0], row[2], settling[row[1]]] = row
        names = (
            "sample_id",
            "package_id",
            "reviewer",
            "reviewed_ms",
            "decision",
            "true_class",
            "realism",
            "comment",
        )
        return tuple(
            Opinion(**dict(zip(names, row, strict=True)), settles=settles)
            for (_, _, settles), row in sorted(current.items(), key=lambda item: item[0])
            if row[4] is not None
        )

    def history(self, sample_id: str) -> tuple[Answer, ...]:
        """Return all answers to a sample ever imported, oldest first; withdrawals included."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT sample_id, decision, true_class, realism, comment, reviewer, reviewed_ms"
                " FROM answer WHERE sample_id = ? ORDER BY reviewed_ms, number",
                (sample_id,),
            ).fetchall()
        names = Answer.__dataclass_fields__
        return tuple(Answer(**dict(zip(names, row, strict=True))) for row in rows)

    def _check_ours(self, reviewed: ReviewedPackage) -> None:
        known = {package.package_id: package for package in self.packages()}
        package = known.get(reviewed.package_id)
        if package is None:
            raise ReviewError(
                f"{reviewed.folder} is from another run: package {reviewed.package_id} was not "
                "exported "
                f"from the run whose store is {self.path}",
                expected=f"one of {', '.join(known) or 'none, nothing was exported yet'}",
                remedy="select its run with --config or --set run.dir=FOLDER",
            )
        sent = {sample.sample_id for sample in self.samples(reviewed.package_id)}
        if sent != {answer.sample_id for answer in reviewed.answers}:
            raise ReviewError(
                f"{reviewed.folder} has other samples than the exported package "
                f"{reviewed.package_id}"
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            with closing(sqlite3.connect(":memory:")) as database:
                database.executescript(_TABLES)
                yield database
            return
        # Not read-only: an unfinished transaction of a killed import has to be rolled back first.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        with self._errors(), closing(sqlite3.connect(uri, uri=True, timeout=30)) as database:
            self._check(database)
            yield database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # isolation_level None: each call is one transaction, begun here.
        with (
            self._errors(),
            closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as database,
        ):
            # EXTRA syncs the folder too, so a committed answer survives a power cut.
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("BEGIN IMMEDIATE")
            try:
                if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in _TABLES.split(";"):
                        database.execute(statement)
                    database.execute(f"PRAGMA application_id = {_APPLICATION}")
                    database.execute(f"PRAGMA user_version = {FORMAT}")
                self._check(database)
                yield database
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _check(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise ReviewError(f"{self.path} is not a review store", remedy="move it away")
        if version > FORMAT:
            raise ReviewError(
                f"{self.path} has format {version}",
                expected=f"at most {FORMAT}",
                remedy="upgrade rs_lowconf",
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ReviewError(
                f"the review store {self.path} cannot be used ({error})",
                remedy="free disk space, or wait until another command has finished",
            ) from error
        except sqlite3.DatabaseError as error:
            raise ReviewError(
                f"the review store {self.path} is damaged ({error})",
                remedy="restore it and import the packages again",
            ) from error


def _refuse_two_people(database: sqlite3.Connection, reviewed: ReviewedPackage) -> None:
    """Reject a copy of a package that another person answered under a known name.

    Names are those of accounts, which may be equal on many machines. If the same person continued a
    copy, it has all known answers, unchanged or with a later time; an earlier copy has no new
    answers. Any other copy was answered separately, and so, very probably, was one in which every
    known answer has changed.

    Raises:
        ReviewError: there is such a name.
    """
    known: dict[str, dict[str, list[tuple[Any, ...]]]] = {}
    for name, sample, *content in database.execute(
        "SELECT reviewer, sample_id, reviewed_ms, decision, true_class, realism, comment"
        " FROM answer WHERE package_id = ? ORDER BY reviewed_ms, number",
        (reviewed.package_id,),
    ):
        known.setdefault(name, {}).setdefault(sample, []).append(tuple(content))
    # A pending sample has no name: the reviewer of this copy left it out.
    named = {one.reviewer for one in reviewed.answers if one.decision is not None}
    for name in sorted(named & known.keys()):
        kept = later = earlier = 0
        for one in reviewed.answers:
            before = known[name].get(one.sample_id, [])
            if one.reviewer != name and one.decision is not None:
                continue
            given = (one.reviewed_ms, one.decision, one.true_class, one.realism, one.comment)
            kept += given in before
            if given not in before:
                later += one.reviewed_ms > (before[-1][0] if before else 0)
                earlier += bool(before) and one.reviewed_ms < before[-1][0]
        apart = later and earlier
        if apart or (later >= _ALL and not kept and later >= len(known[name])):
            raise ReviewError(
                f"{reviewed.folder}: {name or 'a reviewer without a name'} answered in another "
                f"copy of package {reviewed.package_id} too, and {'both have' if apart else 'all'} "
                f"answers {'that the other lacks' if apart else 'differ in time'}",
                expected="one name per person",
                remedy="import it with --reviewer NAME; use the same name for the same person",
            )


def _add(
    database: sqlite3.Connection, package_id: str, answer: Answer, reviewer: str | None
) -> Literal["new", "changed", "withdrawn", "older", "known", "pending"]:
    """Add an answer unless the store has it or a newer one; return its kind."""
    name = reviewer if reviewer is not None else answer.reviewer
    key = (package_id, answer.sample_id, name)
    values = (answer.decision, answer.true_class, answer.realism, answer.comment)
    newest = database.execute(
        "SELECT reviewed_ms, decision, true_class, realism, comment FROM answer"
        " WHERE package_id = ? AND sample_id = ? AND reviewer = ?"
        " ORDER BY reviewed_ms DESC, number DESC LIMIT 1",
        key,
    ).fetchone()
    if answer.decision is None and (
        newest is None or newest[1] is None or answer.reviewed_ms <= newest[0]
    ):
        # No decision yet, or this copy was made before there was one.
        return "pending"
    twice = database.execute(
        "SELECT 1 FROM answer WHERE package_id = ? AND sample_id = ? AND reviewer = ?"
        " AND reviewed_ms = ? AND decision IS ? AND true_class IS ? AND realism IS ?"
        " AND comment = ?",
        (*key, answer.reviewed_ms, *values),
    ).fetchone()
    if twice or (newest is not None and newest[1:] == values):
        return "known"
    database.execute(
        "INSERT INTO answer (package_id, sample_id, reviewer, reviewed_ms, decision, true_class,"
        " realism, comment) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, answer.reviewed_ms, *values),
    )
    if answer.decision is None:
        return "withdrawn"
    if newest is None:
        return "new"
    return "changed" if answer.reviewed_ms >= newest[0] else "older"


def _package(content: str) -> SentPackage:
    values = json.loads(content)
    return SentPackage(
        **{
            **values,
            "classes": tuple(values["classes"]),
            "pixel_classes": tuple(values.get("pixel_classes", ())),
        }
    )


def _content(sample: SentSample) -> str:
    """Return a sample as JSON, its prediction as three values that may be null."""
    values: dict[str, Any] = asdict(sample) | dict.fromkeys(_PREDICTION)
    del values["prediction"]
    if (prediction := sample.prediction) is not None:
        parts = (prediction.class_name, prediction.second, prediction.confidence)
        values |= dict(zip(_PREDICTION, parts, strict=True))
    return json.dumps(values)


def _sample(content: str) -> SentSample:
    values = json.loads(content)
    predicted, second, confidence = (values.pop(name) for name in _PREDICTION)
    prediction = None
    if predicted:
        prediction = Prediction(class_name=predicted, second=second, confidence=confidence)
    elif predicted == "":  # of a pixel before format 4, which had an invented confidence
        values["origin"] = "pixel"
    return SentSample(prediction=prediction, **values)
