"""Measures how surely a mixture of offsets is found, file by file, on real tiles.

Of a share of 100 images the digital numbers get an offset of 1000 more or less, 20 times with other
images, and files are compared as `rslow data check` and `rslow catalog check` compare them:

    python scripts/research/mixtures.py eurosat FOLDER     # 13 bands of L1C, in torchgeo's layout
    python scripts/research/mixtures.py folder FOLDER B01 B02 ...   # GeoTIFFs with these bands

Prints a line for each share and direction: in how many runs the mixture was reported, and how many
of the images were named on the right side, on the wrong side, or as ones that nobody can tell. At
last the same for the images as they are.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from rs_lowconf.bands import EUROSAT_ORDER
from rs_lowconf.data.mixtures import OFFSET, compare_levels

SHARES = (1, 3, 4, 10, 50, 90, 99)
SEEDS = 20
IMAGES = 100

Dark = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def dark_spectra(paths: Sequence[Path]) -> Dark:
    """Return the first percentile of reflectance by file and band, without nodata."""
    found = []
    for path in paths:
        with rasterio.open(path) as file:
            pixels = file.read() / 10_000
        found.append(np.quantile(pixels[:, pixels.any(axis=0)], 0.01, axis=1))
    return np.stack(found)


def measure(dark: Dark, share: int, direction: int) -> tuple[int, int, int, int]:
    """Return runs with a report, and images named rightly, wrongly and not at all."""
    reported = right = wrong = unsure = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, share])
        mixed = dark[rng.choice(len(dark), IMAGES, replace=False)]
        changed = np.arange(IMAGES) < share
        mixed[changed] += direction * OFFSET
        high = changed if direction > 0 else ~changed
        found = compare_levels(mixed)
        reported += found.mixed
        if found.mixed:
            right += int((found.high & high).sum() + (found.low & ~high).sum())
            wrong += int((found.high & ~high).sum() + (found.low & high).sum())
            unsure += int(found.unsure.sum())
    return reported, right, wrong, unsure


def main(kind: str, folder: str, *bands: str) -> None:
    """Print the table."""
    paths = sorted(Path(folder).rglob("*.tif"))
    dark = dark_spectra(paths)
    due = EUROSAT_ORDER if kind == "eurosat" else bands
    if dark.shape[1] != len(due):
        sys.exit(f"{folder} holds {dark.shape[1]} bands; expected {len(due)}: {' '.join(due)}")
    print("share  direction  reported  right  wrong  cannot tell  (images of runs with a report)")
    for share in SHARES:
        for direction in (1, -1):
            reported, *images = measure(dark, share, direction)
            counts = "  ".join(f"{count:5d}" for count in images)
            print(f"{share:4d}%  {direction * 1000:+9d}  {reported:5d}/{SEEDS}  {counts}")
    found = compare_levels(dark)
    print(
        f"as they are: {'a mixture' if found.mixed else 'no mixture'} of {len(dark)} images; "
        f"cannot tell: {', '.join(paths[i].name for i in np.flatnonzero(found.unsure)) or 'none'}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
