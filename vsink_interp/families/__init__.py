"""Model families: one form each, which says where a model's parts are and computes nothing."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..errors import CapabilityError
from .decoders import (
    gates_heads as gates_heads,
    layer_taps_of as layer_taps_of,
    sight_of as sight_of,
)
from .form import Family as Family, LayerTaps as LayerTaps, Tap as Tap
from .infer import infer as infer
from .llava import LLAVA as LLAVA, llava_spans
from .logits import logits_scale_of as logits_scale_of, softcap_of as softcap_of
from .processing import load_processor as load_processor
from .towers import (
    layers_read as layers_read,
    why_no_register as why_no_register,
    with_tower,
)


def _families() -> tuple[Family, ...]:
    """All forms in the files of this folder, so that a new family takes only a new file."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    forms = [value for module in modules for value in vars(module).values()]
    known = {form.name: form for form in forms if isinstance(form, Family)}
    return tuple(known[name] for name in sorted(known))


REFUSED: Mapping[str, str] = {
    "llava_llama": "VILA has no class in transformers: its code comes with its weights",
}
"""Model types that are refused, and why."""

FAMILIES: tuple[Family, ...] = _families()
"""Every known family."""


def family_of(hf_model: Any, processor: Any) -> Family:
    """The family of a model, or one that is inferred from its modules.

    **Raises:** `CapabilityError` for a model that is refused, or whose layout is not found.
    """
    kind = hf_model.config.model_type
    modules = dict(hf_model.named_modules())
    for family in FAMILIES:
        if kind not in family.model_types:
            continue
        # One with another tower than its family's (DINOv2 in LLaVA) has that, or is looked at anew.
        if family.spans is llava_spans and (fitted := with_tower(family, modules)):
            return fitted
        if family.vision_layers in modules:
            return family
    if kind in REFUSED:
        raise CapabilityError(f"{kind} models are not supported: {REFUSED[kind]}")
    return infer(hf_model, processor)
