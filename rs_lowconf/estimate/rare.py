"""How probable is a rare event under a standard normal latent? Populations of `subset_simulation`.

What it says is exact for the latent's law, and only for that: generated data are not the data that
a model will meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf import subset_simulation
from rs_lowconf.errors import JobError, SettingsError
from rs_lowconf.estimate.intervals import LEVEL, Interval, check_level
from rs_lowconf.seeds import seed_of
from rs_lowconf.subset_simulation import Asking, Descent, Population, Scored, descend

Score = Callable[[Float64[np.ndarray, "b d"]], Float64[np.ndarray, " b"]]
"""A number for each latent of a batch, such as the target's confidence in its tile; NaN where it
has none, which is below no threshold."""

REPLICATES = 10
"""Independent populations: an interval from fewer is not to be trusted."""


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

        See `subset_simulation.interval`.

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
        low, high = subset_simulation.interval([own], level)
        return Interval(low=low, high=high, level=level, method="replicates")


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
    return _event(score, dimensions, thresholds, seed, rules or SubsetRules(), levels=True)


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
    return _event(score, dimensions, thresholds, seed, rules or SubsetRules(), levels=False)


def _event(
    score: Score,
    dimensions: int,
    thresholds: Sequence[float],
    seed: int,
    rules: SubsetRules,
    *,
    levels: bool,
) -> RareEvent:
    if not thresholds or dimensions < 1:
        raise SettingsError(
            f"{len(thresholds)} thresholds in {dimensions} dimensions", expected="one at least"
        )
    ladder = np.sort(np.array(thresholds, dtype=float))[::-1]
    evaluations = unscored = 0

    def counting(z: Float64[np.ndarray, "b d"]) -> Float64[np.ndarray, " b"]:
        nonlocal evaluations, unscored
        found = score(z)
        evaluations += len(z)
        unscored += int(np.isnan(found).sum())
        return found

    courses = [
        _course(
            np.random.default_rng(seed_of(seed, "estimate", "rare", number)),
            dimensions,
            ladder,
            rules,
            levels=levels,
        )
        for number in range(rules.replicates)
    ]
    descents = _together(counting, courses, rules.replicates * rules.survivors)
    return RareEvent(
        thresholds=tuple(ladder.tolist()),
        by_replicate=np.stack([descent.probability for descent in descents]),
        counted=np.stack([descent.counted for descent in descents]),
        latents=rules.replicates * rules.particles,
        deepest=np.array([descent.deepest for descent in descents]),
        evaluations=evaluations,
        unscored=unscored,
    )


def _course(
    rng: np.random.Generator,
    dimensions: int,
    ladder: Float64[np.ndarray, " t"],
    rules: SubsetRules,
    *,
    levels: bool,
) -> Asking[Descent]:
    """Go down with one population.

    Raises:
        JobError: the score is the same for so many latents that there is no first level.
    """
    z = rng.standard_normal((rules.particles, dimensions))
    population = Population(z, rng, survivors=rules.survivors)
    yield from population.begin()
    if levels and population.border() == -np.inf:
        raise JobError(
            f"most of {rules.particles} latents have the score "
            f"{population.latents.value.min():g}, and none has a lower one",
            expected="a score that tells latents apart",
            remedy="score by the log-odds of the confidence, which do not round to 1",
        )
    return (yield from descend(population, ladder, rules.max_levels if levels else 0))


def _together(score: Score, courses: Sequence[Asking[Descent]], size: int) -> list[Descent]:
    """Let all populations go down side by side, asking in batches of a size."""
    asks = dict(enumerate(map(next, courses)))
    descents: dict[int, Descent] = {}
    while asks:
        z = np.concatenate([ask.z for ask in asks.values()])
        values = [score(z[first : first + size]) for first in range(0, len(z), size)]
        ends = np.cumsum([len(ask.z) for ask in asks.values()])
        for number, value in zip(list(asks), np.split(np.concatenate(values), ends), strict=False):
            try:
                nothing = np.empty((len(value), 0))
                asks[number] = courses[number].send(Scored(value=value, extras=nothing))
            except StopIteration as end:
                descents[number] = end.value
                del asks[number]
    return [descents[number] for number in range(len(courses))]
