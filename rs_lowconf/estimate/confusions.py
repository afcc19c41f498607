"""Is what a search finds what the target gets wrong? Its confusions beside those of real tiles.

A confusion is a true class and another class that the target says instead. A useful search finds
the confusions that are frequent among real tiles, and finds them first. Which of these it misses,
and which it finds that no real tile shows, is what a user wants to know besides a rate.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int
from scipy.stats import rankdata

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.percents import percent
from rs_lowconf.seeds import seed_of

_RESAMPLES = 1_000
_NAMED = 5
"""Confusions that a sentence names."""
_COUNTS = ("real_errors", "found_errors", "met")
"""Sums of the pairs, for those who read a file."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One confusion among real and among found tiles."""

    label: str
    predicted: str
    real: int
    """Real tiles of the class for which the target says the other one."""
    real_of: int
    """Real tiles of the class."""
    found: int
    """Found tiles of this condition for which it does."""
    first: int | None
    """Place of the first of these among all found tiles, from 1; None where there is none."""

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.label} taken for {self.predicted}"


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """The confusions of a target, found and real."""

    real: int
    """Labelled real tiles of the compared classes."""
    found: int
    """Found tiles of these classes."""
    learned: int
    """Real tiles of the split `train`, which the target may have learned from."""
    left_out: tuple[str, ...]
    """Classes that only one side has."""
    possible: int
    """Confusions that could be met."""
    pairs: tuple[Confusion, ...]
    """Those that were met on either side, the most frequent real ones first."""
    correlation: float | None
    """Spearman's rank correlation of the numbers of tiles over all possible confusions; None where
    one side has no confusion, or the same number of each."""
    interval_95: tuple[float, float] | None
    """Of the correlation, by resampling real and found tiles."""

    @property
    def real_errors(self) -> int:
        """Return the number of real tiles that the target gets wrong."""
        return sum(pair.real for pair in self.pairs)

    @property
    def found_errors(self) -> int:
        """Return the number of found tiles for which the target does not say the condition."""
        return sum(pair.found for pair in self.pairs)

    @property
    def met(self) -> int:
        """Return the number of real errors whose confusion was found."""
        return sum(pair.real for pair in self.pairs if pair.found)

    @property
    def missed(self) -> tuple[Confusion, ...]:
        """Return the real confusions that were not found, the most frequent first."""
        return tuple(pair for pair in self.pairs if pair.real and not pair.found)

    @property
    def invented(self) -> tuple[Confusion, ...]:
        """Return the confusions that no real tile shows, the most often found first."""
        alone = [pair for pair in self.pairs if pair.found and not pair.real]
        return tuple(sorted(alone, key=lambda pair: -pair.found))

    def sentences(self) -> list[str]:
        """Return what a reader has to know, in words."""
        if not self.real_errors:
            return [
                f"The target has none of {self.real:,} labelled real tiles wrong: there are no "
                "confusions to compare with."
            ]
        lines = [
            f"The target has {self.real_errors:,} of {self.real:,} labelled real tiles wrong; "
            f"{self.met:,} of these errors ({percent(self.met / self.real_errors, 0)}) are of a "
            f"confusion that is also among the {self.found:,} found tiles."
        ]
        if self.correlation is not None:
            line = (
                f"Rank correlation of the numbers of tiles over the {self.possible:,} possible "
                f"confusions: {self.correlation:.2f}"
            )
            if self.interval_95 is not None:
                line += f" ({self.interval_95[0]:.2f} .. {self.interval_95[1]:.2f})"
            lines.append(f"{line}; 1: those that are frequent among real tiles are found most.")
        if self.missed:
            named = ", ".join(f"{pair} ({pair.real:,})" for pair in self.missed[:_NAMED])
            lines.append(f"Real confusions that were not found: {named}{_more(self.missed)}.")
        if self.invented:
            named = ", ".join(
                f"{pair} ({pair.found:,}; none of {pair.real_of:,} real tiles)"
                for pair in self.invented[:_NAMED]
            )
            lines.append(f"Found, but of no real tile: {named}{_more(self.invented)}.")
        if self.learned:
            lines.append(
                f"{self.learned:,} of the real tiles are of the split train: a target that learned "
                "from them errs less there. batch.splits chooses others."
            )
        if self.left_out:
            lines.append(f"Not compared, as one side lacks them: {', '.join(self.left_out)}.")
        return lines

    def table(self) -> list[tuple[str, ...]]:
        """Return the confusions as cells of text, heads first."""
        rows: list[tuple[str, ...]] = [
            ("true class", "target says", "real errors", "of", "found", "first found as")
        ]
        for pair in self.pairs:
            first = "" if pair.first is None else f"{pair.first:,}"
            counts = (f"{pair.real:,}", f"{pair.real_of:,}", f"{pair.found:,}", first)
            rows.append((pair.label, pair.predicted, *counts))
        return rows

    HEADS: ClassVar = ("number", "not as labelled", "real errors met", "rank correlation")
    """Of `figures`."""

    def figures(self) -> tuple[str, ...]:
        """Return the figures of these tiles as cells of text, to be set beside those of others."""
        known = "-"
        if self.correlation is not None and self.interval_95 is not None:
            low, high = self.interval_95
            known = f"{self.correlation:.2f} ({low:.2f} .. {high:.2f})"
        met = f"{self.met:,} of {self.real_errors:,}"
        return (f"{self.found:,}", f"{self.found_errors:,}", met, known)

    def to_json(self) -> dict[str, Any]:
        """Return it as a file holds it."""
        return asdict(self) | {name: getattr(self, name) for name in _COUNTS}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Confusions":
        """Return what `to_json` was called on."""
        own = {name: value for name, value in values.items() if name not in _COUNTS}
        interval = own["interval_95"]
        return cls(
            **own
            | {
                "left_out": tuple(own["left_out"]),
                "pairs": tuple(Confusion(**pair) for pair in own["pairs"]),
                "interval_95": None if interval is None else (interval[0], interval[1]),
            }
        )


def compare_confusions(
    found: Sequence[tuple[str, str]],
    real: Sequence[tuple[str, str]],
    *,
    says: Sequence[str],
    class_map: ClassMap = PLAIN,
    learned: int = 0,
    seed: int = 0,
) -> Confusions:
    """Compare confusions of found tiles with those of real ones.

    Args:
        found: condition, or the class that reviewers gave, and prediction of each tile, in the
            order in which they were found.
        real: label and prediction of each labelled real tile.
        says: classes of the target.
        class_map: which classes of both sides mean the same.
        learned: real tiles that the target may have learned from.
        seed: of the resamples.
    """
    ours, theirs = (
        [(class_map.common(label), class_map.common(predicted)) for label, predicted in side]
        for side in (found, real)
    )
    conditions = {label for label, _ in ours}
    both = [name for name in dict.fromkeys(label for label, _ in theirs) if name in conditions]
    either = dict.fromkeys(a for side in (theirs, ours) for a, _ in side)
    ours, theirs = ([pair for pair in side if pair[0] in both] for side in (ours, theirs))
    spoken = [*dict.fromkeys([*class_map.commons(says), *(b for _, b in (*ours, *theirs))])]
    possible = [(a, b) for a in both for b in spoken if a != b]
    first: dict[tuple[str, str], int] = {}
    for place, pair in enumerate(ours, 1):
        first.setdefault(pair, place)
    count_found, count_real = Counter(ours), Counter(theirs)
    of = Counter(a for a, _ in theirs)
    pairs = [
        Confusion(
            label=a,
            predicted=b,
            real=count_real[a, b],
            real_of=of[a],
            found=count_found[a, b],
            first=first.get((a, b)),
        )
        for a, b in possible
        if count_real[a, b] or count_found[a, b]
    ]
    counts = np.array(
        [[side[pair] for pair in possible] for side in (count_real, count_found)], dtype=np.int64
    )
    correlation, interval = _correlation(counts, (len(theirs), len(ours)), seed)
    return Confusions(
        real=len(theirs),
        found=len(ours),
        learned=learned,
        left_out=tuple(name for name in either if name not in both),
        possible=len(possible),
        pairs=tuple(sorted(pairs, key=lambda pair: (-pair.real, -pair.found))),
        correlation=correlation,
        interval_95=interval,
    )


def _correlation(
    counts: Int[np.ndarray, "2 k"], totals: tuple[int, int], seed: int
) -> tuple[float | None, tuple[float, float] | None]:
    """Return Spearman's correlation with its interval from resamples of the tiles of each side."""
    if counts.shape[1] < 2 or (counts.max(1) == counts.min(1)).any():
        return None, None
    rng = np.random.default_rng(seed_of(seed, "confusions"))
    resampled = [
        rng.multinomial(total, [*(own / total), 1 - own.sum() / total], size=_RESAMPLES)[:, :-1]
        for own, total in zip(counts, totals, strict=True)
    ]
    values = _spearman(*(rankdata(one, axis=1) for one in resampled))
    values = values[np.isfinite(values)]
    value = float(_spearman(*(rankdata(own)[None] for own in counts))[0])
    # A resample adds its own noise to rare confusions, so that its ranks correlate less: the
    # scatter is that of the resamples, its middle is not.
    low, high = value + np.quantile(values, [0.025, 0.975]) - np.median(values)
    return value, (max(-1.0, float(low)), min(1.0, float(high)))


def _spearman(
    left: Float64[np.ndarray, "r k"], right: Float64[np.ndarray, "r k"]
) -> Float64[np.ndarray, " r"]:
    """Return the correlation of ranks, row by row; not finite where a row has one rank alone."""
    left, right = (ranks - ranks.mean(1, keepdims=True) for ranks in (left, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        value: Float64[np.ndarray, " r"] = (left * right).sum(1) / np.sqrt(
            (left**2).sum(1) * (right**2).sum(1)
        )
    return value


def _more(pairs: Sequence[Confusion]) -> str:
    return f" and {len(pairs) - _NAMED:,} more" if len(pairs) > _NAMED else ""
