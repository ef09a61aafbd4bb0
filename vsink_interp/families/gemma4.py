"""Gemma 4: one grid of an image's own shape; in its larger models an image's tokens see all of it
in layers with windows.
"""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan
from .form import Family, LayerTaps, Tap, whole_image

BEHIND = (
    "an embedding of the layer is added behind the MLP and the sum is scaled, so what the MLP "
    "gives is not what the layer adds"
)
TOKENS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}

GEMMA4_VISION_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("post_attention_layernorm", "output"),
    "mlp.hook_post": Tap("mlp.down_proj", "input"),
    "hook_mlp_out": Tap("post_feedforward_layernorm", "output"),
    "hook_resid_post": Tap("", "output"),
}
"""A vision layer with norms behind attention and MLP; images are padded to as many patches."""


def shaped_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One grid per image over all of it, of nearly its shape."""
    from transformers.models.gemma4.image_processing_pil_gemma4 import (
        get_aspect_ratio_preserving_size,
    )

    del config, inputs
    settings = processor.image_processor
    pooled = settings.pooling_kernel_size
    found = []
    for image in images:
        sides = get_aspect_ratio_preserving_size(
            image.height,
            image.width,
            settings.patch_size,
            settings.max_soft_tokens * pooled**2,
            pooled,
        )
        rows, columns = (side // (settings.patch_size * pooled) for side in sides)
        found.append(ImageSpan((rows, columns), whole_image(image)))
    return tuple(found)


def tiny(**other: Any) -> tuple[Any, Any]:
    """A tiny Gemma 4 with windows of eight tokens and an embedding in every layer.

    **Arguments:**

    - `other`: other fields of its language model.
    """
    from transformers import Gemma4Config, Gemma4Processor
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    from .processing import without_video
    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer(*TOKENS.values(), "<|video|>", "<|turn>", "<turn|>", bos=True, **TOKENS)
    sizes = {"patch_size": 4, "pooling_kernel_size": 2}
    images = fill(Gemma4ImageProcessorPil, max_soft_tokens=70, **sizes)
    processor = without_video(Gemma4Processor)(images, words)
    text = {
        "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 12,
        "vocab_size": len(words), "vocab_size_per_layer_input": len(words),
        "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8,
        "num_kv_shared_layers": 0,
    }  # fmt: skip
    tower = {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 64}
    config = fill(
        Gemma4Config,
        text_config={**TEXT, **text, **other},
        vision_config={**VISION, **sizes, **tower},
        audio_config=None,
        tie_word_embeddings=False,
        **{f"{name}_id": words.convert_tokens_to_ids(mark) for name, mark in TOKENS.items()},
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    return config, processor


GEMMA4 = Family(
    name="Gemma 4",
    model_types=("gemma4",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    vision_taps=GEMMA4_VISION_LAYER,
    projector="model.embed_vision",
    projected="q d",
    refused={"blocks.{layer}.hook_mlp_out": BEHIND},
    spans=shaped_spans,
    nested=True,
    marker="<|image|>",
    suffix="<image|>",
    template="<|turn>user\n{content}<turn|>\n<|turn>model\n",
    role_markers=("<|turn>user\n", "<turn|>\n", "<|turn>model\n"),
    tiny=tiny,
)
