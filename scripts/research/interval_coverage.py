#!/usr/bin/env python3
"""How often does the one interval of a report cover, by design and number of labels?

Usage: scripts/research/interval_coverage.py OUT [--size 20000] [--repetitions 1000]
           [--adaptive 200] [--betting 200] [--labels 20 50 100 300 1000]

Needs no data and no network. Pools with logistic scores, whose classes err by different rates, at
error rates of about 10, 1 and 0.1 %. A share of the errors, none, 30 % or all, is moved to the half
of the pool where they are least expected, as no score tells of them. Designs that draw by the
scores are replayed with a defensive share of 0.1 and of 0.3. A JSON file a cell in OUT, and
OUT/summary.json: for each design, number of labels and error rate, the least coverage of each
interval over hidden and defensive shares; an interrupted run goes on where it stopped.
"""

import argparse
import math
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pieces import piece

from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.replay import replay, with_blind_spot
from rs_lowconf.runs import finite, write_json
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import DesignName

RATES = (0.1, 0.01, 0.001)
HIDDEN = (0.0, 0.3, 1.0)
DEFENSIVE = (0.1, 0.3)
CLASSES = 6


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the command line says."""

    out: Path
    size: int
    repetitions: int
    adaptive: int
    betting: int
    labels: list[int]
    designs: list[DesignName]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cell."""

    design: DesignName
    labels: int
    rate: float
    hidden: float
    defensive: float

    @property
    def name(self) -> str:
        """Return what its file is called."""
        return f"{self.design}-{self.labels}-{self.rate}-{self.hidden}-{self.defensive}"


def pool_of(rate: float, hidden: float, size: int) -> tuple[Pool, NDArray[np.bool_]]:
    """Return a pool and who errs; rates of classes differ, as do their sizes."""
    rng = np.random.default_rng(seed_of(0, "coverage", str(rate)))
    predicted = rng.choice(CLASSES, size, p=np.array([40, 30, 15, 10, 4, 1]) / 100)
    odds = 2.5 * rng.standard_normal(size) + 0.4 * predicted
    low, high = -40.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float((1 / (1 + np.exp(-odds - middle))).mean())
        low, high = (middle, high) if mean < rate else (low, middle)
    g = 1 / (1 + np.exp(-odds - high))
    # As many errors as the rate says, so that cells differ in nothing else.
    error = np.zeros(size, dtype=np.bool_)
    error[rng.choice(size, round(rate * size), replace=False, p=g / g.sum())] = True
    return Pool(g=g, predicted=predicted), with_blind_spot(error, g, hidden, 0)


def cases(words: Words) -> list[Case]:
    """Return all cells; where all sets of units are equally likely, no share changes anything."""
    found = []
    for design, labels, rate in product(words.designs, words.labels, RATES):
        by_score = not (DESIGNS[design].simple_random or DESIGNS[design].strata_are_classes)
        for hidden, defensive in product(
            HIDDEN if by_score or DESIGNS[design].strata_are_classes else HIDDEN[:1],
            DEFENSIVE if by_score else DEFENSIVE[-1:],
        ):
            case = Case(design=design, labels=labels, rate=rate, hidden=hidden, defensive=defensive)
            found.append(case)
    return found


def replayed(case: Case, words: Words) -> dict[str, Any]:
    """Return how often each interval covered."""
    pool, error = pool_of(case.rate, case.hidden, words.size)
    repetitions = words.adaptive if case.design == "adaptive" else words.repetitions
    cells = replay(
        pool,
        error,
        methods=(case.design,),
        budgets=(case.labels,),
        repetitions=repetitions,
        seed=seed_of(0, case.name),
        defensive=case.defensive,
        betting_repetitions=min(words.betting, repetitions),
    )
    return finite(asdict(next(cells)))  # type: ignore[no-any-return]  # a dict stays one


def summary(cells: list[tuple[Case, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the least coverage of each interval by design, labels and rate."""
    rows: dict[tuple[str, int, float], dict[str, Any]] = {}
    for case, cell in cells:
        row = rows.setdefault((case.design, case.labels, case.rate), {})
        for interval in cell["coverage"]:
            share = interval["covered"] / interval["repetitions"]
            before = row.get(interval["method"], math.inf)
            row[interval["method"]] = min(before, share)
            width = f"{interval['method']} width"
            row[width] = max(row.get(width, 0.0), interval["width"])
    return [
        {"design": design, "labels": labels, "rate": rate, **row}
        for (design, labels, rate), row in rows.items()
    ]


def main(words: Words) -> None:
    """Replay all cells and sum up."""
    settings = finite(asdict(words) | {"out": str(words.out)})
    if piece(words.out / "words.json", lambda: settings) != settings:
        raise SystemExit(f"{words.out} holds a run by other words: take another folder")
    cells = [
        (case, piece(words.out / f"{case.name}.json", partial(replayed, case, words)))
        for case in cases(words)
    ]
    write_json(words.out / "summary.json", {"rows": summary(cells)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=20_000, help="tiles of a pool")
    parser.add_argument("--repetitions", type=int, default=1_000, help="draws of a cell")
    parser.add_argument("--adaptive", type=int, default=200, help="draws of an adaptive cell")
    parser.add_argument("--betting", type=int, default=200, help="of these with betting's interval")
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 50, 100, 300, 1_000])
    parser.add_argument("--designs", nargs="+", default=list(get_args(DesignName)))
    main(Words(**vars(parser.parse_args())))
