"""Models without gradients, as functions from tensors to tensors.

Kinds that need `--trust-code`, and why: `sklearn` unpickles a file, `callable` imports a module,
`process` runs a program. `onnx` and `lightgbm` read data: an ONNX graph cannot name code outside
onnxruntime, and a Booster's text file holds trees.

A time limit needs the kind `process`: code that hangs inside this process cannot be stopped.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rs_lowconf.boundary import reading
from rs_lowconf.errors import ModelError
from rs_lowconf.settings import (
    ForeignModel,
    ModelFormat,
    NamedTarget,
    ProcessTarget,
    TableTarget,
    WholeFileTarget,
)
from rs_lowconf.target.booster import read_booster
from rs_lowconf.target.origin import (
    damaged,
    import_named,
    inside_package,
    library,
    require_trust,
    target_file,
)
from rs_lowconf.target.process import ProcessModel
from rs_lowconf.vocabulary import UNCLEAR, class_name

BLACK_BOXES = ("onnx", "lightgbm", "sklearn", "callable", "process")
"""The kinds of targets that this module loads."""

Numbers = NDArray[Any]

_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def load_black_box(
    settings: ForeignModel, *, trust_code: bool, device: torch.device
) -> Callable[[Tensor], object]:
    """Return the foreign model as a function of float32 tiles b c h w.

    It returns a tensor of float64 scores on `device`, or the model's output if that is not numeric,
    which `ForeignTarget` rejects.

    Raises:
        ModelError: a file or library is missing, the model is damaged, does not fit the
            settings, or needs trust.
    """
    function: Callable[[Any], Any]
    match settings:
        case ProcessTarget():
            function = _process(settings, trust_code=trust_code)
        case NamedTarget():
            function = import_named(settings.python, trust_code=trust_code)
        case TableTarget(kind="lightgbm"):
            function = _lightgbm(target_file(settings), settings)
        case TableTarget():
            function = _sklearn(target_file(settings), settings, trust_code=trust_code)
        case WholeFileTarget():
            function = _onnx(target_file(settings), settings, device)
        case _:
            raise AssertionError(f"no black box of kind {settings.kind}")

    def answer(image: Tensor) -> object:
        returned = function(image.detach().cpu().numpy())
        try:
            numbers = np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            return returned
        return torch.tensor(numbers, device=device)

    return answer


def _process(settings: ProcessTarget, *, trust_code: bool) -> ProcessModel:
    command = [inside_package(word) for word in settings.command]
    require_trust(f"target.command starts the program {command[0]}", trust_code=trust_code)
    return ProcessModel(
        command,
        startup_seconds=settings.startup_seconds,
        batch_seconds=settings.batch_seconds,
    )


def _onnx(path: Path, settings: ModelFormat, device: torch.device) -> Callable[[Numbers], Numbers]:
    runtime = library("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised anyway
    on_gpu = device.type == "cuda"
    wanted = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
    available = runtime.get_available_providers()
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=[name for name in wanted if name in available]
        )
    except Exception as error:  # onnxruntime's errors share no other base
        raise damaged(path, error) from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in _FLOATS:
        inputs_read = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
        raise ModelError(
            f"{path} reads {inputs_read}", expected="one input of floating-point numbers, b c h w"
        )
    if isinstance(shape[0], int) and settings.batch_size != shape[0]:
        if shape[0] > 1:
            raise ModelError(
                f"{path} takes batches of exactly {shape[0]} tiles",
                expected="a graph for batches of any number, or of one tile",
            )
        raise ModelError(f"{path} takes one tile at a time", remedy="set target.batch_size=1")
    output = _onnx_output(path, session.get_outputs(), len(settings.classes))

    def run(image: Numbers) -> Numbers:
        tiles = {inputs[0].name: image.astype(_FLOATS[inputs[0].type])}
        scores: Numbers = session.run([output], tiles)[0]
        return scores

    return run


def _onnx_output(path: Path, outputs: Sequence[Any], classes: int) -> str:
    """Return the name of the one output that may hold a number per class.

    Raises:
        ModelError: there is none, or more than one, so that the right one is unknown.
    """
    numbers = [output for output in outputs if output.type in _FLOATS]
    if not numbers:
        raise ModelError(f"{path} returns no floating-point numbers", expected="scores")
    allowed = (classes, 1) if classes == 2 else (classes,)
    fitting = [
        output
        for output in numbers
        # A dynamic length is a name or None.
        if len(output.shape) < 2
        or not isinstance(output.shape[1], int)
        or output.shape[1] in allowed
    ]
    if len(fitting) > 1:
        shown = ", ".join(f"{output.name} {output.shape}" for output in fitting)
        raise ModelError(
            f"{path} has several outputs that could be scores: {shown}",
            expected=f"one with {classes} numbers",
            remedy="keep only the right one with onnx.utils.extract_model",
        )
    return str((fitting or numbers)[0].name)


def _lightgbm(path: Path, settings: TableTarget) -> Callable[[Numbers], Numbers]:
    lightgbm = library("lightgbm", "lightgbm")
    model = read_booster(path)
    raw = settings.output == "logits"
    objective = model.objective
    if raw and objective != "binary sigmoid:1" and not objective.startswith("multiclass "):
        raise ModelError(
            f"the raw scores of {path} are not logits, its objective is {objective}",
            remedy="set target.output=probabilities",
        )
    with reading(path, error=ModelError):
        booster = lightgbm.Booster(model_str=model.text)
        if booster.num_trees() != model.trees:
            raise ValueError(f"{booster.num_trees()} trees of {model.trees}")
    return _in_rows(
        lambda table: booster.predict(table, raw_score=raw, num_threads=torch.get_num_threads()),
        settings.rows,
        booster.num_feature(),
    )


def _sklearn(
    path: Path, settings: TableTarget, *, trust_code: bool
) -> Callable[[Numbers], Numbers]:
    require_trust(f"{path} is a pickle; reading it runs foreign code", trust_code=trust_code)
    joblib = library("joblib", "sklearn")
    try:
        estimator = joblib.load(path)
    except (Exception, SystemExit) as error:  # unpickling foreign code may raise anything
        raise damaged(path, error) from error
    asked = "predict_proba" if settings.output == "probabilities" else "decision_function"
    if not hasattr(estimator, asked):
        other = "logits" if settings.output == "probabilities" else "probabilities"
        raise ModelError(
            f"{path} contains a {type(estimator).__name__}, which has no {asked}",
            expected="a fitted classifier of scikit-learn",
            remedy=f"set target.output={other} if it is one",
        )
    declared, wanted = tuple(getattr(estimator, "classes_", ())), settings.classes
    names = tuple(class_name(name) or UNCLEAR for name in declared)
    # Numbers may be output indices, which target.classes names.
    named = all(isinstance(name, str) for name in declared) or bool({*names} & {*wanted})
    if names and named and names != wanted:
        raise ModelError(
            f"the classes of {path} are {', '.join(names)} and target.classes lists "
            f"{', '.join(wanted)}",
            expected="the same names in the same order",
            remedy="correct target.classes",
        )
    columns = getattr(estimator, "n_features_in_", None)
    return _in_rows(getattr(estimator, asked), settings.rows, columns)


def _in_rows(
    score: Callable[[Numbers], Numbers], rows: str, columns: int | None
) -> Callable[[Numbers], Numbers]:
    """Return a function of tiles from one of tables; `columns` is their width, if known."""

    def predict(image: Numbers) -> Numbers:
        b, c, h, w = image.shape
        if rows == "pixel":
            table = image.transpose(0, 2, 3, 1).reshape(-1, c)
        elif rows == "tile":
            table = image.reshape(b, -1)
        else:
            table = np.concatenate([image.mean((2, 3)), image.std((2, 3))], axis=1)
        if columns not in (None, table.shape[1]):
            raise ModelError(
                f"the target reads rows of {columns} numbers, target.rows={rows} gives "
                f"{table.shape[1]}",
                remedy="check target.bands, target.rows and target.input_size",
            )
        scores = np.asarray(score(table))
        if rows == "pixel":
            scores = scores.reshape(b, h, w, -1).transpose(0, 3, 1, 2)
        return scores

    return predict
