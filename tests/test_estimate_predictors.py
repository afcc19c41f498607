"""Error predictors: what they say of known probabilities, and what labels make of them."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.predictors import (
    chosen,
    entropy_share,
    fit_predictor,
    log_odds,
    one_minus_largest,
    one_minus_margin,
    recalibrated,
    surrogate_doubt,
)

PROBABILITY = softmax(np.random.default_rng(0).normal(0, 3, (500, 4)), axis=1)


class TestScores:
    """Doubt from class probabilities: 0 is sure."""

    def test_they_are_what_their_names_say(self) -> None:
        """Against sorting and scipy's entropy."""
        ordered = np.sort(PROBABILITY, axis=1)
        np.testing.assert_allclose(one_minus_largest(PROBABILITY), 1 - ordered[:, -1])
        np.testing.assert_allclose(
            one_minus_margin(PROBABILITY), ordered[:, -2] / (ordered[:, -1] + ordered[:, -2])
        )
        np.testing.assert_allclose(
            entropy_share(PROBABILITY), entropy(PROBABILITY, axis=1) / np.log(4)
        )

    def test_sure_is_0_and_even_is_most(self) -> None:
        """A single 1 has no doubt, equal probabilities have all there is."""
        sure, flat = np.eye(4), np.full((2, 4), 0.25)
        for score, most in ((one_minus_largest, 0.75), (one_minus_margin, 0.5), (entropy_share, 1)):
            np.testing.assert_allclose(score(sure), 0, atol=1e-12)
            np.testing.assert_allclose(score(flat), most)

    def test_surrogates_doubt_where_they_say_another_class(self) -> None:
        """The target itself as surrogate gives 1 - msp; two give the mean."""
        predicted = PROBABILITY.argmax(1)
        own = surrogate_doubt(predicted, [PROBABILITY])
        np.testing.assert_allclose(own, one_minus_largest(PROBABILITY))
        other = np.eye(4)[(predicted + 1) % 4]
        both = surrogate_doubt(predicted, [PROBABILITY, other])
        np.testing.assert_allclose(both, (own + 1) / 2)

    def test_logits_and_foreign_surrogates_are_refused(self) -> None:
        """Rows that do not sum to 1, no surrogate, and other units or classes."""
        with pytest.raises(DataError, match="give probabilities, not logits"):
            one_minus_largest(np.array([[2.0, -1.0]]))
        with pytest.raises(DataError, match="no surrogates"):
            surrogate_doubt(np.array([0]), [])
        with pytest.raises(DataError, match=r"shape \(500, 4\); expected 1 units"):
            surrogate_doubt(np.array([0]), [PROBABILITY])
        with pytest.raises(DataError, match="class 4 among the columns"):
            surrogate_doubt(np.full(500, 4), [PROBABILITY])


def over_confident(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the g that a target tells, ten times too small, the true one, and errors."""
    dice = np.random.default_rng(seed)
    truth = dice.beta(0.3, 5, n)
    return 1 / (1 + np.exp(-(log_odds(truth) - 2.3))), truth, dice.random(n) < truth


class TestRecalibration:
    """Labels correct a prior, the more the more there are."""

    @pytest.mark.parametrize("how", ["logistic", "isotonic"])
    def test_many_labels_find_the_truth(self, how: str) -> None:
        """Twenty thousand labels take g ten times too small to the true probabilities."""
        g, truth, error = over_confident(20_000)
        corrected = recalibrated(g, np.arange(20_000), error, how)  # type: ignore[arg-type]  # both
        assert np.abs(corrected - truth).mean() < 0.01
        assert np.abs(g - truth).mean() > 0.03

    @pytest.mark.parametrize("how", ["logistic", "isotonic"])
    def test_few_labels_without_error_lower_g_but_never_to_nothing(self, how: str) -> None:
        """Ten labels that are all right halve g at most; the order of units stays."""
        g, _, _ = over_confident(1_000)
        index = np.argsort(g)[::100]
        corrected = recalibrated(g, index, np.zeros(10, dtype=bool), how)  # type: ignore[arg-type]
        assert (corrected[index] > 0.2 * g[index]).all()
        assert corrected.mean() < g.mean()
        order = np.argsort(g)
        assert (np.diff(corrected[order]) >= -1e-12).all()

    def test_labels_drawn_by_g_tell_the_same_as_uniform_ones(self) -> None:
        """What is fitted is the error given g, so sampling by g does no harm."""
        g, truth, error = over_confident(200_000)
        dice = np.random.default_rng(0)
        index = dice.choice(len(g), 20_000, p=np.sqrt(g) / np.sqrt(g).sum())
        corrected = recalibrated(g, index, error[index])
        assert np.abs(corrected - truth).mean() < 0.01

    def test_features_tell_more_than_one_score(self) -> None:
        """Two independent hints: the fitted curve ranks errors better than either."""
        dice = np.random.default_rng(3)
        hints = dice.normal(size=(20_000, 2))
        truth = 1 / (1 + np.exp(-(2 * hints.sum(1) - 5)))
        error = dice.random(20_000) < truth
        prior = np.full(20_000, error.mean())
        fit = fit_predictor(hints[:10_000], error[:10_000], prior[:10_000])
        assert np.abs(fit(hints) - truth)[10_000:].mean() < 0.01
        np.testing.assert_allclose(fit.weight, [2, 2], rtol=0.15)


class TestChoice:
    """Validation labels decide which predictor samples."""

    def test_a_better_predictor_is_chosen_and_its_gain_told(self) -> None:
        """The true probabilities beat a score that tells nothing."""
        _, truth, error = over_confident(5_000)
        choice = chosen({"flat": np.full(5_000, 0.05), "true": truth}, error)
        assert choice.name == "true"
        assert choice.gain > 1.3

    def test_one_that_is_no_better_is_not(self) -> None:
        """Noise, and a predictor that looks where no errors are: the first stays."""
        _, truth, error = over_confident(5_000)
        noise = np.random.default_rng(5).random(5_000)
        choice = chosen({"true": truth, "noise": noise, "reversed": 1 - truth}, error)
        assert (choice.name, choice.gain) == ("true", 1.0)

    def test_without_errors_there_is_nothing_to_choose_by(self) -> None:
        """More validation labels are asked for."""
        with pytest.raises(DataError, match="2 predictors and 0 errors"):
            chosen({"a": np.ones(9), "b": np.ones(9)}, np.zeros(9, dtype=bool))
