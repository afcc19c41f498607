"""Releases of a test set as files: whole, the same again, and refused when damaged."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from filelock import lock_descriptor
from rasterio.errors import NotGeoreferencedWarning

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, OutputError
from rs_lowconf.folders import UNFINISHED
from rs_lowconf.review import geopackage
from rs_lowconf.review.geotiff import observed_tags, write_tile
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset import ReleaseTile, read_release
from tests.review_samples import ATTRIBUTION, CLASSES, GRID, tile
from tests.testset_samples import (
    BANDS,
    PROVENANCE,
    release,
    reviewed_tile,
    reviewed_tiles,
)

COUNT = 12


@pytest.fixture
def tiles(tmp_path: Path) -> list[ReleaseTile]:
    return reviewed_tiles(tmp_path / "store", COUNT)


def test_a_release_that_says_little_says_so(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """Few tiles and labels of one person are cautioned against; many tiles of several are not."""
    found = read_release(release(tmp_path / "v1", tiles))
    alone = replace(found, tiles=tuple(replace(one, reviewers=("ann",)) for one in found.tiles[:2]))
    few, person = alone.cautions
    assert few.startswith("2 tiles are too few")
    assert person.startswith("one reviewer decided all labels")
    shared = [replace(one, reviewers=("ann", "bob")) for one in found.tiles]
    assert replace(found, tiles=tuple(shared * 3)).cautions == ()
    each = [replace(one, reviewers=(f"p{i % 2}",)) for i, one in enumerate(shared * 3)]
    (single,) = replace(found, tiles=tuple(each)).cautions
    assert "no tile was judged twice" in single


def test_release_comes_back(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """What is written is read again, with the tiles in the order of classes and names."""
    found = read_release(release(tmp_path / "v1", tiles))
    assert (found.version, found.classes, found.parent) == ("v1", CLASSES, None)
    assert (found.bands, found.provenance, found.licence) == (BANDS, PROVENANCE, "CC-BY-4.0")
    assert found.attribution == ATTRIBUTION
    assert found.checksum == sha256_of(tmp_path / "v1" / "SHA256SUMS")
    expected = sorted(tiles, key=lambda one: (CLASSES.index(one.class_name), one.sample_id))
    assert len(found.tiles) == COUNT
    for one, other in zip(found.tiles, expected, strict=True):
        assert one.path == tmp_path / "v1" / "tiles" / f"{one.sample_id}.tif"
        assert replace(one, path=other.path) == other
        assert one.path.read_bytes() == other.path.read_bytes()


def test_other_readers_see_the_tiles(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """Rasterio reads the pixels that were reviewed, without a place and marked SYNTHETIC."""
    folder = release(tmp_path / "v1", tiles)
    for number in range(COUNT):
        with pytest.warns(NotGeoreferencedWarning):
            file = rasterio.open(folder / "tiles" / f"s{number:04d}.tif")
        with file:
            assert np.array_equal(file.read(), tile(number, number % len(CLASSES), len(BANDS)))
            assert file.crs is None
            assert file.descriptions == BANDS.names
            assert file.tags()["RSLOW_SYNTHETIC"] == "true"


def test_scale_is_that_of_the_tiles(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """Whatever the source's scale and offset were, a release says reflectance x 10000."""
    source = replace(BANDS, scale=5000.0, dn_offset=-1000.0)
    assert read_release(release(tmp_path / "v1", tiles, bands=source)).bands == BANDS


def test_same_content_same_checksums(
    tmp_path: Path, tiles: list[ReleaseTile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built again elsewhere, weeks later, from tiles in another order: every file is the same."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            assert tz == UTC
            return cls(2031, 5, 4, 3, 2, 1, tzinfo=tz)

    first = release(tmp_path / "v1", tiles)
    seconds = time.time
    monkeypatch.setattr(time, "time", lambda: seconds() + timedelta(days=40).total_seconds())
    monkeypatch.setattr(geopackage, "datetime", Later)
    monkeypatch.chdir(tmp_path / "store")
    second = release(tmp_path / "elsewhere" / "deep" / "v1", tiles[::-1])
    assert (first / "SHA256SUMS").read_bytes() == (second / "SHA256SUMS").read_bytes()
    third = release(tmp_path / "third" / "v1", [*tiles[:-1], replace(tiles[-1], realism=5)])
    assert (first / "SHA256SUMS").read_bytes() != (third / "SHA256SUMS").read_bytes()


def test_checksums_cover_all_files(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """`sha256sum -c` is content, lists every other file, and no file names the machine."""
    folder = release(tmp_path / "v1", tiles)
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        check=False,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    names = {line.removesuffix(": OK") for line in checked.stdout.splitlines()}
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == files - {"SHA256SUMS"}
    for name in files:
        assert str(tmp_path).encode() not in (folder / name).read_bytes(), name


def test_folder_holds_what_is_documented(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """The release has its parts, and nothing else stands beside it."""
    folder = release(tmp_path / "releases" / "v1", tiles[-1:])
    assert {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } == {
        "DATASHEET.md",
        "SHA256SUMS",
        "contact.vrt",
        "labels.gpkg",
        "labels.parquet",
        "release.json",
        "release.qgz",
        "stac/collection.json",
        "stac/items/s0000.json",
        "stac/labels/s0000.geojson",
        "tiles/s0000.qml",
        "tiles/s0000.tif",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]


def test_description_counts_classes_and_rounds(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """The numbers of release.json are those of the tiles, and the datasheet shows them."""
    folder = release(tmp_path / "v1", tiles, agreement={"alpha_decision": 0.625, "kappa": None})
    values = json.loads((folder / "release.json").read_text())
    assert values["synthetic"] is True
    assert values["counts"]["class"] == {"Forest": 3, "Field": 3, "Town": 3, "Water": 3}
    assert values["counts"]["round"] == {"1": 8, "2": 4}
    assert values["counts"]["class_and_round"]["Water"] == {"1": 2, "2": 1}
    sheet = (folder / "DATASHEET.md").read_text()
    for line in (
        "| class | round 1 | round 2 | all |",
        "| Water | 2 | 1 | 3 |",
        "| all | 8 | 4 | 12 |",
        "| alpha decision | 0.625 |",
        "| kappa | undefined |",
        "Licence: CC-BY-4.0",
        f"Attribution: {ATTRIBUTION}",
        "| gan_sha256 | 0123 |",
    ):
        assert line in sheet.splitlines()
    assert "never be averaged with accuracy on real test data" in sheet
    heads = [line[3:] for line in sheet.splitlines() if line.startswith("## ")]
    assert heads == [
        "Motivation",
        "Composition",
        "Collection process",
        "Preprocessing and labelling",
        "Uses",
        "Distribution",
        "Maintenance",
    ]


def test_parent_is_named_with_what_changed(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """A release tells its parent's checksum and which tiles came, went or changed class."""
    first = release(tmp_path / "v1", tiles[2:])
    relabelled = replace(tiles[2], class_name="Town")
    assert tiles[2].class_name != "Town"
    parent = read_release(
        release(tmp_path / "v2", [*tiles[:2], relabelled, *tiles[3:-1]], parent=first)
    ).parent
    assert parent is not None
    assert (parent.version, parent.checksum) == ("v1", sha256_of(first / "SHA256SUMS"))
    assert parent.added == (tiles[1].sample_id, tiles[0].sample_id)
    assert parent.removed == (tiles[-1].sample_id,)
    assert parent.relabelled == (tiles[2].sample_id,)
    sheet = (tmp_path / "v2" / "DATASHEET.md").read_text()
    assert "2 tiles added, 1 removed, 1 with another class" in sheet


def test_damaged_parent_is_refused(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """A release does not go on from one that was edited."""
    first = release(tmp_path / "v1", tiles)
    (first / "DATASHEET.md").write_text("better")
    with pytest.raises(DataError, match=r"DATASHEET\.md was edited"):
        release(tmp_path / "v2", tiles, parent=first)
    assert not (tmp_path / "v2").exists()


def test_every_file_is_on_disk_before_the_rename(
    tmp_path: Path, tiles: list[ReleaseTile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files and folders are fsynced, then the folder is renamed, then its parent fsynced."""
    events: list[tuple[str, Path]] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(handle: int) -> None:
        fsync(handle)
        events.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink()))

    def noting_rename(path: Path, target: Path) -> Path:
        events.append(("rename", path))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    folder = release(tmp_path / "new" / "v1", tiles[:3])
    renamed = [path for kind, path in events if kind == "rename"]
    building = folder.with_name(f".v1{UNFINISHED}")
    assert renamed == [building]
    when = events.index(("rename", building))
    synced = {path for _, path in events[:when]}
    for path in (folder, *folder.rglob("*")):
        assert building / path.relative_to(folder) in synced, path
    assert events[when + 1 :] == [("fsync", folder.parent)]
    assert tmp_path in synced  # which holds the new folder of releases


def test_existing_folder_is_never_touched(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """A release is not overwritten, nor is an empty folder or a dangling link."""
    folder = release(tmp_path / "v1", tiles)
    before = (folder / "SHA256SUMS").read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("v1", "empty", "link"):
        with pytest.raises(OutputError, match="exists already; a release never changes"):
            release(tmp_path / name, tiles[:1])
    assert (folder / "SHA256SUMS").read_bytes() == before
    assert list((tmp_path / "empty").iterdir()) == []


def test_one_build_at_a_time(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """While another process builds beside it, a build is refused and leaves that one alone."""
    other = tmp_path / f".v2{UNFINISHED}"
    other.mkdir()
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        assert lock_descriptor(handle, blocking=False)
        with pytest.raises(OutputError, match="another process is writing into"):
            release(tmp_path / "v1", tiles)
        assert other.exists()
    finally:
        os.close(handle)
    release(tmp_path / "v1", tiles)
    assert not other.exists()


Damage = Callable[[Path], object]


def _edit(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def _replace(name: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return damage


def _swap_tiles(folder: Path) -> None:
    """Replace a tile and its checksum: then only the labels tell."""
    path = folder / "tiles" / "s0000.tif"
    before = sha256_of(path)
    path.write_bytes((folder / "tiles" / "s0001.tif").read_bytes())
    _replace("SHA256SUMS", f"{before}  tiles/s0000.tif", f"{sha256_of(path)}  tiles/s0000.tif")(
        folder
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_edit("tiles/s0003.tif"), r"tiles/s0003\.tif was edited; expected the files that SHA"),
        (_edit("labels.gpkg"), r"labels\.gpkg was edited"),
        (_edit("labels.parquet"), r"labels\.parquet was edited"),
        (_replace("release.json", "Forest", "Jungle"), r"release\.json was edited"),
        (lambda folder: (folder / "tiles/s0003.tif").unlink(), r"tiles/s0003\.tif is missing"),
        (lambda folder: (folder / "labels.parquet").unlink(), r"labels\.parquet is missing"),
        (
            lambda folder: (folder / "release.json").unlink(),
            r"v1 is not a release.*expected a folder",
        ),
        (lambda folder: (folder / "release.json").write_text("{"), r"release\.json is damaged"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing or damaged"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS is missing or damaged"),
        (_replace("SHA256SUMS", "  stac", "  ../stac"), "SHA256SUMS is missing or damaged"),
        (_replace("SHA256SUMS", "  tiles/s0001.tif", "  tiles/s01.tif"), r"tiles/s01\.tif is miss"),
        (
            _replace("release.json", '"format": 1', '"format": 3'),
            "format 3; expected at most 2; up",
        ),
        (_swap_tiles, r"labels\.parquet and SHA256SUMS differ on tiles/s0000\.tif"),
    ],
)
def test_damaged_releases_are_refused(
    tmp_path: Path, tiles: list[ReleaseTile], damage: Damage, message: str
) -> None:
    """Whatever is missing, edited, newer or something else is named, with the file."""
    folder = release(tmp_path / "v1", tiles)
    damage(folder)
    with pytest.raises(DataError, match=message):
        read_release(folder)


def test_unfinished_folder_is_no_release(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """What a killed build left is refused even when all its files are there."""
    folder = release(tmp_path / "v1", tiles)
    leftover = folder.rename(tmp_path / f".v1{UNFINISHED}")
    with pytest.raises(DataError, match="left by an interrupted build"):
        read_release(leftover)


def test_quick_reading_checks_description_and_labels(
    tmp_path: Path, tiles: list[ReleaseTile]
) -> None:
    """Without `checksum` an edited tile passes, edited labels do not."""
    folder = release(tmp_path / "v1", tiles)
    _edit("tiles/s0003.tif")(folder)
    assert len(read_release(folder, checksum=False).tiles) == COUNT
    _edit("labels.parquet")(folder)
    with pytest.raises(DataError, match=r"labels\.parquet was edited"):
        read_release(folder, checksum=False)


def test_files_of_others_do_not_matter(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """A file that QGIS or a file manager puts into the folder does not damage the release."""
    folder = release(tmp_path / "v1", tiles)
    (folder / "contact.vrt.aux.xml").write_text("<PAMDataset/>")
    assert len(read_release(folder).tiles) == COUNT


def _unfit(path: Path, tags: dict[str, str], **grid: Any) -> str:
    write_tile(path, tile(0, 0, len(BANDS)), BANDS, tags, **grid)
    return sha256_of(path)


def test_unfit_tiles_are_refused(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """Tiles that are not what was reviewed or do not fit are named, and nothing is left behind."""
    one = tiles[0]
    real, placed, gone = (tmp_path / "store" / f"{name}.tif" for name in ("real", "placed", "gone"))
    synthetic = {"RSLOW_SYNTHETIC": "true"}
    few = BandSpec(names=BANDS.names[:4], level="L1C")
    cases: list[tuple[list[ReleaseTile], str]] = [
        ([], "no accepted tile to release"),
        ([one, replace(one, sample_id=one.sample_id.upper())], "S0011 occurs more than once"),
        ([replace(one, class_name="Tundra")], "unknown class 'Tundra'; expected one of Forest"),
        ([replace(one, path=gone)], r"gone\.tif cannot be read"),
        ([replace(one, sha256="0" * 64)], "was edited after its review"),
        (
            [replace(one, path=real, sha256=_unfit(real, observed_tags(ATTRIBUTION)))],
            r"real\.tif is not marked as synthetic",
        ),
        (
            [replace(one, path=placed, sha256=_unfit(placed, synthetic, grid=GRID))],
            r"placed\.tif is not marked as synthetic, or has a georeference",
        ),
        ([one, reviewed_tile(tmp_path / "few", 0, few)], "tile s0000 has the bands B01, B02, B03"),
    ]
    for some, message in cases:
        with pytest.raises(DataError, match=message):
            release(tmp_path / "releases" / "v1", some)
    assert list(tmp_path.glob("releases/*")) == []
    assert list(tmp_path.glob("releases/.*")) == []


def test_tiles_of_two_sizes_are_refused(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """A release has one size of tile."""
    path = tmp_path / "small.tif"
    write_tile(path, tile(0, 0, len(BANDS))[:, :16, :16], BANDS, {"RSLOW_SYNTHETIC": "true"})
    small = replace(tiles[0], path=path, sha256=sha256_of(path))
    with pytest.raises(DataError, match="the sizes 16 x 16, 32 x 32"):
        release(tmp_path / "v1", [small, *tiles[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": "../s"}, "cannot name a file"),
        ({"sha256": "12"}, "the sha256 '12'; expected 64 hexadecimal digits"),
        ({"confidence": 1.5}, "the confidence 1.5"),
        ({"round": 0}, "the round 0"),
        ({"reviewers": ()}, "the reviewers"),
        ({"reviewed_ms": 0}, "the reviewed_ms 0; expected the time"),
        ({"realism": 6}, "the realism 6"),
    ],
)
def test_impossible_tiles_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A tile is checked when it is made."""
    with pytest.raises(DataError, match=message):
        replace(reviewed_tile(tmp_path / "store", 0), **change)


def test_impossible_versions_are_refused(tmp_path: Path, tiles: list[ReleaseTile]) -> None:
    """The folder's name is the version, and has to name a STAC collection."""
    with pytest.raises(DataError, match="'v 1' cannot name a release"):
        release(tmp_path / "v 1", tiles)
