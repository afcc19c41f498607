"""What a sampling design is: which units are labelled, and what their labels say of the pool."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, Wave
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.settings import DesignName

MethodName = Literal[DesignName, "ppi"]

Drawer = Callable[[int], Draw]
"""Returns the draw of a seed; prepared for one pool and one number of labels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """What `betting` bets on: numbers whose mean is the error rate on average."""

    value: Float64[np.ndarray, " t"]
    bound: float
    """The largest that a term could be."""
    zeros: int = 0
    """Number of further terms that are 0."""


class Method(ABC):
    """A way to an error rate: how units are drawn, and how their labels are weighed."""

    name: ClassVar[MethodName]
    simple_random: ClassVar[bool] = False
    """Whether all sets of units have the same chance, whatever g and the defensive share are."""
    strata_are_classes: ClassVar[bool] = False
    """Whether the strata are predicted classes, which the pool must have then."""

    @abstractmethod
    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return what draws labels, a defensive share of them uniformly; or their first wave.

        Raises:
            DataError: the pool lacks what the design needs.
            SettingsError: see `check_request`.
        """

    @abstractmethod
    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the error rate of the pool; `designs.estimate` also checks the labels."""

    @abstractmethod
    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return what the estimate is expected to be like.

        Raises:
            DataError: the pool lacks what the design needs.
        """

    def sizes(self, labels: int) -> list[int]:
        """Return the labels of each wave; most designs draw all at once."""
        return [labels]

    def next_wave(
        self,
        pool: Pool,
        before: Sequence[Wave],  # noqa: ARG002 -- for designs that learn from it
        labels: int,
        defensive: float,
    ) -> Drawer:
        """Return what draws the wave after those that are labelled; `labels` are of all waves."""
        return self.prepare(pool, labels, defensive)

    def joined(self, waves: Sequence[Draw]) -> Draw:
        """Return all waves as one draw."""
        return waves[0]

    def replay(
        self, pool: Pool, error: Bool[np.ndarray, " n"], labels: int, defensive: float = DEFENSIVE
    ) -> Drawer:
        """Return what draws all waves from a pool whose errors are known."""
        first, sizes = self.prepare(pool, labels, defensive), self.sizes(labels)

        def draw(seed: int) -> Draw:
            draws, waves = [first(seed)], list[Wave]()
            while len(draws) < len(sizes):
                waves.append(Wave(draw=draws[-1], error=error[draws[-1].index]))
                draws.append(self.next_wave(pool, waves, labels, defensive)(seed))
            return self.joined(draws)

        return draw


class Design(Method):
    """A method with draws of its own, which are stored, reported and bet on."""

    name: ClassVar[DesignName]
    words: ClassVar[str]
    """What reports say of it."""
    repeats: ClassVar[bool] = False
    """Whether a unit can be drawn twice."""

    def terms(self, draw: Draw, error: Bool[np.ndarray, " m"]) -> Terms:
        """Return what `betting` bets on; the game must not be favourable.

        Of drawings by chances that may depend on those before: y / (N q), whose mean given all
        labels before is the error rate.
        """
        return Terms(value=error / (draw.population * draw.chance), bound=draw.largest_ratio)

    def share(self, draw: Draw, member: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the share of the pool that is of a kind that g says nothing of."""
        return self.estimate(draw, member, replace(pool, g=np.zeros(len(pool))))
