"""Taps of decoder layers by type of language model, which families share."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..tokens import Sight
from .form import (
    GEMMA3_LAYER,
    GEMMA4_LAYER,
    LLAMA_LAYER,
    POST_NORM,
    QWEN3_LAYER,
    LayerTaps,
    Tap,
)

NORMED_QUERIES = ("attn.hook_q", "attn.hook_k")
SCALED = ("attn.", "hook_attn_out", "hook_mlp_out")
"""Hook points that no module of a cross-attention layer holds, because gates follow them."""
AROUND = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out")
NORMS = ("input", "post_attention", "pre_feedforward", "post_feedforward")
"""What the norms of a layer that is built like LLaMA's or Gemma 3's are named after."""
ADDED = ("attn.hook_result", "hook_attn_out", "hook_mlp_out")
"""What a layer adds to the residual stream, and its heads."""

BY_MODEL_TYPE: dict[str, LayerTaps] = {
    "gemma3_text": GEMMA3_LAYER,
    "gemma4_text": GEMMA4_LAYER,
    "qwen3": QWEN3_LAYER,
    "qwen3_5_moe_text": QWEN3_LAYER,
    "qwen3_5_text": QWEN3_LAYER,
    "qwen3_moe": QWEN3_LAYER,
    "qwen3_vl_text": QWEN3_LAYER,
    "qwen3_vl_moe_text": QWEN3_LAYER,
}


def layer_taps_of(model_type: str, layer: Any) -> LayerTaps:
    """The taps of a decoder layer, by the type of its language model and by its norms.

    If a layer has norms that its type does not explain, the hook points next to them are left out,
    never guessed. Keys of a cross-attention layer belong to images, and a linear-attention layer
    has no heads to name. Where heads are gated, they are read after the gate, as in
    TransformerLens.
    """
    known = dict(BY_MODEL_TYPE.get(model_type, LLAMA_LAYER))
    if hasattr(layer, "cross_attn"):
        return {name: tap for name, tap in known.items() if not name.startswith(SCALED)}
    if hasattr(layer, "linear_attn"):
        outside = {name: tap for name, tap in known.items() if not name.startswith("attn.")}
        return outside | {"hook_attn_out": Tap("linear_attn", "output")}
    if model_type == "gemma4_text":
        return known
    known = _beside_norms(known, model_type, layer)
    if hasattr(layer, "feed_forward") and not hasattr(layer, "mlp"):  # Llama 4
        known = dict(_fed_forward(known, layer.feed_forward))
    if gates_heads(layer):
        known = dict(_behind_the_gate(known))
    attention = getattr(layer, "self_attn", None)
    if hasattr(attention, "q_norm") and model_type not in BY_MODEL_TYPE:
        for name in NORMED_QUERIES:
            known.pop(name)
    if model_type == "gpt_oss":  # its MLP returns the choice of experts as well
        known["hook_mlp_out"] = Tap("mlp", "first output")
    if (scale := getattr(layer, "residual_multiplier", 1.0)) != 1.0:  # Granite
        known |= {name: replace(tap, scale=scale) for name, tap in known.items() if name in ADDED}
    return known


def _beside_norms(known: dict[str, Tap], model_type: str, layer: Any) -> dict[str, Tap]:
    """The taps of a layer after its norms are looked at: what it adds may stand behind them."""
    if model_type not in BY_MODEL_TYPE and _has_other_norms(layer):
        return {name: tap for name, tap in known.items() if name not in AROUND}
    if hasattr(layer, "pre_feedforward_layernorm"):
        return known | {name: GEMMA3_LAYER[name] for name in AROUND}
    if not hasattr(layer, "input_layernorm") and hasattr(layer, "post_feedforward_layernorm"):
        return known | dict(POST_NORM)
    return known


def _fed_forward(known: LayerTaps, module: Any) -> Iterator[tuple[str, Tap]]:
    """The taps of a layer that calls its MLP `feed_forward`; experts take the tokens of all samples
    as one row, which no hook point of a layer shows.
    """
    for name, tap in known.items():
        if tap.module.startswith("mlp"):
            if not hasattr(module, "experts"):
                yield name, replace(tap, module=tap.module.replace("mlp", "feed_forward", 1))
        else:
            yield name, tap


def _has_other_norms(layer: Any) -> bool:
    """Whether a norm may change what attention or MLP add to the residual stream (GLM-4)."""
    names = [name for name in dir(layer) if name.endswith("norm")]
    return any(name.removesuffix("_layernorm") not in NORMS for name in names)


def _behind_the_gate(known: LayerTaps) -> Iterator[tuple[str, Tap]]:
    for name, tap in known.items():
        if name == "attn.hook_result":
            yield "attn.hook_z", Tap("self_attn.o_proj", "input", heads="head")
        if name == "attn.hook_q":  # `q_proj` makes the gate as well
            yield name, Tap("self_attn.q_norm", "input", heads="head", shape="b q h d")
        else:
            yield name, tap


def sight_of(config: Any, usual: Sight) -> Sight:
    """What a row sees, by the configuration of a language model; in its family usually `usual`.

    Image tokens of the larger Gemma 4 see all of their image in layers with windows.
    """
    whole = getattr(config, "use_bidirectional_attention", None) == "vision"
    return "windowed image blocks" if whole else usual


def gates_heads(layer: Any) -> bool:
    """Whether attention multiplies its heads by a gate before the output projection, computed by
    the second half of the query projection (Qwen3.5).
    """
    attention: Any = getattr(layer, "self_attn", None)
    wide = getattr(getattr(attention, "q_proj", None), "out_features", None)
    narrow = getattr(getattr(attention, "o_proj", None), "in_features", None)
    return wide is not None and narrow is not None and wide == 2 * narrow
