"""Train what the paper's experiment tests and what judges its tiles, on EuroSAT's pictures.

Usage: python scripts/research/tile_targets.py EUROSAT_PICTURES OUT
           [best embedded weak shift judges]

EUROSAT_PICTURES is what torchvision's EuroSAT reads. All networks take reflectance of B04, B03, B02
at 64 pixels. Into OUT, one file of weights per network, and one table of scores per pool, with
which of its tiles a generator trained on the split `train` has seen (`split`):

* `best`: EfficientNet-Lite1, pretrained on photographs and fine-tuned on the split `train`; the
  pool is the split `test`, and the split `val` validates;
* `embedded`: our embedded target of the visible bands, on the same tiles;
* `weak`: a ResNet of 2,000 tiles of `train`; the pool is every other tile;
* `shift`: the same, trained on the tiles of `train` in 8 of 10 clusters within each class (k-means
  on means and deviations of bands), tested on all tiles of the other two; there are no places to
  split by, for the JPEGs have none;
* `judges`: five plain convolutional networks without shortcuts, which is neither architecture, of
  each of two halves of all tiles; the half `a` holds `test` whole, so its judges (trained on the
  half `b`) have seen no tile of `test`. Their mean says the class of tiles that they have not seen:
  judged.parquet.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Literal

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

import rs_lowconf as rl
from rs_lowconf.gan.frozen import FrozenNetwork, frozen_network
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import load
from rs_lowconf.target.networks import ClassificationNetwork, classification_network
from rs_lowconf.target.trained import TrainedNetwork
from rs_lowconf.target.truth import in_order
from rs_lowconf.workflows.training import open_sources

Name = Literal["best", "weak", "shift"]
NAMES: tuple[Name, ...] = ("best", "weak", "shift")
VALIDATED = ("best", "embedded")
"""Targets whose pool is the split `test`, so that the split `val` is left to validate."""
BANDS = ("B04", "B03", "B02")
CLASSES = 10
BRIGHTEST = 0.275
"""Reflectance of the byte 255: EuroSAT's pictures hold nothing above it."""
JUDGES = 5
WEAK_TILES = 2_000
CLUSTERS, HELD_OUT = 10, 2
SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """All of EuroSAT's pictures."""

    image: Tensor
    """Reflectance, n 3 64 64."""
    label: Tensor
    ids: np.ndarray
    split: np.ndarray
    """Of each tile: train, val or test."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)


def read_tiles(root: Path) -> Tiles:
    """Read all pictures of a folder."""
    settings = load(Path("configs/eurosat-visible.yaml"), (f"data.root={root}",))
    image, label = [], []
    ids: list[str] = []
    split: list[str] = []
    for name in ("train", "val", "test"):
        (source,) = open_sources(settings, name)
        image += [batch.image for batch in in_order(source.tiles)]
        label.append(torch.as_tensor(source.tiles.labels))
        ids += source.tiles.ids
        split += [name] * len(source.tiles)
    return Tiles(
        image=torch.cat(image),
        label=torch.cat(label),
        ids=np.array(ids),
        split=np.array(split),
        classes=tuple(source.tiles.classes),
    )


class Network(ClassificationNetwork):
    """A classifier of reflectance as a picture shows it: what it cannot show is clipped."""

    def __init__(self, body: nn.Module, features: int) -> None:
        """Join a body that returns `features` numbers per tile with a head."""
        super().__init__(body, bands=len(BANDS), features=features, classes=CLASSES)

    def normalised(self, image: Tensor) -> Tensor:
        """Return reflectance as a share of the brightest."""
        return image.clamp(0, BRIGHTEST) / BRIGHTEST


class _Pretrained(nn.Module):
    """EfficientNet-Lite1's last features, its weights to be fine-tuned."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.network = FrozenNetwork("efficientnet_lite1").requires_grad_(requires_grad=True)
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        mean: Tensor = self.network(255 * image, self.side)[-1].mean((2, 3))
        return mean


def network_of(name: Literal[Name, "judge"]) -> Network:
    """Return a network that is not trained yet."""
    if name == "best":
        return Network(_Pretrained(96), frozen_network("efficientnet_lite1").channels[-1])
    if name == "judge":
        return Network(_plain(20), 80)
    body = classification_network("resnet", width=16, bands=3, classes=CLASSES, tile_size=64).body
    return Network(nn.Sequential(nn.BatchNorm2d(3), body), 64)


def _plain(width: int) -> nn.Sequential:
    """Return pairs of 3x3 convolutions with max pooling, no shortcuts (Simonyan et al. 2014)."""
    layers: list[nn.Module] = [nn.BatchNorm2d(3)]
    channels = 3
    for stage in range(3):
        for place in range(2):
            first = stage == place == 0
            layers += [
                # The first halves the side, as small tiles ask for.
                nn.Conv2d(channels, width << stage, 4 if first else 3, 1 + first, 1, bias=False),
                nn.BatchNorm2d(width << stage),
                nn.ReLU(inplace=True),
            ]
            channels = width << stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))


def fit(
    build: Callable[[], Network],
    tiles: Tiles,
    rows: np.ndarray,
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> Network:
    """Return a trained network: AdamW, the rate up a line and down a cosine, all symmetries."""
    with forked_rng(seed):
        network = build().to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
        steps = len(rows) // 32
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=rate, total_steps=epochs * steps, pct_start=0.15
        )
        start = monotonic()
        for epoch in range(epochs):
            network.train()
            losses = 0.0
            for part in torch.randperm(len(rows))[: steps * 32].reshape(steps, 32):
                index = torch.as_tensor(rows)[part]
                image = tiles.image[index]
                turns, flip = torch.randint(4, ()), torch.randint(2, ())
                image = torch.rot90(image, int(turns), (2, 3))
                image = image.flip(3) if flip else image
                loss = F.cross_entropy(network(image), tiles.label[index])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses += loss.item()
            minutes = (monotonic() - start) / 60
            print(f"  epoch {epoch + 1}: loss {losses / steps:.3f}, {minutes:.1f} min", flush=True)
    return network.eval()


@torch.no_grad()
def answers(network: Network | TrainedNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities n k and features n f of reflectance."""
    if isinstance(network, TrainedNetwork):
        image = image.clamp(max=BRIGHTEST)
        return network.predict(image).exp(), network.features(image)
    parts = [image[first : first + 64] for first in range(0, len(image), 64)]
    features = torch.cat([network.features(part) for part in parts])
    return network.head(features).softmax(1), features


def pool_table(network: Network | TrainedNetwork, tiles: Tiles, rows: np.ndarray) -> pd.DataFrame:
    """Return scores of tiles, one row per tile."""
    probability, features = answers(network, tiles.image[torch.as_tensor(rows)])
    classes = tiles.classes
    most = probability.max(1)
    return pd.DataFrame(
        {
            "id": tiles.ids[rows],
            "label": [classes[k] for k in tiles.label[torch.as_tensor(rows)].tolist()],
            "predicted": [classes[k] for k in most.indices.tolist()],
            "confidence": most.values.double().numpy(),
            "probabilities": probability.double().tolist(),
            "features": features.tolist(),
            "split": tiles.split[rows],
        }
    )


def shifted(tiles: Tiles) -> np.ndarray:
    """Return whether each tile is in one of the two held-out clusters of its class."""
    held = np.zeros(len(tiles), dtype=bool)
    flat = tiles.image.flatten(2)
    statistics = torch.cat([flat.mean(2), flat.std(2)], dim=1).log().numpy()
    for label in range(CLASSES):
        rows = np.nonzero(tiles.label.numpy() == label)[0]
        own = statistics[rows]
        own = (own - own.mean(0)) / own.std(0)
        cluster = KMeans(CLUSTERS, n_init=4, random_state=SEED).fit_predict(own)
        dice = np.random.default_rng(seed_of(SEED, "shift", label))
        held[rows] = np.isin(cluster, dice.permutation(CLUSTERS)[:HELD_OUT])
    return held


def training_rows(name: Name, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles that a target learns from, and those of its pool."""
    train = tiles.split == "train"
    if name == "best":
        return np.nonzero(train)[0], np.nonzero(tiles.split == "test")[0]
    if name == "weak":
        dice = np.random.default_rng(seed_of(SEED, "weak"))
        learned = np.sort(dice.permutation(np.nonzero(train)[0])[:WEAK_TILES])
        return learned, np.setdiff1d(np.arange(len(tiles)), learned)
    held = shifted(tiles)
    return np.nonzero(train & ~held)[0], np.nonzero(held)[0]


def halves(tiles: Tiles) -> dict[str, np.ndarray]:
    """Return the two halves of all tiles, by name: those of `test` are all in `a`."""
    dice = np.random.default_rng(seed_of(SEED, "halves"))
    order = dice.permutation(len(tiles))
    order = order[np.argsort(tiles.split[order] != "test", kind="stable")]
    middle = len(tiles) // 2
    return {"a": np.sort(order[:middle]), "b": np.sort(order[middle:])}


def embedded() -> TrainedNetwork:
    """Return the embedded target of the visible bands."""
    target = rl.load_target("visible")
    assert isinstance(target, TrainedNetwork)  # noqa: S101 -- it is of our own kind
    return target


def load_network(out: Path, name: str) -> Network:
    """Return a network that `main` trained."""
    kind: Literal[Name, "judge"] = next((one for one in NAMES if one == name), "judge")
    network = network_of(kind)
    network.load_state_dict(load_file(out / f"{name}.safetensors"))
    return network.eval().to(memory_format=torch.channels_last)


def judges_of(out: Path, half: str) -> list[Network]:
    """Return the judges of a half of the tiles, which learned from the other."""
    return [load_network(out, f"judge-{half}{number}") for number in range(JUDGES)]


def _trained(
    out: Path, name: str, build: Callable[[], Network], tiles: Tiles, rows: np.ndarray, **how: float
) -> Network:
    """Return a network from its file, or train it and write that."""
    path = out / f"{name}.safetensors"
    if path.exists():
        return load_network(out, name)
    print(f"{name}: {len(rows):,} tiles", flush=True)
    network = fit(
        build, tiles, rows, epochs=int(how["epochs"]), rate=how["rate"], seed=seed_of(SEED, name)
    )
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return network


_HOW = {
    "best": {"epochs": 3, "rate": 5e-4},
    "weak": {"epochs": 40, "rate": 3e-3},
    "shift": {"epochs": 12, "rate": 3e-3},
    "judges": {"epochs": 10, "rate": 3e-3},
}


def judge(out: Path, tiles: Tiles) -> None:
    """Train the judges of each half on the other half, and write what they say of their own."""
    both = halves(tiles)
    tables = []
    for half, other in (("a", "b"), ("b", "a")):
        said = []
        for number in range(JUDGES):
            network = _trained(
                out,
                f"judge-{half}{number}",
                partial(network_of, "judge"),
                tiles,
                both[other],
                **_HOW["judges"],
            )
            said.append(pool_table(network, tiles, both[half]))
        mean = np.mean([np.stack(one["probabilities"]) for one in said], axis=0)
        table = said[0][["id", "label", "split"]].assign(
            judged=[tiles.classes[k] for k in mean.argmax(1)],
            probabilities=mean.tolist(),
            half=half,
        )
        alone = np.mean([(one["label"] != one["predicted"]).mean() for one in said])
        wrong = (table["label"] != table["judged"]).mean()
        print(f"judges of {half}: one alone errs on {alone:.2%}, the five on {wrong:.2%}")
        tables.append(table)
    pd.concat(tables, ignore_index=True).to_parquet(out / "judged.parquet")


def _score(
    out: Path, name: str, network: Network | TrainedNetwork, tiles: Tiles, pool: np.ndarray
) -> None:
    """Write the table of a pool, and where the split `val` is none of it, that of it."""
    parts = {name: pool}
    if name in VALIDATED:
        parts[f"{name}-validation"] = np.nonzero(tiles.split == "val")[0]
    for part, rows in parts.items():
        table = pool_table(network, tiles, rows)
        table.to_parquet(out / f"{part}.parquet")
        wrong = int((table["label"] != table["predicted"]).sum())
        print(f"{part}: {wrong:,} of {len(table):,} tiles wrong, {wrong / len(table):.2%}")


def main() -> None:
    """Train and score what is asked for."""
    parser = argparse.ArgumentParser(description="Train targets and judges on EuroSAT's pictures.")
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", nargs="*", default=[*NAMES, "embedded", "judges"])
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    tiles = read_tiles(words.root)
    for name in NAMES:
        if name in words.what:
            learned, pool = training_rows(name, tiles)
            build = partial(network_of, name)
            network = _trained(words.out, name, build, tiles, learned, **_HOW[name])
            _score(words.out, name, network, tiles, pool)
    if "embedded" in words.what:
        _score(words.out, "embedded", embedded(), tiles, np.nonzero(tiles.split == "test")[0])
    if "judges" in words.what:
        judge(words.out, tiles)


if __name__ == "__main__":
    main()
