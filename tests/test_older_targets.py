"""Targets that older versions trained are loaded, predict the same, and are trained the same.

`older/targets.zip` holds a classifier and a segmenter as the code of commits 3001176 and c0aca49
wrote them, `NAME-COMMIT.safetensors`, trained for the two tasks of this file from seed 7; what
they predict for the last tiles of `SPLITS` and `MASKS`, in `answers-COMMIT.npz`.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.runs import read_checkpoint
from rs_lowconf.settings import ClassifierSettings, SegmenterSettings, TrainedTarget
from rs_lowconf.target.load import load_target
from rs_lowconf.target.tasks import ClassificationTask, SegmentationTask, Task
from rs_lowconf.target.train import Training, calibrate
from rs_lowconf.target.trained import load_trained, save_trained
from tests.fakes import FakeMasks, FakeSource

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B04", "B03", "B08"), level="L1C")
CLASSES = ("Field", "Forest", "Water")
SPLITS = [
    FakeSource(BANDS, CLASSES, n, seed=seed, noise=0.1) for n, seed in ((8, 1), (4, 2), (4, 3))
]
MASKS = [FakeMasks(BANDS, n, seed=seed) for n, seed in ((8, 1), (4, 2), (4, 3))]
COMMITS = ("3001176", "c0aca49")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files."""
    folder = tmp_path_factory.mktemp("targets")
    with zipfile.ZipFile(Path(__file__).parent / "older" / "targets.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """Add in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noisy(image: Tensor, seed: int) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + 0.01 * noise


def noisy_with_mask(image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return noisy(image, seed), mask


def classification() -> Task:
    section = ClassifierSettings(width=4, epochs=6, batch_size=8, learning_rate=2e-2)
    return ClassificationTask(SPLITS[0], SPLITS[1], section, noisy)


def segmentation() -> Task:
    section = SegmenterSettings(
        encoder="tu-test_efficientnet", width=4, epochs=6, batch_size=4, learning_rate=2e-2
    )
    return SegmentationTask(MASKS[0], MASKS[1], section, noisy_with_mask)


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_they_predict_the_same(older: Path, kind: str, commit: str) -> None:
    """Log-probabilities are those that the code of then computed."""
    path = older / f"{kind}-{commit}.safetensors"
    target = load_target(TrainedTarget(), path, trust_code=False, tile_size=32, device=CPU)
    assert target.pixelwise == (kind == "segmenter")
    source = (MASKS if target.pixelwise else SPLITS)[2]
    image = source.batch(range(2 if target.pixelwise else 6)).image
    before = np.load(older / f"answers-{commit}.npz")[kind]
    np.testing.assert_allclose(target.predict(image).numpy(), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_they_are_trained_the_same(older: Path, kind: str, commit: str) -> None:
    """The same seed ends in the same weights, but for rounding.

    They were equal bit for bit on the processor where they were trained; others add in another
    order. A single step of the optimiser may move a weight by 0.02.
    """
    tensors, header = read_checkpoint(older / f"{kind}-{commit}.safetensors", kind)
    task = classification() if kind == "classifier" else segmentation()
    training = Training(task, 7, CPU)
    list(training.epochs())
    trained = calibrate(training.best, task.val)
    weights = trained.network.state_dict()
    assert weights.keys() == tensors.keys()
    for name, value in weights.items():
        apart = (value - tensors[name]).abs().max().item()
        assert apart < 0.06, f"{name} is {apart:.3g} apart"
    assert trained.temperature == pytest.approx(header["temperature"], rel=0.03)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_they_are_written_the_same(older: Path, tmp_path: Path, kind: str) -> None:
    """A file that is read and written again has the same bytes: older code reads it."""
    path = older / f"{kind}-c0aca49.safetensors"
    save_trained(tmp_path / path.name, load_trained(path, CPU))
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
