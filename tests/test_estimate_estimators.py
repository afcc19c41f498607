"""Estimates: right on average to the last digit, by enumerating everything that can be drawn."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from fewhumans.estimators.active import active_mean
from numpy.typing import NDArray
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate
from scipy.stats import norm

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.accuracy import accuracies, error_matrix
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.estimators import naive
from rs_lowconf.estimate.methods import METHODS, PPI
from rs_lowconf.settings import DesignName

G = np.array([0.05, 0.7, 0.3, 0.5, 0.1])
POOL = Pool(g=G, predicted=np.array([0, 0, 1, 1, 1]))
ERROR = np.array([True, True, False, False, True])
RATE = 0.6


def draw_of(design: str, index: Any, chance: Any, **parts: Any) -> Draw:
    """Return a draw made by hand."""
    values = {"population": 5, "largest_ratio": 9.0, "expected_ratio": 1.0, **parts}
    return Draw(
        design=design,  # type: ignore[arg-type]  # a test's short hand
        index=np.array(index),
        chance=np.array(chance, dtype=float),
        **values,
    )


class TestEnumeration:
    """Sums over all draws of a pool of five, weighed by their chances."""

    @pytest.mark.parametrize("labels", [1, 2, 3, 4, 5])
    def test_lure_is_unbiased(self, labels: int) -> None:
        """The mean over every order is the error rate, to 1e-12."""
        first = np.sqrt(G) / np.sqrt(G).sum()
        mean = total = 0.0
        for order in itertools.permutations(range(5), labels):
            gone = np.concatenate([[0.0], np.cumsum(first[list(order)])[:-1]])
            chance = first[list(order)] / (1 - gone)
            draw = draw_of("lure", order, np.minimum(chance, 1.0))
            total += chance.prod()
            mean += chance.prod() * estimate(draw, ERROR[list(order)], POOL).value
        assert total == pytest.approx(1, abs=1e-12)
        assert mean == pytest.approx(RATE, abs=1e-12)

    def test_a_pool_labelled_whole_has_its_own_rate_and_no_variance(self) -> None:
        """Every design without replacement then says exactly what is."""
        names: tuple[DesignName, ...] = ("uniform", "by_class", "lure")
        for name in names:
            draw = DESIGNS[name].prepare(POOL, 5)(0)
            one = estimate(draw, ERROR[draw.index], POOL)
            assert one.value == pytest.approx(RATE, abs=1e-12)
            assert one.variance == pytest.approx(0, abs=1e-12)

    def test_the_stratified_mean_and_its_variance_are_unbiased(self) -> None:
        """Over all pairs from both strata: the mean is the rate, the mean variance the spread."""
        values, variances = [], []
        for one in itertools.combinations(range(3), 2):
            for other in itertools.combinations(range(3, 5), 2):
                index = [*one, *other]
                draw = draw_of(
                    "stratified",
                    index,
                    [2 / 3, 2 / 3, 1, 1],
                    columns={"stratum": np.array([0, 0, 1, 1])},
                    constants={"stratum_sizes": np.array([3, 2])},
                )
                said = estimate(draw, ERROR[index], POOL)
                values.append(said.value)
                variances.append(said.variance)
        assert np.mean(values) == pytest.approx(RATE, abs=1e-12)
        assert np.mean(variances) == pytest.approx(np.var(values), abs=1e-12)

    def test_hansen_hurwitz_and_its_variance_are_unbiased(self) -> None:
        """Over all 125 drawings of three with replacement."""
        chance = np.sqrt(G) / np.sqrt(G).sum()
        self._check(
            [
                (draw_of("importance", index, chance[list(index)]), chance[list(index)].prod())
                for index in itertools.product(range(5), repeat=3)
            ]
        )

    def test_waves_and_their_variance_are_unbiased(self) -> None:
        """Also where the second wave's chances depend on what the first one found."""
        base = np.sqrt(G) / np.sqrt(G).sum()
        draws = []
        for first in itertools.product(range(5), repeat=2):
            # Drawn to errors if there were any, away from them if not.
            power = 1.5 if ERROR[list(first)].any() else 0.3
            later = base**power / (base**power).sum()
            for second in itertools.product(range(5), repeat=2):
                chance = np.concatenate([base[list(first)], later[list(second)]])
                draw = draw_of(
                    "adaptive",
                    [*first, *second],
                    chance,
                    columns={"batch": np.array([0, 0, 1, 1]), "control": np.zeros(4)},
                    constants={"control_mean": np.zeros(2)},
                )
                draws.append((draw, chance.prod()))
        values, weights = self._check(draws)
        assert weights.sum() == pytest.approx(1)
        assert len(np.unique(values)) > 20

    def _check(self, draws: list[tuple[Draw, float]]) -> tuple[NDArray[Any], NDArray[Any]]:
        said = [estimate(draw, ERROR[draw.index], POOL) for draw, _ in draws]
        weights = np.array([weight for _, weight in draws])
        values = np.array([one.value for one in said])
        assert weights @ values == pytest.approx(RATE, abs=1e-12)
        spread = weights @ (values - RATE) ** 2
        assert weights @ [one.variance for one in said] == pytest.approx(spread, abs=1e-12)
        return values, weights

    def test_active_inference_is_the_published_formula(self) -> None:
        """Its value to 1e-12 on every subset, and the authors' variance but for P (1 - P) / N.

        Zrnic and Candes 2024, equation 2 and the variance below it, as a loop over the pool:
        theta = 1/n sum (f + (y - f) xi / pi), variance of its terms over n. They let the pool
        vary, we do not: on average over draws the two differ by the variance of a mean of n.
        """
        pi = np.array([0.2, 0.9, 0.6, 0.7, 0.4])
        mean = ours = theirs = spread = 0.0
        for taken in itertools.product([0, 1], repeat=5):
            weight = np.prod([p if one else 1 - p for one, p in zip(taken, pi, strict=True)])
            terms = []
            for unit in range(5):
                term = G[unit]
                if taken[unit]:
                    term += (float(ERROR[unit]) - G[unit]) / pi[unit]
                terms.append(term)
            index = np.nonzero(np.array(taken))[0]
            theta, variance = np.mean(terms), 0.0
            if len(index):
                said = estimate(draw_of("active", index, pi[index]), ERROR[index], POOL)
                assert said.value == pytest.approx(theta, abs=1e-12)
                variance = said.variance
            mean += weight * theta
            ours += weight * variance
            theirs += weight * np.var(terms) / 5
            spread += weight * (theta - RATE) ** 2
        assert mean == pytest.approx(RATE, abs=1e-12)
        assert ours == pytest.approx(spread, abs=1e-12)
        assert theirs - ours == pytest.approx((RATE * (1 - RATE) - ours) / 5, abs=1e-12)


def test_active_inference_is_that_of_fewhumans() -> None:
    """The same value to 1e-12 as an independent package has, which lets the pool vary too."""
    pool, error = simulated(0.3)
    for seed in range(5):
        draw = DESIGNS["active"].prepare(pool, 200)(seed)
        said = estimate(draw, error[draw.index], pool)
        names = [str(one) for one in draw.index]
        theirs = active_mean(
            {str(i): float(g) for i, g in enumerate(pool.g)},
            dict(zip(names, error[draw.index].astype(float).tolist(), strict=True)),
            dict(zip(names, draw.chance.tolist(), strict=True)),
        )
        assert said.value == pytest.approx(theirs.value, abs=1e-12)


def simulated(blind: float) -> tuple[Pool, NDArray[np.bool_]]:
    """Return a pool of 4,000 with 5 % errors, a share of which g does not expect."""
    dice = np.random.default_rng(7)
    g = dice.beta(0.15, 3, 4_000)
    wrong = np.zeros(4_000, dtype=bool)
    count = 200
    hidden = round(blind * count)
    wrong[dice.choice(4_000, count - hidden, replace=False, p=g / g.sum())] = True
    quiet = np.argsort(g)[:2_000]
    quiet = quiet[~wrong[quiet]]
    wrong[dice.choice(quiet, hidden, replace=False)] = True
    return Pool(g=g, predicted=dice.choice(3, 4_000, p=[0.6, 0.3, 0.1])), wrong


@pytest.mark.parametrize("blind", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_methods_are_right_on_average_wherever_errors_hide(
    method: MethodName, blind: float
) -> None:
    """Within 3 Monte-Carlo standard errors, and the variance they tell is the one they have."""
    pool, error = simulated(blind)
    rounds, labels = {"adaptive": 50, "ppi": 80}.get(method, 200), 200
    values, variances = np.empty(rounds), np.empty(rounds)
    draw_of = METHODS[method].replay(pool, error, labels)
    for seed in range(rounds):
        draw = draw_of(seed)
        said = METHODS[method].estimate(draw, error[draw.index], pool)
        values[seed], variances[seed] = said.value, said.variance
        assert said.weight.max() <= said.largest_weight * (1 + 1e-9)
    error_of_mean = values.std(ddof=1) / np.sqrt(rounds)
    assert abs(values.mean() - error.mean()) < 3 * error_of_mean
    assert 0.6 < variances.mean() / values.var() < 1.6


def test_prediction_power_is_the_package_of_its_authors() -> None:
    """Value and 90 % interval of ppi-python, from arrays built here."""
    pool, error = simulated(0.1)
    draw = DESIGNS["uniform"].prepare(pool, 300)(5)
    said = PPI.estimate(draw, error[draw.index], pool)
    rest = np.array([g for unit, g in enumerate(pool.g) if unit not in set(draw.index.tolist())])
    y, g = error[draw.index].astype(float), pool.g[draw.index]
    value = float(np.squeeze(ppi_mean_pointestimate(y, g, rest)))
    low, high = (float(np.squeeze(end)) for end in ppi_mean_ci(y, g, rest, alpha=0.1))
    assert said.value == pytest.approx(value, abs=1e-12)
    half = norm.ppf(0.95) * np.sqrt(said.variance)
    assert half == pytest.approx((high - low) / 2, abs=1e-12)
    with pytest.raises(SettingsError, match="needs a uniform draw, this one is importance"):
        PPI.estimate(DESIGNS["importance"].prepare(pool, 30)(0), np.zeros(30, dtype=bool), pool)


class TestAreas:
    """The worked example of Olofsson et al. 2014, section 5."""

    COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    """Deforestation, forest gain, stable forest, stable non-forest; map by reference."""
    PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
    HECTARES = 0.09
    """Of a pixel of 30 m."""

    def test_the_published_figures_come_out(self) -> None:
        """Overall accuracy, area of deforestation and both classes' accuracies, +- 1.96 errors."""
        said = accuracies(self.COUNTS, self.PIXELS)
        assert said.overall == pytest.approx(0.947, abs=5e-4)
        assert 1.96 * said.overall_error == pytest.approx(0.0185, abs=5e-5)
        hectares = self.PIXELS.sum() * self.HECTARES
        assert said.area[0] * hectares == pytest.approx(21_158, abs=1)
        assert 1.96 * said.area_error[0] * hectares == pytest.approx(6_158, abs=1)
        np.testing.assert_allclose(said.user, [0.88, 0.73, 0.93, 0.96], atol=0.005)
        np.testing.assert_allclose(1.96 * said.user_error, [0.07, 0.10, 0.04, 0.02], atol=0.005)
        np.testing.assert_allclose(said.producer, [0.75, 0.85, 0.93, 0.96], atol=0.005)
        assert 1.96 * said.producer_error[0] == pytest.approx(0.21, abs=0.005)

    def test_standard_errors_are_the_scatter_of_samples_like_this_one(self) -> None:
        """Against 20,000 multinomial samples of each class's row."""
        dice = np.random.default_rng(0)
        labels = self.COUNTS.sum(1)
        share = self.PIXELS / self.PIXELS.sum()
        rows = [
            dice.multinomial(n, row / n, 20_000) / n * w
            for n, row, w in zip(labels, self.COUNTS, share, strict=True)
        ]
        proportion = np.stack(rows, axis=1)
        right = np.diagonal(proportion, axis1=1, axis2=2)
        said = accuracies(self.COUNTS, self.PIXELS)
        for told, values in (
            (said.overall_error, right.sum(1)),
            (said.user_error, right / share),
            (said.area_error, proportion.sum(1)),
            (said.producer_error, right / proportion.sum(1)),
        ):
            # n - 1 in the variances, and a ratio's error is a first approximation.
            np.testing.assert_allclose(told, values.std(0), rtol=0.1)

    def test_overall_accuracy_is_the_stratified_mean(self) -> None:
        """One minus the estimate of the draw; the areas are right on average."""
        pool, wrong = simulated(0.3)
        assert pool.predicted is not None
        truth = np.where(wrong, (pool.predicted + 1) % 3, pool.predicted)
        areas = []
        for seed in range(80):
            draw = DESIGNS["by_class"].prepare(pool, 150)(seed)
            counts, sizes = error_matrix(draw, truth[draw.index], pool, 3)
            said = accuracies(counts, sizes)
            assert said.overall == pytest.approx(1 - estimate(draw, wrong[draw.index], pool).value)
            areas.append(said.area)
        error = np.std(areas, axis=0) / np.sqrt(len(areas))
        assert (np.abs(np.mean(areas, 0) - np.bincount(truth) / 4_000) < 3 * error).all()

    def test_a_class_that_is_never_predicted_takes_no_part(self) -> None:
        """Its user's accuracy is unknown, its area is what the others' labels say."""
        counts = np.array([[8, 0, 2], [0, 0, 0], [1, 0, 9]])
        said = accuracies(counts, np.array([60, 0, 40]))
        assert said.overall == pytest.approx(0.6 * 0.8 + 0.4 * 0.9)
        assert np.isnan(said.user[1])
        assert np.isnan(said.producer[1])
        assert said.area.tolist() == pytest.approx([0.52, 0.0, 0.48])

    def test_what_has_no_standard_error_is_refused(self) -> None:
        """One label of a class, more labels than units, or another design."""
        with pytest.raises(DataError, match="1 labels of predicted class 1"):
            accuracies(np.array([[5, 0], [0, 1]]), np.array([50, 50]))
        with pytest.raises(DataError, match="more labels than units"):
            accuracies(np.array([[5, 0], [0, 5]]), np.array([4, 50]))
        pool, _ = simulated(0.0)
        draw = DESIGNS["stratified"].prepare(pool, 40)(0)
        with pytest.raises(DataError, match="an error matrix of a draw by strat"):
            error_matrix(draw, np.zeros(40, dtype=int), pool, 3)
        draw = DESIGNS["by_class"].prepare(pool, 40)(0)
        with pytest.raises(DataError, match="expected one for each, from 0 to 2"):
            error_matrix(draw, np.full(40, 3), pool, 3)


def test_naive_figures_cannot_be_told_without_their_bias() -> None:
    """As text, in any format, and nothing of it is called a value."""
    said = naive(1_000, np.array([True, False, True, True]))
    for text in (str(said), f"{said}", f"{said:>10}", f"{said}"):
        assert "biased" in text
        assert "75 % of the least confident units, at least 0.3 % of the pool" in text
    assert not hasattr(said, "value")


@pytest.mark.parametrize("count", [59, 61])
def test_labels_that_are_missing_or_too_many_are_refused(count: int) -> None:
    """The line says how many there are, and why none may be left out."""
    pool, _ = simulated(0.0)
    for design in DESIGNS.values():
        draw = design.replay(pool, np.zeros(len(pool), dtype=bool), 60)(0)
        with pytest.raises(DataError, match=f"{count} labels for 60 drawn units"):
            estimate(draw, np.zeros(count, dtype=bool), pool)


def test_an_estimate_needs_the_pool_of_its_draw() -> None:
    """Without g of all its units there is no difference to take."""
    pool, error = simulated(0.0)
    draw = DESIGNS["active"].prepare(pool, 60)(0)
    with pytest.raises(DataError, match="a draw from 4000 units with a pool of 5"):
        estimate(draw, error[draw.index], POOL)


def test_effective_labels_are_all_of_a_uniform_draw_and_fewer_of_others() -> None:
    """Kish's number."""
    pool, error = simulated(0.0)
    even = DESIGNS["uniform"].prepare(pool, 100)(0)
    assert estimate(even, error[even.index], pool).effective == pytest.approx(100)
    uneven = DESIGNS["importance"].prepare(pool, 100)(0)
    assert estimate(uneven, error[uneven.index], pool).effective < 90


@pytest.mark.parametrize("method", ["stratified", "importance", "lure", "active"])
def test_an_estimate_of_a_million_units_takes_milliseconds(method: DesignName) -> None:
    """Under 50 ms of processor time, the fastest of three."""
    dice = np.random.default_rng(0)
    pool = Pool(g=dice.beta(0.15, 3, 1_000_000))
    error = dice.random(1_000_000) < pool.g
    draw = DESIGNS[method].prepare(pool, 1_000)(0)
    found, times = error[draw.index], []
    for _ in range(3):
        start = time.process_time()
        estimate(draw, found, pool)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
