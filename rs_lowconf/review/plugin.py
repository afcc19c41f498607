"""Packs the QGIS plugin for reviewers, whose source is in the subfolder `qgis_plugin`."""

import zipfile
from importlib import metadata
from pathlib import Path

from rs_lowconf.runs import replacing

_SOURCE = Path(__file__).parent / "qgis_plugin"
_FOLDER = "rs_lowconf_review"  # the plugin's name in QGIS


def write_plugin(path: Path) -> None:
    """Write the zip that QGIS installs (Plugins, Install from ZIP), atomically.

    The same version gives the same bytes.

    Args:
        path: the file, replaced when it exists.
    """
    files = [file for file in _SOURCE.iterdir() if file.suffix in (".py", ".txt")]
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in sorted(files):
            text = file.read_text(encoding="utf-8")
            if file.name == "metadata.txt":
                text = text.replace("@VERSION@", metadata.version("rs-lowconf"))
            entry = zipfile.ZipInfo(f"{_FOLDER}/{file.name}", date_time=(2000, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
