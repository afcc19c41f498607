"""Where class names of two origins meet: right figures, or a line that names the pair."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rs_lowconf.batch.choose import narrow
from rs_lowconf.data.catalog.sources import list_images
from rs_lowconf.data.files import list_files, open_dataset
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.errors import DataError, JobError, SettingsError, left_out_words
from rs_lowconf.estimate.ladder import real_ladders
from rs_lowconf.estimate.prepare import prepare
from rs_lowconf.estimate.scores import read_scores, surrogate_doubts
from rs_lowconf.estimate.stored import read_labels, read_pool, write_pool
from rs_lowconf.settings import BatchSettings, GeoPackageData, MaskData, data_settings, load
from tests.conftest import Run

N = 600
NAMES = np.array(["Bare", "Crop", "Gebäude", "Wood"], dtype=object)
_RNG = np.random.default_rng(4)
TRUTH = _RNG.integers(0, 4, N)
CONFIDENCE = _RNG.beta(6, 1.2, N) * 0.7 + 0.3
WRONG = _RNG.random(N) > CONFIDENCE
PREDICTED = np.where(WRONG, (TRUTH + 1) % 4, TRUTH)


def write(path: Path, predicted: Any, label: Any) -> Path:
    """Write a table of scores as Parquet or CSV."""
    frame = pd.DataFrame(
        {"id": [f"u{i}" for i in range(N)], "predicted": predicted, "confidence": CONFIDENCE}
    ).assign(label=label)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def renamed(before: str, after: str) -> NDArray[np.object_]:
    """Return the labels with one class written otherwise."""
    return np.where(NAMES[TRUTH] == before, after, NAMES[TRUTH])


WRITTEN: dict[str, tuple[Any, Any]] = {
    "a blank behind one class": (NAMES[PREDICTED], renamed("Bare", "Bare ")),
    "a blank behind all": (NAMES[PREDICTED], [f"{name}\t" for name in NAMES[TRUTH]]),
    "decomposed": (NAMES[PREDICTED], [unicodedata.normalize("NFD", x) for x in NAMES[TRUTH]]),
    "a byte order mark": (NAMES[PREDICTED], renamed("Crop", "\ufeffCrop")),
    "numbers as fractions": (PREDICTED, TRUTH.astype(float)),
    "text of fractions": (PREDICTED.astype(str), TRUTH.astype(float).astype(str)),
    "fractions predicted": (PREDICTED.astype(float), TRUTH),
    "bytes": (NAMES[PREDICTED], [name.encode() for name in NAMES[TRUTH]]),
}


@pytest.mark.parametrize(
    ("name", "suffix"),
    # A CSV holds text.
    [
        (name, end)
        for name in WRITTEN
        for end in ("parquet", "csv")
        if (name, end) != ("bytes", "csv")
    ],
)
def test_the_same_classes_written_otherwise_have_the_true_errors(
    name: str, suffix: str, tmp_path: Path
) -> None:
    """Each unit is right or wrong as it was simulated, however a tool wrote the names."""
    scores = read_scores(write(tmp_path / f"t.{suffix}", *WRITTEN[name]))
    assert np.array_equal(scores.error, WRONG)
    assert prepare(scores).remark == ""


@pytest.mark.parametrize(
    ("predicted", "label", "reason"),
    [
        (NAMES[PREDICTED], np.char.lower(NAMES[TRUTH].astype(str)), "differ only in case, and 3"),
        (NAMES[PREDICTED], renamed("Gebäude", "Gebaude"), "only in accents"),
        (NAMES[PREDICTED], renamed("Crop", "Cr op"), "only in blanks"),
        ([f"{k:02d}" for k in PREDICTED], TRUTH.astype(str), "how the number is written"),
        (NAMES[PREDICTED], TRUTH, "no class in common"),
        (PREDICTED > 0, (TRUTH > 0).astype(int), "no class in common"),
        (NAMES[PREDICTED], renamed("Wood", "wood"), "'wood' in the labels of .* and 'Wood' in the"),
    ],
)
def test_what_may_be_the_same_class_is_refused(
    predicted: Any, label: Any, reason: str, tmp_path: Path
) -> None:
    """No figure is given where two names may mean one class, or none meets another."""
    with pytest.raises(DataError, match=reason):
        prepare(read_scores(write(tmp_path / "t.csv", predicted, label)))


@pytest.mark.parametrize(
    ("label", "only"),
    [
        (renamed("Wood", "Built-up"), "name Built-up; only the predictions of .* name Wood"),
        (renamed("Wood", "nan"), "name nan; only the predictions of .* name Wood"),
    ],
)
def test_what_only_one_side_names_is_listed(label: Any, only: str, tmp_path: Path) -> None:
    """A class under a new name counts as errors, but not without a word."""
    prepared = prepare(read_scores(write(tmp_path / "t.csv", NAMES[PREDICTED], label)))
    assert re.search(only, prepared.remark)


def test_a_question_mark_is_no_class(tmp_path: Path) -> None:
    """Units whose class cannot be told are unlabelled, and no validation labels."""
    doubt = _RNG.random(N) < 0.1
    label = np.where(doubt, "?", NAMES[TRUTH])
    scores = read_scores(write(tmp_path / "t.csv", NAMES[PREDICTED], label))
    assert np.array_equal(scores.labelled, ~doubt)
    assert np.array_equal(scores.error, WRONG & ~doubt)
    with pytest.raises(DataError, match=rf"{doubt.sum()} of {N} rows have no label, or \?"):
        prepare(scores, validation=scores)
    with pytest.raises(DataError, match="1 rows without predicted"):
        read_scores(write(tmp_path / "p.csv", ["?", *NAMES[PREDICTED][1:]], label))


def test_whole_numbers_beside_an_empty_cell_stay_whole(tmp_path: Path) -> None:
    """Ids with more digits than a float has, and groups, are text without a fraction."""
    ids = [2**60 + i for i in range(4)]
    table = {
        "id": pa.array(ids),
        "predicted": pa.array([1, 1, 2, 2]),
        "confidence": pa.array([0.5] * 4),
        "label": pa.array([1, None, 2, 1]),
        "group": pa.array([2**60 + 7, None, 3, 3]),
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    scores = read_scores(tmp_path / "t.parquet")
    assert scores.ids.tolist() == [str(own) for own in ids]
    assert scores.error.tolist() == [False, False, False, True]
    assert scores.group is not None
    assert scores.group.tolist() == [str(2**60 + 7), None, "3", "3"]


def test_surrogates_name_classes_as_the_target_does(tmp_path: Path) -> None:
    """A surrogate that numbers its classes would never agree; one with blanks does."""
    scores = read_scores(write(tmp_path / "t.csv", NAMES[PREDICTED], None))
    blank = write(tmp_path / "a.csv", [f" {name}" for name in NAMES[PREDICTED]], None)
    np.testing.assert_allclose(surrogate_doubts(scores, [blank]), scores.doubt)
    for said, reason in ((PREDICTED, "no class in common"), (renamed("Crop", "crop"), "case")):
        with pytest.raises(DataError, match=reason):
            surrogate_doubts(scores, [write(tmp_path / "b.csv", said, None)])


def test_a_draw_is_labelled_in_its_own_words(tmp_path: Path) -> None:
    """A pool with a blank behind a class is labelled without it; near-misses are named."""
    predicted = np.where(NAMES[PREDICTED] == "Bare", "Bare ", NAMES[PREDICTED])
    stored = write_pool(tmp_path, prepare(read_scores(write(tmp_path / "t.csv", predicted, None))))
    assert stored.units.classes == read_pool(tmp_path).units.classes == tuple(NAMES)
    path = tmp_path / "labels.csv"
    path.write_text("id,label\na,Bare\nb, ? \nc,Gebäude \n")
    assert read_labels(path, ["a", "b", "c"], stored.units.classes) == {
        "a": "Bare",
        "b": None,
        "c": "Gebäude",
    }
    path.write_text("id,label\na,bare\n")
    with pytest.raises(DataError, match=r"'bare' in .* and 'Bare' in the pool differ only in case"):
        read_labels(path, ["a"], stored.units.classes)
    path.write_text("id,label\na,\ufeff\n")
    with pytest.raises(DataError, match="1 of 1 drawn units have no label"):
        read_labels(path, ["a"], stored.units.classes)


def test_the_report_of_a_blank_is_that_of_none(tmp_path: Path, rslow: Run) -> None:
    """Draw, label, report: the error rate is the same with and without a blank in predictions."""
    said = []
    for name, blank in (("right", "Bare"), ("blank", "Bare ")):
        predicted = np.where(NAMES[PREDICTED] == "Bare", blank, NAMES[PREDICTED])
        table, run = write(tmp_path / f"{name}.csv", predicted, None), tmp_path / name
        words = [
            part
            for own in (f"run.dir={run}", f"estimate.scores={table}", "estimate.budget=120")
            for part in ("--set", own)
        ]
        assert rslow("estimate", "draw", *words).code == 0
        labels = run / "estimate" / "draw" / "labels-1.csv"
        frame = pd.read_csv(labels, dtype=str, keep_default_na=False)
        frame["label"] = [NAMES[TRUTH[int(own[1:])]] for own in frame["id"]]
        frame.to_csv(labels, index=False)
        ran = rslow("estimate", "report", *words)
        assert ran.code == 0, ran.err
        assert "never predicts" not in ran.out
        said.append(ran.out.splitlines()[0])
    assert said[0] == said[1]


def test_tiles_of_a_class_stand_beside_its_name() -> None:
    """Disagreement is told of labels that the target knows, and of no unknown ones."""
    overall, by_class = real_ladders(
        np.array([0.5, 0.6, 0.7]), ["a", "b", "b"], ["a", "a", None], thresholds=(0.9,),
        classes=("a", "b"),
    )  # fmt: skip
    assert set(by_class) == {"a"}
    assert overall.disagreement is not None
    assert (overall.disagreement.found, overall.disagreement.of) == (1, 2)


class TestFolders:
    """Class-named folders."""

    def opened(self, root: Path, *folders: str, **more: Any) -> Any:
        """Make folders with an empty file each and open them."""
        for i, name in enumerate(folders):
            (root / name).mkdir(parents=True)
            (root / name / f"{i}.tif").touch()
        chosen = {"kind": "folder", "root": root, "val_share": 0, "test_share": 0, **more}
        return open_dataset(data_settings(chosen), "train")

    def test_composition_and_blanks_are_one_class(self, tmp_path: Path) -> None:
        """Folders from macOS and from Linux, and one with a blank, hold tiles of one class."""
        twice = [unicodedata.normalize(form, "Gebäude") for form in ("NFC", "NFD")]
        data = self.opened(tmp_path, *twice, "Bare ", "Bare", classes=["Bare", " Gebäude"])
        assert data.classes == ["Bare", "Gebäude"]
        assert Counter(file.label for file in list_files(data)) == {0: 2, 1: 2}

    def test_spellings_are_refused(self, tmp_path: Path) -> None:
        """In one split and across two."""
        with pytest.raises(DataError, match=r"'Wood' and 'wood' in the folders of .* only in case"):
            self.opened(tmp_path / "a", "Wood", "wood")
        with pytest.raises(DataError, match="only in blanks"):
            self.opened(tmp_path / "b", "train/AnnualCrop", "val/Annual_Crop", "test/AnnualCrop")
        with pytest.raises(DataError, match=r"'wood' in data\.classes and 'Wood' in the folders"):
            self.opened(tmp_path / "c", "Wood", "Bare", classes=["wood", "Bare"])

    def test_unknown_is_no_class(self, tmp_path: Path) -> None:
        """A folder called ? would make unknown tiles a class."""
        with pytest.raises(DataError, match=r"\? and blanks mean unknown"):
            self.opened(tmp_path, "?", "Wood")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["data.kind=folder", "data.classes=[a, 'a ']"], "more than once"),
        (["data.kind=folder", "data.classes=[a, '?']"], "stands for unknown"),
        (["estimate.classes=[Wood, wood]"], "differ only in case"),
        (
            ["data.kind=scenes", "data.images=x", "data.masks=y", "data.mask_classes={0: a, 1: A}"],
            "differ only in case",
        ),
    ],
)
def test_lists_in_settings_are_vocabularies(words: list[str], reason: str) -> None:
    """A list with two spellings or an unknown class is refused when it is read."""
    with pytest.raises(SettingsError, match=reason):
        load(None, words)


def test_mask_values_of_one_class_may_be_many() -> None:
    """Names are brought into form, several values are one class, and ? is unknown."""
    named = "data.mask_classes={0: 'a ', 1: a, 2: b, 3: '?', 4: null}"
    read = load(None, ["data.kind=scenes", "data.images=x", "data.masks=y", named])
    assert isinstance(read.data, MaskData)
    assert read.data.mask_classes == {0: "a", 1: "a", 2: "b", 3: None, 4: None}


class TestRows:
    """Cells of a GeoPackage that names images."""

    def rows(self, folder: Path, left_out: LeftOut | None = None, **columns: Any) -> list[Any]:
        """Write a layer and list its images, leaving faults out where they are counted."""
        table = {"location": ["a.tif", "b.tif"], **columns}
        path = folder / "index.gpkg"
        geopandas.GeoDataFrame(
            table, geometry=[shapely.box(0, 0, 1, 1)] * 2, crs="EPSG:4326"
        ).to_file(path)
        return list(list_images(GeoPackageData(root=path), left_out or LeftOut(skip_bad=False)))

    def test_numbers_beside_empty_cells(self, tmp_path: Path) -> None:
        """Labels and ids stay whole numbers, an empty id is that of the file, ? is no label."""
        ids = pd.array([2**60 + 1, None], dtype="Int64")
        first, second = self.rows(tmp_path, id=ids, label=[7.0, None], split=["test ", None])
        assert (first.name, second.name) == (str(2**60 + 1), "b")
        assert (first.label, second.label, first.split) == ("7", None, "test")
        first, second = self.rows(tmp_path, id=[0, 1], label=["?", " Bare"], dn_offset=["", "-1e3"])
        assert (first.name, first.label, second.label) == ("0", None, "Bare")
        assert first.said == ()
        assert [(own.quantity, own.value) for own in second.said] == [("dn_offset", -1000)]

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({"datetime": ["2024-05-31", "31.05.2024"]}, "row 2 of .*datetime is '31.05.2024'"),
            ({"datetime": ["2024-05-31", "yesterday"]}, "datetime is 'yesterday', expected ISO"),
            ({"dn_offset": ["0", "minus"]}, "row 2 of .*dn_offset is 'minus', expected a number"),
            ({"dn_offset": [0.0, np.inf]}, "dn_offset is 'inf'"),
            ({"location": ["a.tif", None]}, "row 2 of .*names no file in location"),
        ],
    )
    def test_a_cell_without_sense_is_a_line(
        self, columns: dict[str, Any], reason: str, tmp_path: Path
    ) -> None:
        """The row is named; with skip_bad it is left out, and that is told."""
        with pytest.raises(DataError, match=reason):
            self.rows(tmp_path, **columns)
        left_out = LeftOut(skip_bad=True)
        assert [one.name for one in self.rows(tmp_path, left_out, **columns)] == ["a"]
        assert left_out.number("image") == 1
        assert re.search(reason, " ".join(left_out.lines()))


def columns(splits: Iterable[object], collections: Iterable[object]) -> Callable[[str], Any]:
    """Return the columns of a catalog."""
    return {"rslow:split": list(splits), "collection": list(collections)}.__getitem__


_SPLIT = st.sampled_from(["train", "val", "test", None, "?", "test "])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(_SPLIT, st.sampled_from("ab")), min_size=1, max_size=20),
    st.sets(st.sampled_from(["train", "val", "test"]), min_size=1),
    st.sets(st.sampled_from("ab"), min_size=1),
)
def test_what_is_left_out_sums_to_the_input(
    tiles: list[tuple[str | None, str]], splits: set[str], collections: set[str]
) -> None:
    """Tiles kept are those of both, and with those left out by reason they are all tiles."""
    asked = BatchSettings(splits=tuple(sorted(splits)), collections=tuple(sorted(collections)))
    read = columns(*zip(*tiles, strict=True))
    due = [(split or "").strip() in splits and own in collections for split, own in tiles]
    if not any(due):
        with pytest.raises(JobError, match=f"no tile is left of {len(tiles)}"):
            narrow(read, len(tiles), asked)
        return
    found = narrow(read, len(tiles), asked)
    assert found.rows.tolist() == due
    assert int(found.rows.sum()) + sum(found.left_out.values()) == len(tiles)
    assert all(reason in left_out_words(found.left_out) for reason in found.left_out)


def test_a_split_in_another_spelling_is_refused() -> None:
    """Test is not test, and nobody would see that its tiles are missing."""
    read = columns(["test", "Test", "train"], "aaa")
    with pytest.raises(JobError, match=r"'test' in batch.splits and 'Test' in the splits"):
        narrow(read, 3, BatchSettings(splits=("test",)))


def relabelled(folder: Path, change: Callable[[str], str]) -> None:
    """Rewrite the labels of a project's catalog."""
    path = folder / "run" / "catalog.parquet"
    table = pq.read_table(path)
    names = [None if one is None else change(one) for one in table["rslow:label"].to_pylist()]
    index = table.column_names.index("rslow:label")
    pq.write_table(table.set_column(index, "rslow:label", pa.array(names, pa.string())), path)


def test_a_catalog_that_spells_a_class_otherwise(project: Path, rslow: Run) -> None:
    """Scores, reviews and variants end with one line; blanks are no other spelling."""
    config, serial = ("-c", project / "config.yaml"), ("-s", "batch.executor=serial")
    assert rslow("catalog", "build", *config).code == 0
    relabelled(project, str.capitalize)
    ran = rslow("batch", "score", *config, *serial)
    assert (ran.code, "differ only in case" in ran.err) == (4, True), ran.err
    assert not (project / "run" / "batch" / "score" / "parts").exists()
    relabelled(project, lambda name: f" {name.lower()}")
    ran = rslow("batch", "score", *config, *serial, "-s", "batch.splits=[val]")
    assert ran.code == 0, ran.err
    assert " of split train, " in ran.out
    scores = pd.read_parquet(project / "run" / "batch" / "score" / "scores.parquet")
    assert set(scores["label"]) == {path.name for path in (project / "tiles").iterdir()}


def test_folders_that_spell_a_class_otherwise(project: Path, rslow: Run) -> None:
    """The nearest real tile of a class would be of any class, so the search does not begin."""
    first = min((project / "tiles").iterdir())
    first.rename(first.with_name(first.name.capitalize()))
    ran = rslow("generate", "-c", project / "config.yaml")
    assert ran.code == 5, ran.err
    line = f"{first.name!r} in the generator and {first.name.capitalize()!r} in the data"
    assert line in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (project / "run" / "generate" / "samples.parquet").exists()
