"""Decoder blocks by the language model that they belong to: families share language models."""

from collections.abc import Iterator
from typing import Any

from .base import GEMMA3_BLOCK, LLAMA_BLOCK, QWEN3_BLOCK, Block, Tap

NORMED_QUERIES = ("attn.hook_q", "attn.hook_k")
SCALED = ("attn.", "hook_attn_out", "hook_mlp_out")
"""What no module of a cross-attention block holds: gates stand behind attention and MLP."""
AROUND = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")
NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward")
"""What the norms of a block that is built like LLaMA's or Gemma 3's are named after."""

BY_MODEL_TYPE: dict[str, Block] = {
    "gemma3_text": GEMMA3_BLOCK,
    "qwen3": QWEN3_BLOCK,
    "qwen3_5_moe_text": QWEN3_BLOCK,
    "qwen3_5_text": QWEN3_BLOCK,
    "qwen3_moe": QWEN3_BLOCK,
    "qwen3_vl_text": QWEN3_BLOCK,
    "qwen3_vl_moe_text": QWEN3_BLOCK,
}


def block_of(model_type: str, block: Any) -> Block:
    """The taps of a decoder block, told by the type of its language model and by its norms.

    Where a block has norms that its type does not explain, the hook points beside them are left
    out, never guessed. A block of cross-attention has the keys of pictures, and one of linear
    attention has no heads to name; where a gate stands behind the heads, they are read behind it,
    as TransformerLens does.
    """
    known = dict(BY_MODEL_TYPE.get(model_type, LLAMA_BLOCK))
    if hasattr(block, "cross_attn"):
        return {name: tap for name, tap in known.items() if not name.startswith(SCALED)}
    if hasattr(block, "linear_attn"):
        outside = {name: tap for name, tap in known.items() if not name.startswith("attn.")}
        return outside | {"hook_attn_out": Tap("linear_attn", "output")}
    if hasattr(block, "pre_feedforward_layernorm"):
        known |= {name: GEMMA3_BLOCK[name] for name in AROUND}
    if model_type not in BY_MODEL_TYPE and _has_other_norms(block):
        known = {name: tap for name, tap in known.items() if name not in AROUND}
    if gates_heads(block):
        known = dict(_behind_the_gate(known))
    attention = getattr(block, "self_attn", None)
    if hasattr(attention, "q_norm") and model_type not in BY_MODEL_TYPE:
        for name in NORMED_QUERIES:
            known.pop(name)
    return known


def _has_other_norms(block: Any) -> bool:
    """Whether a norm stands where it may change what attention or MLP add (GLM-4)."""
    names = [name for name in dir(block) if name.endswith("norm")]
    return any(name.removesuffix("_layernorm") not in NORMS for name in names)


def _behind_the_gate(known: Block) -> Iterator[tuple[str, Tap]]:
    for name, tap in known.items():
        if name == "attn.hook_result":
            yield "attn.hook_z", Tap("self_attn.o_proj", "input", heads="head")
        if name == "attn.hook_q":  # `q_proj` makes the gate as well
            yield name, Tap("self_attn.q_norm", "input", heads="head", shape="b q h d")
        else:
            yield name, tap


def gates_heads(block: Any) -> bool:
    """Whether attention multiplies its heads by a gate before the output projection: a second half
    of what makes the queries (Qwen3.5).
    """
    attention: Any = getattr(block, "self_attn", None)
    if not hasattr(attention, "q_proj") or not hasattr(attention, "o_proj"):
        return False
    return attention.q_proj.out_features == 2 * attention.o_proj.in_features
