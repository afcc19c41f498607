"""Plans: what is told before anyone labels is what then happens."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import Cells, ceiling, cells_of, labels_of_uniform
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.plan import (
    ANY_POOL,
    ASSUMING_CALIBRATION,
    Plan,
    Validation,
    plan,
    stretched,
)
from rs_lowconf.estimate.replay import replay


def pool_of(n: int, seed: int = 0) -> tuple[Pool, NDArray[np.bool_]]:
    """Return a pool with about 4 % errors that are as probable as g says."""
    dice = np.random.default_rng(seed)
    g = dice.beta(0.12, 2.9, n)
    return Pool(g=g, predicted=dice.choice(3, n)), dice.random(n) < g


def validation_of(n: int, seed: int = 1) -> Validation:
    pool, error = pool_of(n, seed)
    return Validation(g=pool.g, error=error)


def of(said: Plan, method: MethodName, share: float) -> tuple[float, float]:
    """Return the saving and the width of one case."""
    one = next(one for one in said.prospects if (one.method, one.defensive) == (method, share))
    return one.saving, one.width


def test_the_ceiling_is_neymans_and_no_method_passes_it() -> None:
    """A closed form for two kinds of units; designs of any defensive share stay below."""
    p, share = np.array([0.01, 0.4]), np.array([0.9, 0.1])
    rate = share @ p
    expected = rate * (1 - rate) / (0.9 * np.sqrt(0.01 * 0.99) + 0.1 * np.sqrt(0.4 * 0.6)) ** 2
    assert ceiling(p, share) == pytest.approx(expected)
    pool, _ = pool_of(50_000)
    said = plan(pool, 500, seed=0, methods=("stratified", "importance", "lure", "active", "ppi"))
    assert all(one.saving < said.ceiling * 1.05 for one in said.prospects)
    assert max(one.saving for one in said.prospects) > 0.7 * said.ceiling


@pytest.mark.parametrize(
    "method", ["uniform", "by_class", "stratified", "importance", "lure", "active", "ppi"]
)
def test_the_variance_told_is_the_one_that_happens(method: MethodName) -> None:
    """Against the mean squared error of 200 replayed draws, whose errors are known."""
    pool, error = pool_of(4_000)
    cells = cells_of(pool)
    # Cells of one unit: the truth itself is what they err with.
    assert pool.predicted is not None
    order = np.lexsort((pool.predicted, pool.g))
    p = error[order].astype(float)
    assert len(p) == len(cells.g)
    told = METHODS[method].expect(replace(cells, p=p), 300, 0.3)
    cell = next(
        replay(
            pool,
            error,
            methods=(method,),
            budgets=(300,),
            repetitions=200,
            seed=2,
            defensive=0.3,
        )
    )
    assert told.rate == pytest.approx(error.mean())
    # A standard deviation of a variance from 200 draws is 10 %.
    assert told.variance == pytest.approx(cell.rmse**2, rel=0.3)


def test_cells_are_like_their_pool() -> None:
    """A pool of 40,000 in cells: the same variances as unit by unit, to a few percent."""
    pool, _ = pool_of(40_000)
    whole = cells_of(Pool(g=pool.g[:4_000]))
    assert whole.size.tolist() == [1.0] * 4_000
    cells = cells_of(pool)
    assert cells.size.sum() == 40_000
    assert len(cells.g) <= 3 * 4_096
    g = np.sort(pool.g)
    each = Cells(g=g, size=np.ones(40_000), predicted=None, p=g)
    for method in ANY_POOL:
        told = METHODS[method].expect(cells, 500, 0.3).variance
        exact = METHODS[method].expect(each, 500, 0.3).variance
        assert told == pytest.approx(exact, rel=0.03), method


def beta_interval(errors: int, labels: int) -> tuple[float, float]:
    """Return Jeffreys' interval."""
    low, high = beta.ppf([0.025, 0.975], errors + 0.5, labels - errors + 0.5)
    return float(low), float(high)


class TestPlan:
    """Tables of savings, widths and labels."""

    def test_validation_labels_tell_savings_with_ranges(self) -> None:
        """Of 3,000 of them: near what the true probabilities tell, which the range holds."""
        pool, error = pool_of(30_000)
        said = plan(
            pool, 600, seed=0, validation=validation_of(3_000), methods=("stratified", "importance")
        )
        known = plan(pool, 600, seed=0, methods=("stratified", "importance"))
        assert said.assumption is None
        assert said.rate_range is not None
        assert said.rate_range[0] < error.mean() < said.rate_range[1]
        assert said.ceiling_range is not None
        assert said.ceiling_range[0] < known.ceiling < said.ceiling_range[1]
        for one, true in zip(said.prospects, known.prospects, strict=True):
            assert one.saving == pytest.approx(true.saving, rel=0.25)
            assert one.saving_range is not None
            assert one.saving_range[0] <= one.saving <= one.saving_range[1]

    def test_few_errors_tell_a_level_and_hardly_more(self) -> None:
        """With four of them, or none, g rises as before, and the range is wide and honest."""
        pool, _ = pool_of(30_000)
        own = validation_of(3_000)
        for kept in (4, 0):
            error = np.zeros(3_000, dtype=bool)
            error[np.nonzero(own.error)[0][:kept]] = True
            said = plan(
                pool,
                600,
                seed=0,
                validation=Validation(g=own.g, error=error),
                methods=("importance",),
            )
            assert said.assumption is not None
            assert f"{kept} errors among the validation labels" in said.assumption
            exact = beta_interval(kept, 3_000)
            assert said.rate == pytest.approx((kept + 0.5) / 3_000, rel=0.1)
            assert said.rate_range is not None
            assert said.rate_range[1] == pytest.approx(exact[1], rel=0.35)
            assert said.rate_range[1] > 3 * said.rate_range[0]
            assert said.ceiling > 2

    def test_ranges_of_few_errors_hold_what_is_true(self) -> None:
        """Where g is too steep by a half, ranges from about 15 errors hold the saving."""
        pool, _ = pool_of(5_000)
        true = stretched(pool.g, 0.6)
        true *= 0.04 / true.mean()
        cells = cells_of(pool)
        at = stretched(cells.g, 0.6)
        at *= 0.04 / float(cells.share @ at)
        known = METHODS["importance"].expect(replace(cells, p=at), 600, 0.3)
        saving = labels_of_uniform(known.variance, known.rate, len(pool)) / 600
        held = []
        for seed in range(60):
            dice = np.random.default_rng(seed)
            rows = dice.integers(len(pool), size=375)
            labels = Validation(g=pool.g[rows], error=dice.random(375) < true[rows])
            said = plan(
                pool, 600, seed=seed, validation=labels, methods=("importance",), shares=(0.3,)
            )
            own = said.prospects[0].saving_range
            assert own is not None
            held.append(own[0] <= saving <= own[1])
        assert 51 <= sum(held) < 60

    def test_without_them_calibration_is_assumed_and_said(self) -> None:
        """No range, and the words that the report has to print."""
        pool, _ = pool_of(2_000)
        said = plan(pool, 100, seed=0, methods=("stratified",))
        assert said.assumption == ASSUMING_CALIBRATION
        assert said.rate == pytest.approx(pool.g.mean())
        assert said.rate_range is None
        assert {one.saving_range for one in said.prospects} == {None}

    def test_errors_that_no_score_tells_of_are_seen_by_validation(self) -> None:
        """Labels that hide a third of the errors among the sure take the saving away."""
        pool, _ = pool_of(30_000)
        own = validation_of(5_000)
        hidden = own.error.copy()
        wrong, quiet = np.nonzero(hidden)[0], np.argsort(own.g)[:2_000]
        hidden[wrong[::3]] = False
        hidden[quiet[: len(wrong[::3])]] = True
        honest = plan(pool, 500, seed=0, validation=own, methods=("importance",), shares=(0.3,))
        blind = plan(
            pool,
            500,
            seed=0,
            validation=Validation(g=own.g, error=hidden),
            methods=("importance",),
            shares=(0.3,),
        )
        assert of(blind, "importance", 0.3)[0] < 0.75 * of(honest, "importance", 0.3)[0]

    def test_the_labels_it_asks_for_give_the_width(self) -> None:
        """Planned with as many as were needed, the expected width is the wanted one."""
        pool, _ = pool_of(200_000)
        said = plan(
            pool, 800, seed=0, width=0.012, methods=("stratified", "uniform"), shares=(0.3,)
        )
        needed = {one.method: one.labels for one in said.prospects}
        assert needed["stratified"] is not None
        assert needed["uniform"] is not None
        assert needed["uniform"] > 1.5 * needed["stratified"]
        again = plan(pool, needed["stratified"], seed=0, methods=("stratified",), shares=(0.3,))
        assert again.prospects[0].width == pytest.approx(0.012, rel=0.03)

    def test_a_width_that_the_pool_cannot_give_has_no_labels(self) -> None:
        """None, not a number beyond the pool."""
        pool, _ = pool_of(1_000)
        said = plan(pool, 100, seed=0, width=1e-4, methods=("uniform",))
        assert said.prospects[0].labels is None

    def test_tiles_are_resampled_whole(self) -> None:
        """Pixels that come in copies of twenty widen the ranges by about the root of it."""
        pool, _ = pool_of(5_000)
        few = validation_of(150)
        group = np.repeat(np.arange(150), 20)
        g, error = np.repeat(few.g, 20), np.repeat(few.error, 20)

        def width(validation: Validation) -> float:
            found = plan(pool, 100, seed=0, validation=validation, methods=()).rate_range
            assert found is not None
            return found[1] - found[0]

        alone = width(Validation(g=g, error=error))
        together = width(Validation(g=g, error=error, group=group))
        assert together > 2.5 * alone

    def test_what_cannot_be_planned_is_refused(self) -> None:
        """Too few labels, a width that is none, validation of unequal parts."""
        pool, _ = pool_of(1_000)
        with pytest.raises(SettingsError, match="19 labels of a pool of 1000; expected 20 to"):
            plan(pool, 19, seed=0)
        with pytest.raises(SettingsError, match="an interval 2 wide"):
            plan(pool, 100, seed=0, width=2.0)
        with pytest.raises(DataError, match="1 labels for 2 validation units"):
            Validation(g=np.array([0.1, 0.2]), error=np.array([True]))
        with pytest.raises(DataError, match=r"outside 0\.\.1"):
            Validation(g=np.array([1.1]), error=np.array([True]))
        with pytest.raises(DataError, match="no predicted classes"):
            plan(Pool(g=pool.g), 100, seed=0, methods=("by_class",))
