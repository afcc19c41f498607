"""The files of one sample: tiles, panels beside their composites, and the preview."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from rs_lowconf.bands import Composite
from rs_lowconf.grid import Grid
from rs_lowconf.review import geotiff
from rs_lowconf.review.fields import Label
from rs_lowconf.review.panels import Panel, legend_of
from rs_lowconf.review.previews import Row, write_preview
from rs_lowconf.review.project import document
from rs_lowconf.review.samples import (
    Generated,
    Observed,
    RealNeighbour,
    ReviewSample,
    TileMasks,
    masks_of,
    neighbour_of,
    neighbour_tags,
    sample_tags,
)
from rs_lowconf.review.style import block_titles, tile_style
from rs_lowconf.runs import sha256_of, write_text


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """One tile of a cell."""

    kind: Literal["tile", "anchor"]
    pixels: UInt16[np.ndarray, "c h w"]
    masks: TileMasks | None
    tags: Mapping[str, str]
    grid: Grid | None = None


def write_images(
    folder: Path,
    sample: ReviewSample,
    composites: Sequence[Composite],
    panels: Sequence[Panel],
    *,
    label: Label,
    attribution: str,
) -> dict[str, str]:
    """Write one sample's files into a package; a blind one has no georeference that reveals origin.

    Returns:
        the manifest's entry: id, files by kind relative to the package, and checksums.
    """
    blocks, beside = [_sample_block(sample, label, attribution)], neighbour_of(sample)
    if beside is not None:
        blocks.append(_real_block(beside, label, attribution))
    names: dict[str, str] = {}
    for block in blocks:
        # All named by the sample's id, because a tile's name may reveal its class.
        names[block.kind] = f"{block.kind}s/{sample.sample_id}.tif"
        path = folder / names[block.kind]
        geotiff.write_tile(path, block.pixels, sample.bands, block.tags, block.grid)
        write_text(path.with_suffix(".qml"), document(tile_style(sample.bands, composites[0])))
    for block in blocks:
        for panel, values in _values(block.masks, panels):
            before = "" if block.kind == "tile" else f"{block.kind}_"
            file = before + panel.file(sample.sample_id)
            names[before + panel.kind] = file
            panel.write(folder / file, values, block.tags, block.grid)
    checksums = {f"{kind}_sha256": sha256_of(folder / name) for kind, name in names.items()}
    names["preview"] = f"previews/{sample.sample_id}.png"
    shown = blocks[::-1]
    observed = not isinstance(sample, Generated)
    marked = isinstance(sample, Observed) and sample.pixel is not None
    titles = block_titles(label, len(shown), observed=observed)
    write_preview(
        folder / names["preview"],
        [
            Row(
                title=f"{title}: class of the framed pixel" if marked else title,
                pixels=block.pixels,
                marked=marked,
                panels={
                    panel.kind: panel.paint(values)
                    for panel, values in _values(block.masks, panels)
                    if not panel.of_target
                },
            )
            for title, block in zip(titles, shown, strict=True)
        ],
        sample.bands,
        composites,
        description=blocks[0].tags["TIFFTAG_IMAGEDESCRIPTION"],
        legend=legend_of([panel for panel in panels if not panel.of_target]),
    )
    if any(panel.of_target for panel in panels):
        names["opinion"] = f"opinions/{sample.sample_id}.png"
        told: dict[str, UInt8[np.ndarray, "h w 3"]] = {
            panel.kind: panel.paint(own) for panel, own in _values(blocks[0].masks, panels)
        }
        write_preview(
            folder / names["opinion"],
            [Row(title=titles[-1], pixels=sample.pixels, panels=told)],
            sample.bands,
            composites,
            description=blocks[0].tags["TIFFTAG_IMAGEDESCRIPTION"],
            legend=legend_of(panels),
        )
    return {"sample_id": sample.sample_id, **names, **checksums}


def write_maps(
    folder: Path,
    sample: ReviewSample,
    panels: Sequence[Panel],
    tags: Mapping[str, str],
    grid: Grid | None = None,
) -> None:
    """Write the maps of a sample's pixels, one folder per kind; nothing without masks.

    Args:
        folder: parent of the folders of kinds.
        sample: whose masks they are.
        panels: the kinds to write.
        tags: as of the tile.
        grid: as of the tile.
    """
    for panel, values in _values(masks_of(sample), panels):
        panel.write(folder / panel.file(sample.sample_id), values, tags, grid)


def shows_real_mask(samples: Sequence[ReviewSample], label: Label) -> bool:
    """Return whether a package shows the mask of a real tile."""
    neighbours = (neighbour_of(sample) for sample in samples)
    masks = (neighbour and neighbour.mask for neighbour in neighbours)
    return label == "confirm" and any(mask is not None for mask in masks)


def _sample_block(sample: ReviewSample, label: Label, attribution: str) -> _Block:
    observed, tags = not isinstance(sample, Generated), geotiff.undisclosed_tags(attribution)
    if observed:
        tags = geotiff.observed_tags(attribution)
    elif label == "confirm":
        tags = geotiff.synthetic_tags(attribution)
    return _Block(
        kind="tile",
        pixels=sample.pixels,
        masks=masks_of(sample),
        # The tag comes last, so that no entry of the provenance can replace it.
        tags=tags if label == "blind" else sample_tags(sample) | tags,
        grid=sample.grid if observed or label == "confirm" else None,
    )


def _real_block(neighbour: RealNeighbour, label: Label, attribution: str) -> _Block:
    """Return a real tile; when blind, without location and mask, which would reveal its class."""
    tags = geotiff.observed_tags(attribution)
    if label == "blind":
        return _Block(kind="anchor", pixels=neighbour.pixels, masks=None, tags=tags)
    return _Block(
        kind="anchor",
        pixels=neighbour.pixels,
        masks=None if neighbour.mask is None else TileMasks(mask=neighbour.mask),
        tags=neighbour_tags(neighbour) | tags,
        grid=neighbour.grid,
    )


def _values(
    masks: TileMasks | None, panels: Sequence[Panel]
) -> list[tuple[Panel, UInt8[np.ndarray, "h w"] | Float32[np.ndarray, "h w"]]]:
    """Return the values of a tile's panels."""
    if masks is None:
        return []
    known = {"mask": masks.mask, "predicted": masks.predicted, "confidence": masks.confidence}
    pairs = [(panel, known[panel.kind]) for panel in panels]
    return [(panel, values) for panel, values in pairs if values is not None]
