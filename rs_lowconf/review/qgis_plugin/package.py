"""Recognises whether the open project is a review package, and reads it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgis.core import QgsProject, QgsRasterLayer, QgsVectorLayer

FORMAT = 3
"""The newest package format that this plugin supports."""


class UnusableError(Exception):
    """Why a package cannot be reviewed, as one line for the reviewer."""


@dataclass(frozen=True)
class Package:
    """A package that can be reviewed."""

    masks: bool
    """Whether tiles have masks instead of classes."""

    classes: list[str]
    """Classes that the reviewer can choose; empty with masks."""

    blind: bool
    """Whether no class is suggested."""

    observed: bool
    """Whether the tiles are real ones, to be classified."""

    captions: list[str]
    """The composites of each tile, from left to right."""

    panels: list[str]
    """Panels right of the composites of the tile to review; the mask is the first, if any."""

    titles: list[str]
    """Title of each block of a cell, the tile to review last."""

    layer: QgsVectorLayer
    """The decisions, one row per sample, the most informative sample first."""

    sheets: list[QgsRasterLayer]
    """The pictures: of composites, and of each panel."""


def find_package(project: QgsProject) -> Package | None:
    """Return the open review package; None if the project is something else.

    Raises:
        UnusableError: it is a package, but not one that can be reviewed.
    """
    folder = Path(project.absolutePath())
    layers = {layer.name(): layer for layer in project.mapLayers().values()}
    manifest = _manifest(folder)
    masks, blind = bool(manifest.get("pixel_classes")), manifest.get("label") == "blind"
    panels = ["mask", *([] if blind else ["predicted", "confidence"])] if masks else []
    layer, sheets = layers.get("review"), [layers.get(n) for n in ("contact sheet", *panels)]
    if layer is None or None in sheets or not {"format", "label", "classes"} <= set(manifest):
        return None
    if not isinstance(manifest["format"], int) or manifest["format"] > FORMAT:
        raise UnusableError(
            f"This package has format {manifest['format']}, but this plugin supports up to "
            f"{FORMAT}: install a newer version of the plugin."
        )
    if not all(one.isValid() for one in (layer, *sheets)):
        raise UnusableError("Files of this package are missing: copy its whole folder again.")
    # The database creates a journal beside it, so the folder must be writable, too.
    if not layer.supportsEditing() or not os.access(folder, os.W_OK):
        raise UnusableError(
            "This package is read-only, so decisions could not be saved: "
            "copy its folder to a place where you have write access."
        )
    observed = bool(manifest.get("observed"))
    titles = ["REAL", "REAL" if observed else "TO JUDGE" if blind else "SYNTHETIC"]
    return Package(
        masks=masks,
        classes=[] if masks else manifest["classes"],
        blind=blind,
        observed=observed,
        captions=list(manifest["stretch"]),
        panels=panels,
        titles=titles if "anchor" in manifest["samples"][0] else titles[1:],
        layer=layer,
        sheets=sheets,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest; empty when there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
