"""Devices of a model and availability of its weights, which accelerate may move as it runs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def execution_device(*modules: nn.Module) -> torch.device | None:
    """Where accelerate has modules compute, wherever their weights rest; None without it."""
    for module in modules:
        for hook in _hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


def lies_elsewhere(module: nn.Module) -> bool:
    """Whether weights of a module are neither here nor fetched by accelerate when it runs."""
    return any(
        weight.is_meta
        for part in module.modules()
        if not any(_hooks(part))
        for weight in part.parameters(recurse=False)
    )


def _hooks(module: nn.Module) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    yield from () if hook is None else getattr(hook, "hooks", (hook,))
