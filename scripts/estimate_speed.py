"""`scripts/bench --estimates`: how long draws and estimates take of a pool of a million units."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.intervals import ff, kg, tcz
from rs_lowconf.estimate.methods import PPI

UNITS, LABELS, ROUNDS = 1_000_000, 1_000, 9


def milliseconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(1_000 * (time.perf_counter() - start))
    return median(times)


def bench_estimates() -> dict[str, Any]:
    """Return milliseconds of each design, beside the mean of the pool as the floor."""
    rng = np.random.default_rng(0)
    g = rng.beta(0.1, 5, UNITS)
    pool = Pool(g=g, predicted=rng.integers(5, size=UNITS))
    error = rng.random(UNITS) < g
    figures: dict[str, Any] = {"floor, mean of the pool": milliseconds(g.mean)}
    for name, design in DESIGNS.items():
        draw_of, waves = design.replay(pool, error, LABELS), design.sizes(LABELS)
        draw = draw_of(1)
        title = "draw" if len(waves) == 1 else f"draw {len(waves)} waves"
        figures[name] = {
            "prepare": milliseconds(partial(design.prepare, pool, LABELS), 3),
            title: milliseconds(partial(draw_of, 1), ROUNDS if len(waves) == 1 else 1),
            **of_draw(draw, error[draw.index], pool),
        }
    draw = DESIGNS["uniform"].prepare(pool, LABELS)(1)
    powered = partial(PPI.estimate, draw, error[draw.index], pool)
    figures["ppi"] = {"estimate, by ppi-python": milliseconds(powered)}
    return {"units": UNITS, "labels": LABELS, "milliseconds": figures}


def of_draw(
    draw: Draw, found: "np.ndarray[tuple[int], np.dtype[np.bool_]]", pool: Pool
) -> dict[str, float]:
    """Return the times of an estimate, of its gamma intervals and of the bet."""
    result = estimate(draw, found, pool)
    return {
        "estimate": milliseconds(partial(estimate, draw, found, pool)),
        "tcz, ff and kg": sum(
            milliseconds(partial(interval, result)) for interval in (tcz, ff, kg)
        ),
        "betting": milliseconds(partial(betting, draw, found)),
    }
