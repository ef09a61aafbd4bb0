"""GLM-4.1V: images as in Qwen2-VL, and norms after attention and MLP in every decoder layer.

A convolution merges patches two by two before the projector, which gets one row per image token.
"""

from dataclasses import replace
from typing import Any

from .form import GATED_PACKED_LAYER, LLAMA_LAYER, LayerTaps, Tap
from .qwen2_vl import MROPE, QWEN2_VL, TOWER

MARKER = "<|image|>"
MARKS = (
    "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", MARKER, "<|video|>",
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip

GLM4_LAYER: LayerTaps = {
    **LLAMA_LAYER,
    "hook_attn_out": Tap("post_self_attn_layernorm", "output"),
    "mlp.hook_pre": Tap("mlp.activation_fn", "input"),
    "hook_mlp_out": Tap("post_mlp_layernorm", "output"),
}
"""A decoder layer built like GLM-4's: one projection makes the MLP's gate and what it scales, so
the gate is read at the input of its activation.
"""


def tiny() -> tuple[Any, Any]:
    """A tiny GLM-4.1V whose rotary embedding turns half of every head."""
    from transformers import Glm4vConfig, Glm4vProcessor
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    from .processing import without_video
    from .tiny import TEXT, fill, tokenizer

    words = tokenizer(*MARKS, bos=False)
    number = words.convert_tokens_to_ids
    # Every image counts as two equal frames.
    pixels = {"shortest_edge": 2 * 56**2, "longest_edge": 2 * 16 * 28**2}
    images = fill(Glm4vImageProcessorPil, size=pixels, patch_size=14)
    rope = {**MROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
    config = fill(Glm4vConfig,
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={**TOWER, "image_size": 56, "patch_size": 14},
        image_token_id=number(MARKER),
        video_token_id=number("<|video|>"),
        image_start_token_id=number("<|begin_of_image|>"),
        image_end_token_id=number("<|end_of_image|>"),
        video_start_token_id=number("<|begin_of_video|>"),
        video_end_token_id=number("<|end_of_video|>"),
    )  # fmt: skip
    return config, without_video(Glm4vProcessor)(images, words)


GLM4V = replace(
    QWEN2_VL,
    name="GLM-4.1V",
    video=None,
    model_types=("glm4v",),
    layer_taps=GLM4_LAYER,
    vision_taps=GATED_PACKED_LAYER,
    merged="",
    marker=MARKER,
    placeholder=f"<|begin_of_image|>{MARKER}<|end_of_image|>",
    template="[gMASK]<sop><|user|>\n{content}<|assistant|>\n",
    role_markers=(
        "[gMASK]<sop>", "<|user|>\n", "<|assistant|>\n", "<|assistant|>", "<|system|>\n",
    ),
    tiny=tiny,
)  # fmt: skip
