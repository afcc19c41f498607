"""Reviewed tiles for the tests of test-set releases, from a seed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.review.composites import composites_of
from rs_lowconf.review.geotiff import synthetic_tags, write_tile
from rs_lowconf.review.sheet import Sheet
from rs_lowconf.runs import sha256_of
from rs_lowconf.testset import ReleaseTile, write_release
from tests.review_samples import ATTRIBUTION, CLASSES, SIZE, tile

BANDS = BandSpec(names=EUROSAT_ORDER, level="L1C")
PROVENANCE = {"target_sha256": "89ab", "gan_sha256": "0123"}
MORNING_MS = 1_750_000_000_123


def reviewed_tile(store: Path, number: int, bands: BandSpec = BANDS) -> ReleaseTile:
    """Return the accepted tile of this number, its GeoTIFF written into `store`."""
    kind = number % len(CLASSES)
    path = store / f"s{number:04d}.tif"
    store.mkdir(exist_ok=True)
    tags = synthetic_tags(ATTRIBUTION) | {"RSLOW_SAMPLE_ID": path.stem}
    write_tile(path, tile(number, kind, len(bands)), bands, tags)
    return ReleaseTile(
        sample_id=path.stem,
        path=path,
        sha256=sha256_of(path),
        class_name=CLASSES[kind],
        condition=CLASSES[(kind + number // 8) % len(CLASSES)],
        predicted=CLASSES[(kind + number % 3) % len(CLASSES)],
        confidence=0.25 + number % 10 / 50,
        round=1 + number // 8 % 3,
        reviewers=("ada", "bob")[: 1 + number % 2],
        reviewed_ms=MORNING_MS + 60_000 * number,
        realism=(None, 1, 2, 3, 4, 5)[number % 6],
        provenance={"steps": str(number), "latent_seed": f"7/search/{number}"},
    )


def reviewed_tiles(store: Path, count: int) -> list[ReleaseTile]:
    """Return accepted tiles, out of order; after 40 their pictures come again."""
    some = [reviewed_tile(store, number) for number in range(min(count, 40))]
    return [
        replace(some[number % 40], sample_id=f"s{number:04d}") for number in reversed(range(count))
    ]


def release(folder: Path, tiles: list[ReleaseTile], **changes: Any) -> Path:
    """Write a release of these tiles and return its folder."""
    values: dict[str, Any] = {
        "classes": CLASSES,
        "bands": BANDS,
        "attribution": ATTRIBUTION,
        "licence": "CC-BY-4.0",
        "provenance": PROVENANCE,
    }
    write_release(folder, tiles, **(values | changes))
    return folder


def sheet_of(count: int) -> Sheet:
    """Return the places of this many tiles on the contact sheet."""
    return Sheet(count=count, width=SIZE, height=SIZE, blocks=1, composites=composites_of(BANDS))
