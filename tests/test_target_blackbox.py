"""Targets without gradients and targets that answer for every pixel: right, or refused."""

import gc
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchgeo.trainers import SemanticSegmentationTask

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.seeds import forked_rng
from rs_lowconf.settings import ForeignModel, target_settings
from rs_lowconf.settings import load as load_settings
from rs_lowconf.target.foreign import ForeignTarget
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.target.windows import cut, mirrored
from rs_lowconf.types import TargetModel

BANDS = ("B08", "B03", "B04")
CLASSES = ("Field", "Forest", "Water")
CPU = torch.device("cpu")
SIDE = 8
CONFIGS = Path(__file__).parents[1] / "configs"

Numbers = NDArray[Any]


def options(**changes: Any) -> ForeignModel:
    found = target_settings({"bands": BANDS, "classes": CLASSES, **changes})
    assert isinstance(found, ForeignModel)
    return found


def load(changed: ForeignModel, *, trust: bool = True, tile_size: int = SIDE) -> TargetModel:
    return load_target(changed, Path("unused"), trust_code=trust, tile_size=tile_size, device=CPU)


def tiles(n: int = 4, side: int = SIDE, bands: int = 3) -> Tensor:
    return torch.rand((n, bands, side, side), generator=torch.Generator().manual_seed(1))


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# Tables: LightGBM and scikit-learn


def row_of(tile: Numbers, rows: str) -> Numbers:
    """Return the row of a tile c h w, or of a pixel c, written another way than ours."""
    if rows == "tile":
        return np.array([value for band in tile for line in band for value in line])
    if rows == "statistics":
        return np.array([*(band.mean() for band in tile), *(band.std() for band in tile)])
    return tile


def by_hand(predict: Callable[[Numbers], Numbers], image: Numbers, rows: str) -> Numbers:
    """Return probabilities b k or b k h w, asking for one row at a time."""
    if rows != "pixel":
        return np.stack([predict(row_of(tile, rows)[None])[0] for tile in image])
    b, _, h, w = image.shape
    answer = np.zeros((b, len(CLASSES), h, w))
    for i, y, x in np.ndindex(b, h, w):
        answer[i, :, y, x] = predict(image[i, :, y, x][None])[0]
    return answer


def table(rows: str, classes: int) -> tuple[Numbers, Numbers]:
    columns = {"pixel": 3, "tile": 3 * SIDE * SIDE, "statistics": 6}[rows]
    x = rng().random((150, columns))
    return x, np.digitize(x[:, 0] + 0.3 * x[:, 1], np.linspace(0.2, 1.1, classes + 1)[1:-1])


@pytest.mark.parametrize("rows", ["pixel", "tile", "statistics"])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_booster_gives_what_lightgbm_gives(rows: str, output: str, tmp_path: Path) -> None:
    """Raw scores and probabilities both lead to the library's own probabilities, row by row."""
    x, y = table(rows, 3)
    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), 8)
    booster.save_model(tmp_path / "model.txt")
    changed = options(kind="lightgbm", path=tmp_path / "model.txt", rows=rows, output=output)
    target = load(changed, trust=False)
    image = tiles()
    expected = by_hand(lambda x: np.asarray(booster.predict(x)), image.numpy(), rows)
    assert isinstance(target, TargetModel)
    assert target.pixelwise == (rows == "pixel")
    assert not target.differentiable
    assert np.allclose(target.predict(image).exp().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("rows", ["pixel", "tile", "statistics"])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_an_estimator_gives_what_scikit_learn_gives(rows: str, output: str, tmp_path: Path) -> None:
    """A pickled classifier predicts its own probabilities, from either of its methods."""
    x, y = table(rows, 3)
    estimator = LogisticRegression().fit(x, y)
    joblib.dump(estimator, tmp_path / "model.joblib")
    changed = options(kind="sklearn", path=tmp_path / "model.joblib", rows=rows, output=output)
    image = tiles()
    expected = by_hand(estimator.predict_proba, image.numpy(), rows)
    assert np.allclose(load(changed).predict(image).exp().numpy(), expected, atol=1e-5)


def test_the_objective_decides_whether_raw_scores_are_logits(tmp_path: Path) -> None:
    """Where a Booster's raw scores are no logits, it is to be asked for probabilities."""
    x, y = table("pixel", 2)
    parameters = {"objective": "binary", "sigmoid": 2.0, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), 8)
    path = tmp_path / "model.txt"
    booster.save_model(path)
    changes = {"kind": "lightgbm", "path": path, "classes": ("no", "yes")}
    with pytest.raises(ModelError, match=r"binary sigmoid:2; set target\.output=probabilities"):
        load(options(**changes))
    image = tiles(1)
    predicted = load(options(**changes, output="probabilities")).predict(image).exp()
    pixels = image[0].permute(1, 2, 0).reshape(-1, 3).numpy()
    assert np.allclose(predicted[0, 1].flatten().numpy(), booster.predict(pixels), atol=1e-6)


def test_tables_of_another_width_are_refused(tmp_path: Path) -> None:
    """A table model made for other bands or rows is told apart before it is asked."""
    x, y = table("statistics", 3)
    joblib.dump(LogisticRegression().fit(x, y), tmp_path / "model.pkl")
    with pytest.raises(ModelError, match=r"reads rows of 6 numbers, target\.rows=pixel gives 3"):
        load(options(kind="sklearn", path=tmp_path / "model.pkl"))


def test_estimators_that_cannot_be_used(tmp_path: Path) -> None:
    """Classes in another order, a missing method and other objects are model errors."""
    x, y = table("pixel", 3)
    path = tmp_path / "model.joblib"
    named = np.array(["Field", "Water", "Forest"])[y]
    joblib.dump(RandomForestClassifier(3, random_state=0).fit(x, named), path)
    with pytest.raises(ModelError, match=r"no decision_function.*target\.output=probabilities"):
        load(options(kind="sklearn", path=path))
    changed = options(kind="sklearn", path=path, output="probabilities")
    with pytest.raises(ModelError, match=r"are Field, Forest, Water and target\.classes lists"):
        load(changed.model_copy(update={"classes": ("Water", "Forest", "Field")}))
    assert load(changed).pixelwise
    joblib.dump({"no": "model"}, path)
    with pytest.raises(ModelError, match="contains a dict, which has no predict_proba"):
        load(changed)


# ONNX


def write_onnx(path: Path, *, batch: int | str = "b", pixelwise: bool = True) -> nn.Conv2d:
    """Write a convolution, pooled to one answer a tile where not `pixelwise`."""
    with forked_rng(3):
        layer = nn.Conv2d(3, 3, 3, padding=1)
    nodes = [helper.make_node("Conv", ["x", "w", "v"], ["y"], pads=[1, 1, 1, 1])]
    shape: list[int | str] = [batch, 3, SIDE, SIDE]
    if not pixelwise:
        nodes.append(helper.make_node("ReduceMean", ["y"], ["p"], axes=[2, 3], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "y" if pixelwise else "p", TensorProto.FLOAT, shape if pixelwise else shape[:2]
            )
        ],
        [
            numpy_helper.from_array(value.detach().numpy(), name)
            for name, value in (("w", layer.weight), ("v", layer.bias))
            if value is not None
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return layer


@pytest.mark.parametrize("pixelwise", [True, False])
def test_an_onnx_graph_gives_what_torch_gives(pixelwise: bool, tmp_path: Path) -> None:
    """A convolution in ONNX predicts what the same one in torch does, without trust."""
    layer = write_onnx(tmp_path / "net.onnx", pixelwise=pixelwise)
    changed = options(kind="onnx", path=tmp_path / "net.onnx", mean=(0.5,), std=(0.2,))
    target = load(changed, trust=False)
    image = tiles()
    with torch.no_grad():
        expected = layer((image - 0.5) / 0.2)
    expected = expected if pixelwise else expected.mean((2, 3))
    assert target.pixelwise is pixelwise
    assert torch.allclose(target.predict(image), expected.log_softmax(1), atol=1e-5)


def test_onnx_batches(tmp_path: Path) -> None:
    """A graph for one tile works one by one; one for exactly eight cannot be used."""
    layer = write_onnx(tmp_path / "net.onnx", batch=1)
    changed = options(kind="onnx", path=tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"one tile at a time; set target\.batch_size=1"):
        load(changed)
    predicted = load(changed.model_copy(update={"batch_size": 1})).predict(tiles())
    assert torch.allclose(predicted, layer(tiles()).log_softmax(1), atol=1e-5)
    write_onnx(tmp_path / "net.onnx", batch=8)
    with pytest.raises(ModelError, match="batches of exactly 8 tiles"):
        load(changed)


def test_onnx_graphs_that_do_not_fit(tmp_path: Path) -> None:
    """Other bands and sizes end in one line that tells what onnxruntime was given."""
    path = tmp_path / "net.onnx"
    write_onnx(path)
    with pytest.raises(ModelError, match=r"rejects 3 tiles of 2 bands.*Got: 2 Expected: 3"):
        load(options(kind="onnx", path=path, bands=("B02", "B03")))
    with pytest.raises(ModelError, match=r"16 pixels.*check target\.bands, target\.input_size"):
        load(options(kind="onnx", path=path), tile_size=16)
    assert load(options(kind="onnx", path=path, input_size=SIDE), tile_size=16).pixelwise


def test_of_several_outputs_none_is_taken(tmp_path: Path) -> None:
    """Where two outputs may be scores, they are named, because nobody knows which is meant."""
    path = tmp_path / "net.onnx"
    write_onnx(path, pixelwise=False)
    model = onnx.load(path)
    model.graph.output.append(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, SIDE, SIDE])
    )
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"several outputs that could be scores: p .*, y "):
        load(options(kind="onnx", path=path))


# Callables: what a model may return, and what is refused


def scores(image: Numbers) -> Numbers:
    return np.asarray(4 * image.mean((2, 3)) * [1, 2, 3] - 1)


def strange(answer: Callable[[Numbers], object]) -> Callable[[Numbers], object]:
    """Return a function that is right at first and answers otherwise for very bright tiles."""
    return lambda image: answer(image) if image.max() > 5 else scores(image)


def halt(image: Numbers) -> Numbers:
    raise KeyError("of the model")


def leave(image: Numbers) -> Numbers:
    sys.exit("had enough")


FAULTS: dict[str, tuple[Callable[[Numbers], object], str]] = {
    "raises": (halt, r"rejects \d tiles of 3 bands and 8 pixels .KeyError: 'of the model'"),
    "leaves": (leave, "SystemExit: had enough"),
    "nan": (lambda x: scores(x) * math.nan, "returns NaN or infinity"),
    "infinite": (lambda x: np.full((len(x), 3), np.inf), "returns NaN or infinity"),
    "classes": (lambda x: scores(x)[:, :2], r"shape \(\d, 2\); expected \(\d, 3\), one number"),
    "tiles": (lambda x: np.ones((7, 3)), r"shape \(7, 3\)"),
    "channels last": (lambda x: np.moveaxis(x, 1, -1), r"shape \(\d, 8, 8, 3\)"),
    "small map": (lambda x: x[..., :4, :4], r"shape \(\d, 3, 4, 4\)"),
    "nothing": (lambda x: None, r"returns shape \(\)"),
    "words": (lambda x: ["Water"] * len(x), "returns a list; expected numbers"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], "returns a list; expected numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("late", [False, True])
def test_every_fault_is_a_model_error_at_load_and_later(
    fault: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a callable does wrong, at first or in the middle of a search, is one line."""
    wrong, message = FAULTS[fault]
    monkeypatch.setattr(f"{__name__}.scores_under_test", strange(wrong) if late else wrong)
    changed = options(kind="callable", python=f"{__name__}:scores_under_test")
    with pytest.raises(ModelError, match=message) as caught:
        load(changed).predict(10 * tiles())
    assert "\n" not in str(caught.value)
    if late:
        assert load(changed).predict(tiles()).isfinite().all()


scores_under_test: Callable[[Numbers], object] = scores
"""What the tests above and below put in its place."""


def wrap(
    function: Callable[[Numbers], object], monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> TargetModel:
    monkeypatch.setattr(f"{__name__}.scores_under_test", function)
    return load(options(kind="callable", python=f"{__name__}:scores_under_test", **changes))


def test_the_form_of_answers_may_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers for tiles at first cannot answer for pixels later."""
    target = wrap(strange(lambda x: x), monkeypatch)
    with pytest.raises(ModelError, match="but at first predicted one class per tile"):
        target.predict(10 * tiles())


def test_probabilities_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unnormalised scores said to be probabilities are refused, at load and later."""
    with pytest.raises(ModelError, match=r"sum to .*set target\.output to what"):
        wrap(scores, monkeypatch, output="probabilities")
    target = wrap(
        lambda x: np.full((len(x), 3), 1 / 3 if x.max() < 5 else 0.5),
        monkeypatch,
        output="probabilities",
    )
    with pytest.raises(ModelError, match=r"sum to 1\.5"):
        target.predict(10 * tiles())


def test_answers_may_not_depend_on_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callable that normalises over its batch, or draws at random, is refused."""
    with pytest.raises(ModelError, match="alone and in a batch"):
        wrap(lambda x: scores(x) - scores(x).mean(0), monkeypatch)
    generator = rng()
    with pytest.raises(ModelError, match="alone and in a batch"):
        wrap(lambda x: scores(x) + generator.random((len(x), 3)), monkeypatch, batch_size=1)


@pytest.mark.parametrize("form", ["b", "b 1", "b h w", "b 1 h w"])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_one_number_for_or_against_makes_two_classes(
    form: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probability, or the logit, of the second class gives both, in each form."""

    def logit(image: Numbers) -> Numbers:
        answer = 8 * image[:, 0] - 3
        answer = answer if "h" in form else answer.mean((1, 2))
        return answer[:, None] if "1" in form else answer

    def probability(image: Numbers) -> Numbers:
        return np.asarray(1 / (1 + np.exp(-logit(image))))

    function = probability if output == "probabilities" else logit
    target = wrap(function, monkeypatch, output=output, classes=("no", "yes"))
    image = tiles()
    predicted = target.predict(image).exp()
    expected = torch.from_numpy(probability(image.numpy()))
    expected = expected[:, 0] if "1" in form else expected
    assert target.pixelwise == ("h" in form)
    assert torch.allclose(predicted[:, 1], expected.float(), atol=1e-6)
    assert torch.allclose(predicted.sum(1), torch.ones_like(predicted[:, 0]))
    if output == "probabilities":
        with pytest.raises(ModelError, match=r"set target\.output=probabilities"):
            wrap(function, monkeypatch, classes=("no", "yes"))
        with pytest.raises(ModelError, match="shape"):
            wrap(function, monkeypatch, output=output)


def test_probabilities_near_one_keep_their_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 - 1e-12 is not 1: double precision is kept until the logarithm."""
    target = wrap(
        lambda x: np.full(len(x), 1 - 1e-12),
        monkeypatch,
        output="probabilities",
        classes=("no", "yes"),
    )
    assert target.predict(tiles())[0, 0].item() == pytest.approx(math.log(1e-12), rel=1e-4)


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3), batch_size=st.integers(1, 4))
@limits(max_examples=15)
def test_batches_change_nothing(sizes: list[int], batch_size: int) -> None:
    """A black box sees at most `batch_size` tiles, and its answers and counter do not show it."""
    largest: list[int] = []

    def watch(image: Numbers) -> Numbers:
        largest.append(len(image))
        return scores(image)

    with pytest.MonkeyPatch.context() as patch:
        target = wrap(watch, patch, batch_size=batch_size)
    image = tiles(sum(sizes))
    parts = torch.cat([target.predict(part) for part in torch.split(image, sizes)])
    expected = torch.from_numpy(scores(image.numpy())).log_softmax(1).float()
    assert torch.allclose(parts, expected, atol=1e-5)
    assert max(largest) <= batch_size


# Processes

BY_HAND = """
import json, sys
from array import array
from math import prod
files = sys.stdin.buffer, sys.stdout.buffer
def line(value):
    files[1].write(json.dumps(value).encode() + b"\\n")
line({"protocol": 1})
files[1].flush()
for count, request in enumerate(iter(files[0].readline, b"")):
    b, c, h, w = json.loads(request)["shape"]
    tiles = array("f", files[0].read(4 * b * c * h * w))
    means = [sum(tiles[i * h * w:(i + 1) * h * w]) / (h * w) for i in range(b * c)]
    scores = array("f", [4 * means[i] * (1 + i % 3) - 1 for i in range(b * c)])
    EXTRA
    line({"shape": [b, c]})
    files[1].write(scores.tobytes())
    files[1].flush()
"""


def by_program(tmp_path: Path, extra: str = "pass", **changes: Any) -> TargetModel:
    """Load a program that speaks the protocol without any of our code, with a line added."""
    path = tmp_path / "program.py"
    path.write_text(BY_HAND.replace("EXTRA", extra))
    return load(options(kind="process", command=(sys.executable, "-S", str(path)), **changes))


def test_a_program_that_speaks_the_protocol(tmp_path: Path) -> None:
    """Twenty lines of plain Python, without our helper, are a target."""
    target = by_program(tmp_path, batch_size=3)
    image = tiles(7)
    expected = torch.from_numpy(scores(image.numpy())).log_softmax(1).float()
    assert torch.allclose(target.predict(image), expected, atol=1e-5)
    assert not target.differentiable


def test_the_helper_serves_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve.py` serves a function for pixels, even one that prints where answers go."""
    (tmp_path / "load.py").write_text(
        "import os\n"
        "def predict(tiles):\n"
        "    print('noise from Python')\n"
        "    os.write(1, b'noise from C\\n')\n"
        "    tiles *= 2\n"
        "    return tiles\n"
    )
    monkeypatch.chdir(tmp_path)
    helper_file = "package:rs_lowconf/target/serve.py"
    target = load(options(kind="process", command=(sys.executable, helper_file, "load:predict")))
    assert target.pixelwise
    assert torch.allclose(target.predict(tiles()), (2 * tiles()).log_softmax(1), atol=1e-5)


def test_the_helper_needs_numpy_alone() -> None:
    """The helper imports nothing of this package and no library but numpy."""
    source = (Path(__file__).parents[1] / "rs_lowconf/target/serve.py").read_text()
    imported = {
        line.split()[1] for line in source.splitlines() if line.startswith(("import", "from"))
    }
    assert imported <= {"__future__", "importlib", "json", "os", "sys", "typing", "numpy"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("raise ValueError('no such layer')", "exit code 1, its .* ValueError: no such layer"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9, it wrote no error"),
        ("sys.exit(3)", "exit code 3"),
        ("import time; time.sleep(600)", r"killed after target\.batch_seconds=4"),
        ("print('Loading weights', flush=True)", "wrote b'Loading weights.*print to standard err"),
        ("line([b, c])", r"wrote b'\[\d, 3\]"),
        ("line({'shape': [-1]})", r"answers with shape \[-1\]; expected a list of lengths"),
        ("line({'shape': [b, c, 10**6]}); sys.exit(4)", "exit code 4"),
        ("scores[0] = float('nan')", "returns NaN"),
        ("b = b - 1; scores = scores[:-3]", r"shape \(\d, 3\); expected"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_every_fault_of_a_process_is_a_model_error(
    extra: str, message: str, late: bool, tmp_path: Path
) -> None:
    """A process that dies, hangs, babbles or is wrong ends in one line, at load and later."""
    # Long enough for a batch of one that does not sleep.
    changes = {"batch_seconds": 4 if "sleep" in extra else 600}
    if late:
        target = by_program(tmp_path, "if max(tiles) > 5: " + extra, **changes)
        assert target.predict(tiles()).isfinite().all()
    with pytest.raises(ModelError, match=message) as caught:
        _ = target.predict(10 * tiles()) if late else by_program(tmp_path, extra, **changes)
    assert "\n" not in str(caught.value)
    if late and "scores" not in extra:
        with pytest.raises(ModelError, match="process has exited; run the same command again"):
            target.predict(tiles())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("no-such-program-here",), "cannot start .* no-such-program-here .No such file"),
        (("sleep", "600"), r"killed after target\.startup_seconds=0\.3, it wrote no error"),
        (("sh", "-c", "echo no licence >&2; exit 5"), "exit code 5, its .* ends with: no licence"),
        (("echo", "hello"), "wrote b'hello"),
        (("echo", '{"protocol": 2}'), "speaks protocol 2; expected 1"),
        (("sh", "-c", "sleep 600 & echo x >&2; wait"), "killed after .*: x"),
        (("package:no_such_package/x",), "not installed; pip install no-such-package"),
    ],
)
def test_processes_that_do_not_start(command: tuple[str, ...], message: str) -> None:
    """What goes wrong before the first batch is one line too, children included."""
    # Only what never answers is killed by the clock, and one of these writes before.
    seconds = {"sleep": 0.3, "sh": 4.0}.get(command[0], 600.0)
    with pytest.raises(ModelError, match=message):
        load(options(kind="process", command=command, startup_seconds=seconds))


def test_a_chatty_process_does_not_hang(tmp_path: Path) -> None:
    """A megabyte on standard error is read away; its end is what an error shows."""
    extra = (
        "sys.stderr.write('x' * 10**6 + 'last words'); sys.stderr.flush(); tiles[0] > 5 and exit(1)"
    )
    target = by_program(tmp_path, extra)
    assert target.predict(tiles()).isfinite().all()
    with pytest.raises(ModelError, match=r"xxx ?last words") as caught:
        target.predict(torch.full((1, 3, SIDE, SIDE), 9.0))
    assert len(str(caught.value)) < 1000


def test_the_process_ends_with_its_target(tmp_path: Path) -> None:
    """No process is left behind when a target is no longer used."""
    target = by_program(
        tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
    )
    process = int((tmp_path / "pid").read_text())
    os.kill(process, 0)
    del target
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


# Segmentation nets of torch


def test_a_pixelwise_module_keeps_its_gradients() -> None:
    """A module that answers for every pixel is differentiable through resizing and mirroring."""
    with forked_rng(2):
        layer = nn.Conv2d(3, 3, 3, padding=1)
    image = tiles().requires_grad_()
    for changes in ({}, {"input_size": 12}, {"input_size": 12, "input_fit": "mirror"}):
        changed = options(kind="python", python="x:y", **changes)
        target = ForeignTarget(layer, changed, tile_size=SIDE, device=CPU)
        predicted = target.predict(image)
        assert target.pixelwise
        assert target.differentiable
        assert predicted.shape == (4, 3, SIDE, SIDE)
        (gradient,) = torch.autograd.grad(predicted[:, 0].sum(), image)
        assert gradient.flatten(1).any(1).all()


def test_resized_answers_come_back_to_the_tile() -> None:
    """A net that reads tiles twice as wide answers for the pixels of the tile."""
    changed = options(kind="python", python="x:y", input_size=2 * SIDE)
    target = ForeignTarget(lambda x: x, changed, tile_size=SIDE, device=CPU)
    image = tiles()
    size = (2 * SIDE, 2 * SIDE)
    wide = F.interpolate(image, size, mode="bilinear", align_corners=False)
    back = F.interpolate(wide, (SIDE, SIDE), mode="bilinear", antialias=True)
    assert torch.allclose(target.predict(image), back.log_softmax(1), atol=1e-5)


@given(size=st.integers(1, 9), more=st.integers(0, 40))
def test_mirrored_windows_repeat_the_tile_and_its_mirror_image(size: int, more: int) -> None:
    """Beyond its edges a tile and its mirror image take turns, and it can be cut out again."""
    image = tiles(1, size)
    window = mirrored(image, size + more)
    before = min((size + more) // 5, more // 2)
    both = [*range(size), *reversed(range(size))]
    place = [both[(at - before) % len(both)] for at in range(size + more)]
    assert torch.equal(window, image[:, :, place][:, :, :, place])
    assert torch.equal(cut(window, size), image)


def test_tiles_larger_than_the_window_are_refused() -> None:
    """A window cannot be filled by mirroring a tile that is larger."""
    changed = options(kind="python", python="x:y", input_size=4, input_fit="mirror")
    with pytest.raises(ModelError, match=r"tiles of 8 pixels do not fit into .* window of 4"):
        ForeignTarget(lambda x: x, changed, tile_size=SIDE, device=CPU)


def random_net(**changes: Any) -> nn.Module:
    with forked_rng(4):
        module: nn.Module = smp.create_model(
            "unet", "resnet18", encoder_weights=None, in_channels=3, **changes
        )
    return module.eval()


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_net_of_segmentation_models_pytorch(outputs: int, tmp_path: Path) -> None:
    """`smp` rebuilds the net, also one with a single output for two classes."""
    module = random_net(classes=outputs)
    torch.save(module.state_dict(), tmp_path / "net.pth")
    names = CLASSES if outputs == 3 else ("no", "yes")
    changes = {
        "kind": "smp",
        "path": tmp_path / "net.pth",
        "architecture": "unet",
        "classes": names,
    }
    target = load(options(**changes, encoder="resnet18"), trust=False, tile_size=32)
    image = tiles(2, 32)
    with torch.no_grad():
        expected = module(image)
    if outputs == 1:
        expected = torch.cat([torch.zeros_like(expected), expected], 1)
    assert target.pixelwise
    assert target.differentiable
    assert torch.allclose(target.predict(image), expected.log_softmax(1), atol=1e-4)
    with pytest.raises(SettingsError, match="has no unet with the encoder resnet0"):
        load(options(**changes, encoder="resnet0"), tile_size=32)
    with pytest.raises(ModelError, match="do not fit the architecture"):
        load(options(**changes, encoder="resnet34"), tile_size=32)


@pytest.mark.parametrize(
    ("model", "task"), [("fcn", "multiclass"), ("deeplabv3+", "multiclass"), ("unet", "binary")]
)
def test_a_segmentation_task_of_torchgeo(model: str, task: str, tmp_path: Path) -> None:
    """The net of a SemanticSegmentationTask is rebuilt from its hyper-parameters."""
    binary = task == "binary"
    choices: dict[str, Any] = {"model": model, "task": task, "loss": "bce" if binary else "ce"}
    with forked_rng(8):
        trained = SemanticSegmentationTask(
            backbone="resnet18", in_channels=3, num_classes=None if binary else 3, **choices
        )
    checkpoint = {
        "hyper_parameters": dict(trained.hparams),
        "state_dict": trained.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    names = ("no", "yes") if binary else CLASSES
    changed = options(kind="torchgeo", path=tmp_path / "last.ckpt", classes=names)
    image = tiles(2, 32)
    with torch.no_grad():
        expected = trained.model.eval()(image)
    if binary:
        expected = torch.cat([torch.zeros_like(expected), expected], 1)
    target = load(changed, trust=False, tile_size=32)
    assert target.pixelwise
    assert torch.allclose(target.predict(image), expected.log_softmax(1), atol=1e-4)
    with pytest.raises(ModelError, match=r"target\.classes lists 4"):
        load(changed.model_copy(update={"classes": ("a", "b", "c", "d")}), tile_size=32)


# Cloud masks from their wheels


def scene(side: int) -> Tensor:
    """Return a tile of all bands with land, haze, bright cloud and its shadow."""
    coarse = torch.rand((1, 1, 6, 6), generator=torch.Generator().manual_seed(3))
    haze = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    colour = torch.linspace(0.05, 0.3, len(EUROSAT_ORDER))[None, :, None, None]
    return (colour + 0.9 * haze**3) * (0.3 + 0.7 * haze.roll(side // 8, 3)) + 0.02 * tiles(
        1, side, len(EUROSAT_ORDER)
    )


def cloud_mask(name: str, image: Tensor, *, tile_size: int) -> tuple[TargetModel, Tensor]:
    """Return a configured target and its probabilities for tiles of all bands."""
    settings = load_settings(CONFIGS / name).target
    assert isinstance(settings, ForeignModel)
    target = load(settings, trust=False, tile_size=tile_size)
    data = BandSpec(names=EUROSAT_ORDER, level="L1C")
    return target, target.predict(image[:, list(check_fit(target.bands, data))]).exp()


def test_s2cloudless_as_configured_gives_what_its_wheel_gives() -> None:
    """The configured target has the wheel's probability of cloud in every pixel."""
    from s2cloudless.cloud_detector import S2PixelCloudDetector  # noqa: PLC0415 - slow
    from s2cloudless.utils import S2_BANDS  # noqa: PLC0415 - slow

    image = scene(64)
    target, predicted = cloud_mask("s2cloudless.yaml", image, tile_size=64)
    order = BandSpec(names=EUROSAT_ORDER, level="L1C").index_of(S2_BANDS)
    theirs = S2PixelCloudDetector(all_bands=True).get_cloud_probability_maps(
        image[:, list(order)].permute(0, 2, 3, 1).numpy(), num_threads=1
    )
    assert target.pixelwise
    assert target.classes == ("clear", "cloud")
    assert np.allclose(predicted[:, 1].numpy(), theirs, atol=1e-5)
    assert 0.05 < (theirs > 0.5).mean() < 0.95


@pytest.mark.parametrize("side", [64, 154])
def test_csmask_as_configured_gives_what_its_wheel_gives(side: int) -> None:
    """The configured target has the wheel's probabilities and its mask, up to 154 pixels.

    Up to there the wheel's first window is the same as ours and others, which begin 204 pixels
    later, have no weight inside the tile.
    """
    from ukis_csmask.mask import CSmask  # noqa: PLC0415 - slow
    from ukis_csmask.utils import tile_array  # noqa: PLC0415 - slow

    image = scene(side)
    target, predicted = cloud_mask("csmask.yaml", image, tile_size=side)
    names = {
        "B02": "blue",
        "B03": "green",
        "B04": "red",
        "B08": "nir",
        "B11": "swir16",
        "B12": "swir22",
    }
    order = list(BandSpec(names=EUROSAT_ORDER, level="L1C").index_of(list(names)))
    with pytest.warns(UserWarning, match="smaller than the internal tiling size"):
        theirs = CSmask(
            image[0, order].permute(1, 2, 0).numpy(),
            list(names.values()),
            intra_op_num_threads=1,
            providers=["CPUExecutionProvider"],
        )
    windows = np.moveaxis(tile_array(theirs.img, 256, 256, overlap=0.2), -1, 1)
    logits = theirs.session.run(None, {theirs.input_names: windows[:1]})[0]
    expected = theirs.softmax(logits)[:, :, 51 : 51 + side, 51 : 51 + side]
    assert target.pixelwise
    assert target.bands.names == tuple(names)
    assert np.allclose(predicted.numpy(), expected, atol=1e-4)
    assert np.array_equal(predicted[0].argmax(0).numpy(), theirs.csm[..., 0])
    assert len(np.unique(theirs.csm)) > 1


# What is refused before a model is read


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("sklearn", {"path": __file__}, "reading it runs foreign code"),
        ("callable", {"python": f"{__name__}:scores"}, "runs foreign code"),
        ("process", {"command": ("sleep", "60")}, "starts the program sleep"),
    ],
)
def test_code_needs_trust(kind: str, changes: dict[str, Any], why: str) -> None:
    """Pickles, modules and programs are left alone without trust."""
    with pytest.raises(ModelError, match=f"{why}.*--trust-code"):
        load(options(kind=kind, **changes), trust=False)


@pytest.mark.parametrize("kind", ["onnx", "lightgbm", "sklearn"])
def test_missing_and_damaged_files(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A missing file, rubbish and an empty file are model errors, and nothing else is printed."""
    path = tmp_path / "model"
    changed = options(kind=kind, path=path)
    with pytest.raises(ModelError, match="there is no target"):
        load(changed)
    for content in (b"", b"tree\nversion=v4\nrubbish", b"\x80\x04 rubbish"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="model") as caught:
            load(changed)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_cut_booster_is_refused(tmp_path: Path) -> None:
    """Half a model file, on which LightGBM ends the process, is a model error."""
    x, y = table("pixel", 2)
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), 4)
    text = booster.model_to_string()
    for share in (0.1, 0.5):
        (tmp_path / "model.txt").write_text(text[: int(share * text.index("end of trees"))])
        with pytest.raises(ModelError, match="ends before its last tree"):
            load(options(kind="lightgbm", path=tmp_path / "model.txt", classes=("no", "yes")))


@pytest.mark.parametrize(("kind", "name"), [("onnx", "onnxruntime"), ("lightgbm", "lightgbm")])
def test_a_missing_library_is_named(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library of a kind, the error says what to install."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match=f"kind {kind} needs {name} .*; pip install {name}"):
        load(options(kind=kind, path=__file__))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("package:ukis_not_there/a.onnx", "not installed; pip install ukis-not-there"),
        ("package:numpy/no-such-file", "there is no target .*no-such-file"),
        ("package:numpy", "expected package:NAME/FILE"),
        ("package:os.path/x", "expected package:NAME/FILE"),
    ],
)
def test_files_inside_packages_that_are_not_there(path: str, message: str) -> None:
    """A package that is not installed is told from one that lacks the file."""
    with pytest.raises(ModelError, match=message):
        load(options(kind="onnx", path=path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "onnx"}, "target.kind=onnx needs target.path"),
        ({"kind": "smp", "path": "x"}, "needs target.architecture, target.encoder"),
        ({"kind": "callable"}, "needs target.python"),
        ({"kind": "process"}, "needs target.command"),
        ({"kind": "process", "command": []}, "command"),
        ({"kind": "onnx", "path": "x", "rows": "tile"}, "rows has no effect with target.kind=onnx"),
        ({"kind": "onnx", "path": "x", "command": ["y"]}, "command has no effect"),
        ({"kind": "callable", "python": "x:y", "batch_seconds": 2}, "batch_seconds has no effect"),
        ({"kind": "timm", "path": "x", "architecture": "y", "encoder": "z"}, "encoder has no"),
        ({"kind": "onnx", "path": "x", "input_fit": "mirror"}, "input_fit mirror needs input_size"),
        ({"kind": "onnx", "path": "x", "classes": ["one"]}, "classes must list at least two"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    """Missing settings, and such as would have no effect, are named in one line."""
    whole = {"bands": list(BANDS), "classes": list(CLASSES), **changes}
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(None, [f"target={json.dumps(whole)}"])
    assert "\n" not in str(caught.value)
