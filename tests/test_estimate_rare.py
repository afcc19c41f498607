"""Rare events: five shapes of known probability, brute force, and others' subset simulation."""

import numpy as np
import openturns as ot
import pytest
from scipy.stats import norm

from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.estimate.rare import RareEvent, SubsetRules, rare_event
from tests.limit_states import CURVATURE, LimitState, limit_states

SHAPES = range(5)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_right_on_average_and_its_interval_covers(shape: int) -> None:
    """At 1e-3, over 20 seeds of small populations: within 3 standard errors; covers in 15."""
    state = limit_states(1e-3)[shape]
    rules = SubsetRules(particles=200, survivors=20)
    values, covered = [], 0
    for seed in range(20):
        found = rare_event(state.score, state.dimensions, [0.0], seed, rules)
        values.append(float(found.value[-1]))
        interval = found.interval()
        covered += interval.low <= 1e-3 <= interval.high
    error = np.std(values, ddof=1) / np.sqrt(20)
    assert abs(np.mean(values) - 1e-3) < 3 * error
    assert covered >= 15


@pytest.mark.parametrize("shape", SHAPES)
def test_one_in_a_hundred_million_takes_less_than_a_hundred_thousand(shape: int) -> None:
    """At 1e-8 with the default rules: fewer than 1e5 evaluations, off by less than 75 %."""
    state = limit_states(1e-8)[shape]
    found = rare_event(state.score, state.dimensions, [0.0], 3)
    assert found.evaluations <= 100_000
    assert found.by_replicate.shape == (10, 1)
    assert 0.25e-8 < found.value[0] < 1.75e-8


@pytest.mark.parametrize("shape", SHAPES)
def test_it_agrees_with_brute_force(shape: int) -> None:
    """At 1e-2, with 100,000 plain draws: the intervals of both overlap at each threshold."""
    state = limit_states(1e-2)[shape]
    dice = np.random.default_rng(0)
    score = state.score(dice.standard_normal((100_000, state.dimensions)))
    middle = float(np.quantile(score, 0.05))
    found = rare_event(state.score, state.dimensions, [0.0, middle], 5)
    assert found.thresholds == (middle, 0.0)
    for place, threshold in enumerate(found.thresholds):
        share = (score < threshold).mean()
        error = np.sqrt(share / 100_000)
        interval = found.interval(place)
        assert interval.low < share + 3 * error
        assert interval.high > share - 3 * error


def test_it_agrees_with_openturns() -> None:
    """Their subset simulation of the curved shape at 1e-4: the intervals overlap."""
    state = limit_states(1e-4)[2]
    bent = float(state.score(np.zeros((1, 20)))[0])
    names = [f"z{i}" for i in range(20)]
    squares = " + ".join(f"{name}^2" for name in names[1:])
    function = ot.SymbolicFunction(names, [f"{bent} - z0 - {CURVATURE} * ({squares})"])
    ot.RandomGenerator.SetSeed(1)
    output = ot.CompositeRandomVector(function, ot.RandomVector(ot.Normal(20)))
    theirs = ot.SubsetSampling(ot.ThresholdEvent(output, ot.Less(), 0.0))
    theirs.setMaximumOuterSampling(2_000)
    theirs.setConditionalProbability(0.1)
    theirs.run()
    result = theirs.getResult()
    value, half = result.getProbabilityEstimate(), result.getConfidenceLength(0.99) / 2
    interval = rare_event(state.score, 20, [0.0], 2).interval(level=0.99)
    assert interval.low < value + half
    assert interval.high > value - half


class TestOneRun:
    """What a run is a function of."""

    STATE: LimitState = limit_states(1e-3)[0]

    def run(self, seed: int, thresholds: tuple[float, ...] = (0.0,)) -> RareEvent:
        sizes = []

        def score(z: np.ndarray) -> np.ndarray:
            sizes.append(len(z))
            return self.STATE.score(z)

        found = rare_event(score, 2, thresholds, seed, SubsetRules(particles=100, survivors=10))
        assert sum(sizes) == found.evaluations
        assert max(sizes) <= 100  # ten populations of ten survivors
        return found

    def test_the_seed_alone(self) -> None:
        """The same numbers again, others for another seed."""
        one, same, other = self.run(1), self.run(1), self.run(2)
        assert np.array_equal(one.by_replicate, same.by_replicate)
        assert not np.array_equal(one.by_replicate, other.by_replicate)

    def test_higher_thresholds_cost_nothing(self) -> None:
        """The ladder is told beside the lowest, which stays as it is; probabilities fall."""
        alone, ladder = self.run(1), self.run(1, (0.0, 2.0, 1.0))
        assert ladder.evaluations == alone.evaluations
        assert ladder.thresholds == (2.0, 1.0, 0.0)
        assert np.array_equal(ladder.by_replicate[:, 2:], alone.by_replicate)
        assert (np.diff(ladder.value) < 0).all()

    def test_populations_do_not_know_of_each_other(self) -> None:
        """The first ten of twelve populations say what ten alone say."""
        rules = SubsetRules(particles=100, survivors=10)
        more = SubsetRules(particles=100, survivors=10, replicates=12)
        ten = rare_event(self.STATE.score, 2, [0.0], 1, rules)
        twelve = rare_event(self.STATE.score, 2, [0.0], 1, more)
        assert np.array_equal(twelve.by_replicate[:10], ten.by_replicate)

    def test_a_frequent_event_is_counted(self) -> None:
        """Half of all latents: one population each, no level."""
        found = rare_event(lambda z: z[:, 0], 3, [0.0], 0)
        assert found.evaluations == 10_000
        assert float(found.value[0]) == pytest.approx(0.5, abs=0.02)


class TestNoScore:
    """Latents that have no score count as not below, and are counted."""

    @pytest.mark.parametrize("ends", [2.2, 3.0])
    def test_the_probability_is_that_of_a_score_below(self, ends: float) -> None:
        """Beyond a second border there is none: what is left is the part between both."""

        def score(z: np.ndarray) -> np.ndarray:
            return np.where(z[:, 0] < -ends, np.nan, z[:, 0])

        found = rare_event(score, 5, [-1.5], 4)
        due = float(norm.cdf(-1.5) - norm.cdf(-ends))
        interval = found.interval(level=0.999)
        assert interval.low < due < interval.high
        assert interval.high / interval.low < 2
        assert 0 < found.unscored < found.evaluations / 4
        assert RareEvent.from_json(found.to_json()).unscored == found.unscored

    def test_many_without_a_score(self) -> None:
        """Nine of ten: the first level is what has a score."""
        found = rare_event(
            lambda z: np.where(z[:, 1] > norm.ppf(0.1), np.nan, z[:, 0]), 4, [-2.0], 6
        )
        interval = found.interval(level=0.999)
        assert interval.low < 0.1 * float(norm.cdf(-2.0)) < interval.high
        assert found.unscored > 8_000


class TestRefusals:
    """What cannot be told is said."""

    def test_an_event_that_no_population_reaches(self) -> None:
        """Its estimate is 0, and an interval around it is refused with a remedy."""
        found = rare_event(
            lambda z: np.abs(z[:, 0]),
            2,
            [-1.0],
            0,
            SubsetRules(particles=100, survivors=10, max_levels=2),
        )
        assert float(found.value[0]) == 0
        with pytest.raises(JobError, match="allow more levels or particles"):
            found.interval()

    def test_a_score_that_rounds_to_one(self) -> None:
        """A plateau gives no level; log-odds are recommended."""
        with pytest.raises(JobError, match="score by the log-odds"):
            rare_event(lambda z: np.where(z[:, 0] < -3, 0.5, 1.0), 2, [0.6], 0)

    def test_too_few_populations_for_an_interval(self) -> None:
        """Ten at least; sizes have to fit; and there is something to ask for."""
        with pytest.raises(SettingsError, match="9 replicates; expected 10 at least"):
            SubsetRules(replicates=9)
        with pytest.raises(SettingsError, match="100 particles of which 30 survive"):
            SubsetRules(particles=100, survivors=30)
        with pytest.raises(SettingsError, match="2 survive; expected ten or more"):
            SubsetRules(particles=20, survivors=2)
        with pytest.raises(SettingsError, match="0 levels"):
            SubsetRules(max_levels=0)
        with pytest.raises(SettingsError, match="0 thresholds"):
            rare_event(lambda z: z[:, 0], 2, [], 0)
