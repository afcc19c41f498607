#!/usr/bin/env python3
"""Is `rare_event` right where the probability is known? Five shapes of limit states.

Usage: scripts/research/rare_shapes.py OUT [--runs 100] [--plain 20000000]

At 1e-8, many runs of the default size each: relative error, coverage of the 95 % interval,
evaluations. At 1e-5, one run beside plain draws of the latent's law. A JSON file a shape in OUT;
an interrupted run goes on where it stopped. Needs no data; half an hour on one core.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pieces import piece

from rs_lowconf.estimate.intervals import clopper_pearson
from rs_lowconf.estimate.rare import rare_event

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.limit_states import LimitState, limit_states

CHUNK = 200_000


def many_runs(state: LimitState, probability: float, runs: int) -> dict[str, Any]:
    """Return how far off the estimates are, and how often the intervals hold the truth."""
    values, covered, evaluations, factor = [], 0, 0, []
    for seed in range(runs):
        found = rare_event(state.score, state.dimensions, [0.0], seed)
        interval = found.interval()
        values.append(float(found.value[0]))
        covered += interval.low <= probability <= interval.high
        evaluations = max(evaluations, found.evaluations)
        factor.append(interval.high / float(found.value[0]))
    relative = np.array(values) / probability
    return {
        "name": state.name,
        "runs": runs,
        "mean_over_truth": float(relative.mean()),
        "standard_error": float(relative.std(ddof=1) / np.sqrt(runs)),
        "relative_rmse": float(np.sqrt(((relative - 1) ** 2).mean())),
        "covered": covered,
        "most_evaluations": evaluations,
        "median_upper_over_value": float(np.median(factor)),
    }


def beside_plain_draws(state: LimitState, probability: float, plain: int) -> dict[str, Any]:
    """Return one run and plain draws of the latent's law."""
    dice = np.random.default_rng(7)
    found = 0
    for first in range(0, plain, CHUNK):
        z = dice.standard_normal((min(CHUNK, plain - first), state.dimensions))
        found += int((state.score(z) < 0).sum())
    own = rare_event(state.score, state.dimensions, [0.0], 1)
    interval, exact = own.interval(), clopper_pearson(found, plain)
    return {
        "name": state.name,
        "truth": probability,
        "plain": found / plain,
        "plain_interval": [exact.low, exact.high],
        "subset": float(own.value[0]),
        "subset_interval": [interval.low, interval.high],
        "evaluations": own.evaluations,
        "agree": interval.low <= exact.high and exact.low <= interval.high,
    }


def main(out: Path, runs: int, plain: int) -> None:
    """Run all shapes and print a line each."""
    for i in range(5):
        rare = piece(out / f"rare-{i}.json", partial(many_runs, limit_states(1e-8)[i], 1e-8, runs))
        print(
            f"{rare['name']}: mean {rare['mean_over_truth']:.3f} +- {rare['standard_error']:.3f} "
            f"of 1e-8, relative RMSE {rare['relative_rmse']:.1%}, {rare['covered']} of "
            f"{rare['runs']} intervals cover, {rare['most_evaluations']:,} evaluations",
            flush=True,
        )
        known = piece(
            out / f"plain-{i}.json",
            partial(beside_plain_draws, limit_states(1e-5)[i], 1e-5, plain),
        )
        print(f"  at 1e-5: {known['subset']:.2e} and {known['plain']:.2e} by {plain:,} plain draws")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=100, help="at 1e-8, of each shape")
    parser.add_argument("--plain", type=int, default=20_000_000, help="plain draws at 1e-5")
    main(**vars(parser.parse_args()))
