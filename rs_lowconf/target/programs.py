"""Reads models made elsewhere as torch modules, and asks for trust where a file is a program.

What needs `--trust-code`, and why:

* `python` imports a module, `torchscript` runs the code inside the file;
* `export`: torch.export.load reads weights with torch.load(weights_only=False) where the
  archive says so, unpickles custom objects, and evaluates shape expressions with
  sympy.sympify, which calls eval (torch 2.14: export/pt2_archive/_package.py and
  _export/serde/serialize.py). No part of the file can be read without that;
* `torchgeo` and `timm` only when torch.load(weights_only=True) refuses the file.
"""

import importlib
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from rs_lowconf.errors import ModelError
from rs_lowconf.settings import TargetSettings
from rs_lowconf.target.classifier import fill
from rs_lowconf.target.networks import require_timm_name


def load_module(settings: TargetSettings, *, trust_code: bool, device: torch.device) -> nn.Module:
    """Return the foreign model as a module in eval mode on `device`, its weights frozen.

    Raises:
        ModelError: the file is missing or damaged, does not fit the settings, or needs trust.
        SettingsError: timm has no such architecture.
    """
    if settings.kind == "python":
        module = _python(str(settings.python), trust_code=trust_code)
    else:
        path = Path(str(settings.path))
        if not path.is_file():
            raise ModelError(f"there is no target {path}", remedy="correct target.path")
        if settings.kind == "torchgeo":
            module = _torchgeo(path, settings, trust_code=trust_code)
        elif settings.kind == "timm":
            module = _timm(path, settings, trust_code=trust_code)
        elif settings.kind == "export":
            module = _export(path, trust_code=trust_code, device=device)
        else:
            module = _torchscript(path, trust_code=trust_code, device=device)
    if settings.kind != "export":
        # An exported program has its mode baked in and refuses eval().
        module.eval()
    for parameter in module.parameters():
        # One by one, because a script module refuses requires_grad_() as a whole.
        parameter.requires_grad_(False)
    return module.to(device)


def _require_trust(what: str, *, trust_code: bool) -> None:
    if not trust_code:
        raise ModelError(what, remedy="if you trust its origin, add --trust-code")


def _python(name: str, *, trust_code: bool) -> nn.Module:
    _require_trust(f"target.python {name} runs foreign code", trust_code=trust_code)
    module_name, colon, factory_name = name.partition(":")
    if not (module_name and colon and factory_name):
        raise ModelError(f"target.python is {name!r}", expected="module:factory")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
        # Last, so that a file here cannot take the place of an installed package; it stays,
        # because the model may import more of its files when it runs.
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"cannot import target.python {name} ({error})",
            remedy="start in the folder that holds the module, or install it",
        ) from error
    module = factory()
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"target.python {name} returned a {type(module).__name__}",
            expected="a torch.nn.Module",
        )
    return module


def _torchgeo(path: Path, settings: TargetSettings, *, trust_code: bool) -> nn.Module:
    # The task is not rebuilt: it would bring losses and metrics, and may fetch weights.
    checkpoint = _unpickle(path, trust_code=trust_code)
    if not isinstance(checkpoint, dict):
        checkpoint = {}
    options, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if not isinstance(options, Mapping) or not isinstance(weights, Mapping):
        raise ModelError(f"{path} is no Lightning checkpoint with its hyper-parameters")
    if options.get("task", "multiclass") != "multiclass" or "num_classes" not in options:
        raise ModelError(
            f"{path} is no multiclass ClassificationTask of torchgeo",
            expected="one trained with task=multiclass and num_classes",
        )
    for setting, name, count in (
        ("bands", "in_channels", len(settings.bands or ())),
        ("classes", "num_classes", len(settings.classes or ())),
    ):
        if options.get(name) != count:
            raise ModelError(
                f"{path} has {name} {options.get(name)} and target.{setting} lists {count}",
                remedy=f"correct target.{setting}",
            )
    module = _create(str(options.get("model")), settings)
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


def _timm(path: Path, settings: TargetSettings, *, trust_code: bool) -> nn.Module:
    module = _create(str(settings.architecture), settings)
    if path.suffix == ".safetensors":
        try:
            weights: Any = load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is damaged ({error})") from error
    else:
        weights = _unpickle(path, trust_code=trust_code)
        if isinstance(weights, nn.Module):
            weights = weights.state_dict()
        elif isinstance(weights, dict):
            # The two names under which training scripts of timm and others nest the weights.
            weights = weights.get("state_dict", weights.get("model", weights))
    if not isinstance(weights, Mapping) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise ModelError(f"{path} holds no weights", expected="a state_dict")
    fill(module, weights, path)
    return module


def _create(name: str, settings: TargetSettings) -> nn.Module:
    require_timm_name(name)
    module: nn.Module = timm.create_model(
        name,
        pretrained=False,
        in_chans=len(settings.bands or ()),
        num_classes=len(settings.classes or ()),
    )
    return module


def _unpickle(path: Path, *, trust_code: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = f"{path} holds more than tensors; reading such a pickle runs foreign code"
        if not trust_code:
            raise ModelError(what, remedy="if you trust its origin, add --trust-code") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError, ImportError, AttributeError) as error:
        raise _damaged(path, error) from error


def _export(path: Path, *, trust_code: bool, device: torch.device) -> nn.Module:
    _require_trust(
        f"{path} is an exported program; torch unpickles parts of it, which can run foreign code",
        trust_code=trust_code,
    )
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is no exported program", expected="what torch.export.save wrote")
    try:
        program = torch.export.load(path)
    except (RuntimeError, KeyError, AssertionError) as error:
        raise _damaged(path, error) from error
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return program.module()


def _torchscript(path: Path, *, trust_code: bool, device: torch.device) -> nn.Module:
    _require_trust(f"{path} is a TorchScript file and runs foreign code", trust_code=trust_code)
    with warnings.catch_warnings():
        # torch deprecates writing new TorchScript; people's existing files are read as long
        # as torch can read them.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
        try:
            module: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise _damaged(path, error) from error
    return module


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"cannot read {path} ({' '.join(str(error).split())[:200]})")
