"""Populations of latents move to ever lower confidence: unbiased draws, and their probability.

Populations of `subset_simulation`, each of one condition: the score is the log-odds of the
confidence, half survive a level, and the latents that arrive are judged as stored tiles.

Gradients are not needed. If the target has them, steps may drift along them; a Metropolis test
corrects for that.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt16
from torch import Tensor

from rs_lowconf import subset_simulation
from rs_lowconf.errors import AnswerError
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.loop import (
    Found,
    Outcome,
    Refusal,
    State,
    Tile,
    Trajectory,
    judge_stored,
    skipped,
)
from rs_lowconf.search.prior import draw_latent
from rs_lowconf.seeds import seed_of
from rs_lowconf.subset_simulation import (
    Ask,
    Asking,
    CrankNicolson,
    Latents,
    Population,
    Scored,
    descend,
    run,
)


@dataclass(frozen=True, kw_only=True)
class SplittingRules:
    """What populations accept and how they move."""

    tau: float
    labels: tuple[int, ...]
    """Conditions; population u searches labels[u mod n]."""
    run_seed: int
    stream: str
    """Name of the random stream, as in `SearchRules`."""
    particles: int
    """Latents of a population."""
    moves: int
    """Proposals for each copy per level."""
    final_moves: int
    """Proposals for each latent once its population has arrived, to decorrelate copies."""
    max_levels: int
    """Most levels, each with half the probability of the level above."""
    replicates: int = 0
    """Populations of each condition that are searched even if it has enough tiles."""
    drift: float = 0.0
    """Weight of the gradient of the confidence's log-odds in a step; 0 asks for no gradients."""
    audit: bool = False
    """Whether to keep tiles that the gate rejects, so that people can check the gate."""


def split(
    evaluator: Evaluator,
    rules: SplittingRules,
    done: Mapping[int, Trajectory] | None = None,
    closed: Container[int] = (),
) -> Iterator[Trajectory]:
    """Yield a trajectory for each latent of each population, endlessly; the caller stops.

    Seed i is latent i mod n of population i div n, of n latents each. The course of a population is
    a function of its number only.

    Args:
        evaluator: scores latents.
        rules: what to accept and how to move.
        done: trajectories of an earlier, interrupted search, by seed.
        closed: conditions with enough tiles: their next populations are skipped.
    """
    done = done or {}
    number = 0
    while True:
        seeds = range(number * rules.particles, (number + 1) * rules.particles)
        label = rules.labels[number % len(rules.labels)]
        if all(seed_id in done for seed_id in seeds):
            yield from (done[seed_id] for seed_id in seeds)
        elif (
            label in closed
            and number >= rules.replicates * len(rules.labels)
            and seeds[0] not in done
        ):
            yield from (skipped(seed_id, label) for seed_id in seeds)
        else:
            for one in _Course(evaluator, rules, number, label).run():
                yield done.get(one.seed_id, one)
        number += 1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """What goes with a latent besides its log-odds."""

    pixels: UInt16[Tensor, "c h w"]
    confidence: float
    answered: bool
    """Whether the target has an answer; if not, the log-odds are infinite: never moved to."""
    slope: Float64[np.ndarray, " d"] | None
    """Gradient of the log-odds, where steps drift."""


class _Course:
    """A population of one condition, from random latents to judged tiles."""

    def __init__(
        self, evaluator: Evaluator, rules: SplittingRules, number: int, label: int
    ) -> None:
        # Only the target's confidence guides the draws: anything else would bias them.
        self._evaluator = evaluator.by_confidence_alone()
        self._rules = rules
        self._first = number * rules.particles
        self._label = label
        self._evaluations = [0] * rules.particles
        self._unanswered = [Counter[str]() for _ in range(rules.particles)]
        dim = sum(evaluator.generator.latent_parts)
        seeds = range(self._first, self._first + rules.particles)
        z = torch.stack([draw_latent(rules.run_seed, rules.stream, seed, dim) for seed in seeds])
        self._population = Population(
            z.double().numpy(),
            np.random.default_rng(
                seed_of(rules.run_seed, "search", rules.stream, "population", number)
            ),
            survivors=rules.particles - rules.particles // 2,
            moves=rules.moves,
            walk=Langevin(rules.drift) if rules.drift else CrankNicolson(),
        )

    def run(self) -> Iterator[Trajectory]:
        """Descend, then judge the latents that arrived."""
        yield from self._judge(*run(self._descend(), self._score))

    def _descend(self) -> Asking[tuple[set[int], float]]:
        """Return the rows that arrived and the population's estimate."""
        rules, population = self._rules, self._population
        goal = math.log(rules.tau) - math.log1p(-rules.tau)
        yield from population.begin()
        descent = yield from descend(population, np.array([goal]), rules.max_levels)
        arrived = np.flatnonzero(population.latents.value < goal)
        for _ in range(rules.final_moves if len(arrived) else 0):
            yield from population.move(arrived, goal)
        return set(arrived.tolist()), float(descent.probability[0])

    def _score(self, ask: Ask) -> Scored:
        for row in ask.rows:
            self._evaluations[row] += 1
        scores = self._evaluator.score(
            torch.from_numpy(ask.z).float(),
            torch.full((len(ask.z),), self._label, dtype=torch.long),
            gradient=self._rules.drift > 0,
        )
        for place, reason in scores.unanswered.items():
            self._unanswered[ask.rows[place]][reason] += 1
        extras = np.empty(len(ask.z), dtype=object)
        for place, pixels in enumerate(scores.pixels):
            slope = None if scores.gradient is None else scores.gradient[place].double().numpy()
            extras[place] = _Kept(
                pixels=pixels,
                confidence=float(scores.confidence[place]),
                answered=place not in scores.unanswered,
                slope=slope,
            )
        return Scored(value=scores.log_odds.double().numpy(), extras=extras)

    def _judge(self, arrived: set[int], share: float) -> Iterator[Trajectory]:
        latents, seen = self._population.latents, set[bytes]()
        for i in range(self._rules.particles):
            steps = self._evaluations[i]
            outcome, judged = Outcome.AGED, None
            if i in arrived:
                latent = latents.z[i].tobytes()
                if latent in seen:
                    # A copy that never moved: its scores are known.
                    outcome = Outcome.DUPLICATE
                else:
                    seen.add(latent)
                    judged = self._ask(i)
                    outcome = Outcome.REJECTED
                    if isinstance(judged, AnswerError):
                        self._unanswered[i][judged.reason] += 1
                        outcome = Outcome.UNANSWERED
            elif not latents.extras[i].answered:
                outcome = Outcome.UNANSWERED
            passes = isinstance(judged, Found) and judged.passes
            flipped = isinstance(judged, Refusal) and judged.flipped
            dropped_by = judged.dropped_by if isinstance(judged, Found | Refusal) else None
            yield Trajectory(
                seed_id=self._first + i,
                label=self._label,
                outcome=Outcome.FOUND if passes else outcome,
                steps=steps,
                evaluations=self._evaluations[i],
                flips=int(flipped),
                gate_rejections=int(
                    isinstance(judged, Found | Refusal) and not flipped and not passes
                ),
                dropped_by={dropped_by: 1} if dropped_by else {},
                confidence=latents.extras[i].confidence,
                found=judged if isinstance(judged, Found) and judged.passes else None,
                audit=judged if isinstance(judged, Found) and not judged.passes else None,
                population_probability=share,
                unanswered=dict(self._unanswered[i]),
            )

    def _ask(self, i: int) -> Found | Refusal | AnswerError:
        latents = self._population.latents
        z, kept = torch.from_numpy(latents.z[i]).float(), latents.extras[i]
        state = State(tile=Tile(z=z, pixels=kept.pixels), confidence=kept.confidence)
        self._evaluations[i] += 1
        return judge_stored(
            self._evaluator, self._rules.tau, self._label, state, keep_rejected=self._rules.audit
        )


class Langevin:
    """Crank-Nicolson steps that drift down the gradient of the log-odds.

    Cotter et al., "MCMC methods for functions", Statistical Science 2013.
    """

    def __init__(self, weight: float) -> None:
        """Weigh the gradients."""
        self._weight = weight

    def propose(
        self, here: Latents, noise: Float64[np.ndarray, "b d"], step: float
    ) -> Float64[np.ndarray, "b d"]:
        """See `subset_simulation.Walk`."""
        keep = math.sqrt(1 - step**2)
        return keep * here.z - (1 - keep) * self._drift(here) + step * noise

    def log_ratio(self, here: Latents, there: Latents, step: float) -> Float64[np.ndarray, " b"]:
        """See `subset_simulation.Walk`."""
        keep = math.sqrt(1 - step**2)
        ratio: Float64[np.ndarray, " b"] = self._tilt(here, there, keep)
        ratio -= self._tilt(there, here, keep)
        return ratio

    def _drift(self, latents: Latents) -> Float64[np.ndarray, "b d"]:
        # Where a gradient is not finite, the step has no drift.
        slopes = np.stack([kept.slope for kept in latents.extras])
        drift: Float64[np.ndarray, "b d"] = self._weight * np.nan_to_num(
            slopes, nan=0.0, posinf=0.0, neginf=0.0
        )
        return drift

    def _tilt(self, here: Latents, there: Latents, keep: float) -> Float64[np.ndarray, " b"]:
        """Return the log ratio by which the drift makes a step less likely.

        Cotter et al. (2013), equation 4.8, whose delta is 2 (1 - keep) / (1 + keep), for a drift
        that need not be the one of the sampled density.
        """
        delta, drift = 2 * (1 - keep) / (1 + keep), self._drift(here)
        along = ((there.z - here.z) * drift).sum(1) / 2
        across = ((here.z + there.z) * drift).sum(1) + (drift**2).sum(1)
        tilt: Float64[np.ndarray, " b"] = along + delta / 4 * across
        return tilt


def probability(
    trajectories: Sequence[Trajectory], particles: int, classes: Sequence[str]
) -> dict[str, Any]:
    """Return P(low confidence) under the generator's prior, from whole populations.

    Conditions weigh the same. The interval is that of `subset_simulation.interval`, where each
    condition has two populations and they do not all say the same.

    Args:
        trajectories: of `split`, in the order of their seeds.
        particles: latents of a population.
        classes: names of the conditions.
    """
    estimates: dict[int, list[float]] = {}
    for one in trajectories[particles - 1 :: particles]:
        if one.population_probability is not None:
            estimates.setdefault(one.label, []).append(one.population_probability)
    result: dict[str, Any] = {
        "by_condition": {
            classes[label]: {
                "value": float(np.mean(by_population)),
                "populations": len(by_population),
            }
            for label, by_population in estimates.items()
        },
        "value": None,
        "interval_95": None,
    }
    if not estimates:
        return result
    result["value"] = float(np.mean([one["value"] for one in result["by_condition"].values()]))
    groups = [np.array(by_population) for by_population in estimates.values()]
    if min(map(len, groups)) > 1 and any(np.ptp(group) for group in groups):
        result["interval_95"] = list(subset_simulation.interval(groups, 0.95))
    return result
