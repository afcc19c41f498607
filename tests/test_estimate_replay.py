"""Replays of pools whose labels are known."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import labels_of_uniform
from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.replay import (
    replay,
    replay_naive,
    with_blind_spot,
)

DICE = np.random.default_rng(4)
G = DICE.beta(0.15, 3, 3_000)
POOL = Pool(g=G, predicted=DICE.choice(2, 3_000))
ERROR = DICE.random(3_000) < G


def test_a_replay_tells_bias_error_saving_and_coverage_of_each_cell() -> None:
    """Every method at both budgets; JSON holds it; uniform saves nothing and the others do."""
    methods = tuple(METHODS)
    cells = list(
        replay(
            POOL,
            ERROR,
            methods=methods,
            budgets=(60, 150),
            repetitions=40,
            seed=1,
            defensive=0.3,
            betting_repetitions=3,
        )
    )
    assert [(one.method, one.labels) for one in cells] == [
        (method, labels) for method in methods for labels in (60, 150)
    ]
    json.dumps([asdict(cell) for cell in cells], allow_nan=False)
    for one in cells:
        assert one.rate == ERROR.mean()
        # Forty skew draws of few labels: their own error is a rough measure.
        assert abs(one.bias) < 6 * one.bias_error
        assert one.rmse**2 == pytest.approx(one.bias**2 + one.bias_error**2 * 39, rel=1e-6)
        names = [own.method for own in one.coverage]
        assert {"tcz", "ff", "kg"} <= set(names)
        assert ("betting" in names) == (one.method != "ppi")
        assert ("clopper-pearson" in names) == (one.method == "uniform")
    saving = {one.method: one.saving for one in cells if one.labels == 150}
    assert 0.5 < saving["uniform"] < 2
    assert (
        min(saving[one] for one in ("stratified", "importance", "lure", "active", "adaptive")) > 1.2
    )


def test_the_same_seed_replays_the_same() -> None:
    """Each cell is a function of the seed and of what it is, not of what else is replayed."""

    def cells(methods: tuple[MethodName, ...], seed: int) -> list[float]:
        found = replay(
            POOL,
            ERROR,
            methods=methods,
            budgets=(50,),
            repetitions=5,
            seed=seed,
            defensive=0.3,
        )
        return [one.rmse for one in found]

    assert cells(("stratified", "importance"), 1)[1:] == cells(("importance",), 1)
    assert cells(("importance",), 1) != cells(("importance",), 2)


def test_the_labels_of_a_uniform_draw_have_its_error() -> None:
    """The exact variance at k labels leads back to k."""
    spread = 0.05 * 0.95 * 3_000 / 2_999
    for labels in (10, 200, 2_999):
        mse = spread * (1 / labels - 1 / 3_000)
        assert labels_of_uniform(mse, 0.05, 3_000) == pytest.approx(labels)
    assert labels_of_uniform(0.0, 0.0, 3_000) == 3_000


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blind_spot_moves_errors_to_where_none_is_expected(share: float) -> None:
    """As many errors as before; the moved ones lie in the half of least g."""
    error = DICE.permutation(np.arange(3_000) < 120)
    error[np.argsort(G)[:1_500]] = False
    moved = with_blind_spot(error, G, share, seed=3)
    low = moved[np.argsort(G)[:1_500]]
    assert moved.sum() == error.sum()
    assert low.sum() == round(share * error.sum())


def test_naive_figures_of_a_replay_come_with_their_bias() -> None:
    """Far too high a rate, a bound that leaves errors out, and text that says so."""
    cell = replay_naive(POOL, ERROR, 100)
    assert cell.times_too_high > 3
    assert 0 < cell.missed < 1
    assert "biased" in cell.said


def test_what_cannot_be_replayed_is_refused() -> None:
    """Labels of another pool, one repetition, more hidden errors than there is room for."""
    settings = {"methods": ("importance",), "budgets": (50,), "seed": 1, "defensive": 0.3}
    with pytest.raises(DataError, match="2 labels for a pool of 3000"):
        next(replay(POOL, ERROR[:2], repetitions=5, **settings))  # type: ignore[arg-type]  # short
    with pytest.raises(SettingsError, match="1 repetitions"):
        next(replay(POOL, ERROR, repetitions=1, **settings))  # type: ignore[arg-type]  # short
    with pytest.raises(SettingsError, match="hide fewer"):
        with_blind_spot(np.ones(10, dtype=bool), G[:10], 1.0, 0)
    with pytest.raises(SettingsError, match="a blind spot of 2"):
        with_blind_spot(ERROR, G, 2.0, 0)
    with pytest.raises(DataError, match="no errors"):
        replay_naive(POOL, np.zeros(3_000, dtype=bool), 10)
