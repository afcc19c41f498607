"""Draw the generated arms of the paper's experiment: tiles of random latents and of searches.

Usage: python scripts/research/tile_banks.py OUT GENERATOR [--random 20000] [--found 2000]
           [--search] [best embedded weak shift]

OUT is what `tile_targets.py` wrote, GENERATOR the folder of a run with a generator and its gate.
Draws a bank of tiles of random latents, the same for all targets, and searches hard tiles of each
target (`search.tau` 0.5; --search does that alone, which needs no judges). Both continue where an
earlier run stopped. Each tile is labelled by its condition and by the judges: those of the half
`a`, which have seen no tile of the split `test`, for targets that are tested on it; all ten for the
others. A simulated reviewer accepts a found tile as the judges' class where their mean probability
is 0.8 or more, and rejects the rest.

OUT/bank/TARGET gets a table per arm, and OUT/TARGET.yaml the settings with which
`rslow estimate experiment` replays all of it. Weights: tiles of random latents by the share of
their class among what the target predicts of the pool; found tiles also by the share of random
latents of their condition that are as unsure, so that all other tiles count as right.
"""

import argparse
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from tile_targets import (
    BANDS,
    BRIGHTEST,
    VALIDATED,
    Network,
    answers,
    embedded,
    judges_of,
    load_network,
)
from torch import Tensor

import rs_lowconf as rl
from rs_lowconf.target.trained import TrainedNetwork
from rs_lowconf.workflows.search import Searching

TARGETS = ("best", "embedded", "weak", "shift")
TAU = 0.5
ACCEPTED = 0.8
"""Mean probability of the judges' class from which the simulated reviewer accepts a tile."""
PIECE = 1_000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the command line says."""

    out: Path
    generator: Path
    random: int
    found: int
    targets: list[str]


class Bank:
    """Scores generated tiles by targets and judges."""

    def __init__(self, words: Words) -> None:
        """Load the generator; targets and judges are loaded when they are asked."""
        self.words = words
        self.generator = rl.load_generator(words.generator)
        self.gate = rl.load_gate(self.generator)
        self.classes = np.array(sorted(self.generator.conditions))
        self._targets: dict[str, Network | TrainedNetwork] = {}

    def target(self, name: str) -> Network | TrainedNetwork:
        """Return a target by its name."""
        if name not in self._targets:
            self._targets[name] = (
                embedded() if name == "embedded" else load_network(self.words.out, name)
            )
        return self._targets[name]

    @cached_property
    def judges(self) -> dict[str, list[Network]]:
        """Return the judges of each half."""
        return {half: judges_of(self.words.out, half) for half in "ab"}

    def labelled(self, tiles: rl.TileBatch) -> pd.DataFrame:
        """Return what condition, gate and judges say of tiles, one row per tile."""
        image = tiles.image[:, list(tiles.bands.index_of(BANDS))]
        judged = {
            half: torch.stack([answers(one, image)[0] for one in own]).mean(0)
            for half, own in self.judges.items()
        }
        judged["ab"] = (judged["a"] + judged["b"]) / 2
        assert tiles.label is not None  # noqa: S101 -- the generator labels its tiles
        columns: dict[str, object] = {
            "id": list(tiles.ids),
            "condition": np.array(tiles.classes)[tiles.label.numpy()],
            "gate_passes": self.gate.judge(tiles).passes.cpu().numpy(),
        }
        for half, probability in judged.items():
            most = probability.max(1)
            columns[f"judged_{half}"] = self.classes[most.indices.numpy()]
            columns[f"judged_{half}_probability"] = most.values.numpy()
        return pd.DataFrame(columns)

    def predicted(self, tiles: rl.TileBatch, name: str) -> pd.DataFrame:
        """Return what a target says of tiles, one row per tile."""
        image = tiles.image[:, list(tiles.bands.index_of(BANDS))]
        probability, features = answers(self.target(name), image)
        most = probability.max(1)
        return pd.DataFrame(
            {
                f"{name}_predicted": self.classes[most.indices.numpy()],
                f"{name}_confidence": most.values.double().clamp(max=1).numpy(),
                f"{name}_features": features.tolist(),
            }
        )

    def of_random_latents(self) -> pd.DataFrame:
        """Return the bank of random latents; what pieces hold is not asked again."""
        folder = self.words.out / "bank" / "random"
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for seed in range(self.words.random // PIECE):
            path = folder / f"{seed}.parquet"
            table = pd.read_parquet(path) if path.exists() else None
            missing = [
                name
                for name in self.words.targets
                if table is None or f"{name}_predicted" not in table
            ]
            if table is None or missing:
                tiles = self.generator.sample(count=PIECE, seed=seed)
                table = self.labelled(tiles) if table is None else table
                table = pd.concat([table, *(self.predicted(tiles, one) for one in missing)], axis=1)
                table.to_parquet(path)
                print(f"random latents: {(seed + 1) * PIECE:,}", flush=True)
            parts.append(table)
        return pd.concat(parts, ignore_index=True)

    def search(self, name: str) -> rl.SearchResult:
        """Return what a search of a target finds; what an earlier run found is not sought again."""
        network = self.target(name)

        def clipped(image: Tensor) -> Tensor:
            """Return logits of tiles as a picture would show them."""
            image = image.clamp(0, BRIGHTEST)
            return network(image) if isinstance(network, Network) else network.predict(image)

        search = rl.Search(
            self.generator,
            rl.load_target(clipped, bands=BANDS, classes=self.classes.tolist()),
            self.gate,
            tau=TAU,
            count=self.words.found,
            seed=SEED,
            folder=self.words.out / "bank" / f"{name}-search",
            settings=rl.SearchSettings(
                # Every hard tile counts, also one that resembles another.
                per_cell=None,
                novelty_quantile=None,
                baseline_evaluations=0,
                max_evaluations=10_000_000,
                max_minutes=1_000,
            ),
        )
        done = 0
        for record in search:
            if isinstance(record, Searching) and record.accepted >= done + 100:
                done = record.accepted
                print(f"{name}: {done:,} found, {record.evaluations:,} evaluations", flush=True)
        return search.result()

    def of_search(self, name: str) -> pd.DataFrame:
        """Return the hard tiles that a search of a target found, in the order of its finding."""
        path = self.words.out / "bank" / f"{name}-found.parquet"
        if not path.exists():
            tiles = self.search(name).tiles
            table = pd.concat([self.labelled(tiles), self.predicted(tiles, name)], axis=1)
            table.to_parquet(path)
        return pd.read_parquet(path)


def arms(
    name: str, random: pd.DataFrame, found: pd.DataFrame, pool: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the tables of a target's generated arms, by what the report calls them.

    Args:
        name: of the target.
        random: of random latents.
        found: of its search.
        pool: real tiles, as the target predicts them.
    """
    half = "a" if name in VALIDATED else "ab"
    share = pool["predicted"].value_counts(normalize=True)

    def table(bank: pd.DataFrame, label: str) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "id": bank["id"],
                "label": bank[label],
                "predicted": bank[f"{name}_predicted"],
                "confidence": bank[f"{name}_confidence"],
                "features": bank[f"{name}_features"],
            }
        )

    def weighed(own: pd.DataFrame, rarity: pd.Series | float = 1.0) -> pd.DataFrame:
        """Return rows that stand for the pool: by class, and by how rare such tiles are."""
        ratio = share * rarity / own["label"].value_counts(normalize=True)
        return own.assign(weight=own["label"].map(ratio).fillna(0.0))

    unsure = (random[f"{name}_confidence"] < TAU).groupby(random["condition"]).mean()
    judged = f"judged_{half}"
    sure = found[f"{judged}_probability"] >= ACCEPTED
    return {
        "random latents": table(random, "condition"),
        "found": table(found, "condition"),
        "random latents, judged": table(random, judged),
        "random latents, weighed": weighed(table(random, "condition")),
        "random latents, judged and weighed": weighed(table(random, judged)),
        "found tiles, judged": table(found, judged),
        "found tiles, weighed": weighed(table(found, "condition"), unsure),
        "found tiles, reviewed (simulated)": table(found[sure], judged),
    }


def settings_of(out: Path, name: str, tables: dict[str, Path]) -> dict[str, object]:
    """Return the settings of the experiment on a pool."""
    own = ("random latents", "found")
    further = {arm: str(path) for arm, path in tables.items() if arm not in own}
    estimate: dict[str, object] = {
        "scores": str(out / f"{name}.parquet"),
        "generated_samples": str(tables["found"]),
        "experiment": {
            "budgets": [0.01, 0.02, 0.05, 0.1, 0.2],
            "repetitions": 2_000,
            "blind": [1.0],
            "validation": 2_000,
            "random_latents": str(tables["random latents"]),
            "generated": further,
        },
    }
    if name in VALIDATED:
        estimate["validation"] = str(out / f"{name}-validation.parquet")
    return {"run": {"dir": str(out / f"{name}-run"), "seed": SEED}, "estimate": estimate}


def main() -> None:
    """Draw, search, label and write."""
    parser = argparse.ArgumentParser(description="Draw the generated arms of the experiment.")
    parser.add_argument("out", type=Path)
    parser.add_argument("generator", type=Path)
    parser.add_argument("--random", type=int, default=20_000)
    parser.add_argument("--found", type=int, default=2_000)
    parser.add_argument("--search", action="store_true", help="search alone, without judges")
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    said = vars(parser.parse_intermixed_args())
    only_search = said.pop("search")
    words = Words(**said)
    bank = Bank(words)
    if only_search:
        for name in words.targets:
            bank.search(name)
        return
    random = bank.of_random_latents()
    for name in words.targets:
        pool = pd.read_parquet(words.out / f"{name}.parquet")
        folder = words.out / "bank" / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for arm, table in arms(name, random, bank.of_search(name), pool).items():
            paths[arm] = folder / f"{arm.replace(', ', '-').replace(' ', '-')}.parquet"
            table.to_parquet(paths[arm])
            wrong = (table["label"] != table["predicted"]).mean()
            print(f"{name}, {arm}: {len(table):,} tiles, {wrong:.2%} not as labelled", flush=True)
        text = yaml.safe_dump(settings_of(words.out, name, paths), sort_keys=False)
        (words.out / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
