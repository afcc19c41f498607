"""A package of the samples that reviewers disagree on, for somebody's last word."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.geotiff import read_classes, read_confidence, read_tile
from rs_lowconf.review.package import write_package
from rs_lowconf.review.reading import ReviewedPackage
from rs_lowconf.review.samples import RealNeighbour, ReviewSample, TileMasks
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
        ReviewError: the samples come from packages of both labels, of several rounds, or with
            masks and without, or the store does not know them.
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
    kinds = {(one.label, one.round, one.pixel_classes) for one in origins.values()}
    if len(kinds) > 1:
        raise ReviewError(
            f"the samples come from {len(kinds)} kinds of packages ("
            + ", ".join(
                f"{label} of round {number}" + (f", masks of {', '.join(names)}" if names else "")
                for label, number, names in sorted(kinds)
            )
            + ")",
            expected="packages of one label and round, and of the same masks or none",
            remedy="name these packages only",
        )
    first = next(source for source in sources if source.package_id in origins)
    (label, number, pixel_classes), chosen = kinds.pop(), sorted(samples)
    told = " ".join([*sorted(origins), *chosen, "settles"])
    package = SentPackage(
        package_id=hashlib.sha256(told.encode()).hexdigest()[:16],
        label=label,
        round=number,
        folder=str(folder.resolve()),
        classes=first.classes,
        exported=datetime.now(UTC).isoformat(timespec="seconds"),
        pixel_classes=pixel_classes,
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
        pixel_classes=pixel_classes,
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
            mask=read_classes(source.folder / entry["anchor_mask"])
            if "anchor_mask" in entry
            else None,
            grid=anchor.grid,
            distance=one.neighbour["distance"],
        )
    masks = None
    if "mask" in entry:
        # A blind package has the mask only, and neither needs nor shows more of it.
        told = "predicted" in entry
        masks = TileMasks(
            mask=read_classes(source.folder / entry["mask"]),
            predicted=read_classes(source.folder / entry["predicted"]) if told else None,
            confidence=read_confidence(source.folder / entry["confidence"]) if told else None,
        )
    tile = read_tile(source.folder / entry["tile"])
    return ReviewSample(
        sample_id=one.sample_id,
        pixels=tile.pixels,
        bands=BandSpec.from_json(source.manifest["bands"]),
        condition=one.condition,
        observed=one.origin == "catalog",
        grid=tile.grid,
        predicted=one.predicted,
        second=one.second,
        confidence=one.confidence,
        realism=one.realism,
        masks=masks,
        neighbour=neighbour,
        provenance=one.provenance,
    )
