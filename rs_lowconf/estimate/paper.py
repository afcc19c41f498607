"""The paper's own arm: labels spent on generated tiles instead of real ones.

Chan-Hon-Tong, "Sampling in low confidence area of a targeted model", 2020, asks whether labels
of generated tiles of low confidence make the error estimate converge faster. As they are they
estimate another quantity, the error rate of the generator's law; so their error has a part that
no number of labels takes away. What is sound is to let them say where to look among real units.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import norm

from rs_lowconf.errors import DataError
from rs_lowconf.estimate.anticipate import labels_of_uniform
from rs_lowconf.estimate.intervals import LEVEL, clopper_pearson
from rs_lowconf.seeds import seed_of

_MOST = 20_000
"""Generated units that are searched: of more, the nearest are hardly nearer."""
NEIGHBOURS = 10
"""Generated units that a real one is compared with."""


@dataclass(frozen=True, kw_only=True)
class GeneratedCell:
    """Labels of generated units, taken for an estimate of the real error rate."""

    source: str
    labels: int
    repetitions: int
    rate: float
    """True error rate of the real pool."""
    generated_rate: float
    """Error rate of the generated units, weighed where they have weights: what labels of them
    converge to."""
    bias_error: float
    """Standard error of `generated_rate` itself, which comes from so many units only."""
    times: float | None
    """The same over the true rate; None where that is 0."""
    rmse: float
    """Against the true rate."""
    saving: float
    """Labels of a uniform draw of real units of the same RMSE, over these."""
    covered: int
    """Repetitions in which the interval at 95 % held the true rate: the exact binomial one, or the
    normal one where units have weights."""
    width: float
    """Mean width of that interval."""


def replay_generated(
    error: Bool[np.ndarray, " m"],
    *,
    source: str,
    rate: float,
    population: int,
    labels: int,
    repetitions: int,
    seed: int,
    weight: Float64[np.ndarray, " m"] | None = None,
) -> GeneratedCell:
    """Return how near labels of generated units come to the real error rate.

    Args:
        error: whether the target errs on each generated unit; drawn from with replacement, as
            more of them could be generated.
        source: what to call them.
        rate: true error rate of the real pool.
        population: its units.
        labels: of each draw.
        repetitions: draws.
        seed: of all of them.
        weight: of each unit, by which the mean of weight x error stands for the pool; 1 when
            missing.

    Raises:
        DataError: no generated units.
    """
    if not len(error):
        raise DataError(f"no labelled units in {source}", expected="one at least")
    dice = np.random.default_rng(seed_of(seed, "paper", source, labels))
    counted = error.astype(float) if weight is None else error * weight
    own = float(counted.mean())
    if weight is None:
        found = dice.binomial(labels, own, repetitions)
        values = found / labels
        exact = {int(one): clopper_pearson(int(one), labels) for one in np.unique(found)}
        ends = np.array([(exact[int(one)].low, exact[int(one)].high) for one in found])
    else:
        drawn = counted[dice.integers(len(counted), size=(repetitions, labels))]
        values = drawn.mean(1)
        half = norm.ppf((1 + LEVEL) / 2) * drawn.std(1, ddof=1) / np.sqrt(labels)
        ends = np.stack([values - half, values + half], axis=1)
    mse = float(((values - rate) ** 2).mean())
    return GeneratedCell(
        source=source,
        labels=labels,
        repetitions=repetitions,
        rate=rate,
        generated_rate=own,
        bias_error=float(counted.std() / np.sqrt(len(counted))),
        times=own / rate if rate > 0 else None,
        rmse=float(np.sqrt(mse)),
        saving=labels_of_uniform(mse, rate, population) / labels,
        covered=int(((ends[:, 0] <= rate) & (rate <= ends[:, 1])).sum()),
        width=float((ends[:, 1] - ends[:, 0]).mean()),
    )


def worth_at_most(rate: float, other: float, population: int) -> float:
    """Return the labels of a uniform draw whose error is as large as a bias alone.

    No number of labels of units that err at another rate is worth more; the whole population at
    most.

    Args:
        rate: of errors in the population.
        other: what the labels converge to.
        population: its units.
    """
    bias = other - rate
    most = float(population)
    return most if bias == 0 else min(most, rate * (1 - rate) / bias**2)


def neighbour_errors(
    features: Float[np.ndarray, "n f"],
    generated: Float[np.ndarray, "m _"],
    error: Bool[np.ndarray, " m"],
    seed: int,
) -> Float64[np.ndarray, " n"]:
    """Return the share of errors among the generated units nearest to each real one.

    Features are brought to unit variance over the generated units first; the share is drawn
    towards the mean as one more neighbour of the mean's share would, which keeps it off 0.

    Args:
        features: of the real units.
        generated: of the generated ones.
        error: whether the target errs on each of these.
        seed: of which 20,000 of them are searched, if there are more.

    Raises:
        DataError: unequal numbers of features, or fewer than ten generated units.
    """
    # scikit-learn takes a second to load.
    from sklearn.neighbors import NearestNeighbors

    if features.shape[1] != generated.shape[1] or len(generated) < NEIGHBOURS:
        raise DataError(
            f"{len(generated)} generated units of {generated.shape[1]} features for real ones of "
            f"{features.shape[1]}",
            expected=f"{NEIGHBOURS} or more of the same features",
        )
    dice = np.random.default_rng(seed_of(seed, "paper", "neighbours"))
    some = dice.permutation(len(generated))[:_MOST]
    generated, error = generated[some], error[some]
    spread = np.maximum(generated.std(0), 1e-12)
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(generated / spread)
    _, index = near.kneighbors(features / spread)
    share: Float64[np.ndarray, " n"] = (error[index].sum(1) + error.mean()) / (NEIGHBOURS + 1)
    return share
