#!/usr/bin/env python3
"""Score written tiles with a cloud mask's own wheel, without a line of rs_lowconf.

Usage: scripts/research/rescore.py TILES {csmask,s2cloudless} TAU [--share 0.2]

Prints one JSON line: how many GeoTIFFs below TILES are of confidence below TAU to the wheel,
and how far it is at most from the confidence that the tiles' tags tell. Confidence is the mean
of the larger probabilities over the least certain share of a tile's pixels.
"""

import argparse
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

Numbers = NDArray[Any]
WAVES = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B08": "nir",
    "B11": "swir16",
    "B12": "swir22",
}


def s2cloudless(bands: dict[str, Numbers]) -> Numbers:
    """Return probabilities k h w of clear and cloud."""
    from s2cloudless.cloud_detector import S2PixelCloudDetector  # noqa: PLC0415  # one wheel is enough
    from s2cloudless.utils import S2_BANDS  # noqa: PLC0415

    image = np.stack([bands[name] for name in S2_BANDS], axis=-1)[None]
    cloud = S2PixelCloudDetector(all_bands=True).get_cloud_probability_maps(image, num_threads=1)
    return np.stack([1 - cloud[0], cloud[0]])


def csmask(bands: dict[str, Numbers]) -> Numbers:
    """Return probabilities k h w of background, cloud and shadow."""
    from ukis_csmask.mask import CSmask  # noqa: PLC0415
    from ukis_csmask.utils import tile_array  # noqa: PLC0415

    image = np.stack([bands[name] for name in WAVES], axis=-1)
    height, width = image.shape[:2]
    mask = CSmask(
        image, list(WAVES.values()), intra_op_num_threads=1, providers=["CPUExecutionProvider"]
    )
    # The wheel keeps classes only. Its first window holds a tile of up to 154 pixels, from 51 on.
    windows = np.moveaxis(tile_array(mask.img, 256, 256, overlap=0.2), -1, 1)
    logits = mask.session.run(None, {mask.input_names: windows[:1]})[0]
    said: Numbers = mask.softmax(logits)[0, :, 51 : 51 + height, 51 : 51 + width]
    return said


TARGETS: dict[str, Callable[[dict[str, Numbers]], Numbers]] = {
    "csmask": csmask,
    "s2cloudless": s2cloudless,
}


def confidence(probability: Numbers, share: float) -> float:
    """Return the mean of the larger probabilities over the least certain pixels."""
    largest = np.sort(probability.max(0), axis=None)
    return float(largest[: math.ceil(share * len(largest))].astype(np.float64).mean())


def main() -> None:
    """Score all tiles and print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tiles", type=Path)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("tau", type=float)
    parser.add_argument("--share", type=float, default=0.2)
    words = parser.parse_args()
    # Tiles have no place, and are smaller than the wheel's windows, on purpose.
    warnings.simplefilter("ignore")
    scores, tags = [], []
    for path in sorted(words.tiles.glob("*.tif")):
        with rasterio.open(path) as file:
            image = file.read().astype(np.float32) / 10_000
            bands = dict(zip(file.descriptions, image, strict=True))
            tags.append(float(file.tags()["RSLOW_CONFIDENCE"]))
        scores.append(confidence(TARGETS[words.target](bands), words.share))
    low = sum(score < words.tau for score in scores)
    apart = max((abs(a - b) for a, b in zip(scores, tags, strict=True)), default=None)
    print(json.dumps({"tiles": len(scores), "low": low, "largest_difference": apart}))


if __name__ == "__main__":
    main()
