"""A folder that a person opens in QGIS to judge generated tiles, beside real ones if there are any.

```
review.qgz      project: layer `review` (one cell a sample) over one contact sheet
review.gpkg     the layer `review` with its form; decisions are written here, by QGIS only
opinions.gpkg   what the model says, which the form joins after a decision; absent when blind
contact.vrt     the contact sheet, straight from the tiles
tiles/          all bands of each sample as GeoTIFF, with a .qml that fixes the stretch
anchors/        the most similar real tile of each sample, likewise; absent without real tiles
previews/       one PNG a sample, shown in the form
manifest.json   format version, classes, bands, stretch, checksums
review.html     the same for a browser, see `browser`
context.qgz     only with samples that have a place, see `context`; context.gpkg, context/
```

Where the model under test answers for every pixel, a sample has a mask instead of a class: tiles
are generated for it, so it is true if the reviewer agrees. Then there are also

```
mask.vrt  predicted.vrt  confidence.vrt   the sheet's panels right of the composites, by kind
masks/  predicted/  confidence/           each sample's, with colours and names of classes
anchor_masks/                             of real tiles that have one
opinions/                                 one PNG a sample of what the model predicts
```

What the model predicts is shown after the decision: in the sheet it is covered until then.

A reviewer opens `review.qgz` and clicks a cell, where the plugin is installed. Without it the
reviewer switches editing on, opens the table of `review` (F6) in its form view and goes through
the list; the map highlights the cell of the form. Saving the edits writes the decisions. `fields`
says what each decision means. Samples are in order of their rank, which begins their names.

The samples may be real tiles instead, `observed` ones, whose class or mask is asked for: all of
them or none. They are tagged and shown as what they are, in their place if it is known.

Every sample has a real neighbour, or none has: then cells and previews show samples alone.
A sample gets no georeference, because its neighbour looks alike, but the sample shows no place;
unless it was generated around its neighbour, in whose grid it then lies.

A `blind` package holds nothing of the model: neither condition, prediction, score nor
provenance of any sample, nor name, class, mask or place of a neighbour. The mask of a sample is
shown, as it is to be judged, but not whose it is. The package is a function of pixels, masks,
sample ids, their order and the class lists, so the caller must give neutral ids in shuffled
order and choose neighbours without regard to class, and none whose mask the sample has. Of observed
tiles it holds the place, and still nothing of the model or the class in their data set.

Nothing is written into a package after this: rewriting it while QGIS edits it succeeds
silently and loses decisions.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

from rs_lowconf.errors import ReviewError
from rs_lowconf.folders import whole_folder
from rs_lowconf.review.browser import write_page
from rs_lowconf.review.composites import composites_of, ranges_of
from rs_lowconf.review.context import Scenes, write_context
from rs_lowconf.review.fields import (
    FORMAT,
    FORMAT_OF_MASKS,
    FORMAT_OF_OBSERVED,
    LAYER,
    OPINIONS,
    OPINIONS_FILE,
    Field,
    Label,
    fields_of,
    opinions_of,
)
from rs_lowconf.review.geopackage import table_of, write_cells, write_features
from rs_lowconf.review.images import shows_real_mask, write_images
from rs_lowconf.review.panels import Panel, panel_vrt, panels_of
from rs_lowconf.review.project import Project, document, restyle
from rs_lowconf.review.samples import (
    Generated,
    ReviewSample,
    check_masks,
    neighbour_of,
    suggestion_of,
)
from rs_lowconf.review.sheet import Sheet, contact_vrt
from rs_lowconf.review.style import aliases_of, block_titles, cover, fill_form, fill_headings
from rs_lowconf.runs import write_json, write_text

MAX_SAMPLES = 500
"""More make the review long and QGIS slow."""


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
    pixel_classes: Sequence[str] = (),
    scenes: Sequence[Scenes] = (),
) -> None:
    """Write a review package; it appears whole or not at all.

    Args:
        folder: the package; it must not exist yet.
        samples: 1 to 500 samples of the same bands and size, in the order of the sheet.
        package_id: by which the review store knows the package again; tells nothing of it.
        classes: the classes among which reviewers choose; every condition is one of them, or
            empty where an observed tile has none. With masks there is nothing to choose.
        target_classes: the classes of the model under test.
        label: `confirm` suggests each sample's condition; `blind` suggests nothing.
        attribution: notice that the licence of the real data asks for.
        provenance: what made the samples, such as checksums of models; left out when blind.
        pixel_classes: the classes of masks: then every sample has masks, and its condition is
            the name of its mask. Empty: none has.
        scenes: drawn below the tiles on the map.

    Raises:
        ReviewError: the folder exists, or the samples do not fit together.
        OutputError: the folder cannot be written.
    """
    check_masks(samples, pixel_classes, target_classes, blind=label == "blind")
    _check(samples, classes, target_classes, masks=bool(pixel_classes))
    composites = composites_of(samples[0].bands)
    _, height, width = samples[0].pixels.shape
    panels = panels_of(label, pixel_classes, target_classes)
    blocks = 1 if neighbour_of(samples[0]) is None else 2
    captions = (
        ("mask",) if shows_real_mask(samples, label) else (),
        tuple(panel.kind for panel in panels),
    )
    sheet = Sheet(
        count=len(samples),
        width=width,
        height=height,
        blocks=blocks,
        composites=composites,
        panels=captions[-blocks:] if panels else (),
    )
    exists = ReviewError(
        f"{folder} exists already and may hold decisions; a package is never overwritten",
        remedy="name another folder, or move this one away",
    )
    with whole_folder(folder, exists) as building:
        files = [
            write_images(building, sample, composites, panels, label=label, attribution=attribution)
            for sample in samples
        ]
        write_text(
            building / "contact.vrt",
            contact_vrt(
                sheet,
                samples[0].bands,
                [[names[kind] for kind in ("anchor", "tile") if kind in names] for names in files],
            ),
        )
        for panel in panels:
            kinds = (f"anchor_{panel.kind}", panel.kind)[-sheet.blocks :]
            cells = [[names.get(kind) for kind in kinds] for names in files]
            write_text(building / f"{panel.kind}.vrt", panel_vrt(sheet, panel, cells))
        observed = not isinstance(samples[0], Generated)
        if label == "confirm" or observed:
            write_context(building, samples, files, label, scenes)
        fields = fields_of(label, classes, masks=bool(panels))
        _write_layer(building, samples, files, fields, sheet=sheet, panels=panels, label=label)
        write_page(
            building,
            samples,
            files,
            package_id=package_id,
            label=label,
            classes=classes,
            title=_title(samples, label),
        )
        write_json(
            building / "manifest.json",
            {
                "format": _format(pixel_classes, observed=observed),
                "package_id": package_id,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "rs_lowconf": metadata.version("rs-lowconf"),
                "label": label,
                **({"observed": True} if observed else {}),
                "classes": list(classes),
                "target_classes": list(target_classes),
                **({"pixel_classes": list(pixel_classes)} if pixel_classes else {}),
                # Whatever the source's scale and offset were, the tiles hold x 10000.
                "bands": samples[0].bands.as_stored.to_json(),
                "stretch": {
                    composite.caption: {
                        "bands": list(composite.bands),
                        "ranges": ranges_of(samples[0].bands, composite),
                    }
                    for composite in composites
                },
                "attribution": attribution,
                "provenance": dict(provenance) if label == "confirm" else {},
                "samples": files,
            },
        )


def place_for(folder: Path, package_id: str) -> Path:
    """Return where in a folder a package is, or the first free place: review, review-2 and so on.

    What is there is never changed, because people work in it.
    """
    number = 1
    while True:
        path = folder / ("review" if number == 1 else f"review-{number}")
        manifest = path / "manifest.json"
        if not path.exists() or (
            manifest.is_file()
            and json.loads(manifest.read_text(encoding="utf-8"))["package_id"] == package_id
        ):
            return path
        number += 1


def _format(pixel_classes: Sequence[str], *, observed: bool) -> int:
    if observed:
        return FORMAT_OF_OBSERVED
    return FORMAT_OF_MASKS if pixel_classes else FORMAT


def _check(
    samples: Sequence[ReviewSample],
    classes: Sequence[str],
    target_classes: Sequence[str],
    *,
    masks: bool,
) -> None:
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise ReviewError(
            f"{len(samples)} samples for one package",
            expected=f"1 to {MAX_SAMPLES}",
            remedy="split them with --set review.max_samples=N"
            if samples
            else "search for samples first",
        )
    alone = [sample.sample_id for sample in samples if neighbour_of(sample) is None]
    if 0 < len(alone) < len(samples):
        raise ReviewError(
            f"{len(alone)} of {len(samples)} samples have no real neighbour, such as {alone[0]}",
            expected="one for every sample or for none",
        )
    observed = sum(not isinstance(sample, Generated) for sample in samples)
    if 0 < observed < len(samples):
        raise ReviewError(
            f"{observed} of {len(samples)} samples are shown as real tiles",
            expected="all of them or none",
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
        if masks:
            continue
        prediction = sample.prediction
        predicted = () if prediction is None else (prediction.class_name, prediction.second)
        for name, known in (
            (suggestion_of(sample), classes),
            *((name, target_classes) for name in predicted),
        ):
            if name is not None and name not in known:
                raise ReviewError(
                    f"sample {sample.sample_id} has the unknown class {name!r}",
                    expected=f"one of {', '.join(known)}",
                )


def _write_layer(
    building: Path,
    samples: Sequence[ReviewSample],
    files: Sequence[Mapping[str, str]],
    fields: Sequence[Field],
    *,
    sheet: Sheet,
    panels: Sequence[Panel],
    label: Label,
) -> None:
    """Write the GeoPackage and the project that shows it, with the same style."""
    observed = not isinstance(samples[0], Generated)
    opinions = opinions_of(label, masks=bool(panels), observed=observed)
    project = Project("review.qgs")
    layer, pictures = project.layer(LAYER), project.layer("contact sheet")
    fill_form(layer, [*fields, *opinions[1:]], sheet, observed=observed)
    cover(layer, sheet, [panel.kind for panel in panels if panel.of_target])
    fill_headings(layer, sheet, block_titles(label, sheet.blocks, observed=observed))
    rows = [_row(sample, names) for sample, names in zip(samples, files, strict=True)]
    write_cells(
        building / "review.gpkg",
        fields,
        rows,
        [sheet.extent(index) for index in range(sheet.count)],
        style=document(project.style(layer)),
        titles=aliases_of(layer),
    )
    project.connect(layer, f"./review.gpkg|layername={LAYER}", "ogr")
    if opinions:
        # In a file of its own: of two layers in one that may not be written, QGIS edits one.
        write_features(building / OPINIONS_FILE, table_of(opinions, rows), OPINIONS)
        project.connect(project.layer(OPINIONS), f"./{OPINIONS_FILE}|layername={OPINIONS}", "ogr")
    else:
        project.layers.remove(project.layer(OPINIONS))
    project.connect(pictures, "./contact.vrt", "gdal")
    for panel in panels:
        copied = project.copy(pictures, panel.kind)
        project.connect(copied, f"./{panel.kind}.vrt", "gdal")
        restyle(copied, panel.style())
        if panel.of_target:
            # Identify would tell the values of pixels below the cover.
            ET.SubElement(ET.SubElement(copied, "flags"), "Identifiable").text = "0"
        # An open legend explains the colours; that of the contact sheet is useless.
        project.node(copied).set("expanded", "1")
    project.write(building / "review.qgz", _title(samples, label), sheet.bounds)


def _title(samples: Sequence[ReviewSample], label: Label) -> str:
    if not isinstance(samples[0], Generated):
        return "Review of real tiles"
    if label == "confirm":
        return "Review of SYNTHETIC tiles (not observations)"
    return "Review of tiles that may be SYNTHETIC"


def _row(sample: ReviewSample, files: Mapping[str, str]) -> dict[str, str | float | None]:
    """Return what a package can tell of a sample; which columns it has, `fields` says."""
    suggestion, prediction = suggestion_of(sample), sample.prediction
    row: dict[str, str | float | None] = {
        "sample_id": sample.sample_id,
        "preview": files["preview"],
        "cond_class": suggestion,
        "mask_name": suggestion,
        "opinion": files.get("opinion"),
    }
    if prediction is not None:
        row["pred_class"] = prediction.class_name
        row["second_class"] = prediction.second
        row["confidence"] = prediction.confidence
    if isinstance(sample, Generated):
        row["d_score"] = sample.realism
    return row
