"""Quality figures: laws, brute-force oracles, and generators whose faults are known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import poly_mmd

from rs_lowconf.bands import BandSpec
from rs_lowconf.gan.distances import (
    NEIGHBOURS,
    frechet_distance,
    kernel_distance,
    manifold_figures,
    nearest_features,
    nearest_pixels,
)
from rs_lowconf.gan.measure import (
    Measurement,
    Weights,
    mean_of,
    ratio_of,
    repeated_ratio,
    repeated_share,
    share_of,
    weigh,
)
from rs_lowconf.gan.quality import (
    Sets,
    classification_figures,
    distribution_figures,
    markdown,
    matched_sets,
    memorisation_figures,
    repeated_figures,
)
from rs_lowconf.gan.spectra import (
    GRID,
    PIXELS,
    index_of,
    limits_of,
    nearest_spectra,
    spectral_angle,
    spectral_divergence,
    tile_spectra,
    wasserstein,
)
from rs_lowconf.gan.spectral_quality import spectral_figures
from rs_lowconf.gan.tiles import (
    ChangedTiles,
    DrawnTiles,
    all_turns,
    at_most,
    decorrelate,
    fit_gaussian,
    standardise,
)
from rs_lowconf.measures import radial_power, turn
from rs_lowconf.types import TileSource
from tests.fakes import FakeSource

BANDS = BandSpec(names=("B02", "B03", "B04", "B08", "B11"), level="L1C")
CLASSES = ("a", "b", "c")


def source(seed: int = 0, per_class: int = 12, bands: BandSpec = BANDS) -> FakeSource:
    return FakeSource(bands, CLASSES, per_class, seed=seed)


def drawn(image: torch.Tensor, labels: torch.Tensor) -> DrawnTiles:
    return DrawnTiles(image, labels, bands=BANDS, classes=CLASSES, name="drawn")


def everything(labels: torch.Tensor, seed: int = 0) -> Weights:
    return weigh(labels, torch.bincount(labels), seed)


def features_of(tiles: TileSource) -> torch.Tensor:
    """Return band means, deviations and a few pixels: enough to tell tiles apart."""
    image = tiles.batch(range(len(tiles))).image
    parts = [image.mean((2, 3)), image.std((2, 3)), image[:, :, ::5, ::5].flatten(1)]
    return torch.cat(parts, dim=1)


def sets_of(generated: TileSource, train: TileSource, test: TileSource) -> Sets:
    named = {"generated": generated, "train": train, "test": test}
    limits = limits_of(train)
    return matched_sets(
        {name: features_of(own) for name, own in named.items()},
        {name: tile_spectra(own, limits, 3) for name, own in named.items()},
        bands=train.bands,
        classes=train.classes,
        seed=5,
    )


def by_name(measurements: Sequence[Measurement]) -> dict[str, Measurement]:
    return {one.name: one for one in measurements}


class TestIntervals:
    """Weights, bootstrap and Wilson intervals."""

    def test_subsets_hold_the_wanted_tiles_and_classes_weigh_the_same(self) -> None:
        """Every row sums to 1 with an equal part for each class that is there."""
        labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
        weights = weigh(labels, torch.tensor([5, 4, 0]), seed=1)
        assert weights.n == 9
        for rows in (weights.draws, weights.resamples):
            for k, share in enumerate((0.5, 0.5, 0.0)):
                torch.testing.assert_close(
                    rows[:, labels == k].sum(1), torch.full((len(rows),), share).double()
                )
        assert ((weights.draws[:, labels == 0] > 0).sum(1) == 5).all()
        assert weights.count(labels == 1) == 4

    def test_the_bootstrap_interval_covers_the_truth(self) -> None:
        """Of 150 simulated samples about 95 % have the true mean in their interval."""
        dice = torch.Generator().manual_seed(0)
        labels = torch.arange(40) % 2
        weights = everything(labels)
        hits = 0
        for _ in range(150):
            values = torch.randn(40, generator=dice).exp()
            found = mean_of(values, weights)
            hits += found.low <= math.exp(0.5) <= found.high
        assert 0.86 <= hits / 150 <= 0.99

    def test_wilson_agrees_with_scipy(self) -> None:
        """Shares at both ends and between."""
        for right in (0, 3, 20):
            ours = share_of(torch.arange(20) < right)
            theirs = scipy.stats.binomtest(right, 20).proportion_ci(method="wilson")
            assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)

    def test_a_ratio_is_paired(self) -> None:
        """Equal answers have the ratio 1 without any doubt; unpaired ones would not."""
        right = torch.arange(50) % 3 > 0
        ratio = ratio_of(right, right, 0)
        assert ratio is not None
        assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
        assert ratio_of(right, torch.zeros(50, dtype=torch.bool), 0) is None


class TestDistances:
    """Clouds of features."""

    def test_kid_is_the_one_of_torchmetrics(self) -> None:
        """For sets of one size and without classes the value is that of `poly_mmd`."""
        dice = torch.Generator().manual_seed(1)
        a, b = torch.randn(2, 12, 7, generator=dice).double()
        weights = everything(torch.zeros(12).long())
        ours = kernel_distance(a, b + 0.3, weights, weights)
        assert ours.value == pytest.approx(float(poly_mmd(a, b + 0.3)), rel=1e-9)
        assert ours.low < ours.value < ours.high

    def test_kid_of_one_distribution_is_zero_on_average(self) -> None:
        """Unbiased: the mean over pairs of samples is within its error of 0.

        Sizes differ, and so do the classes, of which each sample has a fixed number of tiles.
        """
        dice = torch.Generator().manual_seed(2)
        small, large = torch.arange(9) % 3, torch.arange(21) % 3
        weights = everything(small), everything(large)

        def draw(label: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(label), 3, generator=dice) + 2 * label[:, None]

        values = torch.tensor(
            [kernel_distance(draw(small), draw(large), *weights).value for _ in range(60)]
        )
        assert abs(float(values.mean())) < 2.5 * float(values.std()) / math.sqrt(60)

    def test_kid_of_single_tiles_is_a_number(self) -> None:
        """A class with one tile has no pair of different tiles, and does not spoil the figure."""
        weights = everything(torch.tensor([0, 0, 1]))
        found = kernel_distance(torch.randn(3, 2), torch.randn(3, 2), weights, weights)
        assert math.isfinite(found.value + found.low + found.high)

    def test_the_frechet_distance_agrees_with_scipy(self) -> None:
        """The textbook formula with a matrix square root."""
        dice = np.random.default_rng(0)
        a, b = dice.normal(size=(30, 4)), dice.normal(1, 2, size=(40, 4))
        first, second = np.cov(a.T), np.cov(b.T)
        root = scipy.linalg.sqrtm(first @ second).real
        expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(first + second - 2 * root)
        ours = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
        assert ours == pytest.approx(expected, rel=1e-8)

    def test_manifold_figures_agree_with_loops(self) -> None:
        """Precision, recall, density and coverage as their papers define them."""
        dice = np.random.default_rng(3)
        fake, real = dice.normal(size=(14, 2)), dice.normal(0.7, 1, size=(11, 2))

        def reach(points: np.ndarray, i: int) -> float:
            return float(sorted(np.linalg.norm(points - points[i], axis=1))[NEIGHBOURS])

        near = np.array([[np.linalg.norm(f - r) for r in real] for f in fake])
        in_real = near <= [reach(real, j) for j in range(11)]
        in_fake = near <= np.array([reach(fake, i) for i in range(14)])[:, None]
        expected = {
            "precision": in_real.any(1).mean(),
            "recall": in_fake.any(0).mean(),
            "density": in_real.sum() / (NEIGHBOURS * 14),
            "coverage": in_real.any(0).mean(),
        }
        ours = manifold_figures(
            torch.from_numpy(fake),
            torch.from_numpy(real),
            everything(torch.zeros(14).long()),
            everything(torch.zeros(11).long()),
        )
        assert {name: own.value for name, own in ours.items()} == pytest.approx(expected)

    def test_nearest_tiles_are_found_in_any_orientation(self) -> None:
        """A loop over numpy's turns and mirrors gives the same distances."""
        query, bank = source(1, 2), source(2, 3)
        scale = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
        ours = torch.cat(list(nearest_pixels(query, bank, scale)))
        a = query.batch(range(len(query))).image.numpy() / scale.numpy()[:, None, None]
        b = bank.batch(range(len(bank))).image.numpy() / scale.numpy()[:, None, None]
        versions = [np.rot90(m, t, (2, 3)) for m in (b, b[..., ::-1]) for t in range(4)]
        expected = [
            min(np.sqrt(np.square(v - tile).mean((1, 2, 3))).min() for v in versions) for tile in a
        ]
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4)


class TestSpectra:
    """Spectra, indices and texture."""

    @given(st.floats(0.1, 10), st.integers(0, 1000))
    @settings(max_examples=20)
    def test_scaled_spectra_have_no_angle_and_no_divergence(self, factor: float, seed: int) -> None:
        """Both ignore brightness."""
        spectra = 0.02 + torch.rand(3, 5, generator=torch.Generator().manual_seed(seed))
        angle = spectral_angle(spectra, factor * spectra).diagonal()
        divergence = spectral_divergence(spectra, factor * spectra).diagonal()
        assert float(angle.max()) < 0.03  # arccos of a float32 ratio near 1
        assert float(divergence.max()) < 1e-10

    def test_angle_and_divergence_agree_with_their_definitions(self) -> None:
        """Loops over pairs; the divergence is symmetric and the sum of both relative entropies."""
        dice = np.random.default_rng(0)
        a, b = dice.uniform(0.01, 1, (4, 5)), dice.uniform(0.01, 1, (3, 5))
        angle = spectral_angle(torch.from_numpy(a), torch.from_numpy(b))
        ours = spectral_divergence(torch.from_numpy(a), torch.from_numpy(b))
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
                assert float(angle[i, j]) == pytest.approx(math.degrees(math.acos(cosine)))
                both = scipy.stats.entropy(x, y) + scipy.stats.entropy(y, x)
                assert float(ours[i, j]) == pytest.approx(both)
        back = spectral_divergence(torch.from_numpy(b), torch.from_numpy(a))
        torch.testing.assert_close(ours, back.T)

    def test_nearest_spectra_agree_with_a_loop(self) -> None:
        """The mean over a tile's pixels of the least angle among the class's pixels."""
        limits = limits_of(source())
        own, bank = tile_spectra(source(1, 2), limits, 1), tile_spectra(source(2, 3), limits, 2)
        ours = nearest_spectra(own, bank, 0)["angle"]
        for i, label in enumerate(own.labels.tolist()):
            known = bank.pixels[bank.labels == label].reshape(-1, 5)
            each = [float(spectral_angle(p[None], known).min()) for p in own.pixels[i]]
            assert len(each) == PIXELS
            assert float(ours[i]) == pytest.approx(np.mean(each))

    def test_wasserstein_agrees_with_scipy(self) -> None:
        """Distribution functions on the grid give scipy's distance but for the grid's step."""
        dice = np.random.default_rng(1)
        a, b = dice.uniform(-0.5, 0.9, 300), dice.normal(0, 0.2, 200).clip(-1, 1)
        grid = GRID.numpy()
        first, second = ((values[:, None] <= grid).mean(0)[None] for values in (a, b))
        ours = float(wasserstein(torch.from_numpy(first), torch.from_numpy(second)))
        assert ours == pytest.approx(scipy.stats.wasserstein_distance(a, b), abs=0.003)

    def test_indices_are_normalised_differences(self) -> None:
        """NDVI by hand; black and negative pixels stay within -1 .. 1."""
        pixels = torch.zeros(1, 5, 3)
        pixels[0, 3], pixels[0, 2] = torch.tensor([0.4, 0.0, 0.1]), torch.tensor([0.1, 0.0, -0.05])
        values = index_of(pixels, BANDS, "NDVI")
        torch.testing.assert_close(values, torch.tensor([[0.6, 0.0, 1.0]]))

    def test_a_wave_has_its_power_in_its_ring(self) -> None:
        """Five cycles per tile peak in the fifth ring; a constant has no power."""
        wave = torch.sin(2 * math.pi * 5 * torch.arange(32) / 32).expand(1, 1, 32, 32)
        power = radial_power(wave)
        assert power.shape == (1, 1, 16)
        assert int(power[0, 0].argmax()) + 1 == 5
        assert float(radial_power(torch.ones(1, 1, 32, 32)).max()) < 1e-20

    def test_impossible_and_negative_pixels_are_counted(self) -> None:
        """One bright pixel and one negative pixel of 256."""
        image = source().batch(range(36)).image.clone()
        limits = limits_of(source())
        image[0, 2, 3, 3], image[1, 4, 0, 0] = 9.0, -0.5
        found = tile_spectra(drawn(image, source().labels), limits, 0)
        assert float(found.impossible[0]) == pytest.approx(1 / 256)
        negative = (image < 0).any(1).double().mean((1, 2))
        torch.testing.assert_close(found.negative, negative)
        assert float(found.negative[1]) >= 1 / 256

    def test_band_figures_see_a_known_change(self) -> None:
        """Twice the contrast about the mean: no error of means, log 2 in every deviation."""
        tiles = source(per_class=4)
        image = tiles.batch(range(12)).image
        middle = image.mean((0, 2, 3), keepdim=True)
        figures = by_name(
            spectral_figures(
                sets_of(drawn(middle + 2 * (image - middle), tiles.labels), tiles, tiles)
            )[0]
        )
        values = {name: own.measured.value for name, own in figures.items() if own.measured}
        assert values["band means"] == pytest.approx(0, abs=1e-3)
        assert values["band deviations"] == pytest.approx(math.log(2), abs=1e-3)
        assert values["band correlations"] == pytest.approx(0, abs=1e-3)
        assert values["radial power"] == pytest.approx(2 * math.log(2), abs=0.01)

    def test_indices_without_their_bands_are_left_out_with_a_reason(self) -> None:
        """Without B11 there is no NDBI, and the table says so."""
        tiles = source(per_class=4, bands=BandSpec(names=("B03", "B04", "B08"), level="L1C"))
        figures = by_name(spectral_figures(sets_of(tiles, tiles, tiles))[0])
        assert figures["NDVI distance"].measured is not None
        assert figures["NDBI distance"].measured is None
        assert "B11" in figures["NDBI distance"].note


class TestTiles:
    """Sources of drawn and changed tiles."""

    def test_gaussian_tiles_have_the_statistics_and_no_texture(self) -> None:
        """Means and covariances of many drawn tiles are the real ones'; neighbours do not agree."""
        real = source(per_class=30)
        fitted = fit_gaussian(real)
        image = fitted.draw(torch.ones(600, dtype=torch.long), 16, seed=3)
        own = real.batch(torch.nonzero(real.labels == 1)[:, 0].tolist()).image.double()
        pixels = own.flatten(2) - own.mean((2, 3))[:, :, None]
        within = (pixels @ pixels.mT / 256).mean(0)
        torch.testing.assert_close(
            image.mean((0, 2, 3)).double(), own.mean((0, 2, 3)), atol=2e-4, rtol=0
        )
        centred = image.double().flatten(2) - image.double().mean((2, 3))[:, :, None]
        torch.testing.assert_close(
            (centred @ centred.mT / 255).mean(0), within, atol=float(within.max()) * 0.01, rtol=0
        )
        between = torch.cov(own.mean((2, 3)).T) + within / 256
        drawn_between = torch.cov(image.double().mean((2, 3)).T)
        torch.testing.assert_close(
            drawn_between, between, atol=float(between.abs().max()) * 0.25, rtol=0
        )
        flat = centred.view(600, 5, 16, 16)
        neighbours = (flat[..., 1:] * flat[..., :-1]).mean((0, 2, 3)) / flat.square().mean(
            (0, 2, 3)
        )
        assert float(neighbours.abs().max()) < 0.02

    def test_standardised_tiles_have_no_colour(self) -> None:
        """Mean 0 and deviation 1 in every band; a constant band becomes 0, not noise."""
        image = source().batch([0, 1, 2]).image.clone()
        image[0, 0] = 0.25
        found = standardise(image)
        torch.testing.assert_close(found.mean((2, 3)), torch.zeros(3, 5), atol=1e-5, rtol=0)
        spread = found.std((2, 3), correction=0)
        assert float(spread[0, 0]) == 0
        torch.testing.assert_close(spread[1:], torch.ones(2, 5))

    def test_decorrelated_tiles_have_texture_alone(self) -> None:
        """Mean 0 and the identity as covariance in every tile; a constant band stays near 0."""
        image = source().batch([0, 1, 2]).image.clone()
        image[2, 4] = 0.25
        found = decorrelate(image).double().flatten(2)
        covariance = found @ found.mT / 256
        torch.testing.assert_close(found.mean(2), torch.zeros(3, 5).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(covariance[:2], torch.eye(5).double().expand(2, 5, 5))
        assert float(found[2, 4].abs().max()) < 0.1

    def test_drawn_tiles_are_rounded_as_files_are(self) -> None:
        """The digital numbers are whole, offset included."""
        bands = BandSpec(names=("B02",), level="L2A", dn_offset=-1000.0)
        tiles = DrawnTiles(
            torch.rand(3, 1, 16, 16), torch.zeros(3).long(), bands=bands, classes=("a",), name="x"
        )
        numbers = tiles.batch([0, 1, 2]).image.double() * 10_000 + 1000
        torch.testing.assert_close(numbers, numbers.round(), atol=2e-3, rtol=0)
        assert isinstance(tiles, TileSource)

    def test_views_show_the_source(self) -> None:
        """`at_most` keeps so many tiles a class; `ChangedTiles` keeps ids and labels."""
        real = source()
        some = at_most(real, 4, 0)
        assert torch.bincount(some.labels).tolist() == [4, 4, 4]
        place = [real.ids.index(name) for name in some.ids]
        assert torch.equal(some.batch([1, 5]).image, real.batch([place[1], place[5]]).image)
        assert torch.equal(some.labels, real.labels[place])
        view = ChangedTiles(real, lambda image: image + 1)
        assert view.ids == real.ids
        assert torch.equal(view.batch([2]).image, real.batch([2]).image + 1)
        assert isinstance(view, TileSource)
        assert isinstance(some, TileSource)


class TestTables:
    """Generators whose faults are known."""

    def test_real_tiles_in_place_of_generated_ones_give_the_floor(self) -> None:
        """The training tiles themselves get the same value as the floor in every figure."""
        sets = sets_of(source(1), source(1), source(2, 8))
        figures = distribution_figures(sets)
        for one in (*figures, *spectral_figures(sets)[0]):
            if one.measured is None or one.floor is None or "nearest" in one.name:
                continue
            if one.name not in ("impossible pixels", "negative pixels"):
                assert one.measured.value == pytest.approx(one.floor.value), one.name
            assert one.measured.low <= one.measured.value <= one.measured.high

    def test_other_real_tiles_are_near_the_floor(self) -> None:
        """Fresh tiles of the same distribution have intervals that overlap the floor's."""
        sets = sets_of(source(7), source(1), source(2, 12))
        for one in distribution_figures(sets):
            if one.measured is not None and one.floor is not None:
                assert one.measured.low <= one.floor.high, one.name
                assert one.measured.high >= one.floor.low, one.name

    def test_a_collapsed_generator_has_low_recall_and_diversity(self) -> None:
        """One tile a class over and over: the reals' variety is missed."""
        train = source(1)
        first = train.batch([0, 1, 2]).image
        noise = 1e-3 * torch.randn(36, 5, 16, 16, generator=torch.Generator().manual_seed(0))
        collapsed = drawn(first[train.labels] + noise, train.labels)
        figures = by_name(distribution_figures(sets_of(collapsed, train, source(2))))
        for name in ("recall", "coverage", "Vendi score"):
            measured, floor = figures[name].measured, figures[name].floor
            assert measured is not None
            assert floor is not None
            assert measured.high < floor.low, name

    def test_wrong_colours_are_far(self) -> None:
        """Brighter tiles have a KID above the floor, and low precision."""
        train = source(1)
        bright = drawn(train.batch(range(36)).image * 1.5, train.labels)
        figures = by_name(distribution_figures(sets_of(bright, train, source(2))))
        for name, sign in (("KID-S2", 1), ("precision", -1)):
            measured, floor = figures[name].measured, figures[name].floor
            assert measured is not None
            assert floor is not None
            assert sign * (measured.value - floor.value) > 0.02

    def test_few_tiles_leave_figures_out_with_a_reason(self) -> None:
        """Two tiles a class are too few for covariances and for manifolds of 5 neighbours."""
        tiles = FakeSource(BANDS, ("a", "b"), 2)
        figures = by_name(distribution_figures(sets_of(tiles, tiles, tiles)))
        for name in ("FD-S2", "precision", "coverage"):
            assert figures[name].measured is None
            assert "left out" in figures[name].note

    def test_a_memorising_generator_is_flagged(self) -> None:
        """Turned copies of training tiles are nearer than held-out tiles; fresh tiles are not."""
        train, held, fresh = source(1), source(2, 20), source(3)
        copies = ChangedTiles(train, lambda image: turn(image, 6))
        scale = torch.full((5,), 0.1)
        bank = features_of(train)

        def distances(tiles: TileSource) -> dict[str, torch.Tensor]:
            versions = [features_of(view) for view in all_turns(tiles)]
            pixels = torch.cat(list(nearest_pixels(tiles, train, scale)))
            return {"features": nearest_features(versions, bank), "pixels": pixels}

        for tiles, least, most in ((copies, 1.0, 1.0), (fresh, 0.0, 0.1)):
            for one in memorisation_figures(distances(tiles), distances(held)):
                assert one.measured is not None
                assert least <= one.measured.value <= most, one.name

    def test_class_figures_name_what_each_is_trained_on(self) -> None:
        """Accuracies and ratios come from the answers, the real-trained one being the floor."""
        real = torch.arange(20) < 16
        right = {("v", "real"): real, ("v", "generated"): torch.arange(20) < 8}
        right["v", "gaussian"] = torch.zeros(20, dtype=torch.bool)
        figures = by_name(classification_figures(right, 10, 0))
        accuracy, ratio = figures["CAS, v"], figures["CAS, v, ratio to real"]
        assert accuracy.measured is not None
        assert accuracy.floor is not None
        assert ratio.measured is not None
        assert (accuracy.measured.value, accuracy.floor.value) == (0.4, 0.8)
        assert ratio.measured.value == pytest.approx(0.5)
        assert ratio.measured.low < 0.5 < ratio.measured.high

    def test_the_table_is_markdown(self) -> None:
        """Every line of the table has the same number of cells."""
        tiles = source(per_class=4)
        sets = sets_of(tiles, tiles, tiles)
        groups = {"A": distribution_figures(sets), "B": spectral_figures(sets)[0]}
        rows = [line for line in markdown(groups).splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
        assert len(rows) == 4 + sum(len(own) for own in groups.values())


@pytest.mark.usefixtures("unchecked")
def test_ratios_over_several_trainings_cover() -> None:
    """Two kinds of classifiers over the same tiles, some of which are hard for both."""
    rng = torch.Generator().manual_seed(0)
    held = 0
    for number in range(30):
        hard = torch.rand(200, generator=rng) < 0.2
        chance = torch.where(hard, 0.5, 0.95)
        above = torch.rand(3, 200, generator=rng) < 0.9 * chance
        below = torch.rand(3, 200, generator=rng) < chance
        ratio = repeated_ratio(above, below, number)
        assert ratio is not None
        assert ratio.value == pytest.approx(above.double().mean() / below.double().mean())
        held += ratio.low <= 0.9 <= ratio.high
        share = repeated_share(below, number)
        assert share.low <= share.value <= share.high
    assert held >= 25
    assert repeated_ratio(above, torch.zeros(3, 200, dtype=torch.bool), 0) is None


def test_a_training_that_ended_elsewhere_widens_the_interval() -> None:
    """Three trainings alike and three apart have the same mean, but not the same interval."""
    rng = torch.Generator().manual_seed(0)
    alike = torch.rand(3, 400, generator=rng) < 0.8
    apart = torch.stack([torch.rand(400, generator=rng) < p for p in (0.6, 0.8, 1.0)])
    near, far = (repeated_share(own, 0) for own in (alike, apart))
    assert far.high - far.low > 2 * (near.high - near.low)


def test_repeated_figures_name_kind_and_view() -> None:
    """Two lines for generated tiles and two for those without texture, per view."""
    right = {
        ("v", kind): torch.rand(2, 50, generator=torch.Generator().manual_seed(n)) < share
        for n, (kind, share) in enumerate({"real": 0.9, "generated": 0.8, "gaussian": 0.4}.items())
    }
    lines = by_name(repeated_figures(right, 4, 0))
    assert list(lines) == [
        "CAS, v",
        "CAS, v, ratio to real",
        "CAS of tiles without texture, v",
        "CAS of tiles without texture, v, ratio to real",
    ]
    ratio = lines["CAS, v, ratio to real"].measured
    expected = right["v", "generated"].double().mean() / right["v", "real"].double().mean()
    assert ratio is not None
    assert ratio.value == pytest.approx(float(expected))
    assert "chance is 25 %" in lines["CAS, v"].note
