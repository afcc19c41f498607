"""The probe tells apart what differs, and is a coin where nothing does."""

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rs_lowconf.bands import COMPOSITES, TRUE_COLOUR, BandSpec
from rs_lowconf.gan.frozen import frozen_network
from rs_lowconf.gan.pictures import (
    CompositeView,
    StoredView,
    draw_pictures,
    random_tiles,
    real_pictures,
)
from rs_lowconf.gan.probe import probe, probe_features, result_of
from rs_lowconf.gan.pyramid import PyramidGenerator
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.gan.source_quality import (
    NETWORK,
    Looks,
    Probed,
    halves,
    probe_kind,
    probe_measurements,
    probe_table,
)
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.tiles import PictureTiles
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import GanSettings

TILES = BandSpec(names=TRUE_COLOUR, level="L1C")


def features(count: int, shift: float, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 20, generator=rng)
    values[:, 0] += shift
    return values


def test_the_same_distribution_is_a_coin() -> None:
    """Two samples of one distribution: no area above 0.5, and 95 % are kept."""
    result, scores = probe(features(2_000, 0, 1), features(2_000, 0, 2), seed=0)
    assert result.auc == pytest.approx(0.5, abs=0.04)
    assert result.kept == pytest.approx(0.95, abs=0.04)
    assert len(scores) == 4_000


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_shift_gives_the_area_that_theory_says(shift: float) -> None:
    """Normal scores a shift apart: the area is the normal distribution at shift / sqrt(2)."""
    result, _ = probe(features(1_500, shift, 1), features(1_500, 0, 2), seed=0)
    assert result.auc == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.03)


def test_intervals_cover() -> None:
    """In 95 % of draws the interval holds the area of the population, within chance."""
    rng = np.random.default_rng(0)
    truth = np.arange(200) < 100
    held = 0
    for number in range(60):
        scores = rng.normal(size=200) + truth
        result = result_of(scores, truth, seed=number)
        held += result.auc_low <= norm.cdf(1 / 2**0.5) <= result.auc_high
        assert result.auc == pytest.approx(roc_auc_score(truth, scores))
    assert held >= 52


def test_pictures_go_through_jpeg_once() -> None:
    """Flat tiles keep their bytes; what is brighter than the range is cut off."""
    image = torch.stack([torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.9)])
    bands = BandSpec(names=TRUE_COLOUR, level="L1C", scale=1000.0, dn_offset=-1.0)
    view = StoredView(rendering=Rendering(bands=bands, eight_bits=True, chroma="half"))
    dark, bright = view.generated(image, bands)
    assert np.abs(dark.astype(int) - 101).max() <= 1
    assert (bright == 255).all()


def test_scores_are_those_of_scikit_learn() -> None:
    """Cross-validated by scikit-learn itself, with the same folds."""
    real, generated = features(60, 0.4, 1), features(50, 0.0, 2)
    _, scores = probe(real, generated, seed=3)
    x = torch.cat([real, generated]).double().numpy()
    y = np.arange(len(x)) < len(real)
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)),
        x,
        y,
        cv=StratifiedKFold(5, shuffle=True, random_state=3),
        method="decision_function",
    )
    assert scores == pytest.approx(expected)


def test_a_set_against_itself_is_a_coin() -> None:
    """Copies share the fold of their originals; else the probe would know them by a wrong name."""
    same = features(100, 0, 1)
    result, _ = probe(same, same[torch.randperm(100)], seed=0)
    assert result.auc == pytest.approx(0.5)
    assert result.kept >= 0.9


def test_constant_tiles_are_all_recognised() -> None:
    """The network of the probe sees at once that nothing is drawn on them; a real half passes."""
    rng = np.random.default_rng(0)
    network = frozen_network(NETWORK)
    grain = rng.integers(60, 190, (40, 32, 32, 3), dtype=np.uint8)
    level = rng.integers(60, 190, (20, 1, 1, 3), dtype=np.uint8)
    seen = [
        probe_features(network, own) for own in (grain, np.broadcast_to(level, (20, 32, 32, 3)))
    ]
    result, _ = probe(*seen, seed=0)
    assert result.auc == 1
    assert result.kept == 0
    labels = torch.arange(40) % 2
    sides = halves(Looks(features=seen[0], labels=labels), 2, per_class=None, seed=0)
    floor = probe_kind(*sides, ("a", "b"), per_class=None, seed=0)
    assert floor is not None
    assert floor.whole.auc_low < 0.6
    assert floor.whole.real == floor.whole.generated == 20


def test_both_sides_have_as_many_tiles_of_each_class() -> None:
    """The scarcer side decides, `per_class` bounds, and classes with few tiles have no row."""
    real = Looks(features=features(60, 0, 1), labels=torch.tensor([0] * 30 + [1] * 27 + [2] * 3))
    other = Looks(features=features(50, 3, 2), labels=torch.tensor([0] * 10 + [1] * 30 + [2] * 10))
    found = probe_kind(real, other, ("a", "b", "c"), per_class=20, seed=0)
    assert found is not None
    assert found.whole.real == found.whole.generated == 10 + 20 + 3
    assert {name: own.real for name, own in found.by_class.items()} == {"a": 10, "b": 20}
    assert probe_kind(real, other, ("a", "b", "c"), per_class=4, seed=0) is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(0, 9))
def test_halves_share_no_tile(label: list[int], most: int) -> None:
    """Disjoint, of equal numbers in every class, and at most so many of each."""
    looks = Looks(features=torch.arange(float(len(label)))[:, None], labels=torch.tensor(label))
    a, b = halves(looks, 3, per_class=most, seed=1)
    assert not set(a.features[:, 0].tolist()) & set(b.features[:, 0].tolist())
    counts = torch.bincount(looks.labels, minlength=3) // 2
    for own in (a, b):
        assert torch.equal(torch.bincount(own.labels, minlength=3), counts.clamp_max(most))


def test_lines_of_the_report_are_the_same_whatever_is_missing() -> None:
    """Each kind has its two lines, with numbers or with the reason why there are none."""
    result, _ = probe(features(40, 0, 1), features(40, 1, 2), seed=0)
    probed = Probed(whole=result, by_class={"a": result})
    lines = probe_measurements(
        ("found", "random", "few"), {"random": probed, "few": None}, probed, {"found": "no search"}
    )
    assert [line.name for line in lines] == [
        f"probe, {kind}: {what}"
        for kind in ("found", "random", "few")
        for what in ("AUC", "kept at 5 % false rejection")
    ]
    assert lines[1].note == "left out: no search"
    assert lines[2].measured is not None
    assert lines[2].measured.value == result.auc
    assert "fewer than 20" in lines[5].note
    table = probe_table({"random": probed, "few": None}, None, ("a", "b"))
    assert f"| a | {result.auc:.3f} (" in table
    assert "| b |  |  |  |" in table


def test_pictures_keep_their_bytes() -> None:
    """From bytes to reflectance and back, for real pictures; generated ones get one JPEG pass."""
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (45, 16, 16, 3), dtype=np.uint8)
    bands = BandSpec(names=TRUE_COLOUR, level="L1C", scale=254 / 0.275, dn_offset=-1.0)
    source = PictureTiles(stored, torch.zeros(45).long(), bands=bands, classes=("a",), name="x")
    view = StoredView(rendering=Rendering(bands=bands, eight_bits=True, chroma="half"))
    assert np.array_equal(real_pictures(source, view), stored)
    file = BytesIO()
    Image.fromarray(stored[3]).save(file, "JPEG", quality=100, subsampling="4:2:0")
    again = view.generated(source.batch([3]).image, bands)[0]
    assert np.array_equal(again, np.asarray(Image.open(file)))
    plain = StoredView(rendering=Rendering(bands=bands, eight_bits=True))
    assert np.array_equal(plain.generated(source.batch([3]).image, bands)[0], stored[3])


def test_composites_pick_their_bands() -> None:
    """Near infrared first, black at 0 and full brightness from 0.5 on."""
    bands = BandSpec(names=("B03", "B04", "B08"), level="L1C")
    image = torch.tensor([0.1, 0.25, 0.7])[None, :, None, None].expand(1, 3, 2, 2)
    shown = CompositeView(composite=COMPOSITES["near_infrared"]).real(image, bands)
    assert shown[0, 0, 0].tolist() == [255, 128, 51]


def test_random_tiles_are_the_same_for_the_same_seed() -> None:
    """In the numbers that a file would hold, of the wanted class, whatever is drawn besides."""
    basis = spectral_basis(torch.rand(20, 3, 16, 16), TILES, 0.01)
    settings = GanSettings(recipe="frozen", width=4, latent_global=4, latent_map=2)
    with forked_rng(0):
        generator = PyramidGenerator(
            settings, bands=TILES, classes=("a", "b"), tile_size=16, basis=basis
        ).eval()
    first, again = (next(random_tiles(generator, 1, 5)) for _ in range(2))
    assert torch.equal(first, again)
    numbers = first * TILES.scale
    assert torch.allclose(numbers, numbers.round(), atol=1e-2)
    assert not torch.equal(first, next(random_tiles(generator, 0, 5)))
    shown = CompositeView(composite=COMPOSITES["true_colour"])
    pictures, labels = draw_pictures(generator, torch.tensor([3, 50]), shown, 5)
    assert torch.equal(torch.bincount(labels), torch.tensor([3, 50]))
    assert np.array_equal(pictures[3:43], shown.generated(first, TILES))


@pytest.mark.parametrize("count", [229, 500])
def test_no_area_is_above_one(count: int) -> None:
    """Also where all is told apart, and the shares of resampled tiles round."""
    truth = np.arange(2 * count) < count
    found = result_of(np.where(truth, 1.0, -1.0), truth, seed=0)
    assert found.auc == found.auc_high == 1.0
    assert 1 - 1e-9 < found.auc_low <= 1.0
