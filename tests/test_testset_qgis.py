"""The sheet of a release, drawn by GDAL and by the real QGIS, for few tiles and for many."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from jaxtyping import UInt8
from PIL import Image

from rs_lowconf.review.composites import stretch
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.sheet import Sheet
from rs_lowconf.testset import read_release
from tests.offscreen import run_offscreen
from tests.review_samples import CLASSES
from tests.testset_samples import BANDS, release, reviewed_tiles, sheet_of

SCRIPT = Path(__file__).parent / "qgis" / "open_release.py"
CANVAS = (235, 235, 235)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A release to look at."""

    folder: Path
    count: int
    sheet: Sheet
    scale: int
    """Screen pixels a pixel of the sheet; from 2 on, headings are drawn."""

    def check(self, drawn: UInt8[np.ndarray, "h w 3"], scale: int) -> None:
        """Compare every picture of a drawn sheet with its tile, pixel by pixel."""
        for index, one in enumerate(read_release(self.folder).tiles):
            pixels = read_tile(one.path).pixels
            for place, composite in enumerate(self.sheet.composites):
                left, top, right, bottom = (scale * x for x in self.sheet.picture(index, 0, place))
                expected = stretch(pixels, BANDS, composite).repeat(scale, 0).repeat(scale, 1)
                assert np.array_equal(drawn[top:bottom, left:right], expected), (index, place)


@pytest.fixture(scope="module", params=[(12, 2), (600, 1)], ids=["12 tiles", "600 tiles"])
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    count, scale = request.param
    folder = tmp_path_factory.mktemp("shown")
    release(folder / "v1", reviewed_tiles(folder / "store", count))
    return Shown(folder=folder / "v1", count=count, sheet=sheet_of(count), scale=scale)


@pytest.fixture(scope="module")
def session(
    shown: Shown,
    qgis_python: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], UInt8[np.ndarray, "h w 3"]]:
    """Return what QGIS reports of a release, and what it draws."""
    folder = tmp_path_factory.mktemp("qgis")
    result = run_offscreen(
        [qgis_python, str(SCRIPT), str(shown.folder), str(folder / "map.png"), str(shown.scale)],
        folder,
    )
    assert result.returncode == 0, result.stderr
    with Image.open(folder / "map.png") as image:
        drawn = np.asarray(image.convert("RGB"))
    return json.loads(result.stdout.splitlines()[-1]), drawn


def test_gdal_draws_every_tile(shown: Shown) -> None:
    """The contact sheet shows each tile with the documented stretch, also 600 of them."""
    with rasterio.open(shown.folder / "contact.vrt") as file:
        assert (file.width, file.height) == shown.sheet.size
        assert file.crs is None
        shown.check(np.moveaxis(file.read(), 0, -1), 1)


def test_labels_frame_their_tiles(shown: Shown) -> None:
    """Geopandas reads a row a tile, its frame around the tile's pictures and no other's."""
    rows = geopandas.read_file(shown.folder / "labels.gpkg", layer="labels")
    tiles = read_release(shown.folder).tiles
    assert rows.crs is None or "Undefined" in rows.crs.name
    for index, (row, one) in enumerate(zip(rows.itertuples(), tiles, strict=True)):
        assert (row.sample_id, row.class_name) == (one.sample_id, one.class_name)
        assert (row.predicted, row.confidence) == (one.predicted, one.confidence)
        assert row.reviewers == ", ".join(one.reviewers)
        left, low, right, high = row.geometry.bounds
        for place in range(len(shown.sheet.composites)):
            box = shown.sheet.picture(index, 0, place)
            assert left < box[0] < box[2] < right
            assert -high < box[1] < box[3] < -low
    frames = rows.geometry
    assert len(rows.sindex.query(frames, predicate="intersects")[0]) == len(rows)


def test_qgis_opens_the_project_to_look_at(
    shown: Shown, session: tuple[dict[str, Any], UInt8[np.ndarray, "h w 3"]]
) -> None:
    """QGIS reads both layers without a coordinate system or a complaint, and cannot edit."""
    report, _ = session
    assert report["read"]
    assert report["valid"] == {"labels": True, "contact sheet": True}
    assert report["drawn"] == ["labels", "contact sheet"]
    assert report["crs"] == [False, False, False]
    assert report["legend"] == ["target wrong", "target right"]
    assert Counter(report["classes"]) == dict.fromkeys(CLASSES, shown.count // len(CLASSES))
    assert report["editing"] is False
    assert "SYNTHETIC" in report["title"]
    assert report["complaints"] == []


def test_qgis_draws_the_tiles_and_frames(
    shown: Shown, session: tuple[dict[str, Any], UInt8[np.ndarray, "h w 3"]]
) -> None:
    """The map shows every tile, and red frames where the target is wrong."""
    _, drawn = session
    width, height = shown.sheet.size
    assert drawn.shape == (height * shown.scale, width * shown.scale, 3)
    shown.check(drawn, shown.scale)
    assert tuple(drawn[1, 1]) == CANVAS
    right = {True: 0, False: 0}
    for index, one in enumerate(read_release(shown.folder).tiles):
        left, top, _, bottom = shown.sheet.cell(index)
        red, green, _ = drawn[(top + bottom) // 2 * shown.scale, left * shown.scale].astype(int)
        assert (red > green + 80) == (one.predicted != one.class_name), index
        right[one.predicted == one.class_name] += 1
    assert min(right.values()) > 0


def test_qgis_draws_headings(
    shown: Shown, session: tuple[dict[str, Any], UInt8[np.ndarray, "h w 3"]]
) -> None:
    """Where a sheet is large enough on the screen, names and classes stand above the pictures."""
    ink = session[1].max(-1) < 100
    for index in range(shown.count):
        left, top, right, _ = shown.sheet.picture(index, 0, 0)
        above = shown.sheet.cell(index)[1]
        scale = shown.scale
        header = ink[above * scale + 4 : top * scale, left * scale : right * scale]
        assert (header.sum() > 50) == (scale > 1), index


def test_looking_changes_nothing(
    shown: Shown, session: tuple[dict[str, Any], UInt8[np.ndarray, "h w 3"]]
) -> None:
    """After QGIS had it open, the release is as it was, and no file stands beside its own."""
    assert session[0]["read"]
    names = {line[66:] for line in (shown.folder / "SHA256SUMS").read_text().splitlines()}
    read_release(shown.folder)
    files = {path for path in shown.folder.rglob("*") if path.is_file()}
    assert {path.relative_to(shown.folder).as_posix() for path in files} == names | {"SHA256SUMS"}
