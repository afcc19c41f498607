"""Reads external models as torch modules, and requires trust if a file is a program.

Kinds that need `--trust-code`, and why:

* `python` imports a module, `torchscript` runs the code inside the file;
* `export`: torch.export.load reads weights with torch.load(weights_only=False) where the
  archive says so, unpickles custom objects, and evaluates shape expressions with
  sympy.sympify, which calls eval (torch 2.14: export/pt2_archive/_package.py and
  _export/serde/serialize.py). No part of the file can be read without that;
* `torchgeo`, `timm` and `smp` only when torch.load(weights_only=True) refuses the file.
"""

import importlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from rs_lowconf.boundary import in_a_line, reading
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.settings import (
    ForeignModel,
    ModelFormat,
    NamedTarget,
    SmpTarget,
    TimmTarget,
    WholeFileTarget,
)
from rs_lowconf.target.networks import require_timm_name
from rs_lowconf.target.origin import (
    damaged,
    import_named,
    require_trust,
    target_file,
)
from rs_lowconf.target.trained import fill


def load_module(settings: ForeignModel, *, trust_code: bool, device: torch.device) -> nn.Module:
    """Return the foreign model as a module in eval mode on `device`, its weights frozen.

    Raises:
        ModelError: the file is missing or damaged, does not fit the settings, or needs trust.
        SettingsError: timm or segmentation_models_pytorch has no such architecture.
    """
    module = _built(settings, trust_code=trust_code, device=device)
    if settings.kind != "export":
        # An exported program has its mode baked in and refuses eval().
        module.eval()
    for parameter in module.parameters():
        # One by one, because a script module refuses requires_grad_() as a whole.
        parameter.requires_grad_(False)
    return module.to(device)


def _built(settings: ForeignModel, *, trust_code: bool, device: torch.device) -> nn.Module:
    match settings:
        case NamedTarget():
            return _python(settings.python, trust_code=trust_code)
        case TimmTarget():
            return _timm(target_file(settings), settings, trust_code=trust_code)
        case SmpTarget():
            return _smp(target_file(settings), settings, trust_code=trust_code)
        case WholeFileTarget(kind="torchgeo"):
            return _torchgeo(target_file(settings), settings, trust_code=trust_code)
        case WholeFileTarget(kind="export"):
            return _export(target_file(settings), trust_code=trust_code, device=device)
        case WholeFileTarget():
            return _torchscript(target_file(settings), trust_code=trust_code, device=device)
    raise AssertionError(f"no network of kind {settings.kind}")


def _python(name: str, *, trust_code: bool) -> nn.Module:
    factory = import_named(name, trust_code=trust_code)
    try:
        module = factory()
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise ModelError(
            f"target.python {name} fails ({in_a_line(error)})",
            expected="a factory without arguments that returns a torch.nn.Module",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"target.python {name} returned a {type(module).__name__}",
            expected="a torch.nn.Module",
        )
    return module


def _torchgeo(path: Path, settings: ModelFormat, *, trust_code: bool) -> nn.Module:
    # The task is not rebuilt: it would bring losses and metrics, and may fetch weights.
    checkpoint = _unpickle(path, trust_code=trust_code)
    if not isinstance(checkpoint, dict):
        checkpoint = {}
    options, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if not isinstance(options, Mapping) or not isinstance(weights, Mapping):
        raise ModelError(f"{path} is not a Lightning checkpoint with hyperparameters")
    outputs = _torchgeo_outputs(path, options)
    for setting, name, found, listed in (
        ("bands", "in_channels", options.get("in_channels"), settings.bands),
        ("classes", "num_classes", max(outputs, 2), settings.classes),
    ):
        if found != len(listed):
            raise ModelError(
                f"{path} has {name} {found} and target.{setting} lists {len(listed)}",
                remedy=f"correct target.{setting}",
            )
    name = str(options.get("model"))
    # Only the task of segmentation has a backbone beside its model.
    if "backbone" not in options:
        module = _create(name, settings, outputs)
    elif name == "fcn":
        # Imported late, because torchgeo's models take seconds to import.
        models = importlib.import_module("torchgeo.models")
        module = models.FCN(
            in_channels=len(settings.bands),
            classes=outputs,
            num_filters=options.get("num_filters"),
        )
    else:
        architecture = name.replace("+", "plus")
        module = _create_smp(architecture, str(options["backbone"]), settings, outputs)
    prefix = "model."
    fill(
        module,
        {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        },
        path,
    )
    return module


def _torchgeo_outputs(path: Path, options: Mapping[str, Any]) -> int:
    """Return the number of outputs of a torchgeo classification or segmentation task."""
    task = options.get("task", "multiclass")
    count = 1 if task == "binary" else options.get("num_classes")
    if task not in ("binary", "multiclass") or not isinstance(count, int):
        raise ModelError(
            f"{path} is not a binary or multiclass task of torchgeo",
            expected="a ClassificationTask or SemanticSegmentationTask with task=multiclass and "
            "num_classes, or task=binary",
        )
    return count


def _timm(path: Path, settings: TimmTarget, *, trust_code: bool) -> nn.Module:
    module = _create(settings.architecture, settings, len(settings.classes))
    fill(module, _weights(path, trust_code=trust_code), path)
    return module


def _smp(path: Path, settings: SmpTarget, *, trust_code: bool) -> nn.Module:
    weights = _weights(path, trust_code=trust_code)
    # A network for two classes may have one output; its last layer shows it.
    last = weights.get("segmentation_head.0.bias")
    binary = last is not None and len(last) == 1 and len(settings.classes) == 2
    outputs = 1 if binary else len(settings.classes)
    module = _create_smp(settings.architecture, settings.encoder, settings, outputs)
    fill(module, weights, path)
    return module


def _create(name: str, settings: ModelFormat, outputs: int) -> nn.Module:
    require_timm_name(name)
    module: nn.Module = importlib.import_module("timm").create_model(
        name, pretrained=False, in_chans=len(settings.bands), num_classes=outputs
    )
    return module


def _create_smp(architecture: str, encoder: str, settings: ModelFormat, outputs: int) -> nn.Module:
    # Late, because it takes seconds to import.
    smp = importlib.import_module("segmentation_models_pytorch")
    try:
        module: nn.Module = smp.create_model(
            architecture,
            encoder,
            encoder_weights=None,
            in_channels=len(settings.bands),
            classes=outputs,
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"segmentation_models_pytorch has no {architecture} with the encoder {encoder} "
            f"({in_a_line(error)})",
            expected="names for its create_model, such as unet and resnet34",
        ) from error
    return module


def _weights(path: Path, *, trust_code: bool) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        with reading(path, problem="is damaged", error=ModelError):
            return load_file(path)
    weights = _unpickle(path, trust_code=trust_code)
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    elif isinstance(weights, dict):
        # The two names under which training scripts of timm and others nest the weights.
        weights = weights.get("state_dict", weights.get("model", weights))
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise ModelError(f"{path} contains no weights", expected="a state_dict")
    return weights


def _unpickle(path: Path, *, trust_code: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = f"{path} contains more than tensors; reading such a pickle runs foreign code"
        if not trust_code:
            raise ModelError(what, remedy="if you trust its origin, add --trust-code") from error
    except Exception as error:  # see `reading`
        raise damaged(path, error) from error
    with reading(path, error=ModelError):
        return torch.load(path, map_location="cpu", weights_only=False)


def _export(path: Path, *, trust_code: bool, device: torch.device) -> nn.Module:
    require_trust(
        f"{path} is an exported program; torch unpickles parts of it, which can run foreign code",
        trust_code=trust_code,
    )
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} is not an exported program", expected="output of torch.export.save"
        )
    with reading(path, error=ModelError):
        program = torch.export.load(path)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return program.module()


def _torchscript(path: Path, *, trust_code: bool, device: torch.device) -> nn.Module:
    require_trust(f"{path} is a TorchScript file and runs foreign code", trust_code=trust_code)
    with warnings.catch_warnings():
        # torch deprecates TorchScript; existing files are read as long as torch can.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
        with reading(path, error=ModelError):
            module: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    return module
