"""Masks of prompt rows whose attention is not plainly causal: windows, image blocks, prefixes."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from ..errors import CapabilityError
from ..tokens import TokenLayout
from .cached_prefix import CACHE_ARGUMENT
from .hooked_model import HookedModel


def prompt_mask(
    hooked: HookedModel, layer: int, inputs: Mapping[str, Any], layout: TokenLayout
) -> Bool[Tensor, "some 1 query key"] | None:
    """The mask of a layer over the prompt, as transformers makes it; None for a causal one.

    On a server, reading it would copy the cache, so it is computed here by the same functions from
    the encoded inputs.

    **Raises:** `CapabilityError` if transformers makes no mask for this kind of attention.
    """
    kind = hooked.kinds[layer]
    if kind == "full_attention" and layout.sight in ("causal", "cross-attention"):
        return None
    mask = own_mask(hooked, kind, inputs)
    if mask is None or isinstance(mask, Tensor):
        return mask
    raise CapabilityError(
        f"attention in layer {layer} cannot be read or edited remotely: transformers makes no "
        f"mask for it ({kind}, {layout.sight}); probe residuals there, or run it locally"
    )


def own_mask(hooked: HookedModel, kind: str, inputs: Mapping[str, Any]) -> Any:
    """The mask over a prompt of layers that attend in this way, by transformers' own functions.

    **Returns:** True where a row sees a key, batch 1 query key; None for a causal one without
    padding; something else where transformers makes no mask of this form.

    **Raises:** `CapabilityError` if this version of transformers cannot make them at all.
    """
    ids = inputs["input_ids"]
    make = getattr(hooked.hf_model, "create_masks_for_generate", create_masks_for_generate)
    try:
        made = make(
            config=hooked.hf_model.config,
            inputs_embeds=torch.empty(*ids.shape, 0),
            attention_mask=inputs["attention_mask"],
            position_ids=None,
            is_first_iteration=True,
            **{CACHE_ARGUMENT: None},
            **{name: inputs.get(name) for name in ("token_type_ids", "mm_token_type_ids")},
        )
    except TypeError as error:  # so transformers 5.18, where layers attend in chunks
        raise CapabilityError(
            f"transformers {version('transformers')} cannot make the masks of "
            f"{type(hooked.hf_model).__name__} ({error}), so what its rows see is not known; "
            "install a newer transformers (5.23 is tested)"
        ) from error
    mask = made.get(kind, kind) if isinstance(made, Mapping) else made
    if not isinstance(mask, Tensor) or mask.dtype == torch.bool:
        return mask  # None, for one, where a window is wider than the prompt
    return mask > torch.finfo(mask.dtype).min / 2
