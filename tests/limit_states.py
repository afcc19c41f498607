"""Events under a standard normal latent whose probability is known: five shapes.

Each scores a latent by how far it is from the event, which is where the score is below 0; the
levels solve for a wanted probability.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import chi2, norm

Numbers = NDArray[np.float64]
CURVATURE = 0.05


@dataclass(frozen=True, kw_only=True)
class LimitState:
    name: str
    dimensions: int
    score: Callable[[Numbers], Numbers]


def limit_states(probability: float) -> list[LimitState]:
    """Return the five shapes at one probability."""
    beta = float(norm.isf(probability))
    half = float(norm.isf(probability / 2))
    radius = float(np.sqrt(chi2.isf(probability, 50)))
    bent = float(brentq(lambda level: curved_tail(level, 20) / probability - 1, 0, 40))
    return [
        *(_linear(d, beta) for d in (2, 100)),
        LimitState(
            name="curved 20",
            dimensions=20,
            score=lambda z: bent - z[:, 0] - CURVATURE * (z[:, 1:] ** 2).sum(1),
        ),
        LimitState(name="two modes 50", dimensions=50, score=lambda z: half - np.abs(z[:, 0])),
        LimitState(name="shell 50", dimensions=50, score=lambda z: radius - np.sqrt((z**2).sum(1))),
    ]


def _linear(dimensions: int, beta: float) -> LimitState:
    # Along the diagonal, so that no coordinate tells alone.
    return LimitState(
        name=f"linear {dimensions}",
        dimensions=dimensions,
        score=lambda z: beta - z.sum(1) / dimensions**0.5,
    )


def curved_tail(level: float, dimensions: int) -> float:
    """Return P(z_1 + c chi2 > level) by integrating over the chi-square of the others."""

    def density(s: float) -> float:
        return float(norm.sf(level - CURVATURE * s) * chi2.pdf(s, dimensions - 1))

    parts = [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0]
    pieces = itertools.pairwise(parts)
    return float(sum(quad(density, a, b, epsabs=0, epsrel=1e-9)[0] for a, b in pieces))
