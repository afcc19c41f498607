"""Runs a script in the real QGIS without a screen."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def run_offscreen(command: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with a fresh profile of QGIS in `folder`; return what it printed.

    It begins with the Python that QGIS was built for. Whether it succeeded, the caller asserts.
    """
    environment = os.environ | {
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
        "XDG_RUNTIME_DIR": str(folder),
    }
    return subprocess.run(
        [*map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
