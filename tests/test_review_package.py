"""The review package as files, read by rasterio, geopandas, sqlite and zipfile."""

import json
import shutil
import sqlite3
import warnings
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
from jaxtyping import UInt16
from PIL import Image
from rasterio.errors import CRSError

from rs_lowconf.bands import EUROSAT_ORDER, SHORT_WAVE_INFRARED, BandSpec, Level
from rs_lowconf.errors import ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.review.composites import composites_of, ranges_of, stretch
from rs_lowconf.review.fields import DECISIONS, FORMAT, FORMAT_OF_OBSERVED, Label
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.samples import Prediction, ReviewSample
from rs_lowconf.runs import sha256_of
from tests.review_samples import CLASSES, GRID, SIZE, blocks_of, observed, package, sample, sheet_of

TEN_METRES = ("B02", "B03", "B04", "B08")

both_kinds = pytest.mark.parametrize("real", [True, False], ids=["beside real", "alone"])
"""What holds with real neighbours and without."""


def files_in(folder: Path) -> dict[str, bytes]:
    """Return all files with their content, the project unzipped."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    with zipfile.ZipFile(folder / "review.qgz") as archive:
        found["review.qgz"] = b"".join(archive.read(name) for name in archive.namelist())
    return found


def rows_of(folder: Path) -> geopandas.GeoDataFrame:
    """Return the layer as geopandas reads it."""
    return geopandas.read_file(folder / "review.gpkg", layer="review")


@both_kinds
def test_package_has_its_parts(tmp_path: Path, real: bool) -> None:
    """The folder holds exactly the documented files, one set a sample, and nothing else."""
    folder = package(tmp_path / "review", [sample(0, real=real), sample(1, real=real)])
    rasters = ("tiles", "anchors") if real else ("tiles",)
    each = {
        name
        for i in ("s0000", "s0001")
        for name in (
            f"previews/{i}.png",
            *(f"{place}/{i}.{ending}" for place in rasters for ending in ("tif", "qml")),
        )
    }
    assert set(files_in(folder)) == each | {
        "review.html",
        "review.qgz",
        "review.gpkg",
        "opinions.gpkg",
        "contact.vrt",
        "manifest.json",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["review"]


@both_kinds
@pytest.mark.parametrize("names", [EUROSAT_ORDER, TEN_METRES, ("B04", "B12", "B03", "B02")])
def test_contact_sheet_shows_the_tiles(tmp_path: Path, names: tuple[str, ...], real: bool) -> None:
    """GDAL draws each tile at its place with the documented stretch, whatever bands there are."""
    samples = [sample(number, names, real=real) for number in range(5)]
    folder = package(tmp_path / "review", samples)
    sheet = sheet_of(samples)
    expected = np.zeros((sheet.size[1], sheet.size[0], 3), dtype=np.uint8)
    for index, one in enumerate(samples):
        for block, pixels in enumerate(blocks_of(one)):
            for place, composite in enumerate(sheet.composites):
                left, top, right, bottom = sheet.picture(index, block, place)
                assert not expected[top:bottom, left:right].any(), "pictures overlap"
                expected[top:bottom, left:right] = stretch(pixels, one.bands, composite)
    with rasterio.open(folder / "contact.vrt") as file:
        assert file.crs is None
        assert file.nodata == 0
        found = np.moveaxis(file.read(), 0, -1)
    assert np.array_equal(found, expected)


def test_stretch_is_fixed_and_clips() -> None:
    """The middle of a range is the middle grey, above it is white, and below it is not a gap."""
    one = sample(0)
    for composite in composites_of(one.bands):
        for channel, (low, high) in enumerate(ranges_of(one.bands, composite)):
            middle = (low + high) // 2
            for number, byte in ((1, 1), (low, 1), (middle, 128), (high, 255), (60_000, 255)):
                flat = np.full_like(one.pixels, number)
                assert (stretch(flat, one.bands, composite)[..., channel] == byte).all()


def test_every_composite_of_every_level_has_ranges() -> None:
    """No level of no composite is left without a stretch."""
    for level in get_args(Level):
        bands = BandSpec(names=EUROSAT_ORDER, level=level)
        for composite in composites_of(bands):
            assert all(0 <= low < high for low, high in ranges_of(bands, composite))


@pytest.fixture(scope="module")
def eurosat_tiles(eurosat_root: Path) -> dict[str, UInt16[np.ndarray, "n c h w"]]:
    """Return all real tiles by class."""
    tiles: dict[str, list[Any]] = {}
    for path in sorted(eurosat_root.rglob("*.tif")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as file:
                tiles.setdefault(path.stem.split("_")[0], []).append(file.read())
    return {name: np.stack(each) for name, each in tiles.items()}


def test_composites_clip_few_pixels_of_real_tiles(
    eurosat_tiles: dict[str, UInt16[np.ndarray, "n c h w"]],
) -> None:
    """Of no class are 5 % of the pixels too dark or too bright in any composite.

    Of Pasture 46 % were, when short-wave infrared ended at 0.4.
    """
    bands = BandSpec(names=EUROSAT_ORDER, level="L1C")
    assert len(eurosat_tiles) == 10
    for name, tiles in eurosat_tiles.items():
        for composite in composites_of(bands):
            shown = tiles[:, list(bands.index_of(composite.bands))]
            low, high = np.array(ranges_of(bands, composite)).T[:, None, :, None, None]
            clipped = ((shown < low) | (shown > high)).any(axis=1).mean()
            assert clipped < 0.05, (name, composite.name, clipped)
    before = eurosat_tiles["Pasture"][:, list(bands.index_of(SHORT_WAVE_INFRARED))] > 4000
    assert before.any(axis=1).mean() > 0.4


def test_surface_reflectance_is_not_dark(eurosat_root: Path) -> None:
    """True colour of real L2A scenes is brighter than from 0 to 0.3; no composite clips 5 %.

    In Jaca deep shadows of mountains are black, and not more than that.
    """
    names = (*EUROSAT_ORDER[:8], "B8A", "B09", "B11", "B12")
    bands = BandSpec(names=names, level="L2A")
    composite, *others = composites_of(bands)
    scenes = ["Boadella_2020-06-21", "Boadella_2021-07-16", "Boadella_2022-06-01", "Jaca_1"]
    for name in scenes:
        with rasterio.open(eurosat_root.parent / "scenes" / f"{name}.tif") as file:
            pixels = file.read().astype(np.uint16)
        drawn = stretch(pixels, bands, composite)[(pixels > 0).all(axis=0)]
        shown = pixels[list(bands.index_of(composite.bands))][:, (pixels > 0).all(axis=0)]
        assert np.median(drawn) > 1.3 * np.median(1 + shown / 3000 * 254), name
        for each in (composite, *others):
            own = pixels[list(bands.index_of(each.bands))][:, (pixels > 0).all(axis=0)]
            low, high = np.array(ranges_of(bands, each)).T[:, :, None]
            dark = (own < low).any(axis=0) & (name != "Jaca_1")
            assert (dark | (own > high).any(axis=0)).mean() < 0.05, (name, each.name)


@pytest.mark.parametrize(
    ("names", "captions"),
    [
        (EUROSAT_ORDER, ["true colour", "NIR", "SWIR"]),
        (TEN_METRES, ["true colour", "NIR"]),
        (("B04", "B8A", "B12"), ["SWIR"]),
    ],
)
def test_composites_without_their_bands_are_left_out(
    tmp_path: Path, names: tuple[str, ...], captions: list[str]
) -> None:
    """The package shows the composites that the data has the bands for."""
    folder = package(tmp_path / "review", [sample(0, names)])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["stretch"]) == captions


def test_data_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    """Without the bands of any composite there is no package, and the error names the bands."""
    with pytest.raises(ReviewError, match=r"B05, B06 cannot be shown in colour.*B04, B03, B02"):
        package(tmp_path / "review", [sample(0, ("B05", "B06"))])


def test_package_can_be_moved(tmp_path: Path) -> None:
    """All paths are relative: a moved package shows the same sheet and names no folder."""
    folder = package(tmp_path / "review", [sample(0), sample(1)])
    with rasterio.open(folder / "contact.vrt") as file:
        before = file.read()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    with rasterio.open(moved / "contact.vrt") as file:
        assert np.array_equal(file.read(), before)
    for name, content in files_in(moved).items():
        assert str(tmp_path).encode() not in content, name


@both_kinds
def test_manifest_describes_the_tiles(tmp_path: Path, real: bool) -> None:
    """The manifest's checksums fit the files, and its scale is the tiles', not the source's."""
    one = sample(0, real=real)
    offset = replace(one.bands, scale=5000.0, dn_offset=-1000.0)
    folder = package(tmp_path / "review", [replace(one, bands=offset)])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == FORMAT
    assert manifest["label"] == "confirm"
    assert manifest["classes"] == list(CLASSES)
    assert manifest["bands"]["names"] == list(EUROSAT_ORDER)
    assert (manifest["bands"]["scale"], manifest["bands"]["dn_offset"]) == (10_000, 0)
    assert manifest["provenance"] == {"generator": "0123abcd"}
    for entry in manifest["samples"]:
        kinds = {"tile", "anchor"} if real else {"tile"}
        sums = {f"{kind}_sha256" for kind in kinds}
        assert set(entry) == {"sample_id", "preview"} | kinds | sums
        for kind in kinds:
            assert entry[f"{kind}_sha256"] == sha256_of(folder / entry[kind])


@both_kinds
def test_tiles_say_what_they_are(tmp_path: Path, real: bool) -> None:
    """A sample is marked synthetic, whatever its provenance, and has no place."""
    liar = replace(sample(3, real=real), provenance={"seed": "3", "synthetic": "false"})
    folder = package(tmp_path / "review", [liar])
    tile = read_tile(folder / "tiles" / "s0003.tif")
    assert np.array_equal(tile.pixels, sample(3).pixels)
    assert tile.grid is None
    assert tile.tags["RSLOW_SYNTHETIC"] == "true"
    assert tile.tags["RSLOW_CONDITION"] == "Water"
    assert tile.tags["RSLOW_PREDICTED"] == "Forest"
    assert tile.tags["RSLOW_CONFIDENCE"] == "0.310000"
    assert tile.tags["RSLOW_SEED"] == "3"
    assert tile.tags.get("RSLOW_NEAREST_REAL") == ("Water_3" if real else None)


def test_neighbours_say_what_they_are(tmp_path: Path) -> None:
    """A neighbour is marked as an observation, and keeps its name, class and place."""
    folder = package(tmp_path / "review", [sample(3)])
    anchor = read_tile(folder / "anchors" / "s0003.tif")
    assert np.array_equal(anchor.pixels, blocks_of(sample(3))[0])
    assert anchor.grid == GRID
    assert anchor.tags["RSLOW_SYNTHETIC"] == "false"
    assert anchor.tags["RSLOW_TILE_ID"] == "Water_3"
    assert anchor.tags["RSLOW_CLASS"] == "Water"


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_real_tiles_are_told_to_be_real(tmp_path: Path, label: Label) -> None:
    """An observed tile is tagged as such and keeps its place; blind, nothing tells its class."""
    folder = package(tmp_path / "review", [observed(3), observed(4, labelled=False)], label)
    tile = read_tile(folder / "tiles" / "s0003.tif")
    assert np.array_equal(tile.pixels, sample(3).pixels)
    assert tile.grid == GRID
    assert tile.tags["RSLOW_SYNTHETIC"] == "false"
    told = {"RSLOW_CLASS": "Water", "RSLOW_PREDICTED": "Forest", "RSLOW_TILE_ID": "real/3"}
    found = {name: tile.tags[name] for name in told if name in tile.tags}
    assert found == (told if label == "confirm" else {})
    assert not {"RSLOW_CONDITION", "RSLOW_REALISM"} & set(tile.tags)
    unlabelled = read_tile(folder / "tiles" / "s0004.tif").tags
    assert "RSLOW_CLASS" not in unlabelled
    rows = rows_of(folder)
    if label == "confirm":
        assert rows["cond_class"].tolist()[0] == "Water"
        assert rows["cond_class"].isna().tolist() == [False, True]
    else:
        assert not {"cond_class", "pred_class", "confidence"} & set(rows.columns)
    assert "d_score" not in rows.columns
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["observed"]) == (FORMAT_OF_OBSERVED, True)
    words = b"".join(files_in(folder).values())
    assert not any(word in words for word in (b"SYNTHETIC image", b"MAY BE SYNTHETIC"))


def test_real_and_generated_tiles_are_not_mixed(tmp_path: Path) -> None:
    """One question a package: is it real, or what is it."""
    with pytest.raises(ReviewError, match=r"1 of 2 samples are shown as real tiles; expected all"):
        package(tmp_path / "review", [sample(0, real=False), observed(1)])


@both_kinds
def test_previews_show_the_tiles(tmp_path: Path, real: bool) -> None:
    """The preview has a row a tile, ends with the sample's last composite and says SYNTHETIC."""
    one = sample(0, real=real)
    folder = package(tmp_path / "review", [one])
    composite = composites_of(one.bands)[-1]
    zoom = 192 // SIZE
    with Image.open(folder / "previews" / "s0000.png") as picture:
        assert "SYNTHETIC" in str(picture.info["Description"])
        found = np.asarray(picture.convert("RGB"))
    expected = np.kron(stretch(one.pixels, one.bands, composite), np.ones((zoom, zoom, 1)))
    inside = np.flatnonzero((found != 255).any(axis=(1, 2)))
    bottom, right = inside[-1] + 1, found.shape[1] - 8
    shown = found[bottom - 192 : bottom, right - 192 : right]
    assert np.array_equal(shown, expected)
    rows = len(blocks_of(one))
    assert 192 * rows < len(found) < 192 * (rows + 1)


@both_kinds
def test_layer_is_plain_and_pending(tmp_path: Path, real: bool) -> None:
    """Geopandas reads one undecided row a sample, its frame around the sample's pictures."""
    samples = [sample(number, real=real) for number in range(5)]
    rows = rows_of(package(tmp_path / "review", samples))
    assert list(rows["sample_id"]) == [one.sample_id for one in samples]
    for name in ("decision", "true_class", "realism", "comment", "reviewer", "reviewed_ms"):
        assert rows[name].isna().all(), name
    assert list(rows["cond_class"]) == [one.condition for one in samples]
    assert not {"pred_class", "second_class", "confidence", "d_score"} & set(rows.columns)
    sheet = sheet_of(samples)
    for index, frame in enumerate(rows.geometry):
        assert frame.is_valid
        left, low, right, high = frame.bounds
        for block in range(sheet.blocks):
            for place in range(len(sheet.composites)):
                box = sheet.picture(index, block, place)
                assert left < box[0] < box[2] < right
                assert -high < box[1] < box[3] < -low
    assert not any(
        a.intersects(b) for i, a in enumerate(rows.geometry) for b in rows.geometry[i + 1 :]
    )


def test_layer_obeys_plain_sql(tmp_path: Path) -> None:
    """The database is sound, lists the allowed values and takes an UPDATE without GDAL."""
    folder = package(tmp_path / "review", [sample(0)])
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)
        enum = database.execute(
            "SELECT value FROM gpkg_data_columns JOIN gpkg_data_column_constraints"
            " USING (constraint_name) WHERE column_name = ? ORDER BY value",
            ("decision",),
        ).fetchall()
        assert [value for (value,) in enum] == sorted(DECISIONS)
        database.execute("UPDATE review SET decision = 'mixed'")
        database.commit()
    assert list(rows_of(folder)["decision"]) == ["mixed"]


@both_kinds
def test_project_and_geopackage_hold_the_same_form(tmp_path: Path, real: bool) -> None:
    """However the layer is opened, its symbols, widgets and rules are the same."""
    folder = package(tmp_path / "review", [sample(0, real=real)])
    project = ET.fromstring(files_in(folder)["review.qgz"])  # noqa: S314 (written here)
    (layer,) = (x for x in project.iter("maplayer") if x.findtext("layername") == "review")
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        (text, column) = database.execute(
            "SELECT styleQML, f_geometry_column FROM layer_styles WHERE useAsDefault"
        ).fetchone()
    assert column == "geom"
    for element in ET.fromstring(text):  # noqa: S314 (written here)
        twin = layer.find(element.tag)
        assert twin is not None
        assert ET.canonicalize(ET.tostring(twin), strip_text=True) == ET.canonicalize(
            ET.tostring(element), strip_text=True
        )


def test_package_is_never_overwritten(tmp_path: Path) -> None:
    """An existing folder, even an empty one, is refused by name and stays as it is."""
    folder = package(tmp_path / "review", [sample(0)])
    before = files_in(folder)
    with pytest.raises(ReviewError, match=r"review exists already.*name another folder"):
        package(folder, [sample(1)])
    assert files_in(folder) == before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReviewError, match="empty exists already"):
        package(tmp_path / "empty", [sample(1)])


def test_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """When the second sample cannot be written, neither package nor temporary folder stays."""
    nowhere = Grid(crs="EPSG:0", transform=GRID.transform)
    with pytest.raises(CRSError):
        package(tmp_path / "review", [sample(0), sample(1, grid=nowhere)])
    assert list(tmp_path.iterdir()) == []


@both_kinds
def test_blind_package_leaks_nothing(tmp_path: Path, real: bool) -> None:
    """A blind package is the same whatever the model says, and holds no word of it."""
    samples = [sample(number, real=real) for number in range(4)]
    disguised = [
        replace(
            one,
            condition=CLASSES[-1 - number],
            prediction=Prediction(class_name=CLASSES[0], second=CLASSES[1], confidence=0.777777),
            realism=5.4321,
            provenance={"secret": "LEAKED-PROVENANCE"},
            neighbour=one.neighbour
            and replace(
                one.neighbour,
                tile_id="LEAKED-TILE",
                class_name="LEAKED-CLASS",
                grid=None,
                distance=9.87654,
            ),
        )
        for number, one in enumerate(samples)
    ]
    first = files_in(package(tmp_path / "first", samples, "blind"))
    second = files_in(package(tmp_path / "second", disguised, "blind"))
    assert without_times(first, tmp_path / "first") == without_times(second, tmp_path / "second")
    words = ["LEAKED", "0.777777", "5.4321", "9.87654", "cond_class", "pred_class", "d_score"]
    words += ["confidence", "0123abcd", "EPSG:32633", "Water_3", "RSLOW_CONDITION"]
    for files in (first, second):
        for name, content in files.items():
            for word in words:
                assert word.encode() not in content, (name, word)
    tile = read_tile(tmp_path / "first" / "tiles" / "s0000.tif")
    assert tile.tags["RSLOW_SYNTHETIC"] == "undisclosed"
    assert "MAY BE SYNTHETIC" in tile.tags["TIFFTAG_IMAGEDESCRIPTION"]


def without_times(files: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """Return the content that may not differ: all but the times of writing."""
    manifest = json.loads(files["manifest.json"])
    del manifest["created"]
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        database.execute("UPDATE gpkg_contents SET last_change = ''")
        database.execute("UPDATE layer_styles SET update_time = ''")
        tables = list(database.iterdump())
    return {**files, "manifest.json": manifest, "review.gpkg": tables}


@pytest.mark.parametrize(("label", "title"), [("confirm", "SYNTHETIC"), ("blind", "TO JUDGE")])
@both_kinds
def test_headings_name_what_is_shown(tmp_path: Path, label: Label, title: str, real: bool) -> None:
    """Only a cell that shows a real tile says REAL."""
    folder = package(tmp_path / "review", [sample(0, real=real)], label)
    project = ET.fromstring(files_in(folder)["review.qgz"])  # noqa: S314 (written here)
    texts = [style.get("fieldName", "") for style in project.iter("text-style")]
    assert any("'REAL'" in text for text in texts) == real
    assert sum(title in text for text in texts) == 1


def test_confirm_package_does_tell(tmp_path: Path) -> None:
    """The search for leaks can fail: the same words are found in a confirm package."""
    files = files_in(package(tmp_path / "review", [sample(3)]))
    for word in ("pred_class", "0123abcd", "Water_3", "RSLOW_CONDITION"):
        assert any(word.encode() in content for content in files.values()), word


@pytest.mark.parametrize("label", ["confirm", "blind"])
def test_opinions_are_a_table_of_their_own(tmp_path: Path, label: Label) -> None:
    """One row per sample says what the model says; a blind package has no such table."""
    samples = [sample(number) for number in range(3)]
    path = package(tmp_path / "review", samples, label) / "opinions.gpkg"
    assert path.exists() == (label == "confirm")
    if label == "confirm":
        rows = pyogrio.read_dataframe(path)
        assert list(rows["sample_id"]) == [one.sample_id for one in samples]
        assert list(rows["pred_class"]) == [one.prediction.class_name for one in samples]
        assert list(rows["second_class"]) == [one.prediction.second for one in samples]
        assert list(rows["confidence"]) == [one.prediction.confidence for one in samples]
        assert list(rows["d_score"]) == [one.realism for one in samples]


def test_misfits_are_named(tmp_path: Path) -> None:
    """Samples that do not fit together, or are too many, are refused before anything is written."""
    one = sample(0)
    cases: list[tuple[list[ReviewSample], str]] = [
        ([], "0 samples"),
        ([one] * 501, "501 samples"),
        ([one, replace(sample(1), sample_id="S0000")], "S0000 occurs more than once"),
        ([one, sample(1, TEN_METRES)], "differs from s0000 in bands"),
        ([one, sample(1, real=False)], "1 of 2 samples have no real neighbour, such as s0001"),
        ([replace(one, condition="Tundra")], "unknown class 'Tundra'"),
        (
            [replace(one, prediction=replace(one.prediction, second="Tundra"))],
            "unknown class 'Tundra'",
        ),
    ]
    for samples, message in cases:
        with pytest.raises(ReviewError, match=message):
            package(tmp_path / "review", samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": "../s"}, "cannot name a file"),
        ({"realism": float("nan")}, "realism nan"),
        ({"condition": ""}, "has the condition ''"),
        ({"pixels": sample(0, TEN_METRES).pixels}, "has 4 channels"),
        ({"neighbour": sample(0, TEN_METRES).neighbour}, r"expected the sample's \(13"),
    ],
)
def test_impossible_samples_are_refused(change: dict[str, Any], message: str) -> None:
    """A sample is checked when it is made."""
    with pytest.raises(ReviewError, match=message):
        replace(sample(0), **change)


@pytest.mark.parametrize("confidence", [1.5, -0.1, float("nan")])
def test_a_confidence_is_a_probability(confidence: float) -> None:
    """A prediction is checked when it is made."""
    with pytest.raises(ReviewError, match="expected a probability"):
        Prediction(class_name="a", second="b", confidence=confidence)
