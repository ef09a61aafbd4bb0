"""Masks of prompt rows whose attention is not plainly causal: windows, image blocks, prefixes."""

from collections.abc import Mapping
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
    ids = inputs["input_ids"]
    make = getattr(hooked.hf_model, "create_masks_for_generate", create_masks_for_generate)
    made = make(
        config=hooked.hf_model.config,
        inputs_embeds=torch.empty(*ids.shape, 0),
        attention_mask=inputs["attention_mask"],
        position_ids=None,
        is_first_iteration=True,
        **{CACHE_ARGUMENT: None},
        **{name: inputs.get(name) for name in ("token_type_ids", "mm_token_type_ids")},
    )
    mask = made.get(kind, kind) if isinstance(made, Mapping) else made
    if mask is None:  # a window that is wider than the prompt
        return None
    if not isinstance(mask, Tensor):
        raise CapabilityError(
            f"attention in layer {layer} cannot be read or edited remotely: transformers makes no "
            f"mask for it ({kind}, {layout.sight}); probe residuals there, or run it locally"
        )
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def window(hooked: HookedModel, layer: int) -> int | None:
    """The width of a layer's sliding window, the row itself included; None for no window."""
    sliding = hooked.kinds[layer] == "sliding_attention"
    return int(hooked.config.sliding_window) if sliding else None
