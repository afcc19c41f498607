"""Targets made elsewhere: every kind, what they are refused for, and how they are fed."""

import math
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch import Tensor, nn
from torchgeo.trainers import ClassificationTask

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import EmbeddedTarget, ForeignModel, target_settings
from rs_lowconf.target.foreign import ForeignTarget
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.target.trained import NetworkSpec, TrainedNetwork, save_trained
from rs_lowconf.types import TargetModel

BANDS = ("B08", "B03", "B04")
CLASSES = ("Field", "Forest", "Water", "Town")
CPU = torch.device("cpu")
MEAN, STD = (0.2, 0.1, 0.1), (0.1, 0.05, 0.05)
BACKBONE = "resnet10t"


class Plain(nn.Module):
    """A small net whose logits span several units."""

    def __init__(self) -> None:
        super().__init__()
        with forked_rng(5):
            self.convolution = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = F.gelu(self.convolution(x)).mean((2, 3))
        logits: Tensor = 5 * self.head(pooled)
        return logits


class Answer(nn.Module):
    """Wraps a function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def plain() -> nn.Module:
    return Plain().eval()


def no_module() -> object:
    return "text"


def breaks() -> object:
    return 1 / 0


def backbone() -> nn.Module:
    with forked_rng(6):
        created: Any = timm.create_model(BACKBONE, in_chans=3, num_classes=4)
    # Logits of a trained model do not all lie in 0 .. 1.
    created.fc.weight.data *= 40
    module: nn.Module = created.eval()
    return module


def options(**changes: Any) -> ForeignModel:
    source = {} if "kind" in changes else {"kind": "python", "python": "x:y"}
    found = target_settings({"bands": BANDS, "classes": CLASSES, **source, **changes})
    assert isinstance(found, ForeignModel)
    return found


def in_file(kind: str, path: Path) -> ForeignModel:
    """Return settings of a kind whose model is in a file, or beside it."""
    match kind:
        case "python":
            return options()
        case "timm":
            return options(kind=kind, path=path, architecture=BACKBONE)
    return options(kind=kind, path=path)


def load(changed: ForeignModel, *, trust: bool = True, tile_size: int = 32) -> TargetModel:
    return load_target(changed, Path("unused"), trust_code=trust, tile_size=tile_size, device=CPU)


def wrap(function: Callable[[Tensor], Any], **changes: Any) -> ForeignTarget:
    return ForeignTarget(Answer(function), options(**changes), tile_size=16, device=CPU)


def tiles(n: int = 5, side: int = 32) -> Tensor:
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(1))


def write_export(path: Path) -> nn.Module:
    module = plain()
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (tiles(2),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return module


def write_torchscript(path: Path) -> nn.Module:
    module = plain()
    with warnings.catch_warnings():
        # Writing TorchScript is deprecated; the test has to write what people still have.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return module


def write_timm(path: Path) -> nn.Module:
    module = backbone()
    save_file(module.state_dict(), path)
    return module


def write_timm_pth(path: Path) -> nn.Module:
    module = backbone()
    torch.save({"state_dict": module.state_dict()}, path)
    return module


def write_torchgeo(path: Path, **changes: Any) -> nn.Module:
    values: dict[str, Any] = {"model": BACKBONE, "in_channels": 3, "num_classes": 4, **changes}
    with forked_rng(7):
        task = ClassificationTask(**values)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=path.parent,
    )  # fmt: skip
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    module: nn.Module = task.model.eval()
    return module


@pytest.mark.parametrize(
    ("kind", "name", "write", "changes"),
    [
        ("export", "model.pt2", write_export, {}),
        ("torchscript", "model.pt", write_torchscript, {}),
        ("timm", "model.safetensors", write_timm, {"architecture": BACKBONE}),
        ("timm", "model.pth", write_timm_pth, {"architecture": BACKBONE}),
        ("torchgeo", "last.ckpt", write_torchgeo, {}),
    ],
)
def test_every_kind_gives_what_its_module_gives(
    kind: str,
    name: str,
    write: Callable[[Path], nn.Module],
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    """A model saved in each form predicts what the module does when fed by hand."""
    module = write(tmp_path / name)
    changed = options(
        kind=kind, path=tmp_path / name, mean=MEAN, std=STD, temperature=1.5, **changes
    )
    target = load(changed, trust=kind in ("export", "torchscript"))
    assert isinstance(target, TargetModel)
    image = tiles().requires_grad_()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        expected = (module((image - mean) / std) / 1.5).log_softmax(1)
    predicted = target.predict(image)
    assert torch.allclose(predicted, expected, atol=1e-4)
    assert target.differentiable
    predicted[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_python_factory_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module:factory` finds a module beside the user and calls the factory."""
    code = (
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3, 4))\n"
    )
    (tmp_path / "my_target_model.py").write_text(code)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    target = load(options(python="my_target_model:make"))
    assert target.predict(tiles()).shape == (5, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:make", "No module named"),
        (f"{__name__}:missing", "missing"),
        (f"{__name__}:no_module", "returned a str"),
        ("no_colon", "not of the form module:function"),
        (f"{__name__}:breaks", "fails .ZeroDivisionError"),
    ],
)
def test_python_factories_that_cannot_be_used(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name or a factory of something else is a model error that says which."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModelError, match=message):
        load(options(python=name))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("export", "torch unpickles parts of it"),
        ("torchscript", "is a TorchScript file and runs foreign code"),
        ("python", "runs foreign code"),
        ("torchgeo", "reading such a pickle runs foreign code"),
        ("timm", "reading such a pickle runs foreign code"),
    ],
)
def test_code_needs_trust(kind: str, why: str, tmp_path: Path) -> None:
    """Whatever can run code is refused unread without trust: reason and option are named."""
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "extra": plain()}, path)
    changed = in_file(kind, path)
    with pytest.raises(ModelError, match=f"{why}.*--trust-code"):
        load(changed, trust=False)


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-executed"),))


def test_untrusted_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile checkpoint is refused before its code runs."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "model.pth")
    changed = options(kind="timm", path=tmp_path / "model.pth", architecture=BACKBONE)
    with pytest.raises(ModelError, match="--trust-code"):
        load(changed, trust=False)
    assert not (tmp_path / "was-executed").exists()


def test_a_trusted_pickled_module_gives_its_weights(tmp_path: Path) -> None:
    """With trust, a pickled timm module is read like its state_dict."""
    module = backbone()
    torch.save(module, tmp_path / "model.pth")
    target = load(options(kind="timm", path=tmp_path / "model.pth", architecture=BACKBONE))
    assert torch.allclose(target.predict(tiles()), module(tiles()).log_softmax(1), atol=1e-4)


@pytest.mark.parametrize("kind", ["export", "torchscript", "timm", "torchgeo"])
def test_missing_and_damaged_files(kind: str, tmp_path: Path) -> None:
    """A missing file and one that is not what it should be are model errors in one line."""
    changed = in_file(kind, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="there is no target"):
        load(changed)
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 not much of a model")
    with pytest.raises(ModelError, match=r"model\.pt") as caught:
        load(changed)
    assert "\n" not in str(caught.value)


def test_an_export_of_something_else_is_refused(tmp_path: Path) -> None:
    """A zip archive that holds no program is a model error."""
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt2")
    with pytest.raises(ModelError, match="cannot be read"):
        load(options(kind="export", path=tmp_path / "model.pt2"))


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    """A cut weight file is a model error."""
    path = tmp_path / "model.safetensors"
    write_timm(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged"):
        load(options(kind="timm", path=path, architecture=BACKBONE))


def test_weights_must_fit(tmp_path: Path) -> None:
    """Weights of another architecture, and files without weights, are refused."""
    write_timm(tmp_path / "model.safetensors")
    changed = options(kind="timm", path=tmp_path / "model.safetensors", architecture="resnet14t")
    with pytest.raises(ModelError, match="do not fit the architecture"):
        load(changed)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="contains no weights"):
        load(options(kind="timm", path=tmp_path / "list.pth", architecture=BACKBONE))
    with pytest.raises(SettingsError, match="timm has no model"):
        load(options(kind="timm", path=tmp_path / "list.pth", architecture="resnet0"))


def test_torchgeo_checkpoints_must_fit_the_settings(tmp_path: Path) -> None:
    """Another number of bands or classes, another task, or no task at all is refused."""
    path = tmp_path / "last.ckpt"
    write_torchgeo(path, num_classes=7)
    with pytest.raises(ModelError, match=r"num_classes 7 and target\.classes lists 4"):
        load(options(kind="torchgeo", path=path))
    write_torchgeo(path, task="multilabel", num_classes=None, num_labels=4)
    with pytest.raises(ModelError, match="not a binary or multiclass task"):
        load(options(kind="torchgeo", path=path))
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not a Lightning checkpoint"):
        load(options(kind="torchgeo", path=path))


def level(x: Tensor) -> Tensor:
    """Return four logits that are simple functions of the input."""
    pooled = x.mean((2, 3))
    return torch.cat([pooled, pooled[:, :1] + 1], dim=1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: level(x)[:, :3], r"shape \(3, 3\); expected \(3, 4\)"),
        (lambda x: level(x)[0], r"shape \(4,\)"),
        (lambda x: level(x) * math.nan, "NaN"),
        (lambda x: {"logits": level(x)}, "returns a dict"),
        (lambda x: level(x).softmax(1), "set target.output=probabilities"),
        (lambda x: level(x) - level(x).mean(0), "alone and in a batch"),
        (lambda x: x @ torch.zeros(7, 7), "rejects 3 tiles"),
    ],
)
def test_the_probe_finds_misfits(function: Callable[[Tensor], Any], message: str) -> None:
    """Modules that return something else than agreed are refused before the first evaluation."""
    with pytest.raises(ModelError, match=message):
        wrap(function)


def test_dropout_left_on_is_found() -> None:
    """A module that still drops features at random is refused, whatever it drops."""
    for seed in range(40):
        with forked_rng(seed), pytest.raises(ModelError, match="without dropout"):
            wrap(lambda x: F.dropout(10 + level(x), 0.5, training=True))


def test_unnormalised_probabilities_are_refused() -> None:
    """Outputs said to be probabilities must be non-negative and sum to one."""
    with pytest.raises(ModelError, match=r"sum to .* set target\.output to what"):
        wrap(level, output="probabilities")
    with pytest.raises(ModelError, match=r"outputs are -0\.5 \.\. 1\.5"):
        wrap(lambda x: torch.tensor([[1.5, -0.5, 0, 0]]).expand(len(x), 4), output="probabilities")


def test_misbehaviour_after_the_probe_is_found() -> None:
    """NaN for tiles unlike the probe's is a model error at the first prediction."""
    target = wrap(lambda x: level(x.sqrt()))
    with pytest.raises(ModelError, match="NaN"):
        target.predict(torch.full((2, 3, 16, 16), -1.0))


def test_probabilities_become_log_probabilities() -> None:
    """Probabilities of exactly 0 give finite logarithms, the others exact ones."""
    target = wrap(lambda x: (500 * level(x)).softmax(1), output="probabilities")
    image = tiles(side=16)
    predicted = target.predict(image)
    assert torch.isfinite(predicted).all()
    assert torch.allclose(predicted.exp().sum(1), torch.ones(5))
    gentle = wrap(lambda x: level(x).softmax(1), output="probabilities", temperature=2.0)
    assert torch.allclose(gentle.predict(image), (level(image) / 2).log_softmax(1), atol=1e-5)


def test_units_and_size() -> None:
    """Digital numbers are 10 000 times reflectance, and tiles are resized before the module."""
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return level(x)

    target = wrap(watch, input="digital_numbers", input_size=24, mean=(1000.0,), std=(500.0,))
    target.predict(torch.full((2, 3, 16, 16), 0.2))
    assert seen[-1].shape == (2, 3, 24, 24)
    assert torch.allclose(seen[-1], torch.tensor(2.0), atol=1e-3)


def test_a_module_without_gradients_is_marked() -> None:
    """Gradients that do not reach the image make the target not differentiable."""
    target = wrap(lambda x: level(x.detach()))
    assert not target.differentiable
    assert not target.predict(tiles(side=16).requires_grad_()).requires_grad


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), batch_size=st.integers(1, 5))
@settings(max_examples=25)
def test_micro_batches_change_nothing_and_every_tile_counts(
    sizes: list[int], batch_size: int
) -> None:
    """Forward passes hold at most `batch_size` tiles, and results and counter do not show it."""
    largest = 0

    def watch(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(x))
        return level(x)

    target = wrap(watch, batch_size=batch_size)
    largest = 0
    image = tiles(sum(sizes), 16)
    parts = torch.cat([target.predict(part) for part in torch.split(image, sizes)])
    assert torch.allclose(parts, level(image).log_softmax(1), atol=1e-5)
    assert largest <= batch_size


@given(temperature=st.floats(0.2, 5.0))
@settings(max_examples=20)
def test_the_margin_is_the_logit_margin_over_the_temperature(temperature: float) -> None:
    """The temperature divides the margin between any two classes."""
    target = wrap(lambda x: 50 * level(x), temperature=temperature)
    image = tiles(side=16)
    predicted, logits = target.predict(image), 50 * level(image)
    margin = (logits[:, 3] - logits[:, 1]) / temperature
    assert torch.allclose(predicted[:, 3] - predicted[:, 1], margin, rtol=1e-3)


def test_trained_targets_load_by_the_same_function(tmp_path: Path) -> None:
    """Our own checkpoints are read at the batch size of the settings."""
    bands = BandSpec(names=BANDS, level="L1C")
    spec = NetworkSpec(
        kind="classifier",
        architecture="small_cnn",
        width=4,
        bands=bands,
        classes=CLASSES,
        tile_size=16,
    )
    model = TrainedNetwork(spec, spec.build(), temperature=0.8)
    save_trained(tmp_path / "target.safetensors", model)
    target = load_target(
        EmbeddedTarget(batch_size=2),
        tmp_path / "target.safetensors",
        trust_code=False,
        tile_size=16,
        device=CPU,
    )
    assert torch.allclose(target.predict(tiles(side=16)), model.predict(tiles(side=16)), atol=1e-6)


def test_fit_gives_the_channels_in_the_target_order() -> None:
    """Bands are found by name wherever the data have them."""
    data = BandSpec(names=("B02", "B03", "B04", "B08"), level="L1C")
    assert check_fit(wrap(level).bands, data) == (3, 1, 2)


def test_misfits_are_refused_before_any_evaluation() -> None:
    """Missing bands and another processing level are model errors that name both sides."""
    target = wrap(level)
    with pytest.raises(ModelError, match="target reads B08, the data have B03, B04"):
        check_fit(target.bands, BandSpec(names=("B03", "B04"), level="L1C"))
    with pytest.raises(ModelError, match="made for L1C, the data are L2A"):
        check_fit(target.bands, BandSpec(names=BANDS, level="L2A"))


def test_payload_is_a_real_threat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hostile object of these tests does run code when unpickled, so they can fail."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))  # noqa: S301 - our own bytes
    assert (tmp_path / "was-executed").exists()
