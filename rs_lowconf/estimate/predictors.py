"""How probably does the target err on a unit, given what is known without a label?

Every score here is a probability of error; all are only hints. Where they are wrong, estimates
stay right and need more labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import expit, logit

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.allocation import mixed
from rs_lowconf.estimate.draws import DEFENSIVE

_STRENGTH = 10.0
"""Labels that a prior is worth."""
_SMALLEST = 1e-7
"""Error probabilities are kept this far from 0 and 1 where logarithms are taken."""


def one_minus_largest(probability: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Return 1 - the largest probability of each unit."""
    doubt: Float64[np.ndarray, " n"] = 1 - _checked(probability).max(1)
    return doubt.clip(0, 1)


def one_minus_margin(probability: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Return the second largest over the sum of the two largest probabilities: 0..0.5.

    It grows as their margin falls, and is the probability of error where the truth is one of
    the two.
    """
    two = np.partition(_checked(probability), -2, axis=1)[:, -2:]
    share: Float64[np.ndarray, " n"] = two[:, 0] / two.sum(1)
    return share


def entropy_share(probability: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Return the entropy of each unit over the largest there can be, log k: 0..1."""
    p = _checked(probability)
    logarithm = np.log(np.maximum(p, np.finfo(float).tiny))
    entropy: Float64[np.ndarray, " n"] = -(p * logarithm).sum(1) / np.log(p.shape[1])
    return entropy.clip(0, 1)


def surrogate_doubt(
    predicted: Int[np.ndarray, " n"], surrogates: Sequence[Float[np.ndarray, "_ k"]]
) -> Float64[np.ndarray, " n"]:
    """Return 1 - what other models give the predicted class, on average.

    Kossen et al., "Active testing", ICML 2021, section 4: the expected loss under a surrogate
    of the truth.

    Args:
        predicted: class that the target says.
        surrogates: probabilities of models that learned from other data, or otherwise.

    Raises:
        DataError: no surrogates, or probabilities that do not fit `predicted`.
    """
    if not surrogates:
        raise DataError("no surrogates", expected="the probabilities of one at least")
    given = np.zeros(len(predicted))
    for one in surrogates:
        p = _checked(one)
        if len(p) != len(predicted) or predicted.max() >= p.shape[1]:
            raise DataError(
                f"surrogate probabilities of shape {p.shape}",
                expected=f"{len(predicted)} units and class {predicted.max()} among the columns",
            )
        given += p[np.arange(len(p)), predicted]
    return (1 - given / len(surrogates)).clip(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ErrorPredictor:
    """A logistic curve over features of a unit."""

    weight: Float64[np.ndarray, " f"]
    offset: float

    def __call__(self, features: Float64[np.ndarray, "n f"]) -> Float64[np.ndarray, " n"]:
        """Return the probability of error of each unit."""
        g: Float64[np.ndarray, " n"] = expit(features @ self.weight + self.offset)
        return g


def fit_predictor(
    features: Float64[np.ndarray, "m f"],
    error: Bool[np.ndarray, " m"],
    prior: Float64[np.ndarray, " m"],
) -> ErrorPredictor:
    """Return the logistic curve that fits labels and a prior.

    The prior joins as if ten more labels, spread over the units, had said what it says. With
    its `log_odds` among the features and no labels to speak of the curve is the prior itself;
    and no number of labels without error makes a probability zero.

    Args:
        features: of labelled units, such as `log_odds` of several scores. They may be
            generated ones: then `chosen` tells on real labels whether the curve is any good.
        error: whether the target errs on each.
        prior: a probability of error of each.
    """
    # scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression

    said = _with_prior(error, prior)
    # A penalty too small to matter: the prior does its work, in probabilities.
    fit = LogisticRegression(C=1e6, max_iter=1_000, solver="newton-cholesky")
    fit.fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], len(error)),
        sample_weight=np.concatenate([said, 1 - said]),
    )
    return ErrorPredictor(weight=fit.coef_[0], offset=float(fit.intercept_[0]))


def recalibrated(
    g: Float64[np.ndarray, " n"],
    index: Int[np.ndarray, " m"],
    error: Bool[np.ndarray, " m"],
    how: Literal["logistic", "isotonic"] = "logistic",
) -> Float64[np.ndarray, " n"]:
    """Return g of the pool as the labels of some of its units correct it.

    The prior of `fit_predictor` is g itself. That units were drawn by g does no harm: what is
    fitted is the error given g.

    Args:
        g: probability of error of each unit, calibrated or not.
        index: labelled units, repeats allowed.
        error: whether the target errs on each.
        how: `logistic` shifts and stretches the log-odds (two numbers); `isotonic` takes any
            rising curve, for which hundreds of errors are needed.
    """
    at = g[index]
    if how == "logistic":
        return fit_predictor(log_odds(at)[:, None], error, at)(log_odds(g)[:, None])
    # scikit-learn takes a second to load.
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    risen: Float64[np.ndarray, " n"] = curve.fit(at, _with_prior(error, at)).predict(g)
    return risen


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which error predictor to sample by, and what it is expected to gain."""

    name: str
    gain: float
    """Labels that the first candidate needs over those that this one needs, for the same
    variance by `importance`; 1 for the first itself."""


def chosen(
    candidates: Mapping[str, Float64[np.ndarray, " m"]],
    error: Bool[np.ndarray, " m"],
    defensive: float = DEFENSIVE,
) -> Choice:
    """Return the best candidate, or the first unless another is better by a standard error.

    The measure is what counts: the mean of y / s over validation labels, s the density by
    which `importance` would draw, is the second moment of its estimate.

    Args:
        candidates: g of the validation units by each predictor; the first is what to fall
            back on.
        error: whether the target errs on each of them. None may have been learned from, and
            all must have been drawn uniformly.
        defensive: share of the labels that will be drawn uniformly.

    Raises:
        DataError: no candidates, or no errors to tell them apart by.
    """
    if not candidates or not error.any():
        raise DataError(
            f"{len(candidates)} predictors and {int(error.sum())} errors to choose one by",
            expected="one of each at least",
            remedy="label more units for validation",
        )
    cost = {name: error / (len(g) * mixed(np.sqrt(g), defensive)) for name, g in candidates.items()}
    first, base = next(iter(cost.items()))
    best, gain = first, 1.0
    for name, own in cost.items():
        saved = base - own
        ratio = float(base.sum() / own.sum())
        if saved.mean() > saved.std() / np.sqrt(len(saved)) and ratio > gain:
            best, gain = name, ratio
    return Choice(name=best, gain=gain)


def log_odds(g: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return log g - log(1 - g), of probabilities kept 1e-7 away from 0 and 1."""
    odds: Float64[np.ndarray, " n"] = logit(g.clip(_SMALLEST, 1 - _SMALLEST))
    return odds


def _with_prior(
    error: Bool[np.ndarray, " m"], prior: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " m"]:
    share = _STRENGTH / (_STRENGTH + len(error))
    said: Float64[np.ndarray, " m"] = (1 - share) * error + share * prior
    return said


def _checked(probability: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    p = probability.astype(np.float64)
    if p.shape[1] < 2 or not ((p >= 0).all() and (np.abs(p.sum(1) - 1) < 1e-3).all()):
        raise DataError(
            "class probabilities that are negative or do not sum to 1",
            expected="two classes at least, and a row a unit that sums to 1",
            remedy="give probabilities, not logits",
        )
    return p
