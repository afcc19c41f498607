"""Measure how often the range that `plan` prints holds what a draw then saves.

Usage: python scripts/research/plan_ranges.py POOL.parquet OUT.json [--errors 30] [--sets 100]
           [--labels 0.05] [--repetitions 400]

POOL.parquet is a table of scores with all labels. As many random units as hold about --errors
errors are set aside for validation, --sets times; each time `plan` says from them what each design
will save at the share --labels of the rest, and the design is replayed there. OUT.json gets, by
design, how often the printed range held the saving, as it is and with two Monte-Carlo standard
errors added, and the median of the saving over what was foreseen. Only sets with 10 to 49 errors
count, for which ranges are meant.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from rs_lowconf.estimate.experiment import SAMPLED
from rs_lowconf.estimate.intervals import clopper_pearson
from rs_lowconf.estimate.plan import plan
from rs_lowconf.estimate.prepare import prepare
from rs_lowconf.estimate.replay import replay
from rs_lowconf.estimate.scores import Scores, read_scores
from rs_lowconf.runs import finite, write_json
from rs_lowconf.seeds import seed_of

FEWEST, MOST = 10, 49
DEFENSIVE = 0.3
SEED = 0
METHODS = tuple(name for name in SAMPLED if name != "adaptive")
"""Waves learn while they go, so that nothing is foretold of them from validation labels."""


def one_set(
    scores: Scores, wanted: int, *, labels: float, repetitions: int, number: int
) -> list[dict[str, Any]]:
    """Return what was foreseen and what came, by design, of one validation set.

    Args:
        scores: all of them.
        wanted: errors to expect among the validation units.
        labels: share of the other units that is drawn.
        repetitions: draws of each design.
        number: of the set.
    """
    rng = np.random.default_rng(seed_of(SEED, "plan ranges", number))
    taken = np.zeros(len(scores), dtype=bool)
    taken[rng.permutation(len(scores))[: round(wanted / scores.error.mean())]] = True
    validation, rest = scores.take(taken), scores.take(~taken)
    errors = int(validation.error.sum())
    if not FEWEST <= errors <= MOST:
        return []
    prepared = prepare(rest, validation=validation, seed=number, defensive=DEFENSIVE)
    budget = round(labels * len(rest))
    said = plan(
        prepared.pool,
        budget,
        seed=number,
        validation=prepared.validation,
        methods=METHODS,
        shares=(DEFENSIVE,),
    )
    foreseen = {one.method: one for one in said.prospects}
    rows = []
    for cell in replay(
        prepared.pool,
        rest.error,
        methods=METHODS,
        budgets=(budget,),
        repetitions=repetitions,
        seed=number,
        defensive=DEFENSIVE,
    ):
        own = foreseen[cell.method]
        assert own.saving_range is not None  # noqa: S101 -- there are validation labels
        low, high = own.saving_range
        noise = 2 * cell.saving_error
        rows.append(
            {
                "method": cell.method,
                "set": number,
                "errors": errors,
                "foreseen": own.saving,
                "range": (low, high),
                "saving": cell.saving,
                "saving_error": cell.saving_error,
                "held": bool(low <= cell.saving <= high),
                "held_within_noise": bool(low - noise <= cell.saving <= high + noise),
            }
        )
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description="How often plan's range holds the saving.")
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--errors", type=int, default=30)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--labels", type=float, default=0.05)
    parser.add_argument("--repetitions", type=int, default=400)
    words = parser.parse_args()
    scores = read_scores(words.pool)
    rows = [
        row
        for number in range(words.sets)
        for row in one_set(
            scores,
            words.errors,
            labels=words.labels,
            repetitions=words.repetitions,
            number=number,
        )
    ]
    report: dict[str, Any] = {"pool": words.pool.stem, "errors": words.errors, "designs": {}}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        held = sum(row["held_within_noise"] for row in own)
        interval = clopper_pearson(held, len(own))
        report["designs"][method] = {
            "sets": len(own),
            "held": sum(row["held"] for row in own),
            "held_within_noise": held,
            "interval_95": (interval.low, interval.high),
            "median_saving_over_foreseen": float(
                np.median([row["saving"] / row["foreseen"] for row in own])
            ),
        }
    write_json(words.out, finite({**report, "rows": rows}))
    for method, own in report["designs"].items():
        print(
            f"{method}: range held {own['held']} of {own['sets']}, "
            f"{own['held_within_noise']} within Monte-Carlo noise, "
            f"saving / foreseen {own['median_saving_over_foreseen']:.2f}"
        )


if __name__ == "__main__":
    main()
