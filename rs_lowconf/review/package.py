"""A folder that a person opens in QGIS to judge generated tiles, beside real ones if there are any.

```
review.qgz      project: layer `review` (one cell a sample) over one contact sheet
review.gpkg     the layer `review` with its form; decisions are written here, by QGIS only
contact.vrt     the contact sheet, straight from the tiles
tiles/          all bands of each sample as GeoTIFF, with a .qml that fixes the stretch
anchors/        the most similar real tile of each sample, likewise; absent without real tiles
previews/       one PNG a sample, shown in the form
manifest.json   format version, classes, bands, stretch, checksums
```

A reviewer opens `review.qgz`, switches editing on, opens the table of `review` (F6) in its
form view and goes through the list; the map highlights the cell of the form. Saving the
edits writes the decisions. `fields` says what each decision means.

Every sample has a real neighbour, or none has: then cells and previews show samples alone.
A sample gets no georeference: its neighbour looks alike, but the sample shows no place.

A `blind` package holds nothing of the model: neither condition, prediction, score nor
provenance of any sample, nor name, class or place of a neighbour. It is a function of the
pixels, the sample ids, their order and the class list, so the caller must give neutral ids
in shuffled order and choose neighbours without regard to class.

Nothing is written into a package after this: rewriting it while QGIS edits it succeeds
silently and loses decisions.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.folders import whole_folder
from rs_lowconf.review import geopackage, geotiff, previews, project, style
from rs_lowconf.review.composites import Composite, composites_of
from rs_lowconf.review.fields import Field, Label, fields_of
from rs_lowconf.review.sheet import Sheet, contact_vrt
from rs_lowconf.runs import sha256_of, write_json, write_text
from rs_lowconf.types import Grid

FORMAT = 1
MAX_SAMPLES = 500
"""More make the review long and QGIS slow."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, eq=False)
class RealNeighbour:
    """The real tile that resembles a sample most, shown beside it."""

    tile_id: str
    """Its name in its data set."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, bands and size as the sample's."""

    class_name: str
    """Its class in its data set."""

    grid: Grid | None = None
    """Where it lies; None when its file has no georeference."""

    distance: float
    """Distance to the sample in the feature space that chose it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewSample:
    """A tile to judge, with what is known of it."""

    sample_id: str
    """Names its files and finds its decision again: letters, digits, - and _, at most 40."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, at least 1 (see `geotiff.to_digital_numbers`)."""

    bands: BandSpec
    """What the channels of `pixels` hold."""

    condition: str
    """The class that the generator was asked for: the suggestion to confirm or correct."""

    predicted: str
    """The class that the model under test finds most likely."""

    second: str
    """The class that it finds second most likely."""

    confidence: float
    """The probability that it gives to `predicted`."""

    realism: float
    """The critic's realism logit, higher for more real."""

    neighbour: RealNeighbour | None = None
    """The real tile shown beside it; None shows it alone."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from; each entry becomes a tag RSLOW_<KEY> of a confirm package."""

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        if not _SAFE_ID.fullmatch(self.sample_id):
            raise ReviewError(
                f"sample id {self.sample_id!r} cannot name a file",
                expected="at most 40 letters, digits, - and _, not starting with - or _",
            )
        if len(self.pixels) != len(self.bands):
            raise ReviewError(
                f"sample {self.sample_id} has {len(self.pixels)} channels",
                expected=f"{len(self.bands)} ({', '.join(self.bands.names)})",
            )
        if self.neighbour is not None and self.neighbour.pixels.shape != self.pixels.shape:
            raise ReviewError(
                f"neighbour {self.neighbour.tile_id} of sample {self.sample_id} has shape "
                f"{self.neighbour.pixels.shape}",
                expected=f"the sample's {self.pixels.shape}",
            )
        if not (0 <= self.confidence <= 1 and math.isfinite(self.realism)):
            raise ReviewError(
                f"sample {self.sample_id} has confidence {self.confidence} and realism "
                f"{self.realism}",
                expected="a probability and a finite number",
            )


def write_package(
    folder: Path,
    samples: Sequence[ReviewSample],
    *,
    package_id: str,
    classes: Sequence[str],
    target_classes: Sequence[str],
    label: Label,
    attribution: str,
    provenance: Mapping[str, str],
) -> None:
    """Write a review package; it appears whole or not at all.

    Args:
        folder: the package; it must not exist yet.
        samples: 1 to 500 samples of the same bands and size, in the order of the sheet.
        package_id: by which the review store knows the package again; tells nothing of it.
        classes: the classes among which reviewers choose; every condition is one of them.
        target_classes: the classes of the model under test.
        label: `confirm` suggests each sample's condition; `blind` suggests nothing.
        attribution: notice that the licence of the real data asks for.
        provenance: what made the samples, such as checksums of models; left out when blind.

    Raises:
        ReviewError: the folder exists, or the samples do not fit together.
        OutputError: the folder cannot be written.
    """
    _check(samples, classes, target_classes)
    composites = composites_of(samples[0].bands)
    _, height, width = samples[0].pixels.shape
    sheet = Sheet(
        count=len(samples),
        width=width,
        height=height,
        blocks=1 if samples[0].neighbour is None else 2,
        composites=composites,
    )
    exists = ReviewError(
        f"{folder} exists already and may hold decisions; a package is never overwritten",
        remedy="name another folder, or move this one away",
    )
    with whole_folder(folder, exists) as building:
        files = [
            _write_images(building, sample, composites, label, attribution) for sample in samples
        ]
        write_text(
            building / "contact.vrt",
            contact_vrt(
                sheet,
                samples[0].bands,
                [[names[kind] for kind in ("anchor", "tile") if kind in names] for names in files],
            ),
        )
        _write_layer(building, samples, fields_of(label, classes), sheet, label)
        write_json(
            building / "manifest.json",
            {
                "format": FORMAT,
                "package_id": package_id,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "rs_lowconf": metadata.version("rs-lowconf"),
                "label": label,
                "classes": list(classes),
                "target_classes": list(target_classes),
                # Whatever the source's scale and offset were, the tiles hold x 10000.
                "bands": replace(
                    samples[0].bands, scale=float(geotiff.DN_SCALE), dn_offset=0.0
                ).to_json(),
                "stretch": {
                    composite.caption: {
                        "bands": list(composite.bands),
                        "range": [0, composite.white],
                    }
                    for composite in composites
                },
                "attribution": attribution,
                "provenance": dict(provenance) if label == "confirm" else {},
                "samples": files,
            },
        )


def _check(
    samples: Sequence[ReviewSample], classes: Sequence[str], target_classes: Sequence[str]
) -> None:
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise ReviewError(
            f"{len(samples)} samples for one package",
            expected=f"1 to {MAX_SAMPLES}",
            remedy="split them with --set review.max_samples=N"
            if samples
            else "search for samples first",
        )
    alone = [sample.sample_id for sample in samples if sample.neighbour is None]
    if 0 < len(alone) < len(samples):
        raise ReviewError(
            f"{len(alone)} of {len(samples)} samples have no real neighbour, such as {alone[0]}",
            expected="one for every sample or for none",
        )
    seen: set[str] = set()
    first = samples[0]
    for sample in samples:
        # Windows and macOS take names that differ in case only for the same file.
        if sample.sample_id.lower() in seen:
            raise ReviewError(f"sample id {sample.sample_id} occurs more than once")
        seen.add(sample.sample_id.lower())
        if sample.bands != first.bands or sample.pixels.shape != first.pixels.shape:
            raise ReviewError(
                f"sample {sample.sample_id} differs from {first.sample_id} in bands or size",
                expected=f"{first.bands} and shape {first.pixels.shape} throughout",
            )
        for name, known in (
            (sample.condition, classes),
            (sample.predicted, target_classes),
            (sample.second, target_classes),
        ):
            if name not in known:
                raise ReviewError(
                    f"sample {sample.sample_id} has the unknown class {name!r}",
                    expected=f"one of {', '.join(known)}",
                )


def _write_images(
    building: Path,
    sample: ReviewSample,
    composites: Sequence[Composite],
    label: Label,
    attribution: str,
) -> dict[str, str]:
    """Write one sample's tile, anchor if any, and preview; return the manifest's entry."""
    names = _file_names(sample)
    neighbour = sample.neighbour
    if label == "confirm":
        # The mark comes last: no entry of the provenance can replace it.
        tags = sample_tags(sample) | geotiff.synthetic_tags(attribution)
    else:
        tags = geotiff.undisclosed_tags(attribution)
    geotiff.write_tile(building / names["tile"], sample.pixels, sample.bands, tags)
    if neighbour is not None:
        _write_anchor(building / names["anchor"], neighbour, sample.bands, label, attribution)
    tiles = {kind: building / names[kind] for kind in ("tile", "anchor") if kind in names}
    qml = style.tile_style(sample.bands, composites[0])
    for file in tiles.values():
        write_text(file.with_suffix(".qml"), qml)
    shown = [sample.pixels] if neighbour is None else [neighbour.pixels, sample.pixels]
    previews.write_preview(
        building / names["preview"],
        list(zip(style.block_titles(label, len(shown)), shown, strict=True)),
        sample.bands,
        composites,
        tags["TIFFTAG_IMAGEDESCRIPTION"],
    )
    checksums = {f"{kind}_sha256": sha256_of(file) for kind, file in tiles.items()}
    return {"sample_id": sample.sample_id, **names, **checksums}


def _write_anchor(
    path: Path, neighbour: RealNeighbour, bands: BandSpec, label: Label, attribution: str
) -> None:
    """Write a real tile; when blind, a place would tell as much as its name and its class."""
    tags, grid = geotiff.observed_tags(attribution), None
    if label == "confirm":
        tags, grid = _neighbour_tags(neighbour) | tags, neighbour.grid
    geotiff.write_tile(path, neighbour.pixels, bands, tags, grid)


def _file_names(sample: ReviewSample) -> dict[str, str]:
    """Return a sample's files: all after its id, because a tile's own name may tell its class."""
    names = {"tile": f"tiles/{sample.sample_id}.tif"}
    if sample.neighbour is not None:
        names["anchor"] = f"anchors/{sample.sample_id}.tif"
    return {**names, "preview": f"previews/{sample.sample_id}.png"}


def sample_tags(sample: ReviewSample) -> dict[str, str]:
    """Return what is known of a sample as tags of its tile."""
    neighbour = sample.neighbour
    return {
        **{f"RSLOW_{key.upper()}": value for key, value in sample.provenance.items()},
        "RSLOW_SAMPLE_ID": sample.sample_id,
        "RSLOW_CONDITION": sample.condition,
        "RSLOW_PREDICTED": sample.predicted,
        "RSLOW_SECOND": sample.second,
        "RSLOW_CONFIDENCE": f"{sample.confidence:.6f}",
        "RSLOW_REALISM": f"{sample.realism:.6f}",
        **({"RSLOW_NEAREST_REAL": neighbour.tile_id} if neighbour is not None else {}),
        "RSLOW_LEVEL": sample.bands.level,
    }


def _neighbour_tags(neighbour: RealNeighbour) -> dict[str, str]:
    return {
        "RSLOW_TILE_ID": neighbour.tile_id,
        "RSLOW_CLASS": neighbour.class_name,
        "RSLOW_DISTANCE": f"{neighbour.distance:.6f}",
    }


def _write_layer(
    building: Path,
    samples: Sequence[ReviewSample],
    fields: Sequence[Field],
    sheet: Sheet,
    label: Label,
) -> None:
    """Write the GeoPackage and the project that shows it, with the same style."""
    rows: list[dict[str, str | float]] = [
        {
            "sample_id": sample.sample_id,
            "preview": _file_names(sample)["preview"],
            "cond_class": sample.condition,
            "pred_class": sample.predicted,
            "second_class": sample.second,
            "confidence": sample.confidence,
            "d_score": sample.realism,
        }
        for sample in samples
    ]
    cells = [sheet.extent(index) for index in range(sheet.count)]
    elements = style.review_style(fields, sheet, label)
    geopackage.write_geopackage(
        building / "review.gpkg", fields, rows, cells, style.document(elements)
    )
    if label == "confirm":
        title = "Review of SYNTHETIC tiles (not observations)"
    else:
        title = "Review of tiles that may be SYNTHETIC"
    project.write_project(building / "review.qgz", sheet.size, elements, title)
