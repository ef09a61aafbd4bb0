"""How `model.generate` is called, what of it a run cannot do, and where answers end."""

from collections.abc import Mapping
from reprlib import repr as shorten
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import CapabilityError, InputError

_ROWS_UNSEEN = "assisted decoding runs rows that no edit has seen"
_RECORDED = "a Run has no place for it; probes.Pattern, Resid and Logits record it"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), "beam search reorders the cache under the edits"),
    "num_return_sequences": ((None, 1), "give the prompt several times as a batch instead"),
    "guidance_scale": ((None, 1), "it runs the prompt a second time, which no edit has seen"),
    "assistant_model": ((None,), _ROWS_UNSEEN),
    "prompt_lookup_num_tokens": ((None,), _ROWS_UNSEEN),
    "prefill_chunk_size": ((None,), "edits need the prompt in one pass"),
    "cache_implementation": ((None, "dynamic"), "other caches hide how many tokens were seen"),
    "past_key_values": ((None,), "a run starts from the prompt"),
    "use_cache": ((None, True), "generation here always uses the cache"),
}
"""What `model.generate` can do and a run cannot: the values that are fine, and the reason."""

REFUSED_ARGUMENTS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "max_length": ((None,), "say max_new_tokens"),
    "output_attentions": ((None, False), _RECORDED),
    "output_hidden_states": ((None, False), _RECORDED),
    "output_scores": ((None, False), _RECORDED),
    "output_logits": ((None, True), "a Run always holds the logits"),
    "return_dict_in_generate": ((None, True), "a Run already holds what it would return"),
}
"""As `REFUSED`, for arguments of the call; what a model's own configuration says is overruled."""


def options(
    hf_model: Any, tokenizer: Any, max_new_tokens: int, hf_kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What `model.generate` is given: greedy unless told otherwise.

    **Raises:** `CapabilityError` for what a run cannot do, with the values that are fine;
    `InputError` for less than one new token.
    """
    config = hf_kwargs.get("generation_config") or hf_model.generation_config
    for name in (*REFUSED, *REFUSED_ARGUMENTS):
        fine, why = REFUSED.get(name) or REFUSED_ARGUMENTS[name]
        wanted = hf_kwargs.get(name, getattr(config, name, None) if name in REFUSED else None)
        if wanted not in fine:
            raise CapabilityError(f"{name}={shorten(wanted)} is not supported, only {fine}: {why}")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is at least 1; got {max_new_tokens}")
    pad = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
    return {
        **({} if "generation_config" in hf_kwargs else {"do_sample": False}),
        **({"tokenizer": tokenizer} if "stop_strings" in hf_kwargs else {}),
        "pad_token_id": pad,
        **hf_kwargs,
        "max_new_tokens": max_new_tokens,
    }


def after_end(
    hf_model: Any, new: Int[Tensor, "batch new"], given: Mapping[str, Any]
) -> Bool[Tensor, "batch new"]:
    """Which generated tokens only fill the batch up, after the end of their answer."""
    config = given.get("generation_config") or hf_model.generation_config
    end = given.get("eos_token_id", config.eos_token_id)
    found = torch.as_tensor([-1] if end is None else end, device=new.device)
    ends = torch.isin(new, found).int()
    after = (ends.cumsum(-1) - ends) > 0
    if given["pad_token_id"] is not None and given["pad_token_id"] not in found:
        # An answer that a stop string ended goes on with padding.
        other = (new != given["pad_token_id"]).int()
        after = after | (other.flip(-1).cumsum(-1).flip(-1) == 0)
    return after.cpu()
