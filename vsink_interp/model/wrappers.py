"""Unwrap models: the transformers model inside DataParallel, torch.compile or PEFT."""

from typing import Any

from torch import nn

from ..errors import CapabilityError

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: Any) -> Any:
    """The transformers model inside `DataParallel`, `torch.compile` or a PEFT model.

    The layers of adapters such as LoRA stay where PEFT has put them.

    **Raises:** `CapabilityError` for adapters that act outside the model's own layers.
    """
    if isinstance(model, _PARALLEL):
        return unwrapped(model.module)
    if (inner := getattr(model, "_orig_mod", None)) is not None:
        return unwrapped(inner)
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    for name in model.active_adapters:
        config = model.peft_config[name]
        outside = config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None)
        if outside or config.peft_type == "XLORA":
            raise CapabilityError(
                f"adapter {name!r} ({config.peft_type.value}) acts outside the layers of the "
                "model, where no hook point is; LoRA and others that change layers work, and "
                "disable the adapter by hf_model.get_base_model() to open the model without it"
            )
    return unwrapped(model.get_base_model())
