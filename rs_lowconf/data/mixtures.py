"""Finds files of a data set whose digital numbers have another meaning than the others'.

Statistics over all pixels cannot find a mixture: if half of the files have an offset of 1000, the
distribution still looks plausible. So files are compared with each other.

An offset adds the same to every band and leaves the differences between bands as they are. So a
file's level is compared with the level expected from its band differences, by generalised least
squares: with S the covariance of the files' dark percentiles, the weights S^-1 1 / (1' S^-1 1) give
the estimate of an additive constant that varies least (Aitken 1935). In every set of bands they
find what is stable: B10 of L1C, which does not see the ground, or blue minus red over land. Which
files carry the offset and S are found in turn, as in k-means, and each file is compared with
statistics of the other files only.

A factor in all bands is an offset of logarithms, so other scales are found in the same way. Levels
are distinguished by B09: water vapour absorbs it in L1C, and after the correction of L2A it is
close to B8A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.orders import orders_of_b8a, smoothness

OFFSET = 0.1
"""An offset of 1000 digital numbers, as reflectance."""

_FEWEST = 8
"""Fewest files for a comparison."""
_ROUNDS = 20
"""Most rounds of the search for the files with an offset; it usually ends after three."""
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)
"""Added to variances of reflectance. The first is the uncertainty of percentiles, 0.003 squared;
the others are for the start, when an unknown mixture hides which bands are stable."""
_FINEST = 0.003
"""Least spread of levels, as reflectance."""
_COARSEST = 0.02
"""With a larger spread of levels an offset does not stand out."""
_FREEDOM = 4.0
"""Degrees of freedom of Student's t: levels of files with unusual differences are less certain."""
_NEAR, _CLEAR = 4.0, 3.0
"""In spreads: how far a file may be from its level, and how much farther the other has to be."""
_USUAL = 15.0
"""Files whose band differences are this many times as unusual as the median file's resemble no
other file: nothing follows from their differences."""

_Flags = Bool[np.ndarray, " n"]
_Numbers = Float[np.ndarray, " n"]
_Spectrum = Float[np.ndarray, " c"]
_Table = Float[np.ndarray, "n c"]


_SCALE_RATIO = 65_535 / 10_000
"""Of numbers that fill 0 .. 65535 to those of products."""
_OTHER_SCALE = 30.0
"""A file that is this many times brighter or darker than most has another scale, whatever it shows:
water and snow differ by less."""
_EXACT = 2e-8
"""Rounding error of reflectance."""
_LEAST = 1e-6
"""Least reflectance before logarithms are taken."""
_SMOOTHER = 0.4
"""By how much less the spectra of files have to jump in their band order than in the other."""
_TOO_BRIGHT, _TOO_DARK = 0.9, 0.06
"""Median reflectance of the brightest band that is too high, or too low, for land and water."""
_CLOUD = 2.0
"""Reflectance that clouds, snow and glint hardly reach; numbers that fill 0 .. 65535 exceed it."""
_LEAST_SEEN, _ALIKE = 1e-3, 1e-2
"""Least reflectance that counts when orders are compared, and what is added to variances of
logarithms of reflectance there."""
_NEAR_INFRARED, _GROUND = ("B06", "B07", "B08"), 0.06
"""Bands at the same position in all orders compared, and the least reflectance of land there."""
_L1C_MOST, _L2A_LEAST = 0.75, 0.85
"""Ratios of B09 to B8A."""
_LIT, _LIT_AT_ZERO = ("B02", "B03", "B04", "B05"), 2
"""Bands whose reflectance is never 0, and how many of them at 0 are too many."""
_NEGATIVE = -0.03
"""Dark percentiles below this are not reflectance: too much has been subtracted."""
_SAME_GROUND = 0.035
"""By how much the difference between the darkest bands of both groups may deviate from `OFFSET`."""
_WITH_OFFSET, _WITHOUT_TWICE = 0.085, 0.01
"""The darkest band is above the first with an offset left in, below the second with one removed."""

Severity = Literal["error", "warning"]
"""An error keeps files, tiles or a class from being used."""
UNSURE = "undecided: no dark pixels like those of the others"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem, with all the files or tiles that have it."""

    severity: Severity
    text: str
    names: tuple[str, ...] = ()
    """Of files below the data set's root, or of tiles, with details; empty when it is about all."""

    def to_json(self, names: Literal["files", "tiles"]) -> dict[str, Any]:
        """Return values that JSON can hold, with the names under that key."""
        return {"severity": self.severity, "text": self.text, names: self.names}


class Spectra:
    """Keeps a dark and a median spectrum of each file, to compare files with each other."""

    def __init__(self, bands: BandSpec) -> None:
        """Start without a file."""
        self._bands = bands
        self._dark: dict[str, _Spectrum] = {}
        self._usual: dict[str, _Spectrum] = {}
        self._top: dict[str, float] = {}

    def add(self, name: str, reflectance: Float[Tensor, "c n"]) -> None:
        """Add the valid pixels of a file, or of a tile of it; the darkest tile counts.

        Args:
            name: of the file.
            reflectance: in the order of the bands.
        """
        dark, usual, top = np.quantile(reflectance.double().numpy(), (0.01, 0.5, 0.999), axis=1)
        self._top[name] = max(float(top.max()), self._top.get(name, -np.inf))
        if name not in self._dark or dark.sum() < self._dark[name].sum():
            self._dark[name], self._usual[name] = dark, usual

    def mixtures(self) -> Iterator[Finding]:
        """Yield the ways in which files differ."""
        if len(self._dark) < _FEWEST:
            return
        names = tuple(self._dark)
        dark, usual = (np.stack([*spectra.values()]) for spectra in (self._dark, self._usual))
        top = np.array([*self._top.values()])
        # Water and shadow are clipped to 0 in the short-wave infrared of L2A, never in visible
        # bands.
        lit = [
            i
            for i, name in enumerate(self._bands.names)
            if self._bands.level == "L1C" or name in _LIT
        ]
        zero = self._bands.dn_offset / self._bands.scale
        cut = np.isclose(usual[:, lit], zero, rtol=0, atol=_EXACT).sum(axis=1) >= _LIT_AT_ZERO
        if cut.any():
            yield _mixture(
                f"half the pixels of {cut.sum():,} of {len(names):,} files are 0 in several bands: "
                "nearly certainly an offset was subtracted from numbers that have none, and "
                "negative values were clipped; use the files from before that",
                names,
                {"clipped at 0": cut, "above 0": ~cut},
            )
            names = tuple(name for name, low in zip(names, cut, strict=True) if not low)
            dark, usual, top = dark[~cut], usual[~cut], top[~cut]
        if len(names) < _FEWEST:
            return
        # If bands are in the wrong order, nothing else can be inferred.
        if orders := list(_by_order(names, usual, self._bands)):
            yield from orders
            return
        yield from _by_scale(names, usual, top)
        if offsets := list(_by_offset(names, dark)):
            yield from offsets
            return
        yield from _by_level(names, usual - dark.min(axis=1, keepdims=True), self._bands)


def _by_offset(names: tuple[str, ...], dark: _Table) -> Iterator[Finding]:
    found = compare_levels(dark)
    if not found.mixed:
        return
    if np.median(dark.min(axis=1)[found.low]) <= _NEGATIVE:
        why = (
            "nearly certainly 1000 is subtracted from the darker files, which have no offset or "
            "had it removed already; separate the two groups and set data.dn_offset=0 for these"
        )
    else:
        why = (
            "nearly certainly an offset of 1000 was left in the brighter files, as products of "
            "processing baseline 04.00 and later have it; separate the two groups and set "
            "data.dn_offset=-1000 for these"
        )
    yield _mixture(
        f"{found.high.sum():,} of {len(names):,} files are {OFFSET:g} brighter in every band than "
        f"{found.low.sum():,} others: {why}",
        names,
        {f"brighter by {OFFSET:g}": found.high, f"darker by {OFFSET:g}": found.low},
    )


def _by_scale(names: tuple[str, ...], usual: _Table, top: _Numbers) -> Iterator[Finding]:
    logs = np.log(np.maximum(usual, _LEAST))
    brightest = logs.max(axis=1)
    # The value of a file, not one between two scales.
    off = brightest - np.sort(brightest)[len(brightest) // 2]
    far = np.abs(off) > np.log(_OTHER_SCALE)
    if far.any():
        factors = np.exp(np.abs(off[far]))
        which = "brighter" if np.median(off[far]) > 0 else "darker"
        yield _mixture(
            f"{far.sum():,} of {len(names):,} files are about {np.median(factors):,.0f} times "
            f"{which} than the others: nearly certainly their scale differs; separate them and "
            "set their data.scale",
            names,
            {which: far, "like most": ~far},
        )
    near = np.flatnonzero(~far)
    found = _two_levels(logs[near] * (OFFSET / np.log(_SCALE_RATIO)))
    bright = usual[near].max(axis=1)
    if found.mixed and (
        (
            np.median(bright[found.high]) >= _TOO_BRIGHT
            # Cloudy files are as much brighter, but never brighter than clouds.
            and np.quantile(top[near][found.high], 0.75) >= _CLOUD
        )
        or np.median(bright[found.low]) <= _TOO_DARK
    ):
        sides = {
            f"{word} by {_SCALE_RATIO:.2f} times": np.isin(np.arange(len(names)), near[side])
            for word, side in (("brighter", found.high), ("darker", found.low))
        }
        yield _mixture(
            f"{found.high.sum():,} of {len(names):,} files are {_SCALE_RATIO:.2f} times brighter "
            f"in every band than {found.low.sum():,} others: nearly certainly the numbers of some "
            "fill 0 .. 65535; separate the two groups and set data.scale=65535 for these",
            names,
            sides,
        )


def _by_level(names: tuple[str, ...], usual: _Table, bands: BandSpec) -> Iterator[Finding]:
    if not {"B09", "B8A"} <= set(bands.names):
        return
    vapour, beside = (usual[:, index] for index in bands.index_of(("B09", "B8A")))
    ratio = vapour / np.maximum(beside, _LEAST)
    lit = beside > OFFSET
    sides = {"as in L1C": lit & (ratio < _L1C_MOST), "as in L2A": lit & (ratio > _L2A_LEAST)}
    top, corrected = sides.values()
    if top.any() and corrected.any():
        yield _mixture(
            f"B09 is darker than B8A in {top.sum():,} files, as in L1C, and similar in "
            f"{corrected.sum():,}, as in L2A: probably levels are mixed, or bands are in another "
            "order; separate the two groups and set their data.level or data.file_bands",
            names,
            sides,
        )


def _by_order(names: tuple[str, ...], usual: _Table, bands: BandSpec) -> Iterator[Finding]:
    logs = np.log(np.maximum(usual, _LEAST_SEEN))
    lit = usual[:, [name in _NEAR_INFRARED for name in bands.names]].max(axis=1, initial=0)
    ground = lit >= _GROUND
    for order in orders_of_b8a(bands.names):
        # The bands under the declared names if a file had this order.
        other = logs[:, [order.index(name) for name in bands.names]]
        gain = smoothness(bands.names, order, logs)
        swapped, sure = _by_likeness(logs, other, gain > 0)
        sides = {"in another order": sure & swapped, "in one order": sure & ~swapped}
        # Over water only noise is left where orders differ: such files are listed, but not judged.
        another, one = (flags & ground for flags in sides.values())
        if (
            another.any()
            and one.any()
            and gain[another].mean() >= _SMOOTHER
            and gain[one].mean() <= -_SMOOTHER
        ):
            yield _mixture(
                f"the bands of {sides['in another order'].sum():,} of {len(names):,} files are "
                f"in another order than those of the others, as if they were {' '.join(order)}: "
                "nearly certainly orders are mixed; separate the groups and set their "
                "data.file_bands",
                names,
                sides,
            )
            return


def _by_likeness(logs: _Table, other: _Table, swapped: _Flags) -> tuple[_Flags, _Flags]:
    """Return which files are like the others only when their bands are swapped, and how surely."""
    bands = logs.shape[1]
    far = np.zeros((2, len(logs)))
    for _ in range(_ROUNDS):
        values = np.where(swapped[:, None], other, logs)
        centre = np.median(values, axis=0)
        inverse = np.linalg.inv(np.cov(values, rowvar=False) + _ALIKE * np.eye(bands))
        far = np.stack(
            [
                np.einsum("ni,ij,nj->n", spectra - centre, inverse, spectra - centre)
                for spectra in (logs, other)
            ]
        )
        again = far[1] < far[0]
        if (again == swapped).all():
            break
        swapped = again
    here, there = far.min(axis=0), far.max(axis=0)
    # Squared Mahalanobis distances, of which the mean is the number of bands.
    return swapped, (here <= 4 * bands) & (there >= 4 * (here + bands))


def _mixture(text: str, names: tuple[str, ...], sides: dict[str, _Flags]) -> Finding:
    """Name every file with its group: the smallest first, then files of neither."""
    first, second = sorted(sides, key=lambda side: int(sides[side].sum()))
    neither = ~(sides[first] | sides[second])
    ordered = ((first, sides[first]), (UNSURE, neither), (second, sides[second]))
    files = [
        f"{names[index]} ({side})" for side, flags in ordered for index in np.flatnonzero(flags)
    ]
    return Finding(severity="warning", text=text, names=tuple(files))


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """Which files are brighter than others by `OFFSET` in every band."""

    low: _Flags
    """Files at the lower level, or at the only one."""
    high: _Flags
    """Files at the upper level."""

    @property
    def mixed(self) -> bool:
        """Whether there are files of both kinds."""
        return bool(self.low.any() and self.high.any())

    @property
    def unsure(self) -> _Flags:
        """Files that resemble neither: without dark pixels, such as clouds, or of another kind."""
        neither: _Flags = ~(self.low | self.high)
        return neither


def compare_levels(dark: _Table) -> Levels:
    """Sort files by whether all their bands are brighter by `OFFSET` than those of other files.

    There is a mixture only if reflectance confirms it: no band of the brighter files is dark, or
    the darker files are below 0.

    Args:
        dark: a dark percentile of reflectance by file and band.
    """
    found = _two_levels(dark)
    if not found.mixed:
        return found
    floors = dark.min(axis=1)
    apart = np.median(floors[found.high]) - np.median(floors[found.low])
    if abs(apart - OFFSET) > _SAME_GROUND:  # kinds of ground, one of them brighter
        return Levels(low=found.low | found.high, high=np.zeros_like(found.high))
    if np.median(floors[found.low]) <= _NEGATIVE:
        return Levels(low=found.low & (floors <= _WITHOUT_TWICE), high=found.high)
    if np.median(floors[found.high]) >= _WITH_OFFSET:
        return Levels(low=found.low, high=found.high & (floors >= _WITH_OFFSET))
    return Levels(low=found.low | found.high, high=np.zeros_like(found.high))


def _two_levels(dark: _Table) -> Levels:
    """Sort files by what their bands have in common, whatever it means."""
    count, bands = dark.shape
    nothing = np.zeros(count, dtype=np.bool_)
    if count < _FEWEST:
        return Levels(low=nothing, high=nothing)
    high = _best_split(dark)
    level, distance = _left_out(dark - OFFSET * high[:, None], _RIDGES[0])
    level -= np.median(level)
    spread = max(1.4826 * float(np.median(np.abs(level))), _FINEST)
    certainty = spread * np.sqrt((_FREEDOM + distance) / (_FREEDOM + bands - 1))
    here = np.abs(level) / certainty
    there = np.abs(level + np.where(high, OFFSET, -OFFSET)) / certainty
    sure = (here <= _NEAR) & (there - here >= _CLEAR) & (spread <= _COARSEST)
    sure &= distance <= _USUAL * np.median(distance)
    if not (sure & ~high).any():  # a single level
        return Levels(low=sure, high=nothing)
    return Levels(low=sure & ~high, high=sure & high)


def _best_split(dark: _Table) -> _Flags:
    """Return which files carry the offset: the choice that makes files most alike without it."""
    none = np.zeros(len(dark), dtype=np.bool_)
    starts = [none, _upper(dark.min(axis=1))]
    starts += [_upper(_left_out(dark, ridge)[0]) for ridge in _RIDGES]
    found = {high.tobytes(): high for high in (_settled(dark, start) for start in starts)}
    return min(found.values(), key=lambda high: _volume(dark - OFFSET * high[:, None]))


def _settled(dark: _Table, high: _Flags) -> _Flags:
    """Repeat the comparison without the offset of the files that have it, until none changes."""
    for _ in range(_ROUNDS):
        level, _ = _left_out(dark - OFFSET * high[:, None], _RIDGES[0])
        again = _upper(level + OFFSET * high)
        if (again == high).all():
            break
        high = again
    return high


def _left_out(values: _Table, ridge: float) -> tuple[_Numbers, _Numbers]:
    """Return each file's level against the others, and how unusual its differences are.

    The second is the squared Mahalanobis distance of the differences between bands. Covariance
    and mean without the file follow from those with it by a rank-one update.
    """
    count, bands = values.shape
    centred = values - values.mean(axis=0)
    covariance = centred.T @ centred / (count - 2) + ridge * np.eye(bands)
    weighed = np.linalg.solve(covariance, centred.T).T
    total = float(np.linalg.solve(covariance, np.ones(bands)).sum())
    more = count / (count - 1)
    step = more / (count - 2)
    along, whole = weighed.sum(axis=1), (weighed * centred).sum(axis=1)
    rest = 1.0 - step * whole
    total_out = total + step * along**2 / rest
    level = more * along / rest / total_out
    return level, np.maximum(more**2 * whole / rest - total_out * level**2, 0.0)


def _upper(level: _Numbers) -> _Flags:
    """Return which files are nearer to the upper of two levels that are `OFFSET` apart."""
    low, high = np.quantile(level, (0.02, 0.98))
    grid = np.arange(low - OFFSET, high + _FINEST, _FINEST / 2)
    off = level[:, None] - grid  # n g
    cost = np.minimum(np.minimum(np.abs(off), np.abs(off - OFFSET)), OFFSET / 4).sum(axis=0)
    best = np.flatnonzero(cost <= cost.min() * (1 + 1e-9))
    upper: _Flags = level - grid[best[len(best) // 2]] > OFFSET / 2
    return upper


def _volume(values: _Table) -> float:
    """Return the logarithm of the volume that files take up among the bands."""
    covariance = np.cov(values, rowvar=False).reshape(values.shape[1], -1)
    return float(np.linalg.slogdet(covariance + _RIDGES[0] * np.eye(len(covariance)))[1])
