"""`scripts/bench --estimates`: how long draws and estimates take of a pool of a million units."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, get_args

import numpy as np

from rs_lowconf.estimate.adaptive import Wave, joined, next_wave, wave_sizes
from rs_lowconf.estimate.betting import betting
from rs_lowconf.estimate.designs import design_of
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.estimators import estimate, prediction_powered
from rs_lowconf.estimate.intervals import ff, kg, tcz
from rs_lowconf.settings import DesignName

UNITS, LABELS, ROUNDS = 1_000_000, 1_000, 9
DESIGNS: tuple[DesignName, ...] = tuple(n for n in get_args(DesignName) if n != "adaptive")


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
    dice = np.random.default_rng(0)
    g = dice.beta(0.1, 5, UNITS)
    pool = Pool(g=g, predicted=dice.integers(5, size=UNITS))
    error = dice.random(UNITS) < g
    figures: dict[str, Any] = {"floor, mean of the pool": milliseconds(g.mean)}
    for name in DESIGNS:
        design = design_of(name, pool, LABELS)
        draw = design.draw(1)
        figures[name] = {
            "prepare": milliseconds(partial(design_of, name, pool, LABELS), 3),
            "draw": milliseconds(partial(design.draw, 1)),
            **of_draw(draw, error[draw.index], pool),
        }
    waves: list[Wave] = []
    start = time.perf_counter()
    for size in wave_sizes(LABELS):
        one = next_wave(pool, waves, size, 0)
        waves.append(Wave(draw=one, error=error[one.index]))
    spent = 1_000 * (time.perf_counter() - start)
    draw, found = joined(waves)
    figures["adaptive"] = {"five waves": spent, **of_draw(draw, found, pool)}
    draw = design_of("uniform", pool, LABELS).draw(1)
    powered = partial(prediction_powered, draw, error[draw.index], pool)
    figures["ppi"] = {"estimate, by ppi-python": milliseconds(powered)}
    return {"units": UNITS, "labels": LABELS, "milliseconds": figures}


def of_draw(
    draw: Draw, found: "np.ndarray[tuple[int], np.dtype[np.bool_]]", pool: Pool
) -> dict[str, float]:
    """Return the times of an estimate, of its gamma intervals and of the bet."""
    one = estimate(draw, found, pool)
    return {
        "estimate": milliseconds(partial(estimate, draw, found, pool)),
        "tcz, ff and kg": sum(milliseconds(partial(own, one)) for own in (tcz, ff, kg)),
        "betting": milliseconds(partial(betting, draw, found)),
    }
