"""The attention function of a model itself, which transformers looks up by name in every call."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import CapabilityError

KNOWN = ("eager", "sdpa")
"""Between these a model may be switched: explicit rows compute what both compute."""


def attention_function(module: nn.Module, name: str) -> Any:
    """The function that a name stands for in a module, None for an eager one that is not found.

    `eager` is the one of the module's own file, or of a class that it inherits from.
    """
    files = (sys.modules.get(kind.__module__) for kind in type(module).__mro__)
    found = (getattr(file, "eager_attention_forward", None) for file in files)
    eager: Any = next((one for one in found if one is not None), None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)


def attention_functions(layers: Any, name: str) -> Mapping[str, Any]:
    """The attention functions that hold for a model whose own has this name, by name."""
    names = {name, *KNOWN} if name in KNOWN else {name}
    attending = _attending(layers)
    return {one: attention_function(attending, one) for one in names if attending is not None}


def refuse_untried(layers: Any, name: str, tried: Mapping[str, Any]) -> None:
    """Refuse an attention function that was set or replaced after the model was opened.

    **Raises:** `CapabilityError` naming it.
    """
    attending = _attending(layers)
    if attending is None or (name in tried and tried[name] is attention_function(attending, name)):
        return
    what = (
        f"is {name!r}, and was {' or '.join(tried)}"
        if name not in tried
        else (f"{name!r} is another function than it was")
    )
    raise CapabilityError(
        f"the model's attention {what} when the model was opened, so it was not tried whether "
        "explicit rows compute what it does; open the model anew: LMM(hf_model, processor)"
    )


def _attending(layers: Any) -> nn.Module | None:
    found = (getattr(layer, "self_attn", None) for layer in layers)
    return next((module for module in found if module is not None), None)
