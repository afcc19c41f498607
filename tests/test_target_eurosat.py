"""A short training on real EuroSAT tiles."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torchgeo.datasets import EuroSAT

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.settings import ClassifierSettings
from rs_lowconf.target.evaluate import evaluate_classifier
from rs_lowconf.target.tasks import ClassificationTask
from rs_lowconf.target.train import Training, calibrate
from rs_lowconf.types import TileBatch
from tests.fakes import batch_of

CPU = torch.device("cpu")


class Split:
    """One split of EuroSAT in memory, as reflectance."""

    def __init__(self, root: Path, split: Literal["train", "val", "test"]) -> None:
        tiles = EuroSAT(str(root), split)
        self.bands = BandSpec(names=EUROSAT_ORDER, level="L1C")
        self.classes = tuple(tiles.classes)
        self.ids = tuple(Path(path).stem for path, _ in tiles.samples)
        self.labels = torch.tensor([label for _, label in tiles.samples])
        self._image = torch.stack([tiles[i]["image"] for i in range(len(tiles))]) / 10_000

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        return batch_of(self, indices, self._image, label=self.labels)


@pytest.fixture(scope="module")
def root() -> Path:
    folder = os.environ.get("RSLOW_DATA")
    if folder is None:
        reason = "RSLOW_DATA does not name a folder that holds eurosat/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(folder) / "eurosat"


def mirrored(image: Tensor, seed: int) -> Tensor:
    turn = torch.randint(4, (1,), generator=torch.Generator().manual_seed(seed))
    return image.rot90(int(turn), (2, 3)).flip(3)


@pytest.mark.slow
def test_a_short_training_beats_the_floor(root: Path) -> None:
    """Eight epochs of a narrow net classify more than 60 % of the real test tiles."""
    settings = ClassifierSettings(width=8, epochs=8, batch_size=16, learning_rate=5e-3)
    train, val = Split(root, "train"), Split(root, "val")
    training = Training(ClassificationTask(train, val, settings, mirrored), 0, CPU)
    list(training.epochs())
    calibrated = calibrate(training.best, val)
    figures = evaluate_classifier(calibrated, Split(root, "test"))
    assert figures.tiles == 58
    assert figures.accuracy > 0.6
    assert figures.nll < 1.2
    assert (
        evaluate_classifier(calibrated, val).nll
        <= evaluate_classifier(training.best, val).nll + 1e-6
    )
