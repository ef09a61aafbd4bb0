"""Qwen3.5: three of four layers are linear attention, which has no pattern.

The others are like Qwen3's, but a gate changes the heads between `hook_z` and `hook_result`.
"""

from dataclasses import replace
from typing import Any

from .qwen2_vl import MROPE, QWEN2_VL, TOWER, tiny_kind
from .qwen3_vl import QWEN3_VISION_LAYER, STAMPED

ANSWERS = tuple(
    f"<|im_start|>assistant\n{thought}" for thought in ("<think>\n\n</think>\n\n", "<think>\n")
)
"""The openings of an answer: after an empty thought, or inside a thought."""


def tiny(kind: str = "Qwen3_5", **text: Any) -> tuple[Any, Any]:
    """A tiny Qwen3.5 whose second and fourth layers have patterns."""
    return tiny_kind(
        kind,
        {**TOWER, "patch_size": 16, "num_position_embeddings": 16},
        head_dim=16,
        layer_types=["linear_attention", "full_attention"] * 2,
        rope_parameters={**MROPE, "mrope_interleaved": True},
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        **text,
    )


QWEN3_5 = replace(
    QWEN2_VL,
    name="Qwen3.5",
    video=STAMPED,
    vision_taps=QWEN3_VISION_LAYER,
    model_types=("qwen3_5", "qwen3_5_moe"),
    role_markers=(*ANSWERS, *QWEN2_VL.role_markers),
    tiny=tiny,
)
