"""VipLLaVA: as LLaVA-1.5, with features of several layers of its tower side by side."""

from dataclasses import replace
from typing import Any

from .llava import LLAVA, tiny as tiny_llava


def tiny() -> tuple[Any, Any]:
    """A tiny VipLLaVA that projects features of two layers of its tower."""
    from transformers import VipLlavaConfig

    from .tiny import fill

    # transformers 5.18 knows it by the plural alone.
    names = ("vision_feature_layer", "vision_feature_layers")
    option = next(name for name in names if hasattr(VipLlavaConfig, name))
    plain, processor = tiny_llava()
    config = fill(
        VipLlavaConfig,
        text_config=plain.text_config,
        vision_config=plain.vision_config,
        image_token_index=plain.image_token_id,
        image_seq_length=plain.image_seq_length,
        **{option: [-1, -2]},
        tie_word_embeddings=False,
    )
    return config, processor


VIPLLAVA = replace(
    LLAVA,
    name="VipLLaVA",
    model_types=("vipllava",),
    template="###Human: {content}###Assistant:",
    role_markers=("###Human:", "###Assistant:"),
    tiny=tiny,
)
