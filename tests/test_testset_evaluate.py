"""A target's figures on a release, against scipy's beta distribution and a loop over the files."""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from jaxtyping import Float
from rasterio.errors import NotGeoreferencedWarning
from scipy.stats import beta
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.testset import Release, evaluate_release, read_release
from rs_lowconf.types import TargetModel
from tests.review_samples import CLASSES
from tests.testset_samples import BANDS, release, reviewed_tiles

COUNT = 150  # more than two batches


class CornerTarget:
    """Says the class that a pixel of band B12 counts to, with a probability of B02's."""

    def __init__(self, classes: tuple[str, ...], bands: tuple[str, ...] = ("B12", "B02")) -> None:
        self.bands = BandSpec(names=bands, level="L1C")
        self.classes = classes
        self.differentiable = False
        self.pixelwise = False
        self.asked = 0

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        self.asked += len(image)
        numbers = (image[:, :, 9, 9] * 10_000).round().long()
        said = numbers[:, 0] % len(self.classes)
        sure = 0.6 + (numbers[:, 1] % 7) / 20
        rest = (1 - sure) / (len(self.classes) - 1)
        share = rest[:, None].repeat(1, len(self.classes))
        return share.scatter(1, said[:, None], sure[:, None]).log()


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Release:
    where = tmp_path_factory.mktemp("evaluate")
    return read_release(release(where / "v1", reviewed_tiles(where / "store", COUNT)))


def answers(read: Release, classes: tuple[str, ...]) -> dict[str, tuple[str, float]]:
    """Return what `CornerTarget` says of each tile, and how surely, from the files."""
    said = {}
    for tile in read.tiles:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tile.path) as file:
                numbers = dict(zip(file.descriptions, file.read()[:, 9, 9].tolist(), strict=True))
        said[tile.sample_id] = (
            classes[numbers["B12"] % len(classes)],
            0.6 + numbers["B02"] % 7 / 20,
        )
    return said


def test_figures_are_those_of_a_plain_loop(read: Release) -> None:
    """Accuracy overall, by class and by round, the confusion and the confidence."""
    target = CornerTarget(CLASSES)
    assert isinstance(target, TargetModel)
    report = evaluate_release(read, target)
    said = answers(read, CLASSES)
    right = {tile.sample_id: said[tile.sample_id][0] == tile.class_name for tile in read.tiles}
    assert 0 < sum(right.values()) < COUNT
    assert report["release"] == {"version": "v1", "checksum": read.checksum}
    assert report["tiles"] == report["evaluated"] == target.asked == COUNT
    assert report["left_out"] == {}
    assert report["accuracy"]["value"] == sum(right.values()) / COUNT
    groups: list[tuple[str, str, str, str | int]] = [
        ("class_accuracy", name, "class_name", name) for name in CLASSES
    ]
    groups += [("round_accuracy", str(number), "round", number) for number in (1, 2, 3)]
    for figure, key, attribute, value in groups:
        own = [right[t.sample_id] for t in read.tiles if getattr(t, attribute) == value]
        assert report[figure][key]["n"] == len(own)
        assert report[figure][key]["value"] == sum(own) / len(own)
    assert set(report["round_accuracy"]) == {"1", "2", "3"}
    pairs = Counter((tile.class_name, said[tile.sample_id][0]) for tile in read.tiles)
    assert report["confusion"] == {a: {b: pairs[a, b] for b in CLASSES} for a in CLASSES}
    mean = sum(sure for _, sure in said.values()) / COUNT
    assert report["mean_confidence"] == pytest.approx(mean, abs=1e-6)
    assert "never be averaged with accuracy on real test data" in report["note"]


def test_intervals_are_exact(read: Release) -> None:
    """Ends of an interval are the quantiles of the beta distribution (Clopper and Pearson)."""
    report = evaluate_release(read, CornerTarget(CLASSES))
    figures = [report["accuracy"], *report["class_accuracy"].values()]
    for figure in (*figures, *report["round_accuracy"].values()):
        n = figure["n"]
        k = round(figure["value"] * n)
        assert 0 < k < n
        expected = [beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)]
        assert figure["interval_95"] == pytest.approx(expected)


def test_classes_go_by_name(read: Release) -> None:
    """A target with other classes in another order: unknown tiles are left out, and it is said."""
    classes = ("Ice", "Water", "Town", "Forest")
    report = evaluate_release(read, CornerTarget(classes))
    said = answers(read, classes)
    known = [tile for tile in read.tiles if tile.class_name != "Field"]
    right = sum(said[tile.sample_id][0] == tile.class_name for tile in known)
    fields = COUNT - len(known)
    assert (report["tiles"], report["evaluated"]) == (COUNT, len(known))
    assert report["left_out"] == {"Field": fields}
    assert report["accuracy"]["value"] == right / len(known)
    assert set(report["class_accuracy"]) == {"Forest", "Town", "Water"}
    assert set(report["confusion"]["Water"]) == set(classes)
    assert (
        f"Left out, as the target does not know their classes: Field ({fields})" in report["note"]
    )


def test_classes_without_tiles_have_no_accuracy(tmp_path: Path) -> None:
    """A class of which there is no tile yet is in the report, without a figure."""
    tiles = [one for one in reviewed_tiles(tmp_path / "store", 8) if one.class_name != "Water"]
    read = read_release(release(tmp_path / "v1", tiles))
    report = evaluate_release(read, CornerTarget(CLASSES))
    assert report["class_accuracy"]["Water"] == {
        "value": None,
        "interval_95": None,
        "count": 0,
        "n": 0,
    }
    assert sum(report["confusion"]["Water"].values()) == 0


def test_unfit_targets_are_refused(read: Release) -> None:
    """A target of other bands, of another level or of other classes is an error that says so."""
    few = replace(BANDS, names=BANDS.names[:4])
    with pytest.raises(ModelError, match="the target reads B12, release v1 has B01, B02"):
        evaluate_release(replace(read, bands=few), CornerTarget(CLASSES))
    with pytest.raises(ModelError, match="made for L1C, release v1 is L2A"):
        evaluate_release(replace(read, bands=replace(BANDS, level="L2A")), CornerTarget(CLASSES))
    with pytest.raises(ModelError, match="knows none of the classes Forest, Field, Town, Water"):
        evaluate_release(read, CornerTarget(("Ice", "Snow")))
    with pytest.raises(ModelError, match="'Forest' in release v1 and 'forest' in the target"):
        evaluate_release(read, CornerTarget(("forest", "Water")))
