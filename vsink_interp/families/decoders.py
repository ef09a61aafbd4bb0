"""Decoder blocks by the language model that they belong to: families share language models."""

from typing import Any

from .base import GEMMA3_BLOCK, LLAMA_BLOCK, QWEN3_BLOCK, Block

NORMED_QUERIES = ("attn.hook_q", "attn.hook_k")
AROUND = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")

BY_MODEL_TYPE: dict[str, Block] = {
    "gemma3_text": GEMMA3_BLOCK,
    "qwen3": QWEN3_BLOCK,
    "qwen3_moe": QWEN3_BLOCK,
    "qwen3_vl_text": QWEN3_BLOCK,
    "qwen3_vl_moe_text": QWEN3_BLOCK,
}


def block_of(model_type: str, block: Any) -> Block:
    """The taps of a decoder block, told by the type of its language model and by its norms.

    Where a block has norms that its type does not explain, the hook points that they would put
    elsewhere are left out, never guessed.
    """
    known = dict(BY_MODEL_TYPE.get(model_type, LLAMA_BLOCK))
    if hasattr(block, "pre_feedforward_layernorm"):
        known |= {name: GEMMA3_BLOCK[name] for name in AROUND}
    attention = getattr(block, "self_attn", None)
    if hasattr(attention, "q_norm") and model_type not in BY_MODEL_TYPE:
        for name in NORMED_QUERIES:
            known.pop(name)
    return known
