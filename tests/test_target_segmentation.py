"""Training, figures and checkpoints of a segmenter: oracles are loops over pixels."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rs_lowconf.errors import DataError, JobError, ModelError, SettingsError
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import SegmenterSettings, TrainedTarget, load
from rs_lowconf.target.evaluate import (
    evaluate_segmenter,
    expected_calibration_error,
    iou_of,
    resampled,
)
from rs_lowconf.target.load import load_target
from rs_lowconf.target.tasks import SegmentationTask, class_weights, masked_loss
from rs_lowconf.target.train import Training, calibrate, restore_state, save_state
from rs_lowconf.target.trained import NetworkSpec, TrainedNetwork, load_trained, save_trained
from rs_lowconf.types import MaskSource, TargetModel
from rs_lowconf.workflows import train_target
from rs_lowconf.workflows.records import Expected
from tests.conftest import Run
from tests.fakes import FakePatches
from tests.make_scenes import make_chips

BANDS, CLASSES = FakePatches.bands, FakePatches.classes
CPU = torch.device("cpu")
SMALL = SegmenterSettings(
    encoder="tu-resnet10t", width=4, epochs=3, batch_size=8, learning_rate=1e-2
)


class Answers:
    """A target with given log-probabilities, in the order of its tiles."""

    bands = BANDS
    differentiable = False
    pixelwise = True

    def __init__(self, answers: Tensor, classes: tuple[str, ...] = CLASSES) -> None:
        self.classes = classes
        self._left = answers

    def predict(self, image: Tensor) -> Tensor:
        answers, self._left = self._left[: len(image)], self._left[len(image) :]
        return answers


def as_they_are(image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return image, mask


def blanked(image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return image * math.nan, mask


def start(seed: int = 0, changed: SegmenterSettings = SMALL) -> Training:
    task = SegmentationTask(FakePatches(16, seed=1), FakePatches(8, seed=2), changed, as_they_are)
    return Training(task, seed, CPU)


def untrained() -> TrainedNetwork:
    spec = NetworkSpec(
        kind="segmenter",
        architecture="tu-resnet10t",
        width=4,
        bands=BANDS,
        classes=CLASSES,
        tile_size=32,
    )
    return TrainedNetwork(spec, spec.build())


def test_training_learns_and_is_repeatable() -> None:
    """Three epochs beat one class everywhere; the same seed gives the same bits."""
    assert isinstance(FakePatches(1), MaskSource)
    before = torch.get_rng_state()
    training = start()
    first = list(training.epochs())
    assert torch.equal(torch.get_rng_state(), before)
    again, other = list(start().epochs()), list(start(seed=1).epochs())
    assert [r.val_loss for r in first] == [r.val_loss for r in again]
    assert [r.train_loss for r in first] != [r.train_loss for r in other]
    test = FakePatches(8, seed=3)
    report = evaluate_segmenter(calibrate(training.best, FakePatches(8, seed=2)), test, test.ids)
    assert report.mean_iou > report.floor_mean_iou + 0.2
    assert report.blocks == 8
    assert "8 blocks are few" in report.note


def test_twenty_epochs_are_ten_and_ten(tmp_path: Path) -> None:
    """Stopped half-way, saved and resumed by another object: the same losses and bits."""
    changed = SMALL.model_copy(update={"epochs": 20, "encoder": "tu-test_efficientnet"})
    whole, first, second = (start(changed=changed) for _ in range(3))
    records = [*itertools.islice(first.epochs(), 10)]
    save_state(tmp_path / "state.safetensors", first, {})
    restore_state(tmp_path / "state.safetensors", second, {})
    records += second.epochs()
    assert [dataclasses.replace(record, seconds=0.0) for record in records] == [
        dataclasses.replace(record, seconds=0.0) for record in whole.epochs()
    ]
    ours, theirs = whole.state(), second.state()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_unknown_pixels_teach_nothing() -> None:
    """What unknown pixels hold changes neither loss nor weights; known ones do."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=rng, requires_grad=True)
    mask = torch.randint(0, 3, (2, 8, 8), generator=rng)
    mask[:, :3] = UNKNOWN
    weight = torch.tensor([0.5, 1.0, 4.0])
    loss = masked_loss(logits, mask, weight)
    due = [
        (weight[mask[b, i, j]], F.cross_entropy(logits[b, :, i, j][None], mask[b, i, j][None]))
        for b in range(2)
        for i in range(3, 8)
        for j in range(8)
    ]
    mean = sum(w * x for w, x in due) / sum(w for w, _ in due)
    torch.testing.assert_close(loss, mean)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, :, :3] == 0).all()
    assert (logits.grad[:, :, 3:] != 0).any()
    assert masked_loss(logits, torch.full_like(mask, UNKNOWN), weight) == 0
    counts = torch.bincount(FakePatches(16).masks.flatten(), minlength=3)[:3].double()
    shares = counts / counts.sum()
    for power in (0.0, 0.5, 1.0):
        weights = class_weights(FakePatches(16), power).double()
        torch.testing.assert_close(weights * shares**power, (weights * shares**power)[:1].expand(3))
        assert float((weights * shares).sum()) == pytest.approx(1)


def test_figures_equal_a_loop_over_pixels() -> None:
    """IoU, accuracy, floor and calibration error are what a loop over known pixels counts."""
    source = FakePatches(6, seed=4)
    rng = torch.Generator().manual_seed(1)
    known = source.masks.clamp_max(2)
    logits = torch.randn(6, 3, 32, 32, generator=rng) + 1.5 * F.one_hot(known, 3).movedim(3, 1)
    answers = logits.log_softmax(1)
    report = evaluate_segmenter(Answers(answers), source, ["a", "a", "b", "c", "c", "c"])
    pairs, confidence, right = [], [], []
    for tile in range(6):
        for row in range(1, 32):
            for col in range(32):
                truth, answer = (
                    int(source.masks[tile, row, col]),
                    int(answers[tile, :, row, col].argmax()),
                )
                pairs.append((truth, answer))
                confidence.append(float(answers[tile, :, row, col].max().exp()))
                right.append(truth == answer)
    for k, name in enumerate(CLASSES):
        both = sum(pair == (k, k) for pair in pairs)
        either = sum(k in pair for pair in pairs)
        assert report.iou[name] == pytest.approx(both / either)
        low, high = report.iou_95[name] or (1.0, 0.0)
        assert low <= both / either <= high
    assert report.pixels == len(pairs) == 6 * 31 * 32
    assert report.blocks == 3
    assert report.pixel_accuracy == pytest.approx(np.mean(right))
    share = np.mean([truth == 0 for truth, _ in pairs])
    assert report.floor_class == "background"
    assert report.floor_iou == {"background": pytest.approx(share), "damage": 0, "cloud": 0}
    assert report.floor_mean_iou == pytest.approx(share / 3)
    ece = expected_calibration_error(torch.tensor(confidence), torch.tensor(right))
    assert report.ece == pytest.approx(ece, abs=1e-6)
    json.dumps(dataclasses.asdict(report), allow_nan=False)


def test_classes_go_by_name() -> None:
    """A target that lists the classes in another order has the same figures."""
    source = FakePatches(4, seed=5)
    answers = F.one_hot(source.masks.clamp_max(2), 3).movedim(3, 1).float().log_softmax(1)
    turned = Answers(answers[:, [2, 0, 1]], ("cloud", "background", "damage"))
    report = evaluate_segmenter(turned, source, source.ids)
    assert report.iou == {"cloud": 1.0, "background": 1.0, "damage": 1.0}
    with pytest.raises(ModelError, match="the masks: cloud is unknown to the target"):
        evaluate_segmenter(Answers(answers, ("background", "damage")), source, source.ids)
    spelt = Answers(answers, ("Background", "damage", "cloud"))
    with pytest.raises(ModelError, match="differ only in case"):
        evaluate_segmenter(spelt, source, source.ids)


def test_intervals_cover_the_truth() -> None:
    """Block intervals hold the IoU of all land about as often as they say; pixel ones do not."""
    rng = np.random.default_rng(0)
    covered = narrow = 0
    for trial in range(100):
        rates = rng.beta(6, 2, 40)  # each block has its own chance of a hit
        hits = rng.binomial(500, rates)
        blocks = torch.zeros(40, 2, 2, dtype=torch.int64)
        blocks[:, 1, 1], blocks[:, 1, 0] = torch.tensor(hits), torch.tensor(500 - hits)
        drawn = iou_of(resampled(blocks, trial, 500))[:, 1]
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64))
        covered += bool(low <= 0.75 <= high)
        share = hits.sum() / 20_000
        narrow += bool(abs(share - 0.75) < 1.96 * math.sqrt(share * (1 - share) / 20_000))
    assert covered >= 86
    assert narrow < 60


def test_checkpoints_come_back_as_targets(tmp_path: Path) -> None:
    """A loaded segmenter answers the same, for every pixel, with gradients; damage is told."""
    segmenter = untrained()
    segmenter.temperature = 1.7
    path = tmp_path / "target.safetensors"
    save_trained(path, segmenter)
    target = load_target(TrainedTarget(), path, trust_code=False, tile_size=32, device=CPU)
    assert isinstance(target, TargetModel)
    assert (target.pixelwise, target.differentiable) == (True, True)
    image = torch.rand(3, 3, 32, 48, requires_grad=True)
    answer = target.predict(image)
    assert answer.shape == (3, 3, 32, 48)
    assert torch.equal(answer, segmenter.predict(image))
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(3, 32, 48))
    answer.sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    with pytest.raises(ModelError, match="expected 3 bands and sides that are multiples of 16"):
        target.predict(torch.rand(1, 3, 30, 32))
    with pytest.raises(ModelError, match="a segmenter has no features of tiles"):
        segmenter.features(image)
    with pytest.raises(ModelError, match="contains a segmenter; expected a classifier"):
        load_trained(path, CPU, kind="classifier")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="damaged"):
        load_trained(path, CPU)


def test_bad_input_is_one_line() -> None:
    """An unknown encoder, an absent class and a diverging loss each say what to do."""
    train, val = FakePatches(4), FakePatches(2)
    wrong = SMALL.model_copy(update={"encoder": "resnet9000"})
    with pytest.raises(SettingsError, match=r"encoder 'resnet9000'.*correct segmenter\.encoder"):
        Training(SegmentationTask(train, val, wrong, as_they_are), 0, CPU)
    training = Training(SegmentationTask(train, val, SMALL, blanked), 0, CPU)
    with pytest.raises(JobError, match="lower the learning_rate"):
        list(training.epochs())
    train.masks[train.masks == 2] = UNKNOWN
    with pytest.raises(DataError, match=r"no training pixel of class cloud.*data\.mask_classes"):
        SegmentationTask(train, val, SMALL, as_they_are)


def test_command_trains_on_chips(
    tmp_path: Path, rslow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rslow train target` on chips writes a segmenter, its log and its figures.

    One that was stopped after an epoch goes on, and writes the same.
    """
    make_chips(tmp_path, 15, side=32)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
run: {{dir: {tmp_path}/run, threads: 1}}
data: {{kind: chips, images: {tmp_path}/images, masks: {tmp_path}/masks, image_name: 's2_*.tif',
       mask_name: 'mask_*.tif', mask_classes: {{0: background, 1: damage}}, level: L2A,
       file_bands: [B02, B03, B04, B08], tile_size: 32, block_size: 1000, val_share: 0.2,
       test_share: 0.2}}
augment: {{cutout: 0.0}}
target: {{kind: trained}}
segmenter: {{encoder: tu-resnet10t, width: 4, epochs: 2, batch_size: 8}}
"""
    )
    ran = rslow("train", "target", "-c", config)
    assert ran.code == 0, ran.err
    assert "IoU of damage" in ran.out
    report = json.loads((tmp_path / "run/target/report.json").read_text())
    assert report["split"] == "test"
    assert report["blocks"] >= 2
    assert len((tmp_path / "run/target/metrics.jsonl").read_text().splitlines()) == 2
    segmenter = load_trained(tmp_path / "run/target/target.safetensors", CPU)
    assert segmenter.classes == ("background", "damage")
    assert segmenter.figures["mean_iou"] == report["mean_iou"]
    monkeypatch.setattr(train_target, "_SAVE_SECONDS", 0.0)
    stopped = tmp_path / "stopped" / "target"
    work = train_target.train_network(load(config, [f"run.dir={tmp_path}/stopped"]), "target")
    expected = next(work)
    assert isinstance(expected, Expected)
    assert 0 < expected.seconds < 3_600
    next(work)
    assert (stopped / "state.safetensors").exists()  # if it were killed here
    work.close()
    assert not (stopped / "target.safetensors").exists()
    ran = rslow("train", "target", "-c", config, "-s", f"run.dir={tmp_path}/stopped")
    assert ran.code == 0, ran.err
    assert "1 of 2" not in ran.err
    written = tmp_path / "run/target/target.safetensors"
    assert (stopped / "target.safetensors").read_bytes() == written.read_bytes()
    ran = rslow("train", "extractor", "-c", config)
    assert ran.code == 3
    assert "classes of pixels, not of tiles" in ran.err
