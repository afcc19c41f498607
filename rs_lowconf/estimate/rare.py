"""How probable is a rare event under a standard normal latent? Subset simulation.

Au and Beck, "Estimation of small failure probabilities in high dimensions by subset
simulation", Probabilistic Engineering Mechanics 2001: a population of latents climbs down a
score, level by level, each a tenth as probable as the one above. A level is the score of the
best latent that is given up, which makes the product of the shares right on average (Brehier et
al., "Unbiasedness of some generalized adaptive multilevel splitting algorithms", Annals of
Applied Probability 2016). What it says is exact for the latent's law, and only for that:
generated data are not the data that a model will meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import stdtrit

from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.estimate.intervals import LEVEL, Interval, check_level
from rs_lowconf.seeds import seed_of

Score = Callable[[Float64[np.ndarray, "b d"]], Float64[np.ndarray, " b"]]
"""A number for each latent of a batch, such as the target's confidence in its tile; NaN where it
has none, which is below no threshold."""

REPLICATES = 10
"""Independent populations: an interval from fewer is not to be trusted."""
_ACCEPTANCE = 0.44
"""Share of proposals to accept (Papaioannou et al. 2015, section 4); steps grow above it."""
_SMALLEST_STEP, _LARGEST_STEP = 0.05, 1.0


@dataclass(frozen=True, kw_only=True)
class SubsetRules:
    """How populations climb down."""

    replicates: int = REPLICATES
    particles: int = 1_000
    """Latents of a population."""
    survivors: int = 100
    """Latents that go on to the next level, each as the seed of a chain."""
    max_levels: int = 20
    """Levels after which a population gives up: twenty reach 1e-20."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SettingsError: fewer replicates than ten, less than ten survivors, particles that
                are no multiple of them, or no level.
        """
        if self.replicates < REPLICATES:
            raise SettingsError(
                f"{self.replicates} replicates",
                expected=f"{REPLICATES} at least: the interval comes from how they scatter",
            )
        if not 10 <= self.survivors < self.particles or self.particles % self.survivors:
            raise SettingsError(
                f"{self.particles} particles of which {self.survivors} survive",
                expected="ten or more, and a multiple of them",
            )
        if self.max_levels < 1:
            raise SettingsError(f"{self.max_levels} levels", expected="one at least")


@dataclass(frozen=True, kw_only=True, eq=False)
class RareEvent:
    """Probabilities that the score is below thresholds, under a standard normal latent."""

    thresholds: tuple[float, ...]
    """From the highest to the lowest."""
    by_replicate: Float64[np.ndarray, "r t"]
    """What each population alone says; 0 where it did not get so low."""
    counted: Bool[np.ndarray, "r t"]
    """Where a population told it at its start, as a share of plain random latents."""
    latents: int
    """Plain random latents that all populations started with."""
    deepest: Float64[np.ndarray, " r"]
    """Probability of the last level of each population: what it did not meet there is rarer, as
    far as it can tell."""
    evaluations: int
    """Latents scored, in all."""
    unscored: int
    """Those of them that have no score: they count as not below."""

    @property
    def value(self) -> Float64[np.ndarray, " t"]:
        """Return the estimate at each threshold: the mean over populations."""
        mean: Float64[np.ndarray, " t"] = self.by_replicate.mean(0)
        return mean

    def to_json(self) -> dict[str, Any]:
        """Return it as a file holds it."""
        return {
            "thresholds": list(self.thresholds),
            "by_replicate": self.by_replicate.tolist(),
            "counted": self.counted.tolist(),
            "latents": self.latents,
            "deepest": self.deepest.tolist(),
            "evaluations": self.evaluations,
            "unscored": self.unscored,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RareEvent":
        """Return what `to_json` was called on."""
        return cls(
            thresholds=tuple(values["thresholds"]),
            by_replicate=np.array(values["by_replicate"], dtype=float),
            counted=np.array(values["counted"], dtype=bool),
            latents=values["latents"],
            deepest=np.array(values["deepest"], dtype=float),
            evaluations=values["evaluations"],
            unscored=values.get("unscored", 0),  # files of before had every score
        )

    def interval(self, place: int = -1, level: float = LEVEL) -> Interval:
        """Return the interval at one threshold, the lowest by default.

        From the scatter between populations, which are independent; that of the latents
        within one would be far too short. Their estimates are skew, near log-normal: it is Cox's
        interval with Student's quantile (Olsson, "Confidence intervals for the mean of a
        log-normal distribution", Journal of Statistics Education 2005, section 3.4), around
        their mean. Where a population did not get there, whose logarithm there is none, the
        relative standard error of the mean takes its place.

        Raises:
            SettingsError: see `check_level`.
            JobError: no population got there, so that nothing is known but that it is rare.
        """
        check_level(level)
        own = self.by_replicate[:, place]
        value = float(own.mean())
        if value == 0:
            raise JobError(
                f"no population of latents got below {self.thresholds[place]:g}",
                remedy="allow more levels or particles, or ask for a higher threshold",
            )
        many = len(own)
        if own.min() > 0:
            spread = float(np.log(own).var(ddof=1))
            error = np.sqrt(spread / many + spread**2 / (2 * (many - 1)))
        else:
            error = own.std(ddof=1) / np.sqrt(many) / value
        factor = float(np.exp(stdtrit(many - 1, (1 + level) / 2) * error))
        return Interval(
            low=value / factor, high=min(1.0, value * factor), level=level, method="replicates"
        )


def rare_event(
    score: Score,
    dimensions: int,
    thresholds: Sequence[float],
    seed: int,
    rules: SubsetRules | None = None,
) -> RareEvent:
    """Return how probable it is that the score is below each threshold.

    All populations go down together, so that the score is asked for in large batches; each has
    a random stream, levels and steps of its own, which keeps them independent.

    Args:
        score: of a batch of latents; a function of each alone.
        dimensions: of the latent, whose law is N(0, I).
        thresholds: the ladder; one run serves all, and only the lowest costs.
        seed: of the run.
        rules: sizes; those of `SubsetRules` when missing.

    Raises:
        SettingsError: no threshold, or no dimension.
    """
    rules = rules or SubsetRules()
    ladder = _ladder(thresholds, dimensions)
    populations = _Populations(score, dimensions, seed, rules)
    result = np.full((rules.replicates, len(ladder)), np.nan)
    counted = np.zeros(result.shape, dtype=bool)
    deepest = np.ones(rules.replicates)
    for depth in range(rules.max_levels + 1):
        active = populations.active
        border = populations.border(depth)
        # What a threshold is worth is read at the first level that has enough latents below it.
        reached = ladder > border[:, None]
        below = populations.share[:, None] * (populations.value[:, :, None] < ladder).mean(1)
        result[active] = np.where(np.isnan(result[active]) & reached, below, result[active])
        deepest[active] = populations.share
        if depth == 0:
            counted = reached
        going = np.array([not own.all() for own in reached])
        if not going.any():
            break
        populations.descend(border, going)
    return RareEvent(
        thresholds=tuple(ladder.tolist()),
        by_replicate=result,
        counted=counted,
        latents=rules.replicates * rules.particles,
        deepest=deepest,
        evaluations=populations.evaluations,
        unscored=populations.unscored,
    )


def counted_event(
    score: Score,
    dimensions: int,
    thresholds: Sequence[float],
    seed: int,
    rules: SubsetRules | None = None,
) -> RareEvent:
    """Return the same from the random latents alone that the populations start with.

    For a score that is the same for most latents, so that there is no first level to go down to.
    Arguments and errors are those of `rare_event`.
    """
    rules = rules or SubsetRules()
    ladder = _ladder(thresholds, dimensions)
    populations = _Populations(score, dimensions, seed, rules)
    shares = (populations.value[:, :, None] < ladder).mean(1)
    return RareEvent(
        thresholds=tuple(ladder.tolist()),
        by_replicate=shares,
        counted=np.ones(shares.shape, dtype=bool),
        latents=rules.replicates * rules.particles,
        deepest=np.ones(rules.replicates),
        evaluations=populations.evaluations,
        unscored=populations.unscored,
    )


def _ladder(thresholds: Sequence[float], dimensions: int) -> Float64[np.ndarray, " t"]:
    """Return the thresholds from the highest to the lowest."""
    if not thresholds or dimensions < 1:
        raise SettingsError(
            f"{len(thresholds)} thresholds in {dimensions} dimensions", expected="one at least"
        )
    ladder: Float64[np.ndarray, " t"] = np.sort(np.array(thresholds, dtype=float))[::-1]
    return ladder


class _Populations:
    """Those populations that are still on their way down, side by side."""

    def __init__(self, score: Score, dimensions: int, seed: int, rules: SubsetRules) -> None:
        self._score = score
        self._rules = rules
        self._dice = [
            np.random.default_rng(seed_of(seed, "estimate", "rare", one))
            for one in range(rules.replicates)
        ]
        self.active = np.arange(rules.replicates)
        """Numbers of the populations."""
        self.share = np.ones(rules.replicates)
        """Probability of the level that each stands on."""
        self.evaluations = self.unscored = 0
        self._step = np.full(rules.replicates, 0.6)
        self._z = self._noise(rules.particles, dimensions)
        parts = np.array_split(self._z, rules.particles // rules.survivors, axis=1)
        self.value = np.concatenate([self._scored(part) for part in parts], axis=1)

    def border(self, depth: int) -> Float64[np.ndarray, " r"]:
        """Return the least score of the latents of each population that shall not survive.

        Minus infinity where a population goes no further: after the last level, or because all
        its latents that are left are copies of one.

        Raises:
            JobError: the score is the same for so many latents that there is no first level.
        """
        place = self._rules.survivors
        border: Float64[np.ndarray, " r"] = np.partition(self.value, place, axis=1)[:, place]
        stuck = self.value.min(1) >= border
        if depth == 0 and stuck.any():
            raise JobError(
                f"most of {self._rules.particles} latents have the score {border.max():g}, and "
                "none has a lower one",
                expected="a score that tells latents apart",
                remedy="score by the log-odds of the confidence, which do not round to 1",
            )
        border[stuck | (depth == self._rules.max_levels)] = -np.inf
        return border

    def descend(self, border: Float64[np.ndarray, " r"], going: Bool[np.ndarray, " r"]) -> None:
        """Move the populations that go on below their borders.

        Each survivor starts a chain of steps that leave the latent's law below the border as
        it is (Papaioannou et al., "MCMC algorithms for subset simulation", Probabilistic
        Engineering Mechanics 2015, section 3.4).
        """
        rules = self._rules
        value, border = self.value[going], border[going, None]
        self.active = self.active[going]
        # Fewer than shall survive where copies of one latent stand at the border.
        count = (value < border).sum(1)
        self.share = self.share[going] * count / rules.particles
        seeds = np.argsort(value, axis=1)[:, : rules.survivors]
        for row, (one, own_count) in enumerate(zip(self.active, count, strict=True)):
            # In random order, and the first again where there are too few.
            order = self._dice[one].permutation(own_count)
            seeds[row] = seeds[row, np.resize(order, rules.survivors)]
        z = np.take_along_axis(self._z[going], seeds[:, :, None], 1)
        own = np.take_along_axis(value, seeds, 1)
        chain, scores = [z], [own]
        for _ in range(rules.particles // rules.survivors - 1):
            step = self._step[self.active, None, None]
            proposal = np.sqrt(1 - step**2) * z + step * self._noise(*z.shape[1:])
            proposed = self._scored(proposal)
            taken = proposed < border
            z = np.where(taken[:, :, None], proposal, z)
            own = np.where(taken, proposed, own)
            chain.append(z)
            scores.append(own)
            factor = np.exp(taken.mean(1) - _ACCEPTANCE)
            self._step[self.active] = (self._step[self.active] * factor).clip(
                _SMALLEST_STEP, _LARGEST_STEP
            )
        self._z, self.value = np.concatenate(chain, axis=1), np.concatenate(scores, axis=1)

    def _noise(self, count: int, dimensions: int) -> Float64[np.ndarray, "r b d"]:
        return np.stack(
            [self._dice[one].standard_normal((count, dimensions)) for one in self.active]
        )

    def _scored(self, z: Float64[np.ndarray, "r b d"]) -> Float64[np.ndarray, "r b"]:
        scored: Float64[np.ndarray, "r b"] = self._score(z.reshape(-1, z.shape[2])).reshape(
            z.shape[:2]
        )
        without = np.isnan(scored)
        self.evaluations += scored.size
        self.unscored += int(without.sum())
        return np.where(without, np.inf, scored)
