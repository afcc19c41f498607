"""A package of the samples that reviewers disagree on, for somebody's last word."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.package import RealNeighbour, ReviewSample, write_package
from rs_lowconf.review.reading import ReviewedPackage
from rs_lowconf.review.store import ReviewStore, SentPackage, SentSample


def settling_package(
    store: ReviewStore,
    sources: Sequence[ReviewedPackage],
    disagreed: Collection[str],
    folder: Path,
    attribution: str,
) -> int:
    """Write the package, known to the store as one whose answers count alone.

    Args:
        store: knows the packages that the samples come from.
        sources: packages at hand, from which the tiles are copied.
        disagreed: ids of the samples.
        folder: the package; it must not exist yet.
        attribution: notice that the licence of the real data asks for.

    Returns:
        Number of samples; 0, and nothing written, when none is at hand.

    Raises:
        ReviewError: the samples come from packages of both labels or of several rounds, or
            the store does not know them.
    """
    sent = {package.package_id: package for package in store.packages()}
    samples: dict[str, tuple[SentSample, ReviewSample]] = {}
    origins: dict[str, SentPackage] = {}
    for source in sources:
        if source.package_id not in sent:
            raise ReviewError(
                f"{source.folder} is foreign to the store {store.path}",
                remedy="name its run with --config or --set run.dir=FOLDER",
            )
        entries = {str(entry["sample_id"]): entry for entry in source.manifest["samples"]}
        for one in store.samples(source.package_id):
            if one.sample_id in disagreed and one.sample_id not in samples:
                entry = entries[one.sample_id]
                samples[one.sample_id] = (one, _again(source, one, entry))
                origins[source.package_id] = sent[source.package_id]
    if not samples:
        return 0
    kinds = {(package.label, package.round) for package in origins.values()}
    if len(kinds) > 1:
        raise ReviewError(
            f"the samples come from {len(kinds)} kinds of packages ("
            + ", ".join(f"{label} of round {number}" for label, number in sorted(kinds))
            + ")",
            expected="packages of one label and round",
            remedy="name these packages only",
        )
    first = next(source for source in sources if source.package_id in origins)
    (label, number), chosen = kinds.pop(), sorted(samples)
    told = " ".join([*sorted(origins), *chosen, "settles"])
    package = SentPackage(
        package_id=hashlib.sha256(told.encode()).hexdigest()[:16],
        label=label,
        round=number,
        folder=str(folder.resolve()),
        classes=first.classes,
        exported=datetime.now(UTC).isoformat(timespec="seconds"),
        settles=True,
    )
    store.register(package, [samples[name][0] for name in chosen])
    write_package(
        folder,
        [samples[name][1] for name in chosen],
        package_id=package.package_id,
        classes=first.classes,
        target_classes=first.manifest["target_classes"],
        label=label,
        attribution=attribution,
        provenance=first.manifest["provenance"],
    )
    return len(chosen)


def _again(source: ReviewedPackage, one: SentSample, entry: dict[str, Any]) -> ReviewSample:
    """Return a sample as it was exported, from its package and the store."""
    neighbour = None
    if "anchor" in entry and one.neighbour is not None:
        anchor = read_tile(source.folder / entry["anchor"])
        neighbour = RealNeighbour(
            tile_id=one.neighbour["tile_id"],
            pixels=anchor.pixels,
            class_name=one.neighbour["class_name"],
            grid=anchor.grid,
            distance=one.neighbour["distance"],
        )
    return ReviewSample(
        sample_id=one.sample_id,
        pixels=read_tile(source.folder / entry["tile"]).pixels,
        bands=BandSpec.from_json(source.manifest["bands"]),
        condition=one.condition,
        predicted=one.predicted,
        second=one.second,
        confidence=one.confidence,
        realism=one.realism,
        neighbour=neighbour,
        provenance=one.provenance,
    )
