"""Ladders: how probable is it that confidence is below t, for falling t; generated beside real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.estimate.intervals import Interval, clopper_pearson
from rs_lowconf.estimate.rare import RareEvent


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A probability and how far it is known."""

    value: float | None
    """None where nothing was found: then it is below the interval's high end."""
    interval: Interval
    found: int
    """Populations of latents that got there, or real tiles counted."""
    of: int
    """Populations, or tiles looked at."""
    relative_error: float | None = None
    """Standard error over value, where populations tell it by how they scatter."""
    deepest: float | None = None
    """Where no population got there: mean probability of the levels they gave up on."""

    def to_json(self) -> dict[str, Any]:
        """Return it as reports hold it."""
        return {
            "value": self.value,
            "interval_95": [self.interval.low, self.interval.high],
            "method": self.interval.method,
            "found": self.found,
            "of": self.of,
            "relative_standard_error": self.relative_error,
            "deepest_level": self.deepest,
        }


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What is known of one condition or class, or of all together."""

    rungs: tuple[Rung, ...]
    """P(confidence < t) at each threshold, from the highest to the lowest."""
    disagreement: Rung | None
    """P(the most probable class is not the condition, or the label); None where there is none."""

    def to_json(self, thresholds: Sequence[float]) -> dict[str, Any]:
        """Return it as reports hold it."""
        return {
            "confidence_below": [
                {"threshold": threshold, **rung.to_json()}
                for threshold, rung in zip(thresholds, self.rungs, strict=True)
            ],
            "disagreement": None if self.disagreement is None else self.disagreement.to_json(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """What populations of latents of one condition told."""

    confidence: RareEvent
    """At each threshold."""
    disagreement: RareEvent | None
    """None where the target has no such class."""


def generated_ladders(events: Mapping[str, Events]) -> tuple[Ladder, dict[str, Ladder]]:
    """Return the ladder of all conditions, which weigh the same, and that of each.

    Disagreement of all is that of the conditions which the target has a class for.
    """
    told = [one.disagreement for one in events.values() if one.disagreement is not None]
    overall = Events(
        confidence=mean_of([one.confidence for one in events.values()]),
        disagreement=mean_of(told) if told else None,
    )
    return _ladder(overall), {name: _ladder(own) for name, own in events.items()}


def mean_of(events: Sequence[RareEvent]) -> RareEvent:
    """Return the mean over conditions, as if it were an event of its own.

    Its r-th replicate is the mean of the r-th replicates of the conditions, which are
    independent of each other and of all others.
    """
    return RareEvent(
        thresholds=events[0].thresholds,
        by_replicate=np.mean([one.by_replicate for one in events], axis=0),
        counted=np.all([one.counted for one in events], axis=0),
        latents=sum(one.latents for one in events),
        deepest=np.mean([one.deepest for one in events], axis=0),
        evaluations=sum(one.evaluations for one in events),
        unscored=sum(one.unscored for one in events),
    )


def real_ladders(
    confidence: Float64[np.ndarray, " n"],
    predicted: Sequence[str],
    label: Sequence[str | None],
    *,
    thresholds: Sequence[float],
    classes: Sequence[str],
    class_map: ClassMap = PLAIN,
) -> tuple[Ladder, dict[str, Ladder]]:
    """Return the ladder of all tiles of a real pool, and that of the tiles of each label.

    Args:
        confidence: the target's, in 0..1.
        predicted: the target's most probable class.
        label: of the tiles, None where there is none.
        thresholds: from the highest to the lowest.
        classes: the target's; of tiles of other labels no disagreement is told.
        class_map: which labels and classes mean the same.
    """
    wrong = np.array(
        [not class_map.same(b, a) for a, b in zip(predicted, label, strict=True)], dtype=bool
    )
    commons = class_map.commons(classes)
    known = np.array([class_map.common(own or "") in commons for own in label], dtype=bool)

    def of(chosen: Bool[np.ndarray, " n"]) -> Ladder:
        judged = chosen & known
        return Ladder(
            rungs=tuple(counted(confidence[chosen] < threshold) for threshold in thresholds),
            disagreement=counted(wrong[judged]) if judged.any() else None,
        )

    labels = np.array([own or "" for own in label])
    by_class = {name: of(labels == name) for name in sorted(set(labels.tolist()) - {""})}
    return of(np.ones(len(labels), dtype=bool)), by_class


def counted(found: Bool[np.ndarray, " n"]) -> Rung:
    """Return the share of tiles with the exact interval of a uniform draw."""
    count, n = int(found.sum()), len(found)
    return Rung(
        value=count / n if count else None,
        interval=clopper_pearson(count, n),
        found=count,
        of=n,
    )


def _ladder(events: Events) -> Ladder:
    own = events.disagreement
    return Ladder(
        rungs=tuple(
            rung_of(events.confidence, i) for i in range(len(events.confidence.thresholds))
        ),
        disagreement=None if own is None else rung_of(own, 0),
    )


def rung_of(event: RareEvent, place: int) -> Rung:
    """Return what populations tell at one threshold."""
    own = event.by_replicate[:, place]
    value, found = float(own.mean()), int((own > 0).sum())
    if event.counted[:, place].all() or value == 0:
        # Plain random latents: the interval of a count is exact. It is no shorter than need be
        # for a mean over conditions (Hoeffding 1956). Where no population got there, nothing
        # but these latents bounds the probability for sure.
        interval = clopper_pearson(round(value * event.latents), event.latents)
    else:
        interval = event.interval(place)
    return Rung(
        value=value or None,
        interval=interval,
        found=found,
        of=len(own),
        relative_error=float(own.std(ddof=1) / np.sqrt(len(own)) / value) if value else None,
        deepest=None if value else float(event.deepest.mean()),
    )
