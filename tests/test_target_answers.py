"""What no kind of target gets through: NaN, infinity, and numbers on another scale than said."""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import AnswerError, ModelError
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import target_settings
from rs_lowconf.target.answers import are_distributions, log_odds_of
from rs_lowconf.target.load import load_target
from rs_lowconf.target.networks import SegmentationNetwork
from rs_lowconf.target.trained import NetworkSpec, TrainedNetwork, save_trained
from rs_lowconf.types import TargetModel

BANDS = ("B08", "B03", "B04")
CLASSES = ("Field", "Forest", "Water")
SIDE = 32
BACKBONE = "resnet10t"
BRIGHT = 3e38
"""A reflectance that is finite, and that no network survives."""

Bias = Sequence[float] | None
Made = dict[str, Any]


class Net(nn.Module):
    """A small net that answers `bias` for every tile, where there is one."""

    def __init__(self, bias: Bias) -> None:
        super().__init__()
        with forked_rng(5):
            self.convolution = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)
        fix(self.head, bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.convolution(x).mean((2, 3)))
        return logits


def fix(head: Any, bias: Bias) -> None:
    """Have a network's last layer answer `bias`, or logits as those of a trained network."""
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-2.0, 0.0, 2.0] if bias is None else bias))
        if bias is not None:
            head.weight.zero_()


def _timm(folder: Path, bias: Bias) -> Made:
    with forked_rng(6):
        module = timm.create_model(BACKBONE, in_chans=3, num_classes=3).eval()
    fix(module.fc, bias)
    save_file(module.state_dict(), folder / "net.safetensors")
    return {"path": folder / "net.safetensors", "architecture": BACKBONE}


def _torchgeo(folder: Path, bias: Bias) -> Made:
    with forked_rng(6):
        module = timm.create_model(BACKBONE, in_chans=3, num_classes=3).eval()
    fix(module.fc, bias)
    weights = {f"model.{name}": value for name, value in module.state_dict().items()}
    options = {"model": BACKBONE, "in_channels": 3, "num_classes": 3}
    torch.save({"hyper_parameters": options, "state_dict": weights}, folder / "net.ckpt")
    return {"path": folder / "net.ckpt"}


def _smp(folder: Path, bias: Bias) -> Made:
    with forked_rng(6):
        module = smp.create_model("unet", "resnet18", None, in_channels=3, classes=3).eval()
    fix(module.segmentation_head[0], bias)
    save_file(module.state_dict(), folder / "net.safetensors")
    return {"path": folder / "net.safetensors", "architecture": "unet", "encoder": "resnet18"}


def _export(folder: Path, bias: Bias) -> Made:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Net(bias).eval(), (torch.rand(2, 3, SIDE, SIDE),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, folder / "net.pt2")
    return {"path": folder / "net.pt2"}


def _torchscript(folder: Path, bias: Bias) -> Made:
    with warnings.catch_warnings():
        # Writing TorchScript is deprecated; the test has to write what people still have.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(Net(bias).eval()), folder / "net.pt")
    return {"path": folder / "net.pt"}


def _python(folder: Path, bias: Bias) -> Made:
    global made_by_factory  # noqa: PLW0603 - a target of kind python is found by its name
    made_by_factory = Net(bias)
    return {"python": f"{__name__}:factory"}


made_by_factory: nn.Module


def factory() -> nn.Module:
    return made_by_factory


def _onnx(folder: Path, bias: Bias) -> Made:
    net = Net(bias)
    layers = {"w": net.convolution.weight, "v": net.convolution.bias, "a": net.head.weight,
              "b": net.head.bias}  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "v"], ["y"], pads=[1, 1, 1, 1]),
            helper.make_node("ReduceMean", ["y"], ["p"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["p", "a", "b"], ["z"], transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(value.detach().numpy(), n)
            for n, value in layers.items()
            if value is not None
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "net.onnx")
    return {"path": folder / "net.onnx"}


def _samples() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return pixels and classes; very bright pixels are a class, and so a leaf, of their own."""
    x = 2 * np.random.default_rng(7).random((120, 3)).astype(np.float32)
    x[:40, 0] = 1_000.0
    return x, np.where(x[:, 0] > 100, 0, 1 + (x[:, 1] > 0.5))


def _lightgbm(folder: Path, bias: Bias) -> Made:
    x, y = _samples()
    options = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(options, lightgbm.Dataset(x, y), 1)
    reached = np.asarray(booster.predict(x[:40], pred_leaf=True))
    bright = {int(leaf) for leaf in reached[:, 0]}
    tree, lines = -1, booster.model_to_string().splitlines()
    for number, line in enumerate(lines):
        tree += line.startswith("Tree=")
        if line.startswith("leaf_value="):
            leaves = line.removeprefix("leaf_value=").split()
            if bias is None and tree == 0:  # the class of the bright ones
                leaves = ["nan" if i in bright else leaf for i, leaf in enumerate(leaves)]
            elif bias is not None:
                leaves = [f"{bias[tree]}"] * len(leaves)
            lines[number] = "leaf_value=" + " ".join(leaves)
    # The sizes of the trees, which are others now, may be left out.
    lines = [line for line in lines if not line.startswith("tree_sizes=")]
    (folder / "net.txt").write_text("\n".join(lines) + "\n")
    return {"path": folder / "net.txt"}


class Constant:
    """An estimator of scikit-learn's form."""

    def __init__(self, bias: Sequence[float]) -> None:
        self.bias = bias

    def decision_function(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.tile(self.bias, (len(x), 1))


def _sklearn(folder: Path, bias: Bias) -> Made:
    if bias is not None:
        joblib.dump(Constant(bias), folder / "net.pkl")
        return {"path": folder / "net.pkl"}
    x, y = _samples()
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(x, y)
    tree.tree_.value[tree.apply(x[:1])] = np.nan
    joblib.dump(tree, folder / "net.pkl")
    return {"path": folder / "net.pkl", "output": "probabilities"}


def _callable(folder: Path, bias: Bias) -> Made:
    global called  # noqa: PLW0603 - a target of kind callable is found by its name
    called = _function(bias)
    return {"python": f"{__name__}:asked"}


def asked(image: NDArray[Any]) -> NDArray[Any]:
    return called(image)


called: Callable[[NDArray[Any]], NDArray[Any]]


def _function(bias: Bias) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def answer(image: NDArray[Any]) -> NDArray[Any]:
        if bias is not None:
            return np.tile(bias, (len(image), 1))
        bright = image.max((1, 2, 3)) > 100
        return np.where(bright[:, None], np.nan, image[:, :, 0, 0] * [4, 5, 6] - 2)

    return answer


def _process(folder: Path, bias: Bias) -> Made:
    (folder / "net.py").write_text(
        "import sys\n"
        f"sys.path.append({str(Path(__file__).parents[1])!r})\n"
        "import numpy as np\n"
        "from rs_lowconf.target.serve import serve\n"
        "nan, inf = np.nan, np.inf\n"
        f"bias = {bias!r}\n"
        "def answer(image):\n"
        "    if bias is not None:\n"
        "        return np.tile(bias, (len(image), 1))\n"
        "    bright = image.max((1, 2, 3)) > 100\n"
        "    return np.where(bright[:, None], np.nan, image[:, :, 0, 0] * [4, 5, 6] - 2)\n"
        "serve(answer)\n"
    )
    return {"command": (sys.executable, str(folder / "net.py"))}


FOREIGN: dict[str, Callable[[Path, Bias], Made]] = {
    "torchgeo": _torchgeo,
    "timm": _timm,
    "smp": _smp,
    "export": _export,
    "torchscript": _torchscript,
    "python": _python,
    "onnx": _onnx,
    "lightgbm": _lightgbm,
    "sklearn": _sklearn,
    "callable": _callable,
    "process": _process,
}


def load(kind: str, folder: Path, bias: Bias = None, **changes: Any) -> TargetModel:
    """Return a target that answers `bias` everywhere, or sensibly except for very bright tiles."""
    trained = folder / "target.safetensors"
    values: Made = {"kind": kind, **changes}
    if kind in FOREIGN:
        values = {"bands": BANDS, "classes": CLASSES, **FOREIGN[kind](folder, bias), **values}
    else:
        _write_ours(trained, kind, bias)
        values["kind"] = "trained"
    return load_target(
        target_settings(values),
        trained,
        trust_code=True,
        tile_size=SIDE,
        device=torch.device("cpu"),
    )


def _write_ours(path: Path, kind: str, bias: Bias) -> None:
    bands = BandSpec(names=BANDS, level="L1C")
    with forked_rng(5):
        segmenter = kind == "trained segmenter"
        spec = NetworkSpec(
            kind="segmenter" if segmenter else "classifier",
            architecture="resnet18" if segmenter else "small_cnn",
            width=4,
            bands=bands,
            classes=CLASSES,
            tile_size=SIDE,
        )
        network = spec.build()
        if isinstance(network, SegmentationNetwork):
            fix(network.spectral[2], bias)
        elif bias is not None:
            for parameter in network.parameters():
                parameter.data.fill_(bias[0])
        save_trained(path, TrainedNetwork(spec, network))


def tiles(n: int = 4) -> Tensor:
    return torch.rand((n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))


ALL = ("trained", "trained segmenter", *FOREIGN)


@pytest.mark.parametrize("kind", ALL)
def test_a_tile_without_an_answer_is_named_and_the_others_are_answered(
    kind: str, tmp_path: Path
) -> None:
    """Of every kind of target: the tile is named by its place, in a part of the batch too."""
    target = load(kind, tmp_path, batch_size=3)
    image = tiles(5)
    alone = target.predict(image)
    assert alone.isfinite().all()
    image[4, 0] = BRIGHT
    with pytest.raises(AnswerError, match="NaN or infinity") as caught:
        target.predict(image)
    assert caught.value.tiles == (4,)
    assert torch.allclose(target.predict(image[:4]), alone[:4], atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_model_of_nan_or_infinity_is_refused(kind: str, value: float, tmp_path: Path) -> None:
    """Of every kind of target: such weights or answers are an error, at the latest when asked."""
    with pytest.raises(ModelError, match=r"NaN or infinity|damaged"):
        load(kind, tmp_path, (value, 1.0, 2.0)).predict(tiles())


@pytest.mark.parametrize("kind", FOREIGN)
def test_probabilities_are_not_taken_for_logits(kind: str, tmp_path: Path) -> None:
    """Of every foreign kind: shares of 1, shares of 100 and numbers in 0 .. 1 are refused."""
    for bias, message in (
        ((0.2, 0.5, 0.3), r"probabilities that sum to 1, but.*set target\.output=probabilities"),
        (
            (20.0, 50.0, 30.0),
            r"probabilities that sum to 100, but.*set target\.output=probabilities",
        ),
        ((0.9, 0.7, 0.3), r"in 0 \.\. 1 .*set target\.output=probabilities if.*or sigmoid if"),
    ):
        with pytest.raises(ModelError, match=message):
            load(kind, tmp_path, bias)


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind not in ("lightgbm", "sklearn")])
def test_what_is_said_to_be_a_share_is_one(kind: str, tmp_path: Path) -> None:
    """Of every kind that is told: per cent are read as such, and other scales are refused."""
    found = load(kind, tmp_path, (20.0, 50.0, 30.0), output="probabilities").predict(tiles()).exp()
    assert torch.allclose(found[0].reshape(3, -1)[:, 0], torch.tensor([0.2, 0.5, 0.3]))
    for bias, output in (
        ((0.9, 0.7, 0.3), "probabilities"),
        ((51.0, 127.0, 77.0), "probabilities"),
        ((-0.2, 0.7, 0.5), "probabilities"),
        ((-2.0, 0.5, 3.0), "sigmoid"),
        ((0.2, 0.5, 0.3), "sigmoid"),
    ):
        with pytest.raises(ModelError, match=r"set target\.output"):
            load(kind, tmp_path, bias, output=output)


# Number formats


def wrap(function: Callable[[Tensor], Tensor], **changes: Any) -> TargetModel:
    """Return a target that answers with a function of what `Net` answers."""

    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(None)

        def forward(self, x: Tensor) -> Tensor:
            return function(3 * self.net(x))

    global made_by_factory  # noqa: PLW0603
    made_by_factory = Changed()
    values = {"kind": "python", "python": f"{__name__}:factory", "bands": BANDS,
              "classes": CLASSES, **changes}  # fmt: skip
    return load_target(
        target_settings(values),
        Path("unused"),
        trust_code=True,
        tile_size=SIDE,
        device=torch.device("cpu"),
    )


FORMATS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "float32": (lambda p: p, 1e-6),
    "bfloat16": (lambda p: p.bfloat16(), 2**-8),
    "float16": (lambda p: p.half(), 2**-11),
    "bfloat16 as float32": (lambda p: p.bfloat16().float(), 2**-8),
    "two decimals": (lambda p: p.round(decimals=2), 0.006),
    "three decimals": (lambda p: p.round(decimals=3), 0.0006),
    "bytes": (lambda p: (p * 255).round() / 255, 0.003),
    "per cent": (lambda p: 100 * p, 1e-6),
    "whole per cent": (lambda p: (100 * p).round(), 0.006),
}


@pytest.mark.parametrize("form", FORMATS)
def test_probabilities_are_recognised_in_every_number_format(form: str) -> None:
    """The confidence is that of the logits up to rounding, and never that of other logits."""
    rounded, error = FORMATS[form]
    expected = wrap(lambda x: x).predict(tiles()).exp()
    target = wrap(lambda x: rounded(x.softmax(1)), output="probabilities")
    # Divided by a sum that is not 1, a share changes by as much as it was off, once more.
    assert (target.predict(tiles()).exp() - expected).abs().max() <= 3 * error
    with pytest.raises(ModelError, match="probabilities that sum to 1"):
        wrap(lambda x: rounded(x.softmax(1)))


def test_one_sigmoid_per_class_is_its_logit() -> None:
    """Sigmoids lead to the confidence of the logits before them; as logits they are refused."""
    expected = wrap(lambda x: x).predict(tiles())
    found = wrap(lambda x: x.sigmoid(), output="sigmoid").predict(tiles())
    assert torch.allclose(found, expected, atol=1e-3)
    with pytest.raises(ModelError, match="or sigmoid if classes are independent"):
        wrap(lambda x: x.sigmoid())
    with pytest.raises(ModelError, match="sum to"):
        wrap(lambda x: x.sigmoid(), output="probabilities")


def test_one_sigmoid_of_two_classes_is_a_probability() -> None:
    """A single number for the second of two classes means the same as share and as sigmoid."""
    both = [
        wrap(lambda x: x[:, :1].sigmoid(), output=output, classes=("no", "yes")).predict(tiles())
        for output in ("probabilities", "sigmoid")
    ]
    assert torch.allclose(both[0], both[1], atol=1e-5)
    assert torch.allclose(both[0].exp()[:, 1], (3 * Net(None)(tiles()))[:, 0].sigmoid(), atol=1e-5)


@given(shares=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_sigmoids_are_read_as_exactly_one_of_the_classes(shares: list[float]) -> None:
    """The softmax of log-odds is the chance of each class, given that exactly one is present.

    The oracle adds up all outcomes of independent coins with one head.
    """
    alone = [
        np.prod([p if i == j else 1 - p for j, p in enumerate(shares)]) for i in range(len(shares))
    ]
    found = log_odds_of(torch.tensor([shares], dtype=torch.float64)).softmax(1)[0]
    np.testing.assert_allclose(found.numpy(), np.array(alone) / sum(alone), rtol=1e-9)


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=40),
    form=st.sampled_from(sorted(FORMATS)),
)
@settings(max_examples=200, deadline=None)
def test_any_softmax_is_a_distribution_in_any_format(logits: list[float], form: str) -> None:
    """However many classes and however rounded, what a softmax gave is taken for probabilities."""
    numbers = FORMATS[form][0](torch.tensor([logits]).softmax(1)).float()
    whole = 100.0 if "per cent" in form else 1.0
    slips = abs(float(numbers.sum()) / whole - 1)
    assert slips > 0.1 or are_distributions(numbers, whole).all()


@given(sums=st.floats(0.0, 3.0), seed=st.integers(0, 10_000), count=st.integers(3, 20))
@settings(max_examples=200, deadline=None)
def test_float32_that_does_not_sum_to_one_is_no_distribution(
    sums: float, seed: int, count: int
) -> None:
    """Numbers that are not rounded get no more slack than float32 needs."""
    numbers = torch.rand((1, count), generator=torch.Generator().manual_seed(seed))
    numbers *= sums / numbers.sum()
    assume(abs(abs(float(numbers.sum()) - 1) - 1e-3) > 1e-5)
    assert bool(are_distributions(numbers, 1.0)) == (abs(float(numbers.sum()) - 1) <= 1e-3)
