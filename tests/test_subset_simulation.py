"""The engine of rare events: what earlier code told, its constants and its interval."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind
from scipy.stats import t as student_t

from rs_lowconf.estimate.rare import RareEvent, SubsetRules, counted_event, rare_event
from rs_lowconf.subset_simulation import (
    Ask,
    Asking,
    Descent,
    Population,
    Scored,
    descend,
    interval,
    run,
)

GOLDEN = Path(__file__).parent / "rare_golden.json"
"""What `rare_event` told of `told` at commit 322d5e5, before both uses had one engine."""
SMALL = SubsetRules(particles=100, survivors=20, max_levels=6)


def told() -> dict[str, Any]:
    """Ask for events whose scores need no arithmetic, so that every machine tells the same."""

    def first(z: np.ndarray) -> np.ndarray:
        return z[:, 0].copy()

    def partly(z: np.ndarray) -> np.ndarray:
        return np.where(z[:, 1] > 1.0, np.nan, z[:, 0])

    events = {
        "default sizes": rare_event(first, 5, [-1.0, -3.0, -5.0], 3),
        "twelve small populations": rare_event(
            first, 3, [-2.0, -4.0], 7, SubsetRules(particles=50, survivors=10, replicates=12)
        ),
        "not all get there": rare_event(first, 20, [0.0, -3.0, -4.2], 2, SMALL),
        "a tenth without a score": rare_event(partly, 4, [-2.5], 1, SMALL),
        "counted": counted_event(first, 4, [0.5, -1.0], 8, SMALL),
    }
    return {name: {**event.to_json(), **intervals(event)} for name, event in events.items()}


def intervals(event: RareEvent) -> dict[str, Any]:
    """Return the interval at each threshold that a population reached."""
    ends = [event.interval(place) for place in range(len(event.thresholds)) if event.value[place]]
    return {"low": [end.low for end in ends], "high": [end.high for end in ends]}


def test_rare_events_are_told_as_before() -> None:
    """Each population's estimate is the same bit for bit; intervals to the twelfth digit."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    now = told()
    assert now.keys() == golden.keys()
    for name, before in golden.items():
        for end in ("low", "high"):
            assert now[name].pop(end) == pytest.approx(before.pop(end), rel=1e-12)
        assert now[name] == before


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("particles", "moves"), [(5, 3), (12, 2), (20, 1)])
def test_half_that_survive_are_right_on_average(particles: int, moves: int) -> None:
    """P = 0.067 from 200 populations, also of an odd number: their mean is within 4 errors."""

    def score(ask: Ask) -> Scored:
        return Scored(value=ask.z.sum(1) / 2, extras=ask.rows)

    def course(seed: int) -> Asking[Descent]:
        rng = np.random.default_rng(seed)
        population = Population(
            rng.standard_normal((particles, 4)), rng, survivors=(particles + 1) // 2, moves=moves
        )
        yield from population.begin()
        return (yield from descend(population, np.array([-1.5]), 40))

    told = np.array([run(course(seed), score).probability[0] for seed in range(200)])
    assert abs(told.mean() - norm.sf(1.5)) < 4 * told.std(ddof=1) / 200**0.5


class TestInterval:
    """The interval of a probability from independent populations."""

    def test_of_one_condition_is_that_of_cox(self) -> None:
        """Written out for three estimates: the mean times and over exp(t x error)."""
        values = np.array([1e-4, 2e-4, 4e-4])
        spread = math.log(2) ** 2
        error = math.sqrt(spread / 3 + spread**2 / 4)
        factor = math.exp(float(student_t.ppf(0.975, 2)) * error)
        assert interval([values], 0.95) == pytest.approx(
            (values.mean() / factor, values.mean() * factor)
        )

    @pytest.mark.parametrize(
        ("scatter", "conditions", "populations"),
        [(1.1, 1, 10), (0.6, 1, 10), (1.1, 3, 4), (1.1, 10, 2), (0.6, 10, 2)],
    )
    def test_it_covers(self, scatter: float, conditions: int, populations: int) -> None:
        """Log-normal estimates as of 1e-6 (1.1) and 1e-2 (0.6): 91 .. 99.5 % of 600 intervals."""
        rng = np.random.default_rng(2)
        truth = 1e-6 * 10.0 ** -rng.uniform(0, 1, (600, conditions))
        noise = rng.standard_normal((600, conditions, populations))
        values = truth[:, :, None] * np.exp(scatter * noise - scatter**2 / 2)
        ends = np.array([interval(list(groups), 0.95) for groups in values])
        covered = (ends[:, 0] <= truth.mean(1)) & (truth.mean(1) <= ends[:, 1])
        assert 0.91 <= covered.mean() <= 0.995

    def test_conditions_that_add_nothing_hardly_widen_it(self) -> None:
        """Ten conditions from 1e-2 to 1e-8, whose populations scatter more the rarer: covers."""
        rng = np.random.default_rng(5)
        scatter = np.linspace(0.55, 1.3, 10)[:, None]
        truth = 10.0 ** -np.linspace(2, 8, 10)
        noise = rng.standard_normal((600, 10, 3))
        values = truth[:, None] * np.exp(scatter * noise - scatter**2 / 2)
        ends = np.array([interval(list(groups), 0.95) for groups in values])
        covered = (ends[:, 0] <= truth.mean()) & (truth.mean() <= ends[:, 1])
        assert 0.91 <= covered.mean() <= 0.995
        # What Cox tells of the first alone, which is nearly all of the mean, is wider still.
        alone = np.array([interval([groups[0]], 0.95) for groups in values])
        assert np.median(ends[:, 1] / ends[:, 0]) < np.median(alone[:, 1] / alone[:, 0])

    def test_a_population_that_tells_nothing_has_no_logarithm(self) -> None:
        """Then it is the t interval on the logarithm, by scipy's Welch and Satterthwaite."""
        some, others = np.array([0.0, 2e-3, 3e-3, 1e-3]), np.array([4e-3, 5e-3, 9e-3])
        low, high = interval([some, others], 0.9)
        # The interval of a sum is that of the difference to the other's mirror image.
        due = ttest_ind(some, -others, equal_var=False).confidence_interval(0.9)
        value = (some.mean() + others.mean()) / 2
        assert math.log(high / value) == pytest.approx((due.high / 2 - value) / value)
        assert low * high == pytest.approx(value**2)

    def test_a_condition_that_no_population_reached_counts_as_nothing(self) -> None:
        """The others' interval, divided among all."""
        met = np.array([1e-4, 2e-4, 4e-4])
        both = interval([met, np.zeros(5)], 0.95)
        assert both == pytest.approx([end / 2 for end in interval([met], 0.95)])
