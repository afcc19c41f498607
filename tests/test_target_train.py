"""Training, calibration, figures and checkpoints of a classifier of ours."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, JobError, ModelError, SettingsError
from rs_lowconf.settings import ClassifierSettings
from rs_lowconf.target.evaluate import (
    equal_count_error,
    error_by_chance,
    evaluate_classifier,
    expected_calibration_error,
    report,
    wilson_interval,
)
from rs_lowconf.target.networks import ClassificationNetwork
from rs_lowconf.target.normalise import band_statistics, decorrelation
from rs_lowconf.target.tasks import ClassificationTask
from rs_lowconf.target.train import (
    TEMPERATURES,
    Training,
    best_temperature,
    calibrate,
    restore_state,
    save_state,
)
from rs_lowconf.target.trained import NetworkSpec, TrainedNetwork, load_trained, save_trained
from rs_lowconf.types import FeatureExtractor, TargetModel
from tests.fakes import FakeSource

BANDS = BandSpec(names=("B04", "B03", "B08"), level="L1C")
CLASSES = ("Field", "Forest", "Water")
CPU = torch.device("cpu")
SMALL = ClassifierSettings(width=8, epochs=4, batch_size=16, learning_rate=5e-3)


def jitter(image: Tensor, seed: int) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + 0.01 * noise


def blanked(image: Tensor, seed: int) -> Tensor:
    return image * math.nan


def source(per_class: int = 16, **changes: Any) -> FakeSource:
    return FakeSource(BANDS, CLASSES, per_class, **changes)


def start(seed: int = 0, changed: ClassifierSettings = SMALL) -> Training:
    task = ClassificationTask(source(seed=1), source(8, seed=2), changed, jitter)
    return Training(task, seed, CPU)


def trained(seed: int = 0, changed: ClassifierSettings = SMALL) -> TrainedNetwork:
    training = start(seed, changed)
    list(training.epochs())
    return training.best


def untrained(architecture: str = "small_cnn", tile_size: int = 16) -> TrainedNetwork:
    spec = NetworkSpec(
        kind="classifier",
        architecture=architecture,
        width=8,
        bands=BANDS,
        classes=CLASSES,
        tile_size=tile_size,
    )
    return TrainedNetwork(spec, spec.build())


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet", "residual_cnn"])
def test_training_learns_separable_classes(architecture: str) -> None:
    """A few epochs separate classes of different colour and texture, and the loss falls."""
    changed = SMALL.model_copy(update={"architecture": architecture, "epochs": 6})
    training = start(changed=changed)
    records = list(training.epochs())
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1].train_loss < records[0].train_loss
    figures = evaluate_classifier(training.best, source(8, seed=3))
    assert figures.accuracy > 0.9


def test_training_is_repeatable_and_leaves_the_global_state_alone() -> None:
    """The same seed gives the same bits whatever the global random state, another seed not."""
    before = torch.get_rng_state()
    first = start()
    losses = [record.train_loss for record in first.epochs()]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = start(), start(seed=1)
    assert [record.train_loss for record in again.epochs()] == losses
    assert [record.train_loss for record in other.epochs()] != losses
    assert_equal(first.state(), again.state())


def test_best_is_chosen_on_validation() -> None:
    """`best` changes exactly where the validation loss is the lowest so far."""
    lowest, training = math.inf, start(changed=SMALL.model_copy(update={"learning_rate": 0.1}))
    best = training.best
    for record in training.epochs():
        assert (training.best is not best) == (record.val_loss < lowest)
        lowest, best = min(lowest, record.val_loss), training.best


def assert_equal(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Compare the states of two trainings, bit for bit."""
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


@pytest.mark.parametrize("architecture", ["small_cnn", "residual_cnn"])
def test_twenty_epochs_are_ten_and_ten(architecture: str, tmp_path: Path) -> None:
    """Stopped half-way, saved and resumed by another object: the same losses and bits."""
    changed = SMALL.model_copy(update={"epochs": 20, "architecture": architecture})
    whole, first, second = (start(changed=changed) for _ in range(3))
    records = [*itertools.islice(first.epochs(), 10)]
    save_state(tmp_path / "state.safetensors", first, {"seed": 0})
    restore_state(tmp_path / "state.safetensors", second, {"seed": 0})
    assert_equal(first.state(), second.state())
    records += second.epochs()
    expected = list(whole.epochs())
    assert [dataclasses.replace(record, seconds=0.0) for record in records] == [
        dataclasses.replace(record, seconds=0.0) for record in expected
    ]
    assert_equal(whole.state(), second.state())
    image = source(8, seed=3).batch(range(24)).image
    assert torch.equal(whole.best.predict(image), second.best.predict(image))


def test_learning_rates_are_those_of_torch() -> None:
    """The last step of each epoch has the rate of CosineAnnealingLR, bit for bit."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=SMALL.learning_rate)
    steps = 3  # 48 tiles in batches of 16
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, SMALL.epochs * steps)
    rates = []
    for _ in range(SMALL.epochs * steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        decay.step()
    records = list(start().epochs())
    assert [record.learning_rate for record in records] == rates[steps - 1 :: steps]


def test_states_of_other_trainings_are_refused(tmp_path: Path) -> None:
    """By the names of what differs; a damaged file, and one of another network, in one line."""
    path = tmp_path / "state.safetensors"
    training = start()
    save_state(path, training, {"classifier": {"width": 8}, "run.seed": 0})
    with pytest.raises(ModelError, match=r"other settings of classifier, run\.seed.*delete"):
        restore_state(path, start(), {"classifier": {"width": 9}, "run.seed": 1})
    save_state(path, start(changed=SMALL.model_copy(update={"width": 9})), {})
    with pytest.raises(ModelError, match="another version"):
        restore_state(path, start(), {})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="damaged"):
        restore_state(path, start(), {})


def test_draws_are_balanced() -> None:
    """With one class ten times rarer, the augmentation still sees all classes equally often."""
    train = source(44)
    keep = [i for i in range(len(train)) if train.labels[i] != 0 or i < 12]
    train.labels, train._image = train.labels[keep], train._image[keep]
    train.ids = tuple(train.ids[i] for i in keep)
    by_tile = {
        tuple(image[:, 0, 0].tolist()): int(y)
        for image, y in zip(train._image, train.labels, strict=True)
    }
    drawn: list[int] = []

    def watch(image: Tensor, seed: int) -> Tensor:
        drawn.extend(by_tile[tuple(tile[:, 0, 0].tolist())] for tile in image)
        return image

    list(Training(ClassificationTask(train, source(2), SMALL, watch), 0, CPU).epochs())
    shares = torch.bincount(torch.tensor(drawn)) / len(drawn)
    assert shares.min() > 0.25


def test_diverging_training_is_an_error() -> None:
    """A loss that is not a number ends the training with advice."""
    training = Training(ClassificationTask(source(4), source(4), SMALL, blanked), 0, CPU)
    with pytest.raises(JobError, match="lower the learning_rate"):
        list(training.epochs())


def test_splits_are_checked() -> None:
    """An empty split, a class without tiles and differing bands are refused by name."""
    with pytest.raises(DataError, match="validation split has no tile"):
        ClassificationTask(source(4), source(0), SMALL, jitter)
    lacking = source(4)
    lacking.labels = lacking.labels.clamp_max(1)
    with pytest.raises(DataError, match="no training tile of class Water"):
        ClassificationTask(lacking, source(4), SMALL, jitter)
    other = FakeSource(dataclasses.replace(BANDS, level="L2A"), CLASSES, 4)
    with pytest.raises(DataError, match="differ in their bands"):
        ClassificationTask(source(4), other, SMALL, jitter)


def test_band_statistics_match_torch() -> None:
    """Batchwise statistics equal the two-pass ones over the whole split."""
    train = source(50, seed=4)
    mean, covariance = band_statistics(train)
    pixels = train._image.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean, pixels.mean(1))
    assert torch.allclose(covariance, torch.cov(pixels, correction=0))


def test_decorrelated_bands_are_nearly_white() -> None:
    """Strong directions get variance 1, weak ones less, and a constant band stays finite."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 5000, generator=generator, dtype=torch.float64)
    own = torch.randn(4, 5000, generator=generator, dtype=torch.float64)
    pixels = torch.tensor([[0.1], [0.2], [0.05], [0.0]]) * (common + 0.5 * own)
    white = torch.cov(decorrelation(torch.cov(pixels)) @ pixels)
    assert torch.allclose(white[:3, :3], torch.eye(3, dtype=torch.float64), atol=0.15)
    assert white.diagonal().max() < 1
    assert white[3, 3] == 0


def test_unknown_architectures_are_refused() -> None:
    """A wrong architecture, of ours or of timm, is a settings error that names choices."""
    with pytest.raises(SettingsError, match="small_cnn, resnet, residual_cnn or timm:NAME"):
        untrained("big_cnn")
    with pytest.raises(SettingsError, match="timm has no model"):
        untrained("timm:hf-hub:someone/model")


@pytest.mark.parametrize(
    ("architecture", "tile_size"),
    [
        ("small_cnn", 16),
        ("small_cnn", 48),
        ("resnet", 32),
        ("residual_cnn", 32),
        ("timm:resnet18", 32),
        ("timm:vit_tiny_patch16_224", 64),
    ],
)
def test_logits_are_the_head_of_the_features(architecture: str, tile_size: int) -> None:
    """Every architecture takes its tile size, and its head applied to `features` predicts."""
    model = untrained(architecture, tile_size)
    assert isinstance(model.network, ClassificationNetwork)
    image = torch.rand(2, 3, tile_size, tile_size)
    expected = model.network.head(model.features(image)).log_softmax(1)
    assert torch.allclose(model.predict(image), expected, atol=1e-5)


def test_classifier_obeys_the_protocols() -> None:
    """A classifier is a differentiable target and an extractor with frozen weights."""
    model = untrained()
    assert isinstance(model, TargetModel)
    assert isinstance(model, FeatureExtractor)
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    model.predict(image).sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), batch_size=st.integers(1, 5))
@settings(max_examples=15)
def test_micro_batches_change_nothing(sizes: list[int], batch_size: int) -> None:
    """Predictions do not depend on the micro-batch."""
    model = untrained()
    image = torch.rand(sum(sizes), 3, 16, 16)
    whole = model.predict(image)
    model.batch_size = batch_size
    parts = torch.cat([model.predict(part) for part in torch.split(image, sizes)])
    assert torch.allclose(parts, whole, atol=1e-5)


def test_tiles_of_another_shape_are_refused() -> None:
    """Another number of bands or another size is a model error that names both shapes."""
    with pytest.raises(ModelError, match=r"\(3, 32, 32\).*\(3, 16, 16\)"):
        untrained().predict(torch.zeros(1, 3, 32, 32))


def test_log_probability_margin_is_the_logit_margin_over_the_temperature() -> None:
    """Calibration divides margins by T, also where probabilities saturate."""
    model = untrained()
    assert isinstance(model.network, ClassificationNetwork)
    model.network.head.weight.mul_(1e5)
    model.temperature = 2.5
    image = source(2).batch(range(4)).image
    logits = model.network(image)
    margin = logits[:, 0] - logits[:, 1]
    predicted = model.predict(image)
    assert margin.abs().max() > 100
    assert torch.allclose(predicted[:, 0] - predicted[:, 1], margin / 2.5, rtol=1e-3)


@given(seed=st.integers(0, 10_000), sharpness=st.floats(0.3, 6.0))
@settings(max_examples=25)
def test_temperature_minimises_the_likelihood(seed: int, sharpness: float) -> None:
    """No temperature of a fine grid has a lower validation NLL than the one found."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(60, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    logits = sharpness * logits.double()
    low, high = TEMPERATURES
    grid = torch.logspace(math.log10(low), math.log10(high), 2000, dtype=torch.float64)
    brute = min(F.cross_entropy(logits / t, labels).item() for t in grid)
    found = F.cross_entropy(logits / best_temperature(logits, labels), labels).item()
    assert found <= brute + 1e-5


def test_undetermined_temperature_stays_in_range_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A perfect validation split does not sharpen without end, and the log says so."""
    labels = torch.arange(4)
    assert best_temperature(torch.eye(4), labels) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert "do not determine it" in caplog.text


def test_calibration_keeps_the_ranking() -> None:
    """Calibrating changes the temperature and never the predicted class."""
    best = trained()
    before = best.predict(source(8).batch(range(8)).image)
    after = calibrate(best, source(8, seed=2, noise=0.3))
    assert after.temperature != 1.0
    again = after.predict(source(8).batch(range(8)).image)
    assert torch.equal(before.argmax(1), again.argmax(1))


@given(trials=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_interval_matches_the_closed_formula(trials: int, share: float) -> None:
    """The interval equals Wilson's formula with z = 1.959964."""
    successes = round(share * trials)
    p, z = successes / trials, 1.959963984540054
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    assert wilson_interval(successes, trials) == pytest.approx(
        (centre - half, centre + half), abs=1e-9
    )


def test_equal_counts_match_numpy() -> None:
    """Bins of as many tiles each, in order of confidence, as numpy splits them."""
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(311, generator=generator, dtype=torch.float64)
    right = torch.rand(311, generator=generator) < confidence
    order = np.argsort(confidence.numpy())
    gap = (right.double() - confidence).numpy()[order]
    expected = sum(abs(part.sum()) for part in np.array_split(gap, 15)) / 311
    assert equal_count_error(confidence, right) == pytest.approx(expected)


def test_a_calibrated_model_is_at_what_chance_shows() -> None:
    """Right as often as it states: within the spread of draws; overconfident: far above."""
    generator = torch.Generator().manual_seed(4)
    confidence = 1 - 0.5 * torch.rand(3_000, generator=generator, dtype=torch.float64) ** 3
    errors = [
        equal_count_error(confidence, torch.rand(3_000, generator=generator) < confidence)
        for _ in range(100)
    ]
    assert error_by_chance(confidence) == pytest.approx(np.mean(errors), rel=0.05)
    sure = 1 - (1 - confidence) / 3
    right = torch.rand(3_000, generator=generator) < confidence
    assert equal_count_error(sure, right) > 4 * error_by_chance(sure)


def test_ece_matches_a_loop() -> None:
    """The calibration error equals a plain loop over tiles and bins."""
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=generator, dtype=torch.float64)
    right = torch.rand(300, generator=generator) < confidence
    expected = 0.0
    for i in range(15):
        inside = [j for j in range(300) if i / 15 < confidence[j] <= (i + 1) / 15]
        if inside:
            gap = sum(float(right[j]) - float(confidence[j]) for j in inside)
            expected += abs(gap) / 300
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def test_report_counts_by_name() -> None:
    """Accuracy, class accuracy and confusion of four hand-made predictions are right."""
    log_probability = torch.tensor([[0.7, 0.2, 0.1]] * 2 + [[0.1, 0.8, 0.1]] * 2).log()
    figures = report(log_probability, torch.tensor([0, 1, 1, 1]), CLASSES)
    assert figures.accuracy == 0.75
    assert figures.class_accuracy == {"Field": 1.0, "Forest": 2 / 3, "Water": None}
    assert figures.confusion["Forest"] == {"Field": 1, "Forest": 2, "Water": 0}
    assert figures.mean_confidence == pytest.approx(0.75)
    assert figures.nll == pytest.approx(-(math.log(0.7) + math.log(0.2) + 2 * math.log(0.8)) / 4)
    assert figures.note == "4 tiles are too few for a precise ECE"
    json.dumps(dataclasses.asdict(figures), allow_nan=False)


def test_evaluation_goes_by_name_not_by_position() -> None:
    """Bands and classes in another order in the data give the same figures."""
    best = trained()
    test = source(8, seed=3, noise=0.2)
    straight = evaluate_classifier(best, test)
    test.bands = BANDS.select(("B08", "B04", "B03"))
    test._image = test._image[:, [2, 0, 1]]
    test.classes = (CLASSES[2], CLASSES[0], CLASSES[1])
    test.labels = (test.labels + 1) % 3
    assert evaluate_classifier(best, test) == straight
    test.classes = ("Road", *test.classes[1:])
    with pytest.raises(ModelError, match="the data: Road is unknown to the target"):
        evaluate_classifier(best, test)
    test.classes = (f" {CLASSES[2].lower()}", *test.classes[1:])
    with pytest.raises(ModelError, match=r"in the data and .* in the target differ only in case"):
        evaluate_classifier(best, test)
    with pytest.raises(DataError, match="no tile"):
        evaluate_classifier(best, source(0))


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet", "residual_cnn", "timm:resnet18"])
def test_checkpoint_round_trip(architecture: str, tmp_path: Path) -> None:
    """A saved classifier comes back with the same outputs, bands, temperature and figures."""
    model = untrained(architecture)
    model.network.mean.fill_(0.1)
    model.temperature, model.figures = 0.7, {"accuracy": 0.9}
    save_trained(tmp_path / "target.safetensors", model)
    again = load_trained(tmp_path / "target.safetensors", CPU)
    image = torch.rand(3, 3, 16, 16)
    assert torch.equal(model.predict(image), again.predict(image))
    assert (again.spec, again.figures) == (model.spec, model.figures)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    """A missing, cut or altered file is a model error."""
    path = tmp_path / "target.safetensors"
    with pytest.raises(ModelError, match="no checkpoint"):
        load_trained(path, CPU)
    save_trained(path, untrained())
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:-4] + b"abcd", b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            load_trained(path, CPU)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    """A header that does not fit the tensors is a model error in one line."""
    model = untrained()
    model.spec = dataclasses.replace(model.spec, width=16)
    save_trained(tmp_path / "target.safetensors", model)
    with pytest.raises(ModelError, match="do not fit the architecture") as caught:
        load_trained(tmp_path / "target.safetensors", CPU)
    assert "\n" not in str(caught.value)


def test_records_are_lazy() -> None:
    """The caller may stop after any epoch: nothing is trained ahead."""
    endless = SMALL.model_copy(update={"epochs": 10_000})
    training = Training(ClassificationTask(source(4), source(4), endless, jitter), 0, CPU)
    assert [record.epoch for record in itertools.islice(training.epochs(), 2)] == [1, 2]
    assert training.epoch == 2
