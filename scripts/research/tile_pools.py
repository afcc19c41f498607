"""Score EuroSAT's pictures, so that the paper's experiment can be replayed on real labelled tiles.

Usage: python scripts/research/tile_pools.py EUROSAT_PICTURES OUT.parquet [--target CHECKPOINT]
           [--splits test ...]

EUROSAT_PICTURES is what torchvision's EuroSAT reads. The embedded target of the visible bands, or a
checkpoint that `rslow train target` wrote, scores all tiles of the splits. Then

    rslow estimate experiment -s estimate.scores=OUT.parquet
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

import rs_lowconf as rl
from rs_lowconf.data.files import Split
from rs_lowconf.settings import load
from rs_lowconf.workflows.training import open_sources

_BATCH = 64


def scored(root: Path, splits: Sequence[Split], checkpoint: Path | None = None) -> pd.DataFrame:
    """Return a table of scores of real tiles, one row per tile.

    Args:
        root: of the pictures.
        splits: which of them.
        checkpoint: of the target; the embedded one of the visible bands when missing.
    """
    kind = {"kind": "embedded", "model": "visible"}
    if checkpoint is not None:
        kind = {"kind": "trained", "path": str(checkpoint)}
    target = rl.load_target(kind)
    settings = load(Path("configs/eurosat-visible.yaml"), (f"data.root={root}",))
    parts = []
    for split in splits:
        (source,) = open_sources(settings, split)
        tiles, said = source.tiles, []
        channels = list(tiles.bands.index_of(target.bands.names))
        for first in range(0, len(tiles), _BATCH):
            image = tiles.batch(range(first, min(first + _BATCH, len(tiles)))).image
            with torch.no_grad():
                said.append(target.predict(image[:, channels]).exp())
        probability = torch.cat(said)
        most = probability.max(1)
        parts.append(
            pd.DataFrame(
                {
                    "id": tiles.ids,
                    "label": [tiles.classes[k] for k in tiles.labels.tolist()],
                    "predicted": [target.classes[k] for k in most.indices.tolist()],
                    "confidence": most.values.double().numpy(),
                    "probabilities": probability.double().tolist(),
                    "split": split,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    """Score, and print the error rate."""
    parser = argparse.ArgumentParser(description="Score EuroSAT's pictures.")
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--splits", nargs="+", default=["test"])
    words = parser.parse_args()
    table = scored(words.root, words.splits, words.target)
    table.to_parquet(words.out)
    wrong = int((table["label"] != table["predicted"]).sum())
    print(f"{wrong:,} of {len(table):,} tiles wrong, {wrong / len(table):.2%}")


if __name__ == "__main__":
    main()
