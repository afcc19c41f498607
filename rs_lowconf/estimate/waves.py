"""What is drawn of a pool, in one wave or several, and how labels join it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.errors import DataError, listed
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Draw, Pool, Wave
from rs_lowconf.estimate.prepare import Prepared
from rs_lowconf.estimate.report import Labelled, Unclear
from rs_lowconf.settings import DesignName, EstimateSettings
from rs_lowconf.vocabulary import UNCLEAR, join, vocabulary

Labels = Mapping[str, str | None]
"""The class of each unit by its id; None where it could not be told."""


class MissingLabelsError(DataError):
    """A part of what was drawn has no label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnPool:
    """A pool with all that a draw and an estimate need of it."""

    ids: NDArray[np.object_]
    classes: tuple[str, ...]
    """`pool.predicted` counts them."""
    pool: Pool
    group: NDArray[np.object_] | None
    """Which tile each pixel is of; None where units stand alone."""
    validated: bool
    """Whether the error probabilities were validated with labels."""
    class_map: ClassMap = PLAIN
    """By whose common names classes go, and labels are read."""

    @property
    def predicted(self) -> NDArray[np.object_]:
        """Return the name of the class that the target predicts of each unit."""
        assert self.pool.predicted is not None  # noqa: S101 -- who makes it gives classes
        names: NDArray[np.object_] = np.array(self.classes, dtype=object)[self.pool.predicted]
        return names

    @classmethod
    def of(cls, prepared: Prepared) -> "DrawnPool":
        """Return it of a pool that was prepared."""
        return cls(
            ids=prepared.scores.ids,
            classes=prepared.classes,
            pool=prepared.pool,
            group=prepared.scores.group,
            validated=prepared.validation is not None,
            class_map=prepared.scores.class_map,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is drawn."""

    design: DesignName
    labels: int
    """Of all waves."""
    defensive: float
    """Share of the labels drawn uniformly."""
    seed: int

    @classmethod
    def of(cls, section: EstimateSettings, seed: int) -> "Request":
        """Return what settings ask for."""
        labels, defensive = section.budget, section.defensive
        return cls(design=section.design, labels=labels, defensive=defensive, seed=seed)

    @property
    def sizes(self) -> list[int]:
        """Return the labels of each wave; most designs draw all in one."""
        return DESIGNS[self.design].sizes(self.labels)

    def draw(self, pool: Pool, before: Sequence[Wave] = ()) -> Draw:
        """Return the next wave, or the whole draw.

        Args:
            pool: to draw from.
            before: waves that are labelled.

        Raises:
            SettingsError: see `check_request`.
            DataError: `by_class` of a pool without predicted classes.
        """
        design = DESIGNS[self.design]
        return design.next_wave(pool, before, self.labels, self.defensive)(self.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Waves:
    """All that was drawn so far."""

    pool: DrawnPool
    request: Request
    draws: tuple[Draw, ...]
    """The waves in order; there is at least one."""

    @property
    def complete(self) -> bool:
        """Return whether all waves are drawn."""
        return len(self.draws) == len(self.request.sizes)

    def new_ids(self, wave: int) -> list[str]:
        """Return the units that a wave, from 1 on, is the first to hold, in random order."""
        seen = {index for draw in self.draws[: wave - 1] for index in draw.index.tolist()}
        new = dict.fromkeys(self.draws[wave - 1].index.tolist())
        return [str(self.pool.ids[index]) for index in new if index not in seen]

    def next(self, labels: Labels, unclear: Unclear, source: str = "the labels") -> "Waves":
        """Return these waves and the next, which is drawn by what the labels so far say.

        Args:
            labels: of all units drawn so far.
            unclear: what units of unclear class count as.
            source: where the labels come from, for errors.

        Raises:
            DataError: a class is written nearly as another one.
        """
        parts = self._labelled(labels, unclear, source)
        before = [Wave(draw=part.draw, error=part.error) for part in parts]
        return replace(self, draws=(*self.draws, self.request.draw(self.pool.pool, before)))

    def labelled(self, labels: Labels, unclear: Unclear, source: str = "the labels") -> Labelled:
        """Return all waves as one draw with its labels.

        Args:
            labels: of all drawn units.
            unclear: what units of unclear class count as.
            source: where the labels come from, for errors.

        Raises:
            DataError: a class is written nearly as another one.
        """
        parts = self._labelled(labels, unclear, source)
        whole = parts[0].design.joined(self.draws)
        return replace(parts[0], draw=whole, truth=np.concatenate([part.truth for part in parts]))

    def _labelled(self, labels: Labels, unclear: Unclear, source: str) -> list[Labelled]:
        """Return each wave with its labels; a unit that comes again has its only label again."""
        pool = self.pool
        named = sorted({name for name in labels.values() if name is not None})
        classes = join(vocabulary("the pool", pool.classes), vocabulary(source, named)).either
        number = {name: i for i, name in enumerate(classes)}
        group = None if pool.group is None else pd.factorize(pool.group)[0].astype(np.int64)

        def class_of(index: int) -> int:
            name = labels[str(pool.ids[index])]
            return -1 if name is None else number[name]

        return [
            Labelled(
                pool=pool.pool,
                classes=classes,
                draw=draw,
                truth=np.array([class_of(index) for index in draw.index.tolist()]),
                unclear=unclear,
                group=group,
            )
            for draw in self.draws
        ]


def check_known(labels: Labels, ids: Collection[str], classes: Sequence[str], source: str) -> None:
    """Check that labels are of units that were drawn, and of known classes.

    Args:
        labels: of all or some of the units.
        ids: of the units that were drawn.
        classes: that labels may name.
        source: where the labels come from.

    Raises:
        DataError: one is not.
    """
    drawn = set(ids)
    foreign = [f"{name} was not drawn" for name in labels if name not in drawn]
    if foreign:
        raise DataError(f"{source}: {listed(foreign)}", remedy="label the units that were drawn")
    # Written nearly right, a name says more by what it looks like than by a list of all classes.
    join(vocabulary(source, labels.values()), vocabulary("the pool", classes))
    faults = [
        f"{name} has the unknown class {label!r}"
        for name, label in labels.items()
        if label is not None and label not in classes
    ]
    if faults:
        raise DataError(
            f"{source}: {listed(faults)}",
            expected=f"{', '.join(classes)}, or {UNCLEAR} where it cannot be told",
            remedy="correct it, or name further classes in estimate.classes",
        )


def common_labels(labels: Labels, pool: DrawnPool, source: str) -> Labels:
    """Return labels by the common names of the pool's classes.

    Raises:
        SettingsError: the map of classes lacks one of them.
        DataError: a class is written nearly as another one.
    """
    own = pool.class_map
    if not own.names:
        return labels
    own.meet(vocabulary(source, labels.values()), vocabulary("the pool", pool.classes))
    return {unit: None if name is None else own.common(name) for unit, name in labels.items()}


def check_complete(missing: Sequence[str], wanted: int, source: str) -> None:
    """Refuse labels of a part of what was drawn.

    Raises:
        MissingLabelsError: some are missing.
    """
    if missing:
        raise MissingLabelsError(
            f"{source}: {len(missing)} of {wanted} drawn units have no label, such as {missing[0]}",
            remedy="label the rest: leaving out what is hard to label would bias the estimate",
        )


def check_clear(labels: Labels, unclear: Unclear) -> None:
    """Refuse units of unclear class, unless it is said what they count as.

    Raises:
        DataError: there are some, and they are refused.
    """
    doubtful = [name for name, label in labels.items() if label is None]
    if doubtful and unclear == "refuse":
        raise DataError(
            f"of {len(doubtful)} drawn units nobody could tell the class, such as {doubtful[0]}",
            remedy="look again, or count them by estimate.unclear=wrong or right",
        )
