"""Sampling designs: chances that are what they say, for every pool and number of labels."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate import designs as designs_package
from rs_lowconf.estimate.allocation import allocate, spread_of
from rs_lowconf.estimate.design import Drawer
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Draw, Pool, Wave


def some_pool(n: int = 400, seed: int = 0) -> Pool:
    """Return a pool with few likely errors, in three predicted classes of unequal size."""
    dice = np.random.default_rng(seed)
    return Pool(g=dice.beta(0.2, 4, n), predicted=dice.choice(3, n, p=[0.7, 0.25, 0.05]))


ADAPTIVE = DESIGNS["adaptive"]
AT_ONCE = [name for name, design in DESIGNS.items() if len(design.sizes(100)) == 1]


def designs(pool: Pool, labels: int, defensive: float = 0.3) -> dict[str, Drawer]:
    return {name: DESIGNS[name].prepare(pool, labels, defensive) for name in AT_ONCE}


def test_every_file_is_a_design_that_settings_name() -> None:
    """And each is called what its file is."""
    files = {path.stem for path in Path(designs_package.__file__).parent.glob("[!_]*.py")}
    assert files == set(DESIGNS)
    assert {name: design.name for name, design in DESIGNS.items()} == {name: name for name in files}


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_draw_is_a_function_of_its_seed(name: str) -> None:
    """The same seed gives the same units and chances, another one others."""
    design = designs(some_pool(), 60)[name]
    one, same, other = design(3), design(3), design(4)
    assert one.design == name
    assert len(one) == 60
    assert np.array_equal(one.index, same.index)
    assert np.array_equal(one.chance, same.chance)
    assert not np.array_equal(one.index, other.index)


@pytest.mark.parametrize("name", ["uniform", "by_class", "stratified", "active"])
def test_units_are_drawn_as_often_as_their_inclusion_says(name: str) -> None:
    """Over 600 draws without repeats, frequencies differ from chances as binomials do."""
    pool = some_pool(120)
    design, draws = designs(pool, 30)[name], 600
    count, chance = np.zeros(120), np.zeros(120)
    for seed in range(draws):
        draw = design(seed)
        assert len(np.unique(draw.index)) == 30
        count[draw.index] += 1
        chance[draw.index] = draw.chance
    assert chance.sum() == pytest.approx(30)
    error = np.sqrt(draws * chance * (1 - chance)) + 1e-9
    z = (count - draws * chance) / error
    assert np.abs(z).max() < 4.5
    assert 0.6 < (z[chance < 1] ** 2).mean() < 1.4


def test_sequential_draws_come_in_proportion_to_the_chances_of_those_left() -> None:
    """Of four units, all 24 orders are as frequent as the product of the chances stored."""
    pool = Pool(g=np.array([0.8, 0.4, 0.1, 0.01]))
    design, draws = DESIGNS["lure"].prepare(pool, 4), 3_000
    seen: dict[tuple[int, ...], tuple[int, float]] = {}
    for seed in range(draws):
        draw = design(seed)
        order = tuple(draw.index.tolist())
        seen[order] = (seen.get(order, (0, 0.0))[0] + 1, float(draw.chance.prod()))
    assert sum(chance for _, chance in seen.values()) == pytest.approx(1.0, abs=0.03)
    for count, chance in seen.values():
        assert abs(count - draws * chance) < 4.5 * np.sqrt(draws * chance)


def test_drawing_with_replacement_repeats_units_by_their_chances() -> None:
    """Frequencies over one long draw are the chances, which sum to 1."""
    pool = some_pool(50)
    draw = DESIGNS["importance"].prepare(Pool(g=pool.g), 50)(0)
    chance = np.full(50, np.nan)
    counts = np.zeros(50)
    for seed in range(400):
        draw = DESIGNS["importance"].prepare(pool, 50)(seed)
        chance[draw.index] = draw.chance
        np.add.at(counts, draw.index, 1)
    assert chance.sum() == pytest.approx(1)
    assert np.abs((counts - 20_000 * chance) / np.sqrt(20_000 * chance)).max() < 4.5


@pytest.mark.parametrize("name", AT_ONCE)
@pytest.mark.parametrize("defensive", [0.1, 0.3, 1.0])
def test_no_unit_weighs_more_than_the_defensive_share_allows(name: str, defensive: float) -> None:
    """The largest ratio is at most 1 / share, and 1 where all labels go anywhere alike."""
    pool = some_pool(2_000)
    draw = designs(pool, 200, defensive)[name](0)
    rounding = 1.1  # of labels to whole numbers, in strata
    assert 1 - 1e-9 <= draw.largest_ratio <= rounding / defensive
    assert draw.expected_ratio <= draw.largest_ratio + 1e-9


def test_strata_are_of_equal_spread_along_g() -> None:
    """Each holds a tenth of the sum of sqrt(g (1 - g)), and no g lies in two."""
    pool = some_pool(20_000)
    whole = DESIGNS["stratified"].prepare(pool, len(pool))(0)
    members = [whole.index[whole.columns["stratum"] == stratum] for stratum in range(10)]
    spread = spread_of(pool.g)
    assert whole.constants["stratum_sizes"].tolist() == [len(units) for units in members]
    for units in members:
        assert spread[units].sum() == pytest.approx(spread.sum() / 10, rel=0.02)
    for one, next_one in itertools.pairwise(members):
        assert pool.g[one].max() <= pool.g[next_one].min()


@pytest.mark.parametrize("g", [0.0, 1.0, 0.2])
def test_a_score_that_tells_nothing_is_drawn_by_all_the_same(g: float) -> None:
    """One g for all, sure ones included: every design still gives each unit a chance."""
    pool = Pool(g=np.full(200, g), predicted=np.zeros(200, dtype=int))
    for name, design in designs(pool, 40).items():
        draw = design(1)
        assert len(draw) == 40, name
        assert draw.largest_ratio == pytest.approx(1, rel=0.05), name


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=12),
    spreads=st.lists(st.floats(0, 0.5), min_size=12, max_size=12),
    share=st.floats(0.05, 1.0),
    where=st.floats(0, 1),
)
def test_allocations_keep_their_bounds(
    sizes: list[int], spreads: list[float], share: float, where: float
) -> None:
    """Two labels a stratum or all of it, never more than it has, and none lost by rounding."""
    size = np.array(sizes)
    least = np.minimum(size, 2)
    labels = int(least.sum() + where * (size.sum() - least.sum()))
    counts = allocate(size, np.array(spreads[: len(size)]), labels, share)
    assert counts.sum() == labels
    assert (counts >= least).all()
    assert (counts <= size).all()


def test_allocation_is_neymans_where_no_bound_is_met() -> None:
    """Labels are as size times spread, and a defensive share of them as size."""
    size, spread = np.array([9_000, 900, 100]), np.array([0.01, 0.2, 0.5])
    neyman = size * spread / (size @ spread)
    counts = allocate(size, spread, 500, 0.3)
    np.testing.assert_allclose(counts, 350 * neyman + 150 * size / 10_000, atol=1)


class TestWaves:
    """An adaptive draw is a function of the labels before it."""

    def test_sizes_grow_and_none_is_lost(self) -> None:
        """Every number of labels is used up, two a wave at least."""
        for labels in (10, 11, 37, 1_000, 99_999):
            sizes = ADAPTIVE.sizes(labels)
            assert sum(sizes) == labels
            assert min(sizes) >= 2
            assert sizes == sorted(sizes)
        with pytest.raises(SettingsError, match="9 labels in 5 waves"):
            ADAPTIVE.sizes(9)

    def test_a_wave_goes_where_the_labels_before_it_found_errors(self) -> None:
        """A g twenty times too small is corrected: later waves hold more errors."""
        dice = np.random.default_rng(0)
        truth = dice.beta(0.3, 6, 20_000)
        error = dice.random(20_000) < truth
        pool = Pool(g=(truth / 20) ** 0.3 * 0.5)
        first, waves = [], []
        for seed in range(10):
            draw = ADAPTIVE.prepare(pool, 3_000)(seed)
            wave = Wave(draw=draw, error=error[draw.index])
            again = ADAPTIVE.next_wave(pool, [wave], 3_000, 0.3)(seed)
            first.append(error[draw.index].mean())
            waves.append(error[again.index].mean())
        assert np.mean(waves) > 1.1 * np.mean(first)

    def test_waves_join_in_order_only(self) -> None:
        """The joined draw has all labels and the batch of each; a missing wave is refused."""
        pool = some_pool()
        waves: list[Wave] = []
        for size in ADAPTIVE.sizes(50):
            draw = ADAPTIVE.next_wave(pool, waves, 50, 0.3)(1)
            waves.append(Wave(draw=draw, error=np.zeros(size, dtype=bool)))
        draws = [wave.draw for wave in waves]
        draw = ADAPTIVE.joined(draws)
        assert draw.index.tolist() == [unit for wave in draws for unit in wave.index]
        assert np.bincount(draw.columns["batch"]).tolist() == ADAPTIVE.sizes(50)
        for wrong in ([draws[0], *draws[2:]], [draws[1], draws[0], *draws[2:]]):
            with pytest.raises(SettingsError, match="expected all waves in order"):
                ADAPTIVE.joined(wrong)


class TestRefusals:
    """What cannot be drawn, or estimated, is said in a line."""

    def test_probabilities_outside_0_to_1(self) -> None:
        """How many, the first of them and what to do; not-a-number is outside too."""
        with pytest.raises(DataError, match=r"2 error probabilities outside 0..1, the first 1.5"):
            Pool(g=np.array([0.1, 1.5, np.nan]))
        with pytest.raises(DataError, match="the pool is empty"):
            Pool(g=np.array([]))
        with pytest.raises(DataError, match="2 predicted classes for 1 units"):
            Pool(g=np.array([0.1]), predicted=np.array([0, 1]))

    def test_more_labels_than_units_and_fewer_than_strata_need(self) -> None:
        """Both say how many there may be."""
        pool = some_pool(100)
        with pytest.raises(SettingsError, match=r"101 labels of a pool of 100; expected 2 to 100"):
            DESIGNS["uniform"].prepare(pool, 101)
        with pytest.raises(SettingsError, match=r"expected 20 to 100"):
            DESIGNS["stratified"].prepare(pool, 19)

    def test_no_defensive_share(self) -> None:
        """Without one, errors at high confidence would never be seen."""
        with pytest.raises(SettingsError, match="a defensive share of 0"):
            DESIGNS["importance"].prepare(some_pool(), 20, 0.0)

    def test_strata_of_classes_that_are_not_known(self) -> None:
        """The design is named that needs none."""
        with pytest.raises(DataError, match="or use design strat"):
            DESIGNS["by_class"].prepare(Pool(g=np.array([0.1, 0.2])), 2)

    def test_a_draw_of_another_pool(self) -> None:
        """Units beyond the pool, chances beyond 1 and parts of other lengths."""
        values = {
            "design": "importance",
            "population": 5,
            "largest_ratio": 1.0,
            "expected_ratio": 1.0,
        }
        two, half = np.array([0, 4]), np.full(2, 0.5)
        with pytest.raises(DataError, match="not in the pool of 5"):
            Draw(index=np.array([0, 5]), chance=half, **values)  # type: ignore[arg-type]  # short
        with pytest.raises(DataError, match=r"outside 0\.\.1"):
            Draw(index=two, chance=np.array([0.0, 0.5]), **values)  # type: ignore[arg-type]  # short
        with pytest.raises(DataError, match="1 chances for 2"):
            Draw(index=two, chance=np.ones(1), **values)  # type: ignore[arg-type]  # short
