"""The one way in which samples reach reviewers: noted in the review store, then written.

The store knows a package before it exists, so whatever comes back was sent, and an interrupted
export can be repeated.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rs_lowconf.review.context import Scenes
from rs_lowconf.review.fields import Label
from rs_lowconf.review.package import write_package
from rs_lowconf.review.samples import Observed, ReviewSample
from rs_lowconf.review.store import ReviewStore, SentPackage, SentSample
from rs_lowconf.runs import sha256_of


def publish(
    store: ReviewStore,
    folder: Path,
    samples: Sequence[ReviewSample],
    *,
    package_id: str,
    label: Label,
    round: int,  # noqa: A002 -- the field's name in the store
    classes: Sequence[str],
    target_classes: Sequence[str],
    attribution: str,
    provenance: Mapping[str, str],
    pixel_classes: Sequence[str] = (),
    settles: bool = False,
    scenes: Sequence[Scenes] = (),
) -> None:
    """Register samples in the store and write them as a package for review in QGIS.

    Args:
        store: of the run.
        folder: the package; it must not exist yet (see `package.place_for`).
        samples: 1 to 500 of one kind, in the order to show them in.
        package_id: see `ids.package_id`.
        label: whether something is suggested, as for `write_package`.
        round: of reviews, from 1; 0 for observed tiles, which belong to none.
        classes: among which reviewers choose.
        target_classes: of the model under test; empty where none was asked.
        attribution: notice that the licence of the real data asks for.
        provenance: what made or chose the samples; left out of a blind package.
        pixel_classes: of masks; empty when tiles have none.
        settles: whether the samples were answered before and these answers win.
        scenes: drawn below the tiles on the map.

    Raises:
        ReviewError: the folder exists, the samples do not fit together, or the store knows the
            package with other samples.
        OutputError: the store or the folder cannot be written.
    """
    package = SentPackage(
        package_id=package_id,
        label=label,
        round=round,
        folder=_place(store, folder),
        classes=tuple(classes),
        exported=datetime.now(UTC).isoformat(timespec="seconds"),
        pixel_classes=tuple(pixel_classes),
        settles=settles,
    )
    store.register(package, [_sent(store, sample) for sample in samples])
    write_package(
        folder,
        samples,
        package_id=package_id,
        classes=classes,
        target_classes=target_classes,
        label=label,
        attribution=attribution,
        provenance=provenance,
        pixel_classes=pixel_classes,
        scenes=scenes,
    )


def _place(store: ReviewStore, folder: Path) -> str:
    """Return where a package is, relative to the store's folder if it is in there."""
    base, place = store.path.parent.absolute(), folder.absolute()
    return place.relative_to(base).as_posix() if place.is_relative_to(base) else str(place)


def _sent(store: ReviewStore, sample: ReviewSample) -> SentSample:
    """Return what the store keeps of a sample."""
    if isinstance(sample, Observed):
        place = "" if sample.pixel is None else "/{}/{}".format(*sample.pixel)
        return SentSample(
            sample_id=sample.sample_id,
            origin="catalog" if sample.pixel is None else "pixel",
            condition=sample.label or "",
            prediction=sample.prediction,
            realism=None,
            gate_score=None,
            tile=sample.tile + place,
            sha256=sample.sha256 or hashlib.sha256(sample.pixels.tobytes()).hexdigest(),
            provenance=sample.provenance,
        )
    beside = sample.neighbour
    names = ("tile_id", "class_name", "distance")
    return SentSample(
        sample_id=sample.sample_id,
        origin=sample.origin,
        condition=sample.condition,
        prediction=sample.prediction,
        realism=sample.realism,
        gate_score=sample.gate_score,
        tile=sample.tile,
        sha256=sample.sha256 or sha256_of(store.path.parent / sample.tile),
        neighbour=None if beside is None else {name: getattr(beside, name) for name in names},
        provenance=sample.provenance,
    )
