"""What is drawn from: a pool. What is labelled: a draw, with the chances that it was drawn by.

Shape letters of this stage: n unit of the pool (a tile or a pixel), m label of a draw, v unit of
a validation set, h stratum, b batch, z cell of units that are alike. What a value checks on
creation, and says in a line, has no letter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import DesignName
from rs_lowconf.settings.renamed import VALUES

DEFENSIVE = 0.3
"""Share of the labels drawn uniformly; 0.5 to certify."""
_NEW_NAMES = VALUES["estimate.design"]
_OLD_NAMES = {new: old for old, new in _NEW_NAMES.items()}
"""Former names of designs, which older files have; draws are seeded by them, so that the same seed
goes on drawing the same units."""


def seed_name(design: str) -> str:
    """Return the name by which draws of a design are seeded."""
    return _OLD_NAMES.get(design, design)


def rng_of(seed: int, design: str) -> np.random.Generator:
    """Return the random stream of one design under a seed."""
    return np.random.default_rng(seed_of(seed, "estimate", seed_name(design)))


def new_name(design: str) -> DesignName:
    """Return what a design is called that a file names, which may be an old one."""
    return cast("DesignName", _NEW_NAMES.get(design, design))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The units whose error rate is wanted, as they are known before anyone labels."""

    g: Float64[np.ndarray, " n"]
    """How probably the target errs on each unit, in 0..1. Estimates are right also where this
    is wrong; they only need more labels then."""

    predicted: Int[np.ndarray, " _"] | None = None
    """Class that the target says of each unit; None where no design or figure needs it."""

    features: Float64[np.ndarray, "_ f"] | None = None
    """What waves of labels learn the error from, such as `log_odds` of several scores; that of g
    alone when missing."""

    def __post_init__(self) -> None:
        """Check ranges and lengths.

        Raises:
            DataError: an empty pool, a probability outside 0..1 or not a number, classes that
                are negative or of another length.
        """
        if not len(self.g):
            raise DataError("the pool is empty", expected="at least one unit")
        wrong = np.nonzero(~((self.g >= 0) & (self.g <= 1)))[0]
        if len(wrong):
            raise DataError(
                f"{len(wrong)} error probabilities outside 0..1, the first {self.g[wrong[0]]} of "
                f"unit {wrong[0]}",
                remedy="give probabilities, not logits or percentages",
            )
        if self.predicted is not None and (
            len(self.predicted) != len(self.g) or self.predicted.min() < 0
        ):
            raise DataError(
                f"{len(self.predicted)} predicted classes for {len(self.g)} units",
                expected="one class index from 0 on for each",
            )
        if self.features is not None and len(self.features) != len(self.g):
            raise DataError(f"features of {len(self.features)} units for a pool of {len(self.g)}")

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.g)


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """The units to label, in the order of drawing, with what an estimate must know of them."""

    design: DesignName
    population: int
    """Units in the pool."""

    index: Int[np.ndarray, " m"]
    """Which unit each label is of. A unit can come twice where the design draws with replacement:
    it is labelled once, and its label counts twice."""

    chance: Float64[np.ndarray, " _"]
    """The probability that the unit is in the draw, or what its design has instead."""

    largest_ratio: float
    """The largest that one label of any unit of the pool could have weighed, over what a label
    of a uniform draw weighs. At most 1 / defensive share."""

    expected_ratio: float
    """The mean of the same over the errors that g expects; 1 for a uniform draw. Only how wide
    the interval of `betting` is depends on it, never whether it holds."""

    columns: Mapping[str, Shaped[np.ndarray, " _"]] = field(default_factory=dict)
    """What the design has to know of each label besides, by the names that it gives them."""

    constants: Mapping[str, Shaped[np.ndarray, " _"]] = field(default_factory=dict)
    """What it has to know of the draw besides."""

    def __post_init__(self) -> None:
        """Check that all parts speak of the same units.

        Raises:
            DataError: nothing drawn, unequal lengths, a unit outside the pool, or a chance outside
                0..1.
        """
        if not len(self.index):
            raise DataError("nothing was drawn", expected="at least one unit to label")
        for name, column in {"chances": self.chance, **self.columns}.items():
            if len(column) != len(self.index):
                raise DataError(f"{len(column)} {name} for {len(self.index)} drawn units")
        if self.index.min() < 0 or self.index.max() >= self.population:
            raise DataError(
                f"a drawn unit is not in the pool of {self.population}",
                remedy="use the pool that the draw was made from",
            )
        if not ((self.chance > 0) & (self.chance <= 1)).all():
            raise DataError("a chance of being drawn is outside 0..1", remedy="draw again")

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.index)


@dataclass(frozen=True, kw_only=True, eq=False)
class Wave:
    """A draw that has been labelled."""

    draw: Draw
    error: Bool[np.ndarray, " _"]
    """Whether the target errs on each drawn unit."""

    def __post_init__(self) -> None:
        """Check that there is a label for each drawn unit.

        Raises:
            DataError: more or fewer labels than drawn.
        """
        check_labels(self.draw, self.error)


def check_labels(draw: Draw, error: Bool[np.ndarray, " e"]) -> None:
    """Check that there is a label for each drawn unit.

    Raises:
        DataError: more or fewer labels than drawn.
    """
    if len(error) != len(draw):
        raise DataError(
            f"{len(error)} labels for {len(draw)} drawn units",
            expected="one for each, in the order of drawing",
            remedy="label the rest: leaving out what is hard to label would bias the estimate",
        )


def check_request(population: int, labels: int, defensive: float, least: int = 1) -> None:
    """Check how many labels are asked for, and the share of them that goes anywhere alike.

    Args:
        population: units in the pool.
        labels: how many to draw.
        defensive: share drawn uniformly, against errors where none are expected.
        least: the fewest labels that the design can do with.

    Raises:
        SettingsError: fewer labels than `least`, more than the pool has, or a share that is
            not above 0 and at most 1.
    """
    if not least <= labels <= population:
        raise SettingsError(
            f"{labels} labels of a pool of {population}", expected=f"{least} to {population}"
        )
    if not 0 < defensive <= 1:
        raise SettingsError(
            f"a defensive share of {defensive:g}",
            expected="above 0 and at most 1: without it, errors at high confidence are never seen",
            remedy="take 0.3, or 0.5 to certify",
        )
