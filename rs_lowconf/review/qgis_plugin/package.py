"""Whether the open project is a review package, and what is in it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgis.core import QgsProject, QgsRasterLayer, QgsVectorLayer

FORMAT = 1
"""The newest format of packages that this plugin knows."""


class UnusableError(Exception):
    """Why a package cannot be reviewed, as one line for the reviewer."""


@dataclass(frozen=True)
class Package:
    """A package that can be reviewed."""

    classes: list[str]
    """Among which the reviewer chooses."""

    blind: bool
    """Whether no class is suggested."""

    captions: list[str]
    """What is shown of each tile, from left to right."""

    titles: list[str]
    """What stands above each block of a cell, from left to right."""

    layer: QgsVectorLayer
    """The decisions, one row a sample, the most informative sample first."""

    sheet: QgsRasterLayer
    """The pictures."""


def find_package(project: QgsProject) -> Package | None:
    """Return the review package that the open project is; None when it is something else.

    Raises:
        UnusableError: it is a package, but not one that can be reviewed.
    """
    folder = Path(project.absolutePath())
    layers = {layer.name(): layer for layer in project.mapLayers().values()}
    layer, sheet = layers.get("review"), layers.get("contact sheet")
    manifest = _manifest(folder)
    if layer is None or sheet is None or not {"format", "label", "classes"} <= set(manifest):
        return None
    if not isinstance(manifest["format"], int) or manifest["format"] > FORMAT:
        raise UnusableError(
            f"This package has format {manifest['format']}, and this plugin knows up to {FORMAT}: "
            "install its newer version."
        )
    if not layer.isValid() or not sheet.isValid():
        raise UnusableError("Files of this package are missing: copy its whole folder again.")
    # The database keeps a journal beside it: the folder must be writable, too.
    if not layer.supportsEditing() or not os.access(folder, os.W_OK):
        raise UnusableError(
            "This package is read-only, so decisions could not be saved: "
            "copy its folder to where you may write."
        )
    blind = manifest["label"] == "blind"
    titles = ["REAL", "TO JUDGE" if blind else "SYNTHETIC"]
    return Package(
        classes=manifest["classes"],
        blind=blind,
        captions=list(manifest["stretch"]),
        titles=titles if "anchor" in manifest["samples"][0] else titles[1:],
        layer=layer,
        sheet=sheet,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest; empty when there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
