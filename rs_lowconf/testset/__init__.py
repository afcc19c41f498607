"""Test sets of reviewed tiles: releases that never change, read by torchgeo, STAC and QGIS.

`dataset.ReviewedTiles` is not imported here, because torchgeo takes seconds.
"""

from rs_lowconf.testset.evaluate import evaluate_release
from rs_lowconf.testset.read import read_release
from rs_lowconf.testset.release import ParentRelease, Release, ReleaseMask, ReleaseTile
from rs_lowconf.testset.write import write_release

__all__ = [
    "ParentRelease",
    "Release",
    "ReleaseMask",
    "ReleaseTile",
    "evaluate_release",
    "read_release",
    "write_release",
]
