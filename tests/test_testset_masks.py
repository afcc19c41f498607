"""Releases whose labels are masks: what is kept, refused, and measured."""

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.review.geotiff import synthetic_tags
from rs_lowconf.review.panels import mask_panel
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset import (
    Release,
    ReleaseMask,
    ReleaseTile,
    evaluate_release,
    read_release,
)
from rs_lowconf.testset.dataset import ReviewedTiles
from rs_lowconf.types import TargetModel
from tests.offscreen import run_offscreen
from tests.review_samples import ATTRIBUTION, SIZE
from tests.testset_samples import release, reviewed_tile

CLASSES = ("background", "damage", "cloud")
COUNT = 24
SCRIPT = Path(__file__).parent / "qgis" / "open_release.py"


def drawn_mask(number: int) -> UInt8[np.ndarray, "h w"]:
    """Return a mask of two or three classes, some pixels unknown."""
    rng = np.random.default_rng(number)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[: 2 + number % 5, : 3 + number % 7] = 1
    if number % 3 == 0:
        mask[-2:, -4:] = 2
    mask[rng.random(mask.shape) < 0.05] = UNKNOWN
    return mask


def masked_tile(store: Path, number: int) -> ReleaseTile:
    """Return an accepted tile with its mask, both written into `store`."""
    tile, mask = reviewed_tile(store, number), drawn_mask(number)
    path = store / "masks" / f"{tile.sample_id}.tif"
    path.parent.mkdir(exist_ok=True)
    mask_panel(CLASSES).write(path, mask, synthetic_tags(ATTRIBUTION))
    return replace(
        tile,
        class_name=None,
        predicted=None,
        condition=f"tile_{number % 6}",
        mask=ReleaseMask(
            path=path,
            sha256=sha256_of(path),
            classes=tuple(name for k, name in enumerate(CLASSES) if (mask == k).any()),
        ),
    )


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> list[ReleaseTile]:
    store = tmp_path_factory.mktemp("masks") / "store"
    return [masked_tile(store, number) for number in reversed(range(COUNT))]


@pytest.fixture(scope="module")
def folder(tiles: list[ReleaseTile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(tmp_path_factory.mktemp("release") / "v1", tiles, classes=CLASSES)


@pytest.fixture(scope="module")
def read(folder: Path) -> Release:
    return read_release(folder)


class StripeTarget:
    """Gives every pixel the class that its number of B12 counts to, always as surely."""

    bands = BandSpec(names=("B12", "B02"), level="L1C")
    differentiable = False
    pixelwise = True

    def __init__(self, classes: tuple[str, ...] = CLASSES) -> None:
        self.classes = classes

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        k = len(self.classes)
        said = (image[:, 0] * 10_000).round().long() % k
        share = torch.full((len(image), k, *image.shape[2:]), 0.25 / (k - 1))
        return share.scatter(1, said[:, None], 0.75).log()


def pixels_of(path: Path, band: str | None = None) -> np.ndarray:
    """Return a band of a GeoTIFF, the first without a name, read by rasterio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            values: np.ndarray = file.read(1 + file.descriptions.index(band) if band else 1)
    return values


def test_everything_is_kept(read: Release, tiles: list[ReleaseTile]) -> None:
    """Tiles and masks are those of the review, byte by byte, with all that is known of them."""
    assert (read.pixelwise, read.classes) == (True, CLASSES)
    before = {one.sample_id: one for one in tiles}
    assert [one.sample_id for one in read.tiles] == sorted(before)
    for one in read.tiles:
        own = before[one.sample_id]
        assert one.mask is not None
        assert own.mask is not None
        assert one.path.read_bytes() == own.path.read_bytes()
        assert one.mask.path.read_bytes() == own.mask.path.read_bytes()
        assert replace(one, path=own.path, mask=replace(one.mask, path=own.mask.path)) == own
        names = one.mask.path.with_name(f"{one.mask.path.name}.aux.xml").read_text()
        assert all(f"<Category>{name}</Category>" in names for name in CLASSES)


def test_the_same_masks_give_the_same_checksums(
    read: Release, tiles: list[ReleaseTile], tmp_path: Path
) -> None:
    """The order of tiles does not count; a mask does."""
    again = release(tmp_path / "v1", tiles[::-1], classes=CLASSES)
    assert read_release(again).checksum == read.checksum
    assert tiles[0].mask is not None
    other = tmp_path / "other.tif"
    mask_panel(CLASSES).write(other, drawn_mask(COUNT - 1)[::-1].copy(), {})
    mask = replace(tiles[0].mask, path=other, sha256=sha256_of(other))
    changed = [replace(tiles[0], mask=mask), *tiles[1:-1]]
    following = release(tmp_path / "v2", changed, classes=CLASSES, parent=again)
    parent = read_release(following).parent
    assert parent is not None
    assert (parent.relabelled, parent.removed) == ((tiles[0].sample_id,), (tiles[-1].sample_id,))


def test_counts_are_of_tiles_that_show_a_class(folder: Path) -> None:
    """Release and datasheet say in how many tiles a class is seen, and how many tiles there are."""
    told = json.loads((folder / "release.json").read_text())
    seen = Counter(
        name
        for number in range(COUNT)
        for k, name in enumerate(CLASSES)
        if (drawn_mask(number) == k).any()
    )
    assert told["counts"]["class"] == dict(seen)
    assert sum(told["counts"]["round"].values()) == COUNT
    sheet = (folder / "DATASHEET.md").read_text()
    assert "each with a mask" in sheet
    assert "The masks are those of 6 real tiles" in sheet
    (everything,) = (line for line in sheet.splitlines() if line.startswith("| all |"))
    assert everything.endswith(f"| {COUNT} |")
    assert "None" not in sheet


def test_an_edited_mask_is_refused(tiles: list[ReleaseTile], folder: Path, tmp_path: Path) -> None:
    """Before the build, and in a release."""
    mask = tiles[3].mask
    assert mask is not None
    edited = tmp_path / "edited.tif"
    mask_panel(CLASSES).write(edited, drawn_mask(99), {})
    wrong = [*tiles[:3], replace(tiles[3], mask=replace(mask, path=edited)), *tiles[4:]]
    with pytest.raises(DataError, match="edited after its review"):
        release(tmp_path / "v1", wrong, classes=CLASSES)
    assert not (tmp_path / "v1").exists()
    copy = release(tmp_path / "v2", tiles, classes=CLASSES)
    path = copy / "masks" / f"{tiles[3].sample_id}.tif"
    path.write_bytes(edited.read_bytes())
    with pytest.raises(DataError, match="masks/"):
        read_release(copy)


def test_what_does_not_fit_is_refused(tiles: list[ReleaseTile], folder: Path) -> None:
    """Classes and masks in one release, a parent of the other kind, unknown classes."""
    where = folder.parent
    classed = reviewed_tile(where / "store", 99)
    with pytest.raises(DataError, match="one has a mask and one not"):
        release(where / "v3", [*tiles, classed], classes=(*CLASSES, *classed.classes))
    with pytest.raises(DataError, match="release v1 has masks"):
        release(where / "v3", [classed], parent=folder)
    with pytest.raises(DataError, match="the unknown class 'damage'"):
        release(where / "v3", tiles, classes=CLASSES[:1])
    with pytest.raises(DataError, match="a class or a mask"):
        replace(tiles[0], class_name="damage")
    mask = tiles[0].mask
    assert mask is not None
    told = replace(tiles[0], mask=replace(mask, classes=("background",)))
    with pytest.raises(DataError, match=r"the mask of tile s0023 has .* of background, damage"):
        release(where / "v3", [told, *tiles[1:]], classes=CLASSES)


def test_figures_are_those_of_a_plain_loop(read: Release) -> None:
    """Intersection over union and the share of right pixels, by round too; unknown pixels aside."""
    target = StripeTarget()
    assert isinstance(target, TargetModel)
    report = evaluate_release(read, target)
    pairs: dict[int, Counter[tuple[int, int]]] = {}
    for one in read.tiles:
        assert one.mask is not None
        truth, said = pixels_of(one.mask.path), pixels_of(one.path, "B12") % len(CLASSES)
        known = truth != UNKNOWN
        pairs.setdefault(one.round, Counter()).update(
            zip(truth[known].tolist(), said[known].tolist(), strict=True)
        )
    total = sum(pairs.values(), Counter[tuple[int, int]]())
    for k, name in enumerate(CLASSES):
        union = sum(n for pair, n in total.items() if k in pair)
        assert report["iou"][name] == pytest.approx(total[k, k] / union)
        low, high = report["iou_95"][name]
        assert low <= report["iou"][name] <= high
    for counts, figures in [
        (total, report),
        *((pairs[int(k)], v) for k, v in report["round"].items()),
    ]:
        right = sum(n for (a, b), n in counts.items() if a == b)
        assert figures["pixel_accuracy"] == pytest.approx(right / counts.total())
        assert figures["pixels"] == counts.total()
    assert set(report["round"]) == {str(number) for number in pairs}
    assert report["mean_confidence"] == pytest.approx(0.75)
    assert report["release"] == {"version": "v1", "checksum": read.checksum}
    assert "never be averaged with accuracy on real test data" in report["note"]


def test_targets_of_the_other_kind_are_refused(read: Release, tmp_path: Path) -> None:
    """A classifier on masks, a segmenter on classes, and one that lacks a class."""

    class Classifier(StripeTarget):
        pixelwise = False

    with pytest.raises(ModelError, match="one class per tile, and the labels of release v1 are m"):
        evaluate_release(read, Classifier())
    classed = release(tmp_path / "v1", [reviewed_tile(tmp_path / "store", 0)])
    with pytest.raises(
        ModelError, match=r"one class per pixel, and the labels .* classes of tiles"
    ):
        evaluate_release(read_release(classed), StripeTarget())
    with pytest.raises(ModelError, match="cloud"):
        evaluate_release(read, StripeTarget(("background", "damage")))


def test_torchgeo_reads_masks(folder: Path, read: Release) -> None:
    """A sample has an image and a mask, and is drawn with both."""
    data = ReviewedTiles(folder, bands=("B04", "B03", "B02"), checksum=True)
    assert len(data) == COUNT
    for sample, one in zip((data[0], data[5]), (read.tiles[0], read.tiles[5]), strict=True):
        assert one.mask is not None
        assert set(sample) == {"image", "mask", "sample_id"}
        assert np.array_equal(sample["mask"].numpy(), pixels_of(one.mask.path))
        assert sample["mask"].dtype == torch.int64
    sample["prediction"] = sample["mask"].clamp(max=1)
    figure = data.plot(sample, suptitle="one")
    assert [axes.get_title() for axes in figure.axes] == ["SYNTHETIC", "mask", "prediction"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(CLASSES)
    assert set(data.plot(data[0], show_titles=False).axes[0].get_title()) == set()


def test_stac_has_the_masks_as_raster_labels(folder: Path) -> None:
    """Items are valid, their labels are rasters with the mask as the asset, counted by class."""
    validator = JsonSchemaSTACValidator()
    for path in (folder / "stac" / "items").iterdir():
        item = json.loads(path.read_text())
        assert validator.validate_core(item, pystac.STACObjectType.ITEM, "1.1.0")
        told = item["properties"]
        assert (told["label:type"], told["label:tasks"]) == ("raster", ["segmentation"])
        assert told["label:properties"] is None
        assert told["label:classes"] == [{"name": None, "classes": list(CLASSES)}]
        number = int(item["id"][1:])
        shown = [name for k, name in enumerate(CLASSES) if (drawn_mask(number) == k).any()]
        assert [one["name"] for one in told["label:overviews"][0]["counts"]] == shown
        asset = item["assets"]["labels"]
        mask = (path.parent / asset["href"]).resolve()
        assert mask == (folder / "masks" / f"{item['id']}.tif").resolve()
        assert asset["file:checksum"] == "1220" + sha256_of(mask)
    collection = json.loads((folder / "stac" / "collection.json").read_text())
    assert validator.validate_core(collection, pystac.STACObjectType.COLLECTION, "1.1.0")
    assert collection["summaries"]["label:type"] == ["raster"]
    assert not (folder / "stac" / "labels").exists()


def test_qgis_shows_the_masks(folder: Path, qgis_python: str, tmp_path: Path) -> None:
    """The project opens with tiles and masks; a mask's colours are those of its legend."""
    result = run_offscreen(
        [qgis_python, str(SCRIPT), str(folder), str(tmp_path / "map.png"), "2"], tmp_path
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["valid"] == {"labels": True, "contact sheet": True, "mask": True}
    assert told["legend"] == ["mask accepted"]
    assert told["complaints"] == []
    with Image.open(tmp_path / "map.png") as image:
        drawn = np.asarray(image.convert("RGB"))
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in mask_panel(CLASSES).classes.values()} <= colours
    read_release(folder)
