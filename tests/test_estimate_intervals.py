"""Intervals: the exact ones where there are any, and how often they cover where there are none."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binomtest, chi2

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.estimate.intervals import (
    Interval,
    clopper_pearson,
    ff,
    gamma_upper,
    kg,
    tcz,
    wilson,
)
from rs_lowconf.estimate.replay import with_blind_spot
from rs_lowconf.settings import DesignName

SAMPLED: tuple[DesignName, ...] = ("stratified", "importance", "lure", "active")


def even(errors: int, labels: int) -> Estimate:
    """Return a Poisson estimate of equal weights: variance sum w^2 y."""
    wrong = np.arange(labels) < errors
    return Estimate(
        value=errors / labels,
        variance=errors / labels**2,
        weight=np.full(labels, 1 / labels),
        wrong=wrong,
        largest_weight=1 / labels,
    )


class TestExact:
    """Equal weights, where tables of a century ago tell the ends."""

    @pytest.mark.parametrize("errors", [0, 1, 2, 7, 40])
    @pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
    def test_both_gamma_intervals_are_garwoods(self, errors: int, level: float) -> None:
        """Garwood 1936: quantiles of chi-square with 2 d and 2 d + 2 degrees of freedom."""
        labels, tail = 500, (1 - level) / 2
        low = chi2.ppf(tail, 2 * errors) / 2 / labels if errors else 0.0
        high = chi2.ppf(1 - tail, 2 * errors + 2) / 2 / labels
        for interval in (ff, tcz):
            said = interval(even(errors, labels), level)
            assert said.low == pytest.approx(low, rel=1e-9)
            assert said.high == pytest.approx(high, rel=1e-9)

    @pytest.mark.parametrize("errors", [0, 1, 12, 80, 200])
    def test_kg_is_clopper_and_pearsons_of_a_binomial_estimate(self, errors: int) -> None:
        """As many labels as the variance says; unreliable below ten errors, and says so."""
        p = errors / 200
        one = Estimate(
            value=p,
            variance=p * (1 - p) / 200,
            weight=np.full(200, 1 / 200),
            wrong=np.arange(200) < errors,
            largest_weight=1 / 200,
        )
        said = kg(one)
        assert said.low == pytest.approx(beta.ppf(0.025, errors, 201 - errors) if errors else 0.0)
        high = beta.ppf(0.975, errors + 1, 200 - errors) if errors < 200 else 1.0
        assert said.high == pytest.approx(high)
        assert said.reliable == (errors >= 10)

    def test_kg_is_not_trusted_where_one_heavy_error_would_change_it(self) -> None:
        """A dozen errors of little weight, when one unseen could weigh a fourth of them all."""
        found = np.repeat([True, False], [12, 88])
        weight = np.where(found, 0.002, 0.01)
        for largest, reliable in ((0.006, False), (0.004, True)):
            light = replace(even(12, 100), weight=weight, wrong=found, largest_weight=largest)
            light = replace(light, value=0.024)
            assert kg(light).reliable is reliable

    def test_the_binomial_intervals_are_scipys(self) -> None:
        """Exact and score."""
        found = binomtest(3, 80)
        for said, method in ((clopper_pearson(3, 80), "exact"), (wilson(3, 80), "wilson")):
            known = found.proportion_ci(method=method)
            assert said.low == pytest.approx(known.low)
            assert said.high == pytest.approx(known.high)

    def test_the_upper_limit_alone_is_garwoods(self) -> None:
        """With equal weights it is exact for Poisson errors, and three over the labels for none."""
        for errors in (0, 1, 7):
            said = gamma_upper(errors / 1_000, errors / 1_000**2, extra=1 / 1_000)
            assert said == pytest.approx(chi2.ppf(0.95, 2 * errors + 2) / 2_000)
        assert gamma_upper(0.0, 0.0, extra=1 / 1_000) == pytest.approx(3 / 1_000, rel=0.01)
        assert gamma_upper(0.9, 0.1, extra=0.5) == 1.0

    @pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
    def test_levels_are_shares(self, level: float) -> None:
        """Percent, none and certainty are refused by all."""
        draw = DESIGNS["uniform"].prepare(Pool(g=np.full(50, 0.1)), 20)(0)
        ways: list[Callable[[], object]] = [
            lambda: ff(even(1, 20), level),
            lambda: kg(even(1, 20), level),
            lambda: wilson(1, 20, level),
            lambda: gamma_upper(0.1, 0.1, extra=0.1, level=level),
            lambda: betting(draw, np.zeros(20, dtype=bool), level),
        ]
        for way in ways:
            with pytest.raises(SettingsError, match="an interval of level"):
                way()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    labels=st.integers(20, 300),
    design=st.sampled_from([*SAMPLED, "uniform"]),
)
def test_every_interval_is_in_order_and_holds_what_it_should(
    seed: int, labels: int, design: DesignName
) -> None:
    """0 <= low <= estimate <= high <= 1; Fay and Feuer's holds more than Tiwari's, mostly."""
    dice = np.random.default_rng(seed)
    pool = Pool(g=dice.beta(0.2, 2, 300))
    error = dice.random(300) < pool.g
    draw = DESIGNS[design].prepare(pool, labels)(seed)
    one = estimate(draw, error[draw.index], pool)
    said = [tcz(one), ff(one), kg(one), betting(draw, error[draw.index])]
    value = min(max(one.value, 0.0), 1.0)
    for interval in said:
        assert 0 <= interval.low <= interval.high <= 1
        if interval.method != "betting":
            assert interval.low - 1e-9 <= value <= interval.high + 1e-9
    assert said[1].high >= said[0].high - 0.5 / labels


class TestBetting:
    """The interval that holds for every number of labels."""

    @pytest.mark.parametrize("errors", [1, 20])
    def test_of_a_pool_of_forty_it_covers_by_every_order(self, errors: int) -> None:
        """Misses over 60 orders of a uniform draw of 25 stay within what the level allows."""
        pool = Pool(g=np.full(40, 0.1))
        error = np.arange(40) < errors
        design = DESIGNS["uniform"].prepare(pool, 25)
        missed = np.zeros(2)
        for seed in range(60):
            draw = design(seed)
            for place, level in enumerate((0.95, 0.8)):
                said = betting(draw, error[draw.index], level)
                missed[place] += not said.low <= errors / 40 <= said.high
        assert missed[0] <= 0.05 * 60
        assert missed[1] <= 0.2 * 60

    def test_without_errors_it_is_near_the_exact_limit(self) -> None:
        """At most 1.3 times Clopper and Pearson's upper end, and 0 below."""
        pool = Pool(g=np.full(100_000, 0.01))
        draw = DESIGNS["uniform"].prepare(pool, 1_000)(0)
        said = betting(draw, np.zeros(1_000, dtype=bool))
        assert said.low == 0
        assert said.high < 1.3 * clopper_pearson(0, 1_000).high

    def test_a_pool_that_is_labelled_nearly_whole_leaves_little_doubt(self) -> None:
        """Without replacement: what was not labelled cannot hold more errors than units."""
        pool = Pool(g=np.full(1_000, 0.1))
        error = np.arange(1_000) < 100
        draw = DESIGNS["uniform"].prepare(pool, 990)(3)
        said = betting(draw, error[draw.index])
        assert said.low <= 0.1 <= said.high
        assert said.width < 0.6 * clopper_pearson(99, 990).width

    @pytest.mark.parametrize("wrong", [0.0, 1.0])
    def test_all_or_none_wrong(self, wrong: float) -> None:
        """The truth at either end of 0..1 is never excluded, by any design."""
        pool = Pool(g=np.linspace(0.001, 0.6, 500))
        for design in (*SAMPLED, "uniform"):
            draw = DESIGNS[design].prepare(pool, 100)(1)
            said = betting(draw, np.full(100, bool(wrong)))
            assert said.low <= wrong <= said.high
            assert said.width < 0.3


def coverage_pool(rate: float, blind: float) -> tuple[Pool, NDArray[np.bool_]]:
    """Return a pool of 20,000 with logistic scores, a share of whose errors no score tells of."""
    dice = np.random.default_rng(int(1e4 * rate + 10 * blind))
    shift = -math.log(1 / rate) * 1.6 - 0.8
    pool = Pool(g=1 / (1 + np.exp(-dice.normal(shift, 2.5, 20_000))))
    return pool, with_blind_spot(dice.random(20_000) < pool.g, pool.g, blind, 1)


@pytest.mark.parametrize("blind", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.09, 0.01])
@pytest.mark.parametrize("design", SAMPLED)
def test_intervals_cover(design: DesignName, rate: float, blind: float) -> None:
    """Of 120 draws of 400 labels: `tcz` in 93 %, `ff` and `betting` in 95 %, but for chance.

    Chance is three binomial standard errors; defensive share 0.3, blind spots included.
    """
    pool, error = coverage_pool(rate, blind)
    truth, rounds = error.mean(), 120
    draw_of = DESIGNS[design].prepare(pool, 400)

    def covers(interval: Interval) -> bool:
        return bool(interval.low <= truth <= interval.high)

    seen: dict[str, list[bool]] = {"tcz": [], "ff": [], "betting": []}
    for seed in range(rounds):
        draw = draw_of(seed)
        found = error[draw.index]
        one = estimate(draw, found, pool)
        seen["tcz"].append(covers(tcz(one)))
        seen["ff"].append(covers(ff(one)))
        if seed < 25:
            seen["betting"].append(covers(betting(draw, found)))
    for method, promised in (("tcz", 0.93), ("ff", 0.95), ("betting", 0.95)):
        own = seen[method]
        slack = 3 * math.sqrt(promised * (1 - promised) / len(own))
        assert np.mean(own) >= promised - slack, method
