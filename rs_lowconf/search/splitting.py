"""Populations of latents move to ever lower confidence: unbiased draws, and their probability.

Adaptive multilevel splitting (Cerou and Guyader, "Adaptive multilevel splitting for rare event
analysis", 2007), also known as subset simulation. A population starts as draws of the prior of
one condition; the half with the highest confidence is replaced by copies of the other half, which
move by steps that preserve the prior below the level; and so on, until most of the population is of
low confidence. The product of the shares that survived estimates P(low confidence given the
condition), without bias for any size of population (Brehier et al., "Unbiasedness of some
generalized adaptive multilevel splitting algorithms", 2016).

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
from jaxtyping import Float
from scipy.stats import t as student_t
from torch import Tensor

from rs_lowconf.errors import AnswerError
from rs_lowconf.search.evaluate import Evaluator, Scores
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

_ACCEPTANCE = 0.35
"""Share of proposals to accept; steps grow above it and shrink below."""
_SMALLEST_STEP, _LARGEST_STEP = 0.02, 0.95


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
            for one in _Population(evaluator, rules, number, label).run():
                yield done.get(one.seed_id, one)
        number += 1


class _Population:
    """The latents of one condition, descending."""

    def __init__(
        self, evaluator: Evaluator, rules: SplittingRules, number: int, label: int
    ) -> None:
        # Only the target's confidence guides the draws: anything else would bias them.
        self._evaluator = evaluator.by_confidence_alone()
        self._rules = rules
        self._first = number * rules.particles
        self._label = label
        self._step = 0.5
        dim = sum(evaluator.generator.latent_parts)
        self._z = torch.stack(
            [
                draw_latent(rules.run_seed, rules.stream, self._first + i, dim)
                for i in range(rules.particles)
            ]
        )
        self._evaluations = [0] * rules.particles
        self._unanswered = [Counter[str]() for _ in range(rules.particles)]
        scores = self._score(self._z, range(rules.particles))
        self._odds, self._confidence = scores.log_odds, scores.confidence
        self._pixels = list(scores.pixels)
        self._drift = self._drift_of(scores)
        self._dice = torch.Generator().manual_seed(
            seed_of(rules.run_seed, "search", rules.stream, "population", number)
        )

    def run(self) -> Iterator[Trajectory]:
        """Descend, then judge the latents that arrived."""
        rules = self._rules
        goal = math.log(rules.tau) - math.log1p(-rules.tau)
        half = max(1, rules.particles // 2)
        share = 1.0
        for _ in range(rules.max_levels):
            level = float(self._odds.sort(descending=True).values[half - 1])
            below = torch.nonzero(self._odds < level)[:, 0]
            if level < goal or not len(below):
                break
            share *= len(below) / rules.particles
            lost = torch.nonzero(self._odds >= level)[:, 0].tolist()
            parents = below[torch.randint(len(below), (len(lost),), generator=self._dice)]
            self._copy(lost, parents.tolist())
            for _ in range(rules.moves):
                self._move(lost, level)
        arrived = torch.nonzero(self._odds < goal)[:, 0].tolist()
        share *= len(arrived) / rules.particles
        for _ in range(rules.final_moves if arrived else 0):
            self._move(arrived, goal)
        yield from self._judge(set(arrived), share)

    def _judge(self, arrived: set[int], share: float) -> Iterator[Trajectory]:
        seen: set[bytes] = set()
        for i in range(self._rules.particles):
            steps = self._evaluations[i]
            outcome, judged = Outcome.AGED, None
            if i in arrived:
                latent = self._z[i].numpy().tobytes()
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
            elif math.isinf(self._odds[i]):
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
                confidence=float(self._confidence[i]),
                found=judged if isinstance(judged, Found) and judged.passes else None,
                audit=judged if isinstance(judged, Found) and not judged.passes else None,
                population_probability=share,
                unanswered=dict(self._unanswered[i]),
            )

    def _ask(self, i: int) -> Found | Refusal | AnswerError:
        tile = Tile(z=self._z[i].clone(), pixels=self._pixels[i])
        state = State(tile=tile, confidence=float(self._confidence[i]))
        self._evaluations[i] += 1
        return judge_stored(
            self._evaluator, self._rules.tau, self._label, state, keep_rejected=self._rules.audit
        )

    def _copy(self, lost: list[int], parents: list[int]) -> None:
        for values in (self._z, self._odds, self._confidence, self._drift):
            values[lost] = values[parents]
        for row, parent in zip(lost, parents, strict=True):
            self._pixels[row] = self._pixels[parent]

    def _move(self, rows: list[int], level: float) -> None:
        """Propose a step for each row that preserves the prior; accept those below the level.

        Preconditioned Crank-Nicolson, or with a drift its Langevin variant (Cotter et al., "MCMC
        methods for functions", Statistical Science 2013).
        """
        z, drift = self._z[rows], self._drift[rows]
        noise = torch.randn(z.shape, generator=self._dice)
        keep = math.sqrt(1 - self._step**2)
        proposal = keep * z - (1 - keep) * drift + self._step * noise
        scores = self._score(proposal, rows)
        there = self._drift_of(scores)
        fair = torch.ones(len(rows), dtype=torch.bool)
        if self._rules.drift:
            ratio = _tilt(z, proposal, drift, keep) - _tilt(proposal, z, there, keep)
            fair = torch.rand(len(rows), generator=self._dice).log() < ratio
        taken = torch.nonzero((scores.log_odds < level) & fair)[:, 0].tolist()
        moved = [rows[place] for place in taken]
        self._z[moved] = proposal[taken]
        self._odds[moved] = scores.log_odds[taken]
        self._confidence[moved] = scores.confidence[taken]
        self._drift[moved] = there[taken]
        for row, place in zip(moved, taken, strict=True):
            self._pixels[row] = scores.pixels[place]
        # Robbins and Monro on the logarithm, from past steps only.
        factor = math.exp(len(taken) / len(rows) - _ACCEPTANCE)
        self._step = min(_LARGEST_STEP, max(_SMALLEST_STEP, self._step * factor))

    def _drift_of(self, scores: Scores) -> Float[Tensor, "b d"]:
        """Return the weighted gradients, 0 if not requested."""
        if scores.gradient is None:
            return torch.zeros(len(scores.log_odds), self._z.shape[1])
        # Where a gradient is not finite, the step has no drift.
        return self._rules.drift * scores.gradient.nan_to_num(0.0, 0.0, 0.0)

    def _score(self, z: Float[Tensor, "b d"], rows: Sequence[int]) -> Scores:
        for row in rows:
            self._evaluations[row] += 1
        scores = self._evaluator.score(
            z,
            torch.full((len(z),), self._label, dtype=torch.long),
            gradient=self._rules.drift > 0,
        )
        # Their log-odds are infinite, so they are above any level: abandoned, and never moved to.
        for place, reason in scores.unanswered.items():
            self._unanswered[rows[place]][reason] += 1
        return scores


def _tilt(
    here: Float[Tensor, "b d"],
    there: Float[Tensor, "b d"],
    drift: Float[Tensor, "b d"],
    keep: float,
) -> Float[Tensor, " b"]:
    """Return the log ratio by which a drift makes a step less likely.

    Cotter et al. (2013), equation 4.8, whose delta is 2 (1 - keep) / (1 + keep), for a drift that
    need not be the one of the sampled density.
    """
    delta = 2 * (1 - keep) / (1 + keep)
    along = ((there - here) * drift).sum(1) / 2
    return along + delta / 4 * ((here + there) * drift).sum(1) + delta / 4 * drift.square().sum(1)


def probability(
    trajectories: Sequence[Trajectory], particles: int, classes: Sequence[str]
) -> dict[str, Any]:
    """Return P(low confidence) under the generator's prior, from whole populations.

    Conditions weigh the same. The interval comes from the variance between populations, which are
    independent; from latents within a population it would be far too short. It is the t interval of
    Welch and Satterthwaite on the logarithm.

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
    result["value"] = value = float(
        np.mean([np.mean(by_population) for by_population in estimates.values()])
    )
    if value > 0 and min(len(by_population) for by_population in estimates.values()) > 1:
        parts = np.array(
            [
                np.var(by_population, ddof=1) / len(by_population)
                for by_population in estimates.values()
            ]
        )
        freedom = np.array([len(by_population) - 1 for by_population in estimates.values()])
        error = math.sqrt(parts.sum()) / len(estimates)
        if error > 0:
            degrees = parts.sum() ** 2 / (parts**2 / freedom).sum()
            width = float(student_t.ppf(0.975, degrees)) * error / value
            result["interval_95"] = [value * math.exp(-width), min(1.0, value * math.exp(width))]
    return result
