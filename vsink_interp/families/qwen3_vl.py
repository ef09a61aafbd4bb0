"""Qwen3-VL: as Qwen2.5-VL, with norms of queries and keys, and DeepStack.

DeepStack adds features of early vision layers to the residual stream at image tokens, *between*
the first decoder layers: there `hook_resid_pre` of a layer is not `hook_resid_post` of the one
before it, and no attention or MLP wrote the difference.
"""

from dataclasses import replace
from typing import Any

from .qwen2_vl import MROPE, QWEN2_VL, TOWER, tiny_kind


def tiny() -> tuple[Any, Any]:
    """A tiny Qwen3-VL with two DeepStack layers."""
    own = {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    rope = {**MROPE, "mrope_interleaved": True}
    return tiny_kind("Qwen3VL", {**TOWER, **own, "depth": 3}, head_dim=16, rope_parameters=rope)


QWEN3_VL = replace(
    QWEN2_VL, name="Qwen3-VL", video=None, model_types=("qwen3_vl", "qwen3_vl_moe"), tiny=tiny
)
