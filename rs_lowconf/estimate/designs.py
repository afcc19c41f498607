"""Which units to label: probability samples, each a function of its seed.

A design is prepared once for a pool and a number of labels, and drawn any number of times.
Error probabilities g decide only how many labels an estimate needs, never whether it is right:
a defensive share of the labels goes anywhere alike, so that every unit has a chance.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.allocation import (
    LEAST,
    allocate,
    equal_spread,
    mixed,
    spread_of,
    uncertain,
)
from rs_lowconf.estimate.draws import Draw, Pool, check_request, seed_name
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import DesignName

DEFENSIVE = 0.3
"""Share of the labels drawn uniformly; 0.5 to certify."""
STRATA = 10


@runtime_checkable
class Design(Protocol):
    """A way of drawing, prepared for one pool and one number of labels."""

    def draw(self, seed: int) -> Draw:
        """Return the draw of this seed."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Stratified:
    """Without replacement within strata, a fixed number of labels in each."""

    name: DesignName
    members: tuple[Int[np.ndarray, " _"], ...]
    """Units of each stratum."""
    labels: Int[np.ndarray, " h"]
    """Labels in each stratum."""
    expected_ratio: float
    """As in `Draw`."""

    def draw(self, seed: int) -> Draw:
        """Return units in random order, so that the order says nothing of their strata."""
        dice = dice_of(seed, self.name)
        sizes = np.array([len(own) for own in self.members])
        stratum = np.repeat(np.arange(len(sizes)), self.labels)
        index = np.concatenate(
            [
                own[dice.choice(len(own), count, replace=False, shuffle=False)]
                for own, count in zip(self.members, self.labels.tolist(), strict=True)
            ]
        )
        order = dice.permutation(len(index))
        share = self.labels / sizes
        return Draw(
            design=self.name,
            population=int(sizes.sum()),
            index=index[order],
            chance=share[stratum][order],
            largest_ratio=float(self.labels.sum() / sizes.sum() / share.min()),
            expected_ratio=self.expected_ratio,
            stratum=stratum[order],
            stratum_sizes=sizes,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Replaced:
    """With replacement, each label drawn anew by the same chances."""

    chance: Float64[np.ndarray, " n"]
    """Sums to 1."""
    labels: int
    expected_ratio: float
    """As in `Draw`."""
    wave: int | None
    """Number of the wave of an adaptive design; None for a draw of its own."""

    def draw(self, seed: int) -> Draw:
        """Return independent drawings."""
        total = np.cumsum(self.chance)
        name: DesignName = "importance" if self.wave is None else "adaptive"
        where = dice_of(seed, name).random(self.labels) * total[-1]
        index = np.searchsorted(total, where, side="right").clip(max=len(total) - 1)
        return Draw(
            design=name,
            population=len(total),
            index=index,
            chance=self.chance[index],
            largest_ratio=float(1 / (len(total) * self.chance.min())),
            expected_ratio=self.expected_ratio,
            batch=None if self.wave is None else np.full(self.labels, self.wave),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequential:
    """One after another without replacement, by chances among those left."""

    chance: Float64[np.ndarray, " n"]
    """Of the first drawing; sums to 1."""
    labels: int
    expected_ratio: float
    """As in `Draw`."""

    def draw(self, seed: int) -> Draw:
        """Return the first to arrive of a race of exponential clocks.

        That is successive sampling (Efraimidis and Spirakis, "Weighted random sampling with a
        reservoir", 2006): the next to arrive is drawn in proportion to the chances of those
        that are still on their way.
        """
        arrival = dice_of(seed, "lure").exponential(size=len(self.chance)) / self.chance
        first = np.argpartition(arrival, self.labels - 1)[: self.labels]
        index = first[np.argsort(arrival[first])]
        own = self.chance[index]
        gone = np.concatenate([[0.0], np.cumsum(own)[:-1]])
        return Draw(
            design="lure",
            population=len(self.chance),
            index=index,
            chance=np.minimum(own / (1 - gone), 1.0),
            largest_ratio=float(1 / (len(self.chance) * self.chance.min())),
            expected_ratio=self.expected_ratio,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedSize:
    """Without replacement, a fixed number of labels, each unit with its own inclusion."""

    inclusion: Float64[np.ndarray, " n"]
    """Probability of each unit to be in the draw; sums to the number of labels."""
    expected_ratio: float
    """As in `Draw`."""

    def draw(self, seed: int) -> Draw:
        """Return the units that pivotal sampling takes, in random order."""
        dice = dice_of(seed, "active")
        index = dice.permutation(np.nonzero(_pivotal(self.inclusion, dice))[0])
        share = self.inclusion.sum() / len(self.inclusion)
        return Draw(
            design="active",
            population=len(self.inclusion),
            index=index,
            chance=self.inclusion[index],
            largest_ratio=float(share / self.inclusion.min()),
            expected_ratio=self.expected_ratio,
        )


def design_of(name: DesignName, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Design:
    """Return a design by its name; `adaptive` is drawn in waves instead, see `adaptive`.

    Raises:
        DataError: `by_class` of a pool without predicted classes.
        SettingsError: see `check_request`.
    """
    match name:
        case "uniform":
            return uniform(pool, labels)
        case "by_class":
            return by_class(pool, labels, defensive)
        case "stratified":
            return by_confidence(pool, labels, defensive)
        case "importance":
            return with_replacement(pool, labels, defensive)
        case "lure":
            return sequential(pool, labels, defensive)
        case "active":
            return fixed_size(pool, labels, defensive)
        case "adaptive":
            raise SettingsError("adaptive as one draw", remedy="draw it wave by wave")


def uniform(pool: Pool, labels: int) -> Stratified:
    """Return simple random sampling without replacement: one stratum, the pool.

    Raises:
        SettingsError: see `check_request`.
    """
    check_request(len(pool), labels, 1.0, LEAST)
    return Stratified(
        name="uniform",
        members=(np.arange(len(pool)),),
        labels=np.array([labels]),
        expected_ratio=1.0,
    )


def by_class(pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Stratified:
    """Return `by_class`: the strata are the predicted classes.

    Olofsson et al., "Good practices for estimating area and assessing accuracy of land
    change", Remote Sensing of Environment 148, 2014, section 3.

    Raises:
        DataError: the pool has no predicted classes.
        SettingsError: see `check_request`; a class needs two labels.
    """
    if pool.predicted is None:
        raise DataError(
            "the pool has no predicted classes", remedy="give them, or use design stratified"
        )
    return _stratified("by_class", pool, pool.predicted, labels, defensive)


def by_confidence(
    pool: Pool, labels: int, defensive: float = DEFENSIVE, strata: int = STRATA
) -> Stratified:
    """Return `stratified`: strata of equal sums of sqrt(g (1 - g)), along g.

    Equal sums of the spread are the rule of Dalenius and Hodges, "Minimum variance
    stratification", JASA 1959, with the spread of a 0-1 variable in the place of the root of a
    density.

    Raises:
        SettingsError: see `check_request`; a stratum needs two labels.
    """
    order = np.argsort(pool.g, kind="stable")
    stratum = np.empty(len(pool), dtype=np.int64)
    stratum[order] = equal_spread(pool.g[order], np.ones(len(pool)), strata)
    return _stratified("stratified", pool, stratum, labels, defensive)


def with_replacement(pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Replaced:
    """Return `importance`: chances (1 - a) sqrt(g) + a uniform, both normalised.

    The root of g makes the variance least (Sawade et al., "Active risk estimation", ICML 2010,
    theorem 1, for a 0-1 loss); the mixture is that of Hesterberg, "Weighted average importance
    sampling and defensive mixture distributions", Technometrics 1995.

    Raises:
        SettingsError: see `check_request`.
    """
    check_request(len(pool), labels, defensive, LEAST)
    return replaced(pool.g, labels, defensive)


def sequential(pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Sequential:
    """Return `lure`: the chances of `importance`, without replacement.

    Raises:
        SettingsError: see `check_request`.
    """
    check_request(len(pool), labels, defensive, LEAST)
    chance = mixed(np.sqrt(pool.g), defensive)
    return Sequential(chance=chance, labels=labels, expected_ratio=_expected(pool.g, chance))


def fixed_size(pool: Pool, labels: int, defensive: float = DEFENSIVE) -> FixedSize:
    """Return `active`: inclusion in proportion to (1 - a) sqrt(g (1 - g)) + a uniform, at most 1.

    Zrnic and Candes, "Active statistical inference", ICML 2024, section 4: pi in proportion to
    the uncertainty of what is predicted, mixed with a uniform rule.

    Raises:
        SettingsError: see `check_request`.
    """
    check_request(len(pool), labels, defensive, LEAST)
    inclusion = uncertain(pool.g, np.ones(len(pool)), labels, defensive)
    return FixedSize(inclusion=inclusion, expected_ratio=_expected(pool.g, inclusion / labels))


def replaced(
    g: Float64[np.ndarray, " n"], labels: int, defensive: float, wave: int | None = None
) -> Replaced:
    """Return a draw with replacement by these g, or a wave by g that labels have corrected."""
    chance = mixed(np.sqrt(g), defensive)
    return Replaced(chance=chance, labels=labels, expected_ratio=_expected(g, chance), wave=wave)


def dice_of(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of one design under a seed."""
    return np.random.default_rng(seed_of(seed, "estimate", seed_name(name)))


def _stratified(
    name: DesignName,
    pool: Pool,
    stratum: Int[np.ndarray, " n"],
    labels: int,
    defensive: float,
) -> Stratified:
    _, stratum = np.unique(stratum, return_inverse=True)
    sizes = np.bincount(stratum)
    check_request(len(pool), labels, defensive, int(np.minimum(sizes, LEAST).sum()))
    expected = np.bincount(stratum, weights=pool.g) / sizes
    order = np.argsort(stratum, kind="stable")
    counts = allocate(sizes, spread_of(expected.clip(0, 1)), labels, defensive)
    return Stratified(
        name=name,
        members=tuple(np.split(order, np.cumsum(sizes)[:-1])),
        labels=counts,
        expected_ratio=_expected(pool.g, (counts / sizes / labels)[stratum]),
    )


def _expected(g: Float64[np.ndarray, " n"], chance: Float64[np.ndarray, " n"]) -> float:
    """Return the mean of 1 / (N chance) over units, weighed by g."""
    total = g.sum()
    return float((g / chance).sum() / len(g) / total) if total > 0 else 1.0


def _pivotal(
    inclusion: Float64[np.ndarray, " n"], dice: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Return which units are taken: as many as the inclusions sum to, each by its own.

    Deville and Tille, "Unequal probability sampling without replacement through a splitting
    method", Biometrika 1998, section 5: of two units one is decided and hands what is left to
    the other. Pairs of a random order fight at once, so a round halves the undecided. What it
    takes is negatively associated (Braenden and Jonasson, "Negative dependence in sampling",
    2012), which the finite-sample interval needs.
    """
    p = inclusion.copy()
    open_ = dice.permutation(np.nonzero(p < 1)[0])
    while len(open_) > 1:
        pairs = len(open_) // 2
        one, other = open_[: 2 * pairs : 2], open_[1 : 2 * pairs : 2]
        total = p[one] + p[other]
        small = total < 1
        chance = np.where(small, p[one], 1 - p[other]) / np.where(small, total, 2 - total)
        wins = dice.random(pairs) < chance
        winner, loser = np.where(wins, one, other), np.where(wins, other, one)
        p[winner] = np.where(small, total, 1.0)
        p[loser] = np.where(small, 0.0, total - 1)
        carried = np.where(small, winner, loser)
        undecided = (p[carried] > 0) & (p[carried] < 1)
        open_ = np.concatenate([carried[undecided], open_[2 * pairs :]])
    # The inclusions sum to a whole number, so of the last unit only rounding is left.
    taken: Bool[np.ndarray, " n"] = p > 0.5
    return taken
