"""A package of the samples that reviewers disagree on, for somebody's last word."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.review.geotiff import read_classes, read_confidence, read_tile
from rs_lowconf.review.publish import publish
from rs_lowconf.review.reading import ReviewedPackage
from rs_lowconf.review.samples import Generated, Observed, RealNeighbour, ReviewSample, TileMasks
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
    samples: dict[str, ReviewSample] = {}
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
                samples[one.sample_id] = _again(source, one, entries[one.sample_id])
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
    names = " ".join([*sorted(origins), *chosen, "settles"])
    publish(
        store,
        folder,
        [samples[name] for name in chosen],
        package_id=hashlib.sha256(names.encode()).hexdigest()[:16],
        label=label,
        round=number,
        classes=first.classes,
        target_classes=first.manifest["target_classes"],
        attribution=attribution,
        provenance=first.manifest["provenance"],
        pixel_classes=pixel_classes,
        settles=True,
    )
    return len(chosen)


def _again(source: ReviewedPackage, sent: SentSample, entry: dict[str, Any]) -> ReviewSample:
    """Return a sample as it was published, from its package and the store."""
    tile, bands = read_tile(source.folder / entry["tile"]), source.manifest["bands"]
    match sent.origin:
        case "catalog" | "pixel":
            name, *pixel = sent.tile.rsplit("/", 2) if sent.origin == "pixel" else [sent.tile]
            return Observed(
                sample_id=sent.sample_id,
                pixels=tile.pixels,
                bands=BandSpec.from_json(bands),
                label=sent.condition or None,
                prediction=sent.prediction,
                grid=tile.grid,
                tile=name,
                pixel=(int(pixel[0]), int(pixel[1])) if pixel else None,
                sha256=sent.sha256,
                masks=_masks(source, entry),
                provenance=sent.provenance,
            )
    # Models were asked about every generated sample.
    assert sent.prediction is not None  # noqa: S101
    assert sent.realism is not None  # noqa: S101
    assert sent.gate_score is not None  # noqa: S101
    return Generated(
        sample_id=sent.sample_id,
        origin=sent.origin,
        pixels=tile.pixels,
        bands=BandSpec.from_json(bands),
        condition=sent.condition,
        prediction=sent.prediction,
        realism=sent.realism,
        gate_score=sent.gate_score,
        tile=sent.tile,
        sha256=sent.sha256,
        masks=_masks(source, entry),
        neighbour=_neighbour(source, sent, entry),
        anchored=tile.grid is not None,
        provenance=sent.provenance,
    )


def _neighbour(
    source: ReviewedPackage, sent: SentSample, entry: dict[str, Any]
) -> RealNeighbour | None:
    if "anchor" not in entry or sent.neighbour is None:
        return None
    anchor = read_tile(source.folder / entry["anchor"])
    mask = read_classes(source.folder / entry["anchor_mask"]) if "anchor_mask" in entry else None
    return RealNeighbour(
        tile_id=sent.neighbour["tile_id"],
        pixels=anchor.pixels,
        class_name=sent.neighbour["class_name"],
        mask=mask,
        grid=anchor.grid,
        distance=sent.neighbour["distance"],
    )


def _masks(source: ReviewedPackage, entry: dict[str, Any]) -> TileMasks | None:
    if "mask" not in entry:
        return None
    mask = read_classes(source.folder / entry["mask"])
    if "predicted" not in entry:  # blind: the package has no more, and needs none
        return TileMasks(mask=mask)
    return TileMasks(
        mask=mask,
        predicted=read_classes(source.folder / entry["predicted"]),
        confidence=read_confidence(source.folder / entry["confidence"]),
    )
