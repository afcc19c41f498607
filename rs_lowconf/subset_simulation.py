"""Subset simulation: how probable is a low score of a standard normal latent, and which have one?

A population of latents, first plain random ones, climbs down a score, level by level (Au and
Beck, "Estimation of small failure probabilities in high dimensions by subset simulation",
Probabilistic Engineering Mechanics 2001). The best latents survive; the others are replaced by
chains of steps that start at a survivor and leave the latent's law below the level as it is. A
level is the score of the best latent that is given up, which makes the product of the shares that
survived right on average (Brehier et al., "Unbiasedness of some generalized adaptive multilevel
splitting algorithms", Annals of Applied Probability 2016).

Populations are generators that yield latents and are sent their scores, so that whoever asks
chooses the batches; the course of each depends on its first latents and its random generator alone.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import stdtrit

_ACCEPTANCE = 0.44
"""Share of proposals to accept (Papaioannou et al. 2015, section 4); steps grow above it."""
_FIRST_STEP, _SMALLEST_STEP, _LARGEST_STEP = 0.6, 0.05, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Ask:
    """Latents to score."""

    rows: Int[np.ndarray, " b"]
    """The place of each in the population."""
    z: Float64[np.ndarray, "b d"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """The answer to an `Ask`."""

    value: Float64[np.ndarray, " b"]
    """Scores; NaN or infinity where there is none, which is below no threshold."""
    extras: np.ndarray
    """What goes with each latent wherever it is copied, such as its tile; b rows of anything."""


Result = TypeVar("Result")
Asking = Generator[Ask, Scored, Result]
"""Work that asks for scores and returns a result."""


def run(work: Asking[Result], score: Callable[[Ask], Scored]) -> Result:
    """Do work alone and return its result."""
    ask = next(work)
    while True:
        try:
            ask = work.send(score(ask))
        except StopIteration as end:
            result: Result = end.value
            return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """Latents with their scores."""

    z: Float64[np.ndarray, "b d"]
    value: Float64[np.ndarray, " b"]
    extras: np.ndarray

    def at(self, rows: np.ndarray) -> "Latents":
        """Return a copy of some."""
        return Latents(z=self.z[rows], value=self.value[rows], extras=self.extras[rows])

    def put(self, rows: np.ndarray, others: "Latents") -> None:
        """Replace some."""
        self.z[rows], self.value[rows], self.extras[rows] = others.z, others.value, others.extras


@runtime_checkable
class Walk(Protocol):
    """Steps that leave a density as it is, once those are refused that the ratio tells to."""

    def propose(
        self, here: Latents, noise: Float64[np.ndarray, "b d"], step: float
    ) -> Float64[np.ndarray, "b d"]:
        """Return where steps of a size lead, from a draw of standard normal noise."""
        ...

    def log_ratio(
        self, here: Latents, there: Latents, step: float
    ) -> Float64[np.ndarray, " b"] | None:
        """Return the logarithm of the Metropolis ratio; None where it is 1."""
        ...


class CrankNicolson:
    """The preconditioned Crank-Nicolson step, which leaves N(0, I) as it is.

    Called conditional sampling by Papaioannou et al., "MCMC algorithms for subset simulation",
    Probabilistic Engineering Mechanics 2015, section 3.4.
    """

    def propose(
        self, here: Latents, noise: Float64[np.ndarray, "b d"], step: float
    ) -> Float64[np.ndarray, "b d"]:
        """See `Walk`."""
        proposal: Float64[np.ndarray, "b d"] = np.sqrt(1 - step**2) * here.z + step * noise
        return proposal

    def log_ratio(self, here: Latents, there: Latents, step: float) -> None:
        """See `Walk`."""


class Population:
    """Latents on their way down."""

    latents: Latents
    """From `begin` on."""
    share: float = 1.0
    """Probability of the level that they stand on."""

    def __init__(
        self,
        z: Float64[np.ndarray, "n d"],
        rng: np.random.Generator,
        *,
        survivors: int,
        moves: int = 1,
        walk: Walk | None = None,
    ) -> None:
        """Place the latents.

        Args:
            z: plain random latents.
            rng: of this population alone.
            survivors: how many go on to the next level.
            moves: proposals between one latent of a chain and the next.
            walk: the steps; those of `CrankNicolson` when missing.
        """
        self._z, self._rng = z, rng
        self._survivors, self._moves = survivors, moves
        self._walk = walk or CrankNicolson()
        self._step = _FIRST_STEP

    def begin(self) -> Asking[None]:
        """Score the first latents."""
        self.latents = yield from _scored(np.arange(len(self._z)), self._z)

    def border(self) -> float:
        """Return the least score of those that shall not survive.

        Minus infinity where no latent has a lower one: all that are left are copies of one, or
        the score is the same for most.
        """
        border = float(np.partition(self.latents.value, self._survivors)[self._survivors])
        return border if self.latents.value.min() < border else -np.inf

    def descend(self, border: float) -> Asking[None]:
        """Replace what is not below the border by chains that start at the survivors."""
        # A stable order, so that equal scores are the same choice on every machine.
        order = np.argsort(self.latents.value, kind="stable")
        # Fewer than shall survive where copies of one latent stand at the border.
        count = int((self.latents.value < border).sum())
        self.share = self.share * count / len(order)
        # Chains start in random order, and the first again where there are too few.
        chains = np.resize(order[self._rng.permutation(count)], self._survivors)
        self._copy(order[count : self._survivors], chains[count:])
        for first in range(self._survivors, len(order), self._survivors):
            rows = order[first : first + self._survivors]
            self._copy(rows, chains[: len(rows)])
            for _ in range(self._moves):
                yield from self.move(rows, border)
            chains = rows

    def move(self, rows: Int[np.ndarray, " b"], border: float) -> Asking[None]:
        """Propose a step for each row; those that stay below the border are taken."""
        here = self.latents.at(rows)
        noise = self._rng.standard_normal(here.z.shape)
        there = yield from _scored(rows, self._walk.propose(here, noise, self._step))
        taken: Bool[np.ndarray, " b"] = there.value < border
        ratio = self._walk.log_ratio(here, there, self._step)
        if ratio is not None:
            taken &= np.log1p(-self._rng.random(len(rows))) < ratio
        self.latents.put(rows[taken], there.at(taken))
        # Robbins and Monro on the logarithm, from past steps only.
        step = self._step * np.exp(taken.mean() - _ACCEPTANCE)
        self._step = float(step.clip(_SMALLEST_STEP, _LARGEST_STEP))

    def _copy(self, rows: Int[np.ndarray, " b"], others: Int[np.ndarray, " b"]) -> None:
        self.latents.put(rows, self.latents.at(others))


def _scored(rows: Int[np.ndarray, " b"], z: Float64[np.ndarray, "b d"]) -> Asking[Latents]:
    scored = yield Ask(rows=rows, z=z)
    value = np.where(np.isnan(scored.value), np.inf, scored.value)
    return Latents(z=z, value=value, extras=scored.extras)


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent:
    """The result of one population."""

    probability: Float64[np.ndarray, " t"]
    """That the score is below each threshold; 0 where it did not get so low."""
    counted: Bool[np.ndarray, " t"]
    """Where it comes from the start, as a share of plain random latents."""
    deepest: float
    """Probability of the last level: what was not met there is rarer, as far as it can tell."""


def descend(
    population: Population, thresholds: Float64[np.ndarray, " t"], max_levels: int
) -> Asking[Descent]:
    """Go down until enough latents are below each threshold.

    Args:
        population: one that has begun.
        thresholds: of the score; only the lowest costs.
        max_levels: levels after which it gives up.
    """
    probability = np.full(len(thresholds), np.nan)
    counted = np.zeros(len(thresholds), dtype=bool)
    for depth in range(max_levels + 1):
        border = population.border() if depth < max_levels else -np.inf
        # What a threshold is worth is read at the first level that has enough latents below it.
        reached = thresholds > border
        below = population.share * (population.latents.value[:, None] < thresholds).mean(0)
        probability = np.where(np.isnan(probability) & reached, below, probability)
        if depth == 0:
            counted = reached
        if reached.all():
            break
        yield from population.descend(border)
    return Descent(probability=probability, counted=counted, deepest=population.share)


def interval(groups: Sequence[Float64[np.ndarray, " _"]], level: float) -> tuple[float, float]:
    """Return the interval of the mean of groups from the scatter of independent populations.

    That of the latents within a population would be far too short. Estimates of populations are
    skew, near log-normal: it is Cox's interval with Student's quantile (Olsson, "Confidence
    intervals for the mean of a log-normal distribution", Journal of Statistics Education 2005,
    section 3.4), around the mean, with one variance of the logarithm for all conditions, to which
    those that add more to the mean contribute more. Where a population says 0, which has no
    logarithm, it is that of Welch and Satterthwaite from the standard errors of the means.

    Args:
        groups: estimates of two or more populations of each condition, not all of them 0;
            conditions weigh the same.
        level: of confidence, such as 0.95.
    """
    value = float(np.mean([group.mean() for group in groups]))
    met = [group for group in groups if group.any()]
    many = np.array([len(group) for group in met])
    shares = np.array([group.mean() for group in met]) / value / len(groups)
    if min(group.min() for group in met) > 0:
        # The root, a compromise by measurement: equal weights let conditions that add nothing
        # widen the interval, and those of the shares leave few degrees of freedom.
        weights = (many - 1) * np.sqrt(shares)
        weights /= weights.sum()
        spread = weights @ [np.log(group).var(ddof=1) for group in met]
        freedom = 1 / (weights**2 / (many - 1)).sum()
        error = np.sqrt(spread * (shares**2 / many).sum() + spread**2 / (2 * freedom))
    else:
        relative = np.array([group.std(ddof=1) / group.mean() for group in met])
        parts = (shares * relative) ** 2 / many
        freedom = parts.sum() ** 2 / (parts**2 / (many - 1)).sum()
        error = np.sqrt(parts.sum())
    factor = float(np.exp(stdtrit(freedom, (1 + level) / 2) * error))
    return value / factor, min(1.0, value * factor)
