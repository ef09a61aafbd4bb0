"""Qwen3-VL: as Qwen2.5-VL, with norms of queries and keys, and DeepStack.

DeepStack adds features of early vision blocks to the residual stream at image tokens, *between*
the first decoder blocks: there `hook_resid_pre` of a block is not `hook_resid_post` of the one
before it, and no attention or MLP wrote the difference.
"""

from typing import Any

from .base import PACKED_BLOCK, Family
from .qwen2_vl import MARKER, MROPE, ROLES, TEMPLATE, merged_spans, tiny_ids, tiny_processor


def tiny() -> tuple[Any, Any]:
    """A tiny Qwen3-VL with two DeepStack blocks."""
    from transformers import Qwen3VLConfig

    from .tiny import TEXT, fill

    processor = tiny_processor(
        "Qwen3VLProcessor",
        patch_size=16,
        size={"shortest_edge": 64 * 64, "longest_edge": 32**2 * 16},
    )
    text = {**TEXT, "vocab_size": len(processor.tokenizer), "head_dim": 16}
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {**MROPE, "mrope_interleaved": True}
    config = fill(
        Qwen3VLConfig,
        text_config={**text, "rope_parameters": rope},
        vision_config=vision,
        **tiny_ids(processor),
    )
    return config, processor


QWEN3_VL = Family(
    name="Qwen3-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    decoder="model.language_model",
    vision_layers="model.visual.blocks",
    vision_block=PACKED_BLOCK,
    projector="model.visual.merger",
    projected="q d",
    spans=merged_spans,
    marker=MARKER,
    placeholder=f"<|vision_start|>{MARKER}<|vision_end|>",
    template=TEMPLATE,
    role_markers=ROLES,
    tiny=tiny,
)
