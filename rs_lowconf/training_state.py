"""Weights, buffers and Adam's moments of a training between two steps, as tensors by name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def tensors_of(
    modules: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return weights, buffers and moments as tensors by name."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{name}.{number}.{key}": moments[key] for key in moments}
    return tensors


def restore(
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    tensors: Mapping[str, Tensor],
) -> None:
    """Restore what `tensors_of` returned.

    Raises:
        RuntimeError: the tensors are of other networks.
    """
    for name, module in modules.items():
        module.load_state_dict(tensors_below(tensors, name))
    for name, optimiser in optimisers.items():
        parameters = [each for group in optimiser.param_groups for each in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors_below(tensors, f"adam.{name}").items():
            number, _, part = key.partition(".")
            # Laid out like the weights: another order of the loops could round differently.
            like = torch.empty_like(parameters[int(number)] if value.ndim else value)
            moments.setdefault(int(number), {})[part] = like.copy_(value)
        optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    start = prefix + "."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
