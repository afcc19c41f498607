"""Reading packages back, the store of answers, and what reviewers say together."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf import databases
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.fields import Decision
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.reading import Answer, read_package
from rs_lowconf.review.settle import settling_package
from rs_lowconf.review.store import Opinion, ReviewStore
from rs_lowconf.review.verdicts import agreement, verdicts
from rs_lowconf.runs import sha256_of
from tests.review_samples import published, sample

COUNT = 6
PACKAGE_ID = "0123456789abcdef"
NOW = 1_790_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    """Return a store that knows the package in `folder`."""
    store = ReviewStore(tmp_path / "run" / "reviews.sqlite")
    published(store, tmp_path / "review", [sample(number) for number in range(COUNT)])
    return store


@pytest.fixture
def folder(tmp_path: Path, store: ReviewStore) -> Path:
    return tmp_path / "review"


def decide(
    folder: Path,
    number: int,
    decision: Decision | None = "accept",
    true_class: str | None = "Forest",
    *,
    reviewer: str = "Ada",
    when: int = NOW,
    realism: int | None = None,
) -> None:
    """Decide as QGIS does: a plain UPDATE of the layer's table."""
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        database.execute(
            "UPDATE review SET decision = ?, true_class = ?, reviewer = ?, reviewed_ms = ?,"
            " realism = ? WHERE sample_id = ?",
            (decision, true_class, reviewer, when, realism, f"s{number:04d}"),
        )


def snapshot(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_package_is_read_as_it_was_left_and_not_touched(folder: Path) -> None:
    """Decisions, classes and times come back; no byte of the package changes."""
    decide(folder, 2, "accept", "Town", realism=4)
    decide(folder, 3, "reject", None)
    before = snapshot(folder)
    reviewed = read_package(folder)
    assert snapshot(folder) == before
    assert reviewed.decided == 2
    assert reviewed.answers[2] == Answer(
        sample_id="s0002",
        decision="accept",
        true_class="Town",
        realism=4,
        comment="",
        reviewer="Ada",
        reviewed_ms=NOW,
    )
    assert reviewed.answers[0].decision is None


LEAVE_LOG = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA wal_autocheckpoint = 0")
database.execute(
    "UPDATE review SET decision = 'reject', reviewer = 'Ada', reviewed_ms = 5"
    " WHERE sample_id = 's0001'"
)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("index", [True, False], ids=["as it was killed", "copied without index"])
def test_what_a_killed_qgis_left_in_the_log_is_read(folder: Path, index: bool) -> None:
    """Decisions in a left-over write-ahead log count, and the log stays where it is."""
    subprocess.run([sys.executable, "-c", LEAVE_LOG, str(folder / "review.gpkg")], check=False)
    log = folder / "review.gpkg-wal"
    assert log.stat().st_size > 0
    if not index:
        (folder / "review.gpkg-shm").unlink()
    before = snapshot(folder)
    assert read_package(folder).answers[1].decision == "reject"
    assert snapshot(folder).keys() == before.keys()
    assert snapshot(folder)["review.gpkg"] == before["review.gpkg"]
    assert snapshot(folder)[log.name] == before[log.name]


def edit_manifest(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, **values}), encoding="utf-8")


def sql(statement: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
            database.execute(statement)

    return damage


def edit_tile(folder: Path) -> None:
    path = folder / "tiles" / "s0002.tif"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no package": (lambda folder: (folder / "manifest.json").unlink(), "not a review package"),
    "torn manifest": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 1', encoding="utf-8"),
        "manifest.json is damaged",
    ),
    "newer": (lambda folder: edit_manifest(folder, format=99), "format 99.*upgrade"),
    "foreign": (lambda folder: edit_manifest(folder, package_id="f" * 16), "is from another run"),
    "edited tile": (edit_tile, "tiles/s0002.tif was edited"),
    "missing tile": (lambda folder: (folder / "tiles" / "s0002.tif").unlink(), "is missing"),
    "truncated layer": (
        lambda folder: os.truncate(folder / "review.gpkg", 5_000),
        "review.gpkg cannot be read",
    ),
    "no layer": (lambda folder: (folder / "review.gpkg").unlink(), "review.gpkg cannot be read"),
    "unknown decision": (
        sql("UPDATE review SET decision = 'yes' WHERE fid = 2"),
        "s0001 has the unknown decision 'yes'",
    ),
    "unknown class": (
        sql("UPDATE review SET decision = 'accept', true_class = 'Moon' WHERE fid = 2"),
        "unknown class 'Moon'",
    ),
    "accept without class": (
        sql("UPDATE review SET decision = 'accept', true_class = NULL WHERE fid = 2"),
        "s0001 is accepted without a class",
    ),
    "deleted row": (sql("DELETE FROM review WHERE fid = 3"), "s0002 is missing"),
    "added row": (
        sql("INSERT INTO review (sample_id) VALUES ('s9999')"),
        "s9999 is foreign",
    ),
    "repeated row": (
        sql("UPDATE review SET sample_id = 's0000' WHERE fid = 2"),
        "s0001 is missing, sample s0000 occurs 2 times",
    ),
    "impossible mark": (sql("UPDATE review SET realism = 9 WHERE fid = 2"), "realism 9"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_packages_are_refused_whole(folder: Path, store: ReviewStore, damage: str) -> None:
    """Each kind of damage has a clear line, and the store keeps every byte."""
    decide(folder, 5)
    work, message = DAMAGES[damage]
    work(folder)
    before = sha256_of(store.path)
    with pytest.raises(ReviewError, match=message):
        store.add(read_package(folder))
    assert sha256_of(store.path) == before


def test_importing_twice_changes_nothing(folder: Path, store: ReviewStore) -> None:
    """The second import finds everything known; not a byte of the store changes."""
    decide(folder, 0)
    decide(folder, 1, "unsure", None)
    first = store.add(read_package(folder))
    assert (first.new, first.known, first.pending) == (2, 0, COUNT - 2)
    before = sha256_of(store.path)
    second = store.add(read_package(folder))
    assert (second.new, second.changed, second.known) == (0, 0, 2)
    assert sha256_of(store.path) == before


def test_changed_and_withdrawn_answers_keep_their_history(folder: Path, store: ReviewStore) -> None:
    """The newest answer counts; a withdrawn one leaves the sample pending; all are kept."""
    decide(folder, 0, "reject", None)
    store.add(read_package(folder))
    decide(folder, 0, "accept", "Water", when=NOW + 1)
    assert store.add(read_package(folder)).changed == 1
    assert [(one.decision, one.true_class) for one in store.opinions()] == [("accept", "Water")]
    decide(folder, 0, None, None, when=NOW + 2)
    assert store.add(read_package(folder)).withdrawn == 1
    assert store.opinions() == ()
    assert store.add(read_package(folder)).pending == COUNT
    assert [one.decision for one in store.history("s0000")] == ["reject", "accept", None]


def test_an_older_copy_adds_history_and_changes_no_verdict(
    tmp_path: Path, folder: Path, store: ReviewStore
) -> None:
    """A backup imported late neither overrides nor withdraws what came after it."""
    decide(folder, 0, "reject", None)
    backup = tmp_path / "backup"
    shutil.copytree(folder, backup)
    decide(folder, 0, "accept", "Water", when=NOW + 9)
    decide(folder, 1, "accept", "Town", when=NOW + 9)
    store.add(read_package(folder))
    for _ in range(2):
        late = store.add(read_package(backup))
    assert (late.new, late.changed, late.withdrawn, late.older, late.known) == (0, 0, 0, 0, 1)
    current = {one.sample_id: one.decision for one in store.opinions()}
    assert current == {"s0000": "accept", "s0001": "accept"}
    assert [one.decision for one in store.history("s0000")] == ["reject", "accept"]


@pytest.mark.parametrize("how", ["split", "at once", "one after the other"])
def test_two_people_with_one_account_name(
    how: str, tmp_path: Path, folder: Path, store: ReviewStore
) -> None:
    """Copies that were reviewed apart under one name are refused, until a name is given."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for number in range(COUNT):
        first, second = number < 3 or how != "split", number >= 3 or how != "split"
        # In turns where both review at once.
        later = NOW + 1_000 if how == "one after the other" else NOW + (-1) ** number
        if first:
            decide(folder, number, "accept", "Town", reviewer="student", when=NOW)
        if second:
            decide(other, number, "reject", None, reviewer="student", when=later)
    store.add(read_package(folder))
    before = sha256_of(store.path)
    with pytest.raises(ReviewError, match=r"student answered in another copy .*--reviewer NAME"):
        store.add(read_package(other))
    assert sha256_of(store.path) == before
    for _ in range(2):
        store.add(read_package(other), "Bo")
        store.add(read_package(folder))
    answers = dict.fromkeys(("student", "Bo"), 3 if how == "split" else COUNT)
    assert agreement(store.opinions())["reviewers"] == answers


def test_one_person_goes_on_with_a_copy(tmp_path: Path, folder: Path, store: ReviewStore) -> None:
    """More answers, changed and withdrawn ones, and a backup from before are one person's."""
    for number in range(3):
        decide(folder, number, "reject", None)
    shutil.copytree(folder, tmp_path / "backup")
    store.add(read_package(folder))
    decide(folder, 0, "accept", "Town", when=NOW + 1)
    decide(folder, 1, None, None, when=NOW + 2)
    decide(folder, 4, "accept", "Town", when=NOW + 3)
    decide(folder, 5, "accept", "Water", reviewer="Bo", when=NOW - 9)
    added = store.add(read_package(folder))
    assert (added.new, added.changed, added.withdrawn, added.known) == (2, 1, 1, 1)
    assert store.add(read_package(tmp_path / "backup")).changed == 0


def test_two_reviewers_copies_merge(tmp_path: Path, folder: Path, store: ReviewStore) -> None:
    """Both are kept apart; agreement gives the verdict, disagreement none, doubt abstains."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    said: list[tuple[Decision, str | None, Decision, str | None]] = [
        ("accept", "Town", "accept", "Town"),
        ("accept", "Town", "accept", "Water"),
        ("reject", None, "accept", "Town"),
        ("unsure", None, "reject", None),
        ("unsure", None, "unsure", None),
    ]
    for number, (one, class_one, two, class_two) in enumerate(said):
        decide(folder, number, one, class_one)
        decide(other, number, two, class_two, reviewer="Bo", when=NOW + 5)
    decide(other, 5, "mixed", None, reviewer="Bo")
    store.add(read_package(folder))
    store.add(read_package(other))
    found = verdicts(store.opinions())
    assert {name: (one.decision, one.true_class) for name, one in found.items()} == {
        "s0000": ("accept", "Town"),
        "s0001": (None, None),
        "s0002": (None, None),
        "s0003": ("reject", None),
        "s0004": ("unsure", None),
        "s0005": ("mixed", None),
    }
    assert found["s0000"].reviewers == ("Ada", "Bo")
    assert agreement(store.opinions())["samples_disagreed_on"] == ["s0001", "s0002", "s0003"]


def test_a_settling_package_has_the_last_word(
    tmp_path: Path, folder: Path, store: ReviewStore
) -> None:
    """It holds what was disagreed on, pixel by pixel, and its answers count alone."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for number in range(3):
        decide(folder, number, "accept", "Town")
        decide(other, number, "reject" if number else "accept", None if number else "Town")
    reviewed = [read_package(folder), read_package(other)]
    store.add(reviewed[0])
    store.add(reviewed[1], "Bo")
    settle = tmp_path / "settle"
    disagreed = agreement(store.opinions())["samples_disagreed_on"]
    assert disagreed == ["s0001", "s0002"]
    assert settling_package(store, reviewed, disagreed, settle, "notice") == 2
    for name in disagreed:
        for kind in ("tiles", "anchors"):
            again, first = (read_tile(f / kind / f"{name}.tif") for f in (settle, folder))
            np.testing.assert_array_equal(again.pixels, first.pixels)
            assert again.grid == first.grid
    decide(settle, 1, "accept", "Water", reviewer="Cy", when=NOW - 5)
    assert store.add(read_package(settle)).new == 1
    found = verdicts(store.opinions())
    assert (found["s0001"].decision, found["s0001"].true_class) == ("accept", "Water")
    assert found["s0001"].reviewers == ("Cy",)
    assert found["s0002"].decision is None


def opinion(name: str, reviewer: str, decision: Decision, true_class: str | None) -> Opinion:
    return Opinion(
        sample_id=name,
        package_id=PACKAGE_ID,
        reviewer=reviewer,
        reviewed_ms=NOW,
        decision=decision,
        true_class=true_class,
        realism=None,
        comment="",
        settles=False,
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["accept", "reject"]), st.sampled_from(["accept", "reject"])),
        min_size=4,
        max_size=40,
    )
)
def test_agreement_matches_its_definition(pairs: list[tuple[Decision, Decision]]) -> None:
    """For two reviewers kappa is (observed - expected) / (1 - expected), worked out by hand."""
    opinions = [
        opinion(f"s{number}", name, said, "Town" if said == "accept" else None)
        for number, pair in enumerate(pairs)
        for name, said in zip(("Ada", "Bo"), pair, strict=True)
    ]
    n = len(pairs)
    observed = sum(a == b for a, b in pairs) / n
    yes = [sum(pair[k] == "accept" for pair in pairs) / n for k in (0, 1)]
    expected = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    found = agreement(opinions)["kappa"][0]["decision"]
    if expected == 1:
        assert found is None
    else:
        assert found == pytest.approx((observed - expected) / (1 - expected))


def test_alpha_is_one_in_agreement_and_tells_class_from_decision() -> None:
    """Reviewers who decide alike but name other classes agree on decisions only."""
    said: list[tuple[Decision, str | None, str | None]] = [
        ("accept", "Town", "Water"),
        ("reject", None, None),
        ("accept", "Water", "Water"),
    ]
    opinions = [
        opinion(f"s{number}", name, decision, true_class)
        for number, (decision, *classes) in enumerate(said)
        for name, true_class in zip(("Ada", "Bo"), classes, strict=True)
    ]
    found = agreement(opinions)
    assert found["alpha_decision"] == pytest.approx(1.0)
    assert found["alpha_decision_and_class"] < 0.9
    alone = [one for one in opinions if one.reviewer == "Ada"]
    assert agreement(alone)["alpha_decision"] is None


def test_a_package_is_registered_once(store: ReviewStore) -> None:
    """Registering again is nothing new; other samples under the same id are refused."""
    before = sha256_of(store.path)
    (known,), samples = store.packages(), store.samples(PACKAGE_ID)
    store.register(known, samples)
    assert sha256_of(store.path) == before
    assert len(store.samples(PACKAGE_ID)) == COUNT
    other = [replace(one, sample_id=f"x{one.sample_id}") for one in samples]
    with pytest.raises(ReviewError, match="with other samples"):
        store.register(known, other)


def test_a_foreign_or_newer_store_is_refused(tmp_path: Path, store: ReviewStore) -> None:
    """Another program's database, a text file and a newer store are told apart and kept."""
    text = tmp_path / "text.sqlite"
    text.write_text("no database, but long enough to be taken for the header of one" * 20)
    with pytest.raises(ReviewError, match="damaged"):
        ReviewStore(text).packages()
    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as database, database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ReviewError, match="not a review store"):
        ReviewStore(foreign).register(store.packages()[0], [])
    with closing(sqlite3.connect(store.path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ReviewError, match=r"format 99.*upgrade"):
        store.packages()


KILL_IMPORTS = """
import json, os, sys
from pathlib import Path
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.store import ReviewStore
from tests.kills import run_and_kill, spread

store, folders = ReviewStore(Path(sys.argv[1])), [Path(name) for name in sys.argv[2:]]
empty = store.path.read_bytes()
packages = [read_package(folder) for folder in folders]
reported = Path(sys.argv[1] + ".reported")

def add_all():
    for package in packages:
        store.add(package)
        with reported.open("a") as file:
            file.write(".")

def rounds():
    ended, events = run_and_kill(add_all, store.path)
    assert ended == "done"
    for moment in spread(events, 12, "COMMIT"):
        for file in store.path.parent.glob(store.path.name + "*"):
            file.unlink()
        store.path.write_bytes(empty)
        reported.touch()
        assert run_and_kill(add_all, store.path, moment)[0] == "killed"
        counts = {}
        for one in store.opinions():
            counts[one.reviewer] = counts.get(one.reviewer, 0) + 1
        yield len(reported.read_text()), sorted(counts.values())

print(json.dumps([*rounds()]))
"""


def test_a_killed_import_leaves_all_or_nothing(
    tmp_path: Path, folder: Path, store: ReviewStore
) -> None:
    """Kill -9 at any statement: what was reported is in the store, and no package is in it half."""
    copies = []
    for number in range(4):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(folder, copy)
        for row in range(COUNT):
            decide(copy, row, "reject", None, reviewer=f"R{number}")
        copies.append(copy)
    command = [sys.executable, "-c", KILL_IMPORTS, str(store.path), *map(str, copies)]
    root = Path(__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert result.returncode == 0, result.stderr
    rounds = json.loads(result.stdout)
    assert {reported for reported, _ in rounds} == {*range(len(copies))}
    for reported, counts in rounds:
        assert set(counts) <= {COUNT}
        assert reported <= len(counts) <= reported + 1
    for copy in copies:
        store.add(read_package(copy))
    assert len(store.opinions()) == COUNT * len(copies)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_read_only_package_is_read_and_left_as_it_is(folder: Path, mode: str) -> None:
    """A read-only package, in WAL mode too, is read; no file in it changes and none is added."""
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("UPDATE review SET decision = 'reject' WHERE sample_id = 's0001'")
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555)
    before = snapshot(folder)
    assert read_package(folder).answers[1].decision == "reject"
    assert snapshot(folder) == before
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def test_a_locked_package_is_an_error_of_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that another program keeps locked is refused with what to do."""
    monkeypatch.setattr(databases, "SECONDS", 0.0)
    with closing(sqlite3.connect(folder / "review.gpkg", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ReviewError, match=r"kept it locked.*close it in other programs"):
            read_package(folder)


@pytest.mark.parametrize(
    ("column", "value"),
    [("reviewer", "x'37'"), ("comment", "x'ff'"), ("reviewed_ms", "-1"), ("reviewed_ms", "4e18"),
     ("reviewed_ms", "9223372036854775807"), ("realism", "2.5"), ("decision", "x'00'")],
)  # fmt: skip
def test_values_of_another_type_are_refused(folder: Path, column: str, value: str) -> None:
    """Whatever SQLite lets into a column, an answer has the types of the form."""
    sql(f"UPDATE review SET {column} = {value} WHERE sample_id = 's0001'")(folder)  # noqa: S608
    with pytest.raises(ReviewError, match="sample s0001 has the "):
        read_package(folder)


@pytest.mark.parametrize("column", ["sample_id", "decision", "comment", "reviewer", "reviewed_ms"])
def test_a_missing_column_is_not_taken_for_its_name(folder: Path, column: str) -> None:
    """A column that was renamed is missing; its name is no answer of anybody."""
    sql(f"ALTER TABLE review RENAME COLUMN {column} TO other")(folder)
    with pytest.raises(ReviewError, match=f"no such column: {column}"):
        read_package(folder)
